#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Does tests/guest/module.sh notice what it is there to notice? Without any module.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/guest/boot.sh
. tests/guest/boot.sh
fetch_kernel

count=0

# ok WHAT COMMAND...
ok()
{
	local what=$1

	shift
	count=$((count + 1))
	if "$@" >/dev/null 2>&1; then
		echo "ok $count - $what"
	else
		echo "not ok $count - $what"
		sed 's/^/# /' "$tmp/said"
	fi
}

# says PATTERN: a whole line
says()
{
	grep -qxE -- "$1" "$tmp/said"
}

# module TEST...: runs it
module()
{
	MODULE='' TEST=$1 tests/guest/module.sh >"$tmp/said" 2>&1
}
not()
{
	! "$@"
}

ok "good tests pass" module self/peers,self/pages,self/faults,self/skips
ok "all of them have run" says "1\.\.7"
ok "a reason to skip is told" says "ok [0-9]+ - self/skips # SKIP as it was told"

ok "bad tests fail" not module self/fails,self/fails_in_peer,self/crashes,self/hangs,self/kernel_bad_page
ok "the verdict is bad" says "# verdict: failed"
ok "a check" says "not ok [0-9]+ - self/fails"
ok "it says where and what" says "# tests/guest/self.c:[0-9]+: -EBUSY is -EBUSY, not 0, which is 0 .*"
ok "a check in a peer" says "not ok [0-9]+ - self/fails_in_peer"
ok "it says where and what" says "# tests/guest/self.c:[0-9]+: arg\[0\] is 1, not 2, which is 2 .*"
ok "a crash" says "not ok [0-9]+ - self/crashes"
ok "a hang" says "not ok [0-9]+ - self/hangs"
ok "it says where it hangs" says "# .* handle_userfault.*"
ok "a line in the kernel's log" says "not ok [0-9]+ - self/kernel_bad_page"
ok "it says which" says "# kernel: BUG: Bad page state .*"
ok "the console is searched, too" says "not ok [0-9]+ - console"

ok "an unknown test fails" not module self/nonsense

ok "a panic fails" not module self/kernel_panics
ok "no verdict" says "not ok [0-9]+ - verdict"
ok "the console is shown" says "#   .*Kernel panic.*"

ok "a guest that ends early fails" not module self/guest_ends
ok "no verdict" says "not ok [0-9]+ - verdict"

export LIMIT=20
ok "a guest that hangs fails" not module self/guest_hangs
ok "it is told" says "# the guest hangs"
ok "and where its CPUs are" says "# RIP=[0-9a-f]{16} .*"

# Whoever kills the script doesn't leave a QEMU behind.
dies_with_script()
{
	local script qemu

	MODULE='' TEST=self/guest_hangs exec -a pf-selftest bash tests/guest/module.sh >/dev/null 2>&1 &
	script=$!
	for _ in {1..300}; do
		# Not yet what is to become QEMU, and may not have said that it wants to die.
		qemu=$(pgrep -s 0 -f "^qemu-system-x86_64 .*pf.test=self/guest_hangs" | head -n 1)
		[ -z "$qemu" ] || break
		sleep 0.1
	done
	[ -n "$qemu" ] || return 1
	kill -9 "$script"
	for _ in {1..100}; do
		pgrep -s 0 -f "pf.test=self/guest_hangs" >/dev/null || return 0
		sleep 0.1
	done
	return 1
}
ok "QEMU dies with the script" dies_with_script

echo "1..$count"
