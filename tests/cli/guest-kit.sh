#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The test guest: boots, ticks, checks its memory and disk, powers off, and notices damage.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/lib/console.sh
. tests/lib/console.sh
B=${B:-build}

skip_all()
{
	echo "1..0 # SKIP $*"
	exit 0
}

command -v qemu-system-x86_64 >/dev/null || skip_all "no qemu-system-x86_64"
command -v cpio >/dev/null || skip_all "no cpio"

tmp=$(mktemp -d)
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
# A guest that has died fails the tests that follow, not the script that writes to it.
trap '' PIPE
cleanup()
{
	[ -z "${qemu-}" ] || kill -9 "$qemu" 2>/dev/null
	[ -z "${watch-}" ] || kill "$watch" 2>/dev/null
	rm -rf "$tmp"
}

dir=$(guest/kernel 2>"$tmp/why") || skip_all "no kernel for a guest: $(tail -n 1 "$tmp/why")"
make -s -f guest/guest.mk B="$B" guest >&2 && guest/initrd "$dir" "$tmp/initrd" || exit 1

echo "1..20"
count=0

# ok WHAT COMMAND...
ok()
{
	local what=$1

	shift
	count=$((count + 1))
	if "$@" >"$tmp/out" 2>&1; then
		echo "ok $count - $what"
	else
		echo "not ok $count - $what"
		sed 's/^/# /' "$tmp/out" "$tmp/console" 2>/dev/null
	fi
}

# boot APPEND: console input goes to descriptor 5, its output to $tmp/console
boot()
{
	: >"$tmp/console"
	rm -f "$tmp/in"
	mkfifo "$tmp/in"
	truncate -s 8M "$tmp/disk"
	# The time limit is for the case that this script is killed and can't clean up.
	timeout 300 qemu-system-x86_64 -pidfile "$tmp/pid" -accel tcg -machine pc -m 256 -smp 2 -nodefaults \
		-display none -no-reboot -kernel "$dir/vmlinuz" -initrd "$tmp/initrd" \
		-append "$(cat guest/cmdline) $1" -serial stdio \
		-drive "file=$tmp/disk,format=raw,if=virtio" \
		-chardev "file,id=ticks,path=$tmp/ticks" \
		-device isa-debugcon,iobase=0x402,chardev=ticks \
		<"$tmp/in" >"$tmp/console" 2>&1 &
	qemu=$!
	exec 5>"$tmp/in"
}

# await REGEX [BYTES]: prints the first matching line that the console shows, after its first BYTES
await()
{
	local deadline=$((SECONDS + 120))

	until whole_lines "$tmp/console" "${2-0}" | grep -aE "$1" >"$tmp/found"; do
		kill -0 "$qemu" 2>/dev/null && [ $SECONDS -lt $deadline ] || return 1
		sleep 0.05
	done
	head -n 1 "$tmp/found"
}

# tell COMMAND REGEX: prints the line that answers it
tell()
{
	local shown
	shown=$(stat -c %s "$tmp/console")

	echo "$1" >&5
	await "$2" "$shown"
}

# value NAME LINE: of NAME=N in a line of the guest's, or "NAME":N in one of watch's
value()
{
	sed -nE "s/.*\\b$1(=|\":)(-?[0-9]+).*/\\2/p" <<<"$2"
}

ask_watch()
{
	echo "$1" >&"${watch_in}"
	read -r -t 10 reply <&"${watch_out}" && echo "$reply"
}

powers_off()
{
	echo poweroff >&5
	wait "$qemu"
	local rc=$?
	qemu=
	exec 5>&-
	return $rc
}

# ---- the kernel and the packages, when nothing can be fetched ----

mkdir "$tmp/bin" "$tmp/cache" "$tmp/cache/kernel"
printf '#!/bin/sh\necho "E: Could not resolve host" >&2\nexit 100\n' >"$tmp/bin/apt-get"
printf '#!/bin/sh\nexit 1\n' >"$tmp/bin/dpkg-query"
chmod +x "$tmp/bin/apt-get" "$tmp/bin/dpkg-query"

