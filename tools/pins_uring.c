// SPDX-License-Identifier: MIT
/*
 * A buffer registered with io_uring: a pin for as long as one likes (FOLL_LONGTERM), for writing.
 * It is written to by reading a file into it, and read by writing it to that file.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h> /* struct iovec: sys/uio.h clashes with linux/fs.h */
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/pins.h"

static uint8_t *map_ring(int fd, size_t len, off_t what)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	return at == MAP_FAILED ? NULL : at;
}

int uring_adopt(struct pin *pin)
{
	struct io_uring_params params;
	const int fd = pin->uring.fd;
	uint8_t *sq, *cq;

	memcpy(&params, pin->uring.params, sizeof(params));

	sq = map_ring(fd, params.sq_off.array + params.sq_entries * sizeof(unsigned int),
		      IORING_OFF_SQ_RING);
	cq = map_ring(fd, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		      IORING_OFF_CQ_RING);
	pin->uring.sqes = (struct io_uring_sqe *)map_ring(
		fd, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	if (!sq || !cq || !pin->uring.sqes)
		return pin_error(pin, "io_uring, mmap", -errno);
	pin->uring.sq_tail = (unsigned int *)(sq + params.sq_off.tail);
	pin->uring.sq_mask = (unsigned int *)(sq + params.sq_off.ring_mask);
	pin->uring.sq_array = (unsigned int *)(sq + params.sq_off.array);
	pin->uring.cq_head = (unsigned int *)(cq + params.cq_off.head);
	pin->uring.cq_tail = (unsigned int *)(cq + params.cq_off.tail);
	pin->uring.cq_mask = (unsigned int *)(cq + params.cq_off.ring_mask);
	pin->uring.cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return 0;
}

int uring_take(struct pin *pin)
{
	struct iovec iov = {pin->page, FERRY_PAGE};
	int ret;

	_Static_assert(sizeof(pin->uring.params) == sizeof(struct io_uring_params),
		       "as many bytes");
	pin->uring.fd = (int)syscall(SYS_io_uring_setup, 4, pin->uring.params);
	ret = pin->uring.fd < 0 ? pin_error(pin, "io_uring", -errno) : uring_adopt(pin);
	if (ret)
		return ret;
	pin->uring.file = memfd_create("pin", MFD_CLOEXEC);
	if (pin->uring.file < 0 || ftruncate(pin->uring.file, FERRY_PAGE))
		return pin_error(pin, "memfd_create", -errno);
	if (syscall(SYS_io_uring_register, pin->uring.fd, IORING_REGISTER_BUFFERS, &iov, 1))
		return pin_error(pin, "io_uring, registered buffer", -errno);
	return 0;
}

static int transfer(struct pin *pin, uint8_t opcode)
{
	unsigned int tail = *pin->uring.sq_tail, slot = tail & *pin->uring.sq_mask, head;
	int res;

	pin->uring.sqes[slot] = (struct io_uring_sqe){
		.opcode = opcode,
		.fd = pin->uring.file,
		.addr = (uintptr_t)pin->page,
		.len = FERRY_PAGE,
	};
	pin->uring.sq_array[slot] = slot;
	__atomic_store_n(pin->uring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	while (syscall(SYS_io_uring_enter, pin->uring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) <
	       0)
		if (errno != EINTR)
			return pin_error(pin, "io_uring", -errno);
	head = *pin->uring.cq_head;
	if (head == __atomic_load_n(pin->uring.cq_tail, __ATOMIC_ACQUIRE))
		return pin_error(pin, "io_uring", -EIO);
	res = pin->uring.cqes[head & *pin->uring.cq_mask].res;
	__atomic_store_n(pin->uring.cq_head, head + 1, __ATOMIC_RELEASE);
	if (res != (int)FERRY_PAGE)
		return pin_error(pin, "io_uring", res < 0 ? res : -EIO);
	return 0;
}

int uring_write(struct pin *pin, uint32_t word)
{
	uint32_t words[FERRY_PAGE / sizeof(word)];

	for (size_t i = 0; i < sizeof(words) / sizeof(word); i++)
		words[i] = word;
	if (pwrite(pin->uring.file, words, sizeof(words), 0) != sizeof(words))
		return pin_error(pin, "memfd, pwrite", -errno);
	return transfer(pin, IORING_OP_READ_FIXED);
}

int uring_read(struct pin *pin, uint32_t *word)
{
	int ret = transfer(pin, IORING_OP_WRITE_FIXED);

	if (!ret && pread(pin->uring.file, word, sizeof(*word), 0) != sizeof(*word))
		return pin_error(pin, "memfd, pread", -errno);
	return ret;
}
