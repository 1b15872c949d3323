#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Upgrades that don't come about: each says why in one line, and the VM goes on as it was.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh

# wrapper NAME TEXT: a QEMU that is a script; its arguments are "$@"
wrapper()
{
	printf '#!/bin/bash\n%s\n' "$2" >"$tmp/$1"
	chmod +x "$tmp/$1"
}

wrapper good 'exec qemu-system-x86_64 "$@"'
wrapper other-machine 'exec qemu-system-x86_64 "$@" -machine q35'
wrapper other-ram 'exec qemu-system-x86_64 "$@" -m 32'
wrapper other-device 'exec qemu-system-x86_64 "${@/virtio-rng-pci/virtio-net-pci}"'
wrapper broken 'echo one >&2; echo two >&2; exit 3'
wrapper talks 'yes "no end of words" | head -n 100000 >&2; exit 3'
wrapper killed 'kill -9 $$'
wrapper ends 'exit 0'
wrapper hangs 'exec sleep 100'
wrapper forks 'qemu-system-x86_64 "$@"; exit'
wrapper naked 'exec env -u LD_PRELOAD qemu-system-x86_64 "$@"'
wrapper rude 'echo -e "\e[2Jhello\a" >&2; exit 1'

was=

# refused WHY ARGUMENT...: such an upgrade fails, saying WHY
refused()
{
	local why=$1

	shift
	run vm upgrade vm "$@"
	status_is 1 && failed_saying "$why" && as_it_was
}

refused_by_keeper()
{
	refused "vm: $1.*; the VM goes on in the old QEMU$" "${@:2}"
}

as_it_was()
{
	local now

	now=$("$pageferry" vm status vm --json | grep -Ev 'uptime_s|memory_kib')
	[ "$now" = "$was" ] || { diff <(echo "$was") <(echo "$now"); return 1; }
	[ "$(settings)" = "$set" ] || { diff <(echo "$set") <(settings); return 1; }
	# Nothing of the new QEMU stays: neither a process nor a file nor a descriptor.
	wait_until 10 eval '[ "$(own_processes | wc -l)" -eq 2 ]' &&
		[ "$(ls "$state/vm")" = "$files" ] &&
		[ "$(ls "/proc/${keeper[vm]}/fd" | wc -l)" -eq "$fds" ]
}

# What an upgrade changes in the old QEMU and has to put back.
settings()
{
	qmp "$tmp/user.sock" query-migrate-capabilities query-migrate-parameters
}

remember()
{
	was=$("$pageferry" vm status vm --json | grep -Ev 'uptime_s|memory_kib')
	files=$(ls "$state/vm")
	fds=$(ls "/proc/${keeper[vm]}/fd" | wc -l)
	set=$(settings)
}

true=$(type -P true)
none="ended with status 0 without ever mapping guest RAM: is it a QEMU[?]"
early_refusals()
{
	ok "$1: a QEMU that isn't there" refused "vm: /nonexistent: No such file" --qemu /nonexistent
	ok "$1: a QEMU that is no program" refused "vm: /etc/passwd: not a program" --qemu /etc/passwd
	ok "$1: another RAM size" refused_by_keeper ".*memory size does not match" \
		--qemu "$tmp/other-ram"
	[ -e /dev/pageferry ] ||
		ok "$1: strict without the module" refused_by_keeper "--strict: pageferry.ko can't be used" \
			--strict
	ok "$1: it ends with an error" refused_by_keeper "the new QEMU ended with status 3: one; two" \
		--qemu "$tmp/broken"
	ok "$1: it talks without end" refused_by_keeper "the new QEMU ended with status 3: .*no end" \
		--qemu "$tmp/talks"
	ok "$1: it ends as if all was well" refused_by_keeper ".*/ends $none" --qemu "$tmp/ends"
	ok "$1: it isn't a QEMU at all" refused_by_keeper "$true $none" --qemu "$true"
	ok "$1: it is killed" refused_by_keeper "the new QEMU was killed by signal 9" \
		--qemu "$tmp/killed"
	ok "$1: it hangs" refused_by_keeper "the start of the new QEMU took longer than 2 s" \
		--qemu "$tmp/hangs" --timeout 2
	ok "$1: it isn't the process that was started" \
		refused_by_keeper ".*a wrapper must end with exec" --qemu "$tmp/forks"
	ok "$1: it has no library" refused_by_keeper "" --qemu "$tmp/naked" --timeout 2
	ok "$1: its words steer no terminal" refused_by_keeper ".* .2Jhello" --qemu "$tmp/rude"
}

