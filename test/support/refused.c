// SPDX-License-Identifier: Apache-2.0
// Threads that open TCP connections to 172.20.0.1 port 80 without pause, in a namespace where all of 10.0.0.0/8 is local and something listens on port
// 1000 of it: whichever backend a connection is sent to, it is accepted. Ends when standard input does.
//   refused THREADS      prints {connects, errors, error}
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static atomic_int stop, first_errno;
static atomic_long connects, errors;

static int tcp(void) { return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }

static struct sockaddr_in address(uint32_t ip, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(ip) };

	return a;
}

static void *accept_all(void *listener)
{
	for (;;) {
		int fd = accept4((int)(intptr_t)listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return NULL;
		close(fd);
	}
}

static void *connect_all(void *unused)
{
	const struct linger reset = { .l_onoff = 1 };
	struct sockaddr_in to = address(0xac140001, 80);

	(void)unused;
	while (!atomic_load(&stop)) {
		int fd = tcp(), none = 0;

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		atomic_fetch_add(&connects, 1);
		if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
			atomic_compare_exchange_strong(&first_errno, &none, errno);
			atomic_fetch_add(&errors, 1);
		}
		close(fd);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in any = address(INADDR_ANY, 1000);
	int count = argc > 1 ? atoi(argv[1]) : 2, listener;
	pthread_t threads[64], server;
	char byte;

	if (unshare(CLONE_NEWNET) || system("ip link set lo up && ip route add local 10.0.0.0/8 dev lo"))
		return 1;
	listener = tcp();
	if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 4096))
		return 1;
	pthread_create(&server, NULL, accept_all, (void *)(intptr_t)listener);
	for (int i = 0; i < count && i < 64; i++)
		pthread_create(&threads[i], NULL, connect_all, NULL);
	while (read(0, &byte, 1) > 0)
		;
	atomic_store(&stop, 1);
	for (int i = 0; i < count && i < 64; i++)
		pthread_join(threads[i], NULL);
	printf("{\"connects\":%ld,\"errors\":%ld,\"error\":\"%s\"}\n", connects, errors, first_errno ? strerror(first_errno) : "");
	return 0;
}
