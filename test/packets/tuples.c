/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows are opened, answered and go on in random order, at tc or in the driver first. The model is what came out: a flow keeps the backend and the
 * source that its first packet got, and no two flows are one to a backend.
 */
#define _GNU_SOURCE
#include "tuples.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "line.h"
#include "mutate.h"
#include "verify.h"

#define CLIENTS 200    /* addresses */
#define PORTS 20000    /* of each: so few that one client's port comes to many services */
#define TCP_SYN 0x02
#define TCP_ACK 0x10

struct tuple {
	struct endpoint client, backend, source; /* source: as the backend sees the client */
	uint16_t service; /* index of its definition */
	bool local;
};

static struct tuple *tuples;
static uint32_t tuple_count, slots, *by_client, *by_backend; /* number of the tuple, from 1 */
static struct result result;
static struct input in;
static int ext, inn;
static uint64_t passed, xdp_forwarded, tc_forwarded, local_flows;

/* ---- the model ------------------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t value)
{
	h = (h ^ value) * 0xff51afd7ed558ccdull;
	return h ^ h >> 32;
}

static uint32_t slot_of(uint8_t protocol, const struct endpoint *a, const struct endpoint *b)
{
	uint64_t h = mix(protocol, a->family);

	for (int i = 0; i < 4; i++)
		h = mix(mix(h, a->address[i]), b->address[i]);
	return mix(h, (uint32_t)a->port << 16 | b->port) & (slots - 1);
}

/* The place of the tuple of this client and service, or the empty one where it belongs. */
static uint32_t *find_client(const struct world *w, const struct endpoint *client, const struct definition *d)
{
	uint32_t i = slot_of(d->protocol, client, &d->at);

	while (by_client[i]) {
		const struct tuple *t = &tuples[by_client[i] - 1];

		if (same(t->client, *client) && &w->defined[t->service] == d)
			break;
		i = (i + 1) & (slots - 1);
	}
	return &by_client[i];
}

static uint32_t *find_backend(const struct world *w, uint8_t protocol, const struct endpoint *backend, const struct endpoint *source)
{
	uint32_t i = slot_of(protocol, backend, source);

	while (by_backend[i]) {
		const struct tuple *t = &tuples[by_backend[i] - 1];

		if (w->defined[t->service].protocol == protocol && same(t->backend, *backend) && same(t->source, *source))
			break;
		i = (i + 1) & (slots - 1);
	}
	return &by_backend[i];
}

/* ---- packets --------------------------------------------------------------------------------------------------------------- */

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static void build(uint8_t protocol, const struct endpoint *from, const struct endpoint *to, uint8_t flags)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 0xfe };
	uint32_t size = protocol == IPPROTO_TCP ? 20 : 16, header = from->family == LB_IPV4 ? 20 : 40;
	uint8_t *ip = in.frame + 14, *transport = ip + header;

	memset(in.frame, 0, 14 + header + size);
	memcpy(in.frame, macs, 12);
	put16(in.frame + 12, from->family == LB_IPV4 ? 0x0800 : 0x86dd);
	if (from->family == LB_IPV4) {
		ip[0] = 0x45;
		put16(ip + 2, header + size);
		ip[8] = 64;
		ip[9] = protocol;
		memcpy(ip + 12, from->address, 4);
		memcpy(ip + 16, to->address, 4);
	} else {
		ip[0] = 0x60;
		put16(ip + 4, size);
		ip[6] = protocol;
		ip[7] = 64;
		memcpy(ip + 8, from->address, 16);
		memcpy(ip + 24, to->address, 16);
	}
	memcpy(transport, &from->port, 2);
	memcpy(transport + 2, &to->port, 2);
	if (protocol == IPPROTO_TCP) {
		put16(transport + 6, random_below(65536)); /* something to tell packets apart by */
		transport[12] = 0x50;
		transport[13] = flags;
	} else {
		put16(transport + 4, size);
		put16(transport + 6, 1); /* not none: to be mended */
		put16(transport + 8, random_below(65536));
	}
	in.length = 14 + header + size;
	view_mend(in.frame, in.length);
}

static const char *broken(const char *wrong)
{
	printf("%s\nin  %s ", wrong, hook_names[in.hook]);
	line_print_frame(in.frame, in.length);
	printf("\nout %d ", result.verdict);
	line_print_frame(result.frame, result.length);
	puts("");
	return wrong;
}

/* Sends the packet that was built; `out`: what became of it, and whether it left. */
static const char *pass(const struct world *w, enum hook hook, int device, bool driver, struct view *out, bool *left)
{
	struct view before;

	in.hook = hook;
	in.device = device;
	if (driver) {
		in.hook = HOOK_XDP;
		if (world_run(w, HOOK_XDP, device, in.frame, in.length, &result))
			return broken("the kernel does not take it");
		*left = result.verdict == 3 || result.verdict == 4;
		if (!*left && (result.verdict != 2 || result.length != in.length || memcmp(in.frame, result.frame, in.length)))
			return broken("XDP neither forwards it nor hands it on as it came");
		in.hook = *left ? HOOK_XDP : hook;
		xdp_forwarded += *left;
	}
	if (in.hook != HOOK_XDP) {
		if (world_run(w, hook, device, in.frame, in.length, &result))
			return broken("the kernel does not take it");
		*left = result.verdict == 7;
		if (!*left && result.verdict != -1)
			return broken("dropped");
		tc_forwarded += *left;
	}
	passed++;
	if (!view_read(in.frame, in.length, &before) || !view_read(result.frame, result.length, out))
		return broken("not a packet");
	if (out->network_error || out->transport_error)
		return broken("a checksum is wrong");
	if (result.length != in.length || out->protocol != before.protocol || out->hops != before.hops - *left ||
	    memcmp(in.frame + before.transport + 8, result.frame + out->transport + 8, 6))
		return broken("something else has changed");
	return NULL;
}

