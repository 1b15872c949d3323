#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 180
# needs: userfaultfd
#
# pageferry bench: it asks the benches, tells and keeps what they answer, and takes nothing from a file for more
# than a figure. What they measure is not judged here.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
make_scratch
export TMPDIR=$tmp
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

bench()
{
	run timeout 120 "$B/pageferry" bench "$@"
}

# refuses STATUS TEXT ARGUMENT...: with one line, and measures nothing
refuses()
{
	local expected=$1 text=$2

	shift 2
	bench "$@"
	status_is "$expected" && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q "$text" "$tmp/err" && [ ! -s "$tmp/out" ]
}

# json FILE EXPRESSION: Perl, with the file as $j
json()
{
	perl -MJSON::PP -0777 -e '
		my ($file, $expression) = @ARGV;
		open my $f, "<", $file or die "$file: $!";
		our $j = decode_json(<$f>);
		my $true = eval $expression;
		die $@ if $@;
		exit !$true' "$1" "$2"
}

# figures FILE MEDIAN MIN MAX [NAME]: one figure, of this ratio
figures()
{
	cat >"$1" <<-END
		{"version": "0", "date": "some day", "quick": false, "questions": [{"bench": "some", "question": "what?",
		"noisy": false, "rounds": 5, "host": {"kernel": "6"}, "results": [{"name": "${5:-figure}", "unit": "ms",
		"more_is_better": false, "noisy": false, "curve": {"name": "line", "x": 4, "x_what": "pages"},
		"baseline": {"what": "plain", "median": 2, "min": 2, "max": 2, "mad": 0},
		"ours": {"what": "ours", "median": 2, "min": 1, "max": 3, "mad": 0},
		"ratio": {"what": "of rounds", "median": $2, "of_medians": $2, "min": $3, "max": $4, "mad": 0}},
		{"name": "larger", "unit": "ms", "noisy": false, "curve": {"name": "line", "x": 8, "x_what": "pages"},
		"ours": {"what": "ours", "median": 3, "min": 2, "max": 4, "mad": 0}}],
		"histograms": [{"name": "h", "what": "${5:-distribution}", "group": "waits", "side": "ours", "unit": "us",
		"count": 3, "p50": 1, "p99": 2, "p999": 2, "max": 2, "buckets": [[1, 2], [2, 1]]}]}]}
	END
}

# Neither an escape nor U+009B, which is the same to some terminals
plain_words()
{
	! LC_ALL=C grep -q "$(printf '\033\|\302\233')" "$tmp/out"
}

has_gnuplot()
{
	command -v gnuplot >/dev/null
}

# Processes of this build's benches
left()
{
	local pid

	for pid in /proc/[0-9]*; do
		[[ $(readlink "$pid/exe") = "$PWD/$B/bench/"* ]] &&
			tr '\0' '\n' <"$pid/environ" 2>/dev/null | grep -qx "TMPDIR=$tmp" && echo "${pid#/proc/}"
	done
	ls -d "$tmp"/pageferry-bench-* 2>/dev/null
}

nothing_left()
{
	local found=

	for ((i = 0; i < 100; i++)); do
		found=$(left)
		[ -n "$found" ] || return 0
		sleep 0.1
	done
	echo "left: $found"
	return 1
}

# ---- the command line

bench --help
ok "--help names all questions" eval 'status_is 0 && grep -q "^  fault " "$tmp/out" && grep -q "^  vm .*source tree" "$tmp/out"'
ok "an unknown question is said" refuses 2 "nonsense: there is no such question" nonsense
ok "an unknown option is said" refuses 2 "there is no such option" --nonsense
ok "a missing value is said" refuses 2 "needs a value" --json
ok "--quick and --full are one of two" refuses 2 "one of them" --quick --full
ok "--from measures nothing" refuses 2 "name no questions" --from x push
ok "compare needs two files" refuses 2 "two files" compare x
ok "a folder that is not there is said before anything is measured" refuses 2 "No such file" --json "$tmp/none/x" push
ok "what is no regular file is not replaced" refuses 2 "not a regular file" --json /dev/null push
ok "the device is one still" test -c /dev/null