offline()
{
	KERNEL='' PAGEFERRY_CACHE=$tmp/cache PATH=$tmp/bin:$PATH "$@"
}
says()
{
	local want=$1 rc
	shift
	"$@" >"$tmp/said" 2>&1
	rc=$?
	cat "$tmp/said"
	[ $rc -eq 1 ] && tail -n 1 "$tmp/said" | grep -q "$want"
}
ok "no kernel and no network is an error" says "set KERNEL=" offline guest/kernel
takes_cached()
{
	# Named as the set of the default modules is; the version is older than any that apt has.
	local older=$tmp/cache/kernel/6.12.0+test.${dir##*.}

	cp -a "$dir" "$older" && [ "$(offline guest/kernel)" = "$older" ]
}
case $dir in
*/own.*) ok "a cached kernel is taken # SKIP KERNEL is set" true ;;
*) ok "a cached kernel is taken when no newer one can be fetched" takes_cached ;;
esac
ok "an unknown module is an error" says "not a module's name" guest/kernel 'no such'
ok "missing packages are named" says "gcc make.* cpio" offline scripts/install-deps demo
ok "an unknown target is an error" says "usage" scripts/install-deps nonsense

mkfifo "$tmp/ticks"
coproc watch_io { exec "$B/guest/watch" "$tmp/ticks"; }
watch=$!
exec {watch_out}<&"${watch_io[0]}" {watch_in}>&"${watch_io[1]}"

# ---- a guest in good health ----

boot "ferry.disk=1 ferry.writers=2"
ok "the guest is ready" await '^ferry: READY fill_pages=[1-9]'
pages=$(value fill_pages "$(grep -a READY "$tmp/console")")
ok "most of its memory is filled" test "${pages:-0}" -gt $((128 * 256))

ask_watch mark >/dev/null
before=$(tell stats '^ferry: STATS')
# Time itself is under test here: a second of it.
sleep 1
seen=$(ask_watch read)
after=$(tell stats '^ferry: STATS')
echo "# $seen"
ok "ticks are seen outside" test "$(value ticks "$seen")" -gt 100
ok "none is lost" test "$(value skips "$seen")" -eq 0
ok "gaps are around a millisecond" test "$(value p50_us "$seen")" -gt 500 -a "$(value p50_us "$seen")" -lt 20000
ok "pages are being rewritten" test "$(value writes "$after")" -gt "$(value writes "$before")"
ok "records are being written" test "$(value disk "$after")" -gt "$(value disk "$before")"

checked=$(tell check '^ferry: CHECK')
echo "# $checked"
ok "all pages and records check out" grep -q '^ferry: CHECK ok ' <<<"$checked"
ok "all filled pages were checked" test "$(value pages "$checked")" = "$pages"
ok "an unknown command is refused" tell nonsense '^ferry: UNKNOWN'

# Standing still must show outside, whatever the guest's clock says.
ask_watch mark >/dev/null
kill -STOP "$(cat "$tmp/pid")"
sleep 0.5
kill -CONT "$(cat "$tmp/pid")"
stopped=$(ask_watch read)
echo "# $stopped"
ok "a standstill is seen outside" test "$(value max_gap_us "$stopped")" -gt 400000
ok "poweroff ends QEMU" powers_off

# ---- a guest with damage: memory by its own hand, the disk by ours ----

boot "ferry.disk=1 ferry.selftest=1"
all_kinds()
{
	await '^ferry: READY' && tell check '^ferry: CHECK' >"$tmp/verdict" || return 1
	grep -q '^ferry: CHECK bad ' "$tmp/verdict" || return 1
	for damage in "0 kind=zero" "1 kind=stale" "2 kind=moved" "3 kind=torn" "4 kind=future"; do
		grep -aq "^ferry: CORRUPT page=$damage " "$tmp/console" || return 1
	done
}
ok "each kind of damage to memory is told" all_kinds
lost_records()
{
	# Slots are written in order, over and over: take a quarter of the disk.
	dd if=/dev/zero of="$tmp/disk" bs=1M count=2 conv=notrunc status=none
	tell check '^ferry: CHECK' >"$tmp/verdict" || return 1
	grep -q '^ferry: CHECK bad .* disk_bad=[1-9]' "$tmp/verdict" &&
		grep -aq '^ferry: DISK slot=.* kind=zero' "$tmp/console"
}
ok "lost records are told" lost_records
ok "poweroff ends QEMU" powers_off
