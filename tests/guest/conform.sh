#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 300
#
# pageferry conform in the guest of tests/guest/module.sh, which understands the same variables here: what its
# kernel answers, and the module, is what is known of both. tests/guest/run has tests/cli/conform.sh there, too.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}

command -v cpio >/dev/null || { echo "1..0 # SKIP no cpio"; exit; }
[ -f "$B/pageferry" ] || { echo "$B/pageferry is not built: run make" >&2; exit 1; }

# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/guest/pack.sh
. tests/guest/pack.sh
make_scratch
guest=
trap '[ -z "$guest" ] || { kill "$guest" && wait "$guest"; }; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

script()
{
	cat <<-'END'
		#!/bin/sh
		for way in kernel module; do
			build/pageferry conform --way $way || failed=1
		done
		exit ${failed:-0}
	END
}

fill()
{
	local files

	pack_begin && mkdir -p "$root/pageferry/build" && cp "$B/pageferry" "$root/pageferry/build/" &&
		cp -r share "$root/pageferry/" && script >"$root/pageferry/ways" &&
		chmod +x "$root/pageferry/ways" || return
	mapfile -t files < <(pack_libraries "$B/pageferry"; type -P sh)
	pack "${files[@]}" && pack_end "$tmp/more"
}

fill || { echo "the command can't be packed" >&2; exit 1; }
MORE=$tmp/more TEST=user/program APPEND="pf.program=/pageferry/ways ${APPEND-}" LIMIT=${LIMIT:-280} \
	setpriv --pdeathsig TERM tests/guest/module.sh >"$tmp/out" &
guest=$!
wait "$guest"
status=$?
guest=

# The guest's tests, without the plan: what it printed is judged by the tests below.
grep -v '^1\.\.' "$tmp/out"
grep -q '^1\.\.0' "$tmp/out" && { cat "$tmp/out"; exit; }
count=$(grep -cE '^(not )?ok [0-9]' "$tmp/out")
failed=$status

# ok WHAT COMMAND...
ok()
{
	local what=$1

	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count - $what"
	else
		echo "not ok $count - $what"
		failed=1
	fi
}

# says N LINE: how often
says()
{
	[ "$(grep -cE "^# \| $2" "$tmp/out")" -eq "$1" ]
}

ok "both ways: exit status 0" grep -q '^# status 0$' "$tmp/out"
ok "both ways: as expected" says 2 '0 differ from what is expected'
ok "both ways: all is tried" says 2 'pageferry .* 0 not tried'
echo "1..$count"
exit "$failed"