mkdir "$tmp/bin"
run env PATH="$tmp/bin" "$B/pageferry" bench --html "$tmp/page.html" push
ok "without gnuplot there is no page, and nothing is measured" eval '
	status_is 2 && grep -q "install gnuplot-nox" "$tmp/err" && [ ! -s "$tmp/out" ] && [ ! -e "$tmp/page.html" ]'

# ---- a real one

bench --json "$tmp/real" push continue
ok "two benches are asked" eval 'status_is 0 && grep -q "^push: " "$tmp/out" && grep -q "^continue: " "$tmp/out"'
ok "their figures are kept" json "$tmp/real" '
	$j->{quick} && @{$j->{questions}} == 2 && $j->{questions}[0]{bench} eq "push" &&
	!grep { !@{$_->{results}} || !length $_->{host}{kernel} } @{$j->{questions}}'
cp "$tmp/out" "$tmp/printed"
bench --from "$tmp/real"
ok "shown again they are the same" cmp "$tmp/out" "$tmp/printed"
bench compare "$tmp/real" "$tmp/real"
ok "compared with themselves nothing has changed" eval 'status_is 0 && grep -q "^0 worse, 0 better, " "$tmp/out"'
"$B/bench/continue" --quick >"$tmp/single" 2>"$tmp/err"
bench --from "$tmp/single"
ok "what a single bench printed is shown as well" eval 'status_is 0 && grep -q "^continue: " "$tmp/out"'

mkdir "$tmp/alone"
cp "$B/pageferry" "$tmp/alone/"
run timeout 120 "$tmp/alone/pageferry" bench push --json "$tmp/missing"
ok "a bench that is not there is told, and a failure" eval '
	status_is 1 && grep -q "push: its bench is not there\|push: its bench isn.t there" "$tmp/err" &&
	json "$tmp/missing" "length \$j->{questions}[0]{skipped}"'
mkdir "$tmp/alone/bench"
printf '#!/bin/sh\nexit 1\n' >"$tmp/alone/bench/push"
printf '#!/bin/sh\necho "{\\"results\\": "\n' >"$tmp/alone/bench/continue"
chmod +x "$tmp/alone/bench/"*
run timeout 120 "$tmp/alone/pageferry" bench push
ok "a bench that fails is a failure" status_is 1
run timeout 120 "$tmp/alone/pageferry" bench continue
ok "so is one that prints half an object" status_is 1
for answer in 'exit 3' 'exit 127'; do
	printf '#!/bin/sh\n%s\n' "$answer" >"$tmp/alone/bench/push"
	run timeout 120 "$tmp/alone/pageferry" bench push
	ok "so is one that ends with $answer" status_is 1
done
printf '#!/bin/sh\ntrap "" TERM\n>%s/begun\nwhile :; do sleep 1; done\n' "$tmp" >"$tmp/alone/bench/push"
"$tmp/alone/pageferry" bench push >"$tmp/out" 2>"$tmp/err" &
pid=$!
for ((i = 0; i < 3000; i++)); do
	[ ! -e "$tmp/begun" ] || break
	sleep 0.05
done
kill "$pid"
# shellcheck disable=SC2034 # read in what is handed to eval
begun=$SECONDS
wait "$pid"
status=$?
ok "one that does not end when it is told to is ended" eval '
	status_is 143 && [ $((SECONDS - begun)) -lt 30 ] && grep -q interrupted "$tmp/out"'
if command -v script >/dev/null; then
	printf '#!/bin/sh\nread x\nexit 2\n' >"$tmp/alone/bench/push"
	run timeout 20 script -qec "$tmp/alone/pageferry bench push" /dev/null
	ok "one that reads from the terminal is not stopped" status_is 0
else
	skip "one that reads from the terminal" "there is no script"
fi

# ---- compared

