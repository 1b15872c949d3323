#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The keeper is killed in the middle of an upgrade: the sockets of the VM's user are put in order by
# the next command for that VM, and nothing else of such a name is touched.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh
export PAGEFERRY_PRELOAD
PAGEFERRY_PRELOAD=$(realpath "$B/park/libpageferry-preload.so") ||
	skip_all "no library with parking points: run make tests"

printf '#!/bin/sh\nexec sleep 100\n' >"$tmp/hangs"
cat >"$tmp/parking" <<EOF
#!/bin/sh
export PAGEFERRY_PARK="\$(cat "$tmp/point")"
exec qemu-system-x86_64 "\$@"
EOF
chmod +x "$tmp/hangs" "$tmp/parking"
user=$tmp/user.sock
relative=$tmp/relative.sock

start()
{
	rm -f "$user"* "$relative"*
	cd "$tmp" || exit 1
	start_vm vm -qmp "unix:$user,server=on,wait=off" -qmp unix:relative.sock,server=on,wait=off
	cd - >/dev/null || exit 1
	old=$(field vm pid)
}

# begin QEMU: an upgrade that comes to a halt, with the keeper's second names there
begin()
{
	"$pageferry" vm upgrade vm --qemu "$1" >"$tmp/client" 2>&1 </dev/null &
	wait_until 10 find_new && wait_until 10 test -S "$user.pageferry" &&
		wait_until 10 test -S "$relative.pageferry"
}

park_at()
{
	echo "$1" >"$tmp/point"
	begin "$tmp/parking" && wait_until 20 is_stopped "$new"
}

kill_keeper()
{
	kill -9 "${keeper[vm]}"
	wait_until 10 is_gone "${keeper[vm]}"
}

answers()
{
	[ "$(qmp "$user" query-status)" ] && [ "$(qmp "$relative" query-status)" ]
}

no_asides()
{
	ls "$tmp"
	[ ! -e "$user.pageferry" ] && [ ! -e "$relative.pageferry" ]
}

stop()
{
	run vm stop vm
	status_is 0 && no_asides && nothing_left
}

# The new QEMU has done nothing yet: both names are one socket.
early()
{
	start && begin "$tmp/hangs" && kill_keeper && kill -9 "$new" && wait_until 10 is_gone "$new"
}

# The new QEMU has taken the names, but not the VM.
late()
{
	start && park_at take.attach && kill_keeper && kill -9 "$new" &&
		wait_until 10 is_gone "$new" && wait_until 10 vm_runs vm
}

# The new QEMU has the VM.
committed()
{
	start && park_at take.committed && kill_keeper && kill -CONT "$new" &&
		wait_until 20 is_gone "$old" && wait_until 20 vm_runs vm
}

told_and_answers()
{
	run vm upgrade vm
	failed_saying "vm: its keeper is gone" && no_asides && answers
}

ok "killed early: what upgrade says is true" eval 'early && told_and_answers'
ok "stop" stop
ok "killed early: stop removes what is left" eval 'early && stop'
ok "killed late: upgrade gives the names back to the old QEMU" eval 'late && ! answers &&
	told_and_answers'
ok "stop" stop
ok "killed late: stop removes what is left" eval 'late && stop'
ok "killed after the commit: upgrade leaves the names to the new QEMU" eval 'committed && answers &&
	told_and_answers'
ok "stop" stop
ok "killed after the commit: stop removes what is left" eval 'committed && stop'

dead()
{
	late && kill -9 "$old" && wait_until 10 vm_is vm dead
}

runs_again()
{
	start_vm vm && no_asides
}
ok "all are killed: run removes what is left" eval 'dead && runs_again'
ok "stop" stop

# What has such a name meanwhile, but isn't what the keeper made.
listen()
{
	perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Listen => 1, Local => shift) or die' "$1"
}

spares()
{
	run vm stop vm
	status_is 0 && [ -f "$user.pageferry" ] && [ -S "$relative.pageferry" ] &&
		[ ! -e "$state/vm" ]
}
ok "another file, another socket of that name are left alone" eval 'dead &&
	rm "$user.pageferry" && echo mine >"$user.pageferry" &&
	mv "$relative.pageferry" "$tmp/kept" && listen "$relative.pageferry" && spares'

# forge NAME: in vm.json, as the name of the first one, which is where it was
forge()
{
	mv "$user.pageferry" "$1" && sed -i "s,\"[^\"]*user.sock.pageferry\",\"$1\"," "$state/vm/vm.json" &&
		grep -qF "\"$1\"" "$state/vm/vm.json"
}

spares_forged()
{
	run vm stop vm
	status_is 0 && [ -S "$1" ] && [ ! -e "$state/vm" ]
}
for name in "$tmp/other" "$tmp/.pageferry.x"; do
	ok "a name without the suffix is no such name: ${name##*/}" eval 'dead && forge "$name" &&
		spares_forged "$name"'
done

somebody_else()
{
	local pid

	late && rm "$user" || return
	# It hangs up once it was asked.
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Listen => 9, Local => shift) or die;
		sleep 30' "$user" &
	pid=$!
	wait_until 10 test -S "$user"
	run vm upgrade vm
	failed_saying "vm: its keeper is gone" && [ -S "$user.pageferry" ] &&
		qmp "$relative" query-status
	status=$?
	kill "$pid"
	return "$status"
}
ok "a name that somebody else listens at is left to him" somebody_else
ok "stop" stop

# With its keeper alive.
in_the_way()
{
	start && echo mine >"$user.pageferry" || return
	run vm upgrade vm
	status_is 0 && grep -q "note: $user.pageferry is in the way: remove it" "$tmp/err" &&
		grep -qx mine "$user.pageferry" && answers
}
ok "a file in the way is told and left alone" in_the_way
rm -f "$user.pageferry"
run vm upgrade vm
ok "without it all is well" eval 'status_is 0 && [ ! -s "$tmp/err" ] && answers'
ok "stop" stop
plan
