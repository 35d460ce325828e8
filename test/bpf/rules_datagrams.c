/* SPDX-License-Identifier: Apache-2.0 */
/* Unconnected UDP sockets: one backend for each service, answers in the service's name. */
#define _GNU_SOURCE
#include "rules.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define MANY 80 /* more than a socket can have */
#define ROOM (LB_PINS + LB_MORE_PINS)

static struct endpoint vips[2][MANY];
static struct service services[2][MANY];

/* Services whose only backend is their own: an answer tells which it was. */
static void many_services(struct world *w, int six)
{
	for (int i = 0; i < MANY; i++) {
		char name[64];
		struct endpoint backend;

		snprintf(name, sizeof name, six ? "fd00:99::%x" : "10.99.0.%d", i + 1);
		vips[six][i] = six ? at6(name, 53) : at4(name, 53);
		snprintf(name, sizeof name, "127.0.1.%d", i + 1);
		backend = six ? at6("::1", 8100 + i) : at4(name, 7001);
		services[six][i] = service_add(&w->f, vips[six][i], IPPROTO_UDP, &backend, 1, (struct service_options){});
	}
}

/* Servers of many_services: 127.0.1.N:7001 or [::1]:8100+N. */
static void open_servers(int six, int *fds)
{
	for (int i = 0; i < MANY; i++) {
		char name[64];
		struct sockaddr_storage address;
		socklen_t length;

		snprintf(name, sizeof name, "127.0.1.%d", i + 1);
		length = to_sockaddr(six ? at6("::1", 8100 + i) : at4(name, 7001), false, &address);
		fds[i] = socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (bind(fds[i], (void *)&address, length))
			die("server");
	}
}

static int answer_all(const int *fds, int expected)
{
	return answer_each(fds, MANY, expected);
}

static void close_servers(const int *fds)
{
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
}

static void many(struct world *w, int family, int six)
{
	int servers[MANY], fd = open_socket(family, SOCK_DGRAM);
	uint64_t before = verdicts(&w->f, LB_REASON_TOO_MANY_SERVICES);

	open_servers(six, servers);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < ROOM; i++) {
			CHECK(!send_to(fd, &vips[six][i]), "%d: %s", i, strerror(errno));
			CHECK(answer_all(servers, 1) == 1, "%d: no backend", i);
			CHECK(same(source_of_answer(fd), vips[six][i]), "%d: the answer bears another address", i);
		}
		for (int i = 0; i < ROOM; i++)
			CHECK(used(&w->f, services[six][i].backend[0]) == 1u, "%d: counted %lu times", i,
			      used(&w->f, services[six][i].backend[0]));
	}
	/* All at once, answered in another order. */
	for (int i = 0; i < ROOM; i++)
		send_to(fd, &vips[six][i]);
	CHECK(answer_all(servers, ROOM) == ROOM, "lost some");
	for (int i = 0; i < ROOM; i++)
		CHECK(same(source_of_answer(fd), vips[six][i]), "%d: the answer bears another address", i);

	CHECK(send_to(fd, &vips[six][ROOM]) == refusal(w, EHOSTUNREACH), "%s", strerror(errno));
	CHECK(verdicts(&w->f, LB_REASON_TOO_MANY_SERVICES) == before + 1, "not counted");
	/* A frontend that went makes room. */
	w->f.slots[services[six][1].slot].word = lb_slot_absent(2);
	CHECK(!send_to(fd, &vips[six][ROOM]), "%s", strerror(errno));
	CHECK(answer_all(servers, 1) == 1, "no backend");
	CHECK(same(source_of_answer(fd), vips[six][ROOM]), "the answer bears another address");
	w->f.slots[services[six][1].slot].word = lb_slot_final(services[six][1].line, 1);
	for (int i = 0; i < MANY; i++) {
		for (int s = 0; s < LB_STRIPES; s++)
			w->f.usage[s * 65537 + services[six][i].backend[0]] = 0;
	}
	close(fd);
	close_servers(servers);
}

