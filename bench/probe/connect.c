/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times connect(). Commands:
 *
 *   cpu N, cgroup DIRECTORY                        pin, join
 *   target NAME SOCKET ADDRESS PORT SPAN           see common.h
 *   open SOCKET FAMILY                             a UDP socket (4 or 6), of the cgroup that the process is in now
 *   listen PORT                                    for TCP: accepted in this thread after each connect()
 *   udp   BLOCKS BATCHES BATCH NAME...             connect() again and again on one socket; no packet is sent
 *   tcp   BLOCKS BATCHES BATCH NAME...             socket(), connect(), accept, reset; only connect() is timed
 *   cycle BLOCKS BATCHES BATCH NAME...             the same; socket(), connect() and the end are timed
 *   verify NAME COUNT                              TCP: does getpeername() give the address that was asked for?
 *
 * Targets take turns: a block is BATCHES + 1 batches of one target, of which the first is not counted; then comes the next target's. The
 * clock is read around a batch of BATCH operations (tcp and cycle: around each, added up), so that percentiles are those of batch means.
 */
#define _GNU_SOURCE
#include "common.h"

enum mode { UDP, TCP, CYCLE };

static int udp_sockets[8];
static int listener = -1;

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void must_connect(int fd, const struct sockaddr_storage *address, const struct target *target)
{
	if (connect(fd, (const struct sockaddr *)address, address_size((const struct sockaddr *)address)))
		die("connect to %s", target->name);
}

static uint64_t udp_batch(const struct target *target, int size)
{
	int fd = udp_sockets[target->socket];
	struct sockaddr_storage address;
	uint64_t start = now_ns();

	for (int i = 0; i < size; i++) {
		next_address(target, &address);
		must_connect(fd, &address, target);
	}
	return now_ns() - start;
}

static void drop_accepted(void)
{
	int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (peer < 0)
		die("accept");
	close(peer);
}

static uint64_t tcp_batch(const struct target *target, int size, bool whole)
{
	uint64_t spent = 0;

	for (int i = 0; i < size; i++) {
		struct sockaddr_storage address;
		uint64_t start;
		int fd;

		next_address(target, &address);
		start = now_ns();
		fd = socket(target->base.any.sa_family, SOCK_STREAM, 0);
		if (fd < 0)
			die("socket");
		if (!whole)
			start = now_ns();
		must_connect(fd, &address, target);
		if (!whole)
			spent += now_ns() - start;
		reset(fd);
		if (whole)
			spent += now_ns() - start;
		drop_accepted();
	}
	return spent;
}

static uint64_t batch(enum mode mode, const struct target *target, int size)
{
	return mode == UDP ? udp_batch(target, size) : tcp_batch(target, size, mode == CYCLE);
}

static void print_result(const char *name, uint64_t *samples, long count, bool first)
{
	uint64_t total = 0;

	qsort(samples, count, sizeof(*samples), compare);
	for (long i = 0; i < count; i++)
		total += samples[i];
	printf("%s\"%s\":{\"min\":%llu,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,\"mean\":%llu}", first ? "{" : ",", name,
	       (unsigned long long)samples[0], (unsigned long long)samples[count / 2], (unsigned long long)samples[count * 9 / 10],
	       (unsigned long long)samples[count * 99 / 100], (unsigned long long)(total / count));
}

/* Times are kept in tenths of a nanosecond: batch means differ by less than one. */
static void measure(enum mode mode, char *line)
{
	struct target *chosen[MAX_TARGETS];
	long blocks, batches, size, per_target;
	uint64_t *samples;
	int count = 0, used;

	if (sscanf(line, "%*s %ld %ld %ld%n", &blocks, &batches, &size, &used) != 3 || blocks < 1 || batches < 1 || size < 1) {
		errno = EINVAL;
		die("%s", line);
	}
	for (char *name = strtok(line + used, " "); name && count < MAX_TARGETS; name = strtok(NULL, " "))
		chosen[count++] = find_target(name);
	per_target = blocks * batches;
	samples = calloc(per_target * count, sizeof(*samples));
	if (!samples)
		die("calloc");
	for (long block = 0; block < blocks; block++) {
		for (int t = 0; t < count; t++) {
			uint64_t *out = samples + t * per_target + block * batches;

			batch(mode, chosen[t], size);
			for (long i = 0; i < batches; i++)
				out[i] = batch(mode, chosen[t], size) * 10 / size;
		}
	}
	for (int t = 0; t < count; t++)
		print_result(chosen[t]->name, samples + t * per_target, per_target, t == 0);
	puts("}");
	free(samples);
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;

		return x->sin_addr.s_addr == y->sin_addr.s_addr && x->sin_port == y->sin_port;
	}
	const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;

	return !memcmp(&x->sin6_addr, &y->sin6_addr, sizeof(x->sin6_addr)) && x->sin6_port == y->sin6_port;
}

static void verify(const char *name, long count)
{
	const struct target *target = find_target(name);
	long wrong = 0;

	for (long i = 0; i < count; i++) {
		struct sockaddr_storage asked, answered = {0};
		socklen_t size = sizeof(answered);
		int fd;

		next_address(target, &asked);
		fd = socket(asked.ss_family, SOCK_STREAM, 0);
		if (fd < 0)
			die("socket");
		must_connect(fd, &asked, target);
		if (getpeername(fd, (struct sockaddr *)&answered, &size) || !same_address(&asked, &answered))
			wrong++;
		reset(fd);
		drop_accepted();
	}
	printf("{\"checked\":%ld,\"wrong\":%ld}\n", count, wrong);
}

static void command(char *line)
{
	char name[32];
	int number, family;
	long count;

	if (common_command(line))
		return;
	if (!strncmp(line, "udp ", 4)) {
		measure(UDP, line);
	} else if (!strncmp(line, "tcp ", 4)) {
		measure(TCP, line);
	} else if (!strncmp(line, "cycle ", 6)) {
		measure(CYCLE, line);
	} else if (sscanf(line, "open %d %d", &number, &family) == 2 && number >= 0 && number < 8) {
		udp_sockets[number] = socket(family == 6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (udp_sockets[number] < 0)
			die("socket");
	} else if (sscanf(line, "listen %d", &number) == 1) {
		listener = listen_on(number, false);
	} else if (sscanf(line, "verify %31s %ld", name, &count) == 2) {
		verify(name, count);
	} else {
		errno = EINVAL;
		die("%s", line);
	}
}

int main(void)
{
	static char line[8192];

	end_with_parent();
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		command(line);
		fflush(stdout);
	}
	return 0;
}
