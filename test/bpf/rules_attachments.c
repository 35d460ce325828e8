/* SPDX-License-Identifier: Apache-2.0 */
/* Which calls an attachment is for: nested cgroups, namespaces. */
#define _GNU_SOURCE
#include "rules.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t uses(struct world *w, const struct service *s)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < s->count; i++)
		sum += used(&w->f, s->backend[i]);
	return sum;
}

/* Calls from the inner cgroup; both cgroups have the balancer's programs. */
static void nested_once(struct world *w, int family, struct endpoint vip, const struct endpoint *backends, const int *listeners, int six)
{
	const struct service *tcp = &w->service[1][six], *udp = &w->service[0][six];
	uint64_t tcp_before = uses(w, tcp), udp_before = uses(w, udp);
	uint64_t translated = verdicts(&w->f, LB_REASON_ALREADY_TRANSLATED);
	int fd, reuse = open_socket(family, SOCK_DGRAM);

	for (int i = 0; i < 5; i++) {
		fd = open_connected(family, SOCK_STREAM, vip);
		CHECK(accept_any(listeners) >= 0, "no backend");
		CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
		close(fd);
		fd = open_connected(family, SOCK_STREAM, backends[0]);
		CHECK(accept_any(listeners) == 0, "went elsewhere");
		CHECK(same(peer_of(fd), backends[0]), "peer is %s", text(peer_of(fd)));
		close(fd);

		CHECK(!connect_to(reuse, vip), "%s", strerror(errno));
		CHECK(same(peer_of(reuse), vip), "peer is %s", text(peer_of(reuse)));
		CHECK(!connect_to(reuse, backends[i % BACKENDS]), "%s", strerror(errno));
		CHECK(same(peer_of(reuse), backends[i % BACKENDS]), "peer is %s", text(peer_of(reuse)));
	}
	CHECK(verdicts(&w->f, LB_REASON_ALREADY_TRANSLATED) == translated + 10, "%lu", verdicts(&w->f, LB_REASON_ALREADY_TRANSLATED) - translated);
	CHECK(uses(w, tcp) == tcp_before + 5, "%lu TCP connections", uses(w, tcp) - tcp_before);
	CHECK(uses(w, udp) == udp_before + 5, "%lu UDP connections", uses(w, udp) - udp_before);
	close(reuse);

	fd = open_socket(family, SOCK_DGRAM);
	for (int i = 0; i < 5; i++) {
		CHECK(!send_to(fd, &vip), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1 && same(source_of_answer(fd), vip), "the answer bears another address");
	}
	CHECK(uses(w, udp) == udp_before + 6, "%lu", uses(w, udp) - udp_before);
	close(fd);
}

/* A backend whose own address is another service's: translated once, it is not translated again. */
static void nested_chain(struct world *w)
{
	struct endpoint vip = at4("10.96.6.1", 80), elsewhere = at4("127.0.0.1", 7003);
	struct service outer[2];
	int fd;

	for (int tcp = 0; tcp < 2; tcp++) {
		int protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;

		service_add(&w->f, vip, protocol, &w->backend4[0], 1, (struct service_options){});
		outer[tcp] = service_add(&w->f, w->backend4[0], protocol, &elsewhere, 1, (struct service_options){});
	}
	fd = open_connected(AF_INET, SOCK_STREAM, vip);
	CHECK(accept_any(w->tcp4) == 0, "translated twice");
	CHECK(same(peer_of(fd), vip), "peer is %s", text(peer_of(fd)));
	close(fd);
	/* That address itself goes where it says, whatever the socket did before. */
	fd = open_connected(AF_INET, SOCK_STREAM, w->backend4[0]);
	CHECK(accept_any(w->tcp4) == 2, "not translated");
	CHECK(same(peer_of(fd), w->backend4[0]), "peer is %s", text(peer_of(fd)));
	close(fd);

	fd = open_connected(AF_INET, SOCK_DGRAM, vip);
	CHECK(same(peer_of(fd), vip) && !uses(w, &outer[0]), "translated twice");
	CHECK(!connect_to(fd, w->backend4[0]), "%s", strerror(errno));
	CHECK(uses(w, &outer[0]) == 1 && same(peer_of(fd), w->backend4[0]), "peer is %s", text(peer_of(fd)));
	close(fd);

	fd = open_socket(AF_INET, SOCK_DGRAM);
	for (int i = 0; i < 3; i++) {
		CHECK(!send_to(fd, &vip), "%s", strerror(errno));
		CHECK(echo(w, 1) == 1 && same(source_of_answer(fd), vip), "the answer bears another address");
	}
	CHECK(uses(w, &outer[0]) == 1, "translated twice");
	CHECK(!send_to(fd, &w->backend4[0]), "%s", strerror(errno));
	CHECK(uses(w, &outer[0]) == 2, "not translated");
	echo(w, 1);
	close(fd);
	for (int tcp = 0; tcp < 2; tcp++)
		w->f.slots[outer[tcp].slot].word = lb_slot_absent(2);
}

static void nested_refusal(struct world *w)
{
	struct endpoint vip = at4("10.96.0.2", 80); /* has no backends */
	uint64_t before = verdicts(&w->f, LB_REASON_NO_BACKENDS);
	int fd = open_socket(AF_INET, SOCK_DGRAM);

	CHECK(connect_to(fd, vip) == refusal(w, ECONNREFUSED), "%s", strerror(errno));
	if (w->f.variant.retval)
		CHECK(verdicts(&w->f, LB_REASON_NO_BACKENDS) == before + 1, "counted %lu times", verdicts(&w->f, LB_REASON_NO_BACKENDS) - before);
	close(fd);
}

