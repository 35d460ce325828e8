/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP requests a second, a new connection for each. The server is a process of its own on the next CPU. Commands:
 *
 *   cpu N, cgroup DIRECTORY              pin, join (the client alone)
 *   target NAME SOCKET ADDRESS PORT SPAN see common.h; SOCKET is not used
 *   serve PORT                           starts the server
 *   run NAME MILLISECONDS                answers {"requests": N, "ns": N}
 *
 * The client opens WAVE connections and sends a request on each, then reads the answers and resets them. Over loopback connect() returns
 * with the handshake done, so both processes always have something to do and neither waits for the other's wake-up.
 */
#define _GNU_SOURCE
#include "common.h"

#define WAVE	      32
#define REQUEST_BYTES 64
#define ANSWER_BYTES  128

/* Ends when the client did: it is its child. */
static void serve(int port, int cpu)
{
	static char buffer[4096];
	int listener = listen_on(port, true);
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (child > 0) {
		close(listener);
		return;
	}
	end_with_parent();
	pin_to_cpu(cpu);
	for (;;) {
		int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (peer < 0)
			continue;
		if (read(peer, buffer, sizeof(buffer)) > 0 && send(peer, buffer, ANSWER_BYTES, MSG_NOSIGNAL) < 0)
			errno = 0; /* the client gave up */
		close(peer);
	}
}

static int open_one(const struct target *target)
{
	static const char request[REQUEST_BYTES];
	struct sockaddr_storage address;
	int fd = socket(target->base.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	next_address(target, &address);
	if (connect(fd, (struct sockaddr *)&address, address_size((struct sockaddr *)&address)))
		die("connect to %s", target->name);
	if (send(fd, request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
		die("send to %s", target->name);
	return fd;
}

static void run(const char *name, long milliseconds)
{
	const struct target *target = find_target(name);
	uint64_t start = now_ns(), end = start + milliseconds * 1000000ull, now;
	unsigned long long requests = 0;
	char answer[ANSWER_BYTES];
	int fds[WAVE];

	do {
		for (int i = 0; i < WAVE; i++)
			fds[i] = open_one(target);
		for (int i = 0; i < WAVE; i++) {
			if (recv(fds[i], answer, sizeof(answer), MSG_WAITALL) != ANSWER_BYTES)
				die("no answer from %s", target->name);
			reset(fds[i]);
		}
		requests += WAVE;
		now = now_ns();
	} while (now < end);
	printf("{\"requests\":%llu,\"ns\":%llu}\n", requests, (unsigned long long)(now - start));
}

int main(void)
{
	static char line[8192];
	char name[32];
	int port;
	long milliseconds;

	end_with_parent();
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (common_command(line))
			continue;
		if (sscanf(line, "serve %d", &port) == 1) {
			serve(port, sched_getcpu() + 1);
		} else if (sscanf(line, "run %31s %ld", name, &milliseconds) == 2) {
			run(name, milliseconds);
		} else {
			errno = EINVAL;
			die("%s", line);
		}
		fflush(stdout);
	}
	return 0;
}
