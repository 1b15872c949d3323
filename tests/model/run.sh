#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The model of a move, move.pml, searched by spin: the module's order of steps has no fault, and without
# one of its safeguards, or in another order, there is one.
#
# tests/model/run.sh -DWITHOUT_FLUSH: only with this, in each scene, and with the way to the fault
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
model=$PWD/tests/model/move.pml

for tool in spin "${CC:-gcc}"; do
	command -v "$tool" >/dev/null || { echo "1..0 # SKIP no $tool"; exit 0; }
done
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
cd "$tmp" || exit 1

scenes=(AT_SOURCE AT_DESTINATION BOTH_WAYS)

# name|what pan says of it
faults()
{
	cat <<-'END'
		pinned|assertion violated .*pinned\[
		both|assertion violated .*tlb\[0\]\)&&
		lost|assertion violated .*found\+copied
		replaced|assertion violated .pte\[td\]==0
		freed|assertion violated .*freed\[
		deadlock|invalid end state
	END
}

# Each fault where it is to be found, and of which kind it has to be.
wrong()
{
	cat <<-'END'
		AT_SOURCE|pinned|WITHOUT_RECHECK|references are only looked at before the entry is cleared
		AT_SOURCE|both|WITHOUT_FLUSH|no flush
		AT_SOURCE|both|FLUSH_FIRST|the flush comes before the entry is cleared
		AT_SOURCE|both|INSTALL_FIRST|the page is installed before the entry is cleared
		AT_SOURCE|lost|WITHOUT_PUT_BACK|what is in use is not put back
		AT_DESTINATION|lost|WITHOUT_PMD_RECHECK|the PMD isn't looked at again once its table is locked
		AT_DESTINATION|freed|WITHOUT_RCU|no RCU reader until the tables are locked
		AT_DESTINATION|replaced|UNLOCK_FOR_FLUSH|the tables are unlocked during the flush
		AT_DESTINATION|replaced|WITHOUT_DST_CHECK|the destination isn't looked at
		AT_DESTINATION|replaced|WITHOUT_DST_LOCK|only the source's table is locked
		AT_SOURCE|lost|WITHOUT_SRC_LOCK|only the destination's table is locked
		AT_DESTINATION|lost|WITHOUT_MMAP_LOCK|the mappings aren't locked
		BOTH_WAYS|deadlock|TABLES_BY_SIDE|the tables' locks: the destination's first
		BOTH_WAYS|deadlock|MMAPS_BY_SIDE|the mappings' locks: the destination's first
		AT_SOURCE|pinned|RECHECK_FIRST PIN_WITHOUT_REREAD WITHOUT_FORK|the second look comes before the flush, who pins reads once
	END
}

# What has no fault either: where two safeguards are for the same.
spare()
{
	cat <<-'END'
		AT_SOURCE|WITHOUT_EARLY_CHECK|the first look at the references is a hint
		AT_SOURCE|WITHOUT_EXCLUSIVE|what fork has shared has more references as well
		AT_SOURCE|RECHECK_FIRST|the second look may come before the flush, as who pins reads the entry twice
		AT_SOURCE|PIN_WITHOUT_REREAD WITHOUT_FORK|who pins may read it once, as the look comes after the flush
	END
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
# makes it hard to say which have been reached.
search()
{
	rm -f pan pan.* ./*.trail
	spin -a -o3 "${@/#/-D}" "$model" >out 2>&1 &&
		"${CC:-gcc}" -O1 -w -DSAFETY -DNOFAIR -DMEMLIM=1500 -o pan pan.c >>out 2>&1 &&
		timeout 300 ./pan -m10000 >>out 2>&1
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
	[ ! -e "${trails[0]}" ] || spin -k "${trails[0]}" -p "${@/#/-D}" "$model"
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
	pattern=$(faults | sed -n "s/^$fault|//p")
	search "$@"
	grep -Eq "^pan:1: $pattern" out
	status=$?
	ok "$what: $fault" $status
	[ $status -eq 0 ] && return
	is_right && echo "# it passes: the model can't tell it from the right order"
	grep -E '^pan:1|rror' out | show
}

# unreached SCENE: what was never run in it, by process
unreached()
{
	awk '/^unreached in / { process = $NF } /, state [0-9]+, / { print process, $0 }' out >"$1.unreached"
}

# A step that no search has come to would be as good as not there.
all_is_reached()
{
	cat ./*.unreached | sort | uniq -c | awk -v all=${#scenes[@]} '$1 == all' >never
	show never
	[ ! -s never ]
}

# The functions that it is a model of are there.
names_are_real()
{
	local name status=0

	while read -r name; do
		grep -qE "\b$name\(" "$OLDPWD"/kmod/*.[ch] || { echo "# no $name() in kmod/"; status=1; }
	done < <(grep -oE '\bpf_[a-z_]+' "$model" | sort -u)
	return $status
}

if [ $# -gt 0 ]; then
	for scene in "${scenes[@]}"; do
		must_be_right "$scene" "$scene" "${@#-D}"
	done
	echo "1..$count"
	exit $failed
fi

names_are_real
ok "the functions of the model are those of kmod/" $?
for scene in "${scenes[@]}"; do
	must_be_right "the module's order, $scene" "$scene"
	unreached "$scene"
done
all_is_reached
ok "each step of it is reached" $?
while IFS='|' read -r scene flags what; do
	# shellcheck disable=SC2086 # words
	must_be_right "$what" "$scene" $flags
done < <(spare)
while IFS='|' read -r scene fault flags what; do
	# shellcheck disable=SC2086 # words
	must_be_wrong "$what" "$fault" "$scene" $flags
done < <(wrong)
echo "1..$count"
exit $failed
