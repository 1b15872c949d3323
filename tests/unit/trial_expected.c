// SPDX-License-Identifier: MIT
/* Files with what is expected of a kernel: those that are as they should be, and others. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/test.h"
#include "tools/beside.c"         /* NOLINT(bugprone-suspicious-include) */
#include "tools/say.c"            /* NOLINT(bugprone-suspicious-include) */
#include "tools/trial_expected.c" /* NOLINT(bugprone-suspicious-include) */

static char path[64];

static int begin(void **state)
{
	snprintf(path, sizeof(path), "/tmp/pageferry-expected-%d", (int)getpid());
	unlink(path);
	return test_begin(state);
}

static int end(void **state)
{
	unlink(path);
	rmdir(path);
	return test_end(state);
}

static int read_text(struct trial_expected **e, const char *text, size_t len, struct why *why)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
	return trial_expected_read(e, "conform", path, why);
}

static void test_cells(void **state)
{
	static const char text[] = "# a comment | with | b\xc3\xa4rs\n\n"
				   "  \t\n"
				   "anonymous | MOVE | ok\n"
				   "\tfork-shared|MOVE|EBUSY  \n"
				   " holes | MOVE | 1 of 3, EAGAIN, then ENOENT";
	struct trial_expected *e;
	struct why why;

	(void)state;
	assert_int_equal(read_text(&e, text, sizeof(text) - 1, &why), 0);
	assert_string_equal(trial_expected_find(e, "anonymous", "MOVE"), "ok");
	assert_string_equal(trial_expected_find(e, "fork-shared", "MOVE"), "EBUSY");
	assert_string_equal(trial_expected_find(e, "holes", "MOVE"), "1 of 3, EAGAIN, then ENOENT");
	assert_null(trial_expected_find(e, "anonymous", "COPY"));
	assert_null(trial_expected_find(e, "anon", "MOVE"));
	assert_null(trial_expected_find(NULL, "anonymous", "MOVE"));
	trial_expected_free(e);
	trial_expected_free(NULL);
}

static void test_empty(void **state)
{
	struct trial_expected *e;
	struct why why;

	(void)state;
	assert_int_equal(read_text(&e, "", 0, &why), 0);
	assert_non_null(e);
	assert_null(trial_expected_find(e, "anonymous", "MOVE"));
	trial_expected_free(e);
}

/* Each is refused, by one line that names the file and says what is wrong. */
static void assert_refused(const char *text, size_t len, int error, const char *says)
{
	struct trial_expected *e;
	struct why why;

	assert_int_equal(read_text(&e, text, len, &why), error);
	assert_non_null(strstr(why.text, path));
	assert_non_null(strstr(why.text, says));
	assert_null(strchr(why.text, '\n'));
}

static void test_malformed(void **state)
{
	static const char *const texts[] = {"anonymous\n",
					    "anonymous | MOVE\n",
					    "a | b | c | d\n",
					    "| MOVE | ok\n",
					    "anonymous | | ok\n",
					    "anonymous | MOVE |\n",
					    "anonymous | MOVE | \t\n"};

	(void)state;
	for (size_t i = 0; i < COUNT(texts); i++)
		assert_refused(texts[i], strlen(texts[i]), -EINVAL, "line 1 isn't");
	assert_refused("a | b | ok\n#\na|b|ok", 19, -EINVAL,
		       "line 3: the cell \"a | b\" is there twice");
}

static void test_binary(void **state)
{
	(void)state;
	assert_refused("a | b | ok\n\0a | c | ok\n", 23, -EINVAL, "not a text file");
	assert_refused("a | b | \x1b[2J\n", 13, -EINVAL, "not a text file");
	assert_refused("a | b | ok\r\n", 12, -EINVAL, "not a text file");
	/* That would be no JSON. */
	assert_refused("a | b | \xff\n", 10, -EINVAL, "line 1 has characters that no answer has");
}

static void test_long(void **state)
{
	char *text = malloc(FILE_MAX + 1);

	(void)state;
	assert_non_null(text);
	memset(text, 'x', FILE_MAX + 1);
	memcpy(text, "a | b | ", 8);
	text[LINE_LEN] = '\n';
	text[LINE_LEN + 1] = '#';
	text[LINE_LEN + 2] = '\n';
	struct trial_expected *e;
	struct why why;
	assert_int_equal(read_text(&e, text, LINE_LEN + 3, &why), 0);
	trial_expected_free(e);
	text[LINE_LEN] = 'x';
	assert_refused(text, LINE_LEN + 3, -EINVAL, "line 1 is longer than 200 characters");
	memset(text, '\n', FILE_MAX + 1);
	assert_int_equal(read_text(&e, text, FILE_MAX, &why), 0);
	trial_expected_free(e);
	assert_refused(text, FILE_MAX + 1, -EFBIG, "longer than 128 KiB");
	free(text);
}

static void assert_no_file(int error, const char *says)
{
	struct trial_expected *e;
	struct why why;

	assert_int_equal(trial_expected_read(&e, "conform", path, &why), error);
	assert_non_null(strstr(why.text, path));
	assert_non_null(strstr(why.text, says));
}

static void test_no_file(void **state)
{
	(void)state;
	assert_no_file(-ENOENT, "No such file");
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_no_file(-EINVAL, "not a regular file");
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_no_file(-EINVAL, "not a regular file");
	rmdir(path);
	assert_int_equal(symlink("/dev/zero", path), 0);
	assert_no_file(-EINVAL, "not a regular file");
}

/* A table of which nobody has written down anything. */
static void test_unknown(void **state)
{
	struct trial_expected *e = (void *)path;
	struct why why;

	(void)state;
	assert_int_equal(trial_expected_read(&e, "no-such-table", NULL, &why), 0);
	assert_null(e);
	e = (void *)path;
	assert_int_equal(trial_expected_known(&e, "no-such-file", &why), 0);
	assert_null(e);
}

#define ROW(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ROW(test_cells), ROW(test_empty),   ROW(test_malformed), ROW(test_binary),
		ROW(test_long),  ROW(test_no_file), ROW(test_unknown),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
