/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tools/tool.h"

/* U+0080 to U+009F steer a terminal as well as a single escape does: U+009B is ESC and [. */
static bool is_control(const unsigned char *c)
{
	return c[0] < 0x20 || c[0] == 0x7f || (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f);
}

void say_plain(char *text)
{
	for (char *c = text; *c; c++) {
		if (!is_control((unsigned char *)c))
			continue;
		if ((unsigned char)*c == 0xc2)
			*c++ = ' ';
		*c = ' ';
	}
}

int why_set(struct why *why, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why->text, sizeof(why->text), format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
	say_plain(why->text);
	return error;
}

__attribute__((format(printf, 1, 0))) static void vsay(const char *format, va_list args,
						       const char *after)
{
	char text[1024];

	vsnprintf(text, sizeof(text), format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	say_plain(text);
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
