/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/strings.h"

/* Takes @text over. */
static int append(struct strings *strings, char *text)
{
	char **items = text ? realloc(strings->items, (strings->n + 2) * sizeof(*items)) : NULL;

	if (!items) {
		free(text);
		return -ENOMEM;
	}
	items[strings->n++] = text;
	items[strings->n] = NULL;
	strings->items = items;
	return 0;
}

int strings_add(struct strings *strings, const char *text)
{
	return append(strings, strdup(text));
}

int strings_addf(struct strings *strings, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vasprintf(&text, format, args);
	va_end(args);
	return append(strings, len < 0 ? NULL : text);
}

void strings_free(struct strings *strings)
{
	for (size_t i = 0; i < strings->n; i++)
		free(strings->items[i]);
	free(strings->items);
	strings->items = NULL;
	strings->n = 0;
}
