/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/args.h"
#include "tools/qemu_opt.h"

#define COUNT(a)    (sizeof(a) / sizeof((a)[0]))
#define RAM_DEFAULT (128ULL << 20)
#define RAM_ALIGN   8192ULL /* QEMU rounds -m up to this */

/* The first field of a value may stand without its key. */
static const struct {
	const char *option, *key;
} implied_keys[] = {
	{"m", "size"},          {"machine", "type"}, {"M", "type"},         {"object", "qom-type"},
	{"device", "driver"},   {"netdev", "type"},  {"nic", "type"},       {"net", "type"},
	{"chardev", "backend"}, {"numa", "type"},    {"sandbox", "enable"},
};

/* One reason to refuse or to warn. A rule holds when the option is there, its first field matches
 * @first and its field @key matches @pattern; what is NULL always matches. */
struct rule {
	const char *option, *first, *key, *pattern, *reason;
};

#define PINNED    "the device pins or shares guest memory, which can't move: use an emulated one"
#define ENCRYPTED "encrypted memory can't move: leave it out"
#define FRESH     "every new QEMU would get empty memory there: use memory-backend-file,share=on"
#define RAM       "main memory must be pageferry's own: give its size with -m only"
#define OVERLAY   "that disk ends with the first QEMU: make an overlay with qemu-img create -b"
#define LOCKED    "memory that hasn't come yet can't be locked or filled: leave it out"
#define NAME      "that id is pageferry's own: choose another"
#define CHILD     "QEMU must stay the keeper's child: put 'pageferry vm run' into the background"
#define PID       "the process changes with every upgrade: ask 'pageferry vm status' for it"
#define CID       "two QEMUs can't have one context id at a time: leave it out"
#define OUTSIDE   "the VM's sockets are outside: leave it out"
#define USER      "the VM's files are the keeper's user's: run 'pageferry vm run' as that user"
#define NODES     "every NUMA node has memory of its own, which can't move: leave it out"
#define HIDDEN    "options must be on the command line, where they can be checked"

static const struct rule refused[] = {
	{.option = "daemonize", .reason = CHILD},
	{.option = "incoming",
	 .reason = "each new QEMU gets its own -incoming: start the VM without it"},
	{.option = "loadvm",
	 .reason = "every upgrade would load it again: use the monitor's loadvm"},
	{.option = "preconfig",
	 .reason = "every new QEMU would wait for a monitor command: leave it out"},
	{.option = "readconfig", .reason = HIDDEN},
	{.option = "pidfile", .reason = PID},
	{.option = "chroot", .reason = OUTSIDE},
	{.option = "run-with", .key = "chroot", .reason = OUTSIDE},
	{.option = "runas", .reason = USER},
	{.option = "run-with", .key = "user", .reason = USER},
	{.option = "snapshot", .reason = OVERLAY},
	{.option = "drive", .key = "snapshot", .pattern = "on", .reason = OVERLAY},
	{.option = "mem-path", .reason = RAM},
	{.option = "machine", .key = "memory-backend", .reason = RAM},
	{.option = "machine", .key = "memory.size", .reason = RAM},
	{.option = "numa", .first = "node", .reason = NODES},
	{.option = "mem-prealloc", .reason = LOCKED},
	{.option = "overcommit", .key = "mem-lock", .pattern = "on", .reason = LOCKED},
	{.option = "realtime", .key = "mlock", .pattern = "on", .reason = LOCKED},
	{.option = "machine", .key = "memory-encryption", .reason = ENCRYPTED},
	{.option = "machine", .key = "confidential-guest-support", .reason = ENCRYPTED},
	{.option = "object", .first = "memory-backend-epc", .reason = ENCRYPTED},
	{.option = "object", .first = "memory-backend-memfd", .reason = FRESH},
	{.option = "object", .first = "memory-backend-shm", .reason = FRESH},
	{.option = "object",
	 .first = "memory-backend-ram",
	 .key = "share",
	 .pattern = "on",
	 .reason = FRESH},
	{.option = "object", .key = "id", .pattern = "pageferry-*", .reason = NAME},
	{.option = "chardev", .key = "id", .pattern = "pageferry-*", .reason = NAME},
	{.option = "object", .first = "cryptodev-vhost-user", .reason = PINNED},
	{.option = "device", .first = "vfio-*", .reason = PINNED},
	{.option = "device", .first = "vhost-user-*", .reason = PINNED},
	{.option = "device", .first = "vhost-vdpa-*", .reason = PINNED},
	{.option = "device", .first = "vhost-vsock-*", .reason = CID},
	{.option = "netdev", .first = "vhost-user", .reason = PINNED},
	{.option = "netdev", .first = "vhost-vdpa", .reason = PINNED},
	{.option = "nic", .first = "vhost-user", .reason = PINNED},
	{.option = "net", .first = "vhost-user", .reason = PINNED},
};

