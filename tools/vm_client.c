/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/json_get.h"
#include "tools/vm_client.h"

int keeper_address(const char *dir, struct sockaddr_un *addr)
{
	int len;

	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	len = snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/keeper.sock", dir);
	return len < 0 || (size_t)len >= sizeof(addr->sun_path) ? -ENAMETOOLONG : 0;
}

int keeper_connect(const char *dir)
{
	struct sockaddr_un addr;
	int err = keeper_address(dir, &addr);
	int fd = err ? err : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err ? err : -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

struct json_object *keeper_request(const char *command)
{
	struct json_object *request = json_object_new_object();

	json_object_object_add(request, "command", json_object_new_string(command));
	return request;
}

int keeper_ask(int fd, struct json_object *request)
{
	size_t len;
	const char *text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &len);
	int err = !text ? -ENOMEM : send(fd, text, len, MSG_NOSIGNAL) < 0 ? -errno : 0;

	json_object_put(request);
	return err;
}

int keeper_receive(int fd, int timeout_ms, struct json_object **message)
{
	static char packet[KEEPER_PACKET_MAX];
	struct pollfd poller = {.fd = fd, .events = POLLIN};
	ssize_t len;

	do {
		len = poll(&poller, 1, timeout_ms);
	} while (len < 0 && errno == EINTR);
	if (len <= 0)
		return -ETIMEDOUT;
	len = recv(fd, packet, sizeof(packet), MSG_TRUNC);
	if (len <= 0)
		return -EPIPE;
	*message = (size_t)len <= sizeof(packet) ? json_read_object(packet, (size_t)len) : NULL;
	return *message ? 0 : -EPROTO;
}
