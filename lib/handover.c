// SPDX-License-Identifier: MIT
/* What giver and taker share: the names of things. */
#include "pageferry.h"

const char *ferry_phase_name(unsigned int phase)
{
	static const char *const names[] = {
		[FERRY_PHASE_OFFER] = "offer",	       [FERRY_PHASE_ATTACHED] = "attached",
		[FERRY_PHASE_SHADOW] = "shadow",       [FERRY_PHASE_READY] = "ready",
		[FERRY_PHASE_COMMITTED] = "committed", [FERRY_PHASE_DONE] = "done",
	};
	return phase < FERRY_PHASES ? names[phase] : "?";
}

const char *ferry_way_name(unsigned int way)
{
	static const char *const names[] = {
		[FERRY_WAY_ZERO] = "zero",	   [FERRY_WAY_COPY] = "copy",
		[FERRY_WAY_STAGE] = "stage",	   [FERRY_WAY_CONTINUE] = "continue",
		[FERRY_WAY_MOVE] = "move",	   [FERRY_WAY_MODULE] = "module",
	};
	return way < FERRY_WAYS ? names[way] : "?";
}
