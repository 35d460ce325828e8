/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs add to connect():  cost OBJECTS [ROUNDS [VARIANT [ROWS]]]   ROWS: how their names begin
 * Rounds alternate between no program, programs that do nothing, and the balancer's; medians of batches, then of rounds.
 *
 * "No program" means none for this cgroup. One cgroup on the machine with programs makes the kernel take the slow way around
 * connect() in all of them (it locks the socket once more: 0.83 us become 1.0), so there always is such a cgroup here: otherwise
 * the figures would depend on who else uses the machine.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROWS 10000
#define BATCH 32
#define MAX_ROUNDS 200

enum target { DIRECT, HOT, RANDOM };
enum setup { NONE, EMPTY, BALANCER };

enum call { UDP_CONNECT, UDP_SEND, TCP_CONNECT };

static const struct { const char *name; enum call call; enum setup setup; enum target target; bool six; } rows[] = {
	{ "UDP, no program", UDP_CONNECT, NONE, DIRECT, false },
	{ "UDP, empty programs", UDP_CONNECT, EMPTY, DIRECT, false },
	{ "UDP, not a service", UDP_CONNECT, BALANCER, DIRECT, false },
	{ "UDP, hot row", UDP_CONNECT, BALANCER, HOT, false },
	{ "UDP, random rows", UDP_CONNECT, BALANCER, RANDOM, false },
	{ "UDP/IPv6, no program", UDP_CONNECT, NONE, DIRECT, true },
	{ "UDP/IPv6, hot row", UDP_CONNECT, BALANCER, HOT, true },
	{ "sendto, no program", UDP_SEND, NONE, DIRECT, false },
	{ "sendto, not a service", UDP_SEND, BALANCER, DIRECT, false },
	{ "sendto, a service", UDP_SEND, BALANCER, HOT, false },
	{ "TCP, no program", TCP_CONNECT, NONE, DIRECT, false },
	{ "TCP, empty programs", TCP_CONNECT, EMPTY, DIRECT, false },
	{ "TCP, not a service", TCP_CONNECT, BALANCER, DIRECT, false },
	{ "TCP, hot row", TCP_CONNECT, BALANCER, HOT, false },
	{ "TCP, random rows", TCP_CONNECT, BALANCER, RANDOM, false },
};
#define N_ROWS (int)(sizeof rows / sizeof *rows)

static double medians[N_ROWS][MAX_ROUNDS], reads[MAX_ROUNDS];
static uint32_t random_state = 2463534242u;

static uint32_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	return random_state ^= random_state << 5;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, int n)
{
	qsort(values, n, sizeof *values, compare);
	return values[n / 2];
}

static struct endpoint target_of(int row)
{
	struct endpoint e = rows[row].six ? at6("::1", 7001) : at4("127.0.0.1", 7001);

	if (rows[row].target == DIRECT)
		return e;
	e = rows[row].six ? at6("fd00:96::1", 80) : at4("10.96.0.1", 80);
	if (rows[row].target == RANDOM)
		e.address[0] = htonl(ntohl(e.address[0]) + next_random() % ROWS);
	return e;
}

static double udp(int row, int batches)
{
	int fd = socket(rows[row].six ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
	static double samples[10000];
	struct sockaddr_storage to[BATCH];
	socklen_t length = 0;

	for (int i = -batches / 10; i < batches; i++) {
		uint64_t start;

		for (int k = 0; k < BATCH; k++)
			length = to_sockaddr(target_of(row), false, &to[k]);
		start = now_ns();
		for (int k = 0; k < BATCH; k++)
			if (rows[row].call == UDP_SEND ? sendto(fd, "x", 1, 0, (void *)&to[k], length) < 0
						       : connect(fd, (void *)&to[k], length))
				die("connect");
		if (i >= 0)
			samples[i] = (now_ns() - start) / (double)BATCH;
	}
	close(fd);
	return median(samples, batches);
}

static double tcp(int row, int listener, int n)
{
	static double samples[10000];

	for (int i = -n / 10; i < n; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), peer;
		struct sockaddr_storage to;
		socklen_t length = to_sockaddr(target_of(row), false, &to);
		struct linger reset = { 1, 0 };
		uint64_t start = now_ns();

		if (connect(fd, (void *)&to, length))
			die("connect");
		if (i >= 0)
			samples[i] = now_ns() - start;
		peer = accept(listener, NULL, NULL);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
		close(peer);
	}
	return median(samples, n);
}

/* What a random row's lines cost that are in no cache of this CPU's own: on a shared machine 20 ns at one time, 400 at another. */
static double far_read(void)
{
	const uint32_t lines = 4 << 20 >> 6;
	uint32_t *next = aligned_alloc(4096, (size_t)lines * 64), *order = malloc(lines * sizeof *order), at = 0;
	uint64_t start;

	for (uint32_t i = 0; i < lines; i++)
		order[i] = i;
	for (uint32_t i = lines - 1; i > 0; i--) {
		uint32_t k = next_random() % (i + 1), other = order[k];

		order[k] = order[i];
		order[i] = other;
	}
	for (uint32_t i = 0; i < lines; i++)
		next[order[i] * 16] = order[(i + 1) % lines] * 16;
	for (uint32_t i = 0; i < lines; i++)
		at = next[at];
	start = now_ns();
	for (int i = 0; i < 200000; i++)
		at = *(volatile uint32_t *)&next[at];
	free(order);
	free(next);
	return (now_ns() - start) / 200000.0;
}

