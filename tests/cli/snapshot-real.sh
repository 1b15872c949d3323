#!/bin/bash
# SPDX-License-Identifier: MIT
# timeout: 300
# pageferry snapshot of programs from elsewhere, read by gdb and readelf; who can't be snapshotted, and what is
# said then.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$(mktemp -d) || exit 1
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
pageferry=${B:-build}/pageferry
core=$dir/core
n=0

check() {
	local name=$1
	shift
	n=$((n + 1))
	if "$@" >"$dir/log" 2>&1; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		sed 's/^/# /' "$dir/log" "$dir/out" "$dir/err"
	fi
}

skip() {
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

# snapshot PID [OPTION ...]
snapshot() {
	local pid=$1

	shift
	"$pageferry" snapshot --pid "$pid" -o "$core" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
}

status_is() {
	echo "status $status"
	[ "$status" -eq "$1" ]
}

# One line that says what is wrong, and no file.
refused() {
	[ "$status" -eq "$1" ] && [ ! -s "$dir/out" ] && [ "$(wc -l <"$dir/err")" -eq 1 ] &&
		grep -q "^pageferry: .*$2" "$dir/err" && [ "$(find "$dir" -name '*core*' | wc -l)" -eq 0 ]
}

# ---- who can't be

snapshot 999999999
check "no such process" refused 1 "there is no process"
for bad in 0 -1 x 1x '' 99999999999; do
	snapshot "$bad"
	check "not a number of a process: '$bad'" refused 2 "not a process"
done
snapshot 2
if grep -q kthreadd /proc/2/comm 2>/dev/null; then
	check "a kernel thread" refused 1 "kernel thread"
else
	skip "a kernel thread" "there is none here"
fi
# shellcheck disable=SC2016 # expanded by the shell that it is about
bash -c 'exec "$0" snapshot --pid $$ -o "$1"' "$pageferry" "$core" >"$dir/out" 2>"$dir/err"
status=$?
check "itself" refused 1 "this command itself"
(exec sleep 0 & exec sleep 1000) & pids+=($!)
sleep 0.5
zombie=$(pgrep -P "${pids[-1]}")
snapshot "$zombie"
check "a zombie" refused 1 "zombie"
snapshot "${pids[-1]}" --limit-rate 10Q
check "a wrong rate" refused 2 "not a number of bytes"
snapshot "${pids[-1]}" --max-extra-memory 100K
check "too little memory" refused 2 "from 8M on"
snapshot "${pids[-1]}" --what
check "a wrong option" refused 2 "not an option"
"$pageferry" snapshot --pid "${pids[-1]}" -o /dev/null >"$dir/out" 2>"$dir/err"
status=$?
check "a device for a file" refused 1 "not a regular file"
"$pageferry" snapshot --pid "${pids[-1]}" -o "$dir" >"$dir/out" 2>"$dir/err"
status=$?
check "a directory for a file" refused 1 "not a regular file"
"$pageferry" snapshot --pid "${pids[-1]}" -o "$dir/none/core" >"$dir/out" 2>"$dir/err"
status=$?
check "no such directory" refused 1 "can't create"

# ---- read by gdb and readelf

snapshot "${pids[-1]}"
if [ "$status" -ne 0 ] && grep -qE 'run as|userfaultfd|this kernel' "$dir/err"; then
	skip "the rest" "$(cat "$dir/err")"
	echo "1..$n"
	exit 0
fi
check "a program is snapshotted" status_is 0

well_formed() {
	readelf -hln "$core" >"$dir/readelf" 2>&1 && ! grep -i warning "$dir/readelf" &&
		grep -q 'CORE (Core file)' "$dir/readelf" && grep -q NT_FILE "$dir/readelf" &&
		grep -q NT_AUXV "$dir/readelf" && grep -q NT_PRPSINFO "$dir/readelf"
}
if command -v readelf >/dev/null; then
	check "readelf reads it" well_formed
else
	skip "readelf reads it" "there is none: install binutils"
fi

# backtrace PROGRAM PATTERN
backtrace() {
	gdb -nx -batch -ex 'thread apply all bt' "$1" "$core" 2>&1 | tee "$dir/gdb" | grep -Eq "$2" &&
		! grep -E 'annot access|truncated|Unexpected size' "$dir/gdb"
}
have_gdb() {
	command -v gdb >/dev/null && return
	skip "$1" "there is no gdb"
	return 1
}
have_gdb "gdb shows where it is" &&
	check "gdb shows where it is" backtrace "$(command -v sleep)" '^#.*nanosleep'

with_python() {
	python3 -c '
import threading, time
def work(d):
	i = 0
	while True:
		d[i % 100000] = [i] * 10
		i += 1
threading.Thread(target=work, args=({},), daemon=True).start()
time.sleep(100)' & pids+=($!)
	sleep 1
	snapshot "${pids[-1]}"
	[ "$status" -eq 0 ] || [ "$status" -eq 3 ] || return
	backtrace "$(readlink "/proc/${pids[-1]}/exe")" '^Thread 2'
}
# Of increments one core file is made, which gdb reads like any other.
with_increments() {
	local python=${pids[-1]}

	"$pageferry" snapshot --pid "$python" -o "$dir/base" --track &&
		"$pageferry" snapshot --pid "$python" -o "$dir/next" --incremental "$dir/base" &&
		"$pageferry" snapshot --pid "$python" --untrack &&
		"$pageferry" snapshot merge "$dir/base" "$dir/next" -o "$core" &&
		backtrace "$(readlink "/proc/$python/exe")" '^Thread 2'
}
if command -v python3 >/dev/null; then
	have_gdb "python3 at work" && check "python3 at work" with_python
	have_gdb "increments of it" && check "increments of it" with_increments
else
	skip "python3 at work" "there is none"
fi

# taken PID PROGRAM PATTERN: up to three snapshots until it has ended, of which gdb reads the first
taken() {
	local images=0

	while [ $images -lt 3 ] && kill -0 "$1" 2>/dev/null; do
		snapshot "$1"
		if [ "$status" -eq 1 ]; then
			grep -qE 'there is no process|has ended|zombie' "$dir/err" || return
			break
		fi
		images=$((images + 1))
		[ $images -gt 1 ] || backtrace "$2" "$3" || return
	done
	echo "$images images"
	[ $images -gt 0 ]
}

# Threads that come and go, and nothing is out of order.
with_sort() {
	seq 2000000 | shuf >"$dir/lines"
	sort --parallel=2 -n -S 400M -o "$dir/sorted" "$dir/lines" & pids+=($!)
	sleep 0.3
	taken "${pids[-1]}" "$(command -v sort)" '^#[0-9]+ ' && wait "${pids[-1]}" &&
		cmp "$dir/sorted" <(seq 2000000)
}
have_gdb "sort --parallel" && check "sort --parallel" with_sort
rm -f "$dir/lines" "$dir/sorted"

# What it compiles to is the same.
with_compiler() {
	local gcc compiler

	for i in {1..2000}; do
		echo "int f$i(int *p, int n) { for (int i = 0; i < n; i++) p[i] += p[n - i] * $i; return *p; }"
	done >"$dir/code.c"
	(cd "$dir" && gcc -O2 -c -o expected.o code.c) || return
	(cd "$dir" && exec gcc -O2 -c -o code.o code.c) & gcc=$!
	pids+=("$gcc")
	until compiler=$(pgrep -P "$gcc" cc1); do
		kill -0 "$gcc" || return
		sleep 0.05
	done
	taken "$compiler" "$(readlink "/proc/$compiler/exe")" '^#[0-9]+ ' && wait "$gcc" &&
		cmp "$dir/expected.o" "$dir/code.o"
}
if command -v gcc >/dev/null; then
	have_gdb "a compiler" && check "a compiler" with_compiler
else
	skip "a compiler" "there is no gcc"
fi

# What its users put in is there afterwards, and it answers as before.
with_redis() {
	local port=$((20000 + $$ % 20000)) before after

	redis-server --port $port --save '' --dir "$dir" >"$dir/redis" 2>&1 & pids+=($!)
	until redis-cli -p $port ping >/dev/null 2>&1; do sleep 0.1; done
	redis-cli -p $port debug populate 100000 key 100 >/dev/null
	redis-cli -p $port set marker 'a word that is found again' >/dev/null
	redis-benchmark -p $port -t set,get -n 10000000 -r 1000 -q >/dev/null 2>&1 & pids+=($!)
	for _ in 1 2 3 4 5; do
		before=$(redis-cli -p $port info stats | grep -o 'total_commands_processed:[0-9]*')
		snapshot "${pids[-2]}"
		after=$(redis-cli -p $port info stats | grep -o 'total_commands_processed:[0-9]*')
		[ "$status" -eq 0 ] && [ "$before" != "$after" ] || return
		grep -q 'a word that is found again' "$core" || return
	done
	kill "${pids[-1]}"
	[ "$(redis-cli -p $port get marker)" = 'a word that is found again' ] &&
		backtrace "$(command -v redis-server)" '^Thread 4'
}
if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
	have_gdb "Redis under load" && check "Redis under load" with_redis
else
	skip "Redis under load" "there is none: install redis-server"
fi

if [ "$(id -u)" -eq 0 ] && unshare -pf true 2>/dev/null; then
	unshare -pf --kill-child sleep 100 & pids+=($!)
	sleep 0.5
	inner=$(pgrep -P "${pids[-1]}")
	snapshot "$inner"
	check "a process of another pid namespace" status_is 0
	have_gdb "and gdb reads it" &&
		check "and gdb reads it" backtrace "$(command -v sleep)" '^#.*nanosleep'
else
	skip "a process of another pid namespace" "only root can make one"
fi

traced() {
	gdb -nx -batch -ex "shell '$pageferry' snapshot --pid ${pids[0]} -o $core >$dir/out 2>$dir/err" \
		-p "${pids[0]}" >/dev/null 2>&1
	status=1
	rm -f "$core.old"
	refused 1 "is being traced"
}
rm -f "$core"
have_gdb "one that is being traced" && check "one that is being traced" traced
echo "1..$n"
