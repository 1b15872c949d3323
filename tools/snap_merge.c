// SPDX-License-Identifier: MIT
/* pageferry snapshot merge: a snapshot and its increments make a full one. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap.h"
#include "tools/snap_file.h"
#include "tools/snap_io.h"
#include "tools/snap_read.h"

#define ME        "pageferry snapshot merge"
#define FILES_MAX 1000
#define PART      (1u << 20)

static const char help[] =
	"usage: pageferry snapshot merge BASE INCREMENT ... -o FILE [--compress]\n"
	"\n"
	"Make of a full snapshot and the increments that were made after it, in their order, a full\n"
	"one of the moment of the last. Any of them may be compressed.\n"
	"\n"
	"  -o, --output FILE  the core file; it appears when it is whole\n"
	"  --compress         compress it with zstd\n";

/* Where a file has data, as far as it has been asked. */
struct data_run {
	uint64_t from, to;
};

struct merge {
	const char *path;
	bool compress;
	char **names;
	size_t n;
	struct snap_read *files;
	struct data_run *runs; /* the last that was found of each file */
	struct snap_core core;
	struct snap_maps maps;
	size_t cap;
	char *buffer;
};

/* ---- the files */

/* Beside the output, where there must be room anyway. */
static int expand(const struct merge *m, int fd, const char *path, struct why *why)
{
	int to = file_scratch(m->core.aside);
	int ret = to < 0 ? to : snap_zstd_expand(fd, to, snap_read_limit);

	if (!ret)
		return to;
	if (to >= 0)
		close(to);
	return why_set(why, ret, "%s can't be decompressed: %s", path,
		       ret == -EBADMSG     ? "it is damaged"
		       : ret == -EOVERFLOW ? "there is more in it than its headers say"
					   : strerror(-ret));
}

static int open_one(struct merge *m, size_t i, struct why *why)
{
	const char *path = m->names[i];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	if (snap_zstd_is(fd)) {
		int expanded = expand(m, fd, path, why);
		close(fd);
		fd = expanded;
	}
	if (fd < 0)
		return fd;
	int ret = snap_read_parse(&m->files[i], fd, path, why);
	if (ret) {
		close(fd);
		m->files[i].fd = -1;
	}
	return ret;
}

static int open_all(struct merge *m, struct why *why)
{
	int ret = 0;

	m->files = calloc(m->n, sizeof(*m->files));
	if (!m->files)
		return why_set(why, -ENOMEM, "out of memory");
	for (size_t i = 0; i < m->n; i++)
		m->files[i].fd = -1;
	for (size_t i = 0; !ret && i < m->n; i++)
		ret = open_one(m, i, why);
	return ret ? ret : snap_read_check_chain(m->files, m->n, why);
}

/* ---- what the new one has */

static void print_perms(char *perms, uint32_t flags)
{
	perms[0] = flags & PF_R ? 'r' : '-';
	perms[1] = flags & PF_W ? 'w' : '-';
	perms[2] = flags & PF_X ? 'x' : '-';
	perms[3] = 'p';
}

/* What lies side by side was one mapping, of which parts had changed. */
static int add_map(void *arg, const struct snap_piece *p)
{
	struct merge *m = arg;
	struct snap_map *last = m->maps.n ? &m->maps.v[m->maps.n - 1] : NULL, next = {0};
	bool had = p->file;

	next.start = p->addr;
	next.end = p->addr + p->len;
	next.dumped = had ? p->len : 0;
	print_perms(next.perms, p->flags);
	if (last && last->end == p->addr && !last->dumped == !had &&
	    !strcmp(last->perms, next.perms)) {
		last->end = next.end;
		last->dumped += next.dumped;
		return 0;
	}
	if (!m->maps.v || m->maps.n == m->cap) {
		struct snap_map *v = reallocarray(m->maps.v, m->cap * 2 + 256, sizeof(*v));
		if (!v)
			return -ENOMEM;
		m->maps.v = v;
		m->cap = m->cap * 2 + 256;
	}
	m->maps.v[m->maps.n++] = next;
	return 0;
}

/* Those of the last; it now stands for itself. */
static int lay_out(struct merge *m, struct why *why)
{
	const struct snap_read *last = &m->files[m->n - 1];
	struct snap_ident ident = {.version = SNAP_IDENT_VER};
	char *notes = malloc(last->notes_len);

	if (!notes)
		return why_set(why, -ENOMEM, "out of memory");
	int ret = io_read(last->fd, last->notes_at, notes, last->notes_len);
	if (ret) {
		free(notes);
		return why_set(why, ret, "%s: %s", last->path, strerror(-ret));
	}
	memcpy(ident.id, last->ident.id, sizeof(ident.id));
	struct snap_ident_note note = snap_ident_note(&ident);
	memcpy(notes, &note, sizeof(note));
	m->core.notes = notes;
	m->core.notes_len = last->notes_len;
	snap_core_lay_out(&m->core, &m->maps);
	return 0;
}

