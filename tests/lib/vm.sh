# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What the tests of pageferry vm share: TAP, a state directory of their own, VMs that sit in their
# firmware, and an end that leaves nothing behind. Sourced from the top folder of the source.

B=${B:-build}
pageferry=$(realpath "$B/pageferry")
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
declare -A keeper # pid of the keeper of each VM

command -v qemu-system-x86_64 >/dev/null || skip_all "no qemu-system-x86_64"
"$pageferry" probe >/dev/null || skip_all "no VM upgrade here: see pageferry probe"

tmp=$(mktemp -d) || exit 1
export PAGEFERRY_STATE_DIR=$tmp/state
unset PAGEFERRY_PRELOAD
state=$PAGEFERRY_STATE_DIR

# Processes of this test: their command lines name its folder.
own_processes()
{
	grep -alFf <(echo "$tmp") /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3 |
		grep -vxF -e $$ -e $BASHPID
}

end()
{
	local pid

	# Not for a subshell.
	[ "$BASHPID" = $$ ] || return

	# Stopped ones can be killed, too.
	for pid in "${keeper[@]}" $(own_processes); do
		kill -9 "$pid" 2>/dev/null
	done
	rm -rf "$tmp"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

# Run the command and keep what it prints and its status.
run()
{
	timeout 120 "$pageferry" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
}

# It failed and said why in one line that matches $1.
failed_saying()
{
	[ "$status" -ne 0 ] || { echo "it did not fail"; return 1; }
	[ "$(wc -l <"$tmp/err")" -eq 1 ] || { echo "not one line"; return 1; }
	grep -Eq -- "^pageferry: $1" "$tmp/err" || { echo "not: $1"; return 1; }
}

# wait_until SECONDS COMMAND...
wait_until()
{
	local end=$((SECONDS + $1))

	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || { echo "waited in vain for: $*"; return 1; }
		sleep 0.02
	done
}

# The value of a key of the JSON on stdin, which stands one key a line.
json_field()
{
	sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | head -n 1
}

# field VM KEY: from pageferry vm status
field()
{
	"$pageferry" vm status "$1" --json 2>/dev/null | json_field "$2"
}

vm_is()
{
	local now

	now=$(field "$1" state)
	echo "VM $1 is '$now'"
	[ "$now" = "$2" ]
}

is_alive()
{
	[ -d "/proc/$1" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

is_stopped()
{
	grep -q '^State:[[:space:]]*T' "/proc/$1/status" 2>/dev/null
}

is_gone()
{
	not is_alive "$1"
}

# start_vm NAME [ARGUMENT...]
start_vm()
{
	local name=$1

	shift
	: >"$tmp/$name.log"
	"$pageferry" vm run "$name" -- "${QEMU:-qemu-system-x86_64}" -accel tcg -nodefaults \
		-display none -m 64 "$@" </dev/null >>"$tmp/$name.log" 2>&1 &
	keeper[$name]=$!
	wait_until 30 vm_runs "$name" >&2
}

vm_runs()
{
	vm_is "$1" running >/dev/null
}

# The other QEMU of the VM "vm" than process $old, in $new
find_new()
{
	local pid pids

	read -ra pids <"/proc/${keeper[vm]}/task/${keeper[vm]}/children"
	for pid in "${pids[@]}"; do
		# shellcheck disable=SC2154,SC2034 # the test's own
		[ "$pid" != "$old" ] && new=$pid && return
	done
	return 1
}

# Its exit status, once the keeper has ended.
keeper_status()
{
	wait_until 60 is_gone "${keeper[$1]}" || return
	wait "${keeper[$1]}" 2>/dev/null
	status=$?
}

nothing_left()
{
	wait_until 20 no_processes && [ -z "$(ls -A "$state" 2>/dev/null)" ] && return
	ps -fp "$(own_processes | tr '\n' ,)0"
	ls -AR "$state"
	return 1
}

no_processes()
{
	[ -z "$(own_processes)" ]
}

# qmp SOCKET COMMAND...: send QMP commands, print the answers
qmp()
{
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Peer => shift) or die "connect: $!";
		alarm 20;
		my $line = <$s>;
		for my $command ("qmp_capabilities", @ARGV) {
			print $s $command =~ /^\{/ ? $command : qq({"execute": "$command"}), "\n";
			do { $line = <$s> // die "hung up" } while $line =~ /"event"/;
			print $line if $command ne "qmp_capabilities";
		}' "$@"
}
