#!/bin/bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# An upgrade in which one of those who take part is killed, at every step. Until the commit the VM
# goes on in the old QEMU, afterwards in the new one; where pages are lost it ends at once.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh
export PAGEFERRY_PRELOAD
PAGEFERRY_PRELOAD=$(realpath "$B/park/libpageferry-preload.so") ||
	skip_all "no library with parking points: run make tests"

# A new QEMU that stops itself at a parking point.
cat >"$tmp/parking" <<EOF
#!/bin/sh
unset PAGEFERRY_PARK
case \$(cat "$tmp/point") in
take.*) export PAGEFERRY_PARK="\$(cat "$tmp/point")" ;;
esac
exec qemu-system-x86_64 "\$@"
EOF
chmod +x "$tmp/parking"

# Whatever a failed test has left.
clear_away()
{
	local pid

	for pid in $(own_processes); do
		kill -9 "$pid" 2>/dev/null
	done
	rm -rf "$state"
}

children()
{
	cat "/proc/$1/task/$1/children"
}

find_parked()
{
	local pid

	for pid in $(children "${keeper[vm]}"); do
		is_stopped "$pid" && parked=$pid && return
	done
	is_gone "$client"
}

# park_at POINT: begin an upgrade that stops there. Sets old, new, client and parked.
park_at()
{
	echo "$1" >"$tmp/point"
	parked='' new=''
	clear_away
	case $1 in
	give.*) PAGEFERRY_PARK=$1 start_vm vm ;;
	*) start_vm vm ;;
	esac
	old=$(field vm pid)
	"$pageferry" vm upgrade vm --qemu "$tmp/parking" >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 30 find_parked
	[ -n "$parked" ] || { echo "nothing stops at $1"; return 1; }
	find_new || :
}

# kill_at VICTIM POINT
kill_at()
{
	park_at "$2" || return
	case $1 in
	old) kill -9 "$old" ;;
	new) kill -9 "$new" ;;
	client) kill -9 "$client" ;;
	keeper) kill -9 "${keeper[vm]}" ;;
	both) kill -9 "${keeper[vm]}" "$client" ;;
	esac
	# The keeper sees a dead client before the parked process goes on.
	[ "$1" != client ] || wait_until 10 client_is_seen
	kill -CONT "$parked" 2>/dev/null
	wait_until 60 is_gone "$client" || return
	wait "$client" 2>/dev/null
	status=$?
}

client_is_seen()
{
	is_gone "$client"
}

upgrade_again()
{
	run vm upgrade vm --qemu qemu-system-x86_64
	status_is 0 && vm_is vm running
}

stop_it()
{
	run vm stop vm
	status_is 0 && nothing_left
}

# The VM is as it was, and can be upgraded again.
goes_on_in_old()
{
	kill_at "$1" "$2" || return
	wait_until 30 is_gone "$new" || return
	wait_until 30 vm_runs vm || return
	[ "$(field vm pid)" = "$old" ] || { echo "not in the old QEMU"; return 1; }
	[ "$1" != new ] || failed_saying "vm: .*; the VM goes on in the old QEMU" || return
	if [ "$1" = keeper ]; then
		failed_saying "vm: the keeper ended" || return
	else
		upgrade_again || return
	fi
	stop_it
}

goes_on_in_new()
{
	kill_at "$1" "$2" || return
	wait_until 30 is_gone "$old" || return
	wait_until 30 vm_runs vm || return
	[ "$(field vm pid)" = "$new" ] || { echo "not in the new QEMU"; return 1; }
	[ "$1" = keeper ] || upgrade_again || return
	stop_it
}

# It was too late to tell whether COMMIT was out already: the VM is in one of them, the other is gone.
goes_on_in_one()
{
	kill_at "$1" "$2" || return
	wait_until 30 one_is_gone || return
	wait_until 30 vm_runs vm && is_alive "$(field vm pid)" || return
	stop_it
}

one_is_gone()
{
	is_gone "$old" || is_gone "$new"
}

# The VM is over, and nobody hangs.
ends()
{
	kill_at "$1" "$2" || return
	failed_saying "vm: .*; the VM has ended" || return
	wait_until 30 is_gone "$old" && wait_until 30 is_gone "$new" || return
	keeper_status vm || return
	[ "$status" -ne 0 ] || { echo "the keeper ended with status 0"; return 1; }
	nothing_left
}

for point in give.offer take.offer take.attach give.attached give.shadow take.shadow give.ready; do
	ok "$point: the new QEMU is killed" goes_on_in_old new "$point"
	ok "$point: the client is killed" goes_on_in_old client "$point"
	ok "$point: the keeper is killed" goes_on_in_old keeper "$point"
	ok "$point: the old QEMU is killed" ends old "$point"
done
# READY is out, and the keeper may have answered.
ok "take.ready: the new QEMU is killed" goes_on_in_old new take.ready
ok "take.ready: the client is killed" goes_on_in_one client take.ready
ok "take.ready: the keeper is killed" goes_on_in_one keeper take.ready
ok "take.ready: the old QEMU is killed" ends old take.ready
# COMMIT is under way: whether the new QEMU has answered decides, not whether anyone has heard it.
ok "take.commit: the new QEMU is killed" goes_on_in_old new take.commit
ok "give.commit: the new QEMU is killed" ends new give.commit
for point in give.commit take.commit; do
	ok "$point: the client is killed" goes_on_in_new client "$point"
	ok "$point: the keeper is killed" goes_on_in_new keeper "$point"
	ok "$point: the old QEMU is killed" ends old "$point"
done
for point in take.committed give.committed; do
	ok "$point: the new QEMU is killed" ends new "$point"
	ok "$point: the client is killed" goes_on_in_new client "$point"
	ok "$point: the keeper is killed" goes_on_in_new keeper "$point"
	ok "$point: the old QEMU is killed" ends old "$point"
done
# Everything is at the new QEMU; the old one is still there.
ok "give.done: the old QEMU is killed" goes_on_in_new old give.done
ok "give.done: the keeper is killed" goes_on_in_new keeper give.done
plan
