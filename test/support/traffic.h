// SPDX-License-Identifier: Apache-2.0
// What the two ends of the traffic programs have in common: contents that both can compute, and how addresses are written.
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { LINE = 256, CHUNK = 65536, DATAGRAM = 65000 };

struct name {
	char address[INET6_ADDRSTRLEN];
	unsigned port;
};

static inline struct name name_of(const struct sockaddr_in6 *from)
{
	struct name name = {.port = ntohs(from->sin6_port)};

	if (IN6_IS_ADDR_V4MAPPED(&from->sin6_addr))
		inet_ntop(AF_INET, from->sin6_addr.s6_addr + 12, name.address, sizeof(name.address));
	else
		inet_ntop(AF_INET6, &from->sin6_addr, name.address, sizeof(name.address));
	return name;
}

static inline struct name local_name(int fd)
{
	struct sockaddr_in6 address = {0};
	socklen_t length = sizeof(address);

	getsockname(fd, (struct sockaddr *)&address, &length);
	return name_of(&address);
}

static inline struct name peer_name(int fd)
{
	struct sockaddr_in6 address = {0};
	socklen_t length = sizeof(address);

	getpeername(fd, (struct sockaddr *)&address, &length);
	return name_of(&address);
}

/* Byte `at` of the contents that `seed` stands for: no part of a transfer looks like another one. */
static inline uint64_t word_at(uint64_t seed, uint64_t at)
{
	uint64_t x = (seed + at) * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
	return x ^ x >> 32;
}

static inline void fill(uint8_t *data, size_t length, uint64_t seed, uint64_t offset)
{
	for (size_t i = 0; i < length;) {
		uint64_t at = offset + i, word = word_at(seed, at / 8);
		size_t skip = at % 8, n = 8 - skip < length - i ? 8 - skip : length - i;

		memcpy(data + i, (uint8_t *)&word + skip, n);
		i += n;
	}
}

static inline bool write_all(int fd, const void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = send(fd, (const char *)data + done, length - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		done += n;
	}
	return true;
}

/* Byte by byte: what follows the line is for somebody else. */
static inline bool read_line(int fd, char line[LINE])
{
	for (int n = 0; n < LINE - 1; n++) {
		ssize_t got = recv(fd, line + n, 1, 0);

		if (got == 0)
			errno = ECONNRESET;
		if (got <= 0)
			return false;
		if (line[n] != '\n')
			continue;
		line[n] = 0;
		return true;
	}
	errno = EMSGSIZE;
	return false;
}

/* One direction of a transfer. */
struct stream {
	int fd;
	uint64_t length, seed;
	uint64_t done;
	bool broken;
	int error;
};

static inline void *send_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t data[CHUNK];

	while (s->done < s->length) {
		size_t n = s->length - s->done < CHUNK ? s->length - s->done : CHUNK;

		fill(data, n, s->seed, s->done);
		if (!write_all(s->fd, data, n)) {
			s->error = errno;
			break;
		}
		s->done += n;
	}
	return NULL;
}

static inline void *receive_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t data[CHUNK], wanted[CHUNK];

	while (s->done < s->length) {
		ssize_t n = recv(s->fd, data, s->length - s->done < CHUNK ? s->length - s->done : CHUNK, 0);

		if (n <= 0) {
			s->error = n ? errno : ECONNRESET;
			break;
		}
		fill(wanted, n, s->seed, s->done);
		if (memcmp(data, wanted, n) != 0)
			s->broken = true;
		s->done += n;
	}
	return NULL;
}

#define SCTP_NODELAY 3 /* <linux/sctp.h>, which not every system has */

/* Each of the two fails where it does not belong. */
static inline void set_no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_SCTP, SCTP_NODELAY, &one, sizeof(one));
}

static inline void set_patience(int fd, unsigned ms)
{
	struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

#endif
