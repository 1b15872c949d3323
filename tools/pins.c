// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <stdlib.h>
#include "tools/pins.h"
int cmd_pins(int argc, char **argv)
{
	int only = argc > 1 ? atoi(argv[1]) : -1;
	printf("guard %d\n", trial_guard());
	trial_swap(64);
	trial_setting("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	trial_setting("/sys/kernel/mm/ksm/pages_to_scan", "2000");
	trial_setting("/sys/kernel/mm/ksm/smart_scan", "0");
	trial_setting("/sys/kernel/mm/ksm/run", "1");
	for (const struct operation *o = &operation_nothing; o->name;
	     o = o == &operation_nothing ? operations : o + 1) {
		struct trial_cell c = {0};
		if (only >= 0 && o != operations + only)
			continue;
		if (o->control) {
			pins_try(o, NULL, &c);
			printf("%s| control | %s | %s\n", o->name, c.verdict, c.why);
		}
		for (const struct pin_kind *k = pin_kinds; k->name; k++) {
			pins_try(o, k, &c);
			printf("%s| %s | %s | %s\n", o->name, k->name, c.verdict, c.why);
			fflush(stdout);
		}
	}
	return trial_restore();
}
