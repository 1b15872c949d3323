// SPDX-License-Identifier: MIT
#include "tests/lib/messages.h"

static const struct wire_block block;
static const struct wire_result result;
static const struct wire_done done;
static const struct wire_commit commit;

const struct message messages[MESSAGES] = {
	{WIRE_HELLO, NULL, 0},
	{WIRE_READY, NULL, 0},
	{WIRE_COMMIT, &commit, sizeof(commit)},
	{WIRE_COMMITTED, NULL, 0},
	{WIRE_ARRIVED, NULL, 0},
	{WIRE_STAGE, &block, sizeof(block)},
	{WIRE_STAGED, &result, sizeof(result)},
	{WIRE_PLACE, &block, sizeof(block)},
	{WIRE_PLACED, &result, sizeof(result)},
	{WIRE_DONE, &done, sizeof(done)},
	{WIRE_FINISHED, NULL, 0},
};
