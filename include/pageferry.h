/* SPDX-License-Identifier: MIT */
/*
 * libpageferry: move the live memory of a running program.
 *
 * Pages go to another address, another process or another version of the program, one by one, on
 * demand, while the program runs. The kernel's userfaultfd(2) reports every access to a page that
 * is not there yet; this library knows who has the page, brings it, and lets the program go on.
 *
 * The header has five parts, from the bottom up:
 *
 *   capabilities  ferry_caps_*     what this kernel and this user can do, found by trying
 *   faults        ferry_uffd_*, ferry_source_*, ferry_loop_*
 *                                  serve the page faults of this or of another process
 *   moving        ferry_move       one logical move; says which way each page went
 *   hand-over     ferry_give_*, ferry_take_*
 *                                  all the memory of one process to its successor
 *   snapshot      ferry_snapshot_* memory as it was at one moment, while the program goes on
 *
 * Conventions, for every call unless it says otherwise:
 *
 * - Addresses and lengths are in bytes and must be multiples of the page size. A descriptor is a
 *   plain int. Times are in milliseconds where the name says ms, in nanoseconds where it says ns.
 * - A call returns 0 (or a useful positive number) on success and -errno on failure; errno itself
 *   is neither read nor set by contract.
 * - Objects are opaque. *_open or *_new makes one and *_close or *_free ends it; both accept NULL
 *   in the end call. One thread at a time may use an object; calls that may be made from any thread
 *   say so. Different objects are independent.
 * - Structures with a member named size are extensible: set it to sizeof the structure. A library
 *   older than its caller answers -E2BIG when a member that it does not know is not zero.
 * - The library prints nothing, installs no signal handler and never exits.
 */
#ifndef PAGEFERRY_H
#define PAGEFERRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ------------------------------------------------------------------ capabilities */

/** The ways in which a page can reach its new place. */
enum ferry_way {
	FERRY_WAY_ZERO,	    /**< it was empty or all zero: the kernel's zero page, UFFDIO_ZEROPAGE */
	FERRY_WAY_COPY,	    /**< copied by the process that has it, UFFDIO_COPY */
	FERRY_WAY_STAGE,    /**< copied into a huge page beside, then moved into place as one */
	FERRY_WAY_CONTINUE, /**< shared memory, already in the page cache: mapped, UFFDIO_CONTINUE */
	FERRY_WAY_MOVE,	    /**< moved within one process by the kernel's UFFDIO_MOVE */
	FERRY_WAY_MODULE,   /**< moved between processes, without a copy, by pageferry.ko */
	FERRY_WAY_TABLES,   /**< the same as whole page tables, see FERRY_GIVE_TABLES */
	FERRY_WAYS
};

/** A set of ways, for the members called ways: FERRY_WAY_BIT(FERRY_WAY_COPY) | ... */
#define FERRY_WAY_BIT(way) (1u << (way))
/** Let the library choose; the same as 0. */
#define FERRY_WAY_AUTO	   0u

/** Name of a way in reports ("zero", "copy", ...); "?" for a value out of range. Any thread. */
const char *ferry_way_name(unsigned int way);

/** Where a userfaultfd can be had from, best first. */
enum ferry_door {
	FERRY_DOOR_NONE,      /**< not at all; see ferry_caps.door_error */
	FERRY_DOOR_DEVICE,    /**< /dev/userfaultfd: governed by its file permissions alone */
	FERRY_DOOR_SYSCALL,   /**< userfaultfd(2), faults from kernel code included */
	FERRY_DOOR_USER_MODE, /**< userfaultfd(2) with UFFD_USER_MODE_ONLY: faults that the kernel
			       *   takes on the program's behalf, in read(2) or KVM, fail */
};

