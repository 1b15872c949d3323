/* SPDX-License-Identifier: MIT */
/* Fields of a JSON object from somewhere else: wrong types and values out of range aren't there. */
#ifndef PAGEFERRY_JSON_GET_H
#define PAGEFERRY_JSON_GET_H

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

/** NULL if it isn't there or is no string. Belongs to @object. */
const char *json_get_string(struct json_object *object, const char *key);

/** NULL if it is no string, or without memory. To be freed. */
char *json_copy_string(struct json_object *object);

/** False, and @value untouched, if it isn't there, is no integer or isn't within @min..@max. */
bool json_get_int(struct json_object *object, const char *key, int64_t min, int64_t max,
		  int64_t *value);

/** NULL if it isn't there or isn't of @type. Belongs to @object. */
struct json_object *json_get(struct json_object *object, const char *key, enum json_type type);

/** NAN if it is no number. */
double json_number(struct json_object *value);

/** One object from @len bytes, nothing after it. NULL if it isn't that. */
struct json_object *json_read_object(const char *text, size_t len);

#endif