/* The inner attachment covers no namespace: the outer one translates, also for sockets that the inner one once served. */
static void inner_elsewhere(struct world *w)
{
	struct endpoint vip = at4("10.99.0.1", 53);
	int fd = open_connected(AF_INET, SOCK_DGRAM, w->vip4), tcp = open_socket(AF_INET, SOCK_STREAM);
	struct endpoint nobody = w->vip4;

	nobody.port = htons(81);
	connect_to(tcp, nobody);
	send_to(fd, &vip);
	fixture_detach(&w->f, 1);
	fixture_load_hooks(&w->f, 1, false);
	fixture_attach(&w->f, 1);
	CHECK(!connect_to(fd, w->vip4), "%s", strerror(errno));
	CHECK(same(peer_of(fd), w->vip4) && record_of(w, fd).attachment == 0, "attachment %d", record_of(w, fd).attachment);
	CHECK(!send_to(fd, &vip), "%s", strerror(errno));
	CHECK(!connect_to(fd, w->backend4[0]), "%s", strerror(errno));
	CHECK(same(peer_of(fd), w->backend4[0]), "peer is %s", text(peer_of(fd)));
	CHECK(!connect_to(tcp, w->vip4), "%s", strerror(errno));
	CHECK(accept_any(w->tcp4) >= 0 && same(peer_of(tcp), w->vip4), "peer is %s", text(peer_of(tcp)));
	CHECK(verdicts(&w->f, LB_REASON_OTHER_NAMESPACE) >= 3, "%lu", verdicts(&w->f, LB_REASON_OTHER_NAMESPACE));
	close(fd);
	close(tcp);
}

/* An attachment went, and its id is another cgroup's now: what it left in sockets is nobody's translation. */
static void id_again(struct world *w)
{
	struct endpoint nobody = w->vip4, vip = at4("10.99.0.1", 53);
	int udp, tcp;

	nobody.port = htons(81);
	udp = open_connected(AF_INET, SOCK_DGRAM, w->vip4);
	tcp = open_socket(AF_INET, SOCK_STREAM);
	CHECK(connect_to(tcp, nobody) == ECONNREFUSED, "%s", strerror(errno));
	CHECK(!send_to(udp, &vip), "%s", strerror(errno));
	CHECK(record_of(w, udp).attachment == 1, "attachment %d", record_of(w, udp).attachment);
	fixture_detach(&w->f, 1);
	w->f.control->attachments |= 2;
	CHECK(!connect_to(tcp, w->vip4), "%s", strerror(errno));
	CHECK(accept_any(w->tcp4) >= 0 && same(peer_of(tcp), w->vip4), "peer is %s", text(peer_of(tcp)));
	CHECK(!send_to(udp, &vip), "%s", strerror(errno));
	CHECK(!connect_to(udp, w->vip4) && record_of(w, udp).attachment == 0, "attachment %d", record_of(w, udp).attachment);
	w->f.control->attachments &= ~2ull;
	fixture_attach(&w->f, 1);
	close(udp);
	close(tcp);
}

static void namespaces(struct world *w)
{
	struct lb_netns_key key = { .cookie = namespace_cookie(w) };
	__u8 present = 1;
	int fd;

	fixture_detach(&w->f, 0);
	fixture_load_hooks(&w->f, 0, false);
	fixture_attach(&w->f, 0);
	fd = open_socket(AF_INET, SOCK_DGRAM);
	CHECK(connect_to(fd, w->vip4) == ENETUNREACH, "%s", strerror(errno));
	bpf_map_update_elem(fixture_map(&w->f, "lb_netns"), &key, &present, BPF_ANY);
	CHECK(!connect_to(fd, w->vip4) && same(peer_of(fd), w->vip4), "%s", strerror(errno));
	bpf_map_delete_elem(fixture_map(&w->f, "lb_netns"), &key);
	CHECK(connect_to(fd, w->vip6) && send_to(fd, &w->vip4) == ENETUNREACH, "%s", strerror(errno));
	close(fd);
}

void rules_attachments(struct world *w)
{
	fixture_attach(&w->f, 1);
	fixture_enter(1);
	rule = "nested cgroups translate once, IPv4";
	nested_once(w, AF_INET, w->vip4, w->backend4, w->tcp4, 0);
	rule = "nested cgroups translate once, IPv6";
	nested_once(w, AF_INET6, w->vip6, w->backend6, w->tcp6, 1);
	rule = "nested cgroups translate once, IPv4-mapped";
	nested_once(w, AF_INET6, w->vip4, w->backend4, w->tcp4, 0);
	rule = "nested cgroups and a backend that is a service";
	nested_chain(w);
	rule = "nested cgroups count a refusal once";
	nested_refusal(w);
	rule = "an attachment's id is given out again";
	id_again(w);
	rule = "an inner attachment for other namespaces leaves the call to the outer one";
	inner_elsewhere(w);
	fixture_detach(&w->f, 1);
	fixture_enter(0);
	rule = "an attachment covers the namespaces it names";
	namespaces(w);
}
