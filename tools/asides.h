/* SPDX-License-Identifier: MIT */
/*
 * A second name for the socket of an old QEMU, PATH.pageferry, since the new QEMU takes PATH
 * itself. Which ones there are stands in vm.json before they are made, so that they can be put in
 * order when the keeper was killed. Nothing else of such a name is ever touched.
 */
#ifndef PAGEFERRY_ASIDES_H
#define PAGEFERRY_ASIDES_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define ASIDE_SUFFIX ".pageferry"

struct aside {
	char *name;        /* absolute; without the suffix it is the socket's own */
	uint64_t dev, ino; /* of the socket */
};

struct asides {
	struct aside *items;
	unsigned int n;
};

/** Plan one for the socket at @path, which is there. Returns 0 or -errno. */
int asides_add(struct asides *asides, const char *path);
void asides_free(struct asides *asides);

/** Make it. Returns 0; -EEXIST: something else has the name; -errno. */
int aside_link(const struct aside *aside);

/** The socket's own name, from the other one. False: it can't be such a name. */
bool aside_path(const struct aside *aside, char path[PATH_MAX]);

/** Is it still there, and what it was made for? */
bool aside_is_there(const struct aside *aside);

/** Make PATH that socket again; or leave it alone, for the one that has it now. */
void aside_restore(const struct aside *aside);
void aside_remove(const struct aside *aside);

#endif
