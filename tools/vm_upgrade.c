/* SPDX-License-Identifier: MIT */
/* pageferry vm upgrade: asks the keeper, and shows how it goes. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <json-c/json.h>

#include "lib/clock.h"
#include "pageferry.h"
#include "tools/json_get.h"
#include "tools/keeper.h"
#include "tools/leftovers.h"
#include "tools/vm_client.h"

#define BAR_WIDTH   40
#define STARTING_MS 300
#define PATIENCE_MS 10000
#define PRETTY    (JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

struct options {
	const char *name;
	const char *qemu; /* NULL: as before */
	uint32_t ways;
	int32_t cpu;
	uint32_t timeout_ms;
	bool strict;
	bool json;
};

static bool read_way(const char *word, uint32_t *ways)
{
	if (!strcmp(word, "auto"))
		*ways = FERRY_WAY_AUTO;
	else if (!strcmp(word, "copy"))
		*ways = FERRY_WAY_BIT(FERRY_WAY_COPY);
	else if (!strcmp(word, "stage"))
		*ways = FERRY_WAY_BIT(FERRY_WAY_STAGE);
	else if (!strcmp(word, "module"))
		*ways = FERRY_WAY_BIT(FERRY_WAY_MODULE);
	else
		return false;
	return true;
}

static bool read_number(const char *word, long min, long max, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(word, &end, 10);
	return !errno && end != word && !*end && *value >= min && *value <= max;
}

static bool read_cpu(const char *word, int32_t *cpu)
{
	long number;

	if (!strcmp(word, "follow"))
		*cpu = FERRY_CPU_FOLLOW;
	else if (!strcmp(word, "any"))
		*cpu = FERRY_CPU_ANY;
	else if (read_number(word, 0, sysconf(_SC_NPROCESSORS_CONF) - 1, &number))
		*cpu = (int32_t)number;
	else
		return false;
	return true;
}

/* Returns 0, or what the command is to exit with. */
static int read_option(struct options *options, int letter)
{
	long seconds;

	switch (letter) {
	case 'q':
		options->qemu = optarg;
		return 0;
	case 'w':
		return read_way(optarg, &options->ways)
			       ? 0
			       : say_usage("pageferry vm", "--way %s: not auto, copy, stage or module",
					   optarg);
	case 'c':
		return read_cpu(optarg, &options->cpu)
			       ? 0
			       : say_usage("pageferry vm", "--cpu %s: not follow, any or the number of a CPU",
					   optarg);
	case 't':
		if (!read_number(optarg, 1, 86400, &seconds))
			return say_usage("pageferry vm", "--timeout %s: not 1 to 86400 seconds",
					 optarg);
		options->timeout_ms = (uint32_t)seconds * 1000;
		return 0;
	case 's':
		options->strict = true;
		return 0;
	case 'j':
		options->json = true;
		return 0;
	default:
		return say_usage("pageferry vm", "upgrade: a wrong option");
	}
}

static int read_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{"qemu", required_argument, NULL, 'q'}, {"way", required_argument, NULL, 'w'},
		{"cpu", required_argument, NULL, 'c'},  {"timeout", required_argument, NULL, 't'},
		{"strict", no_argument, NULL, 's'},     {"json", no_argument, NULL, 'j'},
		{NULL, 0, NULL, 0},
	};
	int letter, status = 0;

	opterr = 0;
	while (!status && (letter = getopt_long(argc, argv, "", known, NULL)) != -1)
		status = read_option(options, letter);
	if (!status && options->strict && options->ways &&
	    !(options->ways & FERRY_WAY_BIT(FERRY_WAY_MODULE)))
		status = say_usage("pageferry vm", "--strict forbids copies, which is how --way %s works: "
						   "use --way module, or auto",
				   options->ways & FERRY_WAY_BIT(FERRY_WAY_COPY) ? "copy" : "stage");
	if (!status && optind + 1 != argc)
		status = say_usage("pageferry vm", "upgrade needs the name of one VM");
	if (!status)
		options->name = argv[optind];
	return status;
}

/* @qemu: the path of the new one; empty: as before */
static struct json_object *make_request(const struct options *options, const char *qemu)
{
	struct json_object *request = keeper_request("upgrade");

	if (qemu[0])
		json_object_object_add(request, "qemu", json_object_new_string(qemu));
	json_object_object_add(request, "ways", json_object_new_int64(options->ways));
	json_object_object_add(request, "cpu", json_object_new_int(options->cpu));
	json_object_object_add(request, "timeout_ms", json_object_new_int64(options->timeout_ms));
	json_object_object_add(request, "strict", json_object_new_boolean(options->strict));
	return request;
}