figures "$tmp/a" 1.00 0.99 1.01
figures "$tmp/b" 1.10 1.08 1.12
figures "$tmp/c" 1.10 0.98 1.20
bench compare "$tmp/a" "$tmp/b"
ok "what has got worse is told" eval 'status_is 1 && grep -q "^WORSE .*some.*figure.*1.00 -> 1.10" "$tmp/out"'
bench compare "$tmp/b" "$tmp/a"
ok "what has got better is no failure" eval 'status_is 0 && grep -q "^better .*figure" "$tmp/out"'
bench compare "$tmp/a" "$tmp/c"
ok "what lies within the noise has not changed" eval 'status_is 0 && grep -q "^0 worse, 0 better, 2 within" "$tmp/out"'
figures "$tmp/zero" 0 0 0
bench compare "$tmp/zero" "$tmp/a"
ok "what was nothing and is something has got worse" eval 'status_is 1 && grep -q "^WORSE .*0.0000 -> 1.00" "$tmp/out"'
bench compare "$tmp/a" "$tmp/zero"
ok "what is nothing now has got better" eval 'status_is 0 && grep -q "^better .*1.00 -> 0.0000" "$tmp/out"'
for field in '"rounds": 1' '"quick": true'; do
	sed "s/\"rounds\": 5/$field/" "$tmp/b" >"$tmp/other"
	bench compare "$tmp/a" "$tmp/other"
	ok "nothing is judged by what has $field" eval '
		status_is 0 && grep -q "^0 worse, 0 better, 0 within .*, 2 can.t be judged" "$tmp/out"'
done
printf '{"questions": [{"bench": "some", "skipped": "it has failed"}]}' >"$tmp/failed"
bench compare "$tmp/a" "$tmp/failed"
ok "what is not answered any more is told, with the reason" eval '
	grep -q "^gone .*some .*it has failed" "$tmp/out" && grep -q ", 2 only in one" "$tmp/out"'
printf '{"questions": []}' >"$tmp/none"
bench compare "$tmp/a" "$tmp/none"
ok "so is what is not even asked" grep -q ", 2 only in one" "$tmp/out"
perl -e 'print q({"questions": [{"bench": "many", "results": [);
	print join ",", map { qq({"name": "n$_", "ours": {"median": 1}}) } 1 .. 100000;
	print "]}]}"' >"$tmp/many"
bench compare "$tmp/many" "$tmp/many"
ok "a hundred thousand figures are no reason to wait" eval 'status_is 0 && grep -q " 100000 within" "$tmp/out"'

# ---- files of strangers

for content in '' '[]' '{' '{"questions": 3}' "$(printf '[%.0s' {1..99})" 'figures'; do
	printf '%s' "$content" >"$tmp/bad"
	ok "no file of figures: '${content:0:20}'" refuses 2 "is no file of figures" --from "$tmp/bad"
done
printf '{"questions": [%s 1]}' "$(printf '1,%.0s' {1..100})" >"$tmp/bad"
ok "no file of figures: a hundred questions and one" refuses 2 "is no file of figures" --from "$tmp/bad"
mkfifo "$tmp/fifo"
ok "a pipe is not waited for" refuses 2 "is no file of figures" --from "$tmp/fifo"
printf '{"questions": [1, {}, {"bench": 2, "results": [3, {}, {"name": "x", "ours": 1}, {"name": "y", "ours": {"median": "z"}}]}]}' \
	>"$tmp/odd"
