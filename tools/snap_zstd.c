// SPDX-License-Identifier: MIT
/* A compressed file, see snap_zstd.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "lib/park.h"
#include "lib/scan.h"
#include "lib/uffd.h"
#include "tools/snap_io.h"
#include "tools/snap_zstd.h"

#define LEVEL     1 /* the process's writes wait for it */
#define PART      (2u << 20)
#define ZEROS_MAX (16u << 20)

struct frame {
	uint64_t at, len;     /* of the file */
	uint64_t spool, size; /* where it is kept */
};

struct snap_zstd {
	ZSTD_CCtx *ctx;
	int fd;
	uint64_t end; /* of what is kept */
	struct frame *v;
	size_t n, cap;
	char *out;
	size_t out_cap;
	char *zeros;       /* one frame of as many as possible */
	size_t zeros_size; /* 0: not made yet */
};

static int set_up(struct snap_zstd *z)
{
	z->ctx = ZSTD_createCCtx();
	z->out_cap = ZSTD_compressBound(PART);
	z->out = malloc(z->out_cap);
	if (!z->ctx || !z->out)
		return -ENOMEM;
	ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_compressionLevel, LEVEL);
	ZSTD_CCtx_setParameter(z->ctx, ZSTD_c_checksumFlag, 1);
	return 0;
}

int snap_zstd_open(struct snap_zstd **zstd, int spool)
{
	struct snap_zstd *z = calloc(1, sizeof(*z));

	*zstd = z;
	if (!z) {
		close(spool);
		return -ENOMEM;
	}
	z->fd = spool;
	return set_up(z);
}

void snap_zstd_close(struct snap_zstd *z)
{
	if (!z)
		return;
	if (z->fd >= 0)
		close(z->fd);
	ZSTD_freeCCtx(z->ctx);
	free(z->zeros);
	free(z->out);
	free(z->v);
	free(z);
}

static int note(struct snap_zstd *z, uint64_t at, size_t len, size_t size)
{
	if (z->n == z->cap) {
		struct frame *v = reallocarray(z->v, z->cap * 2 + 1024, sizeof(*v));
		if (!v)
			return -ENOMEM;
		z->v = v;
		z->cap = z->cap * 2 + 1024;
	}
	z->v[z->n++] = (struct frame){at, len, z->end, size};
	z->end += size;
	return 0;
}

static int64_t compress(struct snap_zstd *z, const void *data, size_t len)
{
	size_t size = ZSTD_compress2(z->ctx, z->out, z->out_cap, data, len);
	return ZSTD_isError(size) ? -ENOMEM : (int64_t)size;
}

int64_t snap_zstd_add(struct snap_zstd *z, uint64_t at, const void *data, size_t len)
{
	int64_t written = 0;

	for (size_t done = 0, part; done < len; done += part) {
		part = len - done < PART ? len - done : PART;
		int64_t size = compress(z, (const char *)data + done, part);
		if (size < 0)
			return size;
		int ret = io_write(z->fd, z->end, z->out, (size_t)size);
		if (!ret)
			ret = note(z, at + done, part, (size_t)size);
		if (ret)
			return ret;
		written += size;
	}
	return written;
}

/* ---- into order */

struct output {
	int fd;
	uint64_t at;
	int (*step)(void *arg, uint64_t written);
	void *arg;
};

static int put(struct output *o, const void *data, size_t len)
{
	int ret = io_write(o->fd, o->at, data, len);

	o->at += len;
	return ret ? ret : o->step(o->arg, len);
}

/* Never touched: the one page of zeros that the kernel has is all that is read. */
static int put_zero_frame(struct snap_zstd *z, struct output *o, size_t len)
{
	if (len == ZEROS_MAX && z->zeros_size)
		return put(o, z->zeros, z->zeros_size);
	void *zeros = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			   0);
	if (zeros == MAP_FAILED)
		return -ENOMEM;
	int64_t size = compress(z, zeros, len);
	munmap(zeros, len);
	if (size < 0)
		return (int)size;
	if (len == ZEROS_MAX) {
		z->zeros = malloc((size_t)size);
		z->zeros_size = z->zeros ? (size_t)size : 0;
		if (z->zeros)
			memcpy(z->zeros, z->out, (size_t)size);
	}
	return put(o, z->out, (size_t)size);
}

static int put_zeros(struct snap_zstd *z, struct output *o, uint64_t len)
{
	int ret = 0;

	for (uint64_t part; !ret && len; len -= part) {
		part = len < ZEROS_MAX ? len : ZEROS_MAX;
		ret = put_zero_frame(z, o, part);
	}
	return ret;
}

static int put_kept(struct snap_zstd *z, struct output *o, uint64_t from, uint64_t len)
{
	int ret = 0;

	for (uint64_t part; !ret && len; len -= part, from += part) {
		part = len < z->out_cap ? len : z->out_cap;
		ret = io_read(z->fd, from, z->out, part);
		if (!ret)
			ret = put(o, z->out, part);
	}
	return ret;
}

static int by_place(const void *a, const void *b)
{
	const struct frame *x = a, *y = b;
	return x->at < y->at ? -1 : x->at > y->at;
}

