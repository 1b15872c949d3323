#!/bin/bash
# SPDX-License-Identifier: MIT
# timeout: 600
#
# A guest that writes to its memory and its disk is upgraded again and again. It must not notice.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh
. tests/lib/console.sh
UPGRADES=${UPGRADES:-20}
command -v cpio >/dev/null || skip_all "no cpio"
kernel=$(guest/kernel 2>"$tmp/why") || skip_all "no kernel for a guest: $(tail -n 1 "$tmp/why")"
guest/initrd "$kernel" "$tmp/initrd" >&2 || exit 1

# shows REGEX FROM: a line on the console, after so many bytes, matches; it is in $tmp/found then
shows()
{
	whole_lines "$tmp/console.log" "$2" | grep -aE "$1" >"$tmp/found" ||
		is_gone "${keeper[vm]}"
}

# await REGEX [FROM]: prints the first such line
await()
{
	wait_until 60 shows "$1" "${2-0}" && head -n 1 "$tmp/found" | grep .
}

# tell COMMAND REGEX: the guest's answer
tell()
{
	local shown

	shown=$(stat -c %s "$tmp/console.log")
	echo "$1" >&5
	await "$2" "$shown"
}

ask_watch()
{
	local reply

	echo "$1" >&"${watch_in}"
	read -r -t 10 reply <&"${watch_out}" && echo "$reply"
}

# value NAME: of NAME=N or "NAME":N in a line on stdin
value()
{
	sed -nE "s/.*\\b$1(=|\":)(-?[0-9]+).*/\\2/p"
}

guest_is_well()
{
	local line

	line=$(tell check 'ferry: CHECK') || { echo "no answer"; return 1; }
	echo "$line"
	[[ $line == *"CHECK ok"*" corrupt=0 disk_bad=0"* ]] &&
		! grep -aE 'ferry: (CORRUPT|DISK|FAIL)' "$tmp/console.log"
}

guest_has_written()
{
	local line

	line=$(tell stats 'ferry: STATS') || return
	echo "$line"
	[ "$(value writes <<<"$line")" -gt "$1" ] && [ "$(value disk <<<"$line")" -gt "$2" ]
}

# Every tick came once, and in order.
ticks_are_whole()
{
	local line

	line=$(ask_watch read) && echo "$line" && [ "$(value skips <<<"$line")" -eq 0 ] &&
		[ "$(value ticks <<<"$line")" -gt 1000 ]
}

# shellcheck disable=SC2120 # ok passes them
upgrade()
{
	run vm upgrade vm --json "$@"
	json_field result <"$tmp/out" | grep -qx upgraded && status_is 0
}

result()
{
	json_field "$1" <"$tmp/out"
}

# All bytes of RAM went one way or another, and the figures are such as can be.
figures_add_up()
{
	perl -MJSON::PP -0777 -ne '
		my $r = decode_json($_);
		my $sum = $r->{removed_bytes};
		$sum += $_ for values %{$r->{bytes}};
		print "sum $sum of $r->{total_bytes}\n";
		die "sum" if $sum != $r->{total_bytes} || $sum != 512 << 20;
		die "downtime" unless $r->{downtime_ms} > 0 && $r->{downtime_ms} < $r->{total_ms};
		die "memory" unless $r->{base_kib} > 300000 && $r->{peak_kib} >= $r->{base_kib} &&
			$r->{extra_kib} == $r->{peak_kib} - $r->{base_kib};
		my $f = $r->{faults};
		die "faults" unless $f->{count} > 0 && $f->{p50_us} > 0 &&
			$f->{p50_us} <= $f->{p99_us} && $f->{p99_us} <= $f->{max_us};
		die "pids" if $r->{old_pid} == $r->{new_pid};
		die "version" unless $r->{new_version} =~ /^\d+\.\d+\.\d+$/;' "$tmp/out"
}

went() # WAY MIN: at least so many MiB
{
	perl -MJSON::PP -0777 -ne "
		my \$mib = decode_json(\$_)->{bytes}{$1} / 1048576;
		print qq($1 \$mib MiB\n);
		exit(\$mib < $2);" "$tmp/out"
}

