/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the rules of the data path with real sockets:  rules OBJECTS [VARIANT]
 * OBJECTS is the directory with decide_current.bpf.o and so on; without VARIANT, all that this kernel should take.
 */
#define _GNU_SOURCE
#include "rules.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

int failures;
const char *rule = "";

static const struct variant variants[] = {
	{ .name = "newest", .cast = true, .retval = true },
	{ .name = "plain", .retval = true },
	{ .name = "full-sets", .retval = true, .peer_mask = 1 },
	{ .name = "legacy", .legacy = true },
	{ .name = "legacy-full-sets", .legacy = true, .peer_mask = 1 },
};

/* ---- sockets --------------------------------------------------------------------------------------------------------- */

int open_socket(int family, int type)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static bool is_six(int fd)
{
	int family;
	socklen_t length = sizeof family;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
	return family == AF_INET6;
}

int connect_to(int fd, struct endpoint to)
{
	struct sockaddr_storage address;
	socklen_t length = to_sockaddr(to, is_six(fd), &address);

	return connect(fd, (void *)&address, length) ? errno : 0;
}

int open_connected(int family, int type, struct endpoint to)
{
	int fd = open_socket(family, type), error = connect_to(fd, to);

	CHECK(!error, "connect to %s: %s", text(to), strerror(error));
	return fd;
}

static struct endpoint name_of(int fd, int (*call)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_storage address;
	socklen_t length = sizeof address;
	bool mapped;

	if (call(fd, (void *)&address, &length))
		return (struct endpoint){};
	return from_sockaddr(&address, &mapped);
}

static int call_getpeername(int fd, struct sockaddr *a, socklen_t *n)
{
	return getpeername(fd, a, n);
}

static int call_getsockname(int fd, struct sockaddr *a, socklen_t *n)
{
	return getsockname(fd, a, n);
}

struct endpoint peer_of(int fd)
{
	return name_of(fd, call_getpeername);
}

struct endpoint local_of(int fd)
{
	return name_of(fd, call_getsockname);
}

int send_to(int fd, const struct endpoint *to)
{
	struct sockaddr_storage address;
	socklen_t length = to ? to_sockaddr(*to, is_six(fd), &address) : 0;

	return sendto(fd, "x", 1, MSG_NOSIGNAL, to ? (void *)&address : NULL, length) < 0 ? errno : 0;
}

/*
 * What was sent over loopback is there when send() returns, unless the softirq was left to ksoftirqd, as kernels before 6.4 do when that
 * thread runs already: on a busy machine it comes later.
 */
bool arrives(const int *fds, int count)
{
	struct pollfd all[count];

	for (int i = 0; i < count; i++)
		all[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	return poll(all, count, PATIENCE_MS) > 0;
}

int answer_each(const int *fds, int count, int expected)
{
	struct sockaddr_storage from;
	socklen_t length;
	char byte;
	int n = 0;

	do {
		if (n < expected && !arrives(fds, count))
			return n;
		for (int i = 0; i < count; i++) {
			while (length = sizeof from, recvfrom(fds[i], &byte, 1, MSG_DONTWAIT, (void *)&from, &length) >= 0) {
				n++;
				sendto(fds[i], &byte, 1, 0, (void *)&from, length);
			}
		}
	} while (n < expected);
	return n;
}

int echo(struct world *w, int expected)
{
	int fds[2 * BACKENDS];

	memcpy(fds, w->udp4, sizeof w->udp4);
	memcpy(fds + BACKENDS, w->udp6, sizeof w->udp6);
	return answer_each(fds, 2 * BACKENDS, expected);
}

struct endpoint source_of_answer(int fd)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	bool mapped;
	char byte;

	if (!arrives(&fd, 1) || recvfrom(fd, &byte, 1, MSG_DONTWAIT, (void *)&from, &length) < 0)
		return (struct endpoint){};
	return from_sockaddr(&from, &mapped);
}

static int accept_now(const int *listeners)
{
	for (int i = 0; i < BACKENDS; i++) {
		int fd = accept4(listeners[i], NULL, NULL, SOCK_NONBLOCK);

		if (fd < 0)
			continue;
		close(fd); /* in order, so that the client keeps its peer */
		return i;
	}
	return -1;
}

int accept_any(const int *listeners)
{
	return arrives(listeners, BACKENDS) ? accept_now(listeners) : -1;
}

void accept_rest(const int *listeners)
{
	while (accept_now(listeners) >= 0)
		;
}

/* ---- the world ---------------------------------------------------------------------------------------------------------- */

int ways_in_use(struct world *w)
{
	const char *maps[] = { "lb_peers4", "lb_peers6" };
	int n = 0;

	for (int m = 0; m < 2; m++) {
		int fd = fixture_map(&w->f, maps[m]);
		struct lb_peers6 set; /* the larger one; both begin with the cookies */

		for (uint32_t i = 0; i < (m ? 4096u : 8192u); i++) {
			if (bpf_map_lookup_elem(fd, &i, &set))
				die("%s", maps[m]);
			for (int way = w->f.variant.legacy; way < LB_WAYS; way++)
				n += set.cookie[way] != 0;
		}
	}
	return n;
}

