#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 200
# needs: userfaultfd
#
# pageferry pins and conform say what the kernel does, whatever they have inherited, and however the machine is
# set; what they put back is all of it; and a kernel that lies is found out.
# shellcheck disable=SC2016 # what is in quotes is perl, C, or another shell's
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
make_scratch
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
# Every user may run it.
chmod 755 "$tmp"
cp "$B/pageferry" "$tmp/" || exit 1
pageferry=$tmp/pageferry
: >"$tmp/nothing"
expected=share/expected/pins-$(uname -r | grep -oE '^[0-9]+\.[0-9]+')
[ -f "$expected" ] || expected=$tmp/nothing

one_line_error()
{
	[ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q "^pageferry: .*$1" "$tmp/err"
}

# no_cell CODE: of the cells in $tmp/out, each of them $_, there is none of which this is true.
no_cell()
{
	perl -MJSON::PP -0777 -e '
		my $cells = decode_json(<STDIN>)->{cells};
		@$cells or die "no cells\n";
		for (@$cells) {
			no warnings "uninitialized";
			'"$1"' and print join(" | ", map { $_ // "" } @$_{sort keys %$_}), "\n";
		}' <"$tmp/out" >"$tmp/wrong" 2>&1 || echo "no such JSON" >>"$tmp/wrong"
	cat "$tmp/wrong"
	[ ! -s "$tmp/wrong" ]
}

as_user() # UID COMMAND...
{
	local uid=$1

	shift
	setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
}

# ---- what is inherited

(ulimit -n 10 && run "$pageferry" pins && exit "$status")
status=$?
ok "with hardly any descriptors nothing is tried" status_is 2
ok "that is said in one line" one_line_error "Too many open files"

# Nobody waits for children, and files may have 4 KiB: what is printed goes to a pipe.
careless()
{
	(ulimit -f 4 && exec perl -e '$SIG{CHLD} = "IGNORE"; exec @ARGV or die' "$@") | cat
}
run careless "$pageferry" conform --json --expected "$tmp/nothing"
ok "children that are not waited for, and a limit of what files may have, are no answer of the kernel's" \
	no_cell '$_->{seen} =~ /^(died|hangs|wrong)/'

if [ "$(id -u)" -eq 0 ]; then
	# The command, its guard, and the trial
	user=54321
	run as_user $user bash -c 'ulimit -u 3; exec "$@"' sh "$pageferry" pins --json --expected "$tmp/nothing"
	ok "without room for another process there is no answer" no_cell \
		'$_->{operation} =~ /^fork|^exec|thread$/ && defined $_->{seen} || $_->{seen} =~ /^(died|hangs)/'
else
	skip "without room for another process" "needs root"
fi

# ---- the machine

advisor=/sys/kernel/mm/ksm/advisor_mode
pace=/sys/kernel/mm/ksm/pages_to_scan
huge=/sys/kernel/mm/transparent_hugepage/enabled
reserve=/proc/sys/vm/min_free_kbytes

chosen()
{
	sed 's/.*\[\(.*\)\].*/\1/' "$1"
}

# Put back when this test and all that it has started are gone
change_machine()
{
	exec 9</proc/kpageflags && flock -w 100 9 || return
	set -- "$(chosen $advisor)" "$(<$pace)" "$(chosen $huge)" "$(<$reserve)"
	exec {back}> >(exec setsid sh -c 'cat
		echo "$1" >'$advisor'; echo "$2" >'$pace'; echo "$3" >'$huge'; echo "$4" >'$reserve \
		sh "$@" >/dev/null 2>&1 9<&-)
	echo scan-time >$advisor
	echo never >$huge
	echo 12345 >$reserve
	exec 9<&-
}

# Not how full a swap device is, nor what the advisor advises
machine()
{
	grep -H . $advisor $huge $reserve /sys/kernel/mm/ksm/{run,sleep_millisecs,smart_scan} \
		/proc/sys/vm/nr_hugepages 2>/dev/null
	ls -d /sys/block/zram* 2>/dev/null
	awk 'NR > 1 { print $1 }' /proc/swaps
	true
}

# As udev has a new device: here at the time at which it is to go
hold_new_device()
{
	perl -e '
		my %old = map { $_ => 1 } glob "/dev/zram*";
		my ($new, $device);
		for (1 .. 2000) {
			($new) = grep { !$old{$_} } glob "/dev/zram*";
			last if $new && `cat /proc/swaps` =~ m{^$new }m;
			select undef, undef, undef, .005;
		}
		open $device, "<", $new or exit;
		select undef, undef, undef, .005 while `cat /proc/swaps` =~ m{^$new }m;
		select undef, undef, undef, .3'
}

if [ "$(id -u)" -eq 0 ] && [ -e $advisor ] && [ -e $huge ] && change_machine; then
	before=$(machine)
	hold_new_device &
	run "$pageferry" pins --json --expected "$expected"
	wait $!
	ok "KSM that finds its own pace, no huge pages, a small reserve, a device that is looked at: no error" \
		[ ! -s "$tmp/err" ]
	ok "and nothing differs" no_cell '$_->{differs_from_expected}'
	ok "all of that is put back" diff <(echo "$before") <(machine)
	exec {back}>&-
else
	skip "the machine's settings" "needs root, KSM with an advisor, and huge pages"
fi

# What lies where a swap file may be made is somebody's, who wants the machine's own one to be switched off.
swap_is_there()
{
	grep "^$tmp/swap " /proc/swaps
}

try_without_zram()
{
	for i in {1..9}; do ln -s "$tmp/swap" "/var/tmp/pageferry-swap.$i"; done
	unshare -m -p -f --kill-child --mount-proc sh -c '
		! [ -e /sys/class/zram-control ] || mount -t tmpfs none /sys/class/zram-control || exit 3
		exec "$1/pageferry" conform --json --expected "$1/nothing"' sh "$tmp"
	rm -f /var/tmp/pageferry-swap.{1..9}
}

head -c 1M /dev/zero >"$tmp/swap"
chmod 600 "$tmp/swap"
if [ "$(id -u)" -eq 0 ] && mkswap "$tmp/swap" >/dev/null 2>&1 && swapon "$tmp/swap" 2>/dev/null; then
	trap 'swapoff "$tmp/swap" 2>/dev/null; rm -rf "$tmp"' EXIT
	run try_without_zram
	ok "swap in a file does as well" no_cell \
		'$_->{memory} eq "swapped out" && $_->{call} ne "CONTINUE" && !defined $_->{seen}'
	ok "and the machine's own is not taken for it" swap_is_there
	swapoff "$tmp/swap" 2>/dev/null
	ok "nothing is left of it" not ls /var/tmp/pageferry-swap.* 2>/dev/null
else
	skip "swap in a file" "swap can't be had in ${tmp%/*}"
fi

# ---- a user who may handle faults of programs alone, but has KVM

kvm_for_all()
{
	unshare -m sh -c 'mkdir "$1/dev" && mount -t tmpfs none "$1/dev" &&
		mknod -m 666 "$1/dev/kvm" c 10 "$2" && mount --bind "$1/dev/kvm" /dev/kvm || exit 3
		exec setpriv --reuid 65534 --regid 65534 --clear-groups \
			"$1/pageferry" pins --json --expected "$1/nothing"' sh "$tmp" "$((0x$(stat -c %T /dev/kvm)))"
}

if [ "$(id -u)" -eq 0 ] && [ -e /dev/kvm ]; then
	run kvm_for_all
	ok "KVM that can't wait for a handler isn't said to write elsewhere" no_cell \
		'$_->{operation} =~ /WRITEPROTECT/ && $_->{seen} eq "tie broken"'
else
	skip "KVM without root" "needs root and KVM"
fi

# ---- a kernel that lies

# It says that it has filled a page with zeros, or has no MOVE; or takes its time for vmsplice; or kills whoever takes
# swap away, as when memory is short: the first two of them.
cat >"$tmp/liar.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

int swapoff(const char *path)
{
	const char *killed = getenv("KILLED");

	if (killed && !access(path, F_OK)) {
		int fd = open(killed, O_WRONLY | O_CREAT | O_APPEND, 0600);
		if (lseek(fd, 0, SEEK_END) < 2 && write(fd, "x", 1) == 1)
			kill(getpid(), SIGKILL);
		close(fd);
	}
	return ((int (*)(const char *))dlsym(RTLD_NEXT, "swapoff"))(path);
}

ssize_t vmsplice(int fd, const struct iovec *iov, size_t n, unsigned int flags)
{
	if (getenv("LATE"))
		usleep(200000);
	return ((ssize_t (*)(int, const struct iovec *, size_t, unsigned int))dlsym(RTLD_NEXT, "vmsplice"))(
		fd, iov, n, flags);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (request == UFFDIO_ZEROPAGE && getenv("NO_ZEROS")) {
		struct uffdio_zeropage *zeros = arg;
		zeros->zeropage = zeros->range.len;
		return 0;
	}
	int ret = ((int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl"))(fd, request, arg);
	if (request == UFFDIO_API && getenv("NO_MOVE"))
		((struct uffdio_api *)arg)->features &= ~(1ull << 16); /* UFFD_FEATURE_MOVE */
	return ret;
}
C
if ${CC:-cc} -shared -fPIC -o "$tmp/liar.so" "$tmp/liar.c" -ldl 2>"$tmp/err"; then
	printf 'anonymous | ZEROPAGE | wrong contents\n' >"$tmp/expected"
	run env LD_PRELOAD="$tmp/liar.so" NO_ZEROS=1 "$pageferry" conform --json --expected "$tmp/expected"
	ok "wrong contents are never as they should be" status_is 1
	ok "nor if they are expected" no_cell \
		'$_->{memory} eq "anonymous" && $_->{call} eq "ZEROPAGE" && !$_->{differs_from_expected}'
	run env LD_PRELOAD="$tmp/liar.so" NO_MOVE=1 "$pageferry" conform --json --expected "$tmp/nothing"
	ok "what can't be moved can still be copied to" no_cell '$_->{call} ne "MOVE" && $_->{why} =~ /has no MOVE/'
	run env LD_PRELOAD="$tmp/liar.so" LATE=1 "$pageferry" pins --json --expected "$expected"
	ok "KSM doesn't come before the pin" no_cell '$_->{operation} =~ /^KSM/ && $_->{differs_from_expected}'
	if [ "$(id -u)" -eq 0 ]; then
		before=$(machine)
		run env LD_PRELOAD="$tmp/liar.so" KILLED="$tmp/killed" "$pageferry" conform \
			--expected "$tmp/nothing"
		ok "who takes swap away is killed, but isn't the only one" status_is 0
		ok "and all is put back" diff <(echo "$before") <(machine)
	fi
else
	skip "a kernel that lies" "there is no compiler"
fi
plan