/** What this kernel and this user can do. Every answer was found by trying. */
struct ferry_caps {
	size_t size;		/**< in: sizeof(struct ferry_caps) */
	uint32_t door;		/**< enum ferry_door: the best one that opened */
	int32_t door_error;	/**< -errno of the best door that did not open, else 0 */
	int32_t device_error;	/**< -errno of opening /dev/userfaultfd, else 0 */
	int32_t syscall_error;	/**< -errno of the unrestricted system call, else 0 */
	uint64_t features;	/**< UFFD_FEATURE_* bits of the API handshake */
	uint64_t ioctls;	/**< ioctl bits of a registered anonymous MISSING|WP range */
	int32_t move_error;	/**< UFFDIO_MOVE on a page of our own: 0 or -errno */
	int32_t wp_error;	/**< WRITEPROTECT and a fault by it: 0 or -errno */
	int32_t wp_async_error; /**< UFFD_FEATURE_WP_ASYNC with PAGEMAP_SCAN: 0 or -errno */
	int32_t minor_error;	/**< CONTINUE on shared memory: 0 or -errno */
	int32_t poison_error;	/**< UFFDIO_POISON: 0 or -errno */
	int32_t scan_error;	/**< PAGEMAP_SCAN: 0 or -errno */
	int32_t fork_error;	/**< UFFD_FEATURE_EVENT_FORK for this user: 0 or -errno */
	int32_t thp_error;	/**< a 2 MiB page on MADV_HUGEPAGE: 0, -errno, -ENOENT: not given */
	int32_t ksm_error;	/**< MADV_MERGEABLE: 0 or -errno; -EAGAIN: accepted, ksmd is off */
	int32_t peer_read_error;/**< process_vm_readv of a child, which STAGE needs: 0 or -errno */
	int32_t module_error;	/**< /dev/pageferry: 0 or -errno */
};

/**
 * Find out what can be done here, in a few short-lived children that share this process's memory;
 * leaves nothing behind.
 * @caps: in: size; out: everything else.
 * Returns 0, -EINVAL (size too small), -E2BIG, -ENOMEM. What is missing on the host is an answer
 * in @caps, not an error. Any thread.
 */
int ferry_caps_probe(struct ferry_caps *caps);

/* ------------------------------------------------------------------ faults */

/** Options of ferry_uffd_open. */
#define FERRY_UFFD_KERNEL_FAULTS 0x1u /**< refuse the user-mode-only door */

/**
 * Open a userfaultfd on this process and shake hands on the API.
 * @features: UFFD_FEATURE_* bits that must be there.
 * @flags: FERRY_UFFD_*.
 * Tries /dev/userfaultfd, then the system call, then user-mode-only unless forbidden.
 * The descriptor is close-on-exec and non-blocking, the caller owns it.
 * Returns the descriptor; -EPERM: no door opens for this user; -ENOSYS: the kernel has none;
 * -EOPNOTSUPP: @features are not all there; -EINVAL: unknown @flags; -EMFILE, -ENFILE, -ENOMEM.
 * Any thread.
 */
int ferry_uffd_open(uint64_t features, unsigned int flags);

/** What kind of access was reported. */
enum ferry_fault_kind {
	FERRY_FAULT_MISSING, /**< nothing is mapped there */
	FERRY_FAULT_WP,	     /**< a write to a page that is write-protected by userfaultfd */
	FERRY_FAULT_MINOR,   /**< shared memory: the page is in the page cache but not mapped */
};

/** One fault, as shown to a source. */
struct ferry_fault {
	uint64_t addr;	 /**< page-aligned address in the faulting process */
	uint64_t offset; /**< the same within the source: address - region start + region offset */
	uint64_t left;	 /**< bytes from addr to the end of what this source serves there */
	uint32_t kind;	 /**< enum ferry_fault_kind */
	uint32_t tid;	 /**< faulting thread, in the pid namespace of the opener; 0: not known */
	bool write;
};

/** What a source says about a page. */
enum ferry_answer_kind {
	FERRY_ANSWER_ZERO,	/**< it is zero */
	FERRY_ANSWER_COPY,	/**< copy it from ferry_answer.from */
	FERRY_ANSWER_MOVE,	/**< move it from ferry_answer.from, in the faulting process */
	FERRY_ANSWER_CONTINUE,	/**< it is in the page cache: map it */
	FERRY_ANSWER_UNPROTECT, /**< let the write go on */
	FERRY_ANSWER_POISON,	/**< it is lost: accesses get SIGBUS */
	FERRY_ANSWER_LATER,	/**< not now: the thread goes on waiting, see ferry_loop_retry */
	FERRY_ANSWER_HERE,	/**< it is in place already: the message was overtaken; wake only */
};

/** The answer of a source. It is carried out by the loop; a source never issues an ioctl. */
struct ferry_answer {
	uint32_t kind;	  /**< enum ferry_answer_kind */
	uint64_t len;	  /**< bytes from the faulting page on; 0: one page; trimmed to the region */
	const void *from; /**< COPY: readable memory of this process, at least len bytes;
			   *   valid until the source is asked again */
};

/**
 * A source of pages: whoever has the contents. Make one of your own by filling in this structure,
 * or use one of the ready ones below. Called from the thread that runs the loop.
 */
