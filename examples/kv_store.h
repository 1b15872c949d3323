/* SPDX-License-Identifier: MIT */
/*
 * The arena of kv.c, and the commands on the store in it. All that an upgrade must keep is here,
 * half-read requests and half-sent answers included. Every version maps the arena at the same
 * address, so it may hold pointers.
 *
 * All that a save must keep is in the store, which has its pages to itself: what changes for
 * another reason isn't frozen with it.
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
#define KV_LAYOUT "kv layout 2"
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

struct store {
	_Alignas(4096) char layout[32];
	unsigned int nentries;
	struct entry entries[ENTRIES];
};

struct arena {
	struct store store;
	unsigned int upgrades, nclients, saved, unsaved;
	struct client clients[CLIENTS];
	struct entry *buckets[BUCKETS];
};
_Static_assert(sizeof(struct arena) <= ARENA_LEN, "the arena is too small");

static struct arena *const arena = ARENA_ADDR;

/* Where the pointer to the entry with this key is, or would be. */
static struct entry **place_of(const char *key)
{
	uint32_t hash = 2166136261u;

	for (const char *p = key; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	struct entry **at = &arena->buckets[hash % BUCKETS];
	while (*at && strcmp((*at)->key, key) != 0)
		at = &(*at)->next;
	return at;
}

static struct entry *find(const char *key, bool make)
{
	struct store *store = &arena->store;
	struct entry **at = place_of(key);

	if (!*at && make && store->nentries < ENTRIES) {
		*at = &store->entries[store->nentries++];
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

/* False: it is no number, or has no room for another one. */
static bool number_of(const struct entry *e, long long *n)
{
	char *end;

	*n = strtoll(e->value, &end, 10);
	return !*end && *n<LLONG_MAX && * n> LLONG_MIN;
}

static void set_number(struct entry *e, long long n)
{
	snprintf(e->value, sizeof(e->value), "%lld", n);
}

static void increment(struct client *c, const char *key)
{
	struct entry *e = find(key, true);
	long long n;

	if (!e || !number_of(e, &n)) {
		reply(c, e ? "error: not a number\n" : "error: full\n");
		return;
	}
	set_number(e, n + 1);
	reply(c, "= %s\n", e->value);
}

/* The sum of all numbers stays as it is. */
static void move_one(struct client *c, const char *from, const char *to)
{
	struct entry *a = find(from, true), *b = find(to, true);
	long long na, nb;

	if (!a || !b || a == b || !number_of(a, &na) || !number_of(b, &nb)) {
		reply(c, a && b ? "error: not two numbers\n" : "error: full\n");
		return;
	}
	set_number(a, na - 1);
	set_number(b, nb + 1);
	reply(c, "ok\n");
}

static bool key_fits(const char *key)
{
	return key && strlen(key) < sizeof(((struct entry *)0)->key);
}

/* In kv_save.h. */
static void save(struct client *c, const char *way);

static void execute(struct client *c, char *line)
{
	const char *command = strsep(&line, " "), *key = strsep(&line, " "), *value = line;
	bool fits = key_fits(key) && (!value || strlen(value) < sizeof(((struct entry *)0)->value));

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
	} else if (!strcmp(command, "move") && fits && key_fits(value)) {
		move_one(c, key, value);
	} else if (!strcmp(command, "save") && key && !value) {
		save(c, key);
	} else if (!strcmp(command, "info") && !key) {
		reply(c, "pid %d upgrades %u clients %u keys %u saved %u unsaved %u\n", getpid(),
		      arena->upgrades, arena->nclients, arena->store.nentries, arena->saved,
		      arena->unsaved);
	} else {
		reply(c,
		      "error: set KEY VALUE, get KEY, incr KEY, move KEY KEY, save WAY or info\n");
	}
}

#endif
