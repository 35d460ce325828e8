/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "mutate.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "verify.h"
#include "wrap.h"

#define SEEDS 4096

uint64_t random_state = 1;
static struct input *seeds[SEEDS];
static int seed_count;

uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 32) * n >> 32;
}

static bool one_in(uint32_t n) { return !random_below(n); }

void mutate_add_seed(int hook, int device, const uint8_t *frame, uint32_t length)
{
	struct input *seed;

	if (seed_count == SEEDS || length > 1600)
		return;
	seed = calloc(1, sizeof *seed);
	seed->hook = hook;
	seed->device = device;
	seed->length = length;
	memcpy(seed->frame, frame, length);
	seeds[seed_count++] = seed;
}

/* ---- building ------------------------------------------------------------------------------------------------------------- */

static uint8_t *put(struct input *in, const void *bytes, uint32_t length)
{
	uint8_t *at = in->frame + in->length;

	memcpy(at, bytes, length);
	in->length += length;
	return at;
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static void put_link(struct input *in, uint16_t type)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 0xfe };
	uint8_t tail[6] = { 0x81, 0x00, 0x00, 0x64, type >> 8, type };

	in->length = 0;
	put(in, macs, 12);
	if (one_in(12))
		put(in, tail, 4);
	put(in, tail + 4, 2);
}

/* IP header and, sometimes, options or extension headers. Lengths are put in by finish(). */
static uint32_t put_network(struct input *in, const struct endpoint *from, const struct endpoint *to, uint8_t protocol)
{
	uint32_t start = in->length;
	uint8_t four[60] = { 0x45, random_below(4) ? 0 : random_below(256), 0, 0, random_below(256), random_below(256), 0, 0, 64, protocol };
	uint8_t six[40] = { 0x60, 0, 0, 0, 0, 0, protocol, 64 };
	uint8_t extension[16] = { protocol, 1, 1, 12 };

	if (from->family == LB_IPV4) {
		memcpy(four + 12, from->address, 4);
		memcpy(four + 16, to->address, 4);
		if (one_in(2))
			four[6] = 0x40;
		if (one_in(12)) {
			uint32_t words = 1 + random_below(10);

			four[0] += words;
			memset(four + 20, 1, words * 4);
		}
		put(in, four, (four[0] & 15) * 4);
	} else {
		memcpy(six + 8, from->address, 16);
		memcpy(six + 24, to->address, 16);
		if (one_in(12)) {
			static const uint8_t kinds[] = { 0, 43, 60 };

			six[6] = kinds[random_below(3)];
			if (six[6] == 43)
				extension[2] = extension[3] = 0;
			put(in, six, sizeof six);
			put(in, extension, sizeof extension);
		} else
			put(in, six, sizeof six);
	}
	return start;
}

static void put_transport(struct input *in, uint8_t protocol, __be16 source, __be16 destination)
{
	static const uint8_t flags[] = { 0x02, 0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0xff };
	uint8_t header[20] = {}, payload[256];
	uint32_t length = protocol == IPPROTO_TCP ? 20 : protocol == IPPROTO_UDP ? 8 : 12;
	uint32_t more = one_in(3) ? 0 : random_below(one_in(8) ? sizeof payload : 24);

	memcpy(header, &source, 2);
	memcpy(header + 2, &destination, 2);
	if (protocol == IPPROTO_TCP) {
		header[12] = 0x50;
		header[13] = flags[random_below(sizeof flags)];
	} else if (protocol == IPPROTO_UDP) {
		put16(header + 4, 8 + more);
		header[7] = !one_in(16); /* some without a checksum, where that may be */
	}
	put(in, header, length);
	for (uint32_t i = 0; i < more; i++)
		payload[i] = random_below(256);
	put(in, payload, more);
}

static void finish(struct input *in, uint32_t network)
{
	uint8_t *ip = in->frame + network;

	if (ip[0] >> 4 == 4)
		put16(ip + 2, in->length - network);
	else
		put16(ip + 4, in->length - network - 40);
	view_mend(in->frame, in->length);
}

static void build(struct input *in, uint8_t protocol, const struct endpoint *from, const struct endpoint *to)
{
	uint32_t network;

	put_link(in, from->family == LB_IPV4 ? 0x0800 : 0x86dd);
	network = put_network(in, from, to, protocol);
	put_transport(in, protocol, from->port, to->port);
	finish(in, network);
}

/* ---- flows ------------------------------------------------------------------------------------------------------------------ */

