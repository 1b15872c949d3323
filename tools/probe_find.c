// SPDX-License-Identifier: MIT
/* Turn the answers of the probe into findings, and these into a verdict. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/probe.h"

static const struct {
	const char *name;
	uint64_t bit;
	const char *since;
} feature_bits[PROBE_BITS] = {
	{"PAGEFAULT_FLAG_WP", UFFD_FEATURE_PAGEFAULT_FLAG_WP, "Linux 5.7 or later"},
	{"EVENT_FORK", UFFD_FEATURE_EVENT_FORK, "Linux 4.11 or later"},
	{"EVENT_REMAP", UFFD_FEATURE_EVENT_REMAP, "Linux 4.11 or later"},
	{"EVENT_REMOVE", UFFD_FEATURE_EVENT_REMOVE, "Linux 4.11 or later"},
	{"MISSING_HUGETLBFS", UFFD_FEATURE_MISSING_HUGETLBFS, "Linux 4.11 or later"},
	{"MISSING_SHMEM", UFFD_FEATURE_MISSING_SHMEM, "Linux 4.11 or later"},
	{"EVENT_UNMAP", UFFD_FEATURE_EVENT_UNMAP, "Linux 4.11 or later"},
	{"SIGBUS", UFFD_FEATURE_SIGBUS, "Linux 4.14 or later"},
	{"THREAD_ID", UFFD_FEATURE_THREAD_ID, "Linux 4.14 or later"},
	{"MINOR_HUGETLBFS", UFFD_FEATURE_MINOR_HUGETLBFS, "Linux 5.13 or later"},
	{"MINOR_SHMEM", UFFD_FEATURE_MINOR_SHMEM, "Linux 5.14 or later"},
	{"EXACT_ADDRESS", UFFD_FEATURE_EXACT_ADDRESS, "Linux 5.18 or later"},
	{"WP_HUGETLBFS_SHMEM", UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "Linux 5.19 or later"},
	{"WP_UNPOPULATED", UFFD_FEATURE_WP_UNPOPULATED, "Linux 6.4 or later"},
	{"POISON", UFFD_FEATURE_POISON, "Linux 6.6 or later"},
	{"WP_ASYNC", UFFD_FEATURE_WP_ASYNC, "Linux 6.7 or later"},
	{"MOVE", UFFD_FEATURE_MOVE, "Linux 6.8 or later"},
};

static const struct reason no_uffd = {"there is no userfaultfd", "see userfaultfd"};

static void find_doors(struct findings *f, const struct probe_host *host,
		       const struct caps_doors *doors)
{
	static const char *const names[] = {"none", "device", "syscall", "user_mode"};
	struct finding *door = f->doors;

	door[0] = (struct finding){
		.key = "device", .label = "/dev/userfaultfd", .error = doors->device};
	door[1] =
		(struct finding){.key = "syscall", .label = "system call", .error = doors->syscall};
	door[2] = (struct finding){
		.key = "user_mode", .label = "user-mode only", .error = doors->user_mode};
	if (doors->device)
		door[0].reason = reason_device(doors->device);
	if (doors->syscall)
		door[1].reason = reason_syscall(host, doors);
	if (doors->user_mode)
		door[2].reason = reason_user_mode(host, doors->user_mode);

	f->uffd = (struct finding){
		.key = "userfaultfd", .label = "userfaultfd", .detail_key = "door"};
	snprintf(f->uffd.detail, sizeof(f->uffd.detail), "%s", names[f->caps.door]);
	if (f->caps.door == FERRY_DOOR_NONE) {
		f->uffd.error = f->caps.door_error;
		f->uffd.reason = (struct reason){"none of its doors opens",
						 "open one: see the doors"};
	}
}

static void find_bits(struct findings *f)
{
	f->unknown_bits = f->caps.features;
	for (unsigned int i = 0; i < PROBE_BITS; i++) {
		struct finding *bit = &f->bits[i];

		*bit = (struct finding){.key = feature_bits[i].name, .label = feature_bits[i].name};
		f->unknown_bits &= ~feature_bits[i].bit;
		if (f->uffd.error) {
			bit->error = f->uffd.error;
			bit->reason = no_uffd;
		} else if (!(f->caps.features & feature_bits[i].bit)) {
			bit->error = -EOPNOTSUPP;
			bit->reason = (struct reason){"the kernel doesn't know it",
						      feature_bits[i].since};
		}
	}
}

static void set_detail(struct finding *finding, const char *key, const char *value)
{
	finding->detail_key = key;
	snprintf(finding->detail, sizeof(finding->detail), "%s", value);
}

static void find_settings(struct findings *f, const struct probe_host *host)
{
	struct finding *thp = &f->checks[CHECK_THP];

	set_detail(thp, "enabled", host->thp[0] ? host->thp : "unknown");
	/* Since Linux 6.8 the size has a setting of its own, which may overrule the general one. */
	if (host->thp_2m[0] && strcmp(host->thp_2m, "inherit") != 0)
		set_detail(thp, "enabled", host->thp_2m);
	set_detail(&f->checks[CHECK_KSM], "ksmd",
		   !host->ksm[0]             ? "unknown"
		   : !strcmp(host->ksm, "1") ? "running"
					     : "stopped");
	set_detail(&f->checks[CHECK_PEER_READ], "ptrace_scope",
		   host->yama[0] ? host->yama : "none");
}

