#!/bin/bash
# SPDX-License-Identifier: MIT
#
# A VM's life without an upgrade: run, list, status, stop, and every way in which it can end.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh

one_row()
{
	run vm list
	[ "$(wc -l <"$tmp/out")" -eq 2 ] && grep -Eq "^$1 +$2 " "$tmp/out"
}

# said TEXT: the keeper did, once
said()
{
	[ "$(grep -cxF "pageferry: $1" "$tmp/vm.log")" -eq 1 ]
}

ends_with()
{
	keeper_status "$1" && status_is "$2"
}

# What a killed keeper leaves is a VM that runs but can't be upgraded.
orphan_is_known()
{
	vm_is "$1" running && [ "$(field "$1" keeper_pid)" = null ] &&
		"$pageferry" vm status "$1" | grep -q 'keeper *gone'
}

ram_is_anonymous()
{
	local kib

	[ "$(stat -c %b "$state/$1/ram")" -eq 0 ] || return
	kib=$(field "$1" memory_kib)
	[ "$kib" -gt 1000 ] && ! grep -q "$state/$1/ram" "/proc/$(field "$1" pid)/maps"
}

# A QEMU that says what it was given.
cat >"$tmp/shows" <<EOF
#!/bin/sh
{ pwd; env; ls -l /proc/self/fd; echo "stdin: \$(head -n 1)"; } >"$tmp/shown"
exit 7
EOF
printf '#!/bin/sh\nexec sleep 100\n' >"$tmp/sleeps"
printf '#!/bin/sh\nexit 0\n' >"$tmp/ends"
chmod +x "$tmp/shows" "$tmp/sleeps" "$tmp/ends"

# ends_as_from_terminal SIGNAL: as from a terminal, it comes to the keeper and to QEMU
ends_as_from_terminal()
{
	setsid "$pageferry" vm run tty -- qemu-system-x86_64 -accel tcg -nodefaults \
		-display none -m 64 </dev/null >"$tmp/tty.log" 2>&1 &
	keeper[tty]=$!
	wait_until 30 vm_runs tty || return
	kill -s "$1" -- "-${keeper[tty]}"
	keeper_status tty && status_is 0 && not grep "does not end" "$tmp/tty.log"
}

# Lost output is no success.
output_is_missed()
{
	"$pageferry" "$@" >/dev/full 2>"$tmp/err"
	status=$?
	failed_saying "can't write to standard output"
}

for signal in TERM HUP; do
	ok "$signal for all of its group ends it" ends_as_from_terminal $signal
done
start_vm vm
ok "output that is lost is missed" output_is_missed vm list --json
ok "it runs" vm_is vm running
ok "list shows it" one_row vm running
ok "status shows its process" eval 'is_alive "$(field vm pid)" && [ "$(field vm generation)" = 1 ]'
ok "status as text" eval '"$pageferry" vm status vm | grep -q "^state *running$"'
ok "its RAM is anonymous, the file empty" ram_is_anonymous vm
ok "what was added is told, one line each" eval \
	'grep -q "^pageferry: adds -object memory-backend-file,id=pageferry-ram" "$tmp/vm.log" &&
	grep -q "^pageferry: adds LD_PRELOAD=" "$tmp/vm.log"'
ok "its directory is closed to others" \
	eval '[ "$(stat -c %a "$state/vm")" = 700 ] && [ "$(stat -c %a "$state/vm/vm.json")" = 600 ]'

run vm run vm -- qemu-system-x86_64
ok "a second VM of that name is refused" failed_saying "vm: a VM of that name runs"
ok "the first one goes on" vm_is vm running

qmp "$state/vm/qmp-1.sock" stop >/dev/null
ok "a paused VM is shown as such" vm_is vm paused
run vm stop vm
ok "stop" status_is 0
ok "the keeper ends with QEMU's status" ends_with vm 0
run vm stop vm
ok "a stopped VM is no more" failed_saying "vm: there is no VM"
ok "nothing is left" nothing_left

for signal in TERM INT HUP; do
	# A shell that starts something in the background has it ignore SIGINT.
	perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "$pageferry" vm run vm -- qemu-system-x86_64 \
		-accel tcg -nodefaults -display none -m 64 >"$tmp/vm.log" 2>&1 </dev/null &
	keeper[vm]=$!
	wait_until 30 vm_runs vm >&2
	kill "-$signal" "${keeper[vm]}"
	ok "SIG$signal stops the VM" ends_with vm 0
