#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Building the kernel module: which kernels it is not for, and that strip leaves a linked one alone.
# Needs no kernel headers.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

echo "1..10"
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
		sed 's/^/# /' "$tmp/out"
	fi
}

# headers RELEASE CONFIG...: what the first lines of kmod/Makefile look at
headers()
{
	mkdir -p "$tmp/kdir/include/config"
	echo "$1" >"$tmp/kdir/include/config/kernel.release"
	shift
	printf 'CONFIG_%s\n' "$@" >"$tmp/kdir/include/config/auto.conf"
}

# refuses TEXT [VAR=VALUE...]: in its last line, and makes nothing
refuses()
{
	local text=$1

	shift
	! make -s --no-print-directory -C kmod KDIR="$tmp/kdir" B="$tmp/build" "$@" >"$tmp/said" 2>&1 </dev/null || return
	cat "$tmp/said"
	tail -n 1 "$tmp/said" | grep -qF -- "$text" && [ ! -e "$tmp/build" ]
}

all=(X86_64=y LIVEPATCH=y KALLSYMS_ALL=y 'CC_VERSION_TEXT="gcc (Debian) 1"')
ok "no kernel headers" refuses "not the headers of a kernel"
headers 6.1.0-37-amd64 "${all[@]}"
ok "another kernel than 6.12" refuses "is Linux 6.1.0-37-amd64: the module supports 6.12 only"
headers 6.120.1 "${all[@]}"
ok "a kernel whose version only looks alike" refuses "supports 6.12 only"
headers 6.12.9+deb12-amd64 X86_64=y KALLSYMS_ALL=y
ok "a kernel without live patches" refuses "CONFIG_LIVEPATCH"
headers 6.12.9+deb12-amd64 "${all[@]:0:3}" 'CC_VERSION_TEXT="x86_64-linux-gnu-gcc-0 (Debian) 1"'
ok "the kernel's compiler is missing" refuses "install gcc-0, or set CC"
headers 6.12.9+deb12-amd64 "${all[@]}"
ok "white space in the name of a folder" refuses "white space" B="$tmp/bu ild"

# ---- DKMS ----

same_version()
(
	# shellcheck disable=SC2034
	kernel_source_dir=
	# shellcheck disable=SC1091
	. ./dkms.conf
	cat VERSION
	[ "$PACKAGE_VERSION" = "$(cat VERSION)" ]
)

# What is installed is enough to get as far as the headers.
installs()
{
	local src

	src=$tmp/dest/usr/src/pageferry-$(cat VERSION)
	make -s install-kmod DESTDIR="$tmp/dest" && [ -f "$src/dkms.conf" ] &&
		[ -f "$src/include/linux/pageferry.h" ] && [ -f "$src/kmod/compat/symbols" ] || return
	rm -rf "$tmp/kdir"
	! make -s --no-print-directory -C "$src/kmod" KDIR="$tmp/kdir" 2>"$tmp/said" || return
	cat "$tmp/said"
	grep -q 'not the headers of a kernel' "$tmp/said"
}

ok "dkms.conf has the release's version" same_version
ok "the sources are installed for DKMS" installs

# ---- strip ----

link()
{
	cat >"$tmp/part.c" <<-'END'
		extern int hidden_function(void), exported_function(void), hidden_data;
		int *only_hidden = &hidden_data;
		int (*table[2])(void) __attribute__((section(".later"))) = { hidden_function };
		const char info[] __attribute__((section(".modinfo"))) = "livepatch=Y";
		int call(void) { return hidden_function() + hidden_data + exported_function(); }
	END
	printf 'hidden_function\nhidden_data\n' >"$tmp/symbols"
	printf '0x1\texported_function\tvmlinux\tEXPORT_SYMBOL\t\n' >"$tmp/symvers"
	cc -std=gnu11 -D_GNU_SOURCE -o "$tmp/klp_link" kmod/klp_link.c &&
		cc -g -O2 -fno-pic -mcmodel=kernel -c -o "$tmp/part.o" "$tmp/part.c" &&
		ld -r -o "$tmp/whole.ko" "$tmp/part.o" &&
		strip -g "$tmp/whole.ko" &&
		"$tmp/klp_link" "$tmp/whole.ko" "$tmp/linked.ko" "$tmp/symbols" "$tmp/symvers"
}

# What renumbering would change in the live patch relocations of a module: a line for each section
# with its target's name, and a line for each relocation, its symbol by name.
relocations()
{
	local name offset size target at info sections _

	sections=$(readelf -SW "$1" | sed -n 's/^ *\[ *//; s/\]//p')
	while read -r _ name _ _ offset size _ _ _ target _; do
		[[ $name == .klp.rela.* ]] || continue
		echo "$name $(awk -v n="$target" '$1 == n { print $2 }' <<<"$sections")"
		od -An -v -tx8 -w24 -j "$((16#$offset))" -N "$((16#$size))" "$1" |
			while read -r at info _; do
				echo "$at $(readelf -sW "$1" | awk -v n="$((16#${info:0:8})):" '$1 == n { print $7, $NF }')"
			done
	done <<<"$sections"
}

stays()
{
	relocations "$tmp/linked.ko" >"$tmp/before"
	cat "$tmp/before"
	[ "$(grep -c 'klp.sym.vmlinux.hidden_.*,0' "$tmp/before")" -eq 4 ] || return
	cp "$tmp/linked.ko" "$tmp/stripped.ko"
	strip -g "$tmp/stripped.ko" && strip -g "$tmp/stripped.ko" || return
	relocations "$tmp/stripped.ko" | diff "$tmp/before" -
}

ok "a module is linked" link
ok "strip leaves it as it is" stays
