/* SPDX-License-Identifier: MIT */
/* QEMU's command line: sizes, fields, what is refused, what is added. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tools/args.c"     /* NOLINT(bugprone-suspicious-include) */
#include "tools/qemu_opt.c" /* NOLINT(bugprone-suspicious-include) */
#include "tools/say.c"      /* NOLINT(bugprone-suspicious-include) */

#define MIB (1ULL << 20)
#define MAX 12

/* Read the words of @line, which are split at blanks, as a QEMU command's arguments. */
static int read_line(const char *line, struct args *args, struct why *why)
{
	static char copy[1024];
	char *argv[MAX + 1] = {NULL};
	int n = 0;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
		assert_true(n < MAX);
		argv[n++] = word;
	}
	why->text[0] = '\0';
	return args_read(argv, args, why);
}

static void sizes(void **state)
{
	/* Each was tried with QEMU 7.2: the backend's size has to be the machine's. */
	static const struct {
		const char *line;
		uint64_t bytes;
	} good[] = {
		{"", 128 * MIB},
		{"-m 256", 256 * MIB},
		{"--m 256m", 256 * MIB},
		{"-m 2G", 2048 * MIB},
		{"-m 0.25G", 256 * MIB},
		{"-m 0.3G", 322125824},
		{"-m 262144k", 256 * MIB},
		{"-m 268435456b", 256 * MIB},
		{"-m 0x100", 256 * MIB},
		{"-m 256.0", 256 * MIB},
		{"-m 256.M", 256 * MIB},
		{"-m 1048577b", 1056768},
		{"-m size=256M", 256 * MIB},
		{"-m 256,slots=2,maxmem=1G", 256 * MIB},
		{"-m slots=2,maxmem=1G -m 256", 256 * MIB},
		{"-m 256 -m 512", 512 * MIB},
		{"-m 1,size=128M", 128 * MIB},
		{"-m 0", 128 * MIB},
		{"-m 1T", MIB * MIB},
		{"-name -m -m 256", 256 * MIB},
	};
	static const char *const bad[] = {
		"-m lots",
		"-m 1e2",
		"-m 1.5e1M",
		"-m 256MB",
		"-m .3G",
		"-m 99999999999T",
		"-m 18446744073709551616b",
		"-m 128,,5",
		"-m size=",
	};
	struct args args;
	struct why why;

	(void)state;
	for (size_t i = 0; i < COUNT(good); i++) {
		int err = read_line(good[i].line, &args, &why);

		if (err || args.ram != good[i].bytes)
			fail_msg("'%s': %d, %llu: %s", good[i].line, err,
				 (unsigned long long)args.ram, why.text);
	}
	for (size_t i = 0; i < COUNT(bad); i++)
		if (read_line(bad[i], &args, &why) != -EINVAL || !strstr(why.text, "not a size"))
			fail_msg("'%s' is taken: %llu", bad[i], (unsigned long long)args.ram);
}

