// SPDX-License-Identifier: MIT
/* What can be asked, and how it is asked for a short answer and for one that can be judged. */
#include <string.h>

#include "tools/bench.h"

const struct bench_question bench_questions[] = {
	{
		.name = "batch",
		.about = "an operation for each page, by pages in a call",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "5"},
		.quick_s = 4,
		.full_s = 40,
	},
	{
		.name = "fault",
		.about = "from a fault to the thread going on",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "7"},
		.quick_s = 2,
		.full_s = 30,
	},
	{
		.name = "handover",
		.about = "memory to another process, by each way",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "3"},
		.quick_s = 4,
		.full_s = 60,
	},
	{
		.name = "push",
		.about = "private memory pushed into another process",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "5"},
		.quick_s = 2,
		.full_s = 40,
	},
	{
		.name = "continue",
		.about = "shared memory, until each page is touched",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "5"},
		.quick_s = 1,
		.full_s = 20,
	},
	{
		.name = "save",
		.about = "a program that saves itself, beside fork()",
		.home = BENCH_INSTALLED,
		.quick = {"small_anywhere"},
		.full = {"--rounds", "1"},
		.quick_s = 4,
		.full_s = 100,
	},
	{
		.name = "snapshot",
		.about = "another process saved, beside gcore and fork()",
		.home = BENCH_INSTALLED,
		.quick = {"auto", "small_anywhere"},
		.full = {"--rounds", "1", "auto"},
		.quick_s = 8,
		.full_s = 130,
	},
	{
		.name = "incremental",
		.about = "only what has changed",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "3"},
		.quick_s = 5,
		.full_s = 60,
	},
	{
		.name = "redis",
		.about = "a server saved under load, beside BGSAVE",
		.home = BENCH_INSTALLED,
		.full = {"--rounds", "1"},
		.quick_s = 10,
		.full_s = 110,
	},
	{
		.name = "vm",
		.about = "a VM whose QEMU is replaced, beside QEMU's own ways",
		.home = BENCH_TREE,
		.full = {"--runs", "2", "--ram", "512,2048"},
		.quick_s = 15,
		.full_s = 150,
	},
	{
		.name = "module",
		.about = "pageferry.ko, in instructions, in a guest",
		.home = BENCH_SCRIPT,
		.quick_s = 40,
		.full_s = 180,
		.by_name = true,
	},
};

const size_t bench_nquestions = sizeof(bench_questions) / sizeof(bench_questions[0]);

const struct bench_question *bench_question(const char *name)
{
	for (size_t i = 0; i < bench_nquestions; i++)
		if (!strcmp(bench_questions[i].name, name))
			return &bench_questions[i];
	return NULL;
}
