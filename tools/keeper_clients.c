/* SPDX-License-Identifier: MIT */
/* The keeper's socket: one JSON object a packet, each way. A client sends one request. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <json-c/json.h>

#include "tools/json_get.h"
#include "tools/keeper.h"
#include "tools/keeper_upgrade.h"
#include "tools/vm_client.h"

int clients_listen(struct keeper *keeper, struct why *why)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err = fd < 0 ? -errno : keeper_address(keeper->dir.path, &addr);

	for (int i = 0; i < KEEPER_CLIENTS_MAX; i++)
		keeper->clients[i].fd = -1;
	if (!err && (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
		     chmod(addr.sun_path, 0600) || listen(fd, KEEPER_CLIENTS_MAX)))
		err = -errno;
	if (!err) {
		keeper->listener = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return why_set(why, err, "%s/keeper.sock: can't listen there: %s", keeper->dir.path,
		       strerror(-err));
}

static bool may_ask(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
	       (peer.uid == geteuid() || !peer.uid);
}

void clients_accept(struct keeper *keeper)
{
	int fd = accept4(keeper->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 0; i < KEEPER_CLIENTS_MAX && may_ask(fd); i++) {
		if (keeper->clients[i].fd < 0) {
			keeper->clients[i] = (struct client){.fd = fd};
			return;
		}
	}
	close(fd);
}

void client_close(struct client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	*client = (struct client){.fd = -1};
}

void client_send(struct client *client, struct json_object *message)
{
	size_t len;
	const char *text = json_object_to_json_string_length(message, JSON_C_TO_STRING_PLAIN, &len);

	if (text && client->fd >= 0)
		send(client->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	json_object_put(message);
}

static void refuse(struct client *client, const char *text)
{
	struct json_object *answer = json_object_new_object();

	json_object_object_add(answer, "result", json_object_new_string("failed"));
	json_object_object_add(answer, "error", json_object_new_string(text));
	client_send(client, answer);
	client_close(client);
}

static void answer_status(struct keeper *keeper, struct client *client)
{
	const char *phase = upgrade_phase(keeper->upgrade);
	struct json_object *answer = json_object_new_object();

	json_object_object_add(answer, "result", json_object_new_string("ok"));
	json_object_object_add(answer, "upgrade", phase ? json_object_new_string(phase) : NULL);
	client_send(client, answer);
	client_close(client);
}

static void handle_request(struct keeper *keeper, struct client *client,
			   struct json_object *request)
{
	const char *command = json_get_string(request, "command");
	struct why why = {""};

	if (!command) {
		refuse(client, "not a request");
	} else if (!strcmp(command, "status")) {
		answer_status(keeper, client);
	} else if (!strcmp(command, "stop")) {
		client->stopping = true;
		keeper->stop = true;
	} else if (!strcmp(command, "upgrade")) {
		if (upgrade_request(keeper, client, request, &why))
			refuse(client, why.text);
	} else {
		refuse(client, "the keeper does not know that command: it is of another version");
	}
}

void client_read(struct keeper *keeper, struct client *client)
{
	static char packet[KEEPER_PACKET_MAX];
	ssize_t len = recv(client->fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_TRUNC);
	struct json_object *request;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* One request is all that a client may say. */
	if (len <= 0 || client->asked) {
		upgrade_client_gone(keeper->upgrade, client);
		client_close(client);
		return;
	}
	request = (size_t)len <= sizeof(packet) ? json_read_object(packet, (size_t)len) : NULL;
	client->asked = true;
	if (request)
		handle_request(keeper, client, request);
	else
		refuse(client, "not a request");
	json_object_put(request);
}

void clients_end(struct keeper *keeper)
{
	for (int i = 0; i < KEEPER_CLIENTS_MAX; i++) {
		struct client *client = &keeper->clients[i];

		if (client->fd >= 0 && client->stopping) {
			struct json_object *answer = json_object_new_object();

			json_object_object_add(answer, "result", json_object_new_string("ok"));
			client_send(client, answer);
		}
		client_close(client);
	}
	close(keeper->listener);
}
