#!/bin/sh
# SPDX-License-Identifier: MIT
# needs: userfaultfd
#
# examples/exec keeps its memory and its process id; examples/serve sees the file that it is given.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

"$B/examples/exec" >"$tmp/exec" 2>"$tmp/why"
status=$?
case $(cat "$tmp/why") in
*"not permitted"* | *"not implemented"*)
	echo "1..0 # SKIP no userfaultfd: $(cat "$tmp/why")"
	exit 0
	;;
esac

echo 1..4
failed=0
check() {
	number=$((number + 1))
	name=$1
	shift
	if "$@"; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		failed=1
	fi
}

exec_kept_all() {
	pid=$(sed -n '1s/^pid \([0-9]*\),.*/\1/p' "$tmp/exec")
	cat >"$tmp/due" <<-END
		pid $pid, program 1: 0 of 0 words are wrong
		pid $pid, program 2: 0 of 8388608 words are wrong
		pid $pid, program 3: 0 of 8388608 words are wrong
	END
	[ "$status" -eq 0 ] && cmp "$tmp/due" "$tmp/exec" >&2
}
check "exec: three programs, one process, one memory" exec_kept_all

counts() {
	[ "$("$B/examples/serve" "$1")" = "$(wc -l <"$1" | tr -d ' ')" ]
}
seq 100000 >"$tmp/lines"
check "serve: a file of many pages" counts "$tmp/lines"
printf 'a\nb' >"$tmp/short"
check "serve: less than a page" counts "$tmp/short"

refuses() {
	! "$B/examples/serve" "$1" >"$tmp/out" 2>&1 && grep -q '^serve: ' "$tmp/out"
}
check "serve: a folder" refuses "$tmp"
exit $failed
