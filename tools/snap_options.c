// SPDX-License-Identifier: MIT
/* pageferry snapshot: its command line. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/snap.h"

#define ME "pageferry snapshot"

static const char help[] =
	"usage: pageferry snapshot --pid PID -o FILE [OPTION ...]\n"
	"       pageferry snapshot merge BASE INCREMENT ... -o FILE [--compress]\n"
	"       pageferry snapshot --pid PID --untrack\n"
	"\n"
	"Save the memory and the registers of a running process as a core file. It stands\n"
	"still for a moment, of which the file is, and runs while it is saved.\n"
	"\n"
	"  --pid PID                 the process\n"
	"  -o, --output FILE         the core file; it appears when it is whole\n"
	"  --track                   have a process in the background find out what changes from now on\n"
	"  --incremental BASE        only what has changed since BASE, the last one that was tracked\n"
	"  --compress                compress it with zstd: \"zstd -d\" gives the core file\n"
	"  --limit-rate BYTES        write at most so much a second; K, M, G as usual\n"
	"  --way sync|async|auto     freeze it, and save it while who writes waits; save it while it\n"
	"                            runs, and what it has changed again, and freeze only what is\n"
	"                            left if that gets no less; or as it seems best, the default\n"
	"  --max-extra-memory BYTES  use at most so much for what the process changes before it is\n"
	"                            saved: then it waits; 8M at least\n"
	"  --json                    print the report for programs\n"
	"\n"
	"Exit status: 0: done; 1: failed; 2: usage; 3: the process has unmapped memory before it was\n"
	"saved, and the file is without it.\n";

static bool read_bytes(const char *word, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;

	errno = 0;
	unsigned long long value = strtoull(word, &end, 10);
	if (errno || end == word || word[0] < '0' || word[0] > '9')
		return false;
	unsigned int shift = 0;
	if (*end && (unit = strchr(units, *end))) {
		shift = 10 * (unsigned int)(unit - units + 1);
		end++;
	}
	if (*end || !value || value > (UINT64_MAX >> 2 >> shift))
		return false;
	*bytes = value << shift;
	return true;
}

static bool read_pid(const char *word, pid_t *pid)
{
	char *end;

	errno = 0;
	long value = strtol(word, &end, 10);
	*pid = (pid_t)value;
	return !errno && word[0] >= '0' && word[0] <= '9' && !*end && value > 0 && *pid == value;
}

static bool read_way(const char *word, struct snap_options *o)
{
	static const char *const ways[] = {
		[WAY_AUTO] = "auto", [WAY_SYNC] = "sync", [WAY_ASYNC] = "async"};

	for (unsigned int i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (strcmp(word, ways[i]) != 0)
			continue;
		o->way = i;
		return true;
	}
	return false;
}

static int read_option(struct snap_options *o, int letter, const char *word)
{
	switch (letter) {
	case 'p':
		return read_pid(optarg, &o->pid) ? 0
						 : say_usage(ME, "--pid %s: not a process", optarg);
	case 'o':
		o->path = optarg;
		return 0;
	case 'r':
		return read_bytes(optarg, &o->rate)
			       ? 0
			       : say_usage(ME,
					   "--limit-rate %s: not a number of bytes, such as 200M",
					   optarg);
	case 'm':
		return read_bytes(optarg, &o->max_extra) && o->max_extra >= FERRY_SNAPSHOT_EXTRA_MIN
			       ? 0
			       : say_usage(
					 ME,
					 "--max-extra-memory %s: not a number of bytes from 8M on",
					 optarg);
	case 'b':
		o->base = optarg;
		return 0;
	case 't':
		o->track = true;
		return 0;
	case 'u':
		o->untrack = true;
		return 0;
	case 'z':
		o->compress = true;
		return 0;
	case 'w':
		return read_way(optarg, o)
			       ? 0
			       : say_usage(ME, "--way %s: there is sync, async and auto", optarg);
	case 'j':
		o->json = true;
		return 0;
	case ':':
		return say_usage(ME, "%s: something must follow", word);
	default:
		return say_usage(ME, "%s: not an option", word);
	}
}

static int check_way(const struct snap_options *o)
{
	if (o->way != WAY_AUTO && (o->track || o->base))
		return say_usage(ME,
				 "--way is for a single snapshot: --track and --incremental have "
				 "their own");
	if (o->way == WAY_ASYNC && o->compress)
		return say_usage(ME,
				 "--way async writes some of the file twice, which can't be done "
				 "to a compressed one: leave out --compress");
	return 0;
}

int snap_read_options(int argc, char **argv, struct snap_options *o)
{
	static const struct option known[] = {{"pid", required_argument, NULL, 'p'},
					      {"output", required_argument, NULL, 'o'},
					      {"limit-rate", required_argument, NULL, 'r'},
					      {"max-extra-memory", required_argument, NULL, 'm'},
					      {"compress", no_argument, NULL, 'z'},
					      {"track", no_argument, NULL, 't'},
					      {"untrack", no_argument, NULL, 'u'},
					      {"incremental", required_argument, NULL, 'b'},
					      {"way", required_argument, NULL, 'w'},
					      {"json", no_argument, NULL, 'j'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int letter, status = 0;

	opterr = 0;
	optind = 0;
	while (!status && (letter = getopt_long(argc, argv, ":o:h", known, NULL)) != -1) {
		if (letter == 'h') {
			fputs(help, stdout);
			return 1;
		}
		status = read_option(o, letter, argv[optind > 1 ? optind - 1 : 1]);
	}
	if (status)
		return status;
	if (optind < argc)
		return say_usage(ME, "%s: nothing was expected here", argv[optind]);
	if (!o->pid)
		return say_usage(ME, "--pid is missing");
	if (o->untrack)
		return o->path || o->track || o->base
			       ? say_usage(ME, "--untrack makes no file: leave the rest out")
			       : 0;
	if (!o->path || !*o->path)
		return say_usage(ME, "-o is missing");
	return check_way(o);
}