/* ---- what is promised -------------------------------------------------------------------------------------------------------- */

static bool same_address(const struct endpoint *a, const struct endpoint *b) { return !memcmp(a->address, b->address, sizeof a->address); }

/* A packet of the flow's client. The first one says where the flow is. */
static const char *ask(const struct world *w, uint32_t number, bool first)
{
	struct tuple *t = &tuples[number - 1];
	const struct definition *d = &w->defined[t->service];
	struct endpoint node = { .family = d->at.family };
	const char *wrong;
	uint32_t *place;
	struct view out;
	bool left;
	int i = 0;

	build(d->protocol, &t->client, &d->at, first ? TCP_SYN : TCP_ACK);
	wrong = pass(w, HOOK_INGRESS, ext, random_below(2), &out, &left);
	if (wrong)
		return wrong;
	if (!first) {
		if (!same(out.destination, t->backend) || !same(out.source, t->source) || left == t->local)
			return broken("a packet of a flow goes another way than its first");
		return NULL;
	}
	while (i < d->count && !same(d->backend[i], out.destination))
		i++;
	if (i == d->count)
		return broken("it goes to none of the service's backends");
	t->backend = out.destination;
	t->source = out.source;
	t->local = d->local >> i & 1;
	local_flows += t->local;
	if (left == t->local)
		return broken("a local backend's packet left, or a remote one's did not");
	if (node.family == LB_IPV4)
		node.address[0] = w->node->address4;
	else
		memcpy(node.address, w->node->address6, sizeof node.address);
	if (!same_address(&t->source, t->local ? &t->client : &node))
		return broken("its source is neither the client's nor the node's");
	if (!same(t->source, t->client) && (ntohs(t->source.port) < w->node->snat_low || ntohs(t->source.port) > w->node->snat_high))
		return broken("its source port is none of the range");
	place = find_backend(w, d->protocol, &t->backend, &t->source);
	if (*place)
		return broken("another flow has this source at this backend");
	*place = number;
	return NULL;
}

static const char *answer(const struct world *w, uint32_t number)
{
	const struct tuple *t = &tuples[number - 1];
	const struct definition *d = &w->defined[t->service];
	const char *wrong;
	struct view out;
	bool left;

	build(d->protocol, &t->backend, &t->source, TCP_SYN | TCP_ACK);
	wrong = t->local ? pass(w, HOOK_EGRESS, ext, false, &out, &left) : pass(w, HOOK_INGRESS, random_below(2) ? ext : inn, random_below(2), &out, &left);
	if (wrong)
		return wrong;
	if (!same(out.destination, t->client))
		return broken("an answer goes to somebody else than who asked");
	if (!same(out.source, d->at))
		return broken("an answer comes from something else than what was asked");
	return left == t->local ? broken("an answer left by the wrong way") : NULL;
}

static uint32_t new_tuple(const struct world *w)
{
	struct tuple *t = &tuples[tuple_count];
	uint32_t *place;

	do {
		const struct definition *d;
		uint8_t *bytes = (uint8_t *)t->client.address;

		memset(t, 0, sizeof *t);
		t->service = random_below(w->count);
		d = &w->defined[t->service];
		t->client.family = d->at.family;
		t->client.port = htons(40000 + random_below(PORTS));
		if (t->client.family == LB_IPV4)
			t->client.address[0] = htonl(0xc6336400 + random_below(CLIENTS));
		else {
			t->client.address[0] = htonl(0x20010db8);
			t->client.address[1] = htonl(0x00990000);
			bytes[15] = random_below(CLIENTS);
		}
		place = find_client(w, &t->client, d);
	} while (*place);
	*place = ++tuple_count;
	return tuple_count;
}

static void report(const struct world *w)
{
	printf("%u tuples through %d frontends: %llu packets, %llu forwarded by XDP, %llu by tc; %llu of the flows are local\n", tuple_count, w->count,
	       (unsigned long long)passed, (unsigned long long)xdp_forwarded, (unsigned long long)tc_forwarded, (unsigned long long)local_flows);
}

bool tuples_run(struct world *w, uint32_t count, uint32_t seed)
{
	const char *wrong = NULL;

	random_state = seed * 0x9e3779b97f4a7c15ull | 1;
	ext = if_nametoindex("ext");
	inn = if_nametoindex("inn");
	w->node->idle_udp = w->node->idle_tcp; /* none may end before all have begun */
	for (slots = 1024; slots < 3 * count; slots *= 2)
		;
	tuples = calloc(count, sizeof *tuples);
	by_client = calloc(slots, sizeof *by_client);
	by_backend = calloc(slots, sizeof *by_backend);
	if (!tuples || !by_client || !by_backend)
		die("memory for %u tuples", count);
	while (!wrong && tuple_count < count) {
		uint32_t number = new_tuple(w);

		wrong = ask(w, number, true);
		if (!wrong)
			wrong = answer(w, number);
		if (!wrong)
			wrong = ask(w, number, false);
		if (!wrong && random_below(2))
			wrong = random_below(2) ? ask(w, 1 + random_below(tuple_count), false) : answer(w, 1 + random_below(tuple_count));
		if (!(tuple_count & 0xffff))
			report(w);
	}
	/* All of them are there at once: each is where it was. */
	for (uint32_t number = 1; !wrong && number <= tuple_count; number++)
		wrong = number & 1 ? ask(w, number, false) : answer(w, number);
	report(w);
	return !wrong;
}