static void show_phase(struct json_object *event)
{
	const char *phase = json_get_string(event, "phase");

	if (phase)
		fprintf(stderr, "\r\033[K%s ...", phase);
}

static void show_progress(struct json_object *event)
{
	int64_t total = 0, left = 0;
	int done;

	json_get_int(event, "total_bytes", 1, INT64_MAX, &total);
	json_get_int(event, "left_bytes", 0, total, &left);
	if (!total)
		return;
	done = (int)((double)(total - left) / (double)total * BAR_WIDTH);
	fprintf(stderr, "\r\033[K[%.*s%*s] %.0f of %.0f MiB", done,
		"########################################", BAR_WIDTH - done, "",
		(double)(total - left) / 1048576, (double)total / 1048576);
}

static void show_event(struct json_object *event)
{
	const char *kind = json_get_string(event, "event");

	if (!isatty(STDERR_FILENO) || !kind)
		return;
	if (!strcmp(kind, "phase"))
		show_phase(event);
	else if (!strcmp(kind, "progress"))
		show_progress(event);
}

/* Returns the keeper's last word, or NULL. */
static struct json_object *follow(int fd)
{
	struct json_object *message = NULL;

	/* No deadline here: every wait of the keeper has one. */
	while (!keeper_receive(fd, -1, &message)) {
		if (json_get_string(message, "result"))
			break;
		show_event(message);
		json_object_put(message);
		message = NULL;
	}
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
	return message;
}

static double number(struct json_object *object, const char *key)
{
	struct json_object *field;

	return json_object_object_get_ex(object, key, &field) ? json_object_get_double(field) : 0;
}

static const char *word(struct json_object *object, const char *key)
{
	const char *text = json_get_string(object, key);

	return text ? text : "?";
}

static void print_bytes(struct json_object *result)
{
	struct json_object *bytes = json_get(result, "bytes", json_type_object);
	const char *separator = "", *why = json_get_string(result, "not_by_tables");

	printf("pages    %.1f MiB: ", number(result, "total_bytes") / 1048576);
	for (unsigned int way = 0; way < FERRY_WAYS; way++) {
		double mib = number(bytes, ferry_way_name(way)) / 1048576;

		if (mib > 0) {
			printf("%s%s %.1f", separator, ferry_way_name(way), mib);
			separator = ", ";
		}
	}
	if (number(result, "removed_bytes") > 0)
		printf("%sdiscarded by the guest %.1f", separator,
		       number(result, "removed_bytes") / 1048576);
	if (number(result, "refused_bytes") > 0)
		printf("; %.0f KiB of it copied since they could not move",
		       number(result, "refused_bytes") / 1024);
	putchar('\n');
	if (why && number(bytes, ferry_way_name(FERRY_WAY_MODULE)) > 0)
		printf("         not all of it as page tables: %s\n", why);
}

static void print_result(struct json_object *result)
{
	struct json_object *faults = json_get(result, "faults", json_type_object);

	printf("%s: upgraded to generation %.0f in %.0f ms; ", word(result, "name"),
	       number(result, "generation"), number(result, "total_ms"));
	if (json_get(result, "downtime_ms", json_type_double))
		printf("the guest stood still for %.1f ms\n", number(result, "downtime_ms"));
	else
		printf("the guest was not running\n");
	printf("old      %s %s (process %.0f)\n", word(result, "old_qemu"),
	       word(result, "old_version"), number(result, "old_pid"));
	printf("new      %s %s (process %.0f)\n", word(result, "new_qemu"),
	       word(result, "new_version"), number(result, "new_pid"));
	printf("faults   %.0f on demand: p50 %.1f us, p99 %.1f us, max %.1f us\n",
	       number(faults, "count"), number(faults, "p50_us"), number(faults, "p99_us"),
	       number(faults, "max_us"));
	print_bytes(result);
	printf("memory   both processes at most %.1f MiB, %.1f MiB more than the old one before\n",
	       number(result, "peak_kib") / 1024, number(result, "extra_kib") / 1024);
}

static void print_notes(struct json_object *result)
{
	struct json_object *notes = json_get(result, "notes", json_type_array);
	size_t n = notes ? json_object_array_length(notes) : 0;

	for (size_t i = 0; i < n; i++)
		say("note: %s", json_object_get_string(json_object_array_get_idx(notes, i)));
}

static struct json_object *failure(const char *error)
{
	struct json_object *result = json_object_new_object();

