/* SPDX-License-Identifier: MIT */
/* kv.c reads what it has saved. A file is believed no more than a client. */
#ifndef KV_LOAD_H
#define KV_LOAD_H

#include "kv_save.h"

/* Could a client have sent it? */
static bool load_text(const char *text, size_t size, const char *never)
{
	const char *end = memchr(text, 0, size);
	return end && !strpbrk(text, never);
}

static bool load_entry(struct entry *e)
{
	struct entry **at;

	if (!load_text(e->key, sizeof(e->key), " \n") ||
	    !load_text(e->value, sizeof(e->value), "\n"))
		return false;
	e->next = NULL;
	at = place_of(e->key);
	if (*at)
		return false;
	*at = e;
	return true;
}

static bool load_store(struct store *store, size_t len)
{
	if (len < 4096 || memcmp(store->layout, KV_LAYOUT, sizeof(KV_LAYOUT)) != 0 ||
	    store->nentries > ENTRIES || len != save_len(store))
		return false;
	for (unsigned int i = 0; i < store->nentries; i++)
		if (!load_entry(&store->entries[i]))
			return false;
	return true;
}

/* No file yet is an empty store. */
static int load(const char *file)
{
	struct store *store = &arena->store;
	size_t len = 0, room = sizeof(*store);
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0 && errno != ENOENT)
		return -errno;
	memcpy(store->layout, KV_LAYOUT, sizeof(KV_LAYOUT));
	if (fd < 0)
		return 0;
	while ((n = read(fd, (char *)store + len, room - len)) > 0)
		len += (size_t)n;
	int ret = n < 0 ? -errno : load_store(store, len) ? 0 : -EBADMSG;
	close(fd);
	if (ret == -EBADMSG)
		fprintf(stderr, "kv: %s was not saved by this version of kv\n", file);
	return ret;
}

#endif
