// SPDX-License-Identifier: MIT
/*
 * Memory of both QEMUs together: their anonymous memory, from /proc/PID/status, and what the file
 * holds that both of them map, once.
 */
#include <inttypes.h>
#include <sys/stat.h>

#include "bench/vm/vm.h"

static uint64_t rss_anon_kib(const struct child *child)
{
	char path[64], line[128];
	uint64_t kib = 0;
	FILE *f;

	if (!child->pid || child->ended)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)child->pid);
	f = fopen(path, "re");
	/* It may have ended meanwhile, and then it has no memory. */
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

uint64_t memory_now(const struct vm *vm)
{
	uint64_t kib = rss_anon_kib(&vm->old) + rss_anon_kib(&vm->new);
	struct stat st;

	if (vm->ram_file >= 0 && !fstat(vm->ram_file, &st))
		kib += (uint64_t)st.st_blocks / 2;
	return kib;
}

void memory_sample(struct vm *vm)
{
	int64_t now = bench_now();
	uint64_t kib;

	if (now - vm->sampled_ns < SAMPLE_NS)
		return;
	vm->sampled_ns = now;
	kib = memory_now(vm);
	vm->samples++;
	if (kib > vm->peak_kib)
		vm->peak_kib = kib;
}

/* One mapping in smaps; neighbours of one kind count as one, since RAM may be split. */
struct mapping {
	uint64_t start, end;
	bool file;
	uint64_t rss_kib, anonymous_kib;
};

static bool read_header(const char *line, struct mapping *mapping)
{
	uint64_t inode;

	*mapping = (struct mapping){0};
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*x %*s %" SCNu64, &mapping->start,
		   &mapping->end, &inode) != 3)
		return false;
	/* Shared anonymous memory has an inode too. */
	mapping->file = inode != 0;
	return true;
}

static void merge(struct mapping *whole, const struct mapping *part, struct mapping *largest)
{
	if (part->start != whole->end || part->file != whole->file)
		*whole = (struct mapping){.start = part->start, .file = part->file};
	whole->end = part->end;
	whole->rss_kib += part->rss_kib;
	whole->anonymous_kib += part->anonymous_kib;
	if (whole->rss_kib > largest->rss_kib)
		*largest = *whole;
}

static struct mapping largest_mapping(pid_t pid)
{
	struct mapping part = {0}, next, whole = {0}, largest = {0};
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		bench_fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (read_header(line, &next)) {
			merge(&whole, &part, &largest);
			part = next;
		} else if (sscanf(line, "Rss: %" SCNu64, &part.rss_kib) != 1) {
			sscanf(line, "Anonymous: %" SCNu64, &part.anonymous_kib);
		}
	}
	merge(&whole, &part, &largest);
	fclose(f);
	return largest;
}

bool memory_is_anonymous(const struct vm *vm, pid_t pid)
{
	struct mapping ram = largest_mapping(pid);

	/* The guest has filled most of its RAM. */
	if (ram.rss_kib < vm->ram_mib * 1024ull / 2)
		bench_fail("%s: no mapping of QEMU (process %d) can be guest RAM: the largest "
			   "one holds %" PRIu64 " KiB",
			   vm->way->name, (int)pid, ram.rss_kib);
	return !ram.file && ram.anonymous_kib == ram.rss_kib;
}
