// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "log.h"
#include "proc.h"

/*
 * tests/guest/boot.sh looks for the same in the log of the console. Only there, where reports of many
 * lines are at hand, is it told whether a data race that KCSAN found is the module's.
 */
static const char *const trouble[] = {
	"WARNING",
	"BUG:",
	"BUG at ",
	"kernel BUG",
	"KASAN",
	"UBSAN",
	"Bad page",
	"Bad rss-counter",
	"Bad swap",
	"Bad pagetable",
	"non-zero pgtables_bytes",
	"Call Trace",
	"refcount_t",
	"list_add corruption",
	"list_del corruption",
	"general protection fault",
	"unable to handle",
	"Oops",
	"possible recursive locking",
	"possible circular locking",
	"inconsistent lock state",
	"suspicious RCU usage",
	"self-detected stall",
	"detected stalls",
	"soft lockup",
	"blocked for more than",
	"sleeping function called",
	"scheduling while atomic",
	"Underflow",
	"underflow",
	"use-after-free",
};

static int kmsg = -1;

void log_begin(void)
{
	kmsg = open("/dev/kmsg", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
	log_mark("begin");
}

void log_mark(const char *name)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "<5>pageferry test: %s\n", name);

	if (write(kmsg, line, (size_t)n) < 0)
		note("/dev/kmsg: %s", strerror(errno));
}

/* See without_expected() in tests/guest/boot.sh. */
static bool is_expected(const char *text)
{
	static unsigned int expected;

	if (strstr(text, "FAULT_FLAG_ALLOW_RETRY missing"))
		expected++;
	if (!expected || !strstr(text, "Call Trace"))
		return false;
	expected--;
	return true;
}

/* A record is "priority,sequence,time,flags;text\n", and more lines that begin with a space. */
static bool tells_of_trouble(const char *record)
{
	const char *text = strchr(record, ';');

	if (!text || !strncmp(text + 1, "pageferry test: ", 16) || strstr(text, "BUG: KCSAN: ") ||
	    is_expected(text))
		return false;
	for (size_t i = 0; i < COUNT(trouble); i++)
		if (strstr(text, trouble[i]))
			return true;
	return false;
}

unsigned int log_trouble(void)
{
	unsigned int found = 0;
	char record[8192];

	for (;;) {
		ssize_t n = read(kmsg, record, sizeof(record) - 1);

		if (n < 0 && errno == EPIPE) {
			note("the kernel's log was overrun: some of it was not seen");
			found++;
			continue;
		}
		if (n <= 0)
			break;
		record[n] = '\0';
		record[strcspn(record, "\n")] = '\0';
		if (!tells_of_trouble(record))
			continue;
		found++;
		note("kernel: %s", strchr(record, ';') + 1);
	}
	return found;
}

unsigned long taint_of_trouble(void)
{
	const unsigned long bad_page = 1 << 5, died = 1 << 7, warned = 1 << 9, lockup = 1 << 14;
	char buf[32] = "";

	if (proc_read(0, "sys/kernel/tainted", buf, sizeof(buf)) <= 0)
		return bad_page;
	return strtoul(buf, NULL, 10) & (bad_page | died | warned | lockup);
}
