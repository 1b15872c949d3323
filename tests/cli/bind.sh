#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The preloaded library's bind(): only an address that was told may be shared, whatever the list says
# besides.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
preload=$(realpath "$B/libpageferry-preload.so") || exit 1
n=0

# binds TYPE ADDRESS PORT LIST: prints 1 if the socket may share the port, else 0
binds()
{
	timeout 20 env ${4+"PAGEFERRY_PORTS=$4"} LD_PRELOAD="$preload" \
		perl -MSocket=:all -e '
		my ($type, $host, $port) = @ARGV;
		my $inet = $host !~ /:/;
		my $kind = $type eq "tcp" ? SOCK_STREAM : SOCK_DGRAM;
		socket my $s, $inet ? AF_INET : AF_INET6, $kind, 0 or die "socket: $!";
		my $ip = inet_pton($inet ? AF_INET : AF_INET6, $host);
		bind $s, $inet ? pack_sockaddr_in($port, $ip) : pack_sockaddr_in6($port, $ip)
			or die "bind: $!";
		print unpack("i", getsockopt $s, SOL_SOCKET, 15), "\n"' "$1" "$2" "$3"
}

# expect RESULT WHAT TYPE ADDRESS PORT [LIST]
expect()
{
	local got

	n=$((n + 1))
	got=$(binds "${@:3}" 2>&1)
	if [ "$got" = "$1" ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		echo "# $got instead of $1"
	fi
}

port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1)->sockport')
expect 0 "no list" tcp 127.0.0.1 "$port"
expect 0 "an empty list" tcp 127.0.0.1 "$port" ""
expect 1 "in the list" tcp 127.0.0.1 "$port" "tcp/127.0.0.1/$port"
expect 1 "the last one" tcp 127.0.0.1 "$port" "tcp/0.0.0.0/1 udp/::/2  tcp/127.0.0.1/$port"
expect 1 "UDP" udp 127.0.0.1 "$port" "udp/127.0.0.1/$port"
expect 0 "TCP is told, UDP bound" udp 127.0.0.1 "$port" "tcp/127.0.0.1/$port"
expect 0 "another port" tcp 127.0.0.1 "$port" "tcp/127.0.0.1/${port}0 tcp/127.0.0.1/${port%?}"
expect 0 "another address" tcp 127.0.0.1 "$port" "tcp/0.0.0.0/$port tcp/::1/$port"
expect 1 "all addresses" tcp 0.0.0.0 "$port" "tcp/0.0.0.0/$port"
expect 0 "any port" tcp 127.0.0.1 0 "tcp/127.0.0.1/0"
if grep -qs . /proc/net/if_inet6; then
	expect 1 "IPv6" tcp ::1 "$port" "tcp/::1/$port"
	expect 0 "IPv6, another address" tcp ::1 "$port" "tcp/::/$port"
fi
for list in " " "/" "tcp" "tcp/127.0.0.1/" "tcp/127.0.0.1/$port/" "tcp//$port" "%s%n" \
	"tcp/127.0.0.1/$port,tcp/127.0.0.1/$port" "tcp/$(printf '1%.0s' {1..60000})/$port" \
	"$(printf ' %.0s' {1..60000})" "$(printf '\1\377\t\n')"; do
	expect 0 "nonsense: '$(printf %.20q "$list")'" tcp 127.0.0.1 "$port" "$list"
done
expect 1 "behind nonsense" tcp 127.0.0.1 "$port" "x // $(printf 'a/%.0s' {1..30000}) tcp/127.0.0.1/$port"
echo "1..$n"