int snap_zstd_finish(struct snap_zstd *z, int fd, int (*step)(void *arg, uint64_t written),
		     void *arg)
{
	struct output o = {.fd = fd, .step = step, .arg = arg};
	uint64_t at = 0, run;
	int ret = 0;

	park("snapshot.order");
	if (z->n)
		qsort(z->v, z->n, sizeof(*z->v), by_place);
	for (size_t i = 0, next; !ret && i < z->n; i = next) {
		const struct frame *f = &z->v[i];
		ret = put_zeros(z, &o, f->at - at);
		/* Frames that came one after the other go as one. */
		for (next = i, run = 0, at = f->at;
		     next < z->n && z->v[next].at == at && z->v[next].spool == f->spool + run;
		     next++) {
			run += z->v[next].size;
			at += z->v[next].len;
		}
		if (!ret)
			ret = put_kept(z, &o, f->spool, run);
	}
	return ret;
}

/* ---- back */

bool snap_zstd_is(int fd)
{
	static const unsigned char magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
	unsigned char begin[4];

	return !io_read(fd, 0, begin, sizeof(begin)) && !memcmp(begin, magic, sizeof(magic));
}

static int peek(ZSTD_DCtx *ctx, int fd, char *buffer, size_t cap, ZSTD_outBuffer *out)
{
	uint64_t at = 0;

	while (out->pos < out->size) {
		ssize_t n = pread(fd, buffer, cap, (off_t)at);
		ZSTD_inBuffer in = {buffer, n > 0 ? (size_t)n : 0, 0};
		if (n <= 0)
			return n ? -errno : -EBADMSG;
		while (in.pos < in.size && out->pos < out->size)
			if (ZSTD_isError(ZSTD_decompressStream(ctx, out, &in)))
				return -EBADMSG;
		at += (uint64_t)n;
	}
	return 0;
}

int snap_zstd_peek(int fd, void *to, size_t len)
{
	ZSTD_outBuffer out = {to, len, 0};
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t cap = ZSTD_DStreamInSize();
	char *buffer = malloc(cap);
	int ret = ctx && buffer ? peek(ctx, fd, buffer, cap, &out) : -ENOMEM;

	free(buffer);
	ZSTD_freeDCtx(ctx);
	return ret;
}

/* Up to where in @data the pages of the file, which is at @at, are all zeros, or all not. */
static size_t same_pages(uint64_t at, const char *data, size_t len, bool *zero)
{
	size_t end = 0;

	while (end < len) {
		size_t page = FERRY_PAGE - (at + end) % FERRY_PAGE;
		page = page < len - end ? page : len - end;
		bool is_zero = scan_is_zero(data + end, page);
		if (end && is_zero != *zero)
			break;
		*zero = is_zero;
		end += page;
	}
	return end;
}

static int write_expanded(int to, uint64_t *at, const char *data, size_t len)
{
	bool zero = false;
	int ret = 0;

	for (size_t part; !ret && len; len -= part, data += part, *at += part) {
		part = same_pages(*at, data, len, &zero);
		ret = zero ? 0 : io_write(to, *at, data, part);
	}
	return ret;
}

struct expansion {
	int from, to;
	uint64_t at, most; /* most: once the head is there */
	uint64_t (*limit)(const void *head);
	char head[SNAP_ZSTD_HEAD];
	ZSTD_DCtx *ctx;
	char *in, *out;
	size_t in_cap, out_cap;
};

static int check_length(struct expansion *e, const char *data, size_t len)
{
	if (e->at < sizeof(e->head)) {
		size_t n = sizeof(e->head) - e->at < len ? sizeof(e->head) - e->at : len;
		memcpy(e->head + e->at, data, n);
	}
	if (e->at < sizeof(e->head) && e->at + len >= sizeof(e->head))
		e->most = e->limit(e->head);
	return e->at + len > e->most ? -EOVERFLOW : 0;
}

/* All of what was read. *left: 0 at the end of a frame. */
static int expand_some(struct expansion *e, size_t len, size_t *left)
{
	ZSTD_inBuffer in = {e->in, len, 0};

	while (in.pos < in.size) {
		ZSTD_outBuffer out = {e->out, e->out_cap, 0};
		*left = ZSTD_decompressStream(e->ctx, &out, &in);
		if (ZSTD_isError(*left))
			return -EBADMSG;
		int ret = check_length(e, e->out, out.pos);
		if (!ret)
			ret = write_expanded(e->to, &e->at, e->out, out.pos);
		if (ret)
			return ret;
	}
	return 0;
}

static int expand(struct expansion *e)
{
	size_t left = 0;
	int ret = 0;

	for (;;) {
		ssize_t n = read(e->from, e->in, e->in_cap);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			ret = n ? -errno : 0;
		if (n <= 0 || ret)
			break;
		ret = expand_some(e, (size_t)n, &left);
		if (ret)
			return ret;
	}
	/* The end of the file may be a hole. */
	if (!ret && ftruncate(e->to, (off_t)e->at) < 0)
		ret = -errno;
	return ret ? ret : left ? -EBADMSG : 0;
}

int snap_zstd_expand(int from, int to, uint64_t (*limit)(const void *head))
{
	struct expansion e = {.from = from,
			      .to = to,
			      .limit = limit,
			      .most = SNAP_ZSTD_HEAD,
			      .ctx = ZSTD_createDCtx(),
			      .in_cap = ZSTD_DStreamInSize(),
			      .out_cap = ZSTD_DStreamOutSize()};

	e.in = malloc(e.in_cap);
	e.out = malloc(e.out_cap);
	int ret = e.ctx && e.in && e.out ? expand(&e) : -ENOMEM;
	free(e.in);
	free(e.out);
	ZSTD_freeDCtx(e.ctx);
	return ret;
}