static int open_listener(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_storage address;
	socklen_t length = to_sockaddr(at4("127.0.0.1", 7001), false, &address);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (bind(fd, (void *)&address, length) || listen(fd, 128))
		die("listener");
	return fd;
}

/* Takes datagrams until it is full, and drops the rest. */
static void open_sink(void)
{
	struct sockaddr_storage address;
	socklen_t length = to_sockaddr(at4("127.0.0.1", 7001), false, &address);

	if (bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&address, length))
		die("sink");
}

static void services(struct fixture *f)
{
	struct endpoint backends4[3] = { at4("127.0.0.1", 7001), at4("127.0.0.1", 7001), at4("127.0.0.1", 7001) };
	struct endpoint backends6[3] = { at6("::1", 7001), at6("::1", 7001), at6("::1", 7001) };

	for (uint32_t i = 0; i < ROWS; i++) {
		struct endpoint at = at4("10.96.0.1", 80);

		at.address[0] = htonl(ntohl(at.address[0]) + i);
		service_add(f, at, IPPROTO_UDP, backends4, 3, (struct service_options){});
		/* As many rows of TCP would be twice the memory of the case that is measured: they share regions. */
	}
	service_add(f, at6("fd00:96::1", 80), IPPROTO_UDP, backends6, 3, (struct service_options){});
}

/* The slots of the external scope become TCP's. */
static void services_tcp(struct fixture *f)
{
	memset(f->frontends, 0, FRONTEND_LINES * sizeof *f->frontends);
	for (uint32_t row = 0; row < ROWS; row++) {
		struct endpoint at = at4("10.96.0.1", 80);

		at.address[0] = htonl(ntohl(at.address[0]) + row);
		fixture_frontend(f, at, IPPROTO_UDP, LB_SCOPE_INTERNAL, 1 + 2 * row);
		fixture_frontend(f, at, IPPROTO_TCP, LB_SCOPE_INTERNAL, 2 + 2 * row);
	}
	fixture_frontend(f, at6("fd00:96::1", 80), IPPROTO_UDP, LB_SCOPE_INTERNAL, 1 + 2 * ROWS);
}

/* The quietest fifth of the rounds says what the code costs, the median what it costs beside whatever else ran. */
static void report(const char *chosen, int rounds)
{
	printf("%-24s  %8s  %8s  %8s  %8s   (ratios: median of rounds; quietest fifth, and ns added)\n", "", "ns", "ratio", "quiet", "added");
	for (int row = 0, base = 0; row < N_ROWS; row++) {
		double ratios[MAX_ROUNDS], mine[MAX_ROUNDS], bases[MAX_ROUNDS];

		if (strncmp(rows[row].name, chosen, strlen(chosen)))
			continue;
		if (rows[row].setup == NONE)
			base = row;
		for (int i = 0; i < rounds; i++) {
			mine[i] = medians[row][i];
			bases[i] = medians[base][i];
			ratios[i] = mine[i] / bases[i];
		}
		median(mine, rounds);
		median(bases, rounds);
		printf("%-24s  %8.1f  %8.3f  %8.3f  %+8.1f\n", rows[row].name, mine[rounds / 2], median(ratios, rounds),
		       mine[rounds / 5] / bases[rounds / 5], mine[rounds / 5] - bases[rounds / 5]);
	}
}

int main(int argc, char **argv)
{
	struct variant variant = { .name = "newest", .cast = true, .retval = true };
	int rounds = argc > 2 ? atoi(argv[2]) : 20, listener, links[16], elsewhere[16], n = 0;
	const char *wanted = argc > 3 ? argv[3] : "newest";
	const char *chosen = argc > 4 ? argv[4] : "";
	enum setup setup = NONE;
	struct fixture f;
	cpu_set_t cpu;

	if (argc < 2 || unshare(CLONE_NEWNET))
		die("usage: %s OBJECTS [ROUNDS [newest|plain|legacy [ROWS]]]", argv[0]);
	if (strcmp(wanted, "newest"))
		variant = (struct variant){ .name = wanted, .legacy = !strcmp(wanted, "legacy"), .retval = strcmp(wanted, "legacy") };
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	CPU_ZERO(&cpu);
	CPU_SET(1, &cpu);
	sched_setaffinity(0, sizeof cpu, &cpu);
	fixture_open(&f, argv[1], &variant);
	services(&f);
	services_tcp(&f);
	listener = open_listener();
	open_sink();
	fixture_attach_empty(&f, 1, elsewhere);
	fixture_enter(0);
	if (rounds > MAX_ROUNDS)
		rounds = MAX_ROUNDS;
	for (int round = 0; round < rounds; round++) {
		reads[round] = far_read();
		for (int row = 0; row < N_ROWS; row++) {
			if (strncmp(rows[row].name, chosen, strlen(chosen)))
				continue;
			if (rows[row].setup != setup) {
				for (int i = 0; i < n; i++)
					close(links[i]);
				n = 0;
				if (setup == BALANCER)
					fixture_detach(&f, 0);
				setup = rows[row].setup;
				if (setup == EMPTY)
					n = fixture_attach_empty(&f, 0, links);
				if (setup == BALANCER)
					fixture_attach(&f, 0);
			}
			medians[row][round] = rows[row].call == TCP_CONNECT ? tcp(row, listener, 1000) : udp(row, 1500);
		}
	}
	report(chosen, rounds);
	median(reads, rounds);
	printf("a read among 4 MiB: %.0f ns (quietest fifth %.0f)\n", reads[rounds / 2], reads[rounds / 5]);
	for (int i = 0; i < n; i++)
		close(links[i]);
	fixture_close(&f);
	return 0;
}
