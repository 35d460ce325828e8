/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends datagrams as fast as the kernel takes them: sender ADDRESS PORT FLOWS. Commands:
 *
 *   ready          answers {}
 *   send MS        for so long; answers {"sent":}
 */
#define _GNU_SOURCE
#include "common.h"

#define MAX_FLOWS 1024
#define BATCH 16

static int sockets[MAX_FLOWS];
static int flows;

static void open_flows(const char *address, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
		errno = EINVAL;
		die("%s", address);
	}
	for (int i = 0; i < flows; i++) {
		sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (sockets[i] < 0 || connect(sockets[i], (struct sockaddr *)&to, sizeof(to)))
			die("connect");
	}
}

/* What comes back, of a backend that is not there yet for instance, is no error of sending. */
static long send_for(uint64_t ms)
{
	static char data[18];
	struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
	struct mmsghdr batch[BATCH] = { 0 };
	uint64_t end = now_ns() + ms * 1000000;
	long sent = 0;

	for (int i = 0; i < BATCH; i++) {
		batch[i].msg_hdr.msg_iov = &part;
		batch[i].msg_hdr.msg_iovlen = 1;
	}
	for (int flow = 0; now_ns() < end; flow = (flow + 1) % flows) {
		int done = sendmmsg(sockets[flow], batch, BATCH, 0);

		if (done > 0)
			sent += done;
		else if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EHOSTUNREACH && errno != EAGAIN)
			die("sendmmsg");
	}
	return sent;
}

int main(int count, char **arguments)
{
	static char line[256];
	unsigned int ms;

	end_with_parent();
	if (count != 4)
		return 2;
	flows = atoi(arguments[3]);
	if (flows < 1 || flows > MAX_FLOWS)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (common_command(line))
			continue;
		if (!strcmp(line, "ready")) {
			puts("{}");
			fflush(stdout);
			continue;
		}
		if (sscanf(line, "send %u", &ms) != 1) {
			errno = EINVAL;
			die("%s", line);
		}
		if (!sockets[0])
			open_flows(arguments[1], atoi(arguments[2]));
		printf("{\"sent\":%ld}\n", send_for(ms));
		fflush(stdout);
	}
	return 0;
}
