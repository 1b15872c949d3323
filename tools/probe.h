/* SPDX-License-Identifier: MIT */
/* What pageferry probe says: one finding a line, the same in text and in JSON. */
#ifndef PAGEFERRY_PROBE_H
#define PAGEFERRY_PROBE_H

#include "lib/caps.h"

/** What is said of a thing that is not there. */
struct reason {
	const char *why; /* what stands in the way */
	const char *fix; /* what would change that */
};

struct finding {
	const char *key;   /* in JSON */
	const char *label; /* in text */
	int error;         /* 0: it is there; else -errno */
	struct reason reason;
	const char *detail_key; /* NULL, or the name of one more thing to say */
	char detail[96];
};

#define PROBE_DOORS 3
#define PROBE_BITS  17

enum {
	CHECK_MOVE,
	CHECK_WP,
	CHECK_WP_ASYNC,
	CHECK_SCAN,
	CHECK_MINOR,
	CHECK_POISON,
	CHECK_FORK,
	CHECK_THP,
	CHECK_KSM,
	CHECK_PEER_READ,
	CHECK_MODULE,
	PROBE_CHECKS
};

enum { VERDICT_VM, VERDICT_HUGE, VERDICT_HANDOVER, VERDICT_SNAPSHOT, PROBE_VERDICTS };

struct findings {
	struct ferry_caps caps;
	uint64_t unknown_bits;
	struct finding uffd;
	struct finding doors[PROBE_DOORS];
	struct finding bits[PROBE_BITS];
	struct finding checks[PROBE_CHECKS];
	struct finding verdicts[PROBE_VERDICTS];
};

/* Probe and explain. Returns 0 or -errno. */
int probe_findings(struct findings *findings);

/* Settings of the host that explain answers, probe_host.c. Texts are "" when they can't be read. */
struct probe_host {
	bool filtered;     /* a seccomp filter is in force for this process */
	bool thp_disabled; /* prctl(PR_SET_THP_DISABLE) is in force for this process */
	char thp[32];      /* the chosen word of .../transparent_hugepage/enabled */
	char thp_2m[32];   /* the same for 2 MiB pages alone, since Linux 6.8 */
	char ksm[16];      /* .../ksm/run */
	char yama[16];     /* kernel.yama.ptrace_scope */
};

void probe_host_read(struct probe_host *host);

/* Are huge pages switched off by a setting? */
bool probe_host_thp_off(const struct probe_host *host);

/* Reasons, probe_reason.c. @error is never 0. */
struct reason reason_device(int error);
struct reason reason_syscall(const struct probe_host *host, const struct caps_doors *doors);
struct reason reason_user_mode(const struct probe_host *host, int error);
struct reason reason_check(const struct probe_host *host, const char *key, int error);

#endif
