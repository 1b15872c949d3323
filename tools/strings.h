/* SPDX-License-Identifier: MIT */
/* A growing list of strings that ends in NULL, as exec wants it. */
#ifndef PAGEFERRY_STRINGS_H
#define PAGEFERRY_STRINGS_H

#include <stddef.h>

struct strings {
	char **items;
	size_t n;
};

/** Add a copy of @text. Returns 0 or -ENOMEM. */
int strings_add(struct strings *strings, const char *text);
int strings_addf(struct strings *strings, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void strings_free(struct strings *strings);

#endif