struct ferry_source {
	/**
	 * What about this page? Fill in @answer and return 0; or return -errno, which poisons the
	 * page, so that the faulting thread gets SIGBUS and never a wrong page.
	 */
	int (*answer)(struct ferry_source *src, const struct ferry_fault *fault,
		      struct ferry_answer *answer);
	/** The pages were put in place. May be NULL. */
	void (*installed)(struct ferry_source *src, uint64_t offset, uint64_t len);
	/** The program discarded the pages (MADV_DONTNEED, munmap): never asked again. May be NULL. */
	void (*removed)(struct ferry_source *src, uint64_t offset, uint64_t len);
	/** Give up what the source owns; called once by whoever created it. May be NULL. */
	void (*free)(struct ferry_source *src);
};

/** Every page is zero. Needs no free. */
struct ferry_source *ferry_source_zero(void);

/**
 * Memory of this process: byte i of the region is base[i]. @base stays the caller's and must stay
 * readable; a fault beyond @len is poisoned. Returns 0 or -ENOMEM; end it with ferry_source_free.
 */
int ferry_source_memory(struct ferry_source **src, const void *base, uint64_t len);

/**
 * A file, from @start on. Reads with pread(2); beyond the end of the file pages are zero. @fd stays
 * the caller's. Returns 0, -EINVAL (@start not page-aligned), -ENOMEM; end it with ferry_source_free.
 */
int ferry_source_file(struct ferry_source **src, int fd, uint64_t start);

/** Shared memory whose page cache is already right: every MINOR fault is CONTINUEd. No free. */
struct ferry_source *ferry_source_shared(void);

void ferry_source_free(struct ferry_source *src);

/** Reads one or more userfaultfds, follows what their processes do, and resolves their faults. */
struct ferry_loop;

/**
 * Values of ferry_loop_opts.cpu besides a CPU number. The thread that serves is bound meanwhile; it gets
 * its old affinity back when ferry_loop_run returns or the loop is freed.
 */
#define FERRY_CPU_FOLLOW (-1) /**< run where the faulting thread runs: halves the latency; needs
			       *   UFFD_FEATURE_THREAD_ID, else as FERRY_CPU_ANY */
#define FERRY_CPU_ANY	 (-2) /**< leave it to the scheduler */

struct ferry_loop_opts {
	size_t size;
	int32_t cpu;	 /**< FERRY_CPU_* or a CPU number; what 0 means is CPU 0, see ..._INIT */
	uint32_t flags;	 /**< none yet */
};
#define FERRY_LOOP_OPTS_INIT { .size = sizeof(struct ferry_loop_opts), .cpu = FERRY_CPU_FOLLOW }

/** What a loop did since it was made. */
struct ferry_loop_stats {
	size_t size;
	uint64_t faults;	 /**< fault messages read */
	uint64_t installed;	 /**< resolved by putting the page in place */
	uint64_t already;	 /**< the page was there already: the thread was woken */
	uint64_t deferred;	 /**< put off, by the kernel (EAGAIN) or by the source (LATER) */
	uint64_t discarded;	 /**< the range or the process was gone */
	uint64_t poisoned;
	uint64_t forks, remaps, removes, unmaps; /**< events followed */
};

/**
 * Make a loop. @opts may be NULL for FERRY_LOOP_OPTS_INIT.
 * Returns 0, -EINVAL, -E2BIG, -ENOMEM, -EMFILE.
 */
int ferry_loop_new(struct ferry_loop **loop, const struct ferry_loop_opts *opts);

/** End the loop. Descriptors that the loop opened itself (children of fork) are closed; those that
 *  were given with ferry_loop_watch stay the caller's. */
void ferry_loop_free(struct ferry_loop *loop);

/**
 * Serve [@addr, @addr + @len) of the process behind @uffd from @src, from @offset on.
 * The range must have been registered in @uffd by whoever opened it. The first call for a @uffd
 * adds it to the loop; a blocking @uffd is made non-blocking. @src must outlive the loop.
 * Returns 0, -EINVAL (unaligned, empty, wrapped, or @uffd isn't a userfaultfd), -EEXIST (overlaps a
 * watched range), -ENOMEM.
 */
int ferry_loop_watch(struct ferry_loop *loop, int uffd, uint64_t addr, uint64_t len,
		     struct ferry_source *src, uint64_t offset);

/**
 * One round: wait up to @timeout_ms (-1: for ever, 0: don't wait) for messages, apply all events,
 * then resolve all faults.
 * Returns the number of messages handled, 0 on timeout or ferry_loop_stop; -ESRCH: every watched
 * process is gone; -ENOMEM: to follow what may come takes more memory, so nothing was read, and
 * whoever waits goes on waiting: call it again; another -errno if polling or reading itself failed.
 */
int ferry_loop_step(struct ferry_loop *loop, int timeout_ms);

