// SPDX-License-Identifier: MIT
/* The note that says which snapshot a file is, see snap_ident.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/snap_ident.h"

_Static_assert(sizeof(struct snap_ident_note) == 64, "it is read as it lies there");

struct snap_ident_note snap_ident_note(const struct snap_ident *ident)
{
	struct snap_ident_note note = {.head = {.n_namesz = sizeof(SNAP_IDENT_NAME),
						.n_descsz = sizeof(*ident),
						.n_type = SNAP_IDENT_TYPE},
				       .name = SNAP_IDENT_NAME,
				       .ident = *ident};
	return note;
}

int snap_ident_read(struct snap_ident *ident, const struct snap_ident_note *note)
{
	if (note->head.n_namesz != sizeof(SNAP_IDENT_NAME) ||
	    memcmp(note->name, SNAP_IDENT_NAME, sizeof(SNAP_IDENT_NAME)) != 0 ||
	    note->head.n_type != SNAP_IDENT_TYPE || note->head.n_descsz != sizeof(*ident))
		return -ENODATA;
	if (note->ident.version != SNAP_IDENT_VER)
		return -EPROTONOSUPPORT;
	*ident = note->ident;
	return 0;
}

bool snap_id_is_none(const uint8_t *id)
{
	for (unsigned int i = 0; i < SNAP_ID_LEN; i++)
		if (id[i])
			return false;
	return true;
}

void snap_id_print(char *text, const uint8_t *id)
{
	for (unsigned int i = 0; i < SNAP_ID_LEN; i++)
		sprintf(text + 2 * (size_t)i, "%02x", id[i]);
}
