/* SPDX-License-Identifier: MIT */
/* What the commands that find something out print for programs. */
#ifndef PAGEFERRY_JSON_ADD_H
#define PAGEFERRY_JSON_ADD_H

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

/** @text NULL: null. */
void json_add_text(struct json_object *object, const char *key, const char *text);
void json_add_int(struct json_object *object, const char *key, int64_t value);
void json_add_flag(struct json_object *object, const char *key, bool flag);

/** An object that says by which version, on which kernel, and by which user it was found out. */
struct json_object *json_findings(const char *kernel);
/** Print it, and free it. */
void json_print(struct json_object *object);

#endif
