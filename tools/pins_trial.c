// SPDX-License-Identifier: MIT
/* One cell: memory, a pin of it, an operation, and then what is left of the tie between both. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/pins.h"

#define LIMIT_MS     8000u
#define WORD_BY_PIN  0xaaaaaaaau
#define WORD_BY_PAGE 0xbbbbbbbbu
#define NOP          0x90
#define MIDDLE       (AREA / 2)

const char *pins_errno(int error)
{
	const char *name = strerrorname_np(-error);

	return name ? name : "an unknown error";
}

void pins_not_here(struct trial_cell *cell, const char *what, int error)
{
	if ((error == -EPERM || error == -EACCES) && geteuid())
		trial_set(cell, NOT_HERE, "needs root: %s", what);
	else
		trial_set(cell, NOT_HERE, "%s: %s", what, pins_errno(error));
}

pid_t scene_fork_with_files(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
}

/* ---- memory */

static uint8_t *map_aligned(int flags, int fd)
{
	uint8_t *all = mmap(NULL, 2 * AREA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;

	if (all == MAP_FAILED)
		return NULL;
	at = (uint8_t *)(((uintptr_t)all + AREA - 1) & ~(AREA - 1));
	at = mmap(at, AREA, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

static int map_area(struct scene *s)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	s->file = -1;
	if (s->operation->memory == MEMORY_CODE) {
		flags = MAP_PRIVATE;
		s->file = memfd_create("code", MFD_CLOEXEC);
		if (s->file < 0 || ftruncate(s->file, AREA))
			return -errno;
	}
	s->area = map_aligned(flags, s->file);
	if (!s->area)
		return -ENOMEM;
	/* EINVAL: there are no huge pages. */
	if (madvise(s->area, AREA,
		    s->operation->memory == MEMORY_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) &&
	    (errno != EINVAL || s->operation->memory == MEMORY_HUGE))
		return -errno;
	return 0;
}

/* The file has code where the page is, so that a probe can be set there; the page is a copy. */
static int fill_page(struct scene *s)
{
	uint8_t code[FERRY_PAGE];

	memset(code, NOP, sizeof(code));
	if (s->file >= 0 && pwrite(s->file, code, sizeof(code), MIDDLE) != sizeof(code))
		return -errno;
	s->page = (uint32_t *)(s->area + MIDDLE);
	*s->page = WORD_FIRST;
	return 0;
}

static int is_huge(const struct scene *s)
{
	uint64_t first = page_number(s->area), here = page_number(s->page);

	if (!first)
		return -EPERM;
	return first % FERRY_HUGE_PAGES == 0 && here == first + MIDDLE / FERRY_PAGE ? 0 : -ENOMEM;
}

int scene_memory(struct scene *s)
{
	int ret = map_area(s);

	if (!ret)
		ret = s->area ? fill_page(s) : -ENOMEM;
	if (!ret && s->operation->memory == MEMORY_HUGE)
		ret = is_huge(s);
	return ret ? scene_note(s, ret, "memory") : 0;
}

/* ---- the tie */

struct tie {
	bool broken;
	char what[120];
};

static void tie_breaks(struct tie *tie, const char *what)
{
	size_t len = strlen(tie->what);

	tie->broken = true;
	snprintf(tie->what + len, sizeof(tie->what) - len, "%s%s", len ? "; " : "", what);
}

static void tie_errs(struct tie *tie, const struct pin *pin, int error)
{
	char what[sizeof(pin->what) + 32];

	snprintf(what, sizeof(what), "%s: %s", pin->what, pins_errno(error));
	tie_breaks(tie, what);
}

static void look_from_memory(struct scene *s, struct tie *tie)
{
	int ret = s->pin->kind->write(s->pin, WORD_BY_PIN);

	if (ret)
		tie_errs(tie, s->pin, ret);
	else if (*(volatile uint32_t *)s->page != WORD_BY_PIN)
		tie_breaks(tie, "what is written through the pin isn't in the memory");
	if (s->watched)
		scene_note(s, 0,
			   s->events ? "a write through the pin was noticed"
				     : "a write through the pin passes unnoticed");
}

static const char *what_was_read(uint32_t word)
{
	if (word == WORD_FIRST)
		return "through the pin still the old contents are read";
	if (word == WORD_OTHER)
		return "through the pin the other one's contents are read";
	return "what is written to the memory isn't seen through the pin";
}

static void look_through_pin(struct scene *s, struct tie *tie)
{
	uint32_t word = 0;
	int ret;

	*(volatile uint32_t *)s->page = WORD_BY_PAGE;
	ret = s->pin->kind->read(s->pin, &word);
	if (ret)
		tie_errs(tie, s->pin, ret);
	else if (word != WORD_BY_PAGE)
		tie_breaks(tie, what_was_read(word));
}

/* Nothing may be written before what was read can tell whose page it is. */
static struct tie look(struct scene *s)
{
	struct tie tie = {.broken = false};

	if (s->gone) {
		tie_breaks(&tie, s->gone);
		return tie;
	}
	if (s->pin->kind->write)
		look_from_memory(s, &tie);
	if (s->pin->kind->read)
		look_through_pin(s, &tie);
	return tie;
}

/* ---- the verdict */

static void judge(struct trial_cell *cell, struct scene *s, int error, uint64_t before)
{
	struct tie tie = look(s);
	char verdict[sizeof(cell->verdict)];

	if (s->untold)
		trial_set(cell, NOT_HERE, "this time nothing happened: %s", s->note);
	else if (tie.broken)
		trial_set(cell, "tie broken", "%s%s%s%s", tie.what,
			  error ? ", though refused: " : "", error ? pins_errno(error) : "", "");
	else if (error) {
		snprintf(verdict, sizeof(verdict), "refused: %s", pins_errno(error));
		trial_set(cell, verdict, "%s", "");
	} else if (s->pin->kind->by_address && before && page_number(s->page) != before)
		trial_set(cell, "same page", "another page than before, at the same address");
	else if (s->operation->control && !s->acted)
		trial_set(cell, "same page", "left alone; without a pin: %s", s->note);
	else
		trial_set(cell, "same page", "%s", s->note);
}

static void judge_control(struct trial_cell *cell, const struct scene *s, int error)
{
	if (error)
		pins_not_here(cell, s->operation->name, error);
	else if (!s->acted)
		trial_set(cell, NOT_HERE, "%sit did nothing without a pin either",
			  geteuid() ? "needs root, maybe: " : "");
	else
		trial_set(cell, ACTS, "%s", s->note);
}

struct job {
	const struct operation *operation;
	const struct pin_kind *kind;
};

/* Before the operation: in this order, since whoever is started early shares nothing of the memory.
 */
static bool begin(struct trial_cell *cell, struct scene *s, struct pin *pin)
{
	int ret = pin && pin->kind->prepare ? pin->kind->prepare(pin) : 0;

	if (ret) {
		pins_not_here(cell, pin->what, ret);
		return false;
	}
	if (s->operation->prepare)
		ret = s->operation->prepare(s);
	if (!ret)
		ret = scene_memory(s);
	if (!ret && s->operation->begin)
		ret = s->operation->begin(s);
	if (ret) {
		pins_not_here(cell, s->note, ret);
		return false;
	}
	if (pin) {
		pin->page = s->page;
		ret = pin->kind->take(pin);
	}
	if (ret)
		pins_not_here(cell, pin->what, ret);
	return !ret;
}

/* What a CPU has put aside of its own pages only it can get back, so it stays on one. */
static void stay_on_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned int)sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void try(struct trial_cell *cell, const void *arg)
{
	const struct job *job = arg;
	static struct pin pin;
	struct scene s = {.operation = job->operation};
	uint64_t before;
	int ret;

	if (job->operation->execs) {
		exec_try(cell, job->kind);
		return;
	}
	pin.kind = job->kind;
	s.pin = job->kind ? &pin : NULL;
	stay_on_cpu();
	if (!begin(cell, &s, s.pin))
		return;
	s.note[0] = '\0';
	before = page_number(s.page);
	ret = s.operation->act(&s);
	if (s.pin)
		judge(cell, &s, ret, before);
	else
		judge_control(cell, &s, ret);
}

int pins_try(const struct operation *operation, const struct pin_kind *kind,
	     struct trial_cell *cell)
{
	const struct job job = {operation, kind};

	return trial_run(cell, try, &job, LIMIT_MS);
}
