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
		[FERRY_WAY_TABLES] = "tables",
	};
	return way < FERRY_WAYS ? names[way] : "?";
}

const char *ferry_why_name(unsigned int why)
{
	static const char *const names[] = {
		[FERRY_WHY_NONE] = "nothing was in the way",
		[FERRY_WHY_ALIGNMENT] = "both sides have it at different places within 2 MiB, or it is less",
		[FERRY_WHY_MAPPING] = "a mapping is shared, in parts, has other rights, or is write-protected by userfaultfd",
		[FERRY_WHY_OWN_PAGES] = "the taker's mapping has other pages",
		[FERRY_WHY_NO_PAGES] = "the giver's mapping never had any pages",
		[FERRY_WHY_POPULATED] = "the taker has a page there",
		[FERRY_WHY_HOLE] = "the page map doesn't tell which pages are empty",
		[FERRY_WHY_PINNED] = "a page may be pinned",
		[FERRY_WHY_OTHER] = "a page migrates, is poisoned, or the huge zero page",
		[FERRY_WHY_NO_MEMORY] = "there is no memory for it",
		[FERRY_WHY_MERGED] = "KSM has merged a page",
		[FERRY_WHY_MODULE] = "pageferry.ko is not there, not allowed, or can't",
		[FERRY_WHY_TAKER] = "the taker has not agreed, or is gone",
		[FERRY_WHY_CHANGED] = "the taker has changed its mapping",
		[FERRY_WHY_LATE] = "the taker's program was not to wait any longer",
	};
	return why < FERRY_WHYS ? names[why] : "?";
}
