#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 450
#
# pageferry vm upgrade where the kernel module is loaded: a VM within the guest of tests/guest/module.sh,
# which understands the same variables here. QEMU is the host's own.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}

command -v qemu-system-x86_64 >/dev/null || { echo "1..0 # SKIP no qemu-system-x86_64"; exit; }
command -v cpio >/dev/null || { echo "1..0 # SKIP no cpio"; exit; }
for file in "$B/pageferry" "$B/libpageferry-preload.so"; do
	[ -f "$file" ] || { echo "$file is not built: run make" >&2; exit 1; }
done

# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/guest/pack.sh
. tests/guest/pack.sh
make_scratch
guest=
trap '[ -z "$guest" ] || { kill "$guest" && wait "$guest"; }; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# pageferry and its library are in a folder of theirs.
fill()
{
	local own=("$B/pageferry" "$B/libpageferry-preload.so") files

	pack_begin && pack_qemu && mkdir "$root/pageferry" && cp "${own[@]}" "$root/pageferry/" || return
	mapfile -t files < <(pack_libraries "${own[@]}")
	pack "${files[@]}" && pack_end "$tmp/more"
}

fill || { echo "QEMU can't be packed" >&2; exit 1; }
# In the background, since a signal has to wait for what isn't.
MORE=$tmp/more TEST=${TEST-vm/probe,vm/huge_pages,vm/small_pages,vm/strict} LIMIT=${LIMIT:-430} \
	setpriv --pdeathsig TERM tests/guest/module.sh &
guest=$!
wait "$guest"
status=$?
guest=
exit $status
