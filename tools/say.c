/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/tool.h"

/* What is said may hold another program's words: they must neither break the line nor steer the
 * terminal. */
static void make_plain(char *text)
{
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = ' ';
}

int why_set(struct why *why, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why->text, sizeof(why->text), format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
	make_plain(why->text);
	return error;
}

__attribute__((format(printf, 1, 0))) static void vsay(const char *format, va_list args,
						       const char *after)
{
	char text[1024];

	vsnprintf(text, sizeof(text), format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	make_plain(text);
	fprintf(stderr, "pageferry: %s%s\n", text, after);
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsay(format, args, "");
	va_end(args);
}

int say_usage(const char *command, const char *format, ...)
{
	char after[96];
	va_list args;

	snprintf(after, sizeof(after), ": see '%s --help'", command);
	va_start(args, format);
	vsay(format, args, after);
	va_end(args);
	return EXIT_USAGE;
}
