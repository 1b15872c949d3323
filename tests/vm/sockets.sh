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

# How many of QEMU's sockets could be bound to by another process, too?
shared()
{
	perl -MSocket -e '
		my $pid = shift;
		my $pidfd = syscall(434, $pid + 0, 0);
		my ($seen, $shared) = (0, 0);
		for my $path (glob "/proc/$pid/fd/*") {
			(readlink($path) // "") =~ /^socket:/ && $path =~ /(\d+)$/ or next;
			my $fd = syscall(438, $pidfd, $1 + 0, 0);
			next if $fd < 0;
			open my $socket, "+<&=", $fd or die "$!";
			$seen++;
			$shared++ if unpack "i", getsockopt($socket, SOL_SOCKET, 15) // pack "i", 0;
		}
		die "no sockets" unless $seen;
		print "$shared\n"' "$(field "$1" pid)"
}

shares()
{
	local n

	n=$(shared "$1") && echo "shared: $n" && test "$n" "${@:2}"
}

# vnc NAME: its port; QEMU has taken the first one that it could get
vnc()
{
	qmp "$tmp/$1.sock" query-vnc | grep -o '"service": "[0-9]*"' | grep -o '[0-9]*'
}

start_with_vnc()
{
	start_vm "$1" -qmp "unix:$tmp/$1.sock,server=on,wait=off" \
		-vnc "127.0.0.1:$display,to=$((display + 99))"
}

is_upgrading()
{
	vm_is "$1" upgrading >/dev/null
}

# One VM hangs in an upgrade, in which its port may be shared, while another one of that user looks
# for a port from the same one on.
keeps_to_its_port()
{
	local one two client

	start_with_vnc one && start_with_vnc two || return
	one=$(vnc one) two=$(vnc two)
	echo "ports $one and $two"
	[ -n "$one" ] && [ "$one" -lt "$two" ] || return
	"$pageferry" vm upgrade one --qemu "$tmp/hangs" >/dev/null 2>&1 </dev/null &
	client=$!
	wait_until 10 is_upgrading one && wait_until 10 shares one -gt 0 || return
	run vm upgrade two
	kill "$client"
	status_is 0 && echo "then $(vnc two)" && [ "$(vnc two)" = "$two" ] || return
	wait_until 10 vm_runs one && shares one -eq 0 && shares two -eq 0
}

# listen_to SOCKET: a QMP client that stays, says "connected", and "cut off" when it is
listen_to()
{
	perl -MIO::Socket::UNIX -e '
		$| = 1;
		$SIG{PIPE} = "IGNORE";
		my $s = IO::Socket::UNIX->new(Peer => shift) or die "connect: $!";
		print $s qq({"execute": "qmp_capabilities"}\n);
		while (<$s>) { print "connected\n" if /"return"/ }
		print $s qq({"execute": "cont"}\n) or print "not to be spoken to\n";
		print "cut off\n"' "$1"
}

# upgrade_until_parked NAME OLD: begin one, in which the old QEMU stops itself; sets $client
upgrade_until_parked()
{
	"$pageferry" vm upgrade "$1" >"$tmp/out" 2>"$tmp/err" </dev/null &
	client=$!
	wait_until 20 is_stopped "$2"
}

# The old QEMU has committed, given all its pages, and not ended yet: it is stopped there.
cut_off_from_old()
{
	local old client listener port

	port=$(free_port)
	PAGEFERRY_PRELOAD=$parking PAGEFERRY_PARK=give.all start_vm cut \
		-qmp "unix:$tmp/cut.sock,server=on,wait=off" \
		-monitor "tcp:127.0.0.1:$port,server=on,wait=off" || return
	old=$(field cut pid)
	listen_to "$tmp/cut.sock" >"$tmp/heard" 2>&1 &
	listener=$!
	wait_until 10 grep -q connected "$tmp/heard" || return
	upgrade_until_parked cut "$old" && wait_until 10 grep -q "cut off" "$tmp/heard" || return
	# Whoever comes now comes to the new one.
	for _ in 1 2 3 4 5 6 7 8; do
		monitor_answers "$port" || return
	done
	kill -CONT "$old"
	wait "$client"
	status=$?
	wait "$listener"
	status_is 0 && vm_is cut running
}

# serve SOCKET: takes whoever comes, and says so
serve()
{
	exec perl -MIO::Socket::UNIX -e '
		$| = 1;
		my $s = IO::Socket::UNIX->new(Local => shift, Listen => 5) or die "$!";
		while (my $c = $s->accept) { push @clients, $c; print "came\n" }' "$1"
}

came()
{
	[ "$(grep -c came "$tmp/came")" -eq "$1" ]
}

# What process $1 has used of the CPUs so far, in ticks
cpu_time()
{
	sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

is_idle()
{
	local before

	before=$(cpu_time "$1") && sleep 1 && [ $(($(cpu_time "$1") - before)) -lt 20 ]
}

is_upgraded()
{
	[ "$(field "$1" generation)" = "$2" ]
}

# The old QEMU has committed and given all its pages, and the new one, stopped, doesn't confirm it: it waits,
# without a use for a CPU, connects nowhere, and doesn't abort.
old_is_quiet()
{
	local old new client server port spice=()

	port=$(free_port)
	qemu-system-x86_64 -device help 2>/dev/null | grep -q '"qxl-vga"' &&
		spice=(-spice "addr=127.0.0.1,port=$port,disable-ticketing=on" -device qxl-vga)
	serve "$tmp/server" >"$tmp/came" 2>&1 &
	server=$!
	wait_until 10 test -S "$tmp/server" &&
		PAGEFERRY_PRELOAD=$parking PAGEFERRY_PARK=give.all start_vm quiet "${spice[@]}" \
			-qmp "unix:$tmp/quiet.sock,server=on,wait=off" \
			-chardev "socket,id=client,path=$tmp/server,reconnect=1" || return
	old=$(field quiet pid)
	upgrade_until_parked quiet "$old" && wait_until 10 is_upgraded quiet 2 && wait_until 10 came 2 ||
		return
	new=$(field quiet pid)
	if ! { kill -STOP "$new" && kill -CONT "$old" && sleep 1 && is_idle "$old" && sleep 1 && came 2; }; then
		echo "not quiet"
		kill -CONT "$new"
		return 1
	fi
	kill -CONT "$new"
	wait "$client"
	status=$?
	kill "$server"
	status_is 0 && vm_is quiet running
}

# The other end of a monitor's connection, at a port that it writes to file $1: shows what it hears, and sends a
# command on SIGUSR1.
speak()
{
	exec perl -MIO::Socket::INET -e '
		$| = 1;
		my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die "$!";
		open my $port, ">", "$ARGV[0].new" or die "$!";
		print $port $l->sockport;
		close $port;
		rename "$ARGV[0].new", $ARGV[0];
		my $s = $l->accept;
		$SIG{USR1} = sub { syswrite $s, "info uuid\n" };
		while (1) { my $text; print $text if sysread $s, $text, 1000; select undef, undef, undef, 0.02 }' "$1"
}

answers()
{
	[ "$(grep -ac 00000000-0000 "$tmp/said")" -eq "$1" ]
}

# A monitor on a connection that both QEMUs were started with: only the new one answers.
shared_is_left_to_new()
{
	local old new client speaker

	speak "$tmp/port" >"$tmp/said" 2>&1 &
	speaker=$!
	wait_until 10 test -s "$tmp/port" || return
	exec 9<>"/dev/tcp/127.0.0.1/$(<"$tmp/port")" || return
	PAGEFERRY_PRELOAD=$parking PAGEFERRY_PARK=give.all start_vm left \
		-chardev socket,id=m,fd=9 -mon chardev=m,mode=readline
	exec 9>&-
	old=$(field left pid)
	wait_until 10 grep -aq QEMU "$tmp/said" && kill -USR1 "$speaker" && wait_until 10 answers 1 || return
	upgrade_until_parked left "$old" && wait_until 10 is_upgraded left 2 || return
	new=$(field left pid)
	if ! { kill -STOP "$new" && kill -CONT "$old" && sleep 0.5 && kill -USR1 "$speaker" && sleep 1 &&
		answers 1; }; then
		echo "the old one answers"
		kill -CONT "$new"
		kill "$speaker"
		return 1
	fi
	kill -CONT "$new"
	wait "$client"
	status=$?
	status_is 0 && wait_until 10 answers 2 && vm_is left running
	status=$?
	kill "$speaker"
	return $status
}

display=$((20000 + RANDOM % 1000))
printf '#!/bin/sh\nexec sleep 100\n' >"$tmp/hangs"
chmod +x "$tmp/hangs"
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
if shared vm >/dev/null 2>&1; then
	ok "none of its ports is shared" shares vm -eq 0
	ok "a VM whose upgrade hangs shares its port with no other" keeps_to_its_port
	for name in one two; do
		run vm stop $name
	done
else
	skip "none of its ports is shared" "QEMU's sockets can't be looked at"
	skip "a VM whose upgrade hangs shares its port with no other" "the same"
fi
if parking=$(realpath "$B/park/libpageferry-preload.so"); then
	ok "after the commit nobody speaks to the old QEMU" cut_off_from_old
	run vm stop cut
	ok "and it is quiet" old_is_quiet
	run vm stop quiet
	ok "nor on a connection that both were started with" shared_is_left_to_new
	run vm stop left
else
	skip "after the commit nobody speaks to the old QEMU" "no library with parking points"
	skip "and it is quiet" "the same"
	skip "nor on a connection that both were started with" "the same"
fi
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