#define TRUNCATED "every upgrade truncates the file: use -chardev file,...,append=on"

static const struct rule noted[] = {
	{.option = "serial", .first = "file:*", .reason = TRUNCATED},
	{.option = "parallel", .first = "file:*", .reason = TRUNCATED},
	{.option = "debugcon", .first = "file:*", .reason = TRUNCATED},
	{.option = "D", .reason = "every upgrade truncates the file"},
};

static const char *implied_key(const char *option)
{
	for (size_t i = 0; i < COUNT(implied_keys); i++)
		if (!strcmp(option, implied_keys[i].option))
			return implied_keys[i].key;
	return NULL;
}

static bool first_matches(const struct rule *rule, const struct qemu_opt *opt)
{
	const char *key = implied_key(opt->name);
	char text[PATH_MAX];

	if (!key)
		return opt->value && !fnmatch(rule->first, opt->value, 0);
	return qemu_opt_field(opt->value, key, key, text, sizeof(text)) &&
	       !fnmatch(rule->first, text, 0);
}

static bool key_matches(const struct rule *rule, const struct qemu_opt *opt)
{
	char text[PATH_MAX];

	if (!qemu_opt_field(opt->value, implied_key(opt->name), rule->key, text, sizeof(text)))
		return false;
	if (!rule->pattern)
		return true;
	if (!strcmp(rule->pattern, "on"))
		return qemu_opt_true(text);
	return !fnmatch(rule->pattern, text, 0);
}

static const struct rule *rule_find(const struct rule *rules, size_t n, const struct qemu_opt *opt)
{
	/* -M is -machine. */
	const char *name = strcmp(opt->name, "M") ? opt->name : "machine";

	for (size_t i = 0; i < n; i++)
		if (!strcmp(name, rules[i].option) &&
		    (!rules[i].first || first_matches(&rules[i], opt)) &&
		    (!rules[i].key || key_matches(&rules[i], opt)))
			return &rules[i];
	return NULL;
}

/* Two more things that take more than one field to see. */
static const char *refuse_specially(const struct qemu_opt *opt)
{
	char text[PATH_MAX];

	if (strcmp(opt->name, "netdev") != 0 && strcmp(opt->name, "nic") != 0 &&
	    strcmp(opt->name, "net") != 0)
		return NULL;
	if (!qemu_opt_field(opt->value, "type", "type", text, sizeof(text)) ||
	    strcmp(text, "tap") != 0)
		return NULL;
	if (qemu_opt_field(opt->value, "type", "ifname", text, sizeof(text)) &&
	    !qemu_opt_field(opt->value, "type", "queues", text, sizeof(text)))
		return "two QEMUs can't open one tap interface: open it beforehand and give fd=N";
	return NULL;
}

static bool chardev_field_is(const struct qemu_opt *opt, const char *key, const char *value)
{
	char text[PATH_MAX];

	return qemu_opt_field(opt->value, "backend", key, text, sizeof(text)) &&
	       (value ? !strcmp(text, value) : qemu_opt_true(text));
}

/* There is nothing to truncate in a FIFO or a device. */
static bool keeps_contents(const struct qemu_opt *opt, const char *key)
{
	char path[PATH_MAX];
	struct stat st;

	return qemu_opt_field(opt->value, "backend", key, path, sizeof(path)) &&
	       (stat(path, &st) || S_ISREG(st.st_mode));
}

static bool chardev_truncates(const struct qemu_opt *opt)
{
	if (strcmp(opt->name, "chardev") != 0)
		return false;
	if (keeps_contents(opt, "logfile") && !chardev_field_is(opt, "logappend", NULL))
		return true;
	return chardev_field_is(opt, "backend", "file") && keeps_contents(opt, "path") &&
	       !chardev_field_is(opt, "append", NULL);
}

static void note(struct args *args, const struct qemu_opt *opt, const char *text)
{
	if (args->nnotes < ARGS_NOTES_MAX)
		why_set(&args->note[args->nnotes++], 0, "note: -%s %s: %s", opt->name,
			opt->value ? opt->value : "", text);
}

