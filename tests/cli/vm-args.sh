#!/bin/bash
# SPDX-License-Identifier: MIT
#
# pageferry vm: wrong command lines, VMs that can't be, and what is said of them.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh

usage_error()
{
	status_is 2 && failed_saying "$1"
}

# An unfit QEMU command is refused before anything is started or left behind.
refused()
{
	run vm run vm -- qemu-system-x86_64 "${@:2}"
	status_is 2 && failed_saying "$1" && [ ! -e "$state/vm" ]
}

no_state_dir()
{
	env -u PAGEFERRY_STATE_DIR -u XDG_RUNTIME_DIR setpriv --reuid 65534 --regid 65534 \
		--clear-groups "$tmp/pageferry" vm list >"$tmp/out" 2>"$tmp/err"
	status=$?
	failed_saying "no place for the state of VMs: set XDG_RUNTIME_DIR or PAGEFERRY_STATE_DIR"
}

# A VM of somebody without rights; false: one who has a userfaultfd all the same.
warned()
{
	cp "$B/libpageferry-preload.so" "$tmp/preload.so"
	setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/pageferry" probe |
		grep -q '^VM upgrade  *yes' && return 1
	PAGEFERRY_STATE_DIR=$tmp/other PAGEFERRY_PRELOAD=$tmp/preload.so timeout 60 \
		setpriv --reuid 65534 --regid 65534 --clear-groups \
		"$tmp/pageferry" vm run vm -- /bin/true >"$tmp/out" 2>"$tmp/err"
	true
}

run --version
ok "--version" grep -qx "pageferry $(cat VERSION)" "$tmp/out"
for words in --help "vm --help" "vm run --help" "vm upgrade --help"; do
	# shellcheck disable=SC2086
	run $words
	ok "$words: usage on stdout, status 0" \
		eval '[ $status -eq 0 ] && [ ! -s "$tmp/err" ] && grep -q ^usage: "$tmp/out"'
done
# explains WORD...: each has a line of its own, which goes on with what it is for
explains()
{
	local option

	for option in "$@"; do
		grep -Eq -- "^ +$option( [A-Z]+)?  +[a-z]" "$tmp/out" || { echo "$option"; return 1; }
	done
}

explains_all()
{
	local options

	mapfile -t options < <(sed -n "/^usage/,/^$/s/[^-]*\(--[a-z]*\)/\1\n/gp" "$tmp/out" |
		grep -Eo -- '^--[a-z]+' | sort -u)
	echo "options ${options[*]}"
	[ "${#options[@]}" -ge "$1" ] && explains "${options[@]}"
}

run vm upgrade --help
ok "vm upgrade --help: every option is explained" explains_all 6
ok "and no other command" not grep -q "vm run" "$tmp/out"
run vm --help
ok "vm --help: every option is explained" explains_all 5
ok "and every command" explains run upgrade list status stop
for command in list status; do
	run vm $command --help
	ok "vm $command --help: explained" explains "$command" --json
done
run vm
ok "no command: usage on stderr" eval '[ $status -eq 2 ] && grep -q ^usage: "$tmp/err"'
run fly
ok "an unknown command" usage_error "fly: there is no such command: see 'pageferry --help'"
run vm fly
ok "an unknown vm command" usage_error "fly: there is no such command: see 'pageferry vm --help'"
run vm run
ok "run without a name" usage_error "run needs"
run vm run vm qemu-system-x86_64
ok "run without --" usage_error "run needs"
run vm run vm --
ok "run without a command" usage_error "run needs"
run vm upgrade
ok "upgrade without a name" usage_error "upgrade needs"
run vm upgrade a b
ok "upgrade of two" usage_error "upgrade needs"
run vm upgrade vm --way fast
ok "upgrade --way fast" usage_error "--way fast: not auto, copy, stage or module"
for way in copy stage; do
	run vm upgrade vm --strict --way $way
	ok "upgrade --strict --way $way" usage_error "--strict forbids copies, which is how --way $way works: use --way module"
done
run vm upgrade vm --cpu -7
ok "upgrade --cpu -7" usage_error "--cpu -7: not follow, any or the number of a CPU"
run vm upgrade vm --timeout 0
ok "upgrade --timeout 0" usage_error "--timeout 0: not 1 to 86400"
run vm upgrade vm --timeout 99999999999999999999
ok "upgrade --timeout 99999999999999999999" usage_error "--timeout"
run vm upgrade vm --fast
ok "upgrade --fast" usage_error "upgrade: a wrong option"
run vm stop
ok "stop without a name" usage_error "stop needs"
run vm status --json
ok "status without a name" usage_error "status needs"
run vm list vm
ok "list with a name" usage_error "list takes no name"

