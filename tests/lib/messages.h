/* SPDX-License-Identifier: MIT */
#ifndef TEST_MESSAGES_H
#define TEST_MESSAGES_H

#include <stddef.h>

#include "lib/wire.h"

/* Well-formed ones, empty of meaning: those that neither end may hear just after the offer. */
struct message {
	enum wire_type type;
	const void *payload;
	size_t len;
};

#define MESSAGES 11u
extern const struct message messages[MESSAGES];

#endif
