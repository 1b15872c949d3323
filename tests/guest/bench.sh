#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# The module's bench: its table and its file, from given figures and from those of a guest that runs one of
# them; what is no result makes it fail, and a figure that is missed doesn't.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

bench()
{
	bench/module "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
}

# ends STATUS OPTION...
ends()
{
	local want=$1

	shift
	bench "$@"
	echo "status $status"
	[ $status -eq "$want" ]
}

prints()
{
	grep -qE -- "$1" "$tmp/out"
}

complains()
{
	grep -qE -- "^module: $1" "$tmp/err"
}

# json EXPRESSION: Perl, with each result in %r by its name
json()
{
	perl -MJSON::PP -0777 -e '
		my ($file, $expression) = @ARGV;
		open my $f, "<", $file or die "$file: $!";
		our $j = decode_json(<$f>);
		our %r = map { $_->{name} => $_ } @{$j->{results}};
		my $true = eval $expression;
		die $@ if $@;
		print "not true: $expression\n" unless $true;
		exit !$true' "$tmp/json" "$1"
}

# What the guest prints when all goes well: each that is asked for is reached, but for one.
figures()
{
	local number=0 name median

	while read -r name median; do
		number=$((number + 1))
		echo "# figure {\"name\":\"$name\",\"median\":$median,\"min\":$((${median%.*} - 1)).0,\"max\":$((${median%.*} + 1)).5}"
		echo "ok $number - cost/$name"
	done <<-'END'
		one_call 300
		third_one_call 310
		kernel_one_call 1200
		calls_of_1 2801
		third_calls_of_1 2900
		kernel_calls_of_1 2770
		calls_of_16 525
		third_calls_of_16 530
		huge 1100
		third_huge 1110
		kernel_huge 1000
		tables 4.2
		mremap 1.8
		tables_many 4.1
		mremap_many 1.7
		tables_huge 741
		mremap_huge 650
		tables_pinned 57.1
		handover_tables 5.5
		handover_pages 110.0
	END
	echo '# figure {"name":"pages_per_flush","median":512.0}'
	echo "ok 21 - cost/flushes"
	echo "# verdict: ok"
	echo "1..21"
}
figures >"$tmp/good"

# changed SED: other figures
changed()
{
	sed "$1" "$tmp/good" >"$tmp/changed"
	! cmp -s "$tmp/good" "$tmp/changed"
}

ok "figures that are reached and missed" ends 0 --from "$tmp/good" --json "$tmp/json"
ok "the table has both, the ratio and the spread" \
	prints '^4 KiB pages, 64 MiB a call +300 +299\.0 to 301\.5 +1200 +1199\.0 to 1201\.5 +0\.25 +at most 305 '
ok "and says what was missed" prints '1 a call +2801 .* at most 2800: missed \(UFFDIO_MOVE 2770\)$'
ok "a limit itself is not missed" prints '16 a call +525 +524\.0 to 526\.5 +- +at most 525$'
ok "page tables go beside mremap()" prints '^page tables, 64 MiB a call +4\.2 +3\.0 to 5\.5 +1\.8 .* at most 6$'
ok "and huge pages like them" prints '^huge pages like them +741 .* at most 740: missed$'
ok "a ratio is held to its limit" \
	prints '^hand-over of 1 GiB +5\.5 +4\.0 to 6\.5 +110\.0 .* 0\.05 +at most 0\.05x$'
ok "nor is it for flushes" prints '^pages for each flush +512\.0 +- +at least 512$'
ok "the method is told" prints '^Method: .*-icount'
ok "the file has all of them" json '@{$j->{results}} == 14 && $j->{bench} eq "module" && !$j->{quick}'
ok "with both sides" json '
	my $h = $r{huge};
	$h->{ours}{median} == 1100 && $h->{ours}{min} == 1099 && $h->{ours}{max} == 1101.5 &&
	$h->{baseline}{median} == 1000 && $h->{ratio}{of_medians} == 1.1'
ok "of whichever kind" json '
	$r{tables}{baseline}{what} =~ /^mremap/ && $r{huge}{baseline}{what} =~ /^UFFDIO_MOVE/ &&
	$r{tables}{required}{reached} && !$r{tables_huge}{required}{reached}'
ok "without one where there is none" json '!$r{calls_of_16}{baseline} && !$r{calls_of_16}{ratio}'
ok "and with what is asked for" json '
	$r{one_call}{required}{ours_at_most} == 305 && $r{one_call}{required}{reached} &&
	!$r{calls_of_1}{required}{reached} && $r{huge}{required}{reached} &&
	$r{pages_per_flush}{required}{reached} && !$r{third_huge}{required}'

ok "and of a ratio" json '
	$r{handover_tables}{required}{at_most} == 0.05 && $r{handover_tables}{required}{reached} &&
	$r{handover_tables}{baseline}{what} =~ /page by page/ && !$r{tables_pinned}{required}'

changed 's/"handover_tables","median":5.5/"handover_tables","median":5.6/'
ok "a ratio that is missed" ends 0 --from "$tmp/changed" --json "$tmp/json"
ok "is told" prints '^hand-over of 1 GiB .* at most 0\.05x: missed$'
ok "and is in the file" json '!$r{handover_tables}{required}{reached}'
changed 's/512\.0/511.9/'
ok "a flush too many is no failure" ends 0 --from "$tmp/changed"
ok "and is told" prints '^pages for each flush .*: missed$'
changed 's/^ok 3 /not &/'
ok "wrong contents are a failure" ends 1 --from "$tmp/changed"
ok "it is said where" grep -q '^not ok 3 - cost/kernel_one_call' "$tmp/err"
ok "and there is no table" test ! -s "$tmp/out"
changed 's/verdict: ok/verdict: failed/'
ok "a verdict is a failure" ends 1 --from "$tmp/changed"
changed '/verdict/d'
ok "no verdict, too" ends 1 --from "$tmp/changed"
changed '/"huge"/d'
ok "a missing figure, too" ends 1 --from "$tmp/changed"
ok "it is said which" complains "there is no figure huge"
changed 's/^# figure .*pages_per.*//; s/ok 21 .*/& # SKIP no tracefs/'
ok "what was skipped is none" ends 0 --from "$tmp/changed" --json "$tmp/json"
ok "the table says why" prints '^pages for each flush: skipped: no tracefs'
ok "the file does" json '$r{pages_per_flush}{skipped} eq "no tracefs"'
echo "1..0 # SKIP no cpio" >"$tmp/changed"
ok "a machine that can't is another status" ends 2 --from "$tmp/changed"
ok "with the reason" complains "no cpio"
ok "an unknown option is refused" ends 2 --fast
ok "a missing value, too" ends 2 --json

LIMIT=3 bench --quick
if [ $status -eq 2 ]; then
	skip "in a guest" "$(sed -n 's/^module: //p' "$tmp/err")"
else
	ok "a guest that doesn't come to its end is a failure" test $status -eq 1
	ok "one figure is measured" ends 0 --quick --json "$tmp/json"
	ok "and is in the file" json '
		$j->{quick} && @{$j->{results}} == 1 && $r{calls_of_1}{ours}{median} > 500 &&
		$r{calls_of_1}{baseline}{median} > 500'
fi
plan
