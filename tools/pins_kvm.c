// SPDX-License-Identifier: MIT
/*
 * Memory of a virtual machine: no pin, since KVM finds a page by its address whenever it needs it,
 * and hears of it when the page is taken away. The machine's one CPU writes or reads the first word
 * of the page, and halts.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/pins.h"

#define AT_CODE 0x1000u
#define AT_PAGE 0x10000u

/* In real mode, with DS at the page. */
static const uint8_t code_write[] = {0x66, 0xa3, 0x00, 0x00, 0xf4}; /* mov ds:[0], eax; hlt */
static const uint8_t code_read[] = {0x66, 0xa1, 0x00, 0x00, 0xf4};  /* mov eax, ds:[0]; hlt */

static int set_slot(int vm, uint32_t slot, uint64_t at, const void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = FERRY_PAGE,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int set_segments(int vcpu)
{
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cs.base = AT_CODE;
	sregs.cs.selector = AT_CODE >> 4;
	sregs.ds.base = AT_PAGE;
	sregs.ds.selector = AT_PAGE >> 4;
	return ioctl(vcpu, KVM_SET_SREGS, &sregs) ? -errno : 0;
}

static int make_machine(struct pin *pin)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), size;

	if (kvm < 0)
		return pin_error(pin, "/dev/kvm", -errno);
	pin->kvm.vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (pin->kvm.vm < 0)
		return pin_error(pin, "KVM_CREATE_VM", -errno);
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	pin->kvm.code = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	if (pin->kvm.code == MAP_FAILED)
		return pin_error(pin, "mmap", -errno);
	if (set_slot(pin->kvm.vm, 0, AT_CODE, pin->kvm.code) ||
	    set_slot(pin->kvm.vm, 1, AT_PAGE, pin->page))
		return pin_error(pin, "KVM_SET_USER_MEMORY_REGION", -errno);
	pin->kvm.vcpu = ioctl(pin->kvm.vm, KVM_CREATE_VCPU, 0);
	if (pin->kvm.vcpu < 0)
		return pin_error(pin, "KVM_CREATE_VCPU", -errno);
	pin->kvm.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, pin->kvm.vcpu,
			    0);
	if (pin->kvm.run == MAP_FAILED)
		return pin_error(pin, "KVM, mmap", -errno);
	close(kvm);
	return set_segments(pin->kvm.vcpu) ? pin_error(pin, "KVM_SET_SREGS", -errno) : 0;
}

/* Runs this code from its begin to its end, with a value in a register. */
static int run(struct pin *pin, const uint8_t *code, size_t len, uint32_t *word)
{
	struct kvm_regs regs = {.rflags = 2, .rax = *word};

	if (ioctl(pin->kvm.vcpu, KVM_SET_REGS, &regs))
		return pin_error(pin, "KVM_SET_REGS", -errno);
	memcpy(pin->kvm.code, code, len);
	while (ioctl(pin->kvm.vcpu, KVM_RUN, 0))
		if (errno != EINTR)
			return pin_error(pin, "KVM_RUN", -errno);
	if (pin->kvm.run->exit_reason == KVM_EXIT_MMIO)
		return pin_error(pin, "the guest has no memory there", -EFAULT);
	if (pin->kvm.run->exit_reason != KVM_EXIT_HLT)
		return pin_error(pin, "the guest doesn't run on this KVM", -EOPNOTSUPP);
	if (ioctl(pin->kvm.vcpu, KVM_GET_REGS, &regs))
		return pin_error(pin, "KVM_GET_REGS", -errno);
	*word = (uint32_t)regs.rax;
	return 0;
}

int kvm_write(struct pin *pin, uint32_t word)
{
	return run(pin, code_write, sizeof(code_write), &word);
}

int kvm_read(struct pin *pin, uint32_t *word)
{
	*word = 0;
	return run(pin, code_read, sizeof(code_read), word);
}

/* Where it can't run is known only when it has; then it also has the page mapped. */
int kvm_take(struct pin *pin)
{
	uint32_t word;
	int ret = make_machine(pin);

	return ret ? ret : kvm_read(pin, &word);
}
