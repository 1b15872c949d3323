#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 120
# needs: userfaultfd
#
# pageferry conform: what it sees here is what is known of this kernel's series, a wrong expectation is noticed,
# and nothing of it stays behind, even when it is killed.
# shellcheck disable=SC2016 # what is in quotes is perl
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
pageferry=$PWD/$B/pageferry

# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
make_scratch
trap 'rm -rf "$tmp"' EXIT

# run ARGUMENT...: sets $status
run()
{
	"$pageferry" conform "$@" >"$tmp/out" 2>"$tmp/err"
	status=$?
}

# One line, nothing on stdout, status 2
refused()
{
	[ "$status" -eq 2 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] &&
		grep -q "^pageferry: .*$1" "$tmp/err"
}

# json CODE: perl, with the object in $o
json()
{
	perl -MJSON::PP -e 'local $/; open F, "<", shift; my $o = decode_json(<F>); exit !('"$1"')' "$tmp/json"
}

held=/proc/kpageflags
[ -r "$held" ] || held=/dev/null

# All that it changes on the host. Whoever changes it has this lock, so under it all of them are at rest: also the
# guard of one that was killed.
settings()
{
	{
		flock 9
		cat /proc/swaps /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/ksm/run \
			/sys/kernel/mm/ksm/sleep_millisecs /sys/kernel/mm/ksm/pages_to_scan \
			/proc/sys/vm/nr_hugepages 2>/dev/null | sed 's/^\(\/[^ ]* *[a-z]*\).*/\1/'
		ls /dev/zram* /var/tmp/pageferry-swap.* 2>/dev/null
		pgrep -f "^$pageferry conform"
	} 9<"$held"
	true
}

settings_are_back()
{
	settings >"$tmp/now"
	diff "$tmp/settings" "$tmp/now"
}

settings >"$tmp/settings"

run --nothing
ok "refused: an option that isn't one" refused "--nothing: not an option"
run --way other
ok "refused: a way that isn't one" refused "--way other: there are kernel and module"
run --way
ok "refused: no way" refused "--way needs a value"
run more
ok "refused: an argument" refused "more: nothing was expected here"
run --expected "$tmp/no-such-file"
ok "refused: no such file" refused "no-such-file: can't be opened"
run --expected "$tmp"
ok "refused: a folder" refused "not a regular file"
printf 'anonymous | MOVE\n' >"$tmp/expected"
run --expected "$tmp/expected"
ok "refused: half a line" refused 'line 1 isn'\''t "row | column | verdict"'
printf 'mremap | vmsplice | same page\n' >"$tmp/expected"
run --expected "$tmp/expected"
ok "refused: answers to other questions" eval 'status_is 2 && grep -q "has no answer for any cell" "$tmp/err"'
run --help
ok "help" grep -q '^Exit status: 0' "$tmp/out"
if [ ! -e /dev/pageferry ]; then
	run --way module
	ok "refused: no module" refused "load pageferry.ko"
fi

series=$(uname -r | grep -o '^[0-9]*\.[0-9]*')

# known TABLE: its file for this series, or nothing
known()
{
	[ ! -f "share/expected/$1-$series" ] || echo "share/expected/$1-$series"
}

# agrees WAY KNOWN: what is seen is what is known of this series
agrees()
{
	run --json --way "$1" ${2:+--expected "$2"}
	cp "$tmp/out" "$tmp/json"
	if [ -n "$2" ]; then
		ok "$1: as expected of this series" status_is 0
		ok "$1: nothing differs" json '$o->{expectation} && $o->{differ_from_expected} == 0'
	else
		skip "$1: as expected of this series" "nothing is expected of Linux $series"
		skip "$1: nothing differs" "nothing is expected of Linux $series"
	fi
	ok "$1: nothing wrong, whatever is expected" \
		json '!grep { ($_->{seen} // "") =~ /^wrong|^died/ } @{$o->{cells}}'
	ok "$1: what isn't tried says why" json '!grep { !$_->{seen} && !$_->{why} } @{$o->{cells}}'
}

