/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two probes share. A probe reads commands, one a line, from standard input and answers those that measure with a line of JSON; it
 * ends with its input or with its parent.
 */
#ifndef PROBE_COMMON_H
#define PROBE_COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_TARGETS 16

/* Where to connect to: `span` addresses in a row, in pseudo-random order. */
struct target {
	char name[32];
	int socket; /* connect: which of the UDP sockets */
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} base;
	uint32_t span;
};

static struct target targets[MAX_TARGETS];
static int target_count;

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
	int error = errno;
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint32_t next_random(void)
{
	static uint32_t state = 2463534242u;

	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static socklen_t address_size(const struct sockaddr *address)
{
	return address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* The next address of the target. */
static void next_address(const struct target *target, struct sockaddr_storage *address)
{
	memcpy(address, &target->base, sizeof(target->base));
	if (target->span < 2)
		return;
	uint32_t step = next_random() % target->span;

	if (target->base.any.sa_family == AF_INET) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)address;

		v4->sin_addr.s_addr = htonl(ntohl(v4->sin_addr.s_addr) + step);
	} else {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

		v6->sin6_addr.s6_addr32[3] = htonl(ntohl(v6->sin6_addr.s6_addr32[3]) + step);
	}
}

static struct target *find_target(const char *name)
{
	for (int i = 0; i < target_count; i++)
		if (!strcmp(targets[i].name, name))
			return &targets[i];
	errno = ENOENT;
	die("target %s", name);
}

/* target NAME SOCKET ADDRESS PORT SPAN: made, or changed. */
static void set_target(const char *line)
{
	char name[32], address[64];
	struct target *target = NULL;
	unsigned int span;
	int port, socket;

	if (sscanf(line, "target %31s %d %63s %d %u", name, &socket, address, &port, &span) != 5) {
		errno = EINVAL;
		die("%s", line);
	}
	for (int i = 0; i < target_count; i++)
		if (!strcmp(targets[i].name, name))
			target = &targets[i];
	if (!target) {
		if (target_count == MAX_TARGETS) {
			errno = ENOSPC;
			die("target %s", name);
		}
		target = &targets[target_count++];
	}
	memset(target, 0, sizeof(*target));
	strcpy(target->name, name);
	target->socket = socket;
	target->span = span;
	if (inet_pton(AF_INET, address, &target->base.v4.sin_addr) == 1) {
		target->base.v4.sin_family = AF_INET;
		target->base.v4.sin_port = htons(port);
	} else if (inet_pton(AF_INET6, address, &target->base.v6.sin6_addr) == 1) {
		target->base.v6.sin6_family = AF_INET6;
		target->base.v6.sin6_port = htons(port);
	} else {
		errno = EINVAL;
		die("%s", address);
	}
}

static void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void join_cgroup(const char *directory)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die("%s", path);
	close(fd);
}

static void end_with_parent(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		die("prctl");
}

/* A listener on every address, both families, whose port no balanced address uses. */
static int listen_on(int port, bool blocking)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
	int one = 1, zero = 0;

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) || listen(fd, 1024))
		die("listen on port %d", port);
	return fd;
}

/* Commands that both probes have. */
static bool common_command(const char *line)
{
	char path[3900];
	int cpu;

	if (!strncmp(line, "target ", 7))
		set_target(line);
	else if (sscanf(line, "cgroup %3899s", path) == 1)
		join_cgroup(path);
	else if (sscanf(line, "cpu %d", &cpu) == 1)
		pin_to_cpu(cpu);
	else
		return false;
	return true;
}

/* Ends a connection without TIME_WAIT: hundreds of thousands of them would be left. */
static void reset(int fd)
{
	struct linger now = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

#endif
