#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 300
#
# tests/cli/conform.sh where the kernel is another one and the module is loaded: see tests/guest/run.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
module=${MODULE-$B/kmod/pageferry.ko}
[ -f "$module" ] || { echo "1..0 # SKIP $module is not built: run make kmod"; exit; }
MODULE=$module LIMIT=${LIMIT:-290} exec tests/guest/run tests/cli/conform.sh
