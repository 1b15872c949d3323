/* SPDX-License-Identifier: MIT */
/*
 * An address of a socket as one word, "tcp/127.0.0.1/5900": how the keeper tells a new QEMU at
 * which ones the old QEMU listens. Both sides write it here, and compare words: nothing is ever
 * parsed.
 */
#ifndef PAGEFERRY_PORT_H
#define PAGEFERRY_PORT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

#define PORT_WORD_MAX (sizeof("tcp//65535") + INET6_ADDRSTRLEN)

/* @type: SOCK_STREAM or SOCK_DGRAM. False: no IP address, or no port that could be had twice. */
static inline bool port_word(int type, const struct sockaddr *addr, socklen_t len,
			     char word[PORT_WORD_MAX])
{
	const struct sockaddr_in *in4 = (const void *)addr;
	const struct sockaddr_in6 *in6 = (const void *)addr;
	char host[INET6_ADDRSTRLEN];
	in_port_t port;

	if (len >= sizeof(*in4) && in4->sin_family == AF_INET) {
		port = in4->sin_port;
		inet_ntop(AF_INET, &in4->sin_addr, host, sizeof(host));
	} else if (len >= sizeof(*in6) && in6->sin6_family == AF_INET6) {
		port = in6->sin6_port;
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	} else {
		return false;
	}
	snprintf(word, PORT_WORD_MAX, "%s/%s/%u", type == SOCK_STREAM ? "tcp" : "udp", host,
		 ntohs(port));
	return port != 0;
}

#endif