static struct endpoint random_client(uint8_t family)
{
	/* Few addresses and ports, so that flows go on and tuples collide; sometimes any. */
	struct endpoint e = { .family = family, .port = htons(one_in(16) ? random_below(65536) : 50000 + random_below(64)) };
	uint8_t *bytes = (uint8_t *)e.address;

	if (family == LB_IPV4)
		e.address[0] = htonl(0xc6336400 + random_below(256));
	else {
		e.address[0] = htonl(0x20010db8);
		e.address[1] = htonl(0x00990000);
		bytes[15] = random_below(256);
	}
	return e;
}

static const struct definition *random_service(const struct world *w) { return &w->defined[random_below(w->count)]; }

static void make_request(const struct world *w, struct input *in)
{
	const struct definition *d = random_service(w);
	struct endpoint client = random_client(d->at.family);

	build(in, d->protocol, &client, &d->at);
	in->hook = HOOK_INGRESS;
}

/* Makes the data of an answer such that the checksum of what the client gets comes to 0, of which UDP has two forms. */
static void make_zero_sum(struct input *in, const struct flow *f)
{
	static struct input out;
	struct view v;
	uint8_t *sum, *word;
	uint32_t size, first;

	if (!view_read(in->frame, in->length, &v) || v.protocol != IPPROTO_UDP || v.no_checksum || v.end < v.transport + 10)
		return;
	out = *in;
	size = v.family == LB_IPV4 ? 4 : 16;
	first = v.network + (v.family == LB_IPV4 ? 12 : 8);
	memcpy(out.frame + first, f->service.address, size);
	memcpy(out.frame + first + size, f->client.address, size);
	memcpy(out.frame + v.transport, &f->service.port, 2);
	memcpy(out.frame + v.transport + 2, &f->client.port, 2);
	view_mend(out.frame, out.length);
	sum = out.frame + v.transport + 6;
	word = in->frame + v.transport + 8;
	size = (sum[0] << 8 | sum[1]) + (word[0] << 8 | word[1]);
	put16(word, (size & 0xffff) + (size >> 16));
	view_mend(in->frame, in->length);
}

static void make_answer(struct input *in)
{
	const struct flow *f = model_pick(random_below(1u << 31));
	struct endpoint from;

	if (!f)
		return;
	from = f->backend;
	if (one_in(32))
		from.port ^= htons(1 << random_below(16));
	build(in, f->protocol, &from, &f->source);
	if (one_in(32))
		make_zero_sum(in, f);
	in->hook = f->local ? HOOK_EGRESS : HOOK_INGRESS;
}

/* An error about a packet of a flow: from the backend's side, or from the client's. */
static void make_error(struct input *in)
{
	const struct flow *f = model_pick(random_below(1u << 31));
	static const uint8_t types4[] = { 3, 3, 11, 12, 5, 4 }, types6[] = { 1, 2, 3, 4 };
	struct input quoted = {};
	struct endpoint router;
	bool backends = one_in(2);
	uint8_t head[8] = {};
	uint32_t network, length;

	if (!f)
		return;
	router = random_client(f->client.family);
	build(&quoted, f->protocol, backends ? &f->source : &f->service, backends ? &f->backend : &f->client);
	put_link(in, f->client.family == LB_IPV4 ? 0x0800 : 0x86dd);
	network = put_network(in, &router, backends ? &f->source : &f->service, f->client.family == LB_IPV4 ? IPPROTO_ICMP : 58);
	head[0] = f->client.family == LB_IPV4 ? types4[random_below(6)] : types6[random_below(4)];
	head[1] = random_below(5);
	put16(head + 6, 576 + random_below(1000));
	put(in, head, 8);
	length = quoted.length - 14;
	put(in, quoted.frame + 14, one_in(4) ? random_below(length) : length);
	finish(in, network);
	in->hook = HOOK_INGRESS;
}

