// SPDX-License-Identifier: MIT
/* pageferry probe: what this kernel and this user can do. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools/json_add.h"
#include "tools/probe.h"
#include "tools/tool.h"

#define EXIT_UNUSABLE 1 /* no userfaultfd that is good enough for a VM upgrade */

static const char *error_name(int error)
{
	const char *name = strerrorname_np(-error);
	return name ? name : "unknown";
}

static void print_finding(const struct finding *f, const char *indent)
{
	printf("%s%-*s %s", indent, (int)(20 - strlen(indent)), f->label, f->error ? "no " : "yes");
	if (f->error)
		printf("  %s: %s; fix: %s", error_name(f->error), f->reason.why, f->reason.fix);
	if (f->detail_key)
		printf("  (%s: %s)", f->detail_key, f->detail);
	putchar('\n');
}

static void print_all(const struct finding *f, unsigned int n, const char *indent)
{
	for (unsigned int i = 0; i < n; i++)
		print_finding(&f[i], indent);
}

static void print_text(const struct findings *f, const struct utsname *kernel)
{
	printf("pageferry %s, %s %s, user %u\n\n", PAGEFERRY_VERSION, kernel->sysname,
	       kernel->release, (unsigned int)geteuid());
	print_finding(&f->uffd, "");
	print_all(f->doors, PROBE_DOORS, "  ");
	printf("\nfeature bits         %#" PRIx64 "\n", f->caps.features);
	print_all(f->bits, PROBE_BITS, "  ");
	if (f->unknown_bits)
		printf("  %-18s %#" PRIx64 "\n", "without a name", f->unknown_bits);
	putchar('\n');
	print_all(f->checks, PROBE_CHECKS, "");
	putchar('\n');
	print_all(f->verdicts, PROBE_VERDICTS, "");
}

static struct json_object *json_hex(uint64_t bits)
{
	char text[32];

	snprintf(text, sizeof(text), "%#" PRIx64, bits);
	return json_object_new_string(text);
}

static struct json_object *json_finding(const struct finding *f)
{
	struct json_object *o = json_object_new_object();

	json_add_flag(o, "ok", !f->error);
	json_add_text(o, "errno", f->error ? error_name(f->error) : NULL);
	json_add_text(o, "why", f->reason.why);
	json_add_text(o, "fix", f->reason.fix);
	if (f->detail_key)
		json_add_text(o, f->detail_key, f->detail);
	return o;
}

static void json_add_all(struct json_object *o, const struct finding *f, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		json_object_object_add(o, f[i].key, json_finding(&f[i]));
}

static void json_add_object(struct json_object *o, const char *key, const struct finding *f,
			    unsigned int n)
{
	struct json_object *sub = json_object_new_object();

	json_add_all(sub, f, n);
	json_object_object_add(o, key, sub);
}

static void print_json(const struct findings *f, const struct utsname *kernel)
{
	struct json_object *o = json_findings(kernel->release);

	json_add_all(o, &f->uffd, 1);
	json_add_object(o, "doors", f->doors, PROBE_DOORS);
	json_object_object_add(o, "feature_bits", json_hex(f->caps.features));
	json_object_object_add(o, "unknown_bits", json_hex(f->unknown_bits));
	json_object_object_add(o, "ioctl_bits", json_hex(f->caps.ioctls));
	json_add_object(o, "features", f->bits, PROBE_BITS);
	json_add_all(o, f->checks, PROBE_CHECKS);
	json_add_object(o, "verdict", f->verdicts, PROBE_VERDICTS);
	json_print(o);
}

static const char help[] =
	"usage: pageferry probe [--json]\n"
	"\n"
	"Say what this kernel and this user can do, found by trying.\n"
	"\n"
	"  --json  print it for programs\n"
	"\n"
	"Exit status: 0: a VM can be upgraded here; 1: it can't; 2: usage or other error.\n";

/* Returns 0 to go on, 1 when help was asked for, 2 after an error. */
static int parse(int argc, char **argv, bool *json)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
	int c;

	opterr = 0;
	optind = 0;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'h')
			return 1;
		if (c != 'j')
			return say_usage("pageferry probe", "%s: not an option",
					 argv[optind > 1 ? optind - 1 : 1]);
		*json = true;
	}
	if (optind < argc)
		return say_usage("pageferry probe", "%s: nothing was expected here", argv[optind]);
	return 0;
}

int cmd_probe(int argc, char **argv)
{
	struct findings findings;
	struct utsname kernel;
	bool json = false;
	int ret = parse(argc, argv, &json);

	if (ret == 2)
		return ret;
	if (ret == 1) {
		fputs(help, stdout);
		return 0;
	}
	ret = probe_findings(&findings);
	if (!ret && uname(&kernel))
		ret = -errno;
	if (ret) {
		say("can't probe: %s", strerror(-ret));
		return EXIT_USAGE;
	}
	(json ? print_json : print_text)(&findings, &kernel);
	return findings.verdicts[VERDICT_VM].error ? EXIT_UNUSABLE : 0;
}
