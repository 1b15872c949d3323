# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Boots the guest in which the kernel module is tested. Sourced from the top folder of the source.
#
# ACCEL (tcg), CPU (max), SMP (2), MEM (1024) and APPEND say how; MORE is one more archive for its initramfs.
# The guest's TAP is shown and goes to $tmp/tap, what its kernel says goes to $tmp/console.

B=${B:-build}

# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh

command -v qemu-system-x86_64 >/dev/null || skip_all "no qemu-system-x86_64"
command -v cpio >/dev/null || skip_all "no cpio"
[ -x "$B/tests/guest/init" ] || { echo "$B/tests/guest/init is not built: run make tests" >&2; exit 1; }

# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
make_scratch
# QEMU is a process of this script's group, so it dies with it; and by itself when this script is killed.
end()
{
	[ -z "${qemu-}" ] || kill -9 "$qemu" 2>/dev/null
	rm -rf "$tmp"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

# fetch_kernel [MODULE...]: sets $kernel. The modules are for swap, without a delay and with one, and for KVM,
# which a kernel of one's own may lack.
fetch_kernel()
{
	kernel=$(guest/kernel zram virtio_blk kvm_amd "$@" 2>"$tmp/why") ||
		kernel=$(guest/kernel zram virtio_blk "$@" 2>"$tmp/why") ||
		skip_all "no kernel for a guest: $(tail -n 1 "$tmp/why")"
}

# Where the guest's CPUs are, a second apart: the kernel of one that hangs may no longer be able to say it.
show_registers()
{
	for _ in 1 2; do
		echo "info registers -a" >"$tmp/monitor.in"
		sleep 1
		timeout 1 cat "$tmp/monitor.out" | tr -d '\r' | grep -aE '^(CPU#|RIP=|RSP=|R8 =|CR0=|EAX=|RAX=|RSI=)' |
			sed 's/^/# /'
	done
}

# end_hanging WHY
end_hanging()
{
	echo "# $1"
	show_registers
	kill -9 "$qemu"
	wait "$qemu" 2>/dev/null
	hangs=yes
}

# await_guest SECONDS: until QEMU has ended. A guest that doesn't get to its tests isn't waited for as long.
await_guest()
{
	local begin=$SECONDS limit=$1

	until [ -n "$hangs" ] || ! kill -0 "$qemu" 2>/dev/null; do
		if [ $((SECONDS - begin)) -ge "$limit" ]; then
			end_hanging "the guest hangs"
		elif [ $((SECONDS - begin)) -ge 120 ] && ! grep -aq 'pageferry test: begin' "$tmp/console"; then
			end_hanging "the guest doesn't boot"
		fi
		sleep 0.2
	done
}

# boot_guest SECONDS APPEND [MODULE.ko]: returns when QEMU has ended, not 0 if it had to be ended
boot_guest()
{
	local limit=$1 append=$2 rc show out hangs=
	shift 2

	guest/initrd "$kernel" "$tmp/initrd" "$B/tests/guest/init" "$@" || return 1
	[ -z "${MORE-}" ] || cat "$MORE" >>"$tmp/initrd" || return 1
	: >"$tmp/console"
	: >"$tmp/tap"
	truncate -s 128M "$tmp/disk" || return 1
	rm -f "$tmp/monitor.in" "$tmp/monitor.out"
	mkfifo "$tmp/monitor.in" "$tmp/monitor.out" || return 1
	exec {out}> >(tee "$tmp/tap")
	show=$!
	# "quiet" is for the guest of the demo: here all that the kernel says is of interest.
	# shellcheck disable=SC2261 # only one of both is for stderr
	setpriv --pdeathsig KILL qemu-system-x86_64 \
		-accel "${ACCEL:-tcg}" -cpu "${CPU:-max}" -machine pc -m "${MEM:-1024}" \
		-smp "${SMP:-2}" ${ICOUNT:+-icount "$ICOUNT"} -nodefaults -display none -no-reboot \
		-kernel "$kernel/vmlinuz" -initrd "$tmp/initrd" \
		-append "$(cat guest/cmdline) loglevel=7 log_buf_len=4M printk.devkmsg=on panic_on_warn=1 $append ${APPEND-}" \
		-drive "file=${tmp//,/,,}/disk,format=raw,if=virtio,cache=unsafe" \
		-chardev "pipe,id=monitor,path=${tmp//,/,,}/monitor" -mon chardev=monitor \
		-serial "file:$tmp/console" -serial stdio </dev/null 1>&"$out" 2>"$tmp/qemu" &
	qemu=$!
	exec {out}>&-
	await_guest "$limit"
	wait "$qemu"
	rc=$?
	qemu=
	wait "$show"
	return "$rc"
}

# The last lines of the kernel, and what QEMU says, as comments
show_console()
{
	sed 's/^/# qemu: /' "$tmp/qemu"
	echo "# the last lines of the kernel:"
	tail -n 80 "$tmp/console" | tr -d '\r' | cut -c 1-300 | sed 's/^/#   /'
	cp "$tmp/console" "$B/tests/guest/console" && echo "# all of them: $B/tests/guest/console"
}

# The kernel has data races of its own, which KCSAN reports as well: only those in which the module takes
# part by an access that isn't marked count. Where it locks a page, say, and the kernel looks at another of the
# page's flags as it always does, the race is the kernel's; and so it is where the kernel splits a huge page, in
# whose entry the CPU may note an access at any time, as it would for anybody. A report goes from one line of
# "=" to the next one; other CPUs' lines may be among them.
without_others_races()
{
	awk '/==========$/ { if (inside) flush_report(); inside = 0; next }
	     / BUG: KCSAN: / { if (inside) flush_report(); inside = 1 }
	     !inside { print; next }
	     / to 0x[0-9a-f]+ of [0-9]+ bytes / { counts = !/\(marked\)/ }
	     / split_huge_page/ { counts = 0 }
	     { report[n++] = $0; ours = ours || counts && /\[pageferry[a-z_]*\]/ }
	     function flush_report(i) {
		for (i = 0; i < n; i++)
			if (ours || i && report[i] ~ /BUG|WARNING/)
				print report[i]
		n = ours = counts = 0
	     }
	     END { if (inside) flush_report() }'
}

# With DEBUG_VM the kernel shows where it came from to a trapped page that it can't wait for, as by way of
# /proc/PID/mem: no fault.
without_expected()
{
	awk '/FAULT_FLAG_ALLOW_RETRY missing/ { expected++ }
	     expected && /Call Trace/ { expected--; next }
	     { print }'
}

# Lines of the kernel since the tests began that tell of a fault; tests/guest/log.c has the same list.
trouble()
{
	tr -d '\r' <"$tmp/console" | sed -n '/pageferry test: begin/,$p' | grep -v 'pageferry test: ' |
		without_others_races | without_expected |
		grep -E 'WARNING|BUG:|BUG at |kernel BUG|K[AC]SAN|UBSAN|Bad (page|rss-counter|swap|pagetable)|non-zero pgtables_bytes|Call Trace|refcount_t|list_(add|del) corruption|general protection fault|unable to handle|Oops|possible (recursive|circular) locking|inconsistent lock state|suspicious RCU usage|detected stall|soft lockup|blocked for more than|sleeping function called|scheduling while atomic|[Uu]nderflow|use-after-free|Kernel panic'
}
