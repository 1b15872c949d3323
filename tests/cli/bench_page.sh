#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# timeout: 120
#
# The page of pageferry bench in a browser: it is drawn without an error, for light and for dark, and asks for
# nothing else.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
# shellcheck source=scripts/scratch.sh
. scripts/scratch.sh
# shellcheck source=tests/lib/tap.sh
. tests/lib/tap.sh
for command in chromium gnuplot; do
	command -v $command >/dev/null || skip_all "there is no $command"
done
make_scratch
export HOME=$tmp
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# browse ARGUMENT...: with what the page says on the console in err
browse()
{
	timeout 60 chromium --headless --no-sandbox --disable-gpu --user-data-dir="$tmp/profile" \
		--enable-logging=stderr --log-level=0 "$@" "file://$tmp/page.html" >"$tmp/out" 2>"$tmp/err"
}

drawn()
{
	[ "$(grep -c '<svg' "$tmp/out")" -ge "$1" ] && ! grep -E 'CONSOLE|ERR_' "$tmp/err"
}

# different A B: both are pictures, and not the same
different()
{
	[ -s "$1" ] && [ -s "$2" ] && ! cmp -s "$1" "$2"
}

"$B/pageferry" bench --from doc/figures.json --html "$tmp/page.html" >"$tmp/out" 2>"$tmp/err"
ok "a page is made of the project's own figures" test -s "$tmp/page.html"
browse --dump-dom
ok "with its pictures, and without an error" drawn 3
browse --window-size=1100,3000 --screenshot="$tmp/light.png" --blink-settings=preferredColorScheme=1
browse --window-size=1100,3000 --screenshot="$tmp/dark.png" --blink-settings=preferredColorScheme=0
ok "light and dark look different" different "$tmp/light.png" "$tmp/dark.png"
plan
