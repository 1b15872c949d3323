// SPDX-License-Identifier: MIT
/*
 * The memory of a virtual machine moves while its CPU writes to it. KVM has page tables of its own,
 * and hears of a page that leaves only by the notifier calls: without them its CPU would go on
 * writing to a page that is another process' already.
 *
 * The virtual CPU counts in a word that moves, and by itself in one that doesn't. Whoever has the
 * page adds one as well, slowly: what the CPU writes to it meanwhile gets lost, and both counts
 * differ.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define SUBJECT       "kvm"

#define ROUNDS        90u
#define SKIP_NOTIFIER "/sys/module/pageferry/parameters/skip_notifier"

/* ---- the machine, in a peer. Its first page has the code, the second one these words. */

#define AT_STOP  PAGE
#define AT_COUNT (PAGE + 8)
#define FIXED    (2 * PAGE)
#define AT_MOVED BLOCK /* in the machine, so that KVM can map a huge page as one */

/* In real mode, with DS at what moves, and ES at the second page. */
static const uint8_t code[] = {
	0xf0, 0x66, 0xff, 0x06, 0x00, 0x00, /* lock inc dword ds:[0] */
	0x26, 0x66, 0xff, 0x06, 0x08, 0x00, /* inc dword es:[8] */
	0x26, 0x80, 0x3e, 0x00, 0x00, 0x00, /* cmp byte es:[0], 0 */
	0x74, 0xec,                         /* je to the start */
	0xf4,                               /* hlt */
};

static void set_slot(int vm, uint32_t slot, uint64_t at, uint64_t len, uint64_t addr)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = at,
		.memory_size = len,
		.userspace_addr = addr,
	};

	check_call(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
}

static void set_registers(int vcpu)
{
	struct kvm_regs regs = {.rflags = 2};
	struct kvm_sregs sregs;

	check_call(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.ds.base = AT_MOVED;
	sregs.es.base = PAGE;
	check_call(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	check_call(ioctl(vcpu, KVM_SET_REGS, &regs));
}

/* Arguments: what moves, its length, two pages that don't. Returns the virtual CPU. */
static int64_t make_machine(const uint64_t *arg)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu;

	if (kvm < 0)
		test_skip("no /dev/kvm: the guest needs a CPU with SVM, and kvm_amd");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	check_call(vm);
	memcpy((void *)arg[2], code, sizeof(code));
	set_slot(vm, 0, 0, FIXED, arg[2]);
	set_slot(vm, 1, AT_MOVED, arg[1], arg[0]);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	check_call(vcpu);
	set_registers(vcpu);
	return vcpu;
}

/* For peer_thread(): the virtual CPU. Until the code ends by itself. */
static int64_t run_machine(const uint64_t *arg)
{
	int vcpu = (int)arg[0];
	struct kvm_run *run = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	check(run != MAP_FAILED);
	check_call(ioctl(vcpu, KVM_RUN, 0));
	check_is(run->exit_reason, KVM_EXIT_HLT);
	return 0;
}

/* ---- it, and where its memory goes */

struct scene {
	struct end vmm, other;
	bool tables; /* its memory leaves as a whole page table */
	uint64_t fixed;
	int pf, thread;
};

static struct scene scene_make(size_t len, unsigned int how)
{
	struct scene s = {.vmm = giver_start(len, how), .other = taker_start(len, how)};
	int64_t vcpu;

	s.pf = pf_open();
	s.fixed = peer_map(s.vmm.peer, 0, FIXED, MAP_4K);
	peer_poke(s.vmm.peer, s.vmm.addr, 0);
	vcpu = peer_do(s.vmm.peer, make_machine, s.vmm.addr, len, s.fixed);
	s.thread = peer_thread(s.vmm.peer, run_machine, (uint64_t)vcpu);
	await(10000, peer_peek(s.vmm.peer, s.fixed + AT_COUNT));
	return s;
}

/* KVM has a reference to a page while it handles a fault: that passes. */
static void move(const struct scene *s, const struct end *to, const struct end *from)
{
	int64_t end = now_ms() + 10000;
	int ret;

	if (s->tables && to == &s->other) {
		pf_move_all_tables(s->pf, to, from);
		return;
	}
	do
		ret = pf_move(s->pf, 0, to->uffd, from->uffd, to->addr, from->addr, from->len,
			      NULL);
	while ((ret == -EBUSY || ret == -EAGAIN) && now_ms() < end);
	check_is(ret, 0);
}

/* Arguments: where, and how long it takes. */
static int64_t add_one(const uint64_t *arg)
{
	volatile uint32_t *word = (volatile uint32_t *)arg[0];
	uint32_t was = *word;

	if (arg[1])
		nap_ms((unsigned int)arg[1]);
	*word = was + 1;
	return 0;
}

/* Away and back: as soon as the CPU asks for it, some time later, or at once. */
static void go_round(const struct scene *s, unsigned int i, bool faults)
{
	move(s, &s->other, &s->vmm);
	if (i % 3 == 0 && faults)
		check_is(uffd_fault(s->vmm.uffd), s->vmm.addr);
	peer_do(s->other.peer, add_one, s->other.addr, i % 3 < 2 ? 2 : 0);
	move(s, &s->vmm, &s->other);
	/* An empty table that is left there would be in the way of the next one. */
	if (s->tables)
		taker_renew(&s->other, MAP_4K);
}

static uint64_t count_of(const struct scene *s)
{
	return peer_peek(s->vmm.peer, s->fixed + AT_COUNT);
}

/* Returns how many of all that were added are not there. */
static int64_t scene_end(struct scene *s)
{
	uint32_t is, want;

	peer_poke(s->vmm.peer, s->fixed + AT_STOP, 1);
	peer_join(s->vmm.peer, s->thread, 10000);
	is = (uint32_t)peer_peek(s->vmm.peer, s->vmm.addr);
	want = (uint32_t)count_of(s) + ROUNDS;
	note("%u of %u", is, want);
	end_stop(&s->vmm);
	end_stop(&s->other);
	return (int64_t)want - is;
}

static int64_t lost_by(size_t len, unsigned int how, bool faults, bool tables)
{
	struct scene s = scene_make(len, how);

	s.tables = tables;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		uint64_t before = count_of(&s);

		go_round(&s, i, faults);
		/* It goes on, so that the next round has something to take away. */
		await(10000, count_of(&s) != before);
	}
	if (how & MAP_HUGE)
		check(page_state(peer_pid(s.vmm.peer), s.vmm.addr) & PM_HUGE);
	return scene_end(&s);
}

