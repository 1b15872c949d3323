# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Sourced: make_scratch sets $tmp to a new folder, which goes when the script and all that it has started are
# gone, however they end.

make_scratch()
{
	local life

	tmp=$(mktemp -d) || exit 1
	# A script that is killed by SIGKILL can't clean up any more. All that it starts inherits $life, so that
	# the end of the input is the end of the last of them. A session of its own: whoever kills the group of the
	# script doesn't mean this one.
	# shellcheck disable=SC2016,SC2034
	exec {life}> >(exec setsid sh -c 'cat; rm -rf -- "$1"' sh "$tmp" >/dev/null 2>&1)
}