/* What another load balancer hands over for a backend of this node, or would like to. */
static void make_wrapped(const struct world *w, struct input *in)
{
	const struct definition *d = random_service(w);
	bool six = one_in(2);
	struct endpoint client, backend, from = one_in(8) ? w->stranger[six] : w->peer[six], to = from;
	struct view v;
	uint32_t shift;

	for (int i = 0; i < 64 && !d->local; i++)
		d = random_service(w);
	if (!from.family || !d->count)
		return;
	client = one_in(16) ? w->peer[d->at.family == LB_IPV6] : random_client(d->at.family);
	backend = d->backend[random_below(d->count)];
	/* To the node, or to the backend itself. */
	if (six == (d->at.family == LB_IPV6) && one_in(2))
		to = backend;
	else if (six)
		memcpy(to.address, w->node->address6, sizeof to.address);
	else
		to.address[0] = w->node->address4;
	switch (random_below(3)) {
	case 0:
		build(in, d->protocol, &client, &d->at);
		break;
	default:
		build(in, d->protocol, &client, one_in(16) ? &d->at : &backend);
	}
	/* No tags inside. */
	if (!view_read(in->frame, in->length, &v))
		return;
	shift = v.network - 14;
	memmove(in->frame + 12, in->frame + 12 + shift, in->length - 12 - shift);
	in->length -= shift;
	if (same(v.destination, d->at))
		wrap_ipip(in, &from, &to);
	else if (one_in(2))
		wrap_geneve(in, &from, &to, &d->at);
	else if (v.transport - v.network == (v.family == LB_IPV4 ? 20 : 40))
		wrap_option(in, &d->at);
	in->hook = HOOK_INGRESS;
}

/* ---- mutations ----------------------------------------------------------------------------------------------------------------- */

static void set_known_address(const struct world *w, struct input *in, const struct view *v)
{
	const struct definition *d = random_service(w);
	const struct endpoint *to = d->count && one_in(2) ? &d->backend[random_below(d->count)] : &d->at;
	uint32_t size = v->family == LB_IPV4 ? 4 : 16, first = v->network + (v->family == LB_IPV4 ? 12 : 8);

	if (to->family == v->family)
		memcpy(in->frame + first + (one_in(2) ? size : 0), one_in(8) ? (const void *)&w->node->address4 : to->address, size);
}

static void mutate(const struct world *w, struct input *in)
{
	static const uint8_t interesting[] = { 0, 1, 2, 4, 5, 6, 17, 44, 58, 59, 60, 64, 127, 128, 132, 254, 255 };
	struct view v;
	bool sound = view_read(in->frame, in->length, &v);
	uint32_t at = 12 + random_below(in->length - 12);

	switch (random_below(sound ? 12 : 6)) {
	case 0:
		in->frame[at] ^= 1 << random_below(8);
		break;
	case 1:
		in->frame[at] = random_below(256);
		break;
	case 2:
		in->frame[at] = interesting[random_below(sizeof interesting)];
		break;
	case 3: /* cut */
		if (in->length > 60)
			in->length = 15 + random_below(in->length - 15);
		break;
	case 4: /* a trailer */
		for (uint32_t n = random_below(64); n && in->length < sizeof in->frame; n--)
			in->frame[in->length++] = random_below(256);
		break;
	case 5: /* a piece moved */
		memmove(in->frame + at, in->frame + 12 + random_below(in->length - 12), random_below(in->length - at > 16 ? 16 : in->length - at));
		break;
	case 6: /* lengths */
		put16(in->frame + v.network + (v.family == LB_IPV4 ? 2 : 4), random_below(one_in(2) ? 65536 : in->length));
		break;
	case 7: /* hops */
		in->frame[v.network + (v.family == LB_IPV4 ? 8 : 7)] = random_below(3);
		break;
	case 8: /* fragment word, or what follows */
		if (v.family == LB_IPV4)
			put16(in->frame + v.network + 6, random_below(one_in(2) ? 65536 : 4));
		else
			in->frame[v.network + 6] = interesting[random_below(sizeof interesting)];
		break;
	case 9:
		if (v.transport + 4 < in->length)
			put16(in->frame + v.transport + 2 * random_below(2), random_below(65536));
		break;
	case 10:
		set_known_address(w, in, &v);
		break;
	case 11: /* header lengths */
		in->frame[one_in(2) ? v.network : v.transport + 12 < in->length ? v.transport + 12 : v.network] = random_below(256);
		break;
	}
}

void mutate_next(const struct world *w, struct input *in)
{
	uint32_t kind = random_below(100);

	in->length = 0;
	in->device = 0;
	if (kind < 30 && seed_count)
		memcpy(in, seeds[random_below(seed_count)], sizeof *in);
	else if (kind < 55)
		make_answer(in);
	else if (kind < 60)
		make_error(in);
	else if (kind < 75)
		make_wrapped(w, in);
	if (!in->length)
		make_request(w, in);
	if (kind < 30 || one_in(4)) {
		for (uint32_t n = 1 + random_below(3); n; n--)
			mutate(w, in);
		if (one_in(2))
			view_mend(in->frame, in->length);
	}
}
