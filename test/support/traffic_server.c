// SPDX-License-Identifier: Apache-2.0
// traffic_server NAME [--sctp] PORT...: TCP and UDP servers, or SCTP servers instead, on all addresses of both families that say who they are and whom they see.
// On a connection, any number of times:
//   who                 answers NAME PEER PEER_PORT OWN OWN_PORT
//   move DOWN UP SEED   sends DOWN bytes while it reads UP bytes, then answers: bytes read, and `intact` or `broken`
// To a datagram it answers NAME PEER PEER_PORT OWN OWN_PORT and the datagram.
// Prints `ready` once all ports are open.
#define _GNU_SOURCE
#include "traffic.h"

#include <err.h>
#include <pthread.h>

enum { PATIENCE_MS = 20000 };

static const char *name;

static int open_port(int type, int protocol, int port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = socket(AF_INET6, type | SOCK_CLOEXEC, protocol), one = 1, zero = 0;

	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		err(1, "bind %d", port);
	if (type == SOCK_STREAM && listen(fd, 4096) < 0)
		err(1, "listen %d", port);
	return fd;
}

static int introduce(char *text, const struct name *peer, const struct name *own)
{
	return snprintf(text, LINE, "%s %s %u %s %u", name, peer->address, peer->port, own->address, own->port);
}

static bool move(int fd, uint64_t down, uint64_t up, uint64_t seed)
{
	struct stream sent = {.fd = fd, .length = down, .seed = seed}, received = {.fd = fd, .length = up, .seed = ~seed};
	char line[LINE];
	pthread_t sender;

	if (pthread_create(&sender, NULL, send_stream, &sent) != 0)
		return false;
	receive_stream(&received);
	pthread_join(sender, NULL);
	if (sent.error || received.error)
		return false;
	return write_all(fd, line,
			 snprintf(line, LINE, "%llu %s\n", (unsigned long long)received.done, received.broken ? "broken" : "intact"));
}

static void *serve(void *arg)
{
	int fd = (intptr_t)arg;
	struct name peer = peer_name(fd), own = local_name(fd);
	unsigned long long down, up, seed;
	char line[LINE];

	set_no_delay(fd);
	while (read_line(fd, line)) {
		if (strcmp(line, "who") == 0) {
			int length = introduce(line, &peer, &own);

			line[length++] = '\n';
			if (!write_all(fd, line, length))
				break;
		} else if (sscanf(line, "move %llu %llu %llu", &down, &up, &seed) == 3) {
			set_patience(fd, PATIENCE_MS);
			if (!move(fd, down, up, seed))
				break;
			set_patience(fd, 0);
		} else {
			break;
		}
	}
	close(fd);
	return NULL;
}

static void start(void *(*run)(void *), int fd)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, 512 * 1024);
	if (pthread_create(&thread, &attributes, run, (void *)(intptr_t)fd) != 0)
		close(fd);
	pthread_attr_destroy(&attributes);
}

static void *accept_all(void *arg)
{
	for (;;) {
		int fd = accept4((intptr_t)arg, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			start(serve, fd);
	}
	return NULL;
}

/* Answers from the address that was asked. */
static void *answer_all(void *arg)
{
	int fd = (intptr_t)arg;
	unsigned port = local_name(fd).port;
	char *data = malloc(DATAGRAM);

	for (; data;) {
		char head[LINE], control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
		struct sockaddr_in6 from = {0};
		struct iovec in = {data, DATAGRAM}, out[2] = {{head, 0}, {data, 0}};
		struct msghdr message = {&from, sizeof(from), &in, 1, control, sizeof(control), 0};
		struct sockaddr_in6 to = {.sin6_port = htons(port)};
		struct cmsghdr *c;
		struct name peer, own;
		ssize_t length = recvmsg(fd, &message, 0);

		if (length < 0)
			continue;
		c = CMSG_FIRSTHDR(&message);
		if (!c || c->cmsg_type != IPV6_PKTINFO)
			continue;
		to.sin6_addr = ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
		((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_ifindex = 0;
		peer = name_of(&from);
		own = name_of(&to);
		out[0].iov_len = introduce(head, &peer, &own);
		head[out[0].iov_len++] = ' ';
		out[1].iov_len = length;
		message.msg_iov = out;
		message.msg_iovlen = 2;
		sendmsg(fd, &message, 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	bool sctp = argc > 2 && strcmp(argv[2], "--sctp") == 0;

	if (argc < 3 + sctp)
		errx(2, "usage: traffic_server NAME [--sctp] PORT...");
	name = argv[1];
	for (int i = 2 + sctp; i < argc; i++) {
		start(accept_all, open_port(SOCK_STREAM, sctp ? IPPROTO_SCTP : IPPROTO_TCP, atoi(argv[i])));
		if (!sctp)
			start(answer_all, open_port(SOCK_DGRAM, IPPROTO_UDP, atoi(argv[i])));
	}
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
