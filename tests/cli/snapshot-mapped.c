// SPDX-License-Identifier: MIT
/* timeout: 300 */
/* needs: userfaultfd */
/*
 * Private mappings of files: in the image is what was in memory at the moment, or nothing, whatever
 * becomes of the files meanwhile, and whoever else could be asked for a page.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/uffd.h"
#include "tests/lib/subject.h"
#include "tests/lib/undo.h"

#define LEN   (64 * PAGE)
#define NEW   1000u /* seed of what is written to a file afterwards */
#define OTHER 2000u
#define EACH  5u /* every fifth page is the process's own */

/* ---- the target */

static struct scene {
	char *volatile at;
	volatile unsigned int ready, order, done;
	char file[96], other[96];
	int (*prepare)(void);
} * scene;

static char *map_private(const char *path, void *at)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *mem = mmap(at, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | (at ? MAP_FIXED : 0), fd,
			 0);

	check(fd >= 0 && mem != MAP_FAILED);
	close(fd);
	return mem;
}

/* What is written is what was there. */
static void own_some(char *at)
{
	for (size_t i = 0; i < LEN; i += EACH * PAGE)
		*(volatile char *)(at + i) = at[i];
}

static int run_scene(void *arg)
{
	(void)arg;
	alarm(120);
	check_equal(scene->prepare(), 0);
	scene->ready = 1;
	while (!scene->order)
		usleep(1000);
	if (scene->order == 1)
		map_private(scene->other, scene->at - LEN);
	scene->done = 1;
	return pause();
}

static int prepare_file(void)
{
	scene->at = map_private(scene->file, NULL);
	own_some(scene->at);
	return 0;
}

static pid_t scene_start(int (*prepare)(void))
{
	scene->prepare = prepare;
	scene->ready = scene->order = scene->done = 0;
	pid_t pid = spawn(run_scene, NULL);
	for (int64_t until = now_ms() + 30000; !scene->ready; usleep(1000))
		assert_true(now_ms() < until);
	return pid;
}

static void scene_act(unsigned int order)
{
	scene->order = order;
	for (int64_t until = now_ms() + 10000; !scene->done; usleep(1000))
		assert_true(now_ms() < until);
}

static void begin(void)
{
	scene = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	snprintf(scene->file, sizeof(scene->file), "%s.file", core);
	snprintf(scene->other, sizeof(scene->other), "%s.other", core);
}

static const char *name_file(unsigned int i)
{
	snprintf(scene->file, sizeof(scene->file), "%s.file.%u", core, i);
	return scene->file;
}

static void end(void)
{
	unlink(scene->file);
	unlink(scene->other);
	unmap(scene, PAGE);
}

/* ---- files */