static void refuses(void **state)
{
	static const char *const bad[] = {
		"-daemonize",
		"--daemonize",
		"-nographic -daemonize",
		"-unknown-flag -daemonize",
		"-incoming tcp:0:4444",
		"-loadvm x",
		"-snapshot",
		"-drive file=x,snapshot=on",
		"-drive snapshot,file=x",
		"-mem-path /dev/hugepages",
		"-mem-prealloc",
		"-machine q35,memory-backend=m",
		"-M memory-backend=m",
		"--machine pc --M memory-backend=m",
		"-machine memory.size=1G",
		"-machine confidential-guest-support=sev0",
		"-numa node,memdev=m0",
		"-numa node",
		"-runas nobody",
		"-run-with user=nobody",
		"-object memory-backend-memfd,id=m,size=1G",
		"-object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"m\"}",
		"-object qom-type=memory-backend-memfd,id=m",
		"-object memory-backend-ram,id=m,share=on",
		"-object {\"qom-type\":\"memory-backend-ram\",\"id\":\"m\",\"share\":true}",
		"-object memory-backend-ram,id=m,share",
		"-object memory-backend-ram,id=pageferry-ram,size=1G",
		"-chardev null,id=pageferry-qmp",
		"-device vfio-pci,host=01:00.0",
		"-device {\"driver\":\"vfio-pci\",\"host\":\"01:00.0\"}",
		"-device driver=vfio-ccw",
		"-device vhost-user-fs-pci,chardev=c",
		"-device vhost-vsock-pci,guest-cid=3",
		"-netdev vhost-user,id=n,chardev=c",
		"-netdev type=vhost-vdpa,id=n",
		"-nic vhost-user",
		"-netdev tap,id=n,ifname=tap0",
		"-overcommit mem-lock=on",
		"-pidfile /run/x",
		"-readconfig x",
		"-preconfig",
		"-chroot /x",
		"-run-with chroot=/x",
	};
	struct args args;
	struct why why;

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++) {
		if (read_line(bad[i], &args, &why) != -EINVAL)
			fail_msg("'%s' is taken", bad[i]);
		/* What is wrong, and what to do. */
		if (why.text[0] != '-' || !strstr(why.text, ": "))
			fail_msg("'%s': says '%s'", bad[i], why.text);
	}
}

static void takes(void **state)
{
	static const char *const good[] = {
		"-accel kvm -machine q35,mem-merge=on -smp 2 -cpu host",
		"disk.img",
		"-name -daemonize=x",
		"-append -daemonize -kernel x",
		"-append console=ttyS0",
		"-drive file=a,,snapshot=on,if=virtio",
		"-drive file=x,snapshot=off",
		"-object memory-backend-file,id=m,size=1G,mem-path=x,share=on",
		"-object memory-backend-ram,id=m,size=1G",
		"-object rng-random,id=r",
		"-netdev tap,id=n,fd=3",
		"-netdev tap,id=n,ifname=tap0,queues=2",
		"-netdev tap,id=n",
		"-netdev user,id=n,hostfwd=tcp::2222-:22",
		"-overcommit mem-lock=off",
		"-device virtio-net-pci,netdev=n",
		"-S",
		"-serial",
		"-",
		"-- --",
	};
	struct args args;
	struct why why;

	(void)state;
	for (size_t i = 0; i < COUNT(good); i++)
		if (read_line(good[i], &args, &why))
			fail_msg("'%s' is refused: %s", good[i], why.text);
}

static void notes(void **state)
{
	static const struct {
		const char *line;
		unsigned int n;
	} lines[] = {
		{"-serial file:x", 1},
		{"-serial stdio", 0},
		{"-chardev file,id=c,path=x", 1},
		{"-chardev file,id=c,path=x,append=on", 0},
		{"-chardev file,id=c,path=/dev/null", 0},
		{"-chardev socket,id=c,path=x,logfile=y", 1},
		{"-chardev socket,id=c,path=x,logfile=y,logappend=on", 0},
		{"-D log -serial file:x -parallel file:y -debugcon file:z", 4},
	};
	struct args args;
	struct why why;

	(void)state;
	for (size_t i = 0; i < COUNT(lines); i++) {
		assert_int_equal(read_line(lines[i].line, &args, &why), 0);
		if (args.nnotes != lines[i].n)
			fail_msg("'%s': %u notes", lines[i].line, args.nnotes);
	}
	/* More than there is room for. */
	assert_int_equal(read_line("-D a -D a -D a -D a -D a -D a", &args, &why), 0);
	assert_int_equal(args.nnotes, 6);
}