agrees kernel "$(known conform)"
ok "all calls are tried" json '@{$o->{cells}} > 100 && $o->{way} eq "kernel"'
# In a guest there is all that it takes.
in_guest=no most=24
! grep -q pf.program= /proc/cmdline || in_guest=yes most=0
export most
if [ "$(id -u)" -eq 0 ]; then
	ok "nearly all is tried" json '$o->{not_tried} <= $ENV{most}'
fi
if [ -e /dev/pageferry ]; then
	agrees module "$(known conform-module)"
	ok "by the module there is MOVE" json '@{$o->{cells}} > 20 && !grep { $_->{call} ne "MOVE" } @{$o->{cells}}'
	ok "all of it is tried" json '$o->{not_tried} == 0'
else
	skip "by the module" "it isn't loaded: tests/guest/conform.sh has it"
fi
ok "nothing is left behind" settings_are_back

# The rest is the same on every kernel, and takes its time on an emulated one.
[ $in_guest = no ] || { plan; exit; }

# Run from the folder that it was built in, it finds the files of its source.
known=$(known conform)
if [ -n "$known" ] && [ -e "$B/../$known" ]; then
	run --json
	cp "$tmp/out" "$tmp/json"
	ok "the files beside it are found" json '$o->{expectation} && grep { $_->{manual} eq "EBUSY" } @{$o->{cells}}'
fi

# The answer of one cell, and of one that doesn't move, are wrong; all others aren't told.
printf 'anonymous | MOVE | EBUSY\nnot registered | COPY | ok\nanonymous | COPY | ok\n' >"$tmp/expected"
run --expected "$tmp/expected"
cp "$tmp/out" "$tmp/text"
ok "wrong expectation: exit status 1" status_is 1
ok "wrong expectation: counted" grep -q '^2 differ from what is expected' "$tmp/text"
ok "wrong expectation: printed first" \
	[ "$(sed -n '/^$/{n;p;n;p;q}' "$tmp/text" | cut -c 1-49 | tr -s ' ')" = "Differs from what is expected, or is wrong
MOVE anonymous ok " ]
ok "wrong expectation: what it was" grep -q '^MOVE  *anonymous .* expected: EBUSY' "$tmp/text"
run --json --expected "$tmp/expected"
cp "$tmp/out" "$tmp/json"
ok "wrong expectation: first in JSON" json '$o->{differ_from_expected} == 2 && $o->{cells}[0]{memory} eq "anonymous" &&
	$o->{cells}[0]{differs_from_expected} && $o->{cells}[1]{expected} eq "ok" && !$o->{cells}[2]{differs_from_expected}'

# kill_when WHAT COMMAND...: in the middle, as soon as the command succeeds
kill_when()
{
	local what=$1 pid

	shift
	"$pageferry" conform >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	until "$@" "$pid"; do
		kill -0 "$pid" 2>/dev/null || break
	done
	kill -9 "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	ok "killed when $what: it was in the middle" [ $? -eq 137 ]
	ok "killed when $what: all is put back" settings_are_back
}

ksm_runs()
{
	[ "$(cat /sys/kernel/mm/ksm/run)" = 1 ]
}

swap_is_there()
{
	! cmp -s /proc/swaps "$tmp/swaps"
}

# trial_runs PID: its children are the guard and a trial.
trial_runs()
{
	[ "$(pgrep -c -P "$1")" -eq 2 ]
}

cat /proc/swaps >"$tmp/swaps"
if [ "$(id -u)" -eq 0 ]; then
	kill_when "KSM runs" ksm_runs
	kill_when "swap is there" swap_is_there
fi
kill_when "a trial runs" trial_runs

if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	chmod 755 "$tmp"
	cp "$pageferry" "$tmp/pageferry"
	setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/pageferry" conform --json \
		>"$tmp/json" 2>"$tmp/err"
	ok "without root: no error" [ ! -s "$tmp/err" ]
	ok "without root: what needs it says so" json '!grep { $_->{needs_root} && !$_->{seen} && !$_->{why} } @{$o->{cells}}'
	ok "without root: the others are tried" json '!grep { $_->{memory} eq "anonymous" && !$_->{seen} } @{$o->{cells}}'
fi

plan
