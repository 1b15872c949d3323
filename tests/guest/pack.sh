# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Packs programs of this machine for a guest: each where it is here, with what it is linked to. Sourced, with
# $tmp: an archive for the initramfs, as MORE of tests/guest/boot.sh, is made of the folder $root.

# The folders that are links of the root's here are links there.
pack_begin()
{
	local link

	# shellcheck disable=SC2154 # set by the caller
	root=$tmp/root
	mkdir -p "$root/usr" || return
	for link in /bin /sbin /lib /lib64; do
		[ ! -L "$link" ] || { mkdir -p "$root/$(readlink "$link")" && cp -P "$link" "$root/"; } || return
	done
}

# What they are linked to, with the dynamic linker, one path a line
pack_libraries()
{
	ldd "$@" 2>/dev/null | grep -o '/[^ ]* (0x' | sed 's/ (0x$//' | sort -u
}

# pack FILE...: programs, libraries and whatever else, as absolute paths
pack()
{
	local files merged=

	# One file may be named in both ways where /lib is a link to /usr/lib.
	[ ! -L /lib ] || merged='s,^/(bin|sbin|lib|lib64)/,/usr/\1/,'
	mapfile -t files < <({ printf '%s\n' "$@"; pack_libraries "$@"; } | sed -E "$merged" | sort -u)
	cp -L --parents "${files[@]}" "$root"
}

# pack_tree FOLDER...: with all that is in it; what one of them lacks isn't missed
pack_tree()
{
	local folder

	for folder; do
		[ ! -d "$folder" ] || cp -rL --parents "$(realpath -s "$folder")" "$root" || return
	done
}

# Debian's QEMU has its emulator in a file of its own. Its other data: what every PC has.
pack_qemu()
{
	local qemu data

	qemu=$(command -v qemu-system-x86_64) || return
	pack "$qemu" || return
	find /usr/lib /usr/lib64 -path '*/qemu/accel-tcg-x86_64.so' -print 2>/dev/null >"$tmp/emulator"
	while IFS= read -r data; do
		pack "$data" || return
	done <"$tmp/emulator"
	"$qemu" -L help >"$tmp/data" || return
	while IFS= read -r data; do
		pack_tree "$data" || return
	done <"$tmp/data"
}

# pack_end FILE
pack_end()
{
	(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$1" && rm -rf "$root"
}