static void one_backend(struct world *w, int family, struct endpoint vip, const struct endpoint *backends, const struct service *s)
{
	int fd = open_socket(family, SOCK_DGRAM), other = open_socket(family, SOCK_DGRAM), first = -1;
	uint64_t before[BACKENDS];

	for (int i = 0; i < BACKENDS; i++)
		before[i] = used(&w->f, s->backend[i]);
	for (int i = 0; i < 20; i++) {
		CHECK(!send_to(fd, &vip), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1, "no backend");
		CHECK(same(source_of_answer(fd), vip), "the answer bears another address");
	}
	for (int i = 0; i < BACKENDS; i++)
		if (used(&w->f, s->backend[i]) > before[i])
			first = i;
	CHECK(first >= 0 && used(&w->f, s->backend[first]) == before[first] + 1, "one choice for one socket");

	/* Its backend takes no more, then is another one altogether: the next datagram goes elsewhere. */
	for (int gone = 0; gone < 2; gone++) {
		uint32_t backend = s->backend[first];
		uint64_t word = w->f.backends[backend].word;
		struct service_options none = {};
		uint32_t rest[BACKENDS], n = 0;

		for (int i = 0; i < BACKENDS; i++)
			if (i != first)
				rest[n++] = s->backend[i];
		w->f.slots[s->slot].word = lb_slot_final(region_write(&w->f, s, vip.family, rest, n, none), 1);
		CHECK(!send_to(fd, &vip), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1 && used(&w->f, backend) == before[first] + 1, "left a backend that serves existing flows");
		source_of_answer(fd);
		w->f.backends[backend].word = gone ? word + (1ull << 16) : word & ~((uint64_t)LB_BACKEND_EXISTING << 48);
		for (int i = 0; i < BACKENDS; i++)
			before[i] = used(&w->f, s->backend[i]);
		CHECK(!send_to(fd, &vip), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1, "no backend");
		CHECK(same(source_of_answer(fd), vip), "the answer bears another address");
		first = -1;
		for (int i = 0; i < BACKENDS; i++)
			if (used(&w->f, s->backend[i]) > before[i])
				first = i;
		CHECK(first >= 0 && s->backend[first] != backend, "stayed");
		w->f.backends[backend].word = word;
		w->f.slots[s->slot].word = lb_slot_final(s->line, 1);
		if (first < 0)
			break;
		before[first] = used(&w->f, s->backend[first]) - 1;
	}

	/* A socket that only knows the backend hears the backend. */
	CHECK(!send_to(other, &backends[0]), "%s", strerror(errno));
	CHECK(echo(w, 1) == 1 && same(source_of_answer(other), backends[0]), "the answer bears another address");
	/* An unsolicited datagram keeps its source. */
	send_to(fd, &vip);
	echo(w, 1);
	source_of_answer(fd);
	struct endpoint me = local_of(fd);

	if (me.family == LB_IPV6 && vip.family == LB_IPV4)
		me.family = LB_IPV4;
	me.address[0] = vip.family == LB_IPV4 ? htonl(INADDR_LOOPBACK) : 0;
	if (vip.family == LB_IPV6)
		memcpy(me.address, backends[0].address, 16);
	CHECK(!send_to(other, &me), "%s", strerror(errno));
	CHECK(source_of_answer(fd).port == local_of(other).port, "an unsolicited datagram bears another address");
	close(fd);
	close(other);
}

