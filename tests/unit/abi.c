// SPDX-License-Identifier: MIT
/*
 * The ABI: the layout of every structure that crosses the API or the socket of a hand-over, the
 * values of constants, and the exported symbols. A difference here is a new ABI version, not a
 * mistake of the test.
 */
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/wire.h"
#include "tests/lib/test.h"

struct pin {
	const char *what;
	size_t is, want;
};

#define SIZE(type, want)                                                                           \
	{                                                                                          \
		"sizeof(struct " #type ")", sizeof(struct type), want                              \
	}
#define AT(type, member, want)                                                                     \
	{                                                                                          \
#type "." #member, offsetof(struct type, member), want                             \
	}
#define VALUE(constant, want)                                                                      \
	{                                                                                          \
#constant, (size_t)(constant), (size_t)(want)                                      \
	}

static void assert_pins(const struct pin *pins, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (pins[i].is != pins[i].want)
			fail_msg("%s is %zu, not %zu", pins[i].what, pins[i].is, pins[i].want);
}

static void test_layout_faults(void **state)
{
	static const struct pin pins[] = {
		SIZE(ferry_caps, 88),
		AT(ferry_caps, size, 0),
		AT(ferry_caps, door, 8),
		AT(ferry_caps, door_error, 12),
		AT(ferry_caps, device_error, 16),
		AT(ferry_caps, syscall_error, 20),
		AT(ferry_caps, features, 24),
		AT(ferry_caps, ioctls, 32),
		AT(ferry_caps, move_error, 40),
		AT(ferry_caps, wp_error, 44),
		AT(ferry_caps, wp_async_error, 48),
		AT(ferry_caps, minor_error, 52),
		AT(ferry_caps, poison_error, 56),
		AT(ferry_caps, scan_error, 60),
		AT(ferry_caps, fork_error, 64),
		AT(ferry_caps, thp_error, 68),
		AT(ferry_caps, ksm_error, 72),
		AT(ferry_caps, peer_read_error, 76),
		AT(ferry_caps, module_error, 80),
		SIZE(ferry_fault, 40),
		AT(ferry_fault, addr, 0),
		AT(ferry_fault, offset, 8),
		AT(ferry_fault, left, 16),
		AT(ferry_fault, kind, 24),
		AT(ferry_fault, tid, 28),
		AT(ferry_fault, write, 32),
		SIZE(ferry_answer, 24),
		AT(ferry_answer, kind, 0),
		AT(ferry_answer, len, 8),
		AT(ferry_answer, from, 16),
		SIZE(ferry_source, 32),
		AT(ferry_source, answer, 0),
		AT(ferry_source, installed, 8),
		AT(ferry_source, removed, 16),
		AT(ferry_source, free, 24),
		SIZE(ferry_loop_opts, 16),
		AT(ferry_loop_opts, size, 0),
		AT(ferry_loop_opts, cpu, 8),
		AT(ferry_loop_opts, flags, 12),
		SIZE(ferry_loop_stats, 88),
		AT(ferry_loop_stats, size, 0),
		AT(ferry_loop_stats, faults, 8),
		AT(ferry_loop_stats, installed, 16),
		AT(ferry_loop_stats, already, 24),
		AT(ferry_loop_stats, deferred, 32),
		AT(ferry_loop_stats, discarded, 40),
		AT(ferry_loop_stats, poisoned, 48),
		AT(ferry_loop_stats, forks, 56),
		AT(ferry_loop_stats, remaps, 64),
		AT(ferry_loop_stats, removes, 72),
		AT(ferry_loop_stats, unmaps, 80),
		SIZE(ferry_move, 112),
		AT(ferry_move, size, 0),
		AT(ferry_move, uffd, 8),
		AT(ferry_move, flags, 12),
		AT(ferry_move, dst, 16),
		AT(ferry_move, src, 24),
		AT(ferry_move, len, 32),
		AT(ferry_move, done, 40),
		AT(ferry_move, bytes, 48),
		AT(ferry_move, holes, 104),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_layout_handover(void **state)
{
	static const struct pin pins[] = {
		SIZE(ferry_range, 40),
		AT(ferry_range, addr, 0),
		AT(ferry_range, len, 8),
		AT(ferry_range, id, 16),
		AT(ferry_range, flags, 24),
		AT(ferry_range, fd, 28),
		AT(ferry_range, fd_offset, 32),
		SIZE(ferry_offer, 32),
		AT(ferry_offer, ranges, 0),
		AT(ferry_offer, nranges, 8),
		AT(ferry_offer, blob, 16),
		AT(ferry_offer, blob_len, 24),
		SIZE(ferry_report, 160),
		AT(ferry_report, size, 0),
		AT(ferry_report, phase, 8),
		AT(ferry_report, stage_used, 12),
		AT(ferry_report, bytes, 16),
		AT(ferry_report, total, 72),
		AT(ferry_report, left, 80),
		AT(ferry_report, removed, 88),
		AT(ferry_report, faults, 96),
		AT(ferry_report, fault_p50_ns, 104),
		AT(ferry_report, fault_p99_ns, 112),
		AT(ferry_report, fault_max_ns, 120),
		AT(ferry_report, shadow_ns, 128),
		AT(ferry_report, drain_ns, 136),
		AT(ferry_report, refused, 144),
		AT(ferry_report, why, 152),
		SIZE(ferry_give_opts, 24),
		AT(ferry_give_opts, size, 0),
		AT(ferry_give_opts, ways, 8),
		AT(ferry_give_opts, timeout_ms, 12),
		AT(ferry_give_opts, cpu, 16),
		AT(ferry_give_opts, flags, 20),
		SIZE(ferry_take_opts, 32),
		AT(ferry_take_opts, size, 0),
		AT(ferry_take_opts, timeout_ms, 8),
		AT(ferry_take_opts, flags, 12),
		AT(ferry_take_opts, lost, 16),
		AT(ferry_take_opts, arg, 24),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_layout_snapshot(void **state)
{
	static const struct pin pins[] = {
		SIZE(ferry_span, 16),
		AT(ferry_span, addr, 0),
		AT(ferry_span, len, 8),
		SIZE(ferry_snapshot_opts, 24),
		AT(ferry_snapshot_opts, size, 0),
		AT(ferry_snapshot_opts, max_extra, 8),
		AT(ferry_snapshot_opts, threads, 16),
		AT(ferry_snapshot_opts, flags, 20),
		SIZE(ferry_block, 40),
		AT(ferry_block, size, 0),
		AT(ferry_block, kind, 8),
		AT(ferry_block, addr, 16),
		AT(ferry_block, len, 24),
		AT(ferry_block, data, 32),
		SIZE(ferry_snapshot_report, 112),
		AT(ferry_snapshot_report, size, 0),
		AT(ferry_snapshot_report, total, 8),
		AT(ferry_snapshot_report, data, 16),
		AT(ferry_snapshot_report, zero, 24),
		AT(ferry_snapshot_report, lost, 32),
		AT(ferry_snapshot_report, left, 40),
		AT(ferry_snapshot_report, faults, 48),
		AT(ferry_snapshot_report, pooled, 56),
		AT(ferry_snapshot_report, throttled, 64),
		AT(ferry_snapshot_report, extra_peak, 72),
		AT(ferry_snapshot_report, arm_ns, 80),
		AT(ferry_snapshot_report, remaps, 88),
		AT(ferry_snapshot_report, removes, 96),
		AT(ferry_snapshot_report, unmaps, 104),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_layout_wire(void **state)
{
	static const struct pin pins[] = {
		SIZE(wire_header, 16),
		AT(wire_header, magic, 0),
		AT(wire_header, version, 4),
		AT(wire_header, type, 6),
		AT(wire_header, len, 8),
		AT(wire_header, nfds, 12),
		SIZE(wire_range, 40),
		AT(wire_range, addr, 0),
		AT(wire_range, len, 8),
		AT(wire_range, id, 16),
		AT(wire_range, fd_offset, 24),
		AT(wire_range, flags, 32),
		AT(wire_range, pad, 36),
		SIZE(wire_offer, 32),
		AT(wire_offer, nranges, 0),
		AT(wire_offer, blob_len, 4),
		AT(wire_offer, token_addr, 8),
		AT(wire_offer, token, 16),
		SIZE(wire_attach, 8),
		AT(wire_attach, nranges, 0),
		AT(wire_attach, flags, 4),
		SIZE(wire_shadow, 8),
		AT(wire_shadow, nfds, 0),
		AT(wire_shadow, pad, 4),
		SIZE(wire_done, 8),
		AT(wire_done, moved, 0),
		AT(wire_done, pad, 4),
		SIZE(wire_commit, 8),
		AT(wire_commit, tables, 0),
		AT(wire_commit, pad, 4),
		SIZE(wire_block, 16),
		AT(wire_block, src, 0),
		AT(wire_block, dst, 8),
		SIZE(wire_result, 16),
		AT(wire_result, error, 0),
		AT(wire_result, pad, 4),
		AT(wire_result, done, 8),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_values(void **state)
{
	static const struct pin pins[] = {
		VALUE(FERRY_WAY_ZERO, 0),
		VALUE(FERRY_WAY_COPY, 1),
		VALUE(FERRY_WAY_STAGE, 2),
		VALUE(FERRY_WAY_CONTINUE, 3),
		VALUE(FERRY_WAY_MOVE, 4),
		VALUE(FERRY_WAY_MODULE, 5),
		VALUE(FERRY_WAY_TABLES, 6),
		VALUE(FERRY_WAYS, 7),
		VALUE(FERRY_WAY_AUTO, 0),
		VALUE(FERRY_DOOR_NONE, 0),
		VALUE(FERRY_DOOR_DEVICE, 1),
		VALUE(FERRY_DOOR_SYSCALL, 2),
		VALUE(FERRY_DOOR_USER_MODE, 3),
		VALUE(FERRY_UFFD_KERNEL_FAULTS, 1),
		VALUE(FERRY_FAULT_MISSING, 0),
		VALUE(FERRY_FAULT_WP, 1),
		VALUE(FERRY_FAULT_MINOR, 2),
		VALUE(FERRY_ANSWER_ZERO, 0),
		VALUE(FERRY_ANSWER_COPY, 1),
		VALUE(FERRY_ANSWER_MOVE, 2),
		VALUE(FERRY_ANSWER_CONTINUE, 3),
		VALUE(FERRY_ANSWER_UNPROTECT, 4),
		VALUE(FERRY_ANSWER_POISON, 5),
		VALUE(FERRY_ANSWER_LATER, 6),
		VALUE(FERRY_ANSWER_HERE, 7),
		VALUE(FERRY_CPU_FOLLOW, -1),
		VALUE(FERRY_CPU_ANY, -2),
		VALUE(FERRY_MOVE_STRICT, 1),
		VALUE(FERRY_MOVE_ALLOW_HOLES, 2),
		VALUE(FERRY_MOVE_DONTWAKE, 4),
		VALUE(FERRY_MOVE_FULL, 8),
		VALUE(FERRY_PHASE_OFFER, 0),
		VALUE(FERRY_PHASE_ATTACHED, 1),
		VALUE(FERRY_PHASE_SHADOW, 2),
		VALUE(FERRY_PHASE_READY, 3),
		VALUE(FERRY_PHASE_COMMITTED, 4),
		VALUE(FERRY_PHASE_DONE, 5),
		VALUE(FERRY_PHASES, 6),
		VALUE(FERRY_RANGES_MAX, 1024),
		VALUE(FERRY_BLOB_MAX, 1048576),
		VALUE(FERRY_FDS_MAX, 65536),
		VALUE(FERRY_RANGE_SHARED, 1),
		VALUE(FERRY_RANGE_MERGEABLE, 2),
		VALUE(FERRY_RANGE_DONTFORK, 4),
		VALUE(FERRY_GIVE_STRICT, 1),
		VALUE(FERRY_GIVE_TABLES, 2),
		VALUE(FERRY_TAKE_TABLES, 1),
		VALUE(FERRY_WHY_NONE, 0),
		VALUE(FERRY_WHY_MERGED, 10),
		VALUE(FERRY_WHY_LATE, 14),
		VALUE(FERRY_WHYS, 15),
		VALUE(FERRY_TIMEOUT_MS, 30000),
		VALUE(FERRY_SNAPSHOT_EXTRA_MIN, 8388608),
		VALUE(FERRY_BLOCK_DATA, 0),
		VALUE(FERRY_BLOCK_ZERO, 1),
		VALUE(FERRY_BLOCK_LOST, 2),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_wire_values(void **state)
{
	static const struct pin pins[] = {
		VALUE(WIRE_MAGIC, 0x59524650),
		VALUE(WIRE_VERSION, 2),
		VALUE(WIRE_FDS, 128),
		VALUE(WIRE_REASON, 256),
		VALUE(WIRE_HELLO, 1),
		VALUE(WIRE_OFFER, 2),
		VALUE(WIRE_ATTACH, 3),
		VALUE(WIRE_SHADOW, 4),
		VALUE(WIRE_FDS_MORE, 5),
		VALUE(WIRE_READY, 6),
		VALUE(WIRE_COMMIT, 7),
		VALUE(WIRE_COMMITTED, 8),
		VALUE(WIRE_ARRIVED, 9),
		VALUE(WIRE_STAGE, 10),
		VALUE(WIRE_STAGED, 11),
		VALUE(WIRE_PLACE, 12),
		VALUE(WIRE_PLACED, 13),
		VALUE(WIRE_DONE, 14),
		VALUE(WIRE_FINISHED, 15),
		VALUE(WIRE_ABORT, 16),
	};

	(void)state;
	assert_pins(pins, COUNT(pins));
}

static void test_names(void **state)
{
	static const char *const ways[] = {"zero", "copy", "stage", "continue", "move", "module",
					   "tables"};
	static const char *const phases[] = {"offer", "attached",  "shadow",
					     "ready", "committed", "done"};

	(void)state;
	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		assert_string_equal(ferry_way_name(i), ways[i]);
	for (unsigned int i = 0; i < FERRY_PHASES; i++)
		assert_string_equal(ferry_phase_name(i), phases[i]);
	for (unsigned int i = 0; i < FERRY_WHYS; i++)
		assert_true(strlen(ferry_why_name(i)) > 5);
	assert_string_equal(ferry_why_name(FERRY_WHYS), "?");
	assert_string_equal(ferry_why_name(UINT_MAX), "?");
	assert_string_equal(ferry_way_name(FERRY_WAYS), "?");
	assert_string_equal(ferry_way_name(UINT_MAX), "?");
	assert_string_equal(ferry_phase_name(FERRY_PHASES), "?");
	assert_string_equal(ferry_phase_name(UINT_MAX), "?");
}

/* ---- symbols */

static const char *const symbols[] = {
	"ferry_caps_probe",    "ferry_give_close",    "ferry_give_commit", "ferry_give_open",
	"ferry_give_reason",   "ferry_give_report",   "ferry_give_shadow", "ferry_give_wait",
	"ferry_loop_free",     "ferry_loop_new",      "ferry_loop_retry",  "ferry_loop_run",
	"ferry_loop_stats",    "ferry_loop_step",     "ferry_loop_stop",   "ferry_loop_watch",
	"ferry_snapshot_begin", "ferry_snapshot_end", "ferry_snapshot_next",
	"ferry_snapshot_report",
	"ferry_move",          "ferry_phase_name",    "ferry_source_file", "ferry_source_free",
	"ferry_source_memory", "ferry_source_shared", "ferry_source_zero", "ferry_take_abort",
	"ferry_take_attach",   "ferry_take_close",    "ferry_take_commit", "ferry_take_done",
	"ferry_take_map",      "ferry_take_offer",    "ferry_take_open",   "ferry_take_reason",
	"ferry_take_shadow",   "ferry_uffd_open",     "ferry_way_name",    "ferry_why_name",
};

/* The library of the same build as this program: BUILD/tests/unit/abi. */
static void library_path(char *path, size_t size)
{
	char self[PATH_MAX] = {0};

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	for (int up = 0; up < 3; up++) {
		char *slash = strrchr(self, '/');
		assert_non_null(slash);
		*slash = 0;
	}
	snprintf(path, size, "%.4000s/libpageferry.so", self);
}

static const Elf64_Shdr *find_section(const char *elf, uint32_t type)
{
	const Elf64_Ehdr *head = (const void *)elf;
	const Elf64_Shdr *section = (const void *)(elf + head->e_shoff);

	for (unsigned int i = 0; i < head->e_shnum; i++)
		if (section[i].sh_type == type)
			return &section[i];
	return NULL;
}

static bool is_known(const char *name)
{
	for (size_t i = 0; i < COUNT(symbols); i++)
		if (!strcmp(symbols[i], name))
			return true;
	return false;
}

static void check_symbols(const char *elf)
{
	const Elf64_Ehdr *head = (const void *)elf;
	const Elf64_Shdr *sections = (const void *)(elf + head->e_shoff);
	const Elf64_Shdr *dynsym = find_section(elf, SHT_DYNSYM);
	unsigned int found = 0;

	/* Not cmocka's: no analyzer knows that it doesn't return. */
	check(dynsym);
	const Elf64_Sym *sym = (const void *)(elf + dynsym->sh_offset);
	const char *names = elf + sections[dynsym->sh_link].sh_offset;
	for (size_t i = 0; i < dynsym->sh_size / sizeof(*sym); i++) {
		const char *name = names + sym[i].st_name;
		if (sym[i].st_shndx == SHN_UNDEF || sym[i].st_shndx == SHN_ABS)
			continue;
		if (!is_known(name))
			fail_msg("%s is exported", name);
		found++;
	}
	if (found != COUNT(symbols))
		fail_msg("%u symbols are exported, not %zu", found, COUNT(symbols));
}

static void test_symbols(void **state)
{
	char path[PATH_MAX];
	struct stat st;

	(void)state;
	library_path(path, sizeof(path));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_msg("%s is missing: run make", path);
	assert_int_equal(fstat(fd, &st), 0);
	char *elf = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	assert_ptr_not_equal(elf, MAP_FAILED);
	assert_memory_equal(elf, ELFMAG, SELFMAG);
	check_symbols(elf);
	munmap(elf, (size_t)st.st_size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_layout_faults), TEST(test_layout_handover), TEST(test_layout_wire),
		TEST(test_layout_snapshot),
		TEST(test_values),        TEST(test_wire_values),     TEST(test_names),
		TEST(test_symbols),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("abi", tests, NULL, NULL);
}
