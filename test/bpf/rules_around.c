/* SPDX-License-Identifier: Apache-2.0 */
/* bind(), and the sockets of a backend that is gone. */
#define _GNU_SOURCE
#include "rules.h"

#include <arpa/inet.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

static int bind_to(int family, int type, struct endpoint at, int v6only)
{
	struct sockaddr_storage address;
	int fd = open_socket(family, type), error;

	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
	error = bind(fd, (void *)&address, to_sockaddr(at, family == AF_INET6, &address)) ? errno : 0;
	close(fd);
	return error;
}

static void binds(struct world *w)
{
	struct endpoint node = at4("127.0.0.9", 30080), any4 = at4("0.0.0.0", 30080), any6 = at6("::", 30080);
	struct endpoint other = at4("127.0.0.10", 30080), free = at4("0.0.0.0", 30081), mapped = at4("127.0.0.9", 30080);
	int taken = w->f.variant.retval ? EADDRINUSE : EPERM;
	uint64_t cookie = namespace_cookie(w);

	service_add(&w->f, node, IPPROTO_TCP, w->backend4, 1, (struct service_options){});
	w->f.ports[30080 / 8].use[30080 % 8] = LB_PORT_TCP4;
	CHECK(!bind_to(AF_INET, SOCK_STREAM, any4, 0), "protected with no namespace named");
	w->f.control->host_netns = cookie + 1;
	CHECK(!bind_to(AF_INET, SOCK_STREAM, any4, 0), "protected in another namespace");
	w->f.control->host_netns = cookie;
	CHECK(bind_to(AF_INET, SOCK_STREAM, any4, 0) == taken, "%s", strerror(errno));
	CHECK(bind_to(AF_INET, SOCK_STREAM, node, 0) == taken, "%s", strerror(errno));
	CHECK(bind_to(AF_INET6, SOCK_STREAM, any6, 0) == taken, "%s", strerror(errno));
	CHECK(bind_to(AF_INET6, SOCK_STREAM, mapped, 0) == taken, "%s", strerror(errno));
	CHECK(bind_to(AF_INET6, SOCK_STREAM, any4, 0) == taken, "%s", strerror(errno));
	CHECK(verdicts(&w->f, LB_REASON_PORT_IN_USE) == 5, "%lu", verdicts(&w->f, LB_REASON_PORT_IN_USE));
	CHECK(!bind_to(AF_INET6, SOCK_STREAM, any6, 1), "%s", strerror(errno));
	CHECK(!bind_to(AF_INET, SOCK_STREAM, other, 0), "%s", strerror(errno));
	CHECK(!bind_to(AF_INET, SOCK_DGRAM, any4, 0), "%s", strerror(errno));
	CHECK(!bind_to(AF_INET, SOCK_STREAM, free, 0), "%s", strerror(errno));
	w->f.ports[30080 / 8].use[30080 % 8] = LB_PORT_UDP6;
	CHECK(!bind_to(AF_INET, SOCK_DGRAM, any4, 0), "%s", strerror(errno));
	CHECK(bind_to(AF_INET6, SOCK_DGRAM, any6, 0) == taken, "%s", strerror(errno));
	CHECK(bind_to(AF_INET6, SOCK_DGRAM, any6, 1) == taken, "%s", strerror(errno));
	w->f.ports[30080 / 8].use[30080 % 8] = 0;
	w->f.control->host_netns = 0;
}

static int read_all(int link, void *out, int size)
{
	int iterator = bpf_iter_create(link), n = 0, got;

	if (iterator < 0)
		die("iterator");
	while ((got = read(iterator, (char *)out + n, size - n)) > 0)
		n += got;
	if (got < 0)
		die("iterator");
	close(iterator);
	close(link);
	return n;
}

