#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 400
#
# The bench of the hand-over's ways: its table and its file, from given figures and from those of a guest; wrong
# contents and whatever else failed show in the table and in the status. And nothing is left of it.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
make_scratch
trap 'rm -rf "$tmp"' EXIT
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

# ends STATUS OPTION...
ends()
{
	local want=$1 status

	shift
	bench/ways "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
	echo "status $status"
	[ $status -eq "$want" ]
}

prints()
{
	grep -qE -- "$1" "$tmp/out"
}

complains()
{
	grep -qE -- "^ways: $1" "$tmp/err"
}

# The figures of one way: figures WAY HUGE MOVED COPIED FLUSHES NUMBER
figures()
{
	local name value

	while read -r name value; do
		echo "# figure {\"name\":\"$1_$name\",\"median\":$value.0,\"min\":$value.0,\"max\":$value.0}"
	done <<-END
		moved $3
		copied $4
		faults 7
		huge_before 32
		huge $2
		peak 133120
		extra 2048
		giver_before 131532
		giver_after 512
		taker_before 0
		taker_after 131072
		wrong_pages 0
	END
	echo "# figure {\"name\":\"$1_giver_flushes\",\"median\":$5.0,\"min\":$(($5 - 1)).0,\"max\":$(($5 + 1)).0}"
	echo "# figure {\"name\":\"$1_taker_flushes\",\"median\":3.0,\"min\":3.0,\"max\":3.0}"
	echo "ok $6 - ways/$1"
}
{
	figures module 32 131068 4 100 1
	figures copy 0 0 131072 67 2
	figures stage 32 0 131072 67 3
	printf '# verdict: ok\n1..3\n'
} >"$tmp/good"

# changed SED: other figures
changed()
{
	sed "$1" "$tmp/good" >"$tmp/changed"
	! cmp -s "$tmp/good" "$tmp/changed"
}

ok "a good run" ends 0 --from "$tmp/good" --json "$tmp/json"
ok "the table has all ways" prints '^128 MiB, 3 hand-overs each +MOVE \(module\) +COPY +COPY, huge kept$'
ok "bytes" prints '^bytes copied +4 KiB +128\.0 MiB +128\.0 MiB$'
ok "flushes, with what they varied" prints '^TLB flushes of the old process +100 \(99 to 101\) +67 \(66 to 68\)'
ok "huge pages, of how many" prints '^huge pages that stayed huge +32 of 32 +0 of 32 +32 of 32$'
ok "the peak" prints '^peak memory of both together +130\.0 MiB '
ok "the charge before and after" prints '^cgroup charge of the old, before +128\.4 MiB '
ok "contents" prints '^contents are intact +yes +yes +yes$'
ok "no errors" prints '^errors +none +none +none$'
ok "the method is told" prints '^Method: '
ok "the file has all of it" perl -MJSON::PP -0777 -ne '
	my $j = decode_json($_);
	my %r = map { $_->{name} => $_ } @{$j->{results}};
	exit !(@{$j->{results}} == 39 && $j->{bench} eq "ways" && $j->{rounds} == 3 &&
		$r{copy_copied}{ours}{median} == 131072 && $r{module_giver_flushes}{ours}{max} == 101)' "$tmp/json"

changed '/"copy_wrong_pages"/s/"max":0/"max":2/; s/^ok 2 /not &/; s/verdict: ok/verdict: failed/'
ok "wrong contents are a failure" ends 1 --from "$tmp/changed"
ok "and are told in the table" prints '^contents are intact +yes +NO +yes$'
ok "not as an error" prints '^errors +none +none +none$'
changed 's/^ok 3 /not &/; s/verdict: ok/verdict: failed/'
ok "an error is a failure" ends 1 --from "$tmp/changed"
ok "and is told in the table" prints '^errors +none +none +YES$'
ok "which also has the contents" prints '^contents are intact +yes +yes +yes$'
changed 's/verdict: ok/verdict: failed/'
ok "a verdict is a failure" ends 1 --from "$tmp/changed"
changed '/verdict/d'
ok "no verdict, too" ends 1 --from "$tmp/changed"
changed '/"module_copied"/d'
ok "a missing figure, too" ends 1 --from "$tmp/changed"
ok "it is said which" complains "there is no figure module_copied"
ok "and there is no table" test ! -s "$tmp/out"
changed '/"module_/d; s/^ok 1 .*/& # SKIP no memory cgroups/'
ok "what a guest can't tell is another status" ends 2 --from "$tmp/changed"
ok "with the reason" complains "no memory cgroups"
echo "1..0 # SKIP no cpio" >"$tmp/changed"
ok "so is a machine that can't run it" ends 2 --from "$tmp/changed"
ok "with the reason" complains "no cpio"
ok "an unknown option is refused" ends 2 --fast

# What runs in a guest of ours
guests()
{
	pgrep -f "^qemu-system-x86_64 .*$tmp/run/.*pf.test=ways/module" | head -n 1
}

# Killed by SIGKILL, when the guest runs: its QEMU and its folders go all the same.
leaves_nothing()
{
	local pid

	TMPDIR=$tmp/run bench/ways --quick >"$tmp/out" 2>"$tmp/err" </dev/null &
	pid=$!
	for _ in {1..300}; do
		[ -z "$(guests)" ] || break
		sleep 0.1
	done
	[ -n "$(guests)" ] || return
	kill -9 $pid
	for _ in {1..100}; do
		[ -n "$(guests)$(ls -A "$tmp/run")" ] || return 0
		sleep 0.1
	done
	ls -A "$tmp/run"
	return 1
}

mkdir "$tmp/run"
export TMPDIR=$tmp/run
if LIMIT=0 ends 2 --quick >/dev/null; then
	skip "in a guest" "$(sed -n 's/^ways: //p' "$tmp/err")"
else
	ok "a guest that doesn't come to its end is a failure" grep -q . "$tmp/err"
	ok "MOVE alone is measured" ends 0 --quick
	ok "all of it has moved" prints '^bytes moved +12[78]\.[0-9] MiB$'
	ok "huge pages stay huge" prints '^huge pages that stayed huge +32 of 32$'
	ok "nothing is left" test -z "$(ls -A "$tmp/run")"
	ok "nor is it of one that is killed" leaves_nothing
fi
plan
