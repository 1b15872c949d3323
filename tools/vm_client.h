/* SPDX-License-Identifier: MIT */
/* The keeper's socket, from the side of the command that asks. */
#ifndef PAGEFERRY_VM_CLIENT_H
#define PAGEFERRY_VM_CLIENT_H

#include <sys/un.h>
#include <json-c/json.h>

#include "tools/tool.h"

#define KEEPER_PACKET_MAX 65536

/** The address of the keeper of the VM in @dir. Returns 0 or -ENAMETOOLONG. */
int keeper_address(const char *dir, struct sockaddr_un *addr);

/** Connect to the keeper. Returns a descriptor; -ECONNREFUSED, -ENOENT: it is gone; -errno. */
int keeper_connect(const char *dir);

/** Send @request, whose reference is taken over. Returns 0 or -errno. */
int keeper_ask(int fd, struct json_object *request);

/** Wait for a message. Returns 0; -EPIPE: the keeper has hung up; -ETIMEDOUT; -EPROTO. */
int keeper_receive(int fd, int timeout_ms, struct json_object **message);

/** A request that is just one word. */
struct json_object *keeper_request(const char *command);

#endif