/**
 * Rounds until ferry_loop_stop or until every watched process is gone, which is noticed when the
 * next of its pages is resolved. Returns 0 or -errno.
 */
int ferry_loop_run(struct ferry_loop *loop);

/** Make ferry_loop_run, or the current ferry_loop_step, return. Any thread; signal-safe. */
void ferry_loop_stop(struct ferry_loop *loop);

/** Ask the sources again about faults that they answered with LATER, at the next round. */
void ferry_loop_retry(struct ferry_loop *loop);

/** Returns 0, -EINVAL, -E2BIG. */
int ferry_loop_stats(const struct ferry_loop *loop, struct ferry_loop_stats *stats);

/* ------------------------------------------------------------------ moving */

#define FERRY_MOVE_STRICT      0x1u /**< fail rather than copy */
#define FERRY_MOVE_ALLOW_HOLES 0x2u /**< skip empty source pages; their destination stays empty */
#define FERRY_MOVE_DONTWAKE    0x4u /**< leave threads that wait for the pages asleep */
#define FERRY_MOVE_FULL	       0x8u /**< every page of the source is there: one that is gone has moved */

/** One logical move within this process. */
struct ferry_move {
	size_t size;
	int32_t uffd;	/**< userfaultfd in which the destination is registered, MISSING */
	uint32_t flags; /**< FERRY_MOVE_* */
	uint64_t dst;
	uint64_t src;
	uint64_t len;
	uint64_t done;		    /**< out: bytes from the start that have been dealt with */
	uint64_t bytes[FERRY_WAYS]; /**< out: bytes that went each way; added to, so zero it first */
	uint64_t holes;		    /**< out: bytes skipped under ALLOW_HOLES; added to */
};

/**
 * Move pages of private anonymous memory: they leave src and appear at dst, never in both places.
 * Where the kernel can't move (before Linux 6.8; pinned or shared pages; files) the page is copied
 * and then discarded at the source, unless FERRY_MOVE_STRICT. Restart after an error by adding
 * done to both addresses: what was dealt with is not touched again.
 * Returns 0 when all of len is dealt with;
 * -EEXIST: the destination page at done is populated (without FULL or ALLOW_HOLES Linux 6.18 may have
 * done that itself, by moving it: BUGS in ferry_move(3)); -ENOENT: the source page at done is empty,
 * or the destination isn't registered; -EBUSY: (strict) pinned or shared; -EAGAIN: an event waits to
 * be read from the userfaultfd; -EINVAL: unaligned, overlapping, unknown flag, FULL together with
 * ALLOW_HOLES, or (strict) memory of a kind that the kernel doesn't move; -ESRCH: the process is gone;
 * -ENOMEM, -E2BIG. When it copies, nobody may write to the source meanwhile; a strict move needs no
 * such promise. With ALLOW_HOLES or FULL nobody else may take pages away from the source meanwhile,
 * strict or not.
 * The semantics are those of UFFDIO_MOVE in ioctl_userfaultfd(2).
 */
int ferry_move(struct ferry_move *move);

/* ------------------------------------------------------------------ hand-over */

/*
 * Two processes and a stream socket of the AF_UNIX family between them. The giver has memory, the
 * taker is to have it. The phases, which both sides pass in this order:
 *
 *   offer      the giver describes its ranges
 *   attached   the taker has mapped and registered them and passed its userfaultfd to the giver
 *   shadow     the giver's program stands still; the taker may read and write: pages that it
 *              touches are copied, nothing is lost at the giver
 *   ready      the taker says that it can take over
 *   committed  the memory is the taker's; the giver can't go back
 *   done       every page has arrived
 *
 * Until committed either side may give up, by ending its object or by dying: the giver still has
 * everything and carries on. After it the giver only serves. If it dies before every page has
 * arrived, pages are lost: the taker is told at once, and every lost page is poisoned, so that an
 * access gets SIGBUS; it is never silently zero. A page that the taker's program has discarded
 * meanwhile (MADV_DONTNEED) and not used again counts as lost then, since only the giver knew.
 *
 * When it is done the giver's ranges are empty and still mapped. While it lives the taker can give the memory
 * back by another hand-over, into that same place: see "Going back" in ferry_give(3).
 */
enum ferry_phase {
	FERRY_PHASE_OFFER,
	FERRY_PHASE_ATTACHED,
	FERRY_PHASE_SHADOW,
	FERRY_PHASE_READY,
	FERRY_PHASE_COMMITTED,
	FERRY_PHASE_DONE,
	FERRY_PHASES
};

/** Name of a phase; "?" for a value out of range. Any thread. */
const char *ferry_phase_name(unsigned int phase);

