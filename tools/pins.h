/* SPDX-License-Identifier: MIT */
/*
 * pageferry pins: what ties a pin to the memory that it was taken of, and which operation breaks
 * that. A cell of the table is a trial: memory is made, a kind of pin is taken of one page of it,
 * an operation is done to it, and then what is written on either side is looked for on the other
 * one.
 */
#ifndef PAGEFERRY_PINS_H
#define PAGEFERRY_PINS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/uffd.h"
#include "tools/trial.h"

/* What a page holds is told by its first word; who writes a page by a device writes all words
 * alike. */
struct pin {
	const struct pin_kind *kind;
	uint32_t *page; /* where it was taken */
	char what[96];  /* after an error: of what */
	union {
		struct {
			int fd, file;
			uint64_t params[15]; /* struct io_uring_params, whose header clashes with
						others */
			unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
			struct io_uring_sqe *sqes;
			struct io_uring_cqe *cqes;
		} uring;
		struct {
			int file, server;
			bool writes; /* to the file */
			bool sent;   /* it can't be given up any more; before prepare() */
			pthread_t thread;
			int result;
		} direct;
		int pipe[2];
		struct {
			int vm, vcpu;
			struct kvm_run *run;
			uint8_t *code;
		} kvm;
	};
};

/** Each call returns 0 or -errno with pin->what. */
struct pin_kind {
	const char *name;
	/** Before there is any memory: NULL, or start what it needs. */
	int (*prepare)(struct pin *pin);
	/** Of pin->page. */
	int (*take)(struct pin *pin);
	/** Give the page this word, and tell which one it has; NULL: that can't be done through it.
	 */
	int (*write)(struct pin *pin, uint32_t word);
	int (*read)(struct pin *pin, uint32_t *word);
	/** For another process that has the same descriptors: NULL, or get what else it needs. */
	int (*adopt)(struct pin *pin);
	/** I/O, of a thread that waits for it: direct_answer() ends it. */
	bool in_flight;
	/** It is no reference to a page, but finds one by its address. */
	bool by_address;
};

/** Ends in one without a name. */
extern const struct pin_kind pin_kinds[];

int pin_error(struct pin *pin, const char *what, int error);

int uring_take(struct pin *pin);
int uring_adopt(struct pin *pin);
int uring_write(struct pin *pin, uint32_t word);
int uring_read(struct pin *pin, uint32_t *word);
int direct_prepare(struct pin *pin);
int direct_take_read(struct pin *pin);
int direct_take_write(struct pin *pin);
int direct_write(struct pin *pin, uint32_t word);
int direct_read(struct pin *pin, uint32_t *word);
/** The I/O goes on, with this word if it is answered with one; *got: the word that came. */
int direct_answer(struct pin *pin, uint32_t give, uint32_t *got);
int kvm_take(struct pin *pin);
int kvm_write(struct pin *pin, uint32_t word);
int kvm_read(struct pin *pin, uint32_t *word);

/* ---- operations */

enum scene_memory {
	MEMORY_SMALL, /* small pages, AREA of them */
	MEMORY_HUGE,  /* the same, one huge page */
	MEMORY_CODE,  /* a page of a private file mapping that can be made executable */
};

#define AREA       FERRY_HUGE
#define WORD_FIRST 0x11111111u /* what all pages hold in the beginning */
#define WORD_OTHER 0x22222222u /* what somebody else writes */

/* Only the trial's own threads and children have it. */
struct scene {
	const struct operation *operation;
	struct pin
		*pin; /* NULL: there is none, it is to be seen whether the operation acts at all */
	uint8_t *area;
	uint32_t *page;   /* where the page is mapped now: in the middle of the area at first */
	const char *gone; /* NULL, or the page isn't mapped any more: what became of it */
	bool acted;       /* the operation has done something to the page */
	bool untold;      /* nobody can say whether it would have */
	char note[120];   /* about what was done, or why that can't be */
	int file;         /* of MEMORY_CODE */
	int uffd, module;
	bool watched;        /* by the uffd, for writes */
	volatile int events; /* as many were seen */
	void *target;        /* of a move */
	struct peer *peer;   /* who gets it */
};

/* Each call returns 0 or -errno. What comes before the operation has scene->note for an error. */
struct operation {
	const char *name;
	/** Before there is any memory: NULL, or make what else it needs. */
	int (*prepare)(struct scene *scene);
	/** Before the pin is taken: the same. */
	int (*begin)(struct scene *scene);
	/** -errno: the kernel has refused it. */
	int (*act)(struct scene *scene);
	enum scene_memory memory;
	/** It counts only where it acts on a page that isn't pinned. */
	bool control;
	/** Which pages it acts on is a matter of chance: tried more than once. */
	bool chance;
	/** The process goes on to another program, see pins_exec.c. */
	bool execs;
};

/** Ends in one without a name. */
extern const struct operation operations[];
/** None, to see that the pin alone is as it should be. */
extern const struct operation operation_nothing;

/** Set scene->note and return @error. */
int scene_note(struct scene *scene, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/** Map it, with the page in its middle; 0 or -errno. */
int scene_memory(struct scene *scene);

/** fork(), and both have the same descriptors from here on. */
pid_t scene_fork_with_files(void);

/* ---- pages, pins_page.c */

/** Nothing is there: the next access finds a new page. */
bool page_is_hole(const void *page);
/** The page's number; 0: not present, or that takes privileges. */
uint64_t page_number(const void *page);
/** Of @n pages in a row. 0 or -errno. */
int page_numbers(const void *first, size_t n, uint64_t *numbers);
bool page_is_swapped(const void *page);
/** Of /proc/kpageflags; 0: it can't be read. */
uint64_t page_flags(uint64_t number);

/* ---- cells, pins_trial.c */

#define NOT_HERE "not here"
#define ACTS     "acts"

/**
 * What becomes of this pin by this operation? Without a pin (@kind is NULL): does the operation do
 * what it is there for? ACTS, or NOT_HERE with the reason. 0 or -errno: there is no process for it.
 */
int pins_try(const struct operation *operation, const struct pin_kind *kind,
	     struct trial_cell *cell);

/** The same of exec, within the trial: pins_exec.c. */
void exec_try(struct trial_cell *cell, const struct pin_kind *kind);

/** "WHAT: ERRNO", or that it takes root: for trial_set(). */
void pins_not_here(struct trial_cell *cell, const char *what, int error);

/** A name for -errno. */
const char *pins_errno(int error);

#endif
