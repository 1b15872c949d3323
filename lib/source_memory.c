// SPDX-License-Identifier: MIT
/* Source: memory of this process. */
#include <errno.h>
#include <stdlib.h>

#include "lib/uffd.h"

struct memory_source {
	struct ferry_source src;
	const char *base;
	uint64_t len;
};

static int answer_memory(struct ferry_source *src, const struct ferry_fault *fault,
			 struct ferry_answer *answer)
{
	struct memory_source *m = (struct memory_source *)src;

	/* What is there already may have been written to since. */
	if (fault->kind != FERRY_FAULT_MISSING)
		return ferry_source_shared()->answer(src, fault, answer);
	if (fault->offset > m->len || m->len - fault->offset < FERRY_PAGE)
		return -ERANGE;
	answer->kind = FERRY_ANSWER_COPY;
	answer->from = m->base + fault->offset;
	return 0;
}

static void free_memory(struct ferry_source *src)
{
	free(src);
}

int ferry_source_memory(struct ferry_source **src, const void *base, uint64_t len)
{
	struct memory_source *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	*m = (struct memory_source){ { .answer = answer_memory, .free = free_memory }, base, len };
	*src = (struct ferry_source *)m;
	return 0;
}