#define FERRY_RANGES_MAX 1024u	     /**< ranges in one hand-over */
#define FERRY_BLOB_MAX	 (1u << 20)  /**< bytes of application blob */
#define FERRY_FDS_MAX	 65536u	     /**< descriptors passed along */

#define FERRY_RANGE_SHARED    0x1u /**< a MAP_SHARED mapping of fd from fd_offset on */
#define FERRY_RANGE_MERGEABLE 0x2u /**< the taker is to mark it MADV_MERGEABLE when it has it */
#define FERRY_RANGE_DONTFORK  0x4u /**< the taker's program keeps it MADV_DONTFORK, always */

/** A range of memory that is handed over. */
struct ferry_range {
	uint64_t addr;	    /**< in the giver; a taker whose memory holds pointers maps it there */
	uint64_t len;
	uint64_t id;	    /**< the application's name for it; unique within the offer */
	uint32_t flags;	    /**< FERRY_RANGE_* */
	int32_t fd;	    /**< SHARED: the file, else ignored; the taker's copy belongs to the object */
	uint64_t fd_offset; /**< SHARED: offset of the range in it */
};

/** What the giver tells the taker. Owned by the object that it was got from. */
struct ferry_offer {
	const struct ferry_range *ranges;
	unsigned int nranges;
	const void *blob;
	size_t blob_len;
};

/** How a hand-over went. */
struct ferry_report {
	size_t size;
	uint32_t phase;		    /**< enum ferry_phase reached */
	uint32_t stage_used;	    /**< 1: the taker could and did receive huge pages as such */
	uint64_t bytes[FERRY_WAYS]; /**< bytes that went each way */
	uint64_t total;		    /**< bytes offered */
	uint64_t left;		    /**< bytes not yet at the taker */
	uint64_t removed;	    /**< bytes that the taker discarded before they came */
	uint64_t faults;	    /**< pages that were asked for before they came */
	uint64_t fault_p50_ns;	    /**< from reading such a fault to having resolved it */
	uint64_t fault_p99_ns;
	uint64_t fault_max_ns;
	uint64_t shadow_ns;	    /**< from shadow to committed */
	uint64_t drain_ns;	    /**< from committed to done */
	uint64_t refused;	    /**< of bytes[COPY]: that pageferry.ko was to move and could not */
	uint32_t why;		    /**< enum ferry_why: the first that didn't go as a page table */
	uint32_t pad;
};

#define FERRY_TIMEOUT_MS 30000 /**< default for each phase */

/**
 * Strict: private memory moves, by pageferry.ko, and is never copied once it is the taker's. What could not
 * move is found before the commit, which then fails with the memory still the giver's. A page that is held by
 * somebody only afterwards is waited for a while, and then copied rather than lost; ferry_give_wait says
 * -EBUSY when all is done. What the taker touches before the commit is copied as ever: nothing is given up yet.
 */
#define FERRY_GIVE_STRICT 0x1u

/**
 * Whole page tables may go, where pageferry.ko can do that and the taker has FERRY_TAKE_TABLES: all that lies
 * in the same way within 2 MiB on both sides goes at the commit, before the taker's ferry_take_commit() returns,
 * at a few instructions a page. For two processes that trust each other, and best of one memory cgroup: the
 * charge for these pages stays with the giver's. See doc/page-tables.md.
 */
#define FERRY_GIVE_TABLES 0x2u

/** Why something didn't go as a whole page table although that was asked for. */
enum ferry_why {
	FERRY_WHY_NONE,	     /**< all that covers 2 MiB has, or it was not asked for */
	FERRY_WHY_ALIGNMENT, /**< giver and taker have it at different places within 2 MiB, or less than that */
	FERRY_WHY_MAPPING,   /**< a range is shared, or of several mappings; the mappings' rights differ; the giver's is
			      *   registered for write-protection by userfaultfd, or the taker's is a stack */
	FERRY_WHY_OWN_PAGES, /**< the taker's mapping has pages, as of before the commit, that couldn't go back */
	FERRY_WHY_NO_PAGES,  /**< the giver's range never had any */
	FERRY_WHY_POPULATED, /**< the taker has a page within these 2 MiB */
	FERRY_WHY_HOLE,	     /**< empty pages, of which the page map doesn't tell */
	FERRY_WHY_PINNED,    /**< a page may be pinned */
	FERRY_WHY_OTHER,     /**< a page that migrates, is poisoned, or the huge zero page */
	FERRY_WHY_NO_MEMORY,
	FERRY_WHY_MERGED,    /**< KSM has merged a page */
	FERRY_WHY_MODULE,    /**< pageferry.ko isn't there, or isn't allowed, or can't */
	FERRY_WHY_TAKER,     /**< the taker has no FERRY_TAKE_TABLES, or is gone */
	FERRY_WHY_CHANGED,   /**< the taker's program has discarded, moved or unmapped parts of it, or does just now */
	FERRY_WHY_LATE,	     /**< it was so much that the taker's program has gone on meanwhile; it may have gone so then */
	FERRY_WHYS
};

