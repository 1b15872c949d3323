#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# A machine without userfaultfd: that is noticed and said, tests that need it run in a guest, and whatever goes
# wrong there is a failure here; the demo shows its upgrade there. Whoever runs this can't use userfaultfd for
# the time being, see tests/lib/hide_userfaultfd.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export B=${B:-build}
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

hide=tests/lib/hide_userfaultfd
$hide true 2>/dev/null || skip_all "userfaultfd can't be hidden: needs root and perl"
unset IN_GUEST
make_scratch
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
# run COMMAND...: keeps its output and its status
run()
{
	"$@" >"$tmp/out" 2>&1 </dev/null
	status=$?
}

says()
{
	grep -qE -- "$1" "$tmp/out"
}

# As on a machine that was never online
offline()
{
	KERNEL='' PAGEFERRY_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$@"
}
mkdir "$tmp/bin" "$tmp/cache"
printf '#!/bin/sh\necho "E: Could not resolve host" >&2\nexit 100\n' >"$tmp/bin/apt-get"
chmod +x "$tmp/bin/apt-get"

# ---- it is noticed

run $hide scripts/userfaultfd
ok "no userfaultfd is noticed" status_is 1
ok "why, in one line" test "$(cat "$tmp/out")" = "EPERM: a seccomp filter or security module forbids it"
as_nobody()
{
	cp "$B/pageferry" "$tmp/" && chmod 755 "$tmp" "$tmp/pageferry" &&
		B=$tmp run setpriv --reuid 65534 --regid 65534 --clear-groups scripts/userfaultfd
}
if [ "$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null)" = 0 ] && as_nobody &&
	[ "$(stat -c %a /dev/userfaultfd)" = 600 ]; then
	ok "one that doesn't see the kernel's faults is none" status_is 1
	ok "why, in one line" says '^EPERM: user-mode only: '
fi
if "$B/pageferry" probe >/dev/null; then
	run scripts/userfaultfd
	ok "nothing is said where there is one" test "$status" -eq 0 -a ! -s "$tmp/out"
fi

# ---- tests

guest/kernel >/dev/null 2>"$tmp/why" || skip_all "no kernel for a guest: $(tail -n 1 "$tmp/why")"
run $hide tests/run unit/hist uffd/memory_out cli/examples
ok "tests that need it succeed" status_is 0
ok "it is said, once" test "$(grep -c '^tests/run: no userfaultfd here (.*): .* in a guest$' "$tmp/out")" -eq 1
ok "they have run in a guest, and they alone" test "$(grep -c '^# in a guest: Linux 6\.12' "$tmp/out")" -eq 2
ok "each of their lines is there" says '^ok 6 - unmapped$'
ok "prove adds them up" says '^Files=3, Tests=1[0-9],'
IN_GUEST=no run $hide tests/run uffd/memory_out
ok "none has to" says '^ok .* # SKIP '
run offline tests/guest/run "$B/tests/uffd/memory_out"
ok "without a kernel for the guest that is a SKIP" says '^1\.\.0 # SKIP no kernel for a guest: .*check the network'

# A build folder with tests of our own
mkdir -p "$tmp/b/tests/guest" "$tmp/b/tests/uffd"
cp "$B/pageferry" "$B"/*.so "$tmp/b/"
cp "$B/tests/guest/init" "$tmp/b/tests/guest/"
cp "$B/tests/uffd/move" "$tmp/b/tests/uffd/"

# in_guest SCRIPT: a test that does this
in_guest()
{
	printf '#!/bin/sh\n%s\n' "$1" >"$tmp/b/tests/uffd/own"
	chmod +x "$tmp/b/tests/uffd/own"
	B=$tmp/b run tests/guest/run "$tmp/b/tests/uffd/own"
}

in_guest 'echo "1..2"; echo "ok 1 - good"; echo "not ok 2 - bad"; echo "# why" >&2; exit 3'
ok "a test that fails has its status" status_is 3
ok "and its lines" says '^not ok 2 - bad$'
ok "those of stderr, too" says '^# why$'
in_guest 'echo 1..1; kill -9 $$'
ok "one that is killed fails" status_is 137
in_guest 'echo 1..1; echo ok 1; echo c >/proc/sysrq-trigger; sleep 9'
ok "a panic fails" status_is 1
ok "and is shown" says 'Kernel panic'
in_guest 'echo 1..1; echo ok 1; echo "<4>WARNING: CPU: 0" >/dev/kmsg'
ok "what the kernel reports is a failure" status_is 1
LIMIT=15 in_guest 'echo 1..1; echo ok 1; sleep 1000'
ok "so is a guest that doesn't come to its end" status_is 1

# ---- the demo

run $hide scripts/demo
ok "the demo succeeds" status_is 0
ok "it says that it has no userfaultfd" says '^There is no userfaultfd here: EPERM: a seccomp filter'
for pages in huge small; do
	ok "a VM with $pages pages is upgraded" \
		says "^VM with $pages pages +3 upgrades: [1-9][0-9]* KiB moved, [0-9]+ KiB copied; .* are intact$"
done
ok "the table of the hand-over follows" says '^contents are intact +yes +yes +yes$'
run offline $hide scripts/demo
ok "without a network it fails" status_is 1
ok "and says so in one line" test "$(wc -l <"$tmp/out")" -eq 1
ok "with what to do" says '^demo: no guest to show MOVE in: .*check the network'
plan
