// SPDX-License-Identifier: MIT
/* The notes of the core file: registers of all threads, who it is, its auxiliary vector, its files.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <unistd.h>

#include "lib/uffd.h"
#include "tools/snap.h"

struct buffer {
	char *data;
	size_t len, cap;
	bool failed;
};

static void append(struct buffer *b, const void *data, size_t len)
{
	/* Nothing may come behind what is missing. */
	if (b->failed || !len)
		return;
	if (b->cap - b->len < len) {
		size_t cap = b->cap * 2 + len + 4096;
		char *more = realloc(b->data, cap);
		if (!more) {
			b->failed = true;
			return;
		}
		b->data = more;
		b->cap = cap;
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

static void pad(struct buffer *b)
{
	append(b, "\0\0\0", (4 - b->len % 4) % 4);
}

static void note(struct buffer *b, const char *name, uint32_t type, const void *data, size_t len)
{
	Elf64_Nhdr head = {(Elf64_Word)strlen(name) + 1, (Elf64_Word)len, type};

	append(b, &head, sizeof(head));
	append(b, name, head.n_namesz);
	pad(b);
	append(b, data, len);
	pad(b);
}

/* ---- who it is */

static struct snap_stat read_stat(pid_t pid)
{
	struct snap_stat s = {.state = 'R'};
	char *text = snap_read_proc(pid, "stat", NULL);
	const char *open = text ? strchr(text, '(') : NULL,
		   *close = text ? strrchr(text, ')') : NULL;

	if (open && close) {
		size_t len = (size_t)(close - open - 1);
		memcpy(s.name, open + 1, len < 16 ? len : 16);
		sscanf(close, ") %c %d %d %d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %d",
		       &s.state, &s.ppid, &s.pgrp, &s.sid, &s.flags, &s.nice);
	}
	free(text);
	return s;
}

void snap_who_read(struct snap_who *w, pid_t pid)
{
	*w = (struct snap_who){.pid = pid, .stat = read_stat(pid)};
	w->args = snap_read_proc(pid, "cmdline", &w->args_len);
	w->auxv = snap_read_proc(pid, "auxv", &w->auxv_len);
}

void snap_who_free(struct snap_who *w)
{
	free(w->args);
	free(w->auxv);
	*w = (struct snap_who){0};
}

/* ---- */

static void add_prstatus(struct buffer *b, const struct snap_thread *t, const struct snap_stat *s)
{
	struct elf_prstatus p = {.pr_sighold = t->blocked,
				 .pr_pid = t->tid,
				 .pr_ppid = s->ppid,
				 .pr_pgrp = s->pgrp,
				 .pr_sid = s->sid,
				 .pr_fpvalid = 1};

	_Static_assert(sizeof(p.pr_reg) == sizeof(t->regs), "the kernel's and glibc's registers");
	memcpy(&p.pr_reg, &t->regs, sizeof(p.pr_reg));
	note(b, "CORE", NT_PRSTATUS, &p, sizeof(p));
}

static void add_prpsinfo(struct buffer *b, const struct snap_who *w)
{
	const struct snap_stat *s = &w->stat;
	struct elf_prpsinfo p = {.pr_sname = s->state,
				 .pr_zomb = (char)(s->state == 'Z'),
				 .pr_nice = (char)s->nice,
				 .pr_flag = s->flags,
				 .pr_pid = w->pid,
				 .pr_ppid = s->ppid,
				 .pr_pgrp = s->pgrp,
				 .pr_sid = s->sid};
	const char *states = "RSDTZW", *at = strchr(states, s->state);
	size_t len = w->args_len;

	p.pr_state = (char)(at ? at - states : 0);
	memcpy(p.pr_fname, s->name, sizeof(p.pr_fname));
	len = len < sizeof(p.pr_psargs) ? len : sizeof(p.pr_psargs) - 1;
	for (size_t i = 0; w->args && i < len; i++)
		p.pr_psargs[i] = (char)(w->args[i] || i + 1 == len ? w->args[i] : ' ');
	note(b, "CORE", NT_PRPSINFO, &p, sizeof(p));
}

/* count, page size; start, end, page offset of each; their names. */
static void add_files(struct buffer *b, const struct snap_maps *maps)
{
	struct buffer head = {0}, names = {0};
	uint64_t count[2] = {0, FERRY_PAGE};

	append(&head, count, sizeof(count));
	for (size_t i = 0; i < maps->n; i++) {
		const struct snap_map *m = &maps->v[i];
		if (!m->inode || m->name[0] != '/')
			continue;
		uint64_t entry[3] = {m->start, m->end, m->offset / FERRY_PAGE};
		append(&head, entry, sizeof(entry));
		append(&names, m->name, strlen(m->name) + 1);
		count[0]++;
	}
	if (!head.failed && !names.failed) {
		memcpy(head.data, count, sizeof(count));
		append(&head, names.data ? names.data : "", names.len);
	}
	b->failed |= head.failed || names.failed;
	if (!b->failed)
		note(b, "CORE", NT_FILE, head.data, head.len);
	free(head.data);
	free(names.data);
}

static void add_xstate(struct buffer *b, const struct snap_thread *t)
{
	uint64_t features;
	size_t len = snap_xstate(t, &features);
	char *mine = len ? malloc(len) : NULL;

	if (!mine) {
		b->failed |= len != 0;
		return;
	}
	memcpy(mine, t->xstate, len);
	memcpy(mine + SNAP_XFEATURES_AT, &features, sizeof(features));
	note(b, "LINUX", NT_X86_XSTATE, mine, len);
	free(mine);
}

static void add_thread(struct buffer *b, const struct snap_who *w, const struct snap_maps *maps,
		       const struct snap_thread *t, bool first)
{
	add_prstatus(b, t, &w->stat);
	if (first) {
		add_prpsinfo(b, w);
		if (w->auxv)
			note(b, "CORE", NT_AUXV, w->auxv, w->auxv_len);
		add_files(b, maps);
	}
	note(b, "CORE", NT_FPREGSET, &t->fp, sizeof(t->fp));
	add_xstate(b, t);
}

void *snap_notes(const struct snap_who *w, const struct snap_threads *threads,
		 const struct snap_maps *maps, const struct snap_ident *ident, size_t *len)
{
	struct buffer b = {0};

	if (ident) {
		struct snap_ident_note first = snap_ident_note(ident);
		append(&b, &first, sizeof(first));
	}
	for (size_t i = 0; i < threads->n; i++)
		add_thread(&b, w, maps, &threads->v[i], i == 0);
	if (b.failed) {
		free(b.data);
		return NULL;
	}
	*len = b.len;
	return b.data;
}
