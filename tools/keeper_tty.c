/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <unistd.h>

#include "tools/keeper.h"

void tty_save(struct keeper *keeper)
{
	keeper->stdin_flags = fcntl(STDIN_FILENO, F_GETFL);
	keeper->tty = isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &keeper->tty_modes);
}

void tty_restore(const struct keeper *keeper)
{
	if (keeper->stdin_flags >= 0)
		fcntl(STDIN_FILENO, F_SETFL, keeper->stdin_flags);
	/* Only a foreground process may set the modes; one in the background would be stopped. */
	if (keeper->tty && tcgetpgrp(STDIN_FILENO) == getpgrp())
		tcsetattr(STDIN_FILENO, TCSANOW, &keeper->tty_modes);
}
