#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The models of a move, of a page and of a whole table, searched by spin: the module's order of steps has no
# fault, and without one of its safeguards, or in another order, there is one.
#
# tests/model/run.sh move -DWITHOUT_FLUSH: only this model with this, in each scene, with the way to the fault
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
dir=$PWD/tests/model

for tool in spin "${CC:-gcc}"; do
	command -v "$tool" >/dev/null || { echo "1..0 # SKIP no $tool"; exit 0; }
done
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cd "$tmp" || exit 1

# cases KIND: of the model, what follows the kind
cases()
{
	sed -n "s/^$1|//p" "$dir/$model.cases"
}

count=0
failed=0

# ok WHAT STATUS
ok()
{
	count=$((count + 1))
	if [ "$2" -eq 0 ]; then
		echo "ok $count - $1"
	else
		echo "not ok $count - $1"
		failed=1
	fi
}

show()
{
	sed 's/^/# /' "$@"
}

# search SCENE FLAG...: into out. It ends at the first fault. Without -o3 spin makes one step of some, which
# makes it hard to say which have been reached. Most end so early that it would take longer to optimize.
search()
{
	rm -f pan pan.* ./*.trail
	spin -a -o3 "${@/#/-D}" "$dir/$model.pml" >out 2>&1 &&
		"${CC:-gcc}" -O0 -w -DSAFETY -DNOFAIR -DMEMLIM=1500 -o pan pan.c >>out 2>&1 &&
		timeout 300 ./pan -m10000 -w22 >>out 2>&1
}

# All of it was gone through, without a fault.
is_right()
{
	grep -q 'errors: 0$' out && ! grep -Eq 'Search not completed|max search depth|out of memory' out
}

states()
{
	sed -n 's/^ *\([0-9]*\) states, stored.*/\1 states/p' out
}

# The way to the fault.
show_trail()
{
	local trails=(./*.trail)

	grep '^pan:' out
	[ ! -e "${trails[0]}" ] || spin -k "${trails[0]}" -p "${@/#/-D}" "$dir/$model.pml"
}

must_be_right()
{
	local what=$1 status

	shift
	search "$@"
	is_right
	status=$?
	ok "$what: $(states)" $status
	[ $status -eq 0 ] || show_trail "$@" | show
}

must_be_wrong()
{
	local what=$1 fault=$2 pattern status

	shift 2
	pattern=$(cases "fault|$fault")
	search "$@"
	grep -Eq "^pan:1: $pattern" out
	status=$?
	ok "$what: $fault" $status
	[ $status -eq 0 ] && return
	is_right && echo "# it passes: the model can't tell it from the right order"
	grep -E '^pan:1|rror' out | show
}

# unreached SCENE: of the model, what was never run in it, by process
unreached()
{
	awk '/^unreached in / { process = $NF } /, state [0-9]+, / { print process, $0 }' out \
		>"$model.$1.unreached"
}

# A step that no search has come to would be as good as not there.
all_is_reached()
{
	cat "$model".*.unreached | sort | uniq -c | awk -v all="$(cases scene | wc -l)" '$1 == all' >never
	show never
	[ ! -s never ]
}

# The functions that they are models of are there.
names_are_real()
{
	local name status=0

	while read -r name; do
		grep -qE "\b$name\(" "$OLDPWD"/kmod/*.[ch] || { echo "# no $name() in kmod/"; status=1; }
	done < <(grep -ohE '\bpf_[a-z_]+' "$dir"/*.pml | sort -u)
	return $status
}

# shellcheck disable=SC2086 # flags are words
search_all()
{
	local scene fault flags what

	while read -r scene; do
		must_be_right "$model: the module's order, $scene" "$scene"
		unreached "$scene"
	done < <(cases scene)
	all_is_reached
	ok "$model: each step of it is reached" $?
	while IFS='|' read -r scene flags what; do
		must_be_right "$model: $what" "$scene" $flags
	done < <(cases spare)
	while IFS='|' read -r scene fault flags what; do
		must_be_wrong "$model: $what" "$fault" "$scene" $flags
	done < <(cases wrong)
}

if [ $# -gt 0 ]; then
	model=$1
	shift
	while read -r scene; do
		must_be_right "$scene" "$scene" "${@#-D}"
	done < <(cases scene)
	echo "1..$count"
	exit $failed
fi

names_are_real
ok "the functions of the models are those of kmod/" $?
for model in move tables; do
	search_all
done
echo "1..$count"
exit $failed
