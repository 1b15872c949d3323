# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What the benches share that run in the guest of tests/guest/module.sh. Sourced from the top folder, with
# $bench (their name), $subject (that of their tests), $rounds, and $here, the caller's folder. Each has
# usage(), method(), $question and json_results().
export LC_ALL=C

# complain TEXT...; die STATUS TEXT...
complain()
{
	# shellcheck disable=SC2154 # set by the bench
	echo "$bench: $*" >&2
}

die()
{
	local status=$1

	shift
	complain "$*"
	exit "$status"
}

# ---- the run

# Sets $quick, $json and $from, and with it $tmp.
read_options()
{
	quick=
	json=
	from=
	while [ $# -gt 0 ]; do
		case $1 in
		--quick) quick=yes ;;
		--json | --from)
			[ -n "${2-}" ] || die 2 "$1 needs a file"
			read_file_option "$1" "$2"
			shift
			;;
		--help)
			usage
			exit 0
			;;
		*) die 2 "$1: unknown option: see --help" ;;
		esac
		shift
	done
	make_scratch
	trap '[ -z "$guest" ] || { kill "$guest" && wait "$guest"; }; rm -rf "$tmp"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' HUP TERM
}

read_file_option()
{
	local file=$2

	# shellcheck disable=SC2154 # set by the bench
	[[ $file = /* ]] || file=$here/$file
	if [ "$1" = --json ]; then json=$file; else from=$file; fi
}

# run_guest NAMES VARIABLE=VALUE...: these tests; sets $from
run_guest()
{
	from=$tmp/tap
	# It ends its QEMU when it is ended. In the background, since a signal has to wait for what isn't.
	env TEST="$1" ACCEL=tcg "${@:2}" setpriv --pdeathsig TERM tests/guest/module.sh \
		>"$from" 2>"$tmp/err" </dev/null &
	guest=$!
	wait "$guest"
	failed=$?
	guest=
}

# False, with the output of a run that wasn't good. A check of the contents is one of the tests.
judge()
{
	local why

	[ -r "$from" ] || die 2 "$from: can't be read"
	why=$(sed -n 's/^1\.\.0 # SKIP //p' "$from")
	[ -z "$why" ] || die 2 "$why"
	grep -q '^not ok' "$from" && failed=1
	grep -qx '# verdict: ok' "$from" || failed=1
	[ "$failed" -eq 0 ] && return
	grep -v '^# figure ' "$from" >&2
	[ ! -f "$tmp/err" ] || cat "$tmp/err" >&2
	return 1
}

# ---- the figures

declare -A median min max

read_figures()
{
	local line name

	while read -r line; do
		name=$(field name "$line")
		median[$name]=$(field median "$line")
		min[$name]=$(field min "$line")
		max[$name]=$(field max "$line")
	done < <(sed -n 's/^# figure //p' "$from")
}

# field NAME JSON
field()
{
	sed -n "s/.*\"$1\":\"\\{0,1\\}\\([^\",}]*\\).*/\\1/p" <<<"$2"
}

# skipped TEST: says why
skipped()
{
	# shellcheck disable=SC2154 # set by the bench
	sed -n "s|^ok [0-9]* - $subject/$1 # SKIP ||p" "$from" | grep .
}

ratio()
{
	awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.3g", a / b }'
}

exact_ratio()
{
	awk -v a="$1" -v b="$2" 'BEGIN { print (b > 0 ? a / b : "inf") }'
}

at_most()
{
	awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'
}

# ---- for programs

# text STRING: as JSON
text()
{
	local s=${1//\\/\\\\}

	printf '"%s"' "${s//\"/\\\"}"
}

# side WHAT NAME
side()
{
	printf '{"what": %s, "median": %s' "$(text "$1")" "${median[$2]}"
	[ -z "${min[$2]}" ] || printf ', "min": %s, "max": %s' "${min[$2]}" "${max[$2]}"
	printf '}'
}

json_host()
{
	local cpu memory

	cpu=$(sed -n '/^model name/{s/^[^:]*: *//p;q}' /proc/cpuinfo)
	memory=$(sed -n 's/^MemTotal: *//p' /proc/meminfo)
	printf '{"kernel": %s, "machine": %s, "cpu": %s, "cpus": %s, "memory": %s, "qemu": %s}' \
		"$(text "$(uname -r)")" "$(text "$(uname -m)")" "$(text "$cpu")" "$(nproc)" "$(text "$memory")" \
		"$(text "$(qemu-system-x86_64 --version 2>/dev/null | head -n 1)")"
}

json_all()
{
	# shellcheck disable=SC2154 # set by the bench
	printf '{\n  "bench": "%s",\n  "question": %s,\n' "$bench" "$(text "$question")"
	# shellcheck disable=SC2154 # set by the bench
	printf '  "quick": %s,\n  "rounds": %s,\n  "seconds": %s,\n' \
		"$([ -n "$quick" ] && echo true || echo false)" "$rounds" "$SECONDS"
	printf '  "method": %s,\n' "$(text "$(method | sed 's/^Method: //' | paste -sd' ')")"
	printf '  "host": %s,\n  "results": [%s\n  ]\n}\n' "$(json_host)" "$(json_results)"
}

# To the file that --json names.
write_json()
{
	[ -z "$json" ] || json_all >"$json" || die 1 "$json: can't be written"
}

# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
guest=
failed=0
