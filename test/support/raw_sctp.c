// SPDX-License-Identifier: Apache-2.0
// SCTP of which only the first packets exist, by raw sockets, for kernels that have no SCTP. Checksums are computed here, bit by bit.
//   raw_sctp serve NAME                              answers each INIT, at any port, with an INIT ACK whose cookie is NAME PEER PEER_PORT OWN OWN_PORT,
//                                                    each DATA with DATA, each SHUTDOWN with a SHUTDOWN ACK. Prints `ready`.
//   raw_sctp ask OWN OWN_PORT ADDRESS PORT MS KIND...   sends an INIT, then these ('data', 'shutdown', 'complete', 'abort'), each after the answer to
//                                                    the one before; prints {server, client, backend, answers} or {error}
#define _GNU_SOURCE
#include "traffic.h"

#include <err.h>
#include <pthread.h>

enum { INIT = 1, INIT_ACK = 2, DATA = 0, ABORT = 6, SHUTDOWN = 7, SHUTDOWN_ACK = 8, COMPLETE = 14 };
enum { COMMON = 12, INIT_FIXED = 20, COOKIE = 7, PACKET = 1500 };

static uint32_t crc32c(const uint8_t *p, size_t length)
{
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < length; i++) {
		crc ^= i >= 8 && i < 12 ? 0 : p[i]; /* itself counts as 0 */
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void put16(uint8_t *p, unsigned v) { p[0] = v >> 8, p[1] = v; }
static unsigned get16(const uint8_t *p) { return p[0] << 8 | p[1]; }

struct end {
	int fd, family;
	char name[64];
};

/* One chunk in a packet; `length` of its value, which is there already behind the chunk's head. */
static bool send_chunk(const struct end *e, const struct sockaddr_in6 *to, const struct in6_addr *from, unsigned own, unsigned port, uint8_t *packet,
		       int kind, size_t length)
{
	size_t size = COMMON + 4 + (length + 3) / 4 * 4;
	struct sockaddr_in6 to6 = *to;
	struct sockaddr_in to4 = {.sin_family = AF_INET};
	char control[CMSG_SPACE(sizeof(struct in6_pktinfo))] = {0};
	struct iovec io = {packet, size};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control};
	struct cmsghdr *c = (struct cmsghdr *)control;
	uint32_t crc;

	put16(packet, own);
	put16(packet + 2, port);
	memset(packet + 4, 0x5a, 4);
	packet[12] = kind;
	packet[13] = kind == DATA ? 3 : 0;
	put16(packet + 14, length + 4);
	memset(packet + COMMON + 4 + length, 0, size - COMMON - 4 - length);
	crc = crc32c(packet, size);
	for (int i = 0; i < 4; i++)
		packet[8 + i] = crc >> 8 * i;
	if (e->family == AF_INET) {
		struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(c);

		memcpy(&to4.sin_addr, to->sin6_addr.s6_addr + 12, 4);
		memcpy(&info->ipi_spec_dst, from->s6_addr + 12, 4);
		*c = (struct cmsghdr){CMSG_LEN(sizeof(*info)), IPPROTO_IP, IP_PKTINFO};
		message.msg_controllen = CMSG_SPACE(sizeof(*info));
		message.msg_name = &to4, message.msg_namelen = sizeof(to4);
	} else {
		struct in6_pktinfo *info = (struct in6_pktinfo *)CMSG_DATA(c);

		to6.sin6_port = 0;
		info->ipi6_addr = *from;
		*c = (struct cmsghdr){CMSG_LEN(sizeof(*info)), IPPROTO_IPV6, IPV6_PKTINFO};
		message.msg_controllen = CMSG_SPACE(sizeof(*info));
		message.msg_name = &to6, message.msg_namelen = sizeof(to6);
	}
	return sendmsg(e->fd, &message, 0) == (ssize_t)size;
}

struct arrived {
	uint8_t bytes[PACKET], *packet;
	size_t length;
	struct sockaddr_in6 from;
	struct in6_addr to;
};

/* The next packet with a good checksum; false: none in time. */
static bool receive(const struct end *e, struct arrived *a)
{
	for (;;) {
		char control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
		struct sockaddr_storage name = {0};
		struct iovec io = {a->bytes, PACKET};
		struct msghdr message = {&name, sizeof(name), &io, 1, control, sizeof(control), 0};
		ssize_t n = recvmsg(e->fd, &message, 0);
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		uint32_t crc;

		if (n < 0)
			return false;
		a->packet = a->bytes;
		a->length = n;
		a->from = (struct sockaddr_in6){.sin6_family = AF_INET6};
		if (e->family == AF_INET) {
			size_t header = (a->bytes[0] & 15) * 4;

			if (!c || a->length < header)
				continue;
			a->packet += header;
			a->length -= header;
			a->from.sin6_addr.s6_addr[10] = a->from.sin6_addr.s6_addr[11] = 0xff;
			memcpy(a->from.sin6_addr.s6_addr + 12, &((struct sockaddr_in *)&name)->sin_addr, 4);
			a->to = a->from.sin6_addr;
			memcpy(a->to.s6_addr + 12, &((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr, 4);
		} else {
			a->from.sin6_addr = ((struct sockaddr_in6 *)&name)->sin6_addr;
			if (!c)
				continue;
			a->to = ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
		}
		if (a->length < COMMON + 4)
			continue;
		a->from.sin6_port = htons(get16(a->packet));
		crc = crc32c(a->packet, a->length);
		if ((uint32_t)(a->packet[8] | a->packet[9] << 8 | a->packet[10] << 16 | (uint32_t)a->packet[11] << 24) == crc)
			return true;
		fprintf(stderr, "a packet with a wrong checksum from port %u to %u\n", get16(a->packet), get16(a->packet + 2));
	}
}

static struct end open_end(int family, const char *name)
{
	struct end e = {.family = family};
	int one = 1;

	snprintf(e.name, sizeof(e.name), "%s", name);
	e.fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_SCTP);
	if (e.fd < 0 || (family == AF_INET ? setsockopt(e.fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) :
					     setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one))))
		err(1, "raw socket");
	return e;
}

