// SPDX-License-Identifier: MIT
/* Why something is not there, and what would change that. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/probe.h"

static const struct reason filter = {
	"a seccomp filter or security module forbids it",
	"allow userfaultfd in the filter (containers: --security-opt seccomp=FILE)",
};

/* What an error means wherever it comes from. */
static struct reason reason_any(int error)
{
	switch (-error) {
	case EMFILE:
		return (struct reason){"this process has no free descriptor", "raise ulimit -n"};
	case ENFILE:
		return (struct reason){"the system has no free descriptor",
				       "raise sysctl fs.file-max"};
	case ENOMEM:
		return (struct reason){"out of memory",
				       "free some, or raise ulimit -v or the cgroup's limit"};
	case EAGAIN:
		return (struct reason){"a limit was reached", "raise ulimit -u and ulimit -l"};
	case EIO:
		return (struct reason){"the kernel accepts it and does something else",
				       "another kernel, and please report this one"};
	default:
		return (struct reason){strerrordesc_np(-error),
				       "not known, please report it with the output of --json"};
	}
}

struct reason reason_device(int error)
{
	switch (-error) {
	case ENOENT:
		return (struct reason){
			"there is no /dev/userfaultfd",
			"Linux 6.1 or later (containers: --device /dev/userfaultfd)"};
	case EACCES:
		return (struct reason){"its permissions don't let this user in",
				       "as root, chgrp GROUP and chmod 660 /dev/userfaultfd"};
	case EPERM:
		return (struct reason){"a device cgroup or security module forbids it",
				       "allow it (containers: --device /dev/userfaultfd)"};
	case ENODEV:
	case ENXIO:
	case ENOTTY:
		return (struct reason){"/dev/userfaultfd is something else",
				       "remove it and have udev make it again"};
	default:
		return reason_any(error);
	}
}

static struct reason reason_no_syscall(const struct probe_host *host)
{
	if (host->filtered)
		return (struct reason){"the kernel has none, or a seccomp filter hides it",
				       "CONFIG_USERFAULTFD, or allow it in the filter"};
	return (struct reason){"the kernel was built without it", "CONFIG_USERFAULTFD"};
}

struct reason reason_user_mode(const struct probe_host *host, int error)
{
	switch (-error) {
	case ENOSYS:
		return reason_no_syscall(host);
	case EINVAL:
		return (struct reason){"the kernel doesn't know it", "Linux 5.11 or later"};
	case EPERM:
		if (host->filtered)
			return filter;
		return (struct reason){
			"the kernel or a security module forbids it",
			"Linux 5.11 or later, CAP_SYS_PTRACE, or the module's policy"};
	default:
		return reason_any(error);
	}
}

struct reason reason_syscall(const struct probe_host *host, const struct caps_doors *doors)
{
	switch (-doors->syscall) {
	case ENOSYS:
		return reason_no_syscall(host);
	case EPERM:
		/* A filter or a security module forbids both kinds of call, the kernel only this.
		 */
		if (doors->user_mode == -EPERM)
			return reason_user_mode(host, doors->user_mode);
		return (struct reason){"vm.unprivileged_userfaultfd is 0, CAP_SYS_PTRACE missing",
				       "sysctl vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE"};
	default:
		return reason_any(doors->syscall);
	}
}

static struct reason reason_thp(const struct probe_host *host)
{
	if (probe_host_thp_off(host))
		return (struct reason){"huge pages are switched off",
				       "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled"};
	if (host->thp_disabled)
		return (struct reason){"they are switched off for this process",
				       "start it without PR_SET_THP_DISABLE"};
	return (struct reason){"no 2 MiB of free memory in one piece",
			       "echo 1 >/proc/sys/vm/compact_memory, or free memory"};
}

static struct reason reason_peer_read(const struct probe_host *host)
{
	if (atoi(host->yama) > 2)
		return (struct reason){"kernel.yama.ptrace_scope is 3",
				       "boot with another kernel.yama.ptrace_scope"};
	if (atoi(host->yama) == 2)
		return (struct reason){"kernel.yama.ptrace_scope is 2, CAP_SYS_PTRACE missing",
				       "sysctl kernel.yama.ptrace_scope=1, or CAP_SYS_PTRACE"};
	if (host->filtered)
		return (struct reason){"a seccomp filter or security module forbids it",
				       "allow process_vm_readv in the filter"};
	return (struct reason){"a security module forbids it, or the process is not dumpable",
			       "its policy, or PR_SET_DUMPABLE"};
}

/* Answers that are particular to one check. */
static const struct {
	const char *key;
	int error;
	struct reason reason;
} known[] = {
	{"move", EOPNOTSUPP, {"the kernel doesn't know it", "Linux 6.8 or later"}},
	{"wp",
	 EOPNOTSUPP,
	 {"the kernel doesn't know it", "Linux 5.7 or later on x86-64, 6.10 on arm64"}},
	{"wp_async", EOPNOTSUPP, {"the kernel doesn't know it", "Linux 6.7 or later"}},
	{"wp_async", ENOTTY, {"the kernel has no PAGEMAP_SCAN", "Linux 6.7 or later"}},
	{"wp_async",
	 EACCES,
	 {"/proc/self/pagemap can't be opened", "run it as the owner of /proc/self"}},
	{"scan", ENOTTY, {"the kernel doesn't know it", "Linux 6.7 or later"}},
	{"scan",
	 EACCES,
	 {"/proc/self/pagemap can't be opened", "run it as the owner of /proc/self"}},
	{"scan",
	 ENOENT,
	 {"there is no /proc/self/pagemap", "mount /proc, or CONFIG_PROC_PAGE_MONITOR"}},
	{"minor", EOPNOTSUPP, {"the kernel doesn't know it", "Linux 5.14 or later"}},
	{"poison", EOPNOTSUPP, {"the kernel doesn't know it", "Linux 6.6 or later"}},
	{"event_fork", EOPNOTSUPP, {"the kernel doesn't know it", "Linux 4.11 or later"}},
	{"event_fork", EPERM, {"CAP_SYS_PTRACE is missing", "root, or CAP_SYS_PTRACE"}},
	{"thp", EINVAL, {"the kernel was built without huge pages", "CONFIG_TRANSPARENT_HUGEPAGE"}},
	{"ksm", EINVAL, {"the kernel was built without it", "CONFIG_KSM"}},
	{"ksm",
	 EAGAIN,
	 {"memory can be marked, but ksmd doesn't run", "echo 1 >/sys/kernel/mm/ksm/run"}},
	{"peer_read", ENOSYS, {"the kernel was built without it", "CONFIG_CROSS_MEMORY_ATTACH"}},
	{"module",
	 ENOENT,
	 {"the module is not loaded", "on Linux 6.12: make kmod, then insmod build/kmod/pageferry.ko"}},
	{"module",
	 EACCES,
	 {"the permissions of /dev/pageferry don't let this user in", "ask root for its group"}},
	{"module", ENODEV, {"/dev/pageferry is something else", "remove it"}},
	{"module",
	 EPROTO,
	 {"the module is of another version", "rmmod pageferry, then insmod the one of this release"}},
};

struct reason reason_check(const struct probe_host *host, const char *key, int error)
{
	if (!strcmp(key, "thp") && error == -ENOENT)
		return reason_thp(host);
	if (!strcmp(key, "peer_read") && (error == -EPERM || error == -EACCES))
		return reason_peer_read(host);
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(known[i].key, key) && known[i].error == -error)
			return known[i].reason;
	return reason_any(error);
}
