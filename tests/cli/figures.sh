#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The tables in the texts are those that doc/figures.json gives, and a figure that was changed by hand is seen.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
make_scratch
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

mkdir "$tmp/scripts"
cp -r README.md doc "$tmp/"
cp scripts/figures "$tmp/scripts/"

ok "the tables are up to date" scripts/figures --check
ok "there are some" grep -q '^| .* | at most .* |$' README.md
sed -i '/^| .* | at most /s/[0-9]/9/' "$tmp/README.md"
ok "one that was changed by hand is seen" not "$tmp/scripts/figures" --check
ok "it is put right" eval '"$tmp/scripts/figures" && cmp README.md "$tmp/README.md"'
rm "$tmp/doc/figures.json"
ok "without figures there is no answer" not "$tmp/scripts/figures" --check
plan
