// SPDX-License-Identifier: Apache-2.0
// SYNs from ever other addresses and ports of a range of sources (198.18.0.0/15, 2001:db8:200::/64), at a steady rate.
//   flood ADDRESS PORT PER_SECOND COUNT      prints {"sent":N,"ms":N}
#define _GNU_SOURCE
#include "traffic.h"

#include <err.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <time.h>

enum { BATCH = 16 };

struct syn4 {
	struct ip ip;
	struct tcphdr tcp;
};
struct syn6 {
	struct ip6_hdr ip;
	struct tcphdr tcp;
};
union syn {
	struct syn4 v4;
	struct syn6 v6;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint32_t sum(uint32_t start, const void *data, size_t length)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < length; i += 2)
		start += bytes[i] << 8 | bytes[i + 1];
	return start;
}

static uint16_t folded(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

static void fill_tcp(struct tcphdr *tcp, uint64_t random, int port)
{
	tcp->source = htons(1024 + random % 60000);
	tcp->dest = htons(port);
	tcp->seq = random >> 32;
	tcp->doff = 5;
	tcp->syn = 1;
	tcp->window = htons(65535);
}

static size_t fill_syn(union syn *s, const struct sockaddr_in6 *to, int port, uint64_t random)
{
	bool is_v4 = IN6_IS_ADDR_V4MAPPED(&to->sin6_addr);
	struct tcphdr *tcp = is_v4 ? &s->v4.tcp : &s->v6.tcp;
	uint32_t check = IPPROTO_TCP + sizeof(*tcp);

	memset(s, 0, sizeof(*s));
	fill_tcp(tcp, random, port);
	if (is_v4) {
		s->v4.ip = (struct ip){.ip_v = 4, .ip_hl = 5, .ip_ttl = 64, .ip_p = IPPROTO_TCP, .ip_len = htons(sizeof(s->v4))};
		s->v4.ip.ip_src.s_addr = htonl(0xc6120000 | (random >> 20 & 0x1ffff));
		memcpy(&s->v4.ip.ip_dst, to->sin6_addr.s6_addr + 12, 4);
		tcp->check = folded(sum(sum(check, &s->v4.ip.ip_src, 8), tcp, sizeof(*tcp)));
		return sizeof(s->v4);
	}
	s->v6.ip.ip6_vfc = 6 << 4;
	s->v6.ip.ip6_plen = htons(sizeof(*tcp));
	s->v6.ip.ip6_nxt = IPPROTO_TCP;
	s->v6.ip.ip6_hlim = 64;
	inet_pton(AF_INET6, "2001:db8:200::", &s->v6.ip.ip6_src);
	memcpy(s->v6.ip.ip6_src.s6_addr + 8, &random, 8);
	s->v6.ip.ip6_dst = to->sin6_addr;
	tcp->check = folded(sum(sum(check, &s->v6.ip.ip6_src, 32), tcp, sizeof(*tcp)));
	return sizeof(s->v6);
}

int main(int argc, char **argv)
{
	struct sockaddr_in to4 = {.sin_family = AF_INET};
	struct sockaddr_in6 to6 = {.sin6_family = AF_INET6};
	struct mmsghdr messages[BATCH];
	struct iovec io[BATCH];
	union syn packets[BATCH];
	unsigned long count, rate, sent = 0;
	uint64_t begin = now_ns();
	bool is_v4;
	int fd;

	if (argc != 5)
		errx(2, "usage: flood ADDRESS PORT PER_SECOND COUNT");
	is_v4 = inet_pton(AF_INET, argv[1], &to4.sin_addr) == 1;
	if (is_v4) {
		to6.sin6_addr.s6_addr[10] = to6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(to6.sin6_addr.s6_addr + 12, &to4.sin_addr, 4);
	} else if (inet_pton(AF_INET6, argv[1], &to6.sin6_addr) != 1) {
		errx(2, "%s is no address", argv[1]);
	}
	rate = atol(argv[3]);
	count = atol(argv[4]);
	fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_RAW, IPPROTO_RAW);
	if (fd < 0)
		err(1, "socket");
	while (sent < count) {
		uint64_t due = begin + sent * 1000000000ull / rate;
		struct timespec until = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		for (int i = 0; i < BATCH; i++) {
			io[i] = (struct iovec){&packets[i], fill_syn(&packets[i], &to6, atoi(argv[2]), word_at(begin, sent + i))};
			messages[i] = (struct mmsghdr){
				.msg_hdr = {is_v4 ? (void *)&to4 : (void *)&to6, is_v4 ? sizeof(to4) : sizeof(to6), &io[i], 1}};
		}
		if (sendmmsg(fd, messages, BATCH, 0) < 0 && errno != ENOBUFS)
			err(1, "send");
		sent += BATCH;
	}
	printf("{\"sent\":%lu,\"ms\":%llu}\n", sent, (unsigned long long)(now_ns() - begin) / 1000000);
	return 0;
}
