// SPDX-License-Identifier: Apache-2.0
// Threads that connect() UDP sockets to services without pause and decode what they got. Every backend address says which commit, service and
// backend it is: 10.0.0.0/8 or fd01::/96 with 12 bits of commit, 10 of service, 2 of backend, all routed to lo ("local"), so that the source
// address that connect() chooses is the backend's. Ends when standard input does.
//   torn FAMILY SERVICES THREADS      prints {connects, pairs, failed, foreign, backwards, first error}
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int family, services;
static atomic_int stop;
static atomic_long connects, pairs, failed, foreign, backwards, newest;
static atomic_int first_errno;

static socklen_t service_address(struct sockaddr_storage *to, int service)
{
	memset(to, 0, sizeof *to);
	if (family == 4) {
		struct sockaddr_in *a = (struct sockaddr_in *)to;
		a->sin_family = AF_INET;
		a->sin_port = htons(80);
		a->sin_addr.s_addr = htonl(0x0a600000 + 1 + service); /* 10.96.0.1 ... */
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

/* Commit number of the backend that a new socket got, or -1. */
static int connect_once(int service)
{
	struct sockaddr_storage to, from;
	socklen_t length = service_address(&to, service), got = sizeof from;
	int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), number = -1;

	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, length) == 0 && getsockname(fd, (struct sockaddr *)&from, &got) == 0) {
		uint32_t bits;
		if (family == 4)
			bits = ntohl(((struct sockaddr_in *)&from)->sin_addr.s_addr);
		else
			memcpy(&bits, &((struct sockaddr_in6 *)&from)->sin6_addr.s6_addr[12], 4), bits = ntohl(bits);
		atomic_fetch_add(&connects, 1);
		if ((int)(bits >> 2 & 1023) != service)
			atomic_fetch_add(&foreign, 1);
		number = bits >> 12 & 4095;
	} else {
		int none = 0;
		atomic_compare_exchange_strong(&first_errno, &none, errno);
		atomic_fetch_add(&failed, 1);
	}
	if (fd >= 0)
		close(fd);
	return number;
}

static void *work(void *seed)
{
	unsigned int state = (unsigned int)(uintptr_t)seed;
	int before = -1;

	while (!atomic_load(&stop)) {
		int number = connect_once(rand_r(&state) % services);
		if (number < 0)
			continue;
		/* No connect sees an older commit than the one before it did, of whichever service. */
		if (before >= 0) {
			atomic_fetch_add(&pairs, 1);
			if (((number - before) & 4095) >= 2048)
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
	printf("{\"connects\":%ld,\"pairs\":%ld,\"failed\":%ld,\"foreign\":%ld,\"backwards\":%ld,\"newest\":%ld,\"error\":\"%s\"}\n", connects, pairs, failed,
	       foreign, backwards, newest, first_errno ? strerror(first_errno) : "");
	return 0;
}
