/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/asides.h"

/* The keeper's directory is QEMU's, too; who reads the name later may be elsewhere. */
static char *make_name(const char *path)
{
	char here[PATH_MAX] = "", *name;

	if (path[0] != '/' && !getcwd(here, sizeof(here)))
		return NULL;
	return asprintf(&name, "%s%s%s" ASIDE_SUFFIX, here, here[0] ? "/" : "", path) < 0 ? NULL
											  : name;
}

static bool has(const struct asides *asides, const char *name)
{
	for (unsigned int i = 0; i < asides->n; i++)
		if (!strcmp(asides->items[i].name, name))
			return true;
	return false;
}

static int append(struct asides *asides, char *name, const struct stat *st)
{
	struct aside *items = realloc(asides->items, (asides->n + 1) * sizeof(*items));

	if (!items)
		return -ENOMEM;
	items[asides->n++] = (struct aside){.name = name, .dev = st->st_dev, .ino = st->st_ino};
	asides->items = items;
	return 0;
}

int asides_add(struct asides *asides, const char *path)
{
	struct stat st;
	char *name;
	int err;

	if (lstat(path, &st))
		return -errno;
	name = make_name(path);
	if (!name)
		return errno ? -errno : -ENOMEM;
	err = has(asides, name) ? -EALREADY : append(asides, name, &st);
	if (err)
		free(name);
	return err == -EALREADY ? 0 : err;
}

void asides_free(struct asides *asides)
{
	for (unsigned int i = 0; i < asides->n; i++)
		free(asides->items[i].name);
	free(asides->items);
	*asides = (struct asides){0};
}

bool aside_path(const struct aside *aside, char path[PATH_MAX])
{
	size_t suffix = sizeof(ASIDE_SUFFIX) - 1, len = strlen(aside->name);

	if (aside->name[0] != '/' || len <= suffix + 1 || len - suffix >= PATH_MAX ||
	    strcmp(aside->name + len - suffix, ASIDE_SUFFIX) != 0)
		return false;
	snprintf(path, PATH_MAX, "%.*s", (int)(len - suffix), aside->name);
	return true;
}

int aside_link(const struct aside *aside)
{
	char path[PATH_MAX];

	if (!aside_path(aside, path))
		return -EINVAL;
	return link(path, aside->name) ? -errno : 0;
}

bool aside_is_there(const struct aside *aside)
{
	char path[PATH_MAX];
	struct stat st;

	return aside_path(aside, path) && !lstat(aside->name, &st) && S_ISSOCK(st.st_mode) &&
	       st.st_dev == aside->dev && st.st_ino == aside->ino;
}

void aside_restore(const struct aside *aside)
{
	char path[PATH_MAX];

	if (aside_is_there(aside) && aside_path(aside, path))
		rename(aside->name, path);
	/* If nobody has taken PATH both names are one file, and rename() leaves them both. */
	aside_remove(aside);
}

void aside_remove(const struct aside *aside)
{
	if (aside_is_there(aside))
		unlink(aside->name);
}