static void *serve(void *arg)
{
	const struct end *e = arg;
	static __thread struct arrived a;
	uint8_t out[PACKET];

	for (;;) {
		unsigned own, port;
		int kind;
		size_t length = 0;

		if (!receive(e, &a))
			continue;
		own = get16(a.packet + 2);
		port = get16(a.packet);
		kind = a.packet[12];
		if (kind == INIT) {
			struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = a.to, .sin6_port = htons(own)};
			struct name peer = name_of(&a.from), me = name_of(&here);
			uint8_t *cookie = out + COMMON + INIT_FIXED;
			int n = snprintf((char *)cookie + 4, LINE, "%s %s %u %s %u", e->name, peer.address, peer.port, me.address, me.port);

			memcpy(out + COMMON + 4, a.packet + COMMON + 4, INIT_FIXED - 4);
			put16(cookie, COOKIE);
			put16(cookie + 2, n + 4);
			length = INIT_FIXED - 4 + 4 + n;
		} else if (kind == DATA) {
			length = a.length - COMMON - 4;
			memcpy(out + COMMON + 4, a.packet + COMMON + 4, length);
		} else if (kind != SHUTDOWN) {
			continue;
		}
		send_chunk(e, &a.from, &a.to, own, port, out, kind == INIT ? INIT_ACK : kind == DATA ? DATA : SHUTDOWN_ACK, length);
	}
	return NULL;
}

static struct in6_addr parse(const char *text)
{
	char mapped[INET6_ADDRSTRLEN + 8];
	struct in6_addr a;

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(text, ':') ? "" : "::ffff:", text);
	if (inet_pton(AF_INET6, mapped, &a) != 1)
		errx(2, "not an address: %s", text);
	return a;
}

static int kind_of(const char *word)
{
	return !strcmp(word, "data") ? DATA : !strcmp(word, "shutdown") ? SHUTDOWN : !strcmp(word, "complete") ? COMPLETE : ABORT;
}

static int ask(char **words, int count)
{
	struct end e = open_end(strchr(words[0], ':') ? AF_INET6 : AF_INET, "client");
	struct in6_addr own = parse(words[0]);
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = parse(words[2])};
	unsigned own_port = atoi(words[1]), port = atoi(words[3]), answers = 0;
	char server[64] = "", client[64], backend[64];
	unsigned client_port = 0, backend_port = 0;
	static struct arrived a;
	uint8_t out[PACKET];

	set_patience(e.fd, atoi(words[4]));
	for (int i = 4; i < count; i++) { /* the first is the INIT */
		int kind = i == 4 ? INIT : kind_of(words[i]);
		size_t length = kind == INIT ? INIT_FIXED - 4 : kind == DATA ? 12 + 1000 : kind == SHUTDOWN ? 4 : 0;

		fill(out + COMMON + 4, length, i, 0);
		if (!send_chunk(&e, &to, &own, own_port, port, out, kind, length))
			return printf("{\"error\":\"%s\"}\n", strerrorname_np(errno)), 0;
		if (kind == ABORT || kind == COMPLETE)
			continue;
		/* The answer of whom was asked, from nobody else. */
		do {
			if (!receive(&e, &a))
				return printf("{\"error\":\"ETIMEDOUT\",\"answers\":%u}\n", answers), 0;
		} while (memcmp(&a.from.sin6_addr, &to.sin6_addr, 16) || get16(a.packet) != port || get16(a.packet + 2) != own_port);
		if (a.packet[12] != (kind == INIT ? INIT_ACK : kind == DATA ? DATA : SHUTDOWN_ACK) ||
		    (kind == DATA && memcmp(out + COMMON + 4, a.packet + COMMON + 4, length)))
			return printf("{\"error\":\"EPROTO\",\"answers\":%u}\n", answers), 0;
		if (kind == INIT && sscanf((char *)a.packet + COMMON + INIT_FIXED + 4, "%63s %63s %u %63s %u", server, client, &client_port, backend,
					   &backend_port) != 5)
			return printf("{\"error\":\"EPROTO\"}\n"), 0;
		answers++;
	}
	printf("{\"server\":\"%s\",\"client\":{\"address\":\"%s\",\"port\":%u},\"backend\":{\"address\":\"%s\",\"port\":%u},\"answers\":%u}\n", server,
	       client, client_port, backend, backend_port, answers);
	return 0;
}

int main(int argc, char **argv)
{
	struct end ends[2];
	pthread_t thread;

	if (argc >= 7 && strcmp(argv[1], "ask") == 0)
		return ask(argv + 2, argc - 2);
	if (argc != 3 || strcmp(argv[1], "serve") != 0)
		errx(2, "usage: raw_sctp serve NAME | ask OWN OWN_PORT ADDRESS PORT MS KIND...");
	for (int i = 0; i < 2; i++) {
		ends[i] = open_end(i ? AF_INET6 : AF_INET, argv[2]);
		if (pthread_create(&thread, NULL, serve, &ends[i]))
			errx(1, "no thread");
	}
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
