// SPDX-License-Identifier: MIT
/*
 * EEXIST of a page that has moved. Linux 6.18 forgets to count what it moves after it had to wait
 * for a page that was being migrated; here every kernel does so when it is told to, and this
 * machine's own is looked at while memory is compacted.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/take.h"
#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define NPAGES   32u
#define MIGRATED 5u /* the page that the kernel has to wait for */
#define BATCH    7u

/* ---- a kernel that forgets */

static struct {
	bool armed;
	uint64_t at;    /* after so many bytes of the call */
	uint64_t batch; /* so many more are moved and not counted */
} forget;
static atomic_uint seen;   /* EEXIST of UFFDIO_MOVE */
static const void *unseen; /* the next look from here on fails */

static long real_ioctl(int fd, unsigned long request, void *arg)
{
	return syscall(SYS_ioctl, fd, request, arg);
}

static void move_quietly(int fd, const struct uffdio_move *m, uint64_t at, uint64_t len,
			 uint64_t mode)
{
	struct uffdio_move part = {
		.dst = m->dst + at, .src = m->src + at, .len = len, .mode = m->mode | mode};

	if (len)
		assert_int_equal(real_ioctl(fd, UFFDIO_MOVE, &part), 0);
}

/* What isn't counted doesn't wake; and what is moved before it is all that is reported. */
static int move_and_forget(int fd, struct uffdio_move *m)
{
	forget.armed = false;
	move_quietly(fd, m, 0, forget.at, 0);
	move_quietly(fd, m, forget.at, forget.batch, UFFDIO_MOVE_MODE_DONTWAKE);
	m->move = forget.at ? (int64_t)forget.at : -EEXIST;
	errno = forget.at ? EAGAIN : EEXIST;
	return -1;
}

/* In place of libc's, also for the library that is linked with this. */
int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (request == UFFDIO_MOVE && forget.armed)
		return move_and_forget(fd, arg);
	if (request == PAGEMAP_SCAN && unseen &&
	    ((struct pm_scan_arg *)arg)->start == (uintptr_t)unseen) {
		unseen = NULL;
		errno = EIO;
		return -1;
	}
	int ret = (int)real_ioctl(fd, request, arg);
	if (request == UFFDIO_MOVE && ret < 0 && errno == EEXIST)
		seen++;
	return ret;
}

/* ---- two places: every page of src is filled, dst is empty and registered */

struct places {
	int uffd;
	char *dst, *src;
};

