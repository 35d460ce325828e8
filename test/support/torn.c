// SPDX-License-Identifier: Apache-2.0
// Threads that connect() UDP sockets to services without pause, send one datagram each, and decode where it arrived. Every backend address says which
// commit, service and backend it is: 10.0.0.0/8 or fd01::/96 with 12 bits of commit, 10 of service, 2 of backend, port 1000; of a single service 22 bits
// of commit, as thousands of commits fit into the time for which a thread may not run. Each thread has a network
// namespace of its own in which all of them are local and nothing else is. Ends when standard input does.
//   torn FAMILY SERVICES THREADS      prints {connects, pairs, failed, foreign, backwards, swept, newest, error}
// swept: the socket was destroyed between connect and send, because its backend was gone meanwhile.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int family, services;
static atomic_int stop;
static atomic_long connects, pairs, failed, foreign, backwards, swept, newest;
static atomic_int first_errno;

static socklen_t service_address(struct sockaddr_storage *to, int service)
{
	memset(to, 0, sizeof *to);
	if (family == 4) {
		struct sockaddr_in *a = (struct sockaddr_in *)to;
		a->sin_family = AF_INET;
		a->sin_port = htons(80);
		a->sin_addr.s_addr = htonl(0xac140000 + 1 + service); /* 172.20.0.1 ... */
		return sizeof *a;
	}
	struct sockaddr_in6 *a = (struct sockaddr_in6 *)to;
	a->sin6_family = AF_INET6;
	a->sin6_port = htons(80);
	inet_pton(AF_INET6, "fd00:96::", &a->sin6_addr);
	a->sin6_addr.s6_addr[14] = (service + 1) >> 8;
	a->sin6_addr.s6_addr[15] = service + 1;
	return sizeof *a;
}

static int failure(void)
{
	int none = 0;

	atomic_compare_exchange_strong(&first_errno, &none, errno);
	atomic_fetch_add(&failed, 1);
	return -1;
}

/* Receives on port 1000 of every local address. */
static int open_receiver(void)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(1000) };
	int on = 1, fd;

	if (unshare(CLONE_NEWNET) || system("ip link set lo up && ip route add local 10.0.0.0/8 dev lo && ip -6 route add local fd01::/96 dev lo"))
		return -1;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) || bind(fd, (struct sockaddr *)&any, sizeof any))
		return -1;
	return fd;
}

/* Last 32 bits of the address that the datagram was sent to; IPv4 arrives mapped. Over lo it is mostly there when send() returns. */
static int received(int receiver, uint32_t *bits)
{
	char byte, control[256];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };

	struct pollfd ready = { .fd = receiver, .events = POLLIN };

	if (recvmsg(receiver, &message, 0) < 0 && (poll(&ready, 1, 500) <= 0 || recvmsg(receiver, &message, 0) < 0))
		return 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_level != IPPROTO_IPV6 || c->cmsg_type != IPV6_PKTINFO)
			continue;
		memcpy(bits, &((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr.s6_addr[12], 4);
		*bits = ntohl(*bits);
		return 1;
	}
	return 0;
}

/* Commit number of the backend that a new socket got, or -1. */
static int connect_once(int receiver, int service)
{
	struct sockaddr_storage to;
	socklen_t length = service_address(&to, service);
	int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), number = -1;
	uint32_t bits;

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, length)) {
		failure();
	} else if (send(fd, "x", 1, 0) < 0) {
		if (errno == EDESTADDRREQ || errno == ECONNABORTED)
			atomic_fetch_add(&swept, 1);
		else
			failure();
	} else if (!received(receiver, &bits)) {
		/* send() does not lock: destroyed meanwhile, it may send to nowhere. */
		if (getpeername(fd, (struct sockaddr *)&to, &length) && errno == ENOTCONN)
			atomic_fetch_add(&swept, 1);
		else
			failure();
	} else {
		atomic_fetch_add(&connects, 1);
		if (services > 1 && (int)(bits >> 2 & 1023) != service)
			atomic_fetch_add(&foreign, 1);
		number = services > 1 ? bits >> 12 & 4095 : bits >> 2 & 0x3fffff;
	}
	if (fd >= 0)
		close(fd);
	return number;
}

static void *work(void *seed)
{
	unsigned int state = (unsigned int)(uintptr_t)seed;
	int before = -1, receiver = open_receiver();

	if (receiver < 0) {
		failure();
		return NULL;
	}

	while (!atomic_load(&stop)) {
		int number = connect_once(receiver, rand_r(&state) % services);
		if (number < 0)
			continue;
		/* No connect sees an older commit than the one before it did, of whichever service. */
		if (before >= 0) {
			atomic_fetch_add(&pairs, 1);
			int space = services > 1 ? 4096 : 1 << 22;

			if (((number - before) & (space - 1)) >= space / 2)
				atomic_fetch_add(&backwards, 1);
		}
		before = number;
		atomic_store(&newest, number);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	char byte;
	int count = argc > 3 ? atoi(argv[3]) : 2;

	family = argc > 1 ? atoi(argv[1]) : 4;
	services = argc > 2 ? atoi(argv[2]) : 1;
	for (int i = 0; i < count && i < 64; i++)
		pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1));
	while (read(0, &byte, 1) > 0)
		;
	atomic_store(&stop, 1);
	for (int i = 0; i < count && i < 64; i++)
		pthread_join(threads[i], NULL);
	printf("{\"connects\":%ld,\"pairs\":%ld,\"failed\":%ld,\"foreign\":%ld,\"backwards\":%ld,\"swept\":%ld,\"newest\":%ld,\"error\":\"%s\"}\n", connects, pairs, failed,
	       foreign, backwards, swept, newest, first_errno ? strerror(first_errno) : "");
	return 0;
}
