// SPDX-License-Identifier: MIT
/* See json_add.h. */
#include <stdio.h>
#include <unistd.h>

#include "tools/json_add.h"

void json_add_text(struct json_object *object, const char *key, const char *text)
{
	json_object_object_add(object, key, text ? json_object_new_string(text) : NULL);
}

void json_add_int(struct json_object *object, const char *key, int64_t value)
{
	json_object_object_add(object, key, json_object_new_int64(value));
}

void json_add_flag(struct json_object *object, const char *key, bool flag)
{
	json_object_object_add(object, key, json_object_new_boolean(flag));
}

struct json_object *json_findings(const char *kernel)
{
	struct json_object *object = json_object_new_object();

	json_add_text(object, "version", PAGEFERRY_VERSION);
	json_add_text(object, "kernel", kernel);
	json_add_int(object, "user", geteuid());
	return object;
}

void json_print(struct json_object *object)
{
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(object);
}