static int check_option(struct args *args, const struct qemu_opt *opt, struct why *why)
{
	const struct rule *rule = rule_find(refused, COUNT(refused), opt);
	const char *reason = rule ? rule->reason : refuse_specially(opt);

	if (reason)
		return why_set(why, -EINVAL, "-%s%s%s: %s", opt->name, opt->value ? " " : "",
			       opt->value ? opt->value : "", reason);
	rule = rule_find(noted, COUNT(noted), opt);
	if (rule)
		note(args, opt, rule->reason);
	else if (chardev_truncates(opt))
		note(args, opt, "every upgrade truncates the file: add append=on, or logappend=on");
	return 0;
}

static int read_ram(struct args *args, const char *value, struct why *why)
{
	char text[64];
	uint64_t bytes;

	if (!qemu_opt_field(value, "size", "size", text, sizeof(text)))
		return 0;
	if (qemu_opt_size(text, &bytes))
		return why_set(why, -EINVAL, "-m %s: not a size: give for example -m 2G", value);
	args->ram = bytes ? (bytes + RAM_ALIGN - 1) / RAM_ALIGN * RAM_ALIGN : RAM_DEFAULT;
	return 0;
}

struct seen {
	bool monitor, serial, nodefaults, nographic;
};

static void see(struct seen *seen, const struct qemu_opt *opt)
{
	char driver[64];

	seen->monitor |= !strcmp(opt->name, "monitor") || !strcmp(opt->name, "mon") ||
			 !strcmp(opt->name, "qmp") || !strcmp(opt->name, "qmp-pretty");
	seen->nodefaults |= !strcmp(opt->name, "nodefaults");
	seen->nographic |= !strcmp(opt->name, "nographic");
	seen->serial |= !strcmp(opt->name, "serial") ||
			(!strcmp(opt->name, "device") &&
			 qemu_opt_field(opt->value, "driver", "driver", driver, sizeof(driver)) &&
			 !strcmp(driver, "isa-serial"));
}

/* A QEMU without any monitor option makes a monitor for its user. The one that the keeper needs
 * would take that away, so it is asked for explicitly. */
static void keep_default_monitor(struct args *args, const struct seen *seen)
{
	if (seen->monitor || seen->nodefaults)
		return;
	args->monitor[0] = "-monitor";
	args->monitor[1] = "vc:80Cx24C";
	if (!seen->nographic)
		return;
	args->monitor[1] = "stdio";
	if (!seen->serial) {
		args->monitor[0] = "-serial";
		args->monitor[1] = "mon:stdio";
	}
}

int args_read(char *const *argv, struct args *args, struct why *why)
{
	struct seen seen = {0};
	struct qemu_opt opt;
	int n, err = 0;

	memset(args, 0, sizeof(*args));
	args->ram = RAM_DEFAULT;
	for (; (n = qemu_opt_next(argv, &opt)) > 0; argv += n) {
		if (!opt.name)
			continue;
		see(&seen, &opt);
		err = check_option(args, &opt, why);
		if (!err && !strcmp(opt.name, "m") && opt.value)
			err = read_ram(args, opt.value, why);
		if (err)
			return err;
	}
	keep_default_monitor(args, &seen);
	return 0;
}

static int add(char *added[ARGS_ADDED_MAX], int n, const char *option, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int add(char *added[ARGS_ADDED_MAX], int n, const char *option, const char *format, ...)
{
	va_list list;
	int len;

	if (n < 0 || n + 2 > ARGS_ADDED_MAX)
		return n < 0 ? n : -E2BIG;
	added[n] = strdup(option);
	va_start(list, format);
	len = vasprintf(&added[n + 1], format, list);
	va_end(list);
	if (added[n] && len >= 0)
		return n + 2;
	free(added[n]);
	return -ENOMEM;
}

int args_added(const struct args *args, const struct args_paths *paths, char *added[ARGS_ADDED_MAX])
{
	static const char *const sockets[] = {"qmp", "self"};
	char dir[PATH_MAX];
	int n = 0;

	if (qemu_opt_escape(paths->dir, dir, sizeof(dir)))
		return -ENAMETOOLONG;
	n = add(added, n, "-object",
		"memory-backend-file,id=pageferry-ram,size=%" PRIu64
		",mem-path=%s/ram,share=on,align=2M",
		args->ram, dir);
	n = add(added, n, "-machine", "memory-backend=pageferry-ram");
	for (size_t i = 0; i < COUNT(sockets); i++) {
		n = add(added, n, "-chardev",
			"socket,id=pageferry-%s,path=%s/%s-%" PRIu32 ".sock,server=on,wait=off",
			sockets[i], dir, sockets[i], paths->generation);
		n = add(added, n, "-mon", "chardev=pageferry-%s,mode=control", sockets[i]);
	}
	if (args->monitor[0])
		n = add(added, n, args->monitor[0], "%s", args->monitor[1]);
	return n;
}