static void connected_too(struct world *w)
{
	int fd = open_connected(AF_INET, SOCK_DGRAM, w->vip4), servers[MANY];

	open_servers(0, servers);
	CHECK(!send_to(fd, &vips[0][0]), "%s", strerror(errno));
	CHECK(answer_all(servers, 1) == 1, "no backend");
	CHECK(same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
	CHECK(!send_to(fd, NULL), "%s", strerror(errno));
	CHECK(echo(w, 1) == 1 && same(source_of_answer(fd), w->vip4), "the answer bears another address");
	connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
	CHECK(!send_to(fd, &vips[0][0]), "%s", strerror(errno));
	CHECK(answer_all(servers, 1) == 1 && same(source_of_answer(fd), vips[0][0]), "the answer bears another address");
	/* Connected to the backend itself, it sees that, although it has a pin for a service there. */
	CHECK(!connect_to(fd, at4("127.0.1.1", 7001)), "%s", strerror(errno));
	CHECK(!send_to(fd, NULL), "%s", strerror(errno));
	CHECK(answer_all(servers, 1) == 1 && same(source_of_answer(fd), at4("127.0.1.1", 7001)), "the answer bears another address");
	close(fd);
	close_servers(servers);
}

static void frontends_share(struct world *w)
{
	struct endpoint a = at4("10.96.5.1", 80), b = at4("10.96.5.2", 80);
	struct service s = service_add(&w->f, a, IPPROTO_UDP, w->backend4, BACKENDS, (struct service_options){});
	int fd, apart = 0;

	service_add(&w->f, b, IPPROTO_UDP, NULL, BACKENDS, (struct service_options){ .service = s.service, .indices = s.backend });
	for (int i = 0; i < 20; i++) {
		uint64_t sum = 0;

		fd = open_socket(AF_INET, SOCK_DGRAM);
		for (int k = 0; k < BACKENDS; k++)
			sum += used(&w->f, s.backend[k]) % 2;
		send_to(fd, &a);
		send_to(fd, &b);
		for (int k = 0; k < BACKENDS; k++)
			sum -= used(&w->f, s.backend[k]) % 2;
		apart += sum != 0;
		echo(w, 2);
		close(fd);
	}
	CHECK(!apart, "%d of 20 sockets had two backends of one service", apart);
}

static struct { int fd; pthread_barrier_t barrier; } race;

static void *racer(void *argument)
{
	unsigned seed = (unsigned)(long)argument;

	pthread_barrier_wait(&race.barrier);
	for (int i = 0; i < 400; i++)
		send_to(race.fd, &vips[0][rand_r(&seed) % ROOM]);
	return NULL;
}

static void threads(struct world *w)
{
	struct lb_pin pins[ROOM], *more = pins + LB_PINS;
	int servers[MANY], twice = 0, wrong = 0, n = 0;
	char value[4096];

	open_servers(0, servers);
	pthread_barrier_init(&race.barrier, NULL, 8);
	for (int round = 0; round < 20; round++) {
		pthread_t ids[8];

		race.fd = open_socket(AF_INET, SOCK_DGRAM);
		for (long i = 0; i < 8; i++)
			pthread_create(&ids[i], NULL, racer, (void *)(round * 8 + i));
		for (int i = 0; i < 8; i++)
			pthread_join(ids[i], NULL);
		bpf_map_lookup_elem(fixture_map(&w->f, "lb_sockets"), &race.fd, value);
		memcpy(pins, value + sizeof(struct lb_record) + 8, LB_PINS * sizeof *pins);
		bpf_map_lookup_elem(fixture_map(&w->f, "lb_pins"), &race.fd, more);
		for (int i = 0; i < ROOM; i++) {
			n += pins[i].word != 0;
			for (int k = 0; k < i; k++)
				twice += pins[i].word && lb_pin_slot_ref(pins[i].word) == lb_pin_slot_ref(pins[k].word);
			for (int k = 0; k < ROOM; k++)
				if (pins[i].word && lb_ref_index(lb_pin_slot_ref(pins[i].word)) == services[0][k].slot)
					wrong += pins[i].address[0] != vips[0][k].address[0];
		}
		answer_all(servers, 0);
		close(race.fd);
	}
	CHECK(n > 20 * 60, "%d pins", n);
	CHECK(!twice && !wrong, "%d twice, %d wrong", twice, wrong);
	close_servers(servers);
}

void rules_datagrams(struct world *w)
{
	many_services(w, 0);
	many_services(w, 1);
	rule = "a socket speaks to many services over IPv4";
	many(w, AF_INET, 0);
	rule = "a socket speaks to many services over IPv6";
	many(w, AF_INET6, 1);
	rule = "a socket speaks to many services at IPv4-mapped addresses";
	many(w, AF_INET6, 0);
	rule = "an unconnected socket keeps its backend, over IPv4";
	one_backend(w, AF_INET, w->vip4, w->backend4, &w->service[0][0]);
	rule = "an unconnected socket keeps its backend, over IPv6";
	one_backend(w, AF_INET6, w->vip6, w->backend6, &w->service[0][1]);
	rule = "an unconnected socket keeps its backend, at IPv4-mapped addresses";
	one_backend(w, AF_INET6, w->vip4, w->backend4, &w->service[0][0]);
	rule = "a connected socket may send elsewhere";
	connected_too(w);
	rule = "two frontends of a service share a socket's backend";
	frontends_share(w);
	rule = "threads of one socket";
	threads(w);
}
