/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <json-c/json.h>

#include "tools/qemu_opt.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const without_value[] = {
	"h",
	"help",
	"version",
	"S",
	"s",
	"snapshot",
	"no-fd-bootchk",
	"no-acpi",
	"no-hpet",
	"nographic",
	"enable-kvm",
	"no-reboot",
	"no-shutdown",
	"singlestep",
	"daemonize",
	"win2k-hack",
	"full-screen",
	"alt-grab",
	"ctrl-grab",
	"no-quit",
	"sdl",
	"curses",
	"portrait",
	"semihosting",
	"no-user-config",
	"nodefaults",
	"nodefconfig",
	"mem-prealloc",
	"only-migratable",
	"preconfig",
	"enable-fips",
	"usb",
	"enable-sync-profile",
	"async-teardown",
	"xen-attach",
	"old-param",
	"audio-help",
	"xen-domid-restrict",
};

static bool takes_value(const char *name, const char *next)
{
	if (!next)
		return false;
	for (size_t i = 0; i < COUNT(without_value); i++)
		if (!strcmp(name, without_value[i]))
			return false;
	/* A newer QEMU may have options without a value that aren't listed above. What looks like
	 * an option after one of those is one: to refuse too much is the safe side. Only a kernel's
	 * command line is free text. */
	return next[0] != '-' || !strcmp(name, "append");
}

int qemu_opt_next(char *const *argv, struct qemu_opt *opt)
{
	const char *arg = argv[0];

	opt->name = opt->value = NULL;
	if (!arg)
		return 0;
	if (arg[0] != '-') {
		opt->value = arg;
		return 1;
	}
	opt->name = arg + (arg[1] == '-' ? 2 : 1);
	if (!takes_value(opt->name, argv[1]))
		return 1;
	opt->value = argv[1];
	return 2;
}

static bool json_field(const char *value, const char *key, char *out, size_t size)
{
	struct json_object *root = json_tokener_parse(value), *field;
	bool found = false;

	if (json_object_is_type(root, json_type_object) &&
	    json_object_object_get_ex(root, key, &field)) {
		int len = snprintf(out, size, "%s", json_object_get_string(field));

		found = len >= 0 && (size_t)len < size;
	}
	json_object_put(root);
	return found;
}

/* Copy one field up to its single comma; returns what comes after it, NULL at the end. */
static const char *next_field(const char *in, char *out, size_t size)
{
	size_t len = 0;

	for (; *in && (*in != ',' || in[1] == ','); in++) {
		if (*in == ',')
			in++;
		if (len + 1 < size)
			out[len++] = *in;
	}
	out[len] = '\0';
	return *in ? in + 1 : NULL;
}

bool qemu_opt_field(const char *value, const char *implied, const char *key, char *out, size_t size)
{
	bool found = false, first = true;
	size_t room;
	char *field;

	if (!value)
		return false;
	if (value[0] == '{')
		return json_field(value, key, out, size);
	room = strlen(value) + 1;
	field = malloc(room);
	if (!field)
		return false;
	for (const char *in = value; in; first = false) {
		const char *word = "on";
		char *equals;

		in = next_field(in, field, room);
		equals = strchr(field, '=');
		if (equals) {
			*equals = '\0';
			word = equals + 1;
		}
		if (!equals && first && implied) {
			if (strcmp(implied, key) != 0)
				continue;
			word = field;
		} else if (strcmp(field, key) != 0) {
			continue;
		}
		found = strlen(word) < size;
		if (found)
			memcpy(out, word, strlen(word) + 1);
	}
	free(field);
	return found;
}

bool qemu_opt_true(const char *word)
{
	return !strcmp(word, "on") || !strcmp(word, "yes") || !strcmp(word, "true") ||
	       !strcmp(word, "y");
}

static int unit_shift(char unit)
{
	static const char units[] = "bkmgtpe";
	const char *at = unit ? strchr(units, tolower((unsigned char)unit)) : NULL;

	return at ? (int)(at - units) * 10 : -1;
}

/* What comes after the whole number: ".5" of "1.5G", or a lone point. An exponent is refused, as
 * QEMU does. */
static int read_fraction(const char **text, double *fraction)
{
	char *end;

	*fraction = 0;
	if (**text != '.')
		return 0;
	if (!isdigit((unsigned char)(*text)[1])) {
		(*text)++;
		return 0;
	}
	*fraction = strtod(*text, &end);
	for (; *text < end; (*text)++)
		if (tolower((unsigned char)**text) == 'e')
			return -EINVAL;
	return 0;
}

int qemu_opt_size(const char *text, uint64_t *bytes)
{
	bool hex = !strncasecmp(text, "0x", 2);
	unsigned long long whole;
	double fraction = 0, size;
	const char *at;
	char *end;
	int shift;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	whole = strtoull(text, &end, hex ? 16 : 10);
	at = end;
	if (errno || (!hex && read_fraction(&at, &fraction)))
		return -EINVAL;
	shift = *at ? unit_shift(*at) : isdigit((unsigned char)at[-1]) ? 20 : 0;
	if (shift < 0 || (*at && at[1]))
		return -EINVAL;
	size = ldexp((double)whole + fraction, shift);
	if (size >= ldexp(1, 62))
		return -EINVAL;
	*bytes = ((uint64_t)whole << shift) + (uint64_t)(ldexp(fraction, shift) + 0.5);
	return 0;
}

int qemu_opt_escape(const char *text, char *out, size_t size)
{
	size_t len = 0;

	for (; *text; text++) {
		if (len + 3 > size)
			return -ENAMETOOLONG;
		if (*text == ',')
			out[len++] = ',';
		out[len++] = *text;
	}
	out[len] = '\0';
	return 0;
}
