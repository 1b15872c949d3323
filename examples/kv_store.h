/* SPDX-License-Identifier: MIT */
/*
 * The arena of kv.c, and the commands on the store in it. All that an upgrade must keep is here,
 * half-read requests and half-sent answers included. Every version maps the arena at the same
 * address, so it may hold pointers.
 */
#ifndef KV_STORE_H
#define KV_STORE_H

#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Another one for each change of struct arena. */
#ifndef KV_LAYOUT
#define KV_LAYOUT "kv layout 1"
#endif
#define ARENA_ADDR ((void *)0x200000000000)
#define ARENA_LEN  ((size_t)256 << 20)
#define CLIENTS    512u
#define BUCKETS    65536u
#define ENTRIES    200000u
#define REPLY_ROOM 1024u /* the longest answer is shorter */

struct entry {
	struct entry *next;
	char key[64], value[952];
};

struct client {
	bool used;
	int fd;
	unsigned int in_len, out_len;
	char in[2048], out[8192];
};

struct arena {
	unsigned int upgrades, nclients, nentries;
	struct client clients[CLIENTS];
	struct entry *buckets[BUCKETS], entries[ENTRIES];
};
_Static_assert(sizeof(struct arena) <= ARENA_LEN, "the arena is too small");

static struct arena *const arena = ARENA_ADDR;

static struct entry *find(const char *key, bool make)
{
	uint32_t hash = 2166136261u;

	for (const char *p = key; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	struct entry **at = &arena->buckets[hash % BUCKETS];
	while (*at && strcmp((*at)->key, key) != 0)
		at = &(*at)->next;
	if (!*at && make && arena->nentries < ENTRIES) {
		*at = &arena->entries[arena->nentries++];
		snprintf((*at)->key, sizeof((*at)->key), "%s", key);
	}
	return *at;
}

__attribute__((format(printf, 2, 3))) static void reply(struct client *c, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	c->out_len += (unsigned int)vsnprintf(c->out + c->out_len, REPLY_ROOM, format, args);
	va_end(args);
}

static void increment(struct client *c, const char *key)
{
	struct entry *e = find(key, true);
	char *end = NULL;
	long long n = e ? strtoll(e->value, &end, 10) : 0;

	if (!e || *end || n == LLONG_MAX || n == LLONG_MIN) {
		reply(c, e ? "error: not a number\n" : "error: full\n");
		return;
	}
	snprintf(e->value, sizeof(e->value), "%lld", n + 1);
	reply(c, "= %s\n", e->value);
}

static void execute(struct client *c, char *line)
{
	const char *command = strsep(&line, " "), *key = strsep(&line, " "), *value = line;
	bool fits = key && strlen(key) < sizeof(((struct entry *)0)->key) &&
		    (!value || strlen(value) < sizeof(((struct entry *)0)->value));

	if (!strcmp(command, "get") && fits && !value) {
		const struct entry *e = find(key, false);
		reply(c, e ? "= %s\n" : "none\n", e ? e->value : "");
	} else if (!strcmp(command, "set") && fits && value) {
		struct entry *e = find(key, true);
		if (e)
			snprintf(e->value, sizeof(e->value), "%s", value);
		reply(c, e ? "ok\n" : "error: full\n");
	} else if (!strcmp(command, "incr") && fits && !value) {
		increment(c, key);
	} else if (!strcmp(command, "info") && !key) {
		reply(c, "pid %d upgrades %u clients %u keys %u\n", getpid(), arena->upgrades,
		      arena->nclients, arena->nentries);
	} else {
		reply(c, "error: set KEY VALUE, get KEY, incr KEY or info\n");
	}
}

#endif