# Descriptors, files and mappings of all who remain.
belongings()
{
	local pid

	pid=$(field vm pid)
	echo "processes $(own_processes | wc -l)"
	ls "$state/vm" | sed 's/-[0-9]*\.sock/-N.sock/'
	ls "/proc/${keeper[vm]}/fd" | wc -l
	ls "/proc/$pid/fd" | wc -l
	grep -c userfaultfd "/proc/$pid/smaps" || true
	find "/proc/$pid/fd" -lname '*userfaultfd*' | wc -l
	ls "$tmp"
}

ram_is_anonymous()
{
	local pid

	pid=$(field vm pid)
	! grep -E "$state/vm/ram|memfd" "/proc/$pid/maps" &&
		[ "$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status")" -gt 300000 ]
}

truncate -s 64M "$tmp/disk"
mkfifo "$tmp/in" "$tmp/ticks"
: >"$tmp/console.log"
coproc watch { exec "$B/guest/watch" "$tmp/ticks"; }
watch_in=${watch[1]} watch_out=${watch[0]}
"$pageferry" vm run vm -- qemu-system-x86_64 -accel tcg -machine pc -m 512 -smp 2 -nodefaults \
	-display none -no-reboot -kernel "$kernel/vmlinuz" -initrd "$tmp/initrd" \
	-append "$(cat guest/cmdline) ferry.disk=1 ferry.writers=2" -serial stdio \
	-drive "file=$tmp/disk,format=raw,if=virtio" -chardev "file,id=ticks,path=$tmp/ticks" \
	-device isa-debugcon,iobase=0x402,chardev=ticks \
	-qmp "unix:$tmp/user.sock,server=on,wait=off" <>"$tmp/in" >>"$tmp/console.log" 2>"$tmp/vm.log" &
keeper[vm]=$!
exec 5>"$tmp/in"
ok "the guest is up" await 'ferry: READY'
ask_watch mark >/dev/null
first=$(field vm pid)

printf '#!/bin/sh\nexec qemu-system-x86_64 "$@" -machine q35\n' >"$tmp/other"
chmod +x "$tmp/other"
run vm upgrade vm --qemu "$tmp/other"
ok "a failed upgrade" eval 'status_is 1 && vm_is vm running && [ "$(field vm pid)" = "$first" ]'
ok "the guest is well after it" guest_is_well

ok "an upgrade" upgrade
ok "its figures add up" figures_add_up
ok "the old process is gone" is_gone "$first"
ok "the VM is in the new one" eval '[ "$(field vm pid)" = "$(result new_pid)" ]'
ok "its RAM is anonymous" ram_is_anonymous
ok "the guest is well" guest_is_well
# The file that stands for RAM is still empty.
ok "nothing was written to the file" eval '[ "$(stat -c %b "$state/vm/ram")" -eq 0 ]'
had=$(belongings)
line=$(tell stats 'ferry: STATS')
writes=$(value writes <<<"$line")
disk=$(value disk <<<"$line")

ok "--way copy" upgrade --way copy
ok "copies" went copy 300
ok "--cpu any" upgrade --cpu any
ok "--cpu 0" upgrade --cpu 0
if grep -q '^\[*never\]' /sys/kernel/mm/transparent_hugepage/enabled; then
	skip "--way stage" "huge pages are switched off"
	skip "stages" "huge pages are switched off"
else
	ok "--way stage" upgrade --way stage
	ok "stages" went stage 1
fi
qmp "$tmp/user.sock" stop >/dev/null
ok "a paused guest" eval 'upgrade && [ "$(result downtime_ms)" = null ] && vm_is vm paused'
qmp "$tmp/user.sock" cont >/dev/null
ok "goes on when told to" vm_is vm running

# In a row, no pause between them.
in_a_row()
{
	local i

	for ((i = 0; i < UPGRADES; i++)); do
		upgrade || { echo "upgrade $i"; return 1; }
	done
}
ok "$UPGRADES in a row" in_a_row
ok "the guest is well after all that" guest_is_well
ok "it went on writing" guest_has_written "$writes" "$disk"
ok "no tick was lost or came twice" ticks_are_whole
ok "nothing is left over" diff <(echo "$had") <(belongings)
ok "QEMU's words reach the keeper's stderr" \
	eval '[ "$(readlink "/proc/$(field vm pid)/fd/2")" = "$tmp/vm.log" ]'

echo poweroff >&5
ok "the guest ends the VM" eval 'keeper_status vm && status_is 0'
exec {watch_in}>&- 5>&-
ok "nothing is left" nothing_left
plan
