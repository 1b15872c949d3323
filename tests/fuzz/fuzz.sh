#!/bin/sh
# SPDX-License-Identifier: MIT
# needs: userfaultfd
#
# The fuzzers' own drivers, each for some seconds. FUZZ_SECONDS sets how many.
set -u
cd "$(dirname "$0")/../.." || exit 2
B=${B:-build}
seconds=${FUZZ_SECONDS:-4}
number=0
failed=0

echo 1..4
for name in plan wire core peer; do
	number=$((number + 1))
	output=$("$B/tests/fuzz/$name" "$seconds" 2>&1)
	status=$?
	reason=$(printf '%s\n' "$output" | sed -n 's/^ok 1 # SKIP //p')
	printf '%s\n' "$output" | sed 's/^/# /'
	if [ "$status" -ne 0 ]; then
		echo "not ok $number - $name"
		failed=1
	elif [ -n "$reason" ]; then
		echo "ok $number - $name # SKIP $reason"
	else
		echo "ok $number - $name"
	fi
done
exit "$failed"
