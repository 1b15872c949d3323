// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>

#include "bench/vm/vm.h"

#define SCRIPT_MS 600000 /* the kernel may have to be fetched */
#define TAIL      2000

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void show_log(const struct place *place)
{
	char text[TAIL + 1];
	off_t size = lseek(place->log, 0, SEEK_END);
	off_t from = size > TAIL ? size - TAIL : 0;
	ssize_t n = pread(place->log, text, TAIL, from);

	if (n > 0)
		fprintf(stderr, "%s: the last messages of what it had started:\n%.*s",
			program_invocation_short_name, (int)n, text);
}

static void leave(int status, void *arg)
{
	const struct place *place = arg;

	if (status == BENCH_EXIT_FAIL)
		show_log(place);
	nftw(place->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void put_path(char *path, size_t size, const char *dir, const char *file)
{
	if (snprintf(path, size, "%s/%s", dir, file) >= (int)size)
		bench_cannot("%s/%s: the path is too long", dir, file);
}

int place_create(const struct place *place, const char *file)
{
	char path[PATH_MAX];

	put_path(path, sizeof(path), place->dir, file);
	return (int)must(open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600), path);
}

char *place_read(const struct place *place, const char *file)
{
	char path[PATH_MAX], *text = NULL;
	size_t size = 0;
	FILE *f;

	put_path(path, sizeof(path), place->dir, file);
	f = fopen(path, "re");
	/* No file has a NUL in it, so this reads all. */
	if (!f || getdelim(&text, &size, '\0', f) < 0)
		bench_fail("%s: there is nothing in it", path);
	fclose(f);
	return text;
}

/* What a program prints, up to the end of the first line. */
static void ask(const struct place *place, char *const argv[], char *answer, size_t size)
{
	struct child child;
	int out = place_create(place, "answer");
	char *text;

	child_start(&child, argv[0], argv, (struct child_io){-1, out, place->log}, SIGTERM);
	close(out);
	child_finish(&child, SCRIPT_MS);
	text = place_read(place, "answer");
	text[strcspn(text, "\n")] = '\0';
	if (snprintf(answer, size, "%s", text) >= (int)size)
		bench_fail("%s prints too much", argv[0]);
	free(text);
}

static void find_build(struct place *place)
{
	ssize_t n = readlink("/proc/self/exe", place->build, sizeof(place->build) - 1);

	place->build[n > 0 ? n : 0] = '\0';
	for (int up = 0; up < 2; up++) {
		char *slash = strrchr(place->build, '/');

		if (!slash)
			bench_cannot("its own path isn't known: is /proc mounted?");
		*slash = '\0';
	}
}

static void make_guest(struct place *place)
{
	struct child child;
	char file[PATH_MAX];
	FILE *f;

	if (access("guest/kernel", X_OK) || access("guest/initrd", X_OK))
		bench_cannot("no guest/kernel here: run it from the top of the source tree");
	ask(place, (char *[]){"guest/kernel", NULL}, place->kernel, sizeof(place->kernel));
	put_path(file, sizeof(file), place->kernel, "version");
	f = fopen(file, "re");
	if (!f || fscanf(f, "%127s", place->version) != 1)
		bench_fail("%s: says no version", file);
	fclose(f);
	put_path(place->initrd, sizeof(place->initrd), place->dir, "initrd");
	setenv("B", place->build, 1);
	child_start(&child, "guest/initrd",
		    (char *[]){"guest/initrd", place->kernel, place->initrd, NULL},
		    (struct child_io){-1, place->log, place->log}, SIGTERM);
	child_finish(&child, SCRIPT_MS);
}

static void find_qemu_version(struct place *place, const char *qemu)
{
	char line[256], program[PATH_MAX];
	const char *at;

	snprintf(program, sizeof(program), "%s", qemu);
	ask(place, (char *[]){program, "--version", NULL}, line, sizeof(line));
	at = strstr(line, "version ");
	snprintf(place->qemu, sizeof(place->qemu), "%.*s", at ? (int)strcspn(at + 8, " (") : 1,
		 at ? at + 8 : "?");
}

void place_make(struct place *place, const struct options *options)
{
	char state[80];
	const char *tmp = getenv("TMPDIR");

	/* A UNIX socket's path may have 107 bytes, and QEMU's options none with a comma. */
	if (!tmp || strlen(tmp) > 32 || strchr(tmp, ','))
		tmp = "/tmp";
	snprintf(place->dir, sizeof(place->dir), "%s/pageferry-bench.XXXXXX", tmp);
	if (!mkdtemp(place->dir))
		bench_cannot("%s: %s", place->dir, strerror(errno));
	on_exit(leave, place);
	place->log = place_create(place, "log");
	put_path(state, sizeof(state), place->dir, "state");
	setenv("PAGEFERRY_STATE_DIR", state, 1);
	find_build(place);
	find_qemu_version(place, options->qemu);
	make_guest(place);
}