	json_object_object_add(result, "result", json_object_new_string("failed"));
	json_object_object_add(result, "error", json_object_new_string(error));
	return result;
}

/* As it may be typed right behind a vm run. */
static int open_patiently(struct state_dir *dir, const char *name, struct why *why)
{
	int64_t deadline = clock_ns() + STARTING_MS * 1000000LL;
	int err;

	while ((err = state_dir_open(dir, name, false, why)) == -ENOENT && clock_ns() < deadline)
		poll(NULL, 0, 20);
	return err;
}

/*
 * A keeper that was started a moment ago has yet to take its lock and to listen. Without one that
 * answers, and with nobody that holds the lock, it is gone.
 */
static int connect_patiently(struct state_dir *dir)
{
	int64_t begin = clock_ns();
	int fd;

	while ((fd = keeper_connect(dir->path)) < 0) {
		int64_t waited_ms = (clock_ns() - begin) / 1000000;

		if (waited_ms > STARTING_MS && !state_dir_lock(dir)) {
			/* Its VM may have been left without the sockets that its users know. */
			leftovers_clear(dir);
			return -ENOENT;
		}
		if (waited_ms > PATIENCE_MS)
			return -ETIMEDOUT;
		poll(NULL, 0, 20);
	}
	return fd;
}

static struct json_object *upgrade(const struct options *options)
{
	struct json_object *result;
	struct state_dir dir;
	struct why why = {""};
	char qemu[PATH_MAX] = "";
	int fd, err;

	/* What is relative is so to this command's directory, which the keeper doesn't know. */
	if (options->qemu && qemu_find(options->qemu, qemu, sizeof(qemu), &why))
		return failure(why.text);
	err = open_patiently(&dir, options->name, &why);
	if (err)
		return failure(err == -ENOENT ? "there is no VM of that name: see 'pageferry vm "
						"list'"
					      : why.text);
	fd = connect_patiently(&dir);
	state_dir_close(&dir);
	if (fd == -ETIMEDOUT)
		return failure("its keeper lives but does not answer: try again, or end it and run "
			       "the VM again");
	if (fd < 0)
		return failure("its keeper is gone, so it can't be upgraded: stop the VM and run "
			       "it again");
	err = keeper_ask(fd, make_request(options, qemu));
	result = err ? NULL : follow(fd);
	close(fd);
	return result ? result
		      : failure("the keeper ended before it had an answer: see 'pageferry vm "
				"status'");
}

static void say_failure(const char *name, struct json_object *result)
{
	const char *vm = json_get_string(result, "vm"), *where = "";

	if (vm && !strcmp(vm, "old"))
		where = "; the VM goes on in the old QEMU";
	else if (vm && !strcmp(vm, "new"))
		where = "; the VM is in the new QEMU";
	else if (vm)
		where = "; the VM has ended";
	say("%s: %s%s", name, word(result, "error"), where);
}

static char interrupted_text[256];

/* Whether it came before the commit only the keeper knows, and it has lost the one to tell. */
static void interrupted(int number)
{
	ssize_t written = write(STDERR_FILENO, interrupted_text, strlen(interrupted_text));

	(void)written;
	signal(number, SIG_DFL);
	raise(number);
}

static void explain_interrupts(const char *name)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

	snprintf(interrupted_text, sizeof(interrupted_text),
		 "%spageferry: %s: interrupted: the VM goes on in the old QEMU, or, after the commit, "
		 "in the new one: see 'pageferry vm status %s'\n",
		 isatty(STDERR_FILENO) ? "\r\033[K" : "", name, name);
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		if (signal(ending[i], interrupted) == SIG_IGN)
			signal(ending[i], SIG_IGN);
}

int cmd_vm_upgrade(int argc, char **argv)
{
	struct options options = {.cpu = FERRY_CPU_FOLLOW, .timeout_ms = FERRY_TIMEOUT_MS};
	struct json_object *result;
	int status = read_options(argc, argv, &options);

	if (status)
		return status;
	if (!state_name_valid(options.name))
		return say_usage("pageferry vm", "%s: not the name of a VM", options.name);
	explain_interrupts(options.name);
	result = upgrade(&options);
	status = strcmp(word(result, "result"), "upgraded") ? EXIT_FAILURE : EXIT_SUCCESS;
	if (options.json)
		puts(json_object_to_json_string_ext(result, PRETTY));
	else if (!status)
		print_result(result);
	if (status)
		say_failure(options.name, result);
	print_notes(result);
	json_object_put(result);
	return status;
}
