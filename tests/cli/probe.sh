#!/bin/bash
# SPDX-License-Identifier: MIT
# pageferry probe: what it says, to whom, and its exit status. Its JSON is read in probe_json.c.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
# Where every user may execute it.
chmod 755 "$dir"
cp "${B:-build}/pageferry" "$dir/" || exit 1
pageferry=$dir/pageferry
n=0

check() {
	local name=$1
	shift
	n=$((n + 1))
	if "$@" >"$dir/log" 2>&1; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		sed 's/^/# /' "$dir/log" "$dir/out" "$dir/err"
	fi
}

skip() {
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

# Run a command, keep its output and its status.
run() {
	"$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
}

says() {
	grep -Eq -- "$1" "$dir/out"
}

status_is() {
	echo "status $status"
	[ "$status" -eq "$1" ]
}

one_line_error() {
	cat "$dir/err"
	[ ! -s "$dir/out" ] && [ "$(wc -l <"$dir/err")" -eq 1 ] && grep -q "^pageferry: $1" "$dir/err"
}

as_nobody() {
	run setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}

# Every missing thing is explained in one line, with its way out.
explained() {
	! grep -E '^ *[^ ].* no ( |$)' "$dir/out" | grep -Ev ' no   E[A-Z0-9]+: .+; fix: .+'
}

run "$pageferry" probe
if [ -r /dev/userfaultfd ] && [ -w /dev/userfaultfd ]; then
	check "the device is found" says '^  /dev/userfaultfd +yes$'
	check "a VM can be upgraded" says '^VM upgrade +yes$'
	check "exit status 0" status_is 0
else
	skip "the device is found" "no /dev/userfaultfd for this user"
	skip "a VM can be upgraded" "no /dev/userfaultfd for this user"
	skip "exit status 0" "no /dev/userfaultfd for this user"
fi
check "nothing on stderr" test ! -s "$dir/err"
check "all is explained" explained
check "all feature bits are named" test "$(grep -cE '^  [A-Z_]+ +(yes|no )' "$dir/out")" -eq 17
for line in userfaultfd 'kernel MOVE' WP WP_ASYNC PAGEMAP_SCAN 'MINOR, CONTINUE' POISON EVENT_FORK \
	'huge pages \(THP\)' KSM 'peer memory read' 'pageferry module' 'VM upgrade' \
	'huge pages kept' 'library hand-over' 'page snapshots'; do
	check "says: $line" says "^$line +(yes|no  )"
done

run "$pageferry" probe --json
cp "$dir/out" "$dir/json"
check "JSON begins as an object" test "$(head -c 1 "$dir/json")" = '{'
run "$pageferry" probe --jso
check "an option may be shortened" grep -q '"verdict"' "$dir/out"

for arguments in --nothing -x 'more' '--json more' '--json=3'; do
	# shellcheck disable=SC2086 # several arguments
	run "$pageferry" probe $arguments
	check "refused: probe $arguments" one_line_error '.*--help'
	check "exit status 2: probe $arguments" status_is 2
done
run "$pageferry" probe --help
check "help has the exit status" says 'Exit status: 0'
check "help succeeds" status_is 0

if [ -w /dev/full ]; then
	run sh -c "exec '$pageferry' probe >/dev/full"
	check "a full disk is noticed" one_line_error "can't write"
	check "exit status 2: full disk" status_is 2
else
	skip "a full disk is noticed" "no /dev/full"
	skip "exit status 2: full disk" "no /dev/full"
fi

if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	as_nobody "$pageferry" probe
	check "nobody: all is explained" explained
	if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null)" = 0 ] &&
		[ "$(stat -c %a /dev/userfaultfd 2>/dev/null)" = 600 ]; then
		check "nobody: may not open the device" \
			says '/dev/userfaultfd +no   EACCES: .*fix: .*chmod 660'
		check "nobody: the sysctl is named" \
			says 'system call +no   EPERM: .*fix: sysctl vm.unprivileged_userfaultfd=1'
		check "nobody: user-mode only" says '^userfaultfd +yes  \(door: user_mode\)$'
		check "nobody: no VM upgrade" says '^VM upgrade +no   EPERM: user-mode only'
		check "nobody: exit status 1" status_is 1
	else
		for what in device sysctl user-mode upgrade status; do
			skip "nobody: $what" "userfaultfd is open to all users here"
		done
	fi
	check "nobody: EVENT_FORK needs a capability" says '^EVENT_FORK +no   EPERM: CAP_SYS_PTRACE'
else
	for what in explained device sysctl user-mode upgrade status EVENT_FORK; do
		skip "nobody: $what" "needs root and setpriv"
	done
fi

# With another file in the device's place, and with none, in a mount namespace of the test's own.
in_place_of_dev() {
	run unshare -m sh -c "$1 && exec '$pageferry' probe"
}
if [ "$(id -u)" -eq 0 ] && [ -e /dev/userfaultfd ] && unshare -m true 2>/dev/null; then
	in_place_of_dev "mount --bind /dev/null /dev/userfaultfd"
	check "wrong device: said" says '/dev/userfaultfd +no   E[A-Z]+: /dev/userfaultfd is something'
	check "wrong device: another door" says '^userfaultfd +yes  \(door: (syscall|user_mode)\)$'
	check "wrong device: all is explained" explained
	in_place_of_dev "mount -t tmpfs none /dev"
	check "no device: said" says '/dev/userfaultfd +no   ENOENT: .*fix: Linux 6.1'
	check "no device: all is explained" explained
else
	for what in 'wrong device: said' 'wrong device: another door' \
		'wrong device: all is explained' 'no device: said' 'no device: all is explained'; do
		skip "$what" "needs root, /dev/userfaultfd and mount namespaces"
	done
fi

# With three descriptors open, the fourth one is the last.
run bash -c "ulimit -n 4; exec '$pageferry' probe"
check "few descriptors: all is explained" explained
check "few descriptors: the limit is named" says 'EMFILE: .*fix: raise ulimit -n'
check "few descriptors: it ends by itself" test "$status" -le 1

echo "1..$n"