static void default_monitor(void **state)
{
	static const struct {
		const char *line, *option, *value;
	} lines[] = {
		{"", "-monitor", "vc:80Cx24C"},
		{"-nographic", "-serial", "mon:stdio"},
		{"-nographic -serial null", "-monitor", "stdio"},
		{"-nographic -device isa-serial,chardev=c", "-monitor", "stdio"},
		{"-nodefaults", NULL, NULL},
		{"-nodefaults -nographic", NULL, NULL},
		{"-qmp stdio", NULL, NULL},
		{"-nographic -monitor none", NULL, NULL},
		{"-mon chardev=c", NULL, NULL},
	};
	struct args args;
	struct why why;

	(void)state;
	for (size_t i = 0; i < COUNT(lines); i++) {
		assert_int_equal(read_line(lines[i].line, &args, &why), 0);
		if (!lines[i].option) {
			assert_null(args.monitor[0]);
			continue;
		}
		assert_non_null(args.monitor[0]);
		assert_string_equal(args.monitor[0], lines[i].option);
		assert_string_equal(args.monitor[1], lines[i].value);
	}
}

#define MEMORY_BACKEND                                                                             \
	"memory-backend-file,id=pageferry-ram,size=268435456,mem-path=/run/p/a,,b/ram,share=on,"   \
	"align=2M"

static void adds(void **state)
{
	static const char *const expected[] = {
		"-object",
		MEMORY_BACKEND, /* NOLINT(bugprone-suspicious-missing-comma) */
		"-machine",
		"memory-backend=pageferry-ram",
		"-chardev",
		"socket,id=pageferry-qmp,path=/run/p/a,,b/qmp-7.sock,server=on,wait=off",
		"-mon",
		"chardev=pageferry-qmp,mode=control",
		"-chardev",
		"socket,id=pageferry-self,path=/run/p/a,,b/self-7.sock,server=on,wait=off",
		"-mon",
		"chardev=pageferry-self,mode=control",
	};
	const struct args_paths paths = {.dir = "/run/p/a,b", .generation = 7};
	char *added[ARGS_ADDED_MAX];
	struct args args;
	struct why why;
	int n;

	(void)state;
	assert_int_equal(read_line("-m 256 -nodefaults", &args, &why), 0);
	n = args_added(&args, &paths, added);
	assert_int_equal(n, COUNT(expected));
	for (int i = 0; i < n; i++) {
		assert_string_equal(added[i], expected[i]);
		free(added[i]);
	}
}

static void fields(void **state)
{
	char out[16];

	(void)state;
	assert_true(qemu_opt_field("a,b=1,b=2", "x", "b", out, sizeof(out)));
	assert_string_equal(out, "2");
	assert_true(qemu_opt_field("a,,b,c=d", "x", "x", out, sizeof(out)));
	assert_string_equal(out, "a,b");
	assert_true(qemu_opt_field("c=d,,e=f", "x", "c", out, sizeof(out)));
	assert_string_equal(out, "d,e=f");
	assert_false(qemu_opt_field("a,b", "x", "a", out, sizeof(out)));
	assert_true(qemu_opt_field("x=1,b", "x", "b", out, sizeof(out)));
	assert_string_equal(out, "on");
	assert_false(qemu_opt_field("b=0123456789abcdef", "x", "b", out, sizeof(out)));
	assert_true(qemu_opt_field("b=0123456789abcde", "x", "b", out, sizeof(out)));
	assert_false(qemu_opt_field("", "x", "b", out, sizeof(out)));
	assert_false(qemu_opt_field(NULL, "x", "b", out, sizeof(out)));
	assert_false(qemu_opt_field("{\"b\":", "x", "b", out, sizeof(out)));
	assert_false(qemu_opt_field("{", "x", "b", out, sizeof(out)));
	assert_true(qemu_opt_field("{\"b\":7}", "x", "b", out, sizeof(out)));
	assert_string_equal(out, "7");
}

/* What is said of hostile words is still one line. */
static void one_line(void **state)
{
	struct args args;
	struct why why;

	(void)state;
	assert_int_equal(read_line("-mem-path a\nb\033[31m", &args, &why), -EINVAL);
	assert_null(strpbrk(why.text, "\n\033"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),  cmocka_unit_test(refuses),
		cmocka_unit_test(takes),  cmocka_unit_test(notes),
		cmocka_unit_test(fields), cmocka_unit_test(default_monitor),
		cmocka_unit_test(adds),   cmocka_unit_test(one_line),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