static void places_init(struct places *p)
{
	p->uffd = open_uffd(UFFD_FEATURE_MOVE);
	p->dst = map_memory(NPAGES * PAGE, 0);
	p->src = map_memory(NPAGES * PAGE, 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(p->src + i * PAGE, i);
	assert_int_equal(uffd_register(p->uffd, (uintptr_t)p->dst, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
}

static void places_fini(struct places *p)
{
	forget.armed = false;
	close(p->uffd);
	unmap(p->dst, NPAGES * PAGE);
	unmap(p->src, NPAGES * PAGE);
}

static struct ferry_move move_of(const struct places *p, uint32_t flags)
{
	return (struct ferry_move){.size = sizeof(struct ferry_move),
				   .uffd = p->uffd,
				   .flags = flags,
				   .dst = (uintptr_t)p->dst,
				   .src = (uintptr_t)p->src,
				   .len = NPAGES * PAGE};
}

static void arm(unsigned int at, unsigned int batch)
{
	forget.armed = true;
	forget.at = at * PAGE;
	forget.batch = batch * PAGE;
}

static void drop(struct places *p, unsigned int page)
{
	assert_int_equal(madvise(p->src + page * PAGE, PAGE, MADV_DONTNEED), 0);
}

static void populate(struct places *p, unsigned int page)
{
	uint64_t done;
	assert_int_equal(uffd_zeropage(p->uffd, (uintptr_t)p->dst + page * PAGE, PAGE, 0, &done),
			 0);
}

static void assert_moved(const struct places *p, unsigned int first, unsigned int end)
{
	for (unsigned int i = first; i < end; i++) {
		assert_true(page_has(p->dst + i * PAGE, i));
		assert_false(page_present(p->src + i * PAGE));
	}
}

static void assert_ended(const struct ferry_move *m, unsigned int pages, unsigned int holes)
{
	assert_int_equal(m->done, pages * PAGE);
	assert_int_equal(m->bytes[FERRY_WAY_MOVE], (pages - holes) * PAGE);
	assert_int_equal(m->bytes[FERRY_WAY_COPY], 0);
	assert_int_equal(m->holes, holes * PAGE);
}

/* ---- where it is known what was there before */

static const uint32_t knowing[] = {FERRY_MOVE_ALLOW_HOLES, FERRY_MOVE_FULL};

static void test_counted(void **state)
{
	static const struct {
		unsigned int at, batch;
	} cases[] = {{0, 1},
		     {0, BATCH},
		     {0, NPAGES},
		     {MIGRATED, 1},
		     {MIGRATED, NPAGES - MIGRATED},
		     {NPAGES - 1, 1}};

	(void)state;
	for (unsigned int i = 0; i < 2 * COUNT(knowing) * COUNT(cases); i++) {
		unsigned int which = i / 2 % COUNT(cases);
		uint32_t strict = i % 2 ? FERRY_MOVE_STRICT : 0;
		struct places p;
		places_init(&p);
		struct ferry_move m = move_of(&p, knowing[i / 2 / COUNT(cases)] | strict);
		arm(cases[which].at, cases[which].batch);
		assert_int_equal(ferry_move(&m), 0);
		assert_false(forget.armed);
		assert_ended(&m, NPAGES, 0);
		assert_moved(&p, 0, NPAGES);
		places_fini(&p);
	}
}

/* The kernel wakes only for what it counts. */
static void test_wakes(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 2 * COUNT(knowing); i++) {
		uint32_t dont = i % 2 ? FERRY_MOVE_DONTWAKE : 0;
		struct places p;
		struct reader reader;
		places_init(&p);
		reader_start(&reader, p.dst + (MIGRATED + BATCH - 1) * PAGE);
		wait_readable(p.uffd);
		struct ferry_move m = move_of(&p, knowing[i / 2] | dont);
		arm(MIGRATED, BATCH);
		assert_int_equal(ferry_move(&m), 0);
		if (dont) {
			/* Time enough for one that has been woken. */
			poll(NULL, 0, 20);
			assert_false(reader.done);
			assert_int_equal(uffd_wake(p.uffd, m.dst, m.len), 0);
		}
		reader_join(&reader);
		assert_int_equal(reader.signal, 0);
		assert_moved(&p, 0, NPAGES);
		places_fini(&p);
	}
}

/* Holes before and behind what was forgotten stay holes, also where somebody else has filled them.
 */
static void test_beside_holes(void **state)
{
	(void)state;
	for (unsigned int filled = 0; filled < 2; filled++) {
		unsigned int behind = MIGRATED + BATCH;
		struct places p;
		places_init(&p);
		drop(&p, MIGRATED - 1);
		drop(&p, behind);
		drop(&p, behind + 1);
		if (filled)
			populate(&p, behind);
		struct ferry_move m = move_of(&p, FERRY_MOVE_ALLOW_HOLES);
		arm(MIGRATED, BATCH);
		assert_int_equal(ferry_move(&m), filled ? -EEXIST : 0);
		assert_ended(&m, filled ? behind : NPAGES, filled ? 1 : 3);
		assert_moved(&p, MIGRATED, behind);
		if (!filled)
			assert_moved(&p, behind + 2, NPAGES);
		places_fini(&p);
	}
}

/* ---- where it isn't, and where EEXIST is true */

/* A source that was empty and a destination that somebody else has filled look the same. */
static void test_not_known(void **state)
{
	(void)state;
	for (unsigned int never = 0; never < 2; never++) {
		struct places p;
		places_init(&p);
		struct ferry_move m = move_of(&p, FERRY_MOVE_STRICT);
		if (never) {
			drop(&p, MIGRATED);
			populate(&p, MIGRATED);
		} else {
			arm(MIGRATED, 1);
		}
		assert_int_equal(ferry_move(&m), -EEXIST);
		assert_ended(&m, MIGRATED, 0);
		assert_false(page_present(p.src + MIGRATED * PAGE));
		/* Whoever knows better goes on behind it. */
		m.dst += m.done + PAGE;
		m.src += m.done + PAGE;
		m.len -= m.done + PAGE;
		assert_int_equal(ferry_move(&m), 0);
		assert_moved(&p, MIGRATED + 1, NPAGES);
		places_fini(&p);
	}
}

static void test_true(void **state)
{
	static const struct {
		uint32_t flags;
		bool hole;
	} cases[] = {{0, false},
		     {0, true},
		     {FERRY_MOVE_ALLOW_HOLES, false},
		     {FERRY_MOVE_ALLOW_HOLES, true},
		     {FERRY_MOVE_FULL, false}};

	(void)state;
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct places p;
		places_init(&p);
		populate(&p, MIGRATED);
		if (cases[i].hole)
			drop(&p, MIGRATED);
		struct ferry_move m = move_of(&p, cases[i].flags);
		for (unsigned int again = 0; again < 2; again++) {
			assert_int_equal(ferry_move(&m), -EEXIST);
			assert_int_equal(m.done, again ? 0 : MIGRATED * PAGE);
			assert_int_equal(m.bytes[FERRY_WAY_MOVE], MIGRATED * PAGE);
			assert_int_equal(m.holes, 0);
			m.dst += m.done;
			m.src += m.done;
			m.len -= m.done;
		}
		assert_true(cases[i].hole || page_has(p.src + MIGRATED * PAGE, MIGRATED));
		assert_true(page_is_zero(p.dst + MIGRATED * PAGE));
		assert_moved(&p, 0, MIGRATED);
		places_fini(&p);
	}
}

/* A hole where the caller knows of none, and nothing at the destination: that has not moved. */
static void test_not_full(void **state)
{
	struct places p;

	(void)state;
	places_init(&p);
	drop(&p, MIGRATED);
	struct ferry_move m = move_of(&p, FERRY_MOVE_FULL);
	assert_int_equal(ferry_move(&m), -ENOENT);
	assert_ended(&m, MIGRATED, 0);
	places_fini(&p);
}

/* What could not be looked at before may have been a hole. */
static void test_unsure(void **state)
{
	struct places p;

	(void)state;
	places_init(&p);
	drop(&p, 0);
	populate(&p, 0);
	struct ferry_move m = move_of(&p, FERRY_MOVE_ALLOW_HOLES);
	unseen = p.src;
	assert_int_equal(ferry_move(&m), -EEXIST);
	assert_null(unseen);
	assert_ended(&m, 0, 0);
	places_fini(&p);
}

/* ---- the staging page of a hand-over */

struct stage_scene {
	struct stage stage;
	int uffd;
	char *from, *dst;
	uint64_t done;
};

static void stage_scene_init(struct stage_scene *s)
{
	static const uint8_t token[16] = "who are you?";

	s->uffd = open_uffd(UFFD_FEATURE_MOVE);
	s->dst = map_memory(BLOCK, 0);
	s->from = map_memory(BLOCK, 0);
	for (unsigned int i = 0; i < BLOCK / PAGE; i++)
		fill_page(s->from + i * PAGE, i);
	assert_int_equal(uffd_register(s->uffd, (uintptr_t)s->dst, BLOCK,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	if (stage_open(&s->stage, getpid(), (uintptr_t)token, token, UFFD_FEATURE_MOVE))
		SKIP("this process may not be read by itself");
	assert_int_equal(stage_fill(&s->stage, (uintptr_t)s->from), 0);
}

static void stage_scene_fini(struct stage_scene *s)
{
	stage_close(&s->stage);
	close(s->uffd);
	unmap(s->dst, BLOCK);
	unmap(s->from, BLOCK);
}

static int place(struct stage_scene *s)
{
	return stage_place(&s->stage, s->uffd, (uintptr_t)s->dst, &s->done);
}

static void test_stage(void **state)
{
	(void)state;
	for (unsigned int at = 0; at <= MIGRATED; at += MIGRATED) {
		struct stage_scene s;
		stage_scene_init(&s);
		arm(at, BLOCK / PAGE - at);
		assert_int_equal(place(&s), 0);
		assert_int_equal(s.done, BLOCK);
		for (unsigned int i = 0; i < BLOCK / PAGE; i++)
			assert_true(page_has(s.dst + i * PAGE, i));
		/* Nothing, or only a part, has been read since: that can't have moved. */
		assert_int_equal(place(&s), -EEXIST);
		assert_int_equal(s.done, 0);
		unmap(s.from + BLOCK / 2, BLOCK / 2);
		assert_true(stage_fill(&s.stage, (uintptr_t)s.from) < 0);
		madvise(s.stage.page, BLOCK / 2, MADV_DONTNEED);
		assert_int_equal(place(&s), -EEXIST);
		assert_int_equal(s.done, 0);
		stage_scene_fini(&s);
	}
}

/* ---- the probe, in a process of its own */

static void test_probe(void **state)
{
	struct ferry_caps caps = {.size = sizeof(caps)};

	(void)state;
	close(open_uffd(UFFD_FEATURE_MOVE));
	arm(0, 1);
	assert_int_equal(ferry_caps_probe(&caps), 0);
	forget.armed = false;
	assert_int_equal(caps.move_error, 0);
}

/* ---- this machine's kernel */

#define LARGE   (16384 * PAGE)
#define SECONDS 5u

/* In a process of its own: each move of a process that runs on two CPUs interrupts the other one.
 */
static int compact(void *arg)
{
	for (;;)
		check_equal(write(*(const int *)arg, "1", 1), 1);
}

/* Pages with free ones between them in memory, so that there is something to compact. */
static void scatter(char *place)
{
	char *between = map_memory(LARGE, 0);

	assert_int_equal(madvise(place, LARGE, MADV_NOHUGEPAGE), 0);
	assert_int_equal(madvise(between, LARGE, MADV_NOHUGEPAGE), 0);
	for (uint64_t at = 0; at < LARGE; at += PAGE) {
		fill_page(place + at, at);
		between[at] = 1;
	}
	unmap(between, LARGE);
}

static void move_all(int uffd, char *dst, char *src, uint32_t flags)
{
	for (uint64_t at = 0; at < LARGE; at += 64 * PAGE) {
		struct ferry_move m = {.size = sizeof(m),
				       .uffd = uffd,
				       .flags = FERRY_MOVE_STRICT | flags,
				       .dst = (uintptr_t)dst + at,
				       .src = (uintptr_t)src + at,
				       .len = 64 * PAGE};
		assert_int_equal(ferry_move(&m), 0);
		assert_ended(&m, 64, 0);
	}
}

static void to_and_fro(uint32_t flags)
{
	char *place[2] = {map_memory(LARGE, 0), map_memory(LARGE, 0)};
	int uffd = open_uffd(UFFD_FEATURE_MOVE);

	scatter(place[0]);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(uffd_register(uffd, (uintptr_t)place[i], LARGE,
					       UFFDIO_REGISTER_MODE_MISSING, NULL),
				 0);
	for (unsigned int i = 0; i < 8; i++)
		move_all(uffd, place[!(i % 2)], place[i % 2], flags);
	for (uint64_t at = 0; at < LARGE; at += PAGE)
		assert_true(page_has(place[0] + at, at));
	close(uffd);
	unmap(place[0], LARGE);
	unmap(place[1], LARGE);
}

static void test_compacted(void **state)
{
	int64_t until = now_ms() + SECONDS * 1000ll;
	int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

	(void)state;
	close(open_uffd(UFFD_FEATURE_MOVE));
	if (fd < 0)
		SKIP("memory can't be compacted by this user");
	pid_t compacter = spawn(compact, &fd);
	seen = 0;
	for (unsigned int i = 0; now_ms() < until && seen < 5; i++)
		to_and_fro(knowing[i % COUNT(knowing)]);
	kill_and_reap(compacter);
	close(fd);
	print_message("# UFFDIO_MOVE said EEXIST %u times\n", seen);
	if (!seen)
		SKIP("this kernel forgot nothing within %u s of compaction", SECONDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_counted),   TEST(test_wakes), TEST(test_beside_holes),
		TEST(test_not_known), TEST(test_true),  TEST(test_not_full),
		TEST(test_unsure),    TEST(test_stage), TEST(test_probe),
		TEST(test_compacted),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("move_forgotten", tests, NULL, NULL);
}
