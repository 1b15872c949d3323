# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What tests that are scripts say to prove. Sourced from the top folder of the source; $tmp is a folder of the
# test's own. What a test was about may be in out, err and *.log there: it is shown when it fails.

tests=0

skip_all()
{
	echo "1..0 # SKIP $*"
	exit 0
}

# ok WHAT COMMAND...: a test passes if the command does
ok()
{
	local what=$1

	shift
	tests=$((tests + 1))
	# shellcheck disable=SC2154 # set by the test
	if "$@" >"$tmp/why" 2>&1; then
		echo "ok $tests - $what"
	else
		echo "not ok $tests - $what"
		tail -n 40 "$tmp/why" | sed 's/^/# /'
		[ ! -s "$tmp/out" ] || sed 's/^/# stdout: /' "$tmp/out"
		[ ! -s "$tmp/err" ] || sed 's/^/# stderr: /' "$tmp/err"
		for log in "$tmp"/*.log; do
			[ ! -s "$log" ] || grep -av ' adds ' "$log" | tail -n 25 |
				cut -c 1-400 | sed "s,^,# ${log##*/}: ,"
		done
	fi
}

not()
{
	! "$@"
}

# run COMMAND...: sets $status; what it printed is in out and err
run()
{
	"$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
}

status_is()
{
	echo "status $status instead of $1"
	[ "$status" -eq "$1" ]
}

skip()
{
	tests=$((tests + 1))
	echo "ok $tests - $1 # SKIP $2"
}

plan()
{
	echo "1..$tests"
}
