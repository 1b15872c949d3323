// SPDX-License-Identifier: MIT
/*
 * Any bytes as a request to the kernel module: kmod/plan.h must let through what is well formed and
 * nothing else, and make steps of it that one page table on either side has room for.
 *
 * As it is: build/tests/fuzz/plan [SECONDS [SEED]] runs mutations of valid requests.
 * For libFuzzer: make B=/tmp/fuzz CC=clang SAN=-fsanitize=fuzzer,address CPPFLAGS=-DLIBFUZZER
 * /tmp/fuzz/tests/fuzz/plan
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kmod/plan.h"

#define TABLE 0x200000ull
#define SOME  6 /* steps at the start, and tables at the end */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

static bool is_in_user_space(uint64_t start, uint64_t len)
{
	uint64_t end;

	return !__builtin_add_overflow(start, len, &end) && end <= 0x7ffffffff000ull;
}

/* What move.c and side.c don't ask again. */
static bool is_well_formed(const struct pageferry_move *m)
{
	bool only = m->mode & 16;

	return m->len && ((m->dst | m->src | m->len) & (only ? TABLE - 1 : 0xfff)) == 0 &&
	       m->mode < 32 && (m->mode & 12) != 12 && (!only || (m->mode & 8)) &&
	       is_in_user_space(m->dst, m->len) && is_in_user_space(m->src, m->len);
}

static void must_fit(const struct pageferry_move *m, const struct pf_step *step)
{
	must(step->len && step->len <= m->len, "a step goes on, and not too far");
	must(step->len % 4096 == 0, "a step is whole pages");
	must(m->dst / TABLE == (m->dst + step->len - 1) / TABLE, "one table at the destination");
	must(m->src / TABLE == (m->src + step->len - 1) / TABLE, "one table at the source");
	must(step->whole == (m->dst % TABLE == 0 && m->src % TABLE == 0 && m->len >= TABLE),
	     "whole: a huge page's place on both sides");
	/* Shorter than it could be would be a loss of speed, where every step costs a flush. */
	must(step->len == m->len || (m->dst + step->len) % TABLE == 0 ||
		     (m->src + step->len) % TABLE == 0,
	     "a step goes as far as it can");
}

static void advance(struct pageferry_move *m, uint64_t len)
{
	m->dst += len;
	m->src += len;
	m->len -= len;
}

/* The first of which all of a table moves is the first that is at one on both sides. */
static void table_must_fit(const struct pageferry_move *m)
{
	uint64_t to = pf_plan_to_table(m->dst, m->src, m->len);

	must(to <= m->len && to % 4096 == 0, "whole pages, and not too far");
	if (to == m->len)
		must(m->dst % TABLE != m->src % TABLE || m->len < 2 * TABLE, "no table where there is room");
	else
		must((m->dst + to) % TABLE == 0 && (m->src + to) % TABLE == 0 && to < TABLE &&
			     m->len - to >= TABLE,
		     "a table is covered");
}

/* A request may have millions of steps, which are alike in the middle. */
static void go_through(struct pageferry_move m)
{
	for (unsigned int n = 0; m.len; n++) {
		struct pf_step step = pf_plan_step(m.dst, m.src, m.len);

		must_fit(&m, &step);
		advance(&m, step.len);
		if (n == SOME && m.len > SOME * TABLE)
			advance(&m, (m.len / TABLE - SOME) * TABLE);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pageferry_move move = {0}, before;
	int ret;

	memcpy(&move, data, size < sizeof(move) ? size : sizeof(move));
	before = move;
	ret = pf_plan_check(&move);
	must(ret == 0 || ret == -EINVAL, "0 or EINVAL");
	must(!memcmp(&move, &before, sizeof(move)), "the request stays as it is");
	must((ret == 0) == is_well_formed(&move), "only what is well formed is let through");
	if (ret == 0) {
		table_must_fit(&move);
		go_through(move);
	}
	return 0;
}

#ifndef LIBFUZZER
/* ---- without libFuzzer: mutations of valid requests for some seconds */

static uint64_t state;

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static uint64_t any_address(void)
{
	static const uint64_t special[] = {0, TABLE, 1ull << 30, PF_TASK_SIZE / 2,
					   PF_TASK_SIZE - 16 * TABLE};

	return special[any(sizeof(special) / sizeof(special[0]))] + any(1536) * 4096;
}

static struct pageferry_move make_move(void)
{
	struct pageferry_move m = {.size = sizeof(m), .mode = (uint32_t)any(32), .src_uffd = -1};

	m.dst = any_address();
	/* Often at the same place within a table, so that there are whole ones. */
	m.src = any(2) ? any_address() : m.dst % TABLE + any(64) * TABLE;
	m.len = (1 + any(any(2) ? 4 : 5000)) * 4096;
	/* And whole ones alone. */
	if (any(4) == 0) {
		m.dst -= m.dst % TABLE;
		m.src -= m.src % TABLE;
		m.len += TABLE - m.len % TABLE;
	}
	if (any(16) == 0)
		m.len = PF_TASK_SIZE - (m.dst > m.src ? m.dst : m.src);
	return m;
}

static void mutate(uint8_t *data, size_t size)
{
	static const uint64_t special[] = {0,          1,          0xfff,
					   0x1000,     1ull << 47, (1ull << 47) - 0x1000,
					   1ull << 63, -0x1000ull, -1ull};

	for (uint64_t n = any(4); n; n--) {
		size_t at = any(size);
		uint64_t value = special[any(sizeof(special) / sizeof(special[0]))];

		switch (any(3)) {
		case 0:
			data[at] ^= (uint8_t)(1u << any(8));
			break;
		case 1:
			data[at] = (uint8_t)any(256);
			break;
		default:
			at &= ~7ull;
			memcpy(data + at, &value, sizeof(value));
		}
	}
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3);
	unsigned long runs = 0, good = 0;

	state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	state |= 1;
	printf("1..1\n# seed %llu\n", (unsigned long long)state);
	fflush(stdout);
	while (time(NULL) < end)
		for (unsigned int i = 0; i < 1000; i++, runs++) {
			struct pageferry_move move = make_move();

			mutate((uint8_t *)&move, sizeof(move));
			good += !pf_plan_check(&move);
			LLVMFuzzerTestOneInput((const uint8_t *)&move, sizeof(move));
		}
	must(!runs || (good > runs / 10 && good < runs), "requests of both kinds");
	printf("# %lu inputs, %lu of them good\nok 1 - requests\n", runs, good);
	return 0;
}
#endif
