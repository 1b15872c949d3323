#!/bin/bash
# SPDX-License-Identifier: MIT
#
# make demo in a fresh tree: it builds what it runs and nothing that needs the tests' packages.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
n=0

ok()
{
	n=$((n + 1))
	"${@:2}" && echo "ok $n - $1" || echo "not ok $n - $1"
}

outputs()
{
	sed -nE 's/.* -o ([^ ]+).*/\1/p' "$tmp/commands"
}

builds()
{
	outputs | grep -qFx -- "$tmp/fresh/$1"
}

builds_no_tests()
{
	! outputs | grep -E "^$tmp/fresh/(tests|park|examples)/|^$tmp/fresh/bench/[a-z]+$" |
		grep -vFx -e "$tmp/fresh/bench/vm" -e "$tmp/fresh/tests/guest/init" >&2
}

unset MAKEFLAGS MAKELEVEL MFLAGS
# A dry run follows into the make that it would start.
make -n B="$tmp/fresh" demo >"$tmp/commands" 2>"$tmp/err" </dev/null
ok "a dry run" [ $? -eq 0 ]
for file in pageferry libpageferry.so libpageferry-preload.so bench/vm guest/init guest/watch \
	tests/guest/init; do
	ok "$file is built" builds "$file"
done
ok "no test is" builds_no_tests
echo "1..$n"
