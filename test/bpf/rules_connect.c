/* SPDX-License-Identifier: Apache-2.0 */
/* connect(), getpeername() and what a socket remembers. */
#define _GNU_SOURCE
#include "rules.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static void tcp(struct world *w, int family, struct endpoint vip, const int *listeners)
{
	int before = ways_in_use(w), fd = open_connected(family, SOCK_STREAM, vip);

	CHECK(accept_any(listeners) >= 0, "no backend got the connection");
	CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	close(fd);
	CHECK(ways_in_use(w) == before, "%d ways, %d before", ways_in_use(w), before);
}

static void tcp_direct(struct endpoint vip, const struct endpoint *backends, const int *listeners, int family)
{
	struct endpoint nobody = vip;
	int fd;

	fd = open_connected(family, SOCK_STREAM, backends[1]);
	CHECK(accept_any(listeners) == 1, "went elsewhere");
	CHECK(same(peer_of(fd), backends[1]), "peer is %s", text(peer_of(fd)));
	close(fd);

	/* A connect to a service that fails, and then one to a backend's own address, with the same socket; and back. */
	nobody.port = htons(81);
	fd = open_socket(family, SOCK_STREAM);
	CHECK(connect_to(fd, nobody) == ECONNREFUSED, "%s", strerror(errno));
	CHECK(connect_to(fd, backends[2]) == 0, "%s", strerror(errno));
	CHECK(accept_any(listeners) == 2, "went elsewhere");
	CHECK(same(peer_of(fd), backends[2]), "peer is %s", text(peer_of(fd)));
	connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
	CHECK(connect_to(fd, vip) == 0, "%s", strerror(errno));
	CHECK(accept_any(listeners) >= 0, "no backend");
	CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	close(fd);
}

static void tcp_many(struct world *w, int family, struct endpoint vip, const int *listeners)
{
	int fds[100], before = ways_in_use(w);

	for (int i = 0; i < 100; i++) {
		fds[i] = open_connected(family, SOCK_STREAM, i % 4 == 3 ? w->backend4[0] : vip);
		CHECK(accept_any(i % 4 == 3 ? w->tcp4 : listeners) >= 0, "connection %d was lost", i);
	}
	for (int i = 0; i < 100; i++)
		CHECK(same(peer_of(fds[i]), i % 4 == 3 ? w->backend4[0] : vip), "socket %d: peer is %s", i, text(peer_of(fds[i])));
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	CHECK(ways_in_use(w) == before, "%d ways, %d before", ways_in_use(w), before);
}