/** One of these in words, "a page may be pinned"; "?" for a value out of range. Any thread. */
const char *ferry_why_name(unsigned int why);

struct ferry_give_opts {
	size_t size;
	uint32_t ways;	     /**< ways that may be used; FERRY_WAY_AUTO: all that work */
	uint32_t timeout_ms; /**< for each phase that waits for the taker; 0: FERRY_TIMEOUT_MS */
	int32_t cpu;	     /**< where faults are served: FERRY_CPU_* or a CPU number */
	uint32_t flags;	     /**< FERRY_GIVE_* */
};
#define FERRY_GIVE_OPTS_INIT { .size = sizeof(struct ferry_give_opts), .cpu = FERRY_CPU_FOLLOW }

struct ferry_give; /**< the giving side of a hand-over */

/**
 * Begin to give. Waits for the taker to speak, which it does first (@sock becomes readable), and
 * sends the offer. *give is NULL on error.
 * @sock: connected AF_UNIX stream socket; the object takes it over and closes it, on error too.
 * @offer: ranges of this process, private anonymous or SHARED (128 at most), page-aligned, not
 *         overlapping, with distinct ids. Copied.
 * @opts: NULL for FERRY_GIVE_OPTS_INIT.
 * Returns 0; -EINVAL: a bad range, option or socket; -EBADF, -ENOTSOCK: no socket; -EOPNOTSUPP: none of
 * the ways can be used between processes, or (strict) pageferry.ko isn't there or isn't allowed;
 * -E2BIG; -ENOMEM; -ETIMEDOUT, -EPIPE: no taker there;
 * -EPROTO: what is there isn't a taker of a version that this library knows.
 */
int ferry_give_open(struct ferry_give **give, int sock, const struct ferry_offer *offer,
		    const struct ferry_give_opts *opts);

/**
 * Serve the hand-over until it has reached @phase. The taker brings ATTACHED, READY and, after the
 * commit, DONE: pages are pushed meanwhile, faults first. SHADOW and COMMITTED come by the calls
 * below; waiting for them, or past them, serves until @wake_fd ends it.
 * @wake_fd: also return when this descriptor is readable; -1 for none.
 * Returns 0: the phase is reached; 1: @wake_fd is readable; -ETIMEDOUT: the taker didn't do its
 * next step in time; -EPIPE: it is gone; -ECANCELED: it gave up, see ferry_give_reason; -EPROTO:
 * it sent nonsense; -EOPNOTSUPP: the ways that may be used don't work with this taker; -EINVAL:
 * nothing could ever end the waiting; -ENOMEM: nothing is lost by that, call it again; -EBUSY
 * (strict): the phase is DONE, all has arrived, and some of it was copied, see ferry_report.refused.
 * After an error before committed the giver still has all of its memory. While it is not called
 * nothing is served: call it again until DONE.
 */
int ferry_give_wait(struct ferry_give *give, enum ferry_phase phase, int wake_fd);

/**
 * From now on the memory stands still: the caller promises that no thread of this process, no
 * device and no other process writes to it until the hand-over is over or has failed. Passes @nfds
 * descriptors along, which stay the caller's. Needs ATTACHED.
 * Returns 0, -EINVAL, -EPIPE, -ECANCELED, -ETIMEDOUT, -ENOMEM.
 */
int ferry_give_shadow(struct ferry_give *give, const int *fds, unsigned int nfds);

/**
 * Make the memory the taker's. Needs READY. Returns 0 when the taker has acknowledged, from when
 * on the giver must not use the ranges: it releases them bit by bit. Any error means that the taker
 * has not taken over and never will: the giver carries on. -ECANCELED, -EPIPE, -ETIMEDOUT, -EPROTO,
 * -EINVAL. -EBUSY (strict): a page can't move, it is pinned or shared, say; the taker doesn't know of the
 * attempt, so the caller may do something about it and try again, while the taker waits.
 */
int ferry_give_commit(struct ferry_give *give);

/** How it goes. Returns 0, -EINVAL, -E2BIG. */
int ferry_give_report(const struct ferry_give *give, struct ferry_report *report);

