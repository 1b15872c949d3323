// SPDX-License-Identifier: MIT
/* What this kernel and this user can do: the order of the trials and their answers. */
#include <errno.h>
#include <sys/mman.h>

#include "lib/caps.h"
#include "lib/options.h"

#define ARENA_LEN ((size_t)CAPS_PAGES * FERRY_PAGE)

void caps_empty(void *mem, size_t len)
{
	/* MCL_FUTURE has filled and locked it; locked memory refuses MADV_DONTNEED. */
	munlock(mem, len);
	madvise(mem, len, MADV_DONTNEED);
}

static char *map(size_t len, int flags)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return NULL;
	/* Kernel MOVE refuses a page that a fork in another thread has just shared. */
	madvise(mem, len, MADV_DONTFORK);
	caps_empty(mem, len);
	return mem;
}

static void unmap(char *mem, size_t len)
{
	if (mem)
		munmap(mem, len);
}

static void arena_fini(struct caps_arena *arena)
{
	unmap(arena->anon, ARENA_LEN);
	unmap(arena->shared, ARENA_LEN);
	unmap(arena->stack, CAPS_STACK);
}

/*
 * Each trial gets memory of its own. What the last one has registered may still be so, since a fork
 * in another thread may have inherited its descriptor.
 */
static int arena_renew(struct caps_arena *arena)
{
	arena_fini(arena);
	arena->anon = map(ARENA_LEN, MAP_PRIVATE);
	arena->shared = map(ARENA_LEN, MAP_SHARED);
	arena->stack = map(CAPS_STACK, MAP_PRIVATE | MAP_STACK);
	return arena->anon && arena->shared && arena->stack ? 0 : -ENOMEM;
}

/* A process may be out of descriptors now and not later: each door is tried on its own. */
static void probe_doors(const struct caps_arena *arena, struct ferry_caps *caps,
			struct caps_doors *doors)
{
	doors->device = caps_try_door(arena, FERRY_DOOR_DEVICE);
	doors->syscall = caps_try_door(arena, FERRY_DOOR_SYSCALL);
	doors->user_mode = caps_try_door(arena, FERRY_DOOR_USER_MODE);

	caps->device_error = doors->device;
	caps->syscall_error = doors->syscall;
	caps->door_error = doors->device ? doors->device : doors->syscall;
	if (!doors->device)
		caps->door = FERRY_DOOR_DEVICE;
	else if (!doors->syscall)
		caps->door = FERRY_DOOR_SYSCALL;
	else if (!doors->user_mode)
		caps->door = FERRY_DOOR_USER_MODE;
	else
		caps->door = FERRY_DOOR_NONE;
}

static int probe_uffd(struct caps_arena *arena, struct ferry_caps *caps)
{
	const struct {
		int (*run)(const struct caps_arena *arena, enum ferry_door door);
		int32_t *error;
	} trials[] = {
		{caps_try_move, &caps->move_error},
		{caps_try_wp, &caps->wp_error},
		{caps_try_wp_async, &caps->wp_async_error},
		{caps_try_minor, &caps->minor_error},
		{caps_try_poison, &caps->poison_error},
		{caps_try_fork_event, &caps->fork_error},
	};
	enum ferry_door door = caps->door;
	int error = caps->door_error;

	if (door != FERRY_DOOR_NONE)
		error = caps_try_registered(arena, door, &caps->features, &caps->ioctls);
	for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]); i++) {
		if (arena_renew(arena))
			return -ENOMEM;
		*trials[i].error = error ? error : trials[i].run(arena, door);
	}
	return arena_renew(arena);
}

static int probe_all(struct caps_arena *arena, struct ferry_caps *caps, struct caps_doors *doors)
{
	if (arena_renew(arena))
		return -ENOMEM;
	probe_doors(arena, caps, doors);
	if (probe_uffd(arena, caps))
		return -ENOMEM;
	caps->scan_error = caps_try_scan(arena);
	caps->thp_error = caps_try_thp();
	caps->ksm_error = caps_try_ksm(arena);
	caps->peer_read_error = caps_try_peer_read(arena);
	caps->module_error = caps_try_module();
	return 0;
}

int caps_probe(struct ferry_caps *caps, struct caps_doors *doors)
{
	struct caps_arena arena = {0};

	*caps = (struct ferry_caps){.size = sizeof(*caps)};
	int ret = probe_all(&arena, caps, doors);
	arena_fini(&arena);
	return ret;
}

int ferry_caps_probe(struct ferry_caps *caps)
{
	struct ferry_caps found;
	struct caps_doors doors;
	int ret = options_copy(&found, sizeof(found), caps);

	if (ret)
		return ret;
	ret = caps_probe(&found, &doors);
	return ret ? ret : options_report(caps, &found, sizeof(found));
}