for name in .. a/b -x .x "a b" "$(printf 'a%.0s' {1..65})"; do
	run vm run "$name" -- qemu-system-x86_64
	ok "the name '${name:0:10}' is refused" failed_saying ".*not a name"
done

ok "-daemonize" refused "-daemonize: .*into the background" -daemonize
ok "--incoming" refused "--?incoming tcp:0:1: " --incoming tcp:0:1
ok "-pidfile" refused "-pidfile x: .*pageferry vm status" -m 64 -pidfile x
ok "memory of one's own" refused "-M .*: .*-m only" -M q35,memory-backend=m
ok "memfd as extra memory" refused "-object .*: .*memory-backend-file,share=on" \
	-object '{"qom-type": "memory-backend-memfd", "id": "m", "size": 1048576}'
ok "vfio" refused "-device vfio-pci,host=1:0.0: .*pins" -device vfio-pci,host=1:0.0
ok "-snapshot" refused "-snapshot: .*qemu-img" -snapshot
ok "a size that is none" refused "-m lots: not a size" -m lots
ulimit_run()
{
	(ulimit -f 1 && "$pageferry" vm run vm -- qemu-system-x86_64 >"$tmp/out" 2>"$tmp/err")
	status=$?
}
ulimit_run
ok "a RAM file over the limit" failed_saying ".*/ram: .*File too large.*ulimit -f"

run vm run vm -- qemu-system-none
ok "a QEMU that isn't installed" failed_saying "qemu-system-none: not found in PATH"
run vm run vm -- /etc/passwd
ok "a QEMU that is no program" failed_saying "/etc/passwd: not a program"
PAGEFERRY_PRELOAD=/nonexistent run vm run vm -- qemu-system-x86_64
ok "no preloaded library" failed_saying "/nonexistent: No such file .*PAGEFERRY_PRELOAD"
PAGEFERRY_PRELOAD="$tmp/a b" run vm run vm -- qemu-system-x86_64
ok "a library at a path that can't be preloaded" failed_saying ".*a b: "
ok "nothing is left of all that" nothing_left

for command in status stop upgrade; do
	run vm $command nobody
	ok "$command of a VM that isn't" failed_saying "nobody: there is no VM of that name"
done
run vm upgrade nobody --json
ok "the same as JSON" grep -q '"result": *"failed"' "$tmp/out"
run vm list --json
ok "an empty list as JSON" eval '[ "$(tr -d "[:space:]" <"$tmp/out")" = "[]" ]'
ok "nothing more" eval '[ $status -eq 0 ] && [ ! -s "$tmp/err" ]'
no_vms()
{
	run vm list
	status_is 0 && [ ! -s "$tmp/out" ] && [ "$(cat "$tmp/err")" = "pageferry: no VMs" ]
}
ok "an empty list is said" no_vms
rmdir "$state"
ok "no state directory: the same" no_vms
mkdir -m 700 "$state" && touch "$state/file" && mkdir -m 755 "$state/open"
ok "what is there but no VM isn't listed" no_vms
rm -r "$state"

PAGEFERRY_STATE_DIR=/nonexistent/x run vm run vm -- qemu-system-x86_64
ok "a state directory that can't be made" failed_saying "/nonexistent/x: "
long=$tmp/$(printf 'x%.0s' {1..90})
PAGEFERRY_STATE_DIR=$long run vm run vm -- qemu-system-x86_64
ok "a state directory with too long a path" failed_saying ".*too long for the path of a socket"
ok "nothing is made there" [ ! -e "$long/vm" ]
mkdir "$tmp/open" && chmod 777 "$tmp/open"
PAGEFERRY_STATE_DIR=$tmp/open run vm list
ok "a state directory that others may write to" failed_saying ".*others may use it"
ln -s open "$tmp/link"
PAGEFERRY_STATE_DIR=$tmp/link run vm list
ok "a state directory that is a link" failed_saying ".*is no directory"
if [ "$(id -u)" -eq 0 ]; then
	mkdir -m 700 "$tmp/other" && chown 65534 "$tmp/other"
	PAGEFERRY_STATE_DIR=$tmp/other run vm list
	ok "a state directory of another user" failed_saying ".*belongs to user 65534"
	chmod 755 "$tmp" && cp "$pageferry" "$tmp/"
	ok "no place for state" no_state_dir
	if warned; then
		ok "who can't have a userfaultfd is told before the VM runs" grep -q \
			"^pageferry: note: this VM can't be upgraded: .*see 'pageferry probe'" "$tmp/err"
	else
		skip "who can't have a userfaultfd is told before the VM runs" "everybody can have one"
	fi
else
	skip "who can't have a userfaultfd is told before the VM runs" "needs root"
	skip "a state directory of another user" "needs root"
	skip "no place for state" "needs root"
fi
plan
