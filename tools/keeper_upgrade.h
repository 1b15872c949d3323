/* SPDX-License-Identifier: MIT */
/* Replace the QEMU of a running VM, as the keeper does it. */
#ifndef PAGEFERRY_KEEPER_UPGRADE_H
#define PAGEFERRY_KEEPER_UPGRADE_H

#include "tools/keeper.h"

struct json_object;

/** A client asks for an upgrade. Returns 0: keeper->upgrade is set; or -errno with @why. */
int upgrade_request(struct keeper *keeper, struct client *client, struct json_object *request,
		    struct why *why);

/** Do it, tell the client, and end keeper->upgrade. */
void upgrade_run(struct keeper *keeper);

/** Name of what it does now; NULL without an upgrade. */
const char *upgrade_phase(const struct upgrade *up);

/** The client has hung up. Before the commit this ends the upgrade. */
void upgrade_client_gone(struct upgrade *up, const struct client *client);

#endif
