#!/bin/bash
# SPDX-License-Identifier: MIT
# timeout: 600
# needs: userfaultfd
#
# The benches, in their quick mode: what they print is well-formed and complete, and memory that did
# not arrive as it was makes them fail. What they measure is not judged here.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
# The library that spoils the contents must come before a sanitizer's.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0"
n=0

check() {
	local name=$1
	shift
	n=$((n + 1))
	if "$@" >"$dir/log" 2>&1; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		sed 's/^/# /' "$dir/log" "$dir/err"
	fi
}

skip() {
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

run() {
	timeout 100 "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
}

status_is() {
	echo "status $status"
	[ "$status" -eq "$1" ]
}

one_line() {
	[ "$(wc -l <"$dir/err")" -eq 1 ] && grep -q "^$1: $2" "$dir/err"
}

# read_report BENCH REQUIRED...: one JSON object, every figure with its baseline and ratio.
read_report() {
	perl - "$dir/out" "$@" <<'PERL'
use strict;
use warnings;
use JSON::PP;
my ($file, $bench, @required) = @ARGV;
open(my $f, '<', $file) or die "$file: $!\n";
my $r = decode_json(do { local $/; <$f> });
my $host = $r->{host};
die "not of $bench\n" unless $r->{bench} eq $bench && $r->{question} =~ /\?$/;
die "quick or noisy is no boolean\n"
	if grep { !JSON::PP::is_bool($_) } $r->{quick}, $r->{noisy};
die "the quick mode is not told\n" unless $r->{quick} && $r->{rounds} == 2;
die "no host facts\n" if grep { !length($host->{$_} // '') }
	qw(kernel machine cpus memory load_average_at_start cpu_used_by_others);

sub spread {
	my ($name, $s) = @_;
	die "$name: no $_\n" for grep { !defined $s->{$_} } qw(what median min max mad);
	die "$name: not above zero\n" unless $s->{min} > 0;
	die "$name: $s->{median} is not within $s->{min} and $s->{max}\n"
		if $s->{median} < $s->{min} || $s->{median} > $s->{max};
}

sub point {
	my ($name, $curve, $last) = @_;
	die "$name: no $_ of its curve\n" for grep { !length($curve->{$_} // '') } qw(name x x_what);
	die "$name: not in the order of x\n" if $curve->{x} <= ($last->{$curve->{name}} // 0);
	$last->{$curve->{name}} = $curve->{x};
}

sub histogram {
	my ($h) = @_;
	my ($name, $edge, $sum) = ("$h->{group}, $h->{name}, $h->{side}", -1, 0);
	die "$name: no $_\n" for grep { !length($h->{$_} // '') } qw(name what group unit count);
	die "$name: of no side\n" unless $h->{side} =~ /^(baseline|ours)$/;
	for my $bucket (@{$h->{buckets}}) {
		die "$name: a bucket is out of order, or empty\n"
			if $bucket->[0] <= $edge || $bucket->[1] <= 0;
		$edge = $bucket->[0];
		$sum += $bucket->[1];
	}
	die "$name: the buckets have $sum of $h->{count}\n" if $sum != $h->{count} || !$sum;
	my @ranks = (0, map({ $h->{$_} } qw(p50 p90 p99 p999 max)), $edge);
	die "$name: percentiles out of order\n" if grep { $ranks[$_] > $ranks[$_ + 1] } 0 .. $#ranks - 1;
}

my (%seen, %last, %sides);
for my $c (@{$r->{results}}) {
	my $name = $c->{name} // die "a result has no name\n";
	die "$name comes twice\n" if $seen{$name}++;
	if (defined $c->{skipped}) {
		print "$name: skipped: $c->{skipped}\n";
		next;
	}
	die "$name: no unit\n" unless length($c->{unit} // '');
	spread("$name, $_", $c->{$_}) for qw(baseline ours ratio);
	point($name, $c->{curve}, \%last) if $c->{curve};
	my $ratio = $c->{ours}{median} / $c->{baseline}{median};
	die "$name: the ratio of medians is $c->{ratio}{of_medians}, not $ratio\n"
		if abs($ratio / $c->{ratio}{of_medians} - 1) > 0.02;
	my $q = $c->{required} // next;
	my $reached = defined $q->{at_most} ? $c->{ratio}{of_medians} <= $q->{at_most} :
		$c->{ratio}{of_medians} >= $q->{at_least};
	die "$name: reached is wrong\n" if ($reached xor $q->{reached});
}
for my $h (@{$r->{histograms} // []}) {
	histogram($h);
	die "$h->{name}, $h->{side}: comes twice\n" if $sides{$h->{name}}{$h->{side}}++;
}
die "$_: a histogram of one side only\n" for grep { keys(%{$sides{$_}}) != 2 } keys %sides;
die "no histograms\n" if $bench eq 'fault' && !%sides;
die "no curves\n" if $bench eq 'batch' && !%last;
for my $name (@required) {
	my ($c) = grep { $_->{name} eq $name } @{$r->{results}};
	die "$name: missing, or without its limit\n" unless $c && $c->{required};
}
PERL
}

# One bit of the memory is turned over: at the SPOIL-th UFFDIO_COPY or UFFDIO_CONTINUE of a process, its SPOIL_MOVE-th
# UFFDIO_MOVE, SPOIL_ZEROPAGE-th UFFDIO_ZEROPAGE or SPOIL_PROTECT-th UFFDIO_WRITEPROTECT, in what its SPOIL_READ-th
# process_vm_readv brings, or in a child after the SPOIL_FORK-th fork.
build_spoiler() {
	cat >"$dir/spoil.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/uio.h>
#include "lib/uffd_abi.h"

static int asked(const char *name, int calls)
{
	const char *value = getenv(name);
	return value && calls == atoi(value);
}

/* In the middle of the largest memory that it has. */
static void spoil_memory(void)
{
	unsigned long a, b, from = 0, to = 0;
	char line[512], perms[8];
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %7s", &a, &b, perms) == 3 && !strcmp(perms, "rw-p") &&
		    b - a > to - from) {
			from = a;
			to = b;
		}
	}
	if (f)
		fclose(f);
	((unsigned char *)(from + (to - from) / 8192 * 4096))[123] ^= 4;
}

pid_t fork(void)
{
	static int calls;
	calls++;
	pid_t pid = ((pid_t (*)(void))dlsym(RTLD_NEXT, "fork"))();
	if (!pid && asked("SPOIL_FORK", calls))
		spoil_memory();
	return pid;
}

ssize_t process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal,
			 const struct iovec *remote, unsigned long nremote, unsigned long flags)
{
	static int calls;
	ssize_t n = ((ssize_t (*)(pid_t, const struct iovec *, unsigned long, const struct iovec *,
				  unsigned long, unsigned long))dlsym(RTLD_NEXT, "process_vm_readv"))(
		pid, local, nlocal, remote, nremote, flags);
	if (n > 0 && asked("SPOIL_READ", ++calls))
		((unsigned char *)local->iov_base)[123] ^= 4;
	return n;
}

static void spoil_memfd(void)
{
	char path[32], name[64];
	unsigned char byte;

	for (int fd = 0; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, name, sizeof(name) - 1);
		if (n < 7 || memcmp(name, "/memfd:", 7) || pread(fd, &byte, 1, 123456) != 1)
			continue;
		byte ^= 4;
		if (pwrite(fd, &byte, 1, 123456) == 1)
			return;
	}
}

static int ioctl_is(unsigned long request, unsigned long wanted, int *calls, const char *name)
{
	return request == wanted && asked(name, ++*calls);
}

static void flip(unsigned long long address)
{
	*(unsigned char *)(unsigned long)address ^= 4;
}

int ioctl(int fd, unsigned long request, ...)
{
	static int calls, moves, zeropages, protects;
	int copy = request == UFFDIO_COPY, now = copy || request == UFFDIO_CONTINUE;
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	now = now && asked("SPOIL", ++calls);
	if (now && copy)
		flip(((struct uffdio_copy *)arg)->src);
	else if (now)
		spoil_memfd();
	if (ioctl_is(request, UFFDIO_MOVE, &moves, "SPOIL_MOVE"))
		flip(((struct uffdio_move *)arg)->src);
	if (ioctl_is(request, UFFDIO_WRITEPROTECT, &protects, "SPOIL_PROTECT"))
		flip(((struct uffdio_writeprotect *)arg)->range.start);
	int ret = ((int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl"))(fd, request, arg);
	if (ioctl_is(request, UFFDIO_ZEROPAGE, &zeropages, "SPOIL_ZEROPAGE"))
		flip(((struct uffdio_zeropage *)arg)->range.start);
	return ret;
}
C
	${CC:-cc} -shared -fPIC -I. -o "$dir/spoil.so" "$dir/spoil.c" -ldl
}

# spoiled BENCH NAME=CALL WHO: the contents that WHO brings are wrong from a call on.
spoiled() {
	run env LD_PRELOAD="$dir/spoil.so" "$2" "$B/bench/$1" --quick
	status_is 1 && [ ! -s "$dir/out" ] && grep "^$1: $3.*: wrong contents in page" "$dir/err"
}

# test_run BENCH REQUIRED...
test_run() {
	local bench=$1
	shift

	run "$B/bench/$bench" --quick
	if [ "$status" -eq 2 ]; then
		skip "$bench runs" "$(head -n 1 "$dir/err")"
		return
	fi
	check "$bench runs" status_is 0
	check "$bench prints a whole report" read_report "$bench" "$@"
	cp "$dir/out" "$dir/report"
	check "$bench says it in one line" one_line "$bench" "ours to baseline: .* contents right$"
}

# test_bench BENCH BARE FERRY REQUIRED...: what spoils the baseline's contents, and the library's.
test_bench() {
	local bench=$1 bare=$2 ferry=$3
	shift 3

	test_run "$bench" "$@"
	[ "$status" -eq 2 ] && return
	check "$bench fails when the baseline's contents are wrong" spoiled "$bench" "$bare" bare
	check "$bench fails when the library's contents are wrong" spoiled "$bench" "$ferry" ferry
}

# also_spoiled BENCH WHAT BARE FERRY: what spoils the contents in another kind of call.
also_spoiled() {
	[ "$status" -eq 2 ] && return
	if grep -q "the kernel has no UFFDIO_$2" "$dir/report"; then
		skip "$1 fails when $2 brings wrong contents" "the kernel has no UFFDIO_$2"
		return
	fi
	check "$1 fails when the baseline's $2 brings wrong contents" spoiled "$1" "$3" bare
	check "$1 fails when the library's $2 brings wrong contents" spoiled "$1" "$4" ferry
}

check "the spoiler is built" build_spoiler
test_bench fault SPOIL=1 SPOIL=300 copy_same_cpu_p50 copy_same_cpu_p99
also_spoiled fault MOVE SPOIL_MOVE=1 SPOIL_MOVE=300
also_spoiled fault ZEROPAGE SPOIL_ZEROPAGE=1 SPOIL_ZEROPAGE=300
# It goes on counting where its parent is when there is another process for the first time.
check "fault fails when another process brings wrong contents" spoiled fault SPOIL=4100 "bare loop of another process"
# The numbers leave room for what the library tries out first.
test_bench batch SPOIL=100 SPOIL=700
also_spoiled batch MOVE SPOIL_MOVE=100 SPOIL_MOVE=700
also_spoiled batch ZEROPAGE SPOIL_ZEROPAGE=100 SPOIL_ZEROPAGE=700
test_bench handover SPOIL_READ=1 SPOIL=2
test_bench push SPOIL=1 SPOIL=20 push_copy
test_bench continue SPOIL=1 SPOIL=20 continue_then_touch
test_bench save SPOIL_FORK=1 SPOIL_READ=3 small_local_stop small_local_extra_of_size small_local_lost small_local_p99 \
	small_anywhere_stop small_anywhere_extra_of_size small_anywhere_lost small_anywhere_p99
# Before its program forks, the bench has done so four times.
test_bench snapshot SPOIL_FORK=5 SPOIL_READ=20 small_local_stop small_local_extra_of_size small_local_lost \
	small_local_p99 small_anywhere_stop small_anywhere_extra_of_size small_anywhere_lost small_anywhere_p99

# What the first compares is the command's own work: there is no bare baseline that could be spoiled. And a bit in
# half a gigabyte of values would be found in none of them.
test_run incremental dirtied_1_percent
test_run redis stop extra_of_size requests p99
run "$B/bench/fault" --fast
check "an unknown option is refused" status_is 2
check "in one line" one_line fault "--fast: unknown argument"
run "$B/bench/push" --rounds 0
check "a wrong number is refused" status_is 2
echo "1..$n"