/*
 * The run of data that has @at in it or is the next. To look for the end of one takes some file
 * systems as long as it is (tmpfs), and the pieces of a file may be many: it is asked for once.
 */
static struct data_run find_data(struct merge *m, const struct snap_read *f, uint64_t at)
{
	struct data_run *run = &m->runs[f - m->files];
	off_t data, hole;

	if (run->from <= at && at < run->to)
		return *run;
	data = lseek(f->fd, (off_t)at, SEEK_DATA);
	if (data < 0)
		return *run = (struct data_run){errno == ENXIO ? UINT64_MAX : at, UINT64_MAX};
	hole = lseek(f->fd, data, SEEK_HOLE);
	uint64_t from = (uint64_t)data / FERRY_PAGE * FERRY_PAGE;
	*run = (struct data_run){from < at ? at : from, UINT64_MAX};
	if (hole > data)
		run->to = ((uint64_t)hole + FERRY_PAGE - 1) / FERRY_PAGE * FERRY_PAGE;
	return *run;
}

static int go_on(void *arg, uint64_t written)
{
	(void)arg;
	(void)written;
	return snap_interrupted ? -EINTR : 0;
}

static int copy_piece(void *arg, const struct snap_piece *p)
{
	struct merge *m = arg;
	int ret = 0;

	if (!p->file)
		return 0;
	for (uint64_t at = p->at, end = p->at + p->len, len; !ret && at < end; at += len) {
		struct data_run run = find_data(m, p->file, at);
		at = run.from > at ? snap_least(run.from, end) : at;
		len = snap_least(PART, snap_least(run.to, end) - at);
		ret = io_read(p->file->fd, at, m->buffer, len);
		if (!ret)
			ret = snap_core_write(&m->core, p->addr + (at - p->at), m->buffer, len);
		park("snapshot.merging");
		if (!ret)
			ret = go_on(NULL, len);
	}
	return ret;
}

static int merge(struct merge *m, struct why *why)
{
	int ret = snap_core_create(&m->core, m->path, m->compress, why);

	if (!ret)
		ret = open_all(m, why);
	if (!ret)
		ret = snap_read_pieces(m->files, m->n, add_map, m, why);
	if (!ret)
		ret = lay_out(m, why);
	m->buffer = ret ? NULL : malloc(PART);
	m->runs = ret ? NULL : calloc(m->n, sizeof(*m->runs));
	if (!ret)
		ret = m->buffer && m->runs ? snap_read_pieces(m->files, m->n, copy_piece, m, why)
					   : -ENOMEM;
	if (!ret)
		ret = snap_core_finish(&m->core, go_on, NULL);
	if (ret == -EINTR)
		return why_set(why, ret, "interrupted: there is no %s", m->path);
	return ret && !why->text[0] ? why_set(why, ret, "%s: %s", m->path, strerror(-ret)) : ret;
}

static void finish(struct merge *m)
{
	snap_core_close(&m->core);
	for (size_t i = 0; m->files && i < m->n; i++) {
		if (m->files[i].fd >= 0)
			close(m->files[i].fd);
		snap_read_free(&m->files[i]);
	}
	free(m->files);
	free(m->maps.v);
	free(m->buffer);
	free(m->runs);
}

/* ---- */

/* Returns 0 to go on, 1 when help was asked for, 2 after an error. */
static int read_options(int argc, char **argv, struct merge *m)
{
	static const struct option known[] = {{"output", required_argument, NULL, 'o'},
					      {"compress", no_argument, NULL, 'z'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int letter;

	opterr = 0;
	optind = 0;
	while ((letter = getopt_long(argc, argv, ":o:h", known, NULL)) != -1) {
		const char *word = argv[optind > 1 ? optind - 1 : 1];
		if (letter == 'h')
			return 1;
		if (letter == 'o')
			m->path = optarg;
		else if (letter == 'z')
			m->compress = true;
		else
			return say_usage(ME,
					 letter == ':' ? "%s: something must follow"
						       : "%s: not an option",
					 word);
	}
	m->names = argv + optind;
	m->n = (size_t)(argc - optind);
	if (m->n < 2 || m->n > FILES_MAX)
		return say_usage(ME, "a full snapshot and one increment or more are needed");
	return m->path && *m->path ? 0 : say_usage(ME, "-o is missing");
}

int cmd_snapshot_merge(int argc, char **argv)
{
	struct merge m = {.core.fd = -1};
	struct why why = {""};
	int status = read_options(argc, argv, &m);

	if (status == 1)
		fputs(help, stdout);
	if (status)
		return status == 1 ? EXIT_SUCCESS : status;
	snap_catch_signals();
	file_limits_are_errors();
	if (merge(&m, &why)) {
		say("%s", why.text);
		status = EXIT_FAILURE;
	}
	finish(&m);
	if (status)
		snap_end_by_signal();
	return status;
}