static void tcp_nonblocking(struct world *w)
{
	int fd = open_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
	int error = connect_to(fd, w->vip4);

	CHECK(error == 0 || error == EINPROGRESS, "%s", strerror(error));
	CHECK(accept_any(w->tcp4) >= 0, "no backend");
	CHECK(connect_to(fd, w->vip4) == 0 || errno == EISCONN, "%s", strerror(errno));
	CHECK(same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
	CHECK(connect_to(fd, w->backend4[0]) == EISCONN, "%s", strerror(errno));
	CHECK(same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
	close(fd);
}

static void *tcp_racer(void *argument)
{
	struct { struct world *w; int wrong; } *race = argument;

	for (int i = 0; i < 300; i++) {
		const bool direct = i % 5 == 4;
		struct endpoint to = direct ? race->w->backend4[i % BACKENDS] : race->w->vip4;
		int fd = open_socket(AF_INET, SOCK_STREAM);

		race->wrong += connect_to(fd, to) || !same(peer_of(fd), to);
		close(fd);
	}
	return NULL;
}

/* Sockets of several threads compete for ways; with one set, for seven or eight of them. */
static void tcp_race(struct world *w)
{
	struct { struct world *w; int wrong; } races[6];
	int held[5], before = ways_in_use(w), wrong = 0;
	pthread_t threads[6];

	for (int i = 0; i < 5; i++)
		held[i] = open_connected(AF_INET, SOCK_STREAM, w->vip4);
	for (int i = 0; i < 6; i++) {
		races[i].w = w;
		races[i].wrong = 0;
		pthread_create(&threads[i], NULL, tcp_racer, &races[i]);
	}
	for (int i = 0; i < 6; i++) {
		pthread_join(threads[i], NULL);
		wrong += races[i].wrong;
	}
	CHECK(!wrong, "%d of 1800", wrong);
	for (int i = 0; i < 5; i++) {
		CHECK(same(peer_of(held[i]), w->vip4), "peer is %s", text(peer_of(held[i])));
		close(held[i]);
	}
	CHECK(ways_in_use(w) == before, "%d ways, %d before", ways_in_use(w), before);
	accept_rest(w->tcp4);
}

static void mptcp(struct world *w)
{
	struct sockaddr_storage address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP), before = ways_in_use(w);

	if (fd < 0) {
		printf("  skipped MPTCP: this kernel has none\n");
		return;
	}
	CHECK(!connect(fd, (void *)&address, to_sockaddr(w->vip4, false, &address)), "%s", strerror(errno));
	CHECK(accept_any(w->tcp4) >= 0, "no backend");
	CHECK(ways_in_use(w) == before, "%d ways, %d before", ways_in_use(w), before);
	close(fd);
}

static void udp(struct world *w, int family, struct endpoint vip, const struct endpoint *backends)
{
	int fd = open_connected(family, SOCK_DGRAM, vip);

	CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	CHECK(!send_to(fd, NULL), "%s", strerror(errno));
	CHECK(echo(w, 1) == 1, "no backend");
	CHECK(same(source_of_answer(fd), vip), "the answer bears another address");

	CHECK(!connect_to(fd, backends[1]), "%s", strerror(errno));
	CHECK(same(peer_of(fd), backends[1]), "peer is %s", text(peer_of(fd)));
	CHECK(!send_to(fd, NULL), "%s", strerror(errno));
	CHECK(echo(w, 1) == 1, "no backend");
	CHECK(same(source_of_answer(fd), backends[1]), "the answer bears another address");

	CHECK(!connect_to(fd, vip), "%s", strerror(errno));
	CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	/* Disconnected, it speaks to a backend in its own name: the record of the connect must not count. */
	connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
	for (int i = 0; i < BACKENDS; i++) {
		CHECK(!send_to(fd, &backends[i]), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1, "no backend");
		CHECK(same(source_of_answer(fd), backends[i]), "the answer bears another address");
	}
	close(fd);
}

/* An AF_INET6 socket that is given an AF_INET address. */
static void udp_mixed(struct world *w)
{
	int fd = open_socket(AF_INET6, SOCK_DGRAM);
	struct sockaddr_storage address;

	CHECK(!connect(fd, (void *)&address, to_sockaddr(w->vip4, false, &address)), "%s", strerror(errno));
	CHECK(same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
	CHECK(!send_to(fd, NULL), "%s", strerror(errno));
	CHECK(echo(w, 1) == 1, "no backend");
	CHECK(same(source_of_answer(fd), w->vip4), "the answer bears another address");
	close(fd);
}

static void refused(struct world *w)
{
	const struct { const char *address; uint8_t flags; int error; enum lb_reason reason; } cases[] = {
		{ "10.96.0.2", 0, ECONNREFUSED, LB_REASON_NO_BACKENDS },
		{ "10.96.0.3", LB_REGION_DROP, EHOSTUNREACH, LB_REASON_NO_BACKENDS_DROP },
		{ "10.96.0.4", LB_REGION_LOCAL_ONLY, EHOSTUNREACH, LB_REASON_NO_LOCAL_BACKEND },
	};

	for (int i = 0; i < 3; i++) {
		struct endpoint vip = at4(cases[i].address, 80);
		struct service_options options = { .flags = cases[i].flags };
		struct service s[2] = { service_add(&w->f, vip, IPPROTO_UDP, NULL, 0, options),
					service_add(&w->f, vip, IPPROTO_TCP, NULL, 0, options) };
		uint64_t before = verdicts(&w->f, cases[i].reason);
		int error = refusal(w, cases[i].error), fd;

		fd = open_socket(AF_INET, SOCK_STREAM);
		CHECK(connect_to(fd, vip) == error, "%s", strerror(errno));
		close(fd);
		fd = open_connected(AF_INET, SOCK_DGRAM, w->vip4);
		CHECK(connect_to(fd, vip) == error, "%s", strerror(errno));
		/* It is still connected to where it was. */
		CHECK(same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
		CHECK(send_to(fd, &vip) == error, "%s", strerror(errno));
		close(fd);
		CHECK(verdicts(&w->f, cases[i].reason) == before + 3, "%lu", verdicts(&w->f, cases[i].reason) - before);
		CHECK(w->f.failures[s[0].service] == 2 && w->f.failures[s[1].service] == 1, "%lu %lu",
		      w->f.failures[s[0].service], w->f.failures[s[1].service]);
	}
}

static void records(struct world *w)
{
	int fd = open_connected(AF_INET, SOCK_DGRAM, w->vip4);
	struct lb_record record = record_of(w, fd);
	uint64_t cookie = 0;
	socklen_t length = sizeof cookie;

	getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length);
	CHECK(record.cookie == cookie && record.tgid == (uint32_t)getpid(), "cookie %llu, process %u", record.cookie, record.tgid);
	CHECK(record.protocol == IPPROTO_UDP && record.family == LB_IPV4, "%u %u", record.protocol, record.family);
	CHECK(!connect_to(fd, w->backend4[0]), "%s", strerror(errno));
	CHECK(!record_of(w, fd).backend_ref, "still a record");
	close(fd);
}

static void counts(struct world *w)
{
	const struct service *s = &w->service[0][0];
	uint64_t before[BACKENDS], sum = 0;

	for (int i = 0; i < BACKENDS; i++)
		before[i] = used(&w->f, s->backend[i]);
	for (int i = 0; i < 300; i++)
		close(open_connected(AF_INET, SOCK_DGRAM, w->vip4));
	for (int i = 0; i < BACKENDS; i++) {
		uint64_t n = used(&w->f, s->backend[i]) - before[i];

		sum += n;
		CHECK(n > 50 && n < 150, "backend %d got %lu of 300", i, n);
	}
	CHECK(sum == 300, "%lu", sum);
}

void rules_connect(struct world *w)
{
	struct endpoint closed4[] = { at4("127.0.0.1", 9) }, closed6[] = { at6("::1", 9) };
	struct endpoint v4 = w->vip4, v6 = w->vip6;

	v4.port = v6.port = htons(81);
	service_add(&w->f, v4, IPPROTO_TCP, closed4, 1, (struct service_options){});
	service_add(&w->f, v6, IPPROTO_TCP, closed6, 1, (struct service_options){});

	rule = "TCP over IPv4";
	tcp(w, AF_INET, w->vip4, w->tcp4);
	tcp_direct(w->vip4, w->backend4, w->tcp4, AF_INET);
	tcp_many(w, AF_INET, w->vip4, w->tcp4);
	tcp_nonblocking(w);
	rule = "TCP sockets of several threads";
	tcp_race(w);
	rule = "TCP over IPv6";
	tcp(w, AF_INET6, w->vip6, w->tcp6);
	tcp_direct(w->vip6, w->backend6, w->tcp6, AF_INET6);
	tcp_many(w, AF_INET6, w->vip6, w->tcp6);
	rule = "TCP to an IPv4-mapped address";
	tcp(w, AF_INET6, w->vip4, w->tcp4);
	tcp_direct(w->vip4, w->backend4, w->tcp4, AF_INET6);
	tcp_many(w, AF_INET6, w->vip4, w->tcp4);
	rule = "MPTCP goes through and leaves nothing";
	mptcp(w);
	rule = "UDP over IPv4";
	udp(w, AF_INET, w->vip4, w->backend4);
	rule = "UDP over IPv6";
	udp(w, AF_INET6, w->vip6, w->backend6);
	rule = "UDP to an IPv4-mapped address";
	udp(w, AF_INET6, w->vip4, w->backend4);
	udp_mixed(w);
	rule = "refused without backends";
	refused(w);
	rule = "a record says whose it is";
	records(w);
	rule = "connections are counted";
	counts(w);
}