static void find_checks(struct findings *f, const struct probe_host *host)
{
	const struct ferry_caps *caps = &f->caps;
	const struct {
		const char *key, *label;
		int error;
		bool needs_uffd;
	} checks[PROBE_CHECKS] = {
		[CHECK_MOVE] = {"move", "kernel MOVE", caps->move_error, true},
		[CHECK_WP] = {"wp", "WP", caps->wp_error, true},
		[CHECK_WP_ASYNC] = {"wp_async", "WP_ASYNC", caps->wp_async_error, true},
		[CHECK_SCAN] = {"scan", "PAGEMAP_SCAN", caps->scan_error, false},
		[CHECK_MINOR] = {"minor", "MINOR, CONTINUE", caps->minor_error, true},
		[CHECK_POISON] = {"poison", "POISON", caps->poison_error, true},
		[CHECK_FORK] = {"event_fork", "EVENT_FORK", caps->fork_error, true},
		[CHECK_THP] = {"thp", "huge pages (THP)", caps->thp_error, false},
		[CHECK_KSM] = {"ksm", "KSM", caps->ksm_error, false},
		[CHECK_PEER_READ] = {"peer_read", "peer memory read", caps->peer_read_error, false},
		[CHECK_MODULE] = {"module", "pageferry module", caps->module_error, false},
	};

	for (unsigned int i = 0; i < PROBE_CHECKS; i++) {
		struct finding *check = &f->checks[i];

		*check = (struct finding){
			.key = checks[i].key, .label = checks[i].label, .error = checks[i].error};
		if (check->error && checks[i].needs_uffd && f->uffd.error)
			check->reason = no_uffd;
		else if (check->error)
			check->reason = reason_check(host, check->key, check->error);
	}
	find_settings(f, host);
}

/* The verdict falls with the first check that it needs and that fails. */
static void need(struct finding *verdict, const struct finding *check, const char *why)
{
	if (verdict->error || !check->error)
		return;
	verdict->error = check->error;
	verdict->reason = (struct reason){why, check->reason.fix};
}

/* KVM, and system calls such as those of disk I/O, fault in kernel code. */
static void need_kernel_faults(struct finding *verdict, const struct findings *f)
{
	if (verdict->error || f->caps.door != FERRY_DOOR_USER_MODE)
		return;
	verdict->error = f->caps.syscall_error;
	verdict->reason =
		(struct reason){"user-mode only: accesses by system calls and KVM would fail",
				"see /dev/userfaultfd"};
}

static void need_handover(struct finding *verdict, const struct findings *f)
{
	static const char why[] = "pages that a program discards or moves could not be followed";
	const uint64_t needed = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
				UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID;

	need(verdict, &f->uffd, no_uffd.why);
	need_kernel_faults(verdict, f);
	for (unsigned int i = 0; i < PROBE_BITS; i++)
		if (feature_bits[i].bit & needed)
			need(verdict, &f->bits[i], why);
}

static void find_verdicts(struct findings *f)
{
	struct finding *vm = &f->verdicts[VERDICT_VM];
	struct finding *huge = &f->verdicts[VERDICT_HUGE];
	struct finding *handover = &f->verdicts[VERDICT_HANDOVER];
	struct finding *snapshot = &f->verdicts[VERDICT_SNAPSHOT];

	*vm = (struct finding){.key = "vm_upgrade", .label = "VM upgrade"};
	need_handover(vm, f);

	*huge = (struct finding){.key = "huge_pages", .label = "huge pages kept"};
	need_handover(huge, f);
	need(huge, &f->checks[CHECK_THP], "the host gives no huge pages");
	need(huge, &f->checks[CHECK_MOVE], "needs kernel MOVE");
	need(huge, &f->checks[CHECK_PEER_READ], "needs peer memory read");

	*handover = (struct finding){.key = "hand_over", .label = "library hand-over"};
	need_handover(handover, f);

	*snapshot = (struct finding){.key = "snapshot", .label = "page snapshots"};
	need(snapshot, &f->checks[CHECK_WP], "needs WP");
	need_kernel_faults(snapshot, f);
}

int probe_findings(struct findings *f)
{
	struct probe_host host;
	struct caps_doors doors;
	int ret = caps_probe(&f->caps, &doors);

	if (ret)
		return ret;
	probe_host_read(&host);
	find_doors(f, &host, &doors);
	find_bits(f);
	find_checks(f, &host);
	find_verdicts(f);
	return 0;
}
