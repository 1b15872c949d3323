#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 450
#
# pageferry vm upgrade where the kernel module is loaded: a VM within the guest of tests/guest/module.sh,
# which understands the same variables here. QEMU is the host's own.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}

qemu=$(command -v qemu-system-x86_64) || { echo "1..0 # SKIP no qemu-system-x86_64"; exit; }
for file in "$B/pageferry" "$B/libpageferry-preload.so"; do
	[ -f "$file" ] || { echo "$file is not built: run make" >&2; exit 1; }
done

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# What they are linked to, with the dynamic linker, one path a line
libraries()
{
	ldd "$@" | grep -o '/[^ ]* (0x' | sed 's/ (0x$//' | sort -u
}

# The option ROM that every PC has
firmware()
{
	local data

	"$qemu" -L help | while IFS= read -r data; do
		[ ! -f "$data/kvmvapic.bin" ] || realpath -s "$data/kvmvapic.bin"
	done
}

# Each where it is here; pageferry and its library in a folder of theirs
pack()
{
	local own=("$B/pageferry" "$B/libpageferry-preload.so") emulator files

	mkdir -p "$dir/root/pageferry" "$dir/root/usr/bin" || return
	cp "${own[@]}" "$dir/root/pageferry/" || return
	cp -L "$qemu" "$dir/root/usr/bin/qemu-system-x86_64" || return
	# Debian's QEMU has its emulator in a file of its own.
	mapfile -t emulator < <(find /usr/lib /usr/lib64 -path '*/qemu/accel-tcg-x86_64.so' 2>/dev/null)
	mapfile -t files < <(libraries "$qemu" "${own[@]}" "${emulator[@]}"; firmware)
	cp -L --parents "${emulator[@]}" "${files[@]}" "$dir/root" || return
	(cd "$dir/root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$dir/more"
}

command -v cpio >/dev/null || { echo "1..0 # SKIP no cpio"; exit; }
pack || { echo "QEMU can't be packed" >&2; exit 1; }
rm -rf "$dir/root"
MORE=$dir/more TEST=${TEST-vm/probe,vm/huge_pages,vm/small_pages,vm/strict} LIMIT=${LIMIT:-430} tests/guest/module.sh