static int sweep(struct world *w, struct lb_stale *out, int room)
{
	union bpf_iter_link_info info = { .map.map_fd = fixture_map(&w->f, "lb_sockets") };
	LIBBPF_OPTS(bpf_link_create_opts, options, .iter_info = &info, .iter_info_len = sizeof info);
	int link = bpf_link_create(bpf_program__fd(bpf_object__find_program_by_name(w->f.sweep, "lb_sweep")), 0, BPF_TRACE_ITER, &options);

	if (link < 0)
		die("lb_sweep");
	return read_all(link, out, room * sizeof *out) / sizeof *out;
}

static void destroy(struct world *w)
{
	int link = bpf_link_create(bpf_program__fd(bpf_object__find_program_by_name(w->f.destroy, "lb_destroy")), 0, BPF_TRACE_ITER, NULL);
	char nothing[64];

	if (link < 0)
		die("lb_destroy");
	CHECK(!read_all(link, nothing, sizeof nothing), "wrote something");
}

static void sweeps(struct world *w, int family, struct endpoint vip, const struct service *s, const struct endpoint *backends)
{
	const struct { uint64_t and, plus; uint32_t reason; } states[] = {
		{ ~((uint64_t)LB_BACKEND_EXISTING << 48), 0, LB_STALE_MOVED_OFF },
		{ ~((uint64_t)LB_BACKEND_LIVE << 48), 0, LB_STALE_REMOVED },
		{ ~0ull, 1ull << 16, LB_STALE_REMOVED },
	};
	int fds[40], elsewhere = open_connected(family, SOCK_DGRAM, backends[0]), once = open_connected(family, SOCK_DGRAM, vip);
	struct lb_stale stale[100];

	/* Not connected any more, or to something else: its record counts no more. */
	connect(once, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
	for (int i = 0; i < 40; i++)
		fds[i] = open_connected(family, SOCK_DGRAM, vip);
	CHECK(sweep(w, stale, 100) == 0, "stale though nothing changed");
	for (int state = 0; state < 3; state++) {
		uint64_t word = w->f.backends[s->backend[0]].word;
		int n, expected = 0;

		for (int i = 0; i < 40; i++)
			expected += lb_ref_index(record_of(w, fds[i]).backend_ref) == s->backend[0];
		w->f.backends[s->backend[0]].word = (word & states[state].and) + states[state].plus;
		n = sweep(w, stale, 100);
		CHECK(n == expected, "%d stale, %d expected", n, expected);
		for (int i = 0; i < n; i++)
			CHECK(stale[i].reason == states[state].reason && stale[i].record.cookie && stale[i].netns, "%u", stale[i].reason);
		if (state == 2 && w->f.destroy) {
			int errors = 0;

			destroy(w);
			for (int i = 0; i < 40; i++) {
				struct pollfd p = { .fd = fds[i], .events = POLLOUT };

				errors += poll(&p, 1, 0) == 1 && p.revents & POLLERR;
			}
			CHECK(errors == expected, "%d destroyed, %d expected", errors, expected);
			CHECK(sweep(w, stale, 100) == 0, "still there");
		}
		w->f.backends[s->backend[0]].word = word;
	}
	CHECK(same(peer_of(elsewhere), backends[0]), "the direct one was destroyed");
	for (int i = 0; i < 40; i++)
		close(fds[i]);
	close(elsewhere);
	close(once);
}

static uint32_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* TCP sockets that must be found: in storage, not in a way. */
static void tracked(struct world *w)
{
	struct endpoint vip = at4("10.96.7.1", 80);
	struct service s = service_add(&w->f, vip, IPPROTO_TCP, w->backend4, 1, (struct service_options){ .flags = LB_REGION_TRACK });
	int before = ways_in_use(w), fd = open_connected(AF_INET, SOCK_STREAM, vip);
	uint64_t word = w->f.backends[s.backend[0]].word;
	struct lb_stale stale[4];

	CHECK(accept_any(w->tcp4) == 0 && same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	CHECK(ways_in_use(w) == before, "a way");
	w->f.backends[s.backend[0]].word = word & ~((uint64_t)LB_BACKEND_EXISTING << 48);
	CHECK(sweep(w, stale, 4) == 0, "TCP goes on with a backend that takes no flows");
	w->f.backends[s.backend[0]].word = word & ~((uint64_t)LB_BACKEND_LIVE << 48);
	CHECK(sweep(w, stale, 4) == 0, "nobody said that it ends with its backend");
	for (int due = 0; due < 2; due++) {
		uint64_t reset = lb_reset_word(lb_backend_ref(s.backend[0], lb_backend_generation(word)), seconds() + (due ? -1 : 1000));

		bpf_map_update_elem(fixture_map(&w->f, "lb_resets"), &s.backend[0], &reset, BPF_ANY);
		CHECK(sweep(w, stale, 4) == due && (!due || stale[0].record.protocol == IPPROTO_TCP), "%s", due ? "not found" : "too early");
	}
	w->f.backends[s.backend[0]].word = word;
	close(fd);

	/* After a connect that failed, to a service that is not tracked; and the other way round. */
	struct endpoint nobody = w->vip4;

	nobody.port = htons(81);
	for (int last_tracked = 0; last_tracked < 2; last_tracked++) {
		fd = open_socket(AF_INET, SOCK_STREAM);
		connect_to(fd, nobody);
		CHECK(!connect_to(fd, vip) && same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
		connect(fd, &(struct sockaddr){ .sa_family = AF_UNSPEC }, sizeof(struct sockaddr));
		if (!last_tracked)
			CHECK(!connect_to(fd, w->vip4) && same(peer_of(fd), w->vip4), "peer is %s", text(peer_of(fd)));
		accept_rest(w->tcp4);
		close(fd);
	}
}

/* Without memory for the record the call fails, and says so. The limit is the namespace's own from 6.8 on. */
static void no_memory(struct world *w)
{
	const char *limit = "/proc/sys/net/core/optmem_max";
	uint64_t before = verdicts(&w->f, LB_REASON_RECORD_FAILED);
	FILE *file = kernel_version() >= 608 ? fopen(limit, "r+") : NULL;
	int old, udp = open_socket(AF_INET, SOCK_DGRAM);

	if (!file || fscanf(file, "%d", &old) != 1) {
		printf("  skipped: the limit on socket memory is the whole machine's before 6.8\n");
		close(udp);
		return;
	}
	rewind(file);
	fprintf(file, "1\n");
	fflush(file);
	CHECK(connect_to(udp, w->vip4) == refusal(w, EHOSTUNREACH), "%s", strerror(errno));
	CHECK(send_to(udp, &w->vip4) == refusal(w, EHOSTUNREACH), "%s", strerror(errno));
	CHECK(verdicts(&w->f, LB_REASON_RECORD_FAILED) == before + 2, "%lu", verdicts(&w->f, LB_REASON_RECORD_FAILED) - before);
	rewind(file);
	fprintf(file, "%d\n", old);
	fclose(file);
	CHECK(!connect_to(udp, w->vip4) && same(peer_of(udp), w->vip4), "peer is %s", text(peer_of(udp)));
	close(udp);
}

void rules_around(struct world *w)
{
	rule = "ports in use cannot be bound";
	binds(w);
	rule = "stale sockets are found and destroyed, IPv4";
	sweeps(w, AF_INET, w->vip4, &w->service[0][0], w->backend4);
	rule = "stale sockets are found and destroyed, IPv6";
	sweeps(w, AF_INET6, w->vip6, &w->service[0][1], w->backend6);
	rule = "stale sockets are found and destroyed, IPv4-mapped";
	sweeps(w, AF_INET6, w->vip4, &w->service[0][0], w->backend4);
	rule = "tracked TCP";
	tracked(w);
	rule = "what cannot be recorded fails";
	no_memory(w);
}
