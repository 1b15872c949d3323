#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Where a VM listens: its own addresses survive an upgrade, good or bad, and the keeper's socket
# survives whatever is sent to it.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh

# A port that nobody has, for TCP and UDP.
free_port()
{
	perl -MIO::Socket::INET -e '
		for (1 .. 100) {
			my $t = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or next;
			my $u = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1",
				LocalPort => $t->sockport) or next;
			print $t->sockport;
			exit;
		}'
}

# Does QEMU's monitor answer at the port?
monitor_answers()
{
	perl -MIO::Socket::INET -e '
		alarm 10;
		my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => shift) or die "$!";
		sysread $s, my $text, 100;
		exit($text !~ /QEMU/)' "$1"
}

all_answer()
{
	monitor_answers "$monitor" || { echo "monitor"; return 1; }
	qmp "$tmp/user.sock" query-status | grep -q running || { echo "user.sock"; return 1; }
	(cd "$tmp" && qmp relative.sock query-status) | grep -q running ||
		{ echo "relative.sock"; return 1; }
	# What was set aside is gone.
	[ "$(ls "$tmp"/*.sock* | wc -l)" -eq 2 ] || { ls "$tmp"; return 1; }
}

# A VM that wants the ports of the first one.
second_is_refused()
{
	timeout 20 "$pageferry" vm run second -- qemu-system-x86_64 -accel tcg -nodefaults \
		-display none -m 64 "$@" >"$tmp/second.log" 2>&1 </dev/null
	[ $? -eq 1 ] && grep -Eqi "in use|could not set up" "$tmp/second.log"
}

monitor=$(free_port)
forward=$(free_port)
printf '#!/bin/sh\nexec qemu-system-x86_64 "$@" -machine q35\n' >"$tmp/other-machine"
chmod +x "$tmp/other-machine"

cd "$tmp" || exit 1
start_vm vm -qmp "unix:$tmp/user.sock,server=on,wait=off" \
	-qmp unix:relative.sock,server=on,wait=off \
	-monitor "tcp:127.0.0.1:$monitor,server=on,wait=off" \
	-netdev "user,id=n,hostfwd=tcp:127.0.0.1:$forward-:22,hostfwd=udp:127.0.0.1:$forward-:53" \
	-device virtio-net-pci,netdev=n
cd - >/dev/null || exit 1
ok "everything answers" all_answer
run vm upgrade vm --qemu "$tmp/other-machine"
ok "after a failed upgrade: too" eval 'status_is 1 && all_answer'
run vm upgrade vm
ok "after an upgrade: too" eval 'status_is 0 && all_answer'
run vm upgrade vm
ok "after another: too" eval 'status_is 0 && all_answer'
run vm upgrade vm --qemu "$tmp/other-machine"
ok "after a failed one again" eval 'status_is 1 && all_answer'
ok "the monitor's port is nobody else's" second_is_refused \
	-monitor "tcp:127.0.0.1:$monitor,server=on,wait=off"
ok "nor is the forwarded one" second_is_refused -netdev \
	"user,id=n,hostfwd=tcp:127.0.0.1:$forward-:22"

# send PACKET...: to the keeper, one after the other; prints what it answers
send()
{
	perl -MSocket -MIO::Socket::UNIX -e '
		$SIG{PIPE} = "IGNORE";
		alarm 20;
		my $s = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => shift) or die "$!";
		send($s, $_, 0) for @ARGV;
		while (sysread($s, my $answer, 100000)) { print "$answer\n"; }' \
		"$state/vm/keeper.sock" "$@"
}

refuses()
{
	[[ $(send "$1") == *'"result":"failed"'*"${2-}"* ]]
}

ok "status is answered" eval '[[ $(send "{\"command\": \"status\"}") == *ok* ]]'
for packet in hello '' '{' '[]' null '{}' '{"command": 7}' "{\"command\": \"$(printf 'a%.0s' {1..60000})\"}"; do
	ok "refused: '${packet:0:30}'" eval 'refuses "$packet" || [ -z "$packet" ]'
done
ok "refused: 100 KiB" refuses "{\"a\": \"$(printf 'a%.0s' {1..102400})\"}" request
for field in '"qemu": "relative"' '"qemu": 7' '"ways": -1' '"ways": "auto"' '"cpu": 1e99' \
	'"timeout_ms": 0' '"timeout_ms": 99999999999' "\"qemu\": \"/$(printf 'a%.0s' {1..5000})\""; do
	# The last one of two equal keys counts.
	ok "an upgrade with ${field:0:30} is refused" refuses "{\"command\": \"upgrade\", \"ways\": 0,
		\"cpu\": 0, \"timeout_ms\": 1000, $field}" "not a request"
done
ok "whoever asks twice is cut off" eval 'send "{\"command\": \"upgrade\"}" x >/dev/null; vm_runs vm'

crowd()
{
	perl -MSocket -MIO::Socket::UNIX -e '
		my @s = map { IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => $ARGV[0]) } 1 .. 40;
		alarm 20;
		# The keeper hangs up on those that it has no place for.
		my $closed = 0;
		$closed += !sysread($_, my $x, 1) for grep { $_ } @s[20 .. 39];
		exit($closed < 20)' "$state/vm/keeper.sock"
}
ok "a crowd that says nothing" crowd
run vm status vm
ok "and leaves" eval 'status_is 0 && vm_runs vm'
run vm upgrade vm
ok "after all that the VM can be upgraded" eval 'status_is 0 && all_answer'
if [ "$(id -u)" -eq 0 ]; then
	chmod 711 "$tmp" "$state" "$state/vm" && chmod 666 "$state/vm/keeper.sock"
	ok "other users are not served" eval '! setpriv --reuid 65534 --clear-groups \
		perl -MSocket -MIO::Socket::UNIX -e "
			alarm 10;
			my \$s = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => shift) or exit 0;
			send(\$s, q({\"command\": \"status\"}), 0);
			exit(!sysread(\$s, my \$x, 100));" "$state/vm/keeper.sock"'
	chmod 700 "$tmp" "$state" "$state/vm"
else
	skip "other users are not served" "needs root"
fi
run vm stop vm
ok "nothing is left" nothing_left
plan
