#!/bin/bash
# SPDX-License-Identifier: MIT
# timeout: 1200
#
# The VM bench: a short run of all three ways, what it must notice, and how it ends.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/vm.sh
bench=$(realpath "$B/bench/vm") || skip_all "no $B/bench/vm: run make benches"
guest/kernel >/dev/null 2>"$tmp/why" || skip_all "no kernel for the guest: $(tail -n 1 "$tmp/why")"
export TMPDIR=$tmp/run
mkdir "$TMPDIR"

# bench OPTION...: what it prints and its status, as run() does
bench()
{
	timeout 300 "$bench" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
}

succeeds()
{
	bench "$@"
	status_is 0
}

# QEMU's pre-copy damages memory now and then under TCG, and with it, if it hits the guest's kernel,
# the guest. The table has to say so.
has_table()
{
	grep -Eq '^512 MiB, 1 upgrade each +pageferry +QEMU pre-copy +QEMU memfd$' "$tmp/out" &&
		grep -Eq '^guest RAM is anonymous +yes +(yes|-) +no$' "$tmp/out" &&
		grep -Eq '^guest memory is intact +yes +(yes|NO) +yes$' "$tmp/out" || return
	! grep -Eq '^guest memory is intact +yes +NO ' "$tmp/out" || explains_damage
}

explains_damage()
{
	grep -q '^QEMU pre-copy: damaged or lost: a known fault' "$tmp/out"
}

# json EXPRESSION: Perl, with the figures of each way in %pageferry, %precopy and %memfd
json()
{
	perl -MJSON::PP -0777 -e '
		my ($file, $expression) = @ARGV;
		open my $f, "<", $file or die "$file: $!";
		our $j = decode_json(<$f>);
		our (%pageferry, %precopy, %memfd);
		for my $r (@{$j->{ways}}) { no strict "refs"; %{$r->{way}} = %$r }
		my $true = eval $expression;
		die $@ if $@;
		print "not true: $expression\n" unless $true;
		exit !$true' "$tmp/json" "$1"
}

nothing_left()
{
	local left

	left=$(own_processes; ls -A "$TMPDIR")
	echo "left: $left"
	[ -z "$left" ]
}

# A QEMU whose guest damages a few of its pages itself.
cat >"$tmp/damaging" <<'END'
#!/bin/bash
args=("$@")
for i in "${!args[@]}"; do
	[[ ${args[i]} = console=* ]] && args[i]+=" ferry.selftest=1"
done
exec qemu-system-x86_64 "${args[@]}"
END
chmod +x "$tmp/damaging"

finds_damage()
{
	bench --quick --way memfd --qemu "$tmp/damaging"
	status_is 1 && grep -q 'CHECK bad' "$tmp/err" && grep -Eq '^guest memory is intact +NO$' "$tmp/out"
}

# A QEMU that ends soon after it has taken a guest over.
cat >"$tmp/dying" <<'END'
#!/bin/bash
[[ " $* " != *" -incoming "* ]] || { sleep "$AFTER"; kill -KILL $$; } >/dev/null 2>&1 &
exec qemu-system-x86_64 "$@"
END
chmod +x "$tmp/dying"

lost_guest_is_told()
{
	status_is 0 && grep -Eq 'GUEST LOST: (QEMU ended during|the migration failed)' "$tmp/out" &&
		grep -Eq '^largest gap seen by the guest +-$' "$tmp/out" &&
		grep -Eq '^guest memory is intact +NO$' "$tmp/out" && explains_damage &&
		grep -q '^QEMU pre-copy: 1 of 1 guests lost' "$tmp/out" &&
		grep -q '"lost":"' "$tmp/damage"
}

damage_by_precopy_is_told()
{
	status_is 0 && grep -Eq '^guest memory is intact +NO$' "$tmp/out" && explains_damage &&
		grep -q '"why_damaged"' "$tmp/damage"
}

fails_saying()
{
	local why=$1

	shift
	bench "$@"
	[ "$status" -ne 0 ] && head -n 1 "$tmp/err" | grep -Eq "^vm: .*$why"
}

has_qemu()
{
	local pid

	for pid in $(own_processes); do
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = qemu-system-x86 ] && return
	done
	return 1
}

# ends_on SIGNAL NUMBER WAY
ends_on()
{
	local pid

	"$bench" --quick --way "$3" >"$tmp/out" 2>"$tmp/err" </dev/null &
	pid=$!
	wait_until 60 has_qemu || return
	kill -s "$1" "$pid"
	wait "$pid"
	status=$?
	status_is $((128 + $2)) && nothing_left
}

bench --quick --json "$tmp/json"
ok "all three ways are measured" status_is 0
ok "the table says how each of them keeps guest RAM, and that it is intact" has_table
ok "the file says so, too" json '
	$pageferry{ram_anonymous} && !$memfd{ram_anonymous} && $pageferry{intact} && $memfd{intact} &&
	($precopy{guests_lost} || $precopy{ram_anonymous}) &&
	($precopy{intact} xor $precopy{why_damaged})'
ok "every way has a gap, a total time and a peak" json '
	!grep { $_->{gap_ms}{median} <= 0.9 || $_->{baseline_gap_ms}{median} <= 0.9 ||
		$_->{total_ms}{median} <= 0 || $_->{peak_mib}{median} <= 400 }
		grep { !$_->{guests_lost} } @{$j->{ways}}'
ok "only pre-copy needs the RAM twice" json '
	($precopy{guests_lost} || $precopy{extra_mib}{median} > 400) &&
	$pageferry{extra_mib}{median} < 64 && $memfd{extra_mib}{median} < 64'
ok "what the command reports is in it" json '
	$pageferry{runs}[0]{told}{result} eq "upgraded" &&
	$pageferry{runs}[0]{told}{total_bytes} == 512 << 20'
ok "nothing is left of it" nothing_left
ok "damaged memory is found, and is a failure" finds_damage
ok "nothing is left of it then" nothing_left
bench --quick --way precopy --qemu "$tmp/damaging" --json "$tmp/damage"
ok "damage by pre-copy is told, and no failure" damage_by_precopy_is_told
# Between the begin of its migration and the end of the measurement, which takes more than 4 s.
AFTER=2 bench --quick --way precopy --qemu "$tmp/dying" --json "$tmp/damage"
ok "so is a guest that does not survive it" lost_guest_is_told
ok "nothing is left of that guest" nothing_left
export AFTER=1
ok "another way that loses its guest fails" fails_saying "memfd: (QEMU ended|the migration failed)" --quick --way memfd \
	--qemu "$tmp/dying"
ok "a QEMU that does not run is said" fails_saying "failed" --quick --qemu false
ok "a wrong way is said" fails_saying "the ways are" --way none
ok "a wrong size is said" fails_saying "needs a number" --ram 0
ok "a guest too small to be filled is said" fails_saying "take a larger --ram" --ram 256 --way memfd
ok "SIGINT ends it and all that it has started" ends_on INT 2 memfd
ok "SIGTERM does, too" ends_on TERM 15 pageferry
plan
