# shellcheck shell=bash
# SPDX-License-Identifier: MIT

# whole_lines FILE FROM: its lines after so many bytes, but not one that is still being written
whole_lines()
{
	{ tail -c "+$(($2 + 1))" "$1"; echo; } | sed '$d'
}
