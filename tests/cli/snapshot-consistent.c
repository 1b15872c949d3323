// SPDX-License-Identifier: MIT
/* timeout: 1800 */
/* needs: userfaultfd */
/*
 * Images of a process that moves money all over its memory as fast as it can, without ever pausing:
 * each is of one moment. The same check finds out one of which the half is of another.
 *
 *     IMAGES=100 MIB=1024 TMPDIR=/dev/shm tests/run cli/snapshot-consistent
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "tests/lib/subject.h"

#define LONG_S 1700

static struct target target;
static bool huge;
static unsigned int images;

static unsigned int number(const char *name, unsigned int usual)
{
	const char *value = getenv(name);
	int n = value ? atoi(value) : 0;
	return n > 0 ? (unsigned int)n : usual;
}

/* In the target. What takes longer than usual may. */
static void prepare(void)
{
	alarm(LONG_S);
	if (huge)
		check(make_huge(target.mem, ledger_len));
	else
		check_equal(madvise(target.mem, ledger_len, MADV_NOHUGEPAGE), 0);
}

/* The upper half of the image as it is now. */
static int64_t missing_when_torn(void)
{
	size_t half = ledger_len / 2;
	struct elf e = elf_open();
	const char *mem = elf_at(&e, target.mem, ledger_len);
	char *torn = map_memory(ledger_len, 0);
	struct iovec local = {torn + half, half}, remote = {target.mem + half, half};

	assert_non_null(mem);
	memcpy(torn, mem, half);
	assert_int_equal(process_vm_readv(target.pid, &local, 1, &remote, 1, 0), half);
	int64_t missing = ledger_missing(torn, ledger_len);
	unmap(torn, ledger_len);
	munmap((void *)(uintptr_t)e.data, e.len);
	return missing;
}

static void take_images(void)
{
	int64_t begin = now_ms();

	target_start(&target, prepare);
	uint64_t moves = moves_of(&target);
	for (unsigned int i = 0; i < images; i++) {
		struct command c = {.way = i % 2 ? "sync" : "auto"};
		assert_int_equal(shown(snapshot_with(&target, c)), 0);
		int64_t missing = missing_in_core(&target);
		if (missing)
			fail_msg("image %u is torn: %lld is missing", i, (long long)missing);
		if (!missing_when_torn())
			fail_msg("image %u: a torn one isn't found out", i);
	}
	print_message("# %u images of %zu MiB, %llu transfers meanwhile, %lld s\n", images,
		      ledger_len >> 20, (unsigned long long)(moves_of(&target) - moves),
		      (long long)(now_ms() - begin) / 1000);
	assert_unharmed(&target);
	target_end(&target);
}

static void test_small(void **state)
{
	(void)state;
	huge = false;
	take_images();
}

static void test_huge(void **state)
{
	char *mem = map_memory(BLOCK, 0);

	(void)state;
	huge = make_huge(mem, BLOCK);
	unmap(mem, BLOCK);
	if (!huge)
		SKIP("the kernel gives no huge pages");
	take_images();
}

int main(void)
{
	/* Without the deadline of other tests. */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_huge),
	};

	images = number("IMAGES", 5);
	ledger_len = (size_t)number("MIB", 64) << 20;
	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-consistent", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
