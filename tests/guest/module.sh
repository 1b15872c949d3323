#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# The kernel module, in a guest of its own: loaded, tested, unloaded; then the kernel's log is searched.
#
#	TEST=NAME,...	only these, or all of a subject: TEST=basic tests/run guest/module
#	ACCEL=kvm	the guest is not emulated
#	MODULE=FILE.ko	another module, or none: what can be tested without one
#	LIMIT=SECONDS	of the guest, less than the script's
#	KERNEL, MODULES	another kernel, see guest/kernel
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/guest/boot.sh
. tests/guest/boot.sh

module=${MODULE-$B/kmod/pageferry.ko}
files=()
name=
if [ -n "$module" ]; then
	[ -f "$module" ] || skip_all "$module is not built: run make kmod"
	files=("$module")
	name=$(basename "$module" .ko)
fi
fetch_kernel

if [ -n "$module" ]; then
	built_for=$(sed -zn 's/^vermagic=\([^ ]*\).*/\1/p' "$module" | tr -d '\0')
	[ "$built_for" = "$(cat "$kernel/version")" ] ||
		skip_all "$module is for kernel $built_for, the guest has $(cat "$kernel/version")"
fi

boot_guest "${LIMIT:-580}" "pf.test=${TEST-} pf.module=$name" "${files[@]}"
status=$?
count=$(grep -cE '^(not )?ok [0-9]' "$tmp/tap")

# ok WHAT STATUS: one more test, of what only shows from outside
ok()
{
	count=$((count + 1))
	if [ "$2" -eq 0 ]; then
		echo "ok $count - $1"
	else
		echo "not ok $count - $1"
	fi
}

trouble >"$tmp/trouble"
sed 's/^/# console: /' "$tmp/trouble"
[ ! -s "$tmp/trouble" ]
ok "console" $?
last=$(tail -n 1 "$tmp/tap")
[ "$last" = "# verdict: ok" ] || [ "$last" = "# verdict: failed" ]
verdict=$?
ok "verdict" $verdict
if [ $verdict -ne 0 ] || [ $status -ne 0 ] || [ -s "$tmp/trouble" ]; then
	show_console
fi
echo "1..$count"
[ "$last" = "# verdict: ok" ] && [ ! -s "$tmp/trouble" ]
