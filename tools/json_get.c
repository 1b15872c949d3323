/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "tools/json_get.h"

#define DEPTH 32

struct json_object *json_get(struct json_object *object, const char *key, enum json_type type)
{
	struct json_object *field;

	if (!json_object_is_type(object, json_type_object) ||
	    !json_object_object_get_ex(object, key, &field) || !json_object_is_type(field, type))
		return NULL;
	return field;
}

const char *json_get_string(struct json_object *object, const char *key)
{
	struct json_object *field = json_get(object, key, json_type_string);

	return field ? json_object_get_string(field) : NULL;
}

char *json_copy_string(struct json_object *object)
{
	if (!json_object_is_type(object, json_type_string))
		return NULL;
	return strdup(json_object_get_string(object));
}

bool json_get_int(struct json_object *object, const char *key, int64_t min, int64_t max,
		  int64_t *value)
{
	struct json_object *field = json_get(object, key, json_type_int);
	int64_t number;

	if (!field)
		return false;
	number = json_object_get_int64(field);
	if (number < min || number > max)
		return false;
	*value = number;
	return true;
}

double json_number(struct json_object *value)
{
	return json_object_is_type(value, json_type_double) ||
			       json_object_is_type(value, json_type_int)
		       ? json_object_get_double(value)
		       : (double)NAN;
}

struct json_object *json_read_object(const char *text, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(DEPTH);
	struct json_object *object;

	if (!tokener || len > INT_MAX)
		return NULL;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	object = json_tokener_parse_ex(tokener, text, (int)len);
	if (!json_object_is_type(object, json_type_object)) {
		json_object_put(object);
		object = NULL;
	}
	json_tokener_free(tokener);
	return object;
}