/**
 * Why the taker gave up, if it said so; else an empty string. Valid until ferry_give_close. What
 * the other side says, here and in ferry_take_reason, is one line without control characters.
 */
const char *ferry_give_reason(const struct ferry_give *give);

/**
 * End it. Before committed this is giving up: the taker gets -ECANCELED and @why, a short text
 * that may be NULL. After committed and before DONE it loses the pages that are still here.
 */
void ferry_give_close(struct ferry_give *give, const char *why);

/** Whole page tables may come, if the giver has FERRY_GIVE_TABLES, which says what it means. */
#define FERRY_TAKE_TABLES 0x1u

struct ferry_take_opts {
	size_t size;
	uint32_t timeout_ms; /**< for each phase that waits for the giver; 0: FERRY_TIMEOUT_MS */
	uint32_t flags;	     /**< FERRY_TAKE_* */
	/**
	 * The giver is gone or has given up, and @left bytes will never come. Called once, from a
	 * thread of the library, before these pages are poisoned. May end the process. May be NULL.
	 */
	void (*lost)(void *arg, int error, uint64_t left);
	void *arg;
};
#define FERRY_TAKE_OPTS_INIT { .size = sizeof(struct ferry_take_opts) }

/**
 * The taking side of a hand-over. It has one thread of its own, with all signals blocked, from
 * ferry_take_attach to DONE, so that a giver that dies is noticed even while every thread of the
 * program waits for a page. Its calls may be made from any thread, one at a time.
 */
struct ferry_take;

/**
 * Begin to take. Waits for the offer. *take is NULL on error.
 * @sock: connected AF_UNIX stream socket; the object takes it over and closes it, on error too.
 * Returns 0; -ETIMEDOUT, -EPIPE: no giver there; -ECANCELED: it gave up; -EPROTO: it speaks another
 * version, or nonsense; -EPERM, -ENOSYS, -EOPNOTSUPP: as ferry_uffd_open; -EBADF, -ENOTSOCK, -EINVAL:
 * no such socket, or a bad option; -E2BIG, -ENOMEM.
 */
int ferry_take_open(struct ferry_take **take, int sock, const struct ferry_take_opts *opts);

/** The offer; valid until ferry_take_close. Its descriptors belong to the object. */
const struct ferry_offer *ferry_take_offer(const struct ferry_take *take);

/**
 * Say where range @i lives in this process. [@addr, @addr + len) must be mapped by the caller:
 * private anonymous and untouched, or SHARED from the range's descriptor; it is registered from now
 * on, and an access waits until the giver serves it.
 * Returns 0, -EINVAL (no such range, unaligned), -EALREADY, -EEXIST (the range is not empty),
 * -ENOMEM, or what UFFDIO_REGISTER says.
 */
int ferry_take_map(struct ferry_take *take, unsigned int i, void *addr);

/** Tell the giver that every range is mapped. Returns 0, -EINVAL (one isn't), -EPIPE, -ETIMEDOUT. */
int ferry_take_attach(struct ferry_take *take);

/**
 * Wait until the giver's program stands still.
 * @fds, @nfds: out: the descriptors passed along, close-on-exec. The array belongs to the object,
 * the descriptors to the caller. Both may be NULL when none are expected; they are closed then.
 * Returns 0, -ETIMEDOUT, -EPIPE, -ECANCELED, -EPROTO, -EINVAL.
 */
int ferry_take_shadow(struct ferry_take *take, const int **fds, unsigned int *nfds);

/**
 * Say that this side can take over, then wait until it has: 0 means that the memory is ours and
 * the program may run. Any error means that it never will be.
 * Returns 0, -ETIMEDOUT, -EPIPE, -ECANCELED, -EPROTO, -EINVAL.
 */
int ferry_take_commit(struct ferry_take *take);

/**
 * Wait until every page is here. The program may run meanwhile.
 * @timeout_ms: -1: for ever.
 * Returns 0, also when the giver died after the last page; -ETIMEDOUT: not yet; -EOWNERDEAD: it
 * died, pages are lost and poisoned.
 */
int ferry_take_done(struct ferry_take *take, int timeout_ms);

/** Why the giver gave up, if it said so; else an empty string. Valid until ferry_take_close. */
const char *ferry_take_reason(const struct ferry_take *take);

/**
 * End it. Before committed the giver gets -ECANCELED, and the pages of the ranges that have not
 * come are poisoned. Between committed and DONE it waits for DONE first: pages are never given up.
 * After DONE the ranges are plain memory, not registered with anything.
 */
void ferry_take_close(struct ferry_take *take);

/** The same, and if that is giving up the giver gets @why, a short text that may be NULL. */
void ferry_take_abort(struct ferry_take *take, const char *why);

