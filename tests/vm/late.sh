#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What a QEMU has still to say of one upgrade comes in the middle of the next one, since the first was
# given up early. It must not count there.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh
export PAGEFERRY_PRELOAD
PAGEFERRY_PRELOAD=$(realpath "$B/park/libpageferry-preload.so") ||
	skip_all "no library with parking points: run make tests"

printf '#!/bin/sh\nexec sleep 100\n' >"$tmp/hangs"
printf '#!/bin/sh\nunset PAGEFERRY_PARK\nexec qemu-system-x86_64 "$@"\n' >"$tmp/good"
chmod +x "$tmp/hangs" "$tmp/good"

is_upgrading()
{
	vm_is vm upgrading >/dev/null
}

has_new()
{
	[ "$(wc -w <"/proc/${keeper[vm]}/task/${keeper[vm]}/children")" -eq 2 ]
}

# upgrade_into WHEN COMMAND...: the second upgrade; once WHEN is true, COMMAND brings the late words
upgrade_into()
{
	local client

	"$pageferry" vm upgrade vm --qemu "$tmp/good" >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 10 "$1" && sleep 0.2 && "${@:2}" || return
	wait "$client"
	status=$?
	status_is 0 && [ ! -s "$tmp/err" ]
}

# The first upgrade: the old QEMU stands still as soon as it knows of it, and so says too late that it
# goes on.
give_up()
{
	local client

	"$pageferry" vm upgrade vm --qemu "$tmp/hangs" --timeout 1 >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 10 has_new && sleep 0.2 || return
	kill -STOP "$1"
	wait "$client"
	status=$?
	failed_saying "vm: .* took longer than 1 s"
}

# Our thread in a process, and no other: for as long as the tracer lives.
stop_library()
{
	local task

	for task in "/proc/$1"/task/*; do
		[ "$(cat "$task/comm")" = pageferry ] || continue
		perl -e '
			my $tid = shift;
			syscall(101, 0x4206, $tid + 0, 0, 0) == 0 or die "seize: $!";
			syscall(101, 0x4207, $tid + 0, 0, 0) == 0 or die "interrupt: $!";
			sleep 60' "${task##*/}" &
		tracer=$!
		# A thread that waits for memory or a lock ends there first.
		wait_until 10 grep -q '^State:[[:space:]]*t' "$task/status"
		return
	done
	return 1
}

# The first upgrade: all pages are across, the old QEMU says so and is gone; the new one has still to
# say it.
end_halfway()
{
	local client

	"$pageferry" vm upgrade vm >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 20 is_stopped "$old" && find_new && stop_library "$new" || return
	kill -CONT "$old"
	wait "$client"
	status=$?
	status_is 0 && is_gone "$old" && [ "$(field vm pid)" = "$new" ]
}

# The second upgrade: the new QEMU, now the old one, says its last word of the first. Whoever takes
# that for the end of the second kills it, after ten seconds, with the guest's pages.
keeps_its_pages()
{
	kill "$tracer"
	wait_until 20 is_stopped "$new" && sleep 11 && kill -CONT "$new"
}

# A QEMU that waits to be told.
printf '#!/bin/sh\nwhile ! [ -e "%s" ]; do sleep 0.05; done\nexec qemu-system-x86_64 "$@"\n' \
	"$tmp/go" >"$tmp/waits"
chmod +x "$tmp/waits"

migration_is()
{
	qmp "$tmp/user.sock" query-migrate | grep -q "\"status\": \"$1\""
}

# A migration that isn't the keeper's comes to its end before the keeper begins its own.
other_migration()
{
	local client

	qmp "$tmp/user.sock" '{"execute": "migrate-set-capabilities", "arguments": {"capabilities":
		[{"capability": "events", "state": true}]}}' || return
	"$pageferry" vm upgrade vm --qemu "$tmp/waits" >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 10 has_new || return
	qmp "$tmp/user.sock" '{"execute": "migrate", "arguments": {"uri": "exec:true"}}'
	wait_until 10 migration_is failed && touch "$tmp/go" || return
	wait "$client"
	status=$?
	status_is 0 && [ ! -s "$tmp/err" ]
}

start_vm vm
old=$(field vm pid)
ok "an upgrade is given up while QEMU stands still" give_up "$old"
ok "its late words don't spoil the next one" upgrade_into is_upgrading kill -CONT "$old"
ok "which comes about" eval '[ "$(field vm generation)" = 2 ] && vm_is vm running'
run vm stop vm
start_vm vm -qmp "unix:$tmp/user.sock,server=on,wait=off"
ok "the end of another migration isn't that of the upgrade's" other_migration
run vm stop vm

if perl -e 'my $pid = fork // exit 1; $pid or exec "sleep", 9;
	my $no = syscall(101, 0x4206, $pid + 0, 0, 0); kill 9, $pid; exit !!$no'; then
	PAGEFERRY_PARK=give.committed start_vm vm
	old=$(field vm pid)
	ok "an upgrade ends before the new QEMU has said its last word" end_halfway
	ok "that is not taken for the next one's" upgrade_into has_new keeps_its_pages
	ok "which comes about" eval '[ "$(field vm generation)" = 3 ] && vm_is vm running'
	run vm stop vm
else
	for what in "an upgrade ends early" "its last word" "which comes about"; do
		skip "$what" "a process can't be traced"
	done
fi
ok "nothing is left" nothing_left
plan