bench --from "$tmp/odd"
ok "what is no figure is left out" eval 'status_is 0 && ! grep -q "  [xy] " "$tmp/out"'
# Whole commands to gnuplot, up to the end of the line, if they aren't taken for text.
hostile="'; system 'touch $tmp/owned' # \`touch $tmp/owned\` <script>alert(1)</script>\\u001b[31m"
figures "$tmp/hostile" 1 1 1 "$hostile"
bench --from "$tmp/hostile"
ok "names don't steer the terminal" eval 'status_is 0 && plain_words'
figures "$tmp/redder" 3 3 3 "$hostile"
sed -i 's/"bench": "some"/"bench": "\\u001b[31m\\u009b31m"/' "$tmp/hostile" "$tmp/redder"
bench --from "$tmp/hostile"
ok "nor does the name of a question" eval 'status_is 0 && plain_words'
bench compare "$tmp/hostile" "$tmp/redder"
ok "nor what is compared" eval 'status_is 1 && grep -q "^WORSE" "$tmp/out" && plain_words'
if has_gnuplot; then
	bench --from "$tmp/hostile" --html "$tmp/page.html"
	ok "a page is made" eval 'status_is 0 && [ "$(grep -c "<svg" "$tmp/page.html")" -eq 2 ]'
	ok "names run nothing" test ! -e "$tmp/owned"
	ok "names are only text" eval '! grep -q "<script" "$tmp/page.html" && grep -q "&lt;script&gt;" "$tmp/page.html"'
	ok "the page refers to nothing else" eval '! grep -Eo "(src|href|url)[=(][^ >]*" "$tmp/page.html" | grep -v "[=(].\?#"'
	ok "pictures are not black, which a dark page would be, too" eval '
		! grep -E "black|rgb\( *0, *0, *0\)" "$tmp/page.html" && grep -q currentColor "$tmp/page.html"'
	ok "the page is private to nobody, and nothing lies beside it" eval '
		[ "$(stat -c %a "$tmp/page.html")" = 644 ] && ! ls "$tmp"/*.part 2>/dev/null'
	# draws NAME CHANGE PICTURES: with the figures changed, without a word
	draws()
	{
		figures "$tmp/drawn" 1 1 1
		sed -i "$2" "$tmp/drawn"
		bench --from "$tmp/drawn" --html "$tmp/page.html"
		ok "there is a page of $1" eval "status_is 0 && grep -c '<svg' '$tmp/page.html' | grep -qx $3"
	}
	draws "nothing but zeros" 's/"median": [0-9]*/"median": 0/g' 1
	draws "samples that are all the same" 's/"buckets": .*/"buckets": [[1, 3]]}]}]}/' 1
	draws "less than no samples" 's/"buckets": .*/"buckets": [[1, -5], [2, 9], [3, -1]]}]}]}/' 1
	draws "a number where a pair belongs" 's/"buckets": .*/"buckets": [3]}]}]}/' 1
	draws "numbers that are no figures" 's/"x": 4/"x": 1e-308/; s/"x": 8/"x": 1e308/' 1
	perl -e 'print q({"questions": [{"bench": "many", "results": [);
		print join ",", map { qq({"name": "n$_", "ours": {"median": 1}, "curve": {"name": "c$_", "x": 1}}) } 1 .. 50000;
		print "]}]}"' >"$tmp/many"
	bench --from "$tmp/many" --html "$tmp/page.html"
	ok "fifty thousand curves are no reason to wait" status_is 0
else
	skip "a page" "there is no gnuplot"
fi

# ---- ended

# begin QUESTION...: until one has a folder
begin()
{
	"$B/pageferry" bench --full --json "$tmp/ended" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null &
	pid=$!
	for ((i = 0; i < 3000; i++)); do
		! ls -d "$tmp"/pageferry-bench-* >/dev/null 2>&1 || break
		sleep 0.05
	done
}

# ended_by SIGNAL QUESTION...
ended_by()
{
	begin "${@:2}"
	kill -s "$1" "$pid"
	wait "$pid"
	status=$?
}

ended_by TERM continue incremental
ok "interrupted it tells so" eval 'status_is 143 && grep -q "^pageferry: interrupted" "$tmp/err"'
ok "what was found out before is kept" json "$tmp/ended" '
	@{$j->{questions}} == 2 && @{$j->{questions}[0]{results}} && $j->{questions}[1]{skipped} eq "interrupted"'
ok "nothing is left" nothing_left
rm "$tmp/ended"
# One that would go on for long, and has files.
ended_by KILL incremental
ok "killed it leaves nothing either" eval 'nothing_left && [ ! -e "$tmp/ended" ]'
plan