int refusal(struct world *w, int with_retval)
{
	return w->f.variant.retval ? with_retval : EPERM;
}

struct lb_record record_of(struct world *w, int fd)
{
	char value[4096] = {};
	struct lb_record record;

	bpf_map_lookup_elem(fixture_map(&w->f, "lb_sockets"), &fd, value);
	memcpy(&record, value, sizeof record);
	return record;
}

/* getsockopt tells it from 5.14 on; an affinity's client is the same number. */
uint64_t namespace_cookie(struct world *w)
{
	struct endpoint vip = at4("10.96.250.1", 80);
	static uint32_t slots_seen;
	struct lb_affinity_key key, *last = NULL;
	struct service s;
	int fd;

	vip.address[0] += htonl(slots_seen++ % 200);
	s = service_add(&w->f, vip, IPPROTO_UDP, w->backend4, 1, (struct service_options){ .affinity = 10 });
	fd = open_connected(AF_INET, SOCK_DGRAM, vip);
	close(fd);
	for (struct lb_affinity_key next; !bpf_map_get_next_key(fixture_map(&w->f, "lb_affinities"), last, &next); last = &key) {
		key = next;
		if (key.service == s.service)
			return key.client[0];
	}
	die("no cookie");
}

static int open_server(struct endpoint *at, int type)
{
	int fd = socket(at->family == LB_IPV4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_storage address;
	socklen_t length = to_sockaddr(*at, false, &address);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (bind(fd, (void *)&address, length) || (type == SOCK_STREAM && listen(fd, 1024)))
		die("server %s", text(*at));
	return fd;
}

static void world_open(struct world *w)
{
	const struct service_options plain = {};

	w->vip4 = at4("10.96.0.1", 80);
	w->vip6 = at6("fd00:96::1", 80);
	for (int i = 0; i < BACKENDS; i++) {
		w->backend4[i] = at4("127.0.0.1", 7001 + i);
		w->backend6[i] = at6("::1", 7001 + i);
		w->tcp4[i] = open_server(&w->backend4[i], SOCK_STREAM);
		w->tcp6[i] = open_server(&w->backend6[i], SOCK_STREAM);
		w->udp4[i] = open_server(&w->backend4[i], SOCK_DGRAM);
		w->udp6[i] = open_server(&w->backend6[i], SOCK_DGRAM);
	}
	for (int tcp = 0; tcp < 2; tcp++) {
		int protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;

		w->service[tcp][0] = service_add(&w->f, w->vip4, protocol, w->backend4, BACKENDS, plain);
		w->service[tcp][1] = service_add(&w->f, w->vip6, protocol, w->backend6, BACKENDS, plain);
	}
}

static void world_close(struct world *w)
{
	for (int i = 0; i < BACKENDS; i++) {
		close(w->tcp4[i]);
		close(w->tcp6[i]);
		close(w->udp4[i]);
		close(w->udp6[i]);
	}
}

static void run(const char *objects, const struct variant *variant)
{
	struct world w = {};

	printf("%s\n", variant->name);
	fixture_open(&w.f, objects, variant);
	world_open(&w);
	fixture_attach(&w.f, 0);
	fixture_enter(0);
	rules_connect(&w);
	rules_choice(&w);
	rules_datagrams(&w);
	rules_around(&w);
	rules_attachments(&w);
	rule = "leaves nothing behind";
	CHECK(ways_in_use(&w) == 0, "%d ways", ways_in_use(&w));
	fixture_close(&w.f);
	world_close(&w);
}

int kernel_version(void)
{
	int major = 0, minor = 0;
	struct utsname name;

	uname(&name);
	sscanf(name.release, "%d.%d", &major, &minor);
	return major * 100 + minor;
}

/* Kernels from which on the variant is promised to load. */
static bool supported(const struct variant *v)
{
	int version = kernel_version();

	if (v->cast ? version >= 612 : v->retval ? version >= 601 : v->legacy || version >= 512)
		return true;
	printf("%s\n  skipped: not for this kernel\n", v->name);
	return false;
}

int main(int argc, char **argv)
{
	if (argc < 2 || unshare(CLONE_NEWNET))
		die("usage: %s OBJECTS [VARIANT]...", argv[0]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
		bool wanted = argc == 2 && supported(&variants[i]);

		for (int a = 2; a < argc; a++)
			wanted |= !strcmp(argv[a], variants[i].name);
		if (wanted)
			run(argv[1], &variants[i]);
	}
	printf("%s\n", failures ? "FAILED" : "all rules hold");
	return failures != 0;
}
