// SPDX-License-Identifier: Apache-2.0
// One packet that may not be fragmented, and what comes of it, as JSON.
//   probe icmp|udp ADDRESS PORT HOPS PAYLOAD_BYTES PATIENCE_MS     (icmp: an echo request; the port is ignored)
//   {"from":ADDRESS}                                   the echo reply, or a datagram
//   {"from":ADDRESS,"type":N,"code":N,"mtu":N}         an ICMP error: who sent it, and what the kernel made of it
//   {"error":NAME}                                     ETIMEDOUT: nothing
// An echo reply counts only with the payload that was sent.
#define _GNU_SOURCE
#include "traffic.h"

#include <err.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <linux/errqueue.h>

enum { HEADER = 8 };

struct probe {
	int family;
	bool is_echo;
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} to;
	socklen_t to_length;
};

static struct probe parse(const char *kind, const char *address, int port)
{
	struct probe p = {.family = strchr(address, ':') ? AF_INET6 : AF_INET, .is_echo = strcmp(kind, "icmp") == 0};

	p.to.any.sa_family = p.family;
	if (p.is_echo)
		port = 0;
	if (p.family == AF_INET) {
		p.to.v4.sin_port = htons(port);
		p.to_length = sizeof(p.to.v4);
	} else {
		p.to.v6.sin6_port = htons(port);
		p.to_length = sizeof(p.to.v6);
	}
	if (inet_pton(p.family, address, p.family == AF_INET ? (void *)&p.to.v4.sin_addr : (void *)&p.to.v6.sin6_addr) != 1)
		errx(2, "%s is no address", address);
	return p;
}

static int open_probe(const struct probe *p, int hops)
{
	int one = 1, never = p->family == AF_INET ? IP_PMTUDISC_PROBE : IPV6_PMTUDISC_PROBE;
	int fd = socket(p->family, SOCK_DGRAM, !p->is_echo ? 0 : p->family == AF_INET ? IPPROTO_ICMP : (int)IPPROTO_ICMPV6);

	if (fd < 0)
		err(1, "socket");
	if (p->family == AF_INET) {
		setsockopt(fd, IPPROTO_IP, IP_TTL, &hops, sizeof(hops));
		setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &never, sizeof(never));
	} else {
		setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof(hops));
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &never, sizeof(never));
	}
	if (connect(fd, &p->to.any, p->to_length) < 0)
		err(1, "connect");
	return fd;
}

static void print_address(const struct sockaddr *from)
{
	char text[INET6_ADDRSTRLEN] = "";

	if (from->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)from)->sin_addr, text, sizeof(text));
	else if (from->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)from)->sin6_addr, text, sizeof(text));
	printf("\"from\":\"%s\"", text);
}

static bool read_error(int fd)
{
	char control[512], data[2048];
	struct iovec io = {data, sizeof(data)};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

	if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		struct sock_extended_err *e = (struct sock_extended_err *)CMSG_DATA(c);

		if (!(c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) &&
		    !(c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR))
			continue;
		printf("{");
		print_address(SO_EE_OFFENDER(e));
		printf(",\"type\":%u,\"code\":%u,\"mtu\":%u}\n", e->ee_type, e->ee_code, e->ee_info);
		return true;
	}
	return false;
}

static bool read_answer(int fd, const struct probe *p, const uint8_t *sent, size_t size)
{
	static uint8_t data[DATAGRAM];
	struct sockaddr_storage from;
	socklen_t length = sizeof(from);
	ssize_t n = recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &length);

	if (n < 0)
		return false;
	if (p->is_echo && ((size_t)n != size || memcmp(data + HEADER, sent + HEADER, size - HEADER) != 0))
		return false;
	printf("{");
	print_address((struct sockaddr *)&from);
	printf("}\n");
	return true;
}

int main(int argc, char **argv)
{
	static uint8_t data[DATAGRAM];
	struct pollfd wait;
	struct probe p;
	size_t size;
	int fd;

	if (argc != 7)
		errx(2, "usage: probe icmp|udp ADDRESS PORT HOPS PAYLOAD_BYTES PATIENCE_MS");
	p = parse(argv[1], argv[2], atoi(argv[3]));
	size = atoi(argv[5]);
	if (size + HEADER > sizeof(data))
		errx(2, "%s is too much", argv[5]);
	fd = open_probe(&p, atoi(argv[4]));
	fill(data, sizeof(data), 1, 0);
	if (p.is_echo) {
		memset(data, 0, HEADER);
		data[0] = p.family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
		data[7] = 1; /* sequence */
		size += HEADER;
	}
	if (send(fd, data, size, 0) < 0) {
		int error = errno;

		if (!read_error(fd))
			printf("{\"error\":\"%s\"}\n", strerrorname_np(error));
		return 0;
	}
	wait = (struct pollfd){.fd = fd, .events = POLLIN};
	while (poll(&wait, 1, atoi(argv[6])) > 0) {
		if (wait.revents & POLLERR && read_error(fd))
			return 0;
		if (wait.revents & POLLIN && read_answer(fd, &p, data, size))
			return 0;
	}
	puts("{\"error\":\"ETIMEDOUT\"}");
	return 0;
}
