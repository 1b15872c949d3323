// SPDX-License-Identifier: MIT
/* What is expected of a kernel: data files, which anybody may have written, see
 * share/expected/README. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools/beside.h"
#include "tools/trial.h"

#define FILE_MAX (128u << 10)
#define LINE_LEN 200u

struct line {
	const char *row, *column, *verdict;
};

struct trial_expected {
	char *text; /* the words below are in it */
	size_t nlines;
	struct line *lines;
};

/* ---- the file */

static int read_all(int fd, char *text, size_t size, const char *path, struct why *why)
{
	size_t len = 0;
	ssize_t n;

	while (len < size && (n = read(fd, text + len, size - len)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return why_set(why, -errno, "%s: can't be read: %s", path, strerror(errno));
		len += (size_t)n;
	}
	if (len == size)
		return why_set(why, -EFBIG, "%s: longer than %u KiB, no table of expected answers",
			       path, FILE_MAX >> 10);
	text[len] = '\0';
	return (int)len;
}

/* Opening a fifo for reading would wait for a writer. */
static int open_file(const char *path, struct why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return why_set(why, -errno, "%s: can't be opened: %s", path, strerror(errno));
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		return fd;
	close(fd);
	return why_set(why, -EINVAL, "%s: not a regular file", path);
}

static int load(char **text, const char *path, struct why *why)
{
	int fd = open_file(path, why);

	if (fd < 0)
		return fd;
	*text = calloc(1, FILE_MAX + 1);
	if (!*text) {
		close(fd);
		why_set(why, -ENOMEM, "%s: no memory to read it", path);
		return -ENOMEM;
	}
	int len = read_all(fd, *text, FILE_MAX + 1, path, why);
	close(fd);
	for (int i = 0; i < len; i++)
		if (((unsigned char)(*text)[i] < ' ' && !strchr("\t\n", (*text)[i])) ||
		    !(*text)[i] || (*text)[i] == 0x7f)
			return why_set(why, -EINVAL, "%s: not a text file", path);
	return len < 0 ? len : 0;
}

/* ---- its lines */

static char *trim(char *word)
{
	word += strspn(word, " \t");
	for (char *end = word + strlen(word); end > word && strchr(" \t", end[-1]); end--)
		end[-1] = '\0';
	return word;
}

/* Three words, none of them empty; no fourth one. */
static bool split(char *text, struct line *line)
{
	char *first = strchr(text, '|'), *second = first ? strchr(first + 1, '|') : NULL;

	if (!second || strchr(second + 1, '|'))
		return false;
	*first = *second = '\0';
	line->row = trim(text);
	line->column = trim(first + 1);
	line->verdict = trim(second + 1);
	return line->row[0] && line->column[0] && line->verdict[0];
}

/* No command prints others; in a comment they may be. */
static bool is_ascii(const char *text)
{
	while (*text && !(*text & 0x80))
		text++;
	return !*text;
}

static int add(struct trial_expected *e, char *text, const char *path, unsigned int number,
	       struct why *why)
{
	struct line line;

	if (strlen(text) > LINE_LEN)
		return why_set(why, -EINVAL, "%s: line %u is longer than %u characters", path,
			       number, LINE_LEN);
	text = trim(text);
	if (!text[0] || text[0] == '#')
		return 0;
	if (!is_ascii(text))
		return why_set(why, -EINVAL, "%s: line %u has characters that no answer has", path,
			       number);
	if (!split(text, &line))
		return why_set(why, -EINVAL, "%s: line %u isn't \"row | column | verdict\"", path,
			       number);
	if (trial_expected_find(e, line.row, line.column))
		return why_set(why, -EINVAL, "%s: line %u: the cell \"%s | %s\" is there twice",
			       path, number, line.row, line.column);
	e->lines[e->nlines++] = line;
	return 0;
}

static int parse(struct trial_expected *e, const char *path, struct why *why)
{
	size_t room = 1;
	unsigned int number = 0;
	char *next = e->text, *line;
	int ret = 0;

	for (const char *c = e->text; *c; c++)
		room += *c == '\n';
	e->lines = calloc(room, sizeof(e->lines[0]));
	if (!e->lines)
		return why_set(why, -ENOMEM, "%s: no memory to read it", path);
	while (!ret && (line = strsep(&next, "\n")))
		ret = add(e, line, path, ++number, why);
	return ret;
}

static int read_file(struct trial_expected **expected, const char *path, struct why *why)
{
	struct trial_expected *e = calloc(1, sizeof(*e));

	if (!e) {
		why_set(why, -ENOMEM, "no memory");
		return -ENOMEM;
	}
	int ret = load(&e->text, path, why);
	if (!ret)
		ret = parse(e, path, why);
	if (ret)
		trial_expected_free(e);
	else
		*expected = e;
	return ret;
}

/* ---- where they are */

int trial_expected_known(struct trial_expected **expected, const char *file, struct why *why)
{
	char path[PATH_MAX], built[128], moved[128], installed[PATH_MAX];

	*expected = NULL;
	/* In the folder that it was built in, the command has the files of its own source. */
	snprintf(built, sizeof(built), "../share/expected/%s", file);
	snprintf(moved, sizeof(moved), "share/pageferry/expected/%s", file);
	snprintf(installed, sizeof(installed), PAGEFERRY_DATADIR "/expected/%s", file);
	for (unsigned int i = 0;
	     beside_place(i, path, sizeof(path), &(struct beside){built, moved, installed}); i++)
		if (path[0] && (!access(path, F_OK) || errno != ENOENT))
			return read_file(expected, path, why);
	return 0;
}

int trial_expected_read(struct trial_expected **expected, const char *name, const char *path,
			struct why *why)
{
	struct utsname kernel;
	unsigned int major, minor;
	char file[80];

	if (path)
		return read_file(expected, path, why);
	*expected = NULL;
	if (uname(&kernel) || sscanf(kernel.release, "%u.%u", &major, &minor) != 2)
		return 0;
	snprintf(file, sizeof(file), "%s-%u.%u", name, major, minor);
	return trial_expected_known(expected, file, why);
}

size_t trial_expected_count(const struct trial_expected *e)
{
	return e ? e->nlines : 0;
}

const char *trial_expected_find(const struct trial_expected *expected, const char *row,
				const char *column)
{
	for (size_t i = 0; expected && i < expected->nlines; i++)
		if (!strcmp(expected->lines[i].row, row) &&
		    !strcmp(expected->lines[i].column, column))
			return expected->lines[i].verdict;
	return NULL;
}

void trial_expected_free(struct trial_expected *expected)
{
	if (!expected)
		return;
	free(expected->lines);
	free(expected->text);
	free(expected);
}