# The new QEMU that isn't the keeper's child ends by itself.
start_vm vm -device virtio-rng-pci -qmp "unix:$tmp/user.sock,server=on,wait=off"
qmp "$tmp/user.sock" '{"execute": "migrate-set-capabilities", "arguments": {"capabilities":
	[{"capability": "xbzrle", "state": true}]}}' >/dev/null
qmp "$tmp/user.sock" '{"execute": "migrate-set-parameters", "arguments":
	{"max-bandwidth": 12345678, "downtime-limit": 77}}' >/dev/null
remember
early_refusals running
ok "running: another machine" refused_by_keeper ".*Machine type received is" \
	--qemu "$tmp/other-machine"
ok "running: another device" refused_by_keeper ".*load of migration failed" \
	--qemu "$tmp/other-device"
qmp "$tmp/user.sock" stop >/dev/null
remember
early_refusals paused
ok "the paused VM is still paused" vm_is vm paused

# QEMU itself makes a paused VM one "that was paused due to a migration" once device state is on its
# way. It stands still nevertheless, and can go on.
late_and_paused()
{
	run vm upgrade vm --qemu "$tmp/other-device"
	status_is 1 && grep -q "QMP cont lets it run" "$tmp/err" && vm_is vm postmigrate
}
ok "paused: another device" late_and_paused
run vm upgrade vm
ok "it can't be upgraded so" failed_saying "vm: the VM is in QEMU's state 'postmigrate': .*QMP cont"
qmp "$tmp/user.sock" cont >/dev/null
ok "it can go on" vm_is vm running

# As JSON it fails in the same way.
run vm upgrade vm --json --qemu "$tmp/broken"
ok "--json: status 1" status_is 1
ok "--json: says so" eval \
	'[ "$(json_field result <"$tmp/out")" = failed ] && grep -q "\"error\":.*one; two" "$tmp/out"'

# A client that leaves.
"$pageferry" vm upgrade vm --qemu "$tmp/hangs" >"$tmp/out" 2>"$tmp/left" &
client=$!
remember_phase()
{
	vm_is vm upgrading >/dev/null
}
wait_until 10 remember_phase
run vm upgrade vm
ok "a second upgrade meanwhile" failed_saying "vm: an upgrade is under way"
kill -INT $client 2>/dev/null; kill $client
wait_until 10 vm_runs vm
ok "the client leaves: the upgrade is off" eval 'remember && was=$(echo "$was") && as_it_was'
ok "it says what that means" grep -q "^pageferry: vm: interrupted: the VM goes on in the old" "$tmp/left"
ok "it was said to the keeper" grep -q "the command that asked for it has ended" "$tmp/vm.log"

# After all that the VM can still be upgraded.
run vm upgrade vm --qemu "$tmp/good"
ok "a good QEMU takes over" eval 'status_is 0 && vm_is vm running && [ "$(field vm generation)" = 2 ]'
ok "at the same socket" eval 'qmp "$tmp/user.sock" query-status | grep -q running'
"$pageferry" vm upgrade vm --qemu "$tmp/hangs" >"$tmp/out" 2>"$tmp/err" &
client=$!
wait_until 10 remember_phase
kill -TERM "${keeper[vm]}"
wait $client
status=$?
ok "the keeper is asked to end meanwhile" failed_saying "vm: the VM is being stopped"
ok "it does" eval 'keeper_status vm && status_is 0'
ok "nothing is left" nothing_left
plan
