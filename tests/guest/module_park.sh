#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# The tests that need the test build of the kernel module, see kmod/park.h: make kmod PARK=1. All that
# tests/guest/module.sh understands is understood here.
cd "$(dirname "$0")/../.." || exit 1
module=${B:-build}/kmod/park/pageferry.ko
if [ ! -f "$module" ]; then
	echo "1..0 # SKIP $module is not built: run make kmod PARK=1"
	exit
fi
MODULE=$module TEST=${TEST-park,kvm,rmap} LIMIT=${LIMIT:-580} exec tests/guest/module.sh
