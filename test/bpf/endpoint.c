/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

struct endpoint at4(const char *address, int port)
{
	struct endpoint e = { .family = LB_IPV4, .port = htons(port) };

	if (inet_pton(AF_INET, address, e.address) != 1)
		die("bad address %s", address);
	return e;
}

struct endpoint at6(const char *address, int port)
{
	struct endpoint e = { .family = LB_IPV6, .port = htons(port) };

	if (inet_pton(AF_INET6, address, e.address) != 1)
		die("bad address %s", address);
	return e;
}

bool same(struct endpoint a, struct endpoint b)
{
	return a.family == b.family && a.port == b.port && !memcmp(a.address, b.address, sizeof a.address);
}

const char *text(struct endpoint e)
{
	static char buffers[4][80];
	static int next;
	char host[64], *out = buffers[next++ % 4];

	inet_ntop(e.family == LB_IPV4 ? AF_INET : AF_INET6, e.address, host, sizeof host);
	snprintf(out, 80, e.family == LB_IPV4 ? "%s:%d" : "[%s]:%d", host, ntohs(e.port));
	return out;
}

socklen_t to_sockaddr(struct endpoint e, bool mapped, struct sockaddr_storage *out)
{
	struct sockaddr_in *four = (void *)out;
	struct sockaddr_in6 *six = (void *)out;

	memset(out, 0, sizeof *out);
	if (e.family == LB_IPV4 && !mapped) {
		four->sin_family = AF_INET;
		four->sin_port = e.port;
		four->sin_addr.s_addr = e.address[0];
		return sizeof *four;
	}
	six->sin6_family = AF_INET6;
	six->sin6_port = e.port;
	if (e.family == LB_IPV4) {
		six->sin6_addr.s6_addr32[2] = htonl(0xffff);
		six->sin6_addr.s6_addr32[3] = e.address[0];
	} else {
		memcpy(&six->sin6_addr, e.address, 16);
	}
	return sizeof *six;
}

struct endpoint from_sockaddr(const struct sockaddr_storage *in, bool *mapped)
{
	const struct sockaddr_in *four = (const void *)in;
	const struct sockaddr_in6 *six = (const void *)in;
	struct endpoint e = {};

	*mapped = false;
	if (in->ss_family == AF_INET) {
		e.family = LB_IPV4;
		e.port = four->sin_port;
		e.address[0] = four->sin_addr.s_addr;
		return e;
	}
	e.port = six->sin6_port;
	e.family = LB_IPV6;
	memcpy(e.address, &six->sin6_addr, 16);
	if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
		*mapped = true;
		e.family = LB_IPV4;
		e.address[0] = six->sin6_addr.s6_addr32[3];
		e.address[1] = e.address[2] = e.address[3] = 0;
	}
	return e;
}
