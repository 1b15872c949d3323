#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# needs: userfaultfd
#
# pageferry pins: it finds what is expected of this kernel, where that is known; a wrong expectation is seen;
# and nothing is left of it, even when it is killed. tests/guest/pins_table.sh runs this on another kernel.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
make_scratch
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# A copy, so that its processes can be told from others' of the same program, and every user may run it
chmod 755 "$tmp"
cp "$B/pageferry" "$tmp/" || exit 1
pageferry=$tmp/pageferry
series=$(uname -r | grep -oE '^[0-9]+\.[0-9]+')
expected=share/expected/pins-$series

# In $tmp/out is the JSON of a table: prints what the Perl code $1, which has it as $t, says is wrong with it.
json()
{
	perl -MJSON::PP -0777 -e '
		my $t = decode_json(<STDIN>);
		my @cells = @{$t->{cells}};
		print "$_\n" for eval shift;
		die $@ if $@;
	' "$1" <"$tmp/out" >"$tmp/wrong" 2>&1 || echo "no such JSON" >>"$tmp/wrong"
	cat "$tmp/wrong"
	[ ! -s "$tmp/wrong" ]
}

# ---- what it may change: prints it

state()
{
	# Blanks: how full a swap device is changes by itself.
	awk 'NR > 1 { print "swap", $1 }' /proc/swaps
	ls -d /sys/block/zram* /sys/block/loop*/loop 2>/dev/null
	grep -H . /sys/kernel/mm/ksm/{run,sleep_millisecs,pages_to_scan,smart_scan} \
		/sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null
	# Other tests have theirs there.
	grep -v ' /dev/shm/\| /tmp/' /proc/mounts
	ls -d /var/tmp/pageferry-swap* 2>/dev/null
	pgrep -lf "^$pageferry"
}

# Not while another one changes it: all of them have this lock.
settled_state()
(
	[ ! -r /proc/kpageflags ] || { exec 9</proc/kpageflags && flock -w 20 9; }
	state
)
before=$(settled_state)

all_is_as_before()
{
	# What it printed is of no interest here.
	: >"$tmp/out"
	diff <(echo "$before") <(settled_state)
}

# Whoever puts it back after a kill has as long as swap needs to be emptied.
soon()
{
	for _ in {1..100}; do
		! "$@" >/dev/null || return 0
		sleep 0.1
	done
	"$@"
}

# ---- the table

known=no
[ -f "$expected" ] && [ "$(id -u)" -eq 0 ] && known=yes
if [ $known = no ]; then
	: >"$tmp/nothing"
	expected=$tmp/nothing
	run "$pageferry" pins
	sed 's/^/# /' "$tmp/out"
fi
begin=${EPOCHREALTIME/./}
run "$pageferry" pins --json --expected "$expected"
took=$(((${EPOCHREALTIME/./} - begin) / 1000))
ok "it takes no more than 60 s" test $took -le 60000
ok "each cell is there, and all is said of it" json '
	my %seen;
	map {
		my $c = $_;
		my $n = "$c->{operation} | $c->{pin}";
		($seen{$n}++ ? "$n: twice" : (),
		 defined $c->{seen} || $c->{why} ? () : "$n: no reason",
		 grep { !exists $c->{$_} } qw(seen expected why differs_from_expected))
	} @cells'
ok "each operation has each pin" json '
	my (%o, %p);
	$o{$_->{operation}}++, $p{$_->{pin}}++ for @cells;
	(@cells == keys(%o) * keys(%p) && keys(%o) >= 18 && keys(%p) == 5 ? () : "not a table")'
if [ $known = yes ]; then
	# What compaction moves is a matter of chance.
	missing="^compaction|"
	[ -e /dev/fuse ] || missing+="O_DIRECT|"
	[ -e /dev/kvm ] || missing+="KVM|"
	[ -e /dev/pageferry ] || missing+="module|"
	[ -e /sys/kernel/mm/ksm ] || missing+="KSM|"
	export missing
	ok "it is what is expected of Linux $series" status_is 0
	ok "no cell of which something is known was left out" json '
		my $missing = $ENV{missing} =~ s/\|$//r;
		map { defined $_->{expected} && !defined $_->{seen} &&
		      "$_->{operation} | $_->{pin}" !~ /$missing/
		      ? "$_->{operation} | $_->{pin}: $_->{why}" : () } @cells'
else
	skip "it is what is expected of this kernel" "nothing is known of it, or this isn't root"
fi

ok "nothing is left behind" all_is_as_before

# The rest is the same on every kernel, and takes its time on an emulated one.
grep -q pf.program= /proc/cmdline && { plan; exit; }

# ---- a wrong expectation

printf 'mremap | io_uring buffer | tie broken\nUFFDIO_COPY | vmsplice | refused: EEXIST\n' >"$tmp/planted"
run "$pageferry" pins --expected "$tmp/planted"
ok "what differs is said by the status" status_is 1
ok "and before all else" test "$(sed -n 3,4p "$tmp/out")" = "Differs from what is expected
  mremap, io_uring buffer: same page; expected: tie broken"
run "$pageferry" pins --json --expected "$tmp/planted"
ok "in JSON as well" json '
	($t->{differ_from_expected} == 1 && $cells[0]{differs_from_expected} &&
	 $cells[0]{operation} eq "mremap" && $cells[0]{pin} eq "io_uring buffer" &&
	 $cells[0]{expected} eq "tie broken" && $cells[0]{seen} eq "same page" &&
	 !grep({ $_->{differs_from_expected} } @cells[1 .. $#cells])
	 ? () : "not it")'

# ---- wrong use

one_line_error()
{
	[ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q "^pageferry: $1" "$tmp/err"
}

run "$pageferry" pins --expected "$tmp"
ok "a folder is no file of answers" status_is 2
ok "that is said in one line" one_line_error "$tmp: not a regular file"
run "$pageferry" pins --all
ok "an unknown option is an error" status_is 2
ok "that is said in one line" one_line_error "--all: not an option"
run "$pageferry" pins --expected
ok "so is one without its file" one_line_error "--expected: a file must follow"

# ---- another user

if [ "$(id -u)" -eq 0 ]; then
	run setpriv --reuid 65534 --regid 65534 --clear-groups "$pageferry" pins
	ok "it is for every user" status_is 0
	ok "who is told what takes root" grep -q 'needs root' "$tmp/out"
	ok "and who may have no right to /proc/PID/pagemap isn't told of guesses" \
		not grep -qE '^(compaction|KSM merge, unmerge|THP split) .*(same|broken|refused)' "$tmp/out"
	ok "nothing is left behind" all_is_as_before
else
	skip "another user" "needs root"
fi

# ---- killed

# kill_after SECONDS SIGNAL: whatever it is doing then
kill_after()
{
	"$pageferry" pins >/dev/null 2>"$tmp/err" &
	sleep "$1"
	kill "-$2" $!
	wait $! 2>/dev/null
	soon all_is_as_before
}

killed()
{
	local part

	for part in 1 3 6; do
		kill_after "$(printf '0%03d' $((took * part / 8)) | sed 's/...$/.&/')" KILL || return
	done
}
ok "nothing is left of it when it is killed" killed
ok "nor when it has hardly begun" kill_after 0.02 KILL
ok "or is interrupted" kill_after 0.5 INT
plan
