/* SPDX-License-Identifier: MIT */
/*
 * Which snapshot a file is, and which one an incremental one is to be added to. It is the first
 * note of the file, so that it is found without the rest.
 */
#ifndef PAGEFERRY_SNAP_IDENT_H
#define PAGEFERRY_SNAP_IDENT_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>

#define SNAP_ID_LEN     16u
#define SNAP_IDENT_NAME "pageferry"
#define SNAP_IDENT_TYPE 1u
#define SNAP_IDENT_VER  1u
#define SNAP_NOTES_AT   sizeof(Elf64_Ehdr)
/* A segment without contents: it is as in the base. Other programs pass over it. */
#define SNAP_PT_SAME (PT_LOOS + 0x7066u)

struct snap_ident {
	uint32_t version, reserved;
	uint8_t id[SNAP_ID_LEN];
	uint8_t base[SNAP_ID_LEN]; /* zeros: it stands for itself */
};

/* As it lies in the file. */
struct snap_ident_note {
	Elf64_Nhdr head;
	char name[12];
	struct snap_ident ident;
};

/** What a file begins with is read: 0, -ENODATA: it has none; -EPROTONOSUPPORT. */
int snap_ident_read(struct snap_ident *ident, const struct snap_ident_note *note);
struct snap_ident_note snap_ident_note(const struct snap_ident *ident);
bool snap_id_is_none(const uint8_t *id);
/** For people. @text: 33 bytes. */
void snap_id_print(char *text, const uint8_t *id);

#endif