static void write_pages(int fd, unsigned int seed)
{
	char page[PAGE];

	for (size_t i = 0; i < LEN / PAGE; i++) {
		fill_page(page, seed + i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
}

static void make_file(const char *path, unsigned int seed)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	write_pages(fd, seed);
	close(fd);
}

static int open_to_write(void)
{
	int fd = open(scene->file, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void write_shared(char *at)
{
	for (size_t i = 0; i < LEN / PAGE; i++)
		fill_page(at + i * PAGE, NEW + i);
}

static char *map_shared(int fd)
{
	char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

/* ---- images */

/* Returns how many pages are not in the image; none of those that are is other than it was. */
static unsigned int missing_pages(const char *at)
{
	unsigned int missing = 0;
	struct elf e = elf_open();

	for (size_t i = 0; i < LEN / PAGE; i++) {
		const char *page = elf_at(&e, at + i * PAGE, PAGE);
		if (page && !page_has(page, i))
			fail_msg("page %zu is %s", i,
				 page_has(page, NEW + i)     ? "newer"
				 : page_has(page, OTHER + i) ? "of another file"
							     : "wrong");
		if (!page && i % EACH == 0)
			fail_msg("page %zu, which is the process's own, is missing", i);
		missing += !page;
	}
	munmap((void *)(uintptr_t)e.data, e.len);
	return missing;
}

static pid_t start_at(pid_t pid, const char *park)
{
	static struct command c;

	c = (struct command){.park = park, .pid = pid};
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	return command;
}

static void go_on(pid_t command)
{
	kill(command, SIGCONT);
	assert_done(wait_exit(command));
}

/* ---- written to after the moment */

static void by_descriptor(void)
{
	int fd = open_to_write();
	write_pages(fd, NEW);
	close(fd);
}

static void by_mapping(void)
{
	int fd = open_to_write();
	char *at = map_shared(fd);
	close(fd);
	write_shared(at);
	munmap(at, LEN);
}

static void by_cutting(void)
{
	assert_int_equal(truncate(scene->file, 3 * PAGE), 0);
}

static void by_growing(void)
{
	by_cutting();
	assert_int_equal(truncate(scene->file, LEN), 0);
}

static void nothing(void)
{
}

static void test_written(void **state)
{
	static const struct {
		const char *name;
		void (*write)(void);
		bool is_missing;
	} ways[] = {{"not at all", nothing, false},
		    {"by a descriptor", by_descriptor, true},
		    {"by a mapping", by_mapping, true},
		    {"cut", by_cutting, true},
		    {"cut and grown", by_growing, true}};

	(void)state;
	begin();
	for (unsigned int i = 0; i < COUNT(ways); i++)
		make_file(name_file(i), 0);
	/* What has just been written to isn't believed to stay. */
	sleep(3);
	for (unsigned int i = 0; i < COUNT(ways); i++) {
		name_file(i);
		pid_t pid = scene_start(prepare_file);
		pid_t command = start_at(pid, "snapshot.running");
		ways[i].write();
		go_on(command);
		unsigned int missing = missing_pages(scene->at);
		print_message("# %s: %u pages are missing\n", ways[i].name, missing);
		if (!ways[i].is_missing || geteuid())
			assert_int_equal(missing, 0);
		kill_and_reap(pid);
		unlink(scene->file);
	}
	end();
}

/* By one who could write to it before: nobody is told when a mapping is written to. */
static void test_writer(void **state)
{
	(void)state;
	begin();
	for (unsigned int i = 0; i < 2; i++)
		make_file(name_file(i), 0);
	sleep(3);
	for (unsigned int i = 0; i < 2; i++) {
		name_file(i);
		pid_t pid = scene_start(prepare_file);
		int fd = open_to_write();
		char *at = map_shared(fd);
		if (i)
			*(volatile char *)at = at[0];
		pid_t command = start_at(pid, "snapshot.running");
		if (i)
			write_shared(at);
		else
			write_pages(fd, NEW);
		go_on(command);
		assert_int_equal(missing_pages(scene->at), 0);
		munmap(at, LEN);
		close(fd);
		kill_and_reap(pid);
		unlink(scene->file);
	}
	end();
}

/* ---- another file than that which was looked at */

/* Twice mapped, side by side. */
static int prepare_twice(void)
{
	char *at = map_memory(2 * LEN, 0);

	map_private(scene->file, at);
	scene->at = map_private(scene->file, at + LEN);
	own_some(at);
	own_some(scene->at);
	return 0;
}

/* Where it was seen first there is another before it is opened. */
static void test_replaced(void **state)
{
	(void)state;
	begin();
	make_file(scene->file, 0);
	make_file(scene->other, OTHER);
	sleep(3);
	pid_t pid = scene_start(prepare_twice);
	pid_t command = start_at(pid, "snapshot.flags");
	scene_act(1);
	go_on(command);
	assert_int_equal(missing_pages(scene->at), 0);
	kill_and_reap(pid);
	end();
}

/* A file that was copied up when it was written to: mapped is the one below, opened the one above.
 */
static void test_overlay(void **state)
{
	char dir[64], command[600], options[400];

	(void)state;
	if (geteuid())
		SKIP("only root can mount");
	begin();
	snprintf(dir, sizeof(dir), "%.*s.layers", 48, core);
	snprintf(command, sizeof(command), "umount %s/all 2>/dev/null; rm -rf %s", dir, dir);
	int what = undo_later(command);
	snprintf(command, sizeof(command), "mkdir %s && cd %s && mkdir below above work all", dir,
		 dir);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
	snprintf(scene->file, sizeof(scene->file), "%s/below/file", dir);
	make_file(scene->file, 0);
	snprintf(options, sizeof(options), "lowerdir=%s/below,upperdir=%s/above,workdir=%s/work",
		 dir, dir, dir);
	snprintf(command, sizeof(command), "%s/all", dir);
	bool can = !mount("none", command, "overlay", 0, options);
	if (can) {
		snprintf(scene->file, sizeof(scene->file), "%s/all/file", dir);
		pid_t pid = scene_start(prepare_file);
		by_descriptor();
		sleep(3);
		assert_int_equal(snapshot_with(&(struct target){.pid = pid}, (struct command){0}),
				 0);
		assert_int_equal(missing_pages(scene->at), 0);
		kill_and_reap(pid);
	}
	undo(what);
	end();
	if (!can)
		SKIP("there is no overlayfs");
}

/* ---- a page for which somebody would have to be asked who stands still */

static int prepare_served(bool marker)
{
	uint64_t features = marker ? UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED
				   : 0;
	int fd = memfd_create("served", MFD_CLOEXEC), uffd = uffd_open_best(&features, 0);
	char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	check(fd >= 0 && uffd >= 0 && at != MAP_FAILED);
	check_equal(ftruncate(fd, LEN), 0);
	for (size_t i = 0; i < LEN / 2; i += PAGE)
		fill_page(at + i, i / PAGE);
	check_equal(
		uffd_register(uffd, (uintptr_t)at, LEN,
			      UFFDIO_REGISTER_MODE_MISSING | (marker ? UFFDIO_REGISTER_MODE_WP : 0),
			      NULL),
		0);
	if (marker)
		check_equal(uffd_writeprotect(uffd, (uintptr_t)at + LEN / 2, LEN / 2,
					      UFFDIO_WRITEPROTECT_MODE_WP),
			    0);
	scene->at = at;
	return 0;
}

static int prepare_missing(void)
{
	return prepare_served(false);
}

static int prepare_marked(void)
{
	return prepare_served(true);
}

static void test_served(void **state)
{
	int (*const prepare[])(void) = {prepare_missing, prepare_marked};

	(void)state;
	begin();
	for (unsigned int i = 0; i < COUNT(prepare); i++) {
		pid_t pid = scene_start(prepare[i]);
		struct command c = {.pid = pid};
		pid_t command = spawn(run_command, &c);
		int status = 0;
		int64_t until = now_ms() + 10000;
		while (!waitpid(command, &status, WNOHANG) && now_ms() < until)
			usleep(10000);
		if (now_ms() >= until) {
			kill_and_reap(command);
			fail_msg("it waits while the process stands still");
		}
		assert_int_equal(status, 0);
		struct elf e = elf_open();
		for (size_t k = 0; k < LEN / PAGE; k++) {
			const char *page = elf_at(&e, scene->at + k * PAGE, PAGE);
			if (k < LEN / PAGE / 2)
				assert_true(page && page_has(page, k));
			else
				assert_true(!page || page_is_zero(page));
		}
		munmap((void *)(uintptr_t)e.data, e.len);
		kill_and_reap(pid);
	}
	end();
}

/* ---- few descriptors, many files */

#define FILES 40u

static int prepare_many(void)
{
	for (unsigned int i = 0; i < FILES; i++) {
		name_file(i);
		prepare_file();
	}
	return 0;
}

static void test_few_descriptors(void **state)
{
	(void)state;
	begin();
	for (unsigned int i = 0; i < FILES; i++)
		make_file(name_file(i), 0);
	pid_t pid = scene_start(prepare_many);
	ferry_limits = "ulimit -n 40; ";
	assert_done(ferry("--pid %d -o core", (int)pid));
	ferry_limits = "";
	assert_int_equal(missing_pages(scene->at), 0);
	kill_and_reap(pid);
	for (unsigned int i = 0; i < FILES; i++)
		unlink(name_file(i));
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_written), TEST(test_writer), TEST(test_replaced),
		TEST(test_overlay), TEST(test_served), TEST(test_few_descriptors),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-mapped", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