/* ------------------------------------------------------------------ snapshot */

/** A piece of memory. */
struct ferry_span {
	uint64_t addr;
	uint64_t len;
};

/** Least value of ferry_snapshot_opts.max_extra. */
#define FERRY_SNAPSHOT_EXTRA_MIN (8u << 20)

struct ferry_snapshot_opts {
	size_t size;
	uint64_t max_extra; /**< bytes of memory for what writers ask for before it is saved; when they
			     *   are used up, writers wait. 0: a 64th of the spans, 16 to 256 MiB */
	uint32_t threads;   /**< that protect at the begin; 0: one for each CPU */
	uint32_t flags;	    /**< none yet */
};
#define FERRY_SNAPSHOT_OPTS_INIT { .size = sizeof(struct ferry_snapshot_opts) }

/** What a block of the image is. */
enum ferry_block_kind {
	FERRY_BLOCK_DATA, /**< ferry_block.data has its contents */
	FERRY_BLOCK_ZERO, /**< empty or the zero page: nothing but zero */
	FERRY_BLOCK_LOST, /**< the program unmapped it before it was saved */
};

/** A block of the image. */
struct ferry_block {
	size_t size;	  /**< in: sizeof(struct ferry_block) */
	uint32_t kind;	  /**< enum ferry_block_kind */
	uint64_t addr;	  /**< where it was at the begin */
	uint64_t len;
	const void *data; /**< DATA: its contents, until the next call; else NULL */
};

/** How a snapshot goes. */
struct ferry_snapshot_report {
	size_t size;
	uint64_t total;	     /**< bytes of all spans */
	uint64_t data;	     /**< bytes given out as DATA so far */
	uint64_t zero;	     /**< as ZERO */
	uint64_t lost;	     /**< bytes that could not be saved */
	uint64_t left;	     /**< bytes known to be still unsaved */
	uint64_t faults;     /**< writes that met a frozen page */
	uint64_t pooled;     /**< bytes saved for them */
	uint64_t throttled;  /**< times that one had to wait for memory */
	uint64_t extra_peak; /**< most memory that was used for saved blocks */
	uint64_t arm_ns;     /**< ferry_snapshot_begin: registering and protecting */
	uint64_t remaps, removes, unmaps; /**< events followed */
};

/**
 * Memory of this process as it was at one moment, to be read while the program goes on writing to it.
 * The object has one thread of its own, with all signals blocked, from ferry_snapshot_begin until the
 * last DATA has been given out. Its calls may be made from any thread, one at a time;
 * ferry_snapshot_report from any thread at any time.
 */
struct ferry_snapshot;

/**
 * Freeze @spans. The moment of the image is this call: whoever wants one that is consistent has its
 * threads not write to @spans during it (see arm_ns); afterwards they may write as they like. A
 * child of fork has the memory unfrozen. *snap is NULL on error.
 * @spans: private anonymous memory, not overlapping; not the heap of malloc(3), which the library uses
 *         itself. Copied.
 * @opts: NULL for FERRY_SNAPSHOT_OPTS_INIT.
 * Returns 0; -EINVAL: a bad span or option; -EBUSY: one is registered with another userfaultfd; -EPERM,
 * -ENOSYS: as ferry_uffd_open with FERRY_UFFD_KERNEL_FAULTS; -EOPNOTSUPP: this kernel can't
 * (PAGEMAP_SCAN, Linux 6.7); -E2BIG; -ENOMEM; -EMFILE, -ENFILE; -EAGAIN: no thread can be had; another
 * -errno if /proc/self can't be read.
 */
int ferry_snapshot_begin(struct ferry_snapshot **snap, const struct ferry_span *spans, size_t n,
			 const struct ferry_snapshot_opts *opts);

/**
 * The next block, in no order of addresses: what writers wait for comes first. Every byte of the spans
 * comes once. Between two calls the caller must not wait for a thread that may write to the spans: when
 * max_extra is used up that thread waits for the next call.
 * Returns 1; 0: there are no more; -EINVAL: a bad size; -ESRCH: the memory is gone; -ENOMEM and other
 * -errno of the kernel: the image can't be completed. An error comes again with each call.
 */
int ferry_snapshot_next(struct ferry_snapshot *snap, struct ferry_block *block);

/** How it goes. Returns 0, -EINVAL. */
int ferry_snapshot_report(struct ferry_snapshot *snap, struct ferry_snapshot_report *report);

/** End it, at any time. Nothing is frozen afterwards, and no thread waits. */
void ferry_snapshot_end(struct ferry_snapshot *snap);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