static int64_t lost(size_t len, unsigned int how, bool faults)
{
	return lost_by(len, how, faults, false);
}

static void small_page(void)
{
	check_is(lost(PAGE, MAP_4K, true), 0);
}

static void huge_page(void)
{
	check_is(lost(BLOCK, MAP_HUGE, true), 0);
}

/* The CPU that waits for a page has a table for it, so they come back page by page. */
static void page_table(void)
{
	check_is(lost_by(BLOCK, MAP_4K, true, true), 0);
}

/* ---- would it be seen? */

static void without_notifier(size_t len, unsigned int how, bool tables)
{
	int64_t gone;

	if (access(SKIP_NOTIFIER, W_OK))
		test_skip("this is not the test build of the module: make kmod PARK=1");
	check_is(file_write(SKIP_NOTIFIER, "1"), 0);
	gone = lost_by(len, how, false, tables);
	check_is(file_write(SKIP_NOTIFIER, "0"), 0);
	check(gone > 0);
}

static void small_page_unnoticed(void)
{
	without_notifier(PAGE, MAP_4K, false);
}

static void huge_page_unnoticed(void)
{
	without_notifier(BLOCK, MAP_HUGE, false);
}

static void page_table_unnoticed(void)
{
	without_notifier(BLOCK, MAP_4K, true);
}

const struct test kvm_tests[] = {
	TEST(small_page, .seconds = 150),
	TEST(huge_page, .seconds = 150),
	TEST(page_table, .seconds = 150),
	TEST(small_page_unnoticed, .seconds = 150),
	TEST(huge_page_unnoticed, .seconds = 150),
	TEST(page_table_unnoticed, .seconds = 150),
	{.name = NULL},
};