done
ok "nothing is left after signals" nothing_left

start_vm vm
qmp "$state/vm/qmp-1.sock" quit >/dev/null
ok "the VM ends by itself: status 0" ends_with vm 0
ok "without a word" not grep -qv "^pageferry: adds " "$tmp/vm.log"
start_vm vm
kill -9 "$(field vm pid)"
ok "QEMU is killed: status 137" ends_with vm 137
ok "it is said" said "vm: QEMU was killed by signal 9 (Killed)"
: >"$tmp/vm.log"
"$pageferry" vm run vm -- qemu-system-x86_64 -nonsense >>"$tmp/vm.log" 2>&1 </dev/null &
keeper[vm]=$!
ok "QEMU refuses its arguments: its status" ends_with vm 1
ok "and its words" grep -q "nonsense" "$tmp/vm.log"
ok "nothing is left after ends" nothing_left

"$pageferry" vm run vm -- "$tmp/ends" 2>"$tmp/vm.log"
status=$?
ok "a program that isn't a QEMU ends well: no success" status_is 1
ok "it is said" said \
	"vm: $tmp/ends ended with status 0 without ever mapping guest RAM: is it a QEMU?"

# shellcheck disable=SC2094 # it only reads itself
(cd / && echo hello | MARK=yes LD_PRELOAD=/nonexistent.so exec "$pageferry" vm run vm -- \
	"$tmp/shows" 5<"$tmp/shows" 2>"$tmp/vm.log")
status=$?
ok "QEMU's exit status is the keeper's" status_is 7
ok "QEMU has the directory" eval 'head -n 1 "$tmp/shown" | grep -qx /'
ok "the environment" grep -qx MARK=yes "$tmp/shown"
ok "the libraries that were preloaded before" \
	grep -qx "LD_PRELOAD=.*/libpageferry-preload.so:/nonexistent.so" "$tmp/shown"
ok "the input" grep -qx "stdin: hello" "$tmp/shown"
ok "descriptors that were handed down" grep -q " 5 -> $tmp/shows" "$tmp/shown"
ok "and of the keeper's only one" \
	eval '[ "$(grep -Ec " -> (socket|anon_inode|$state)" "$tmp/shown")" -eq 1 ]'

start_vm vm
qemu=$(field vm pid)
kill -9 "${keeper[vm]}"
wait_until 10 is_gone "${keeper[vm]}" >&2
ok "the keeper is killed: QEMU goes on" orphan_is_known vm
run vm run vm -- qemu-system-x86_64
ok "run of the same name is refused" failed_saying "vm: its keeper is gone but its QEMU"
run vm upgrade vm
ok "upgrade says that the keeper is gone" failed_saying "vm: its keeper is gone"
run vm stop vm
ok "stop works" status_is 0
ok "QEMU has ended" is_gone "$qemu"
ok "nothing is left after that" nothing_left

start_vm vm
qemu=$(field vm pid)
kill -STOP "$qemu"
kill -9 "${keeper[vm]}" "$qemu"
wait_until 10 is_gone "$qemu" >&2
ok "both are killed: the VM is dead" eval 'wait_until 10 vm_is vm dead && one_row vm dead'
start_vm vm
ok "run of the same name takes its place" vm_is vm running
kill -9 "$(field vm pid)" "${keeper[vm]}"
wait_until 10 vm_is vm dead >/dev/null
run vm stop vm
ok "stop removes what a dead VM has left" eval 'status_is 0 && [ ! -e "$state/vm" ]'

# A QEMU that doesn't listen: its keeper kills it in the end.
"$pageferry" vm run vm -- "$tmp/sleeps" >"$tmp/vm.log" 2>&1 </dev/null &
keeper[vm]=$!
wait_until 30 vm_is vm unresponsive >/dev/null
run vm upgrade vm
ok "a program that isn't a QEMU can't be upgraded" failed_saying "vm: the library preloaded"
run vm stop vm
ok "stop of a program that isn't a QEMU" status_is 0
ok "it was killed by SIGTERM" ends_with vm 143
ok "nothing is left in the end" nothing_left
plan
