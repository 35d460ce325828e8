/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <arpa/inet.h>
#include <string.h>

#include "model.h"
#include "verify.h"
#include "wrap.h"

#define ICMPV6 58

static const struct definition *service_at(const struct world *w, uint8_t protocol, const struct endpoint *at)
{
	for (int i = 0; i < w->count; i++)
		if (w->defined[i].protocol == protocol && same(w->defined[i].at, *at))
			return &w->defined[i];
	return NULL;
}

static bool same_address(const struct endpoint *a, const struct endpoint *b)
{
	return a->family == b->family && !memcmp(a->address, b->address, sizeof a->address);
}

static struct endpoint node_address(const struct world *w, uint8_t family)
{
	struct endpoint e = { .family = family };

	if (family == LB_IPV4)
		e.address[0] = w->node->address4;
	else
		memcpy(e.address, w->node->address6, sizeof e.address);
	return e;
}

/* Of this node, or one that this node translates: a packet sent there comes back. */
static bool is_ours(const struct world *w, const struct endpoint *e)
{
	struct endpoint node = node_address(w, e->family);

	if (same_address(e, &node))
		return true;
	for (int i = 0; i < w->count; i++)
		if (same_address(e, &w->defined[i].at))
			return true;
	return false;
}

static bool is_snat_port(const struct world *w, __be16 port)
{
	return ntohs(port) >= w->node->snat_low && ntohs(port) <= w->node->snat_high;
}

/* Of a SYN: where the offered segment size lies; 0: nowhere. */
static uint32_t segment_size_at(const uint8_t *frame, const struct view *v)
{
	uint32_t at = v->transport + 20, end = v->transport + (frame[v->transport + 12] >> 4) * 4;

	if (v->protocol != IPPROTO_TCP || v->later || !(frame[v->transport + 13] & 2))
		return 0;
	while (at + 4 <= end && at + 4 <= v->end && frame[at]) {
		if (frame[at] == 2 && frame[at + 1] == 4)
			return at + 2;
		if (frame[at] != 1 && frame[at + 1] < 2)
			return 0;
		at += frame[at] == 1 ? 1 : frame[at + 1];
	}
	return 0;
}

/* An answer to who is asked through an outer header offers smaller segments, never tiny ones. */
static bool allow_smaller_segments(uint8_t *a, uint8_t *b, const struct view *v)
{
	uint32_t at = segment_size_at(a, v), was, is;

	if (!at)
		return true;
	was = a[at] << 8 | a[at + 1];
	is = b[at] << 8 | b[at + 1];
	if (is != was && (is > was || is < 536 || was - is > 120))
		return false;
	memset(a + at, 0, 2);
	memset(b + at, 0, 2);
	return true;
}

/* Everything that forwarding has no business with. */
static const char *rest_is_same(const struct input *in, const struct view *before, const struct result *out, const struct view *after)
{
	static uint8_t a[4096], b[4096];

	if (in->length != out->length)
		return "the length of the frame has changed";
	if (before->transport != after->transport || before->protocol != after->protocol || before->end != after->end)
		return "headers lie elsewhere";
	memcpy(a, in->frame, in->length);
	memcpy(b, out->frame, out->length);
	if (in->hook == HOOK_EGRESS && !allow_smaller_segments(a, b, before))
		return "a segment size became none that fits";
	view_blank(a, before);
	view_blank(b, after);
	if (memcmp(a, b, in->length))
		return "bytes that are none of addresses, ports, hops and checksums have changed";
	if (before->network_error != after->network_error)
		return "the IP header's checksum is off by another amount than before";
	if (before->transport_error != after->transport_error && !before->fragment)
		return "the transport checksum is off by another amount than before";
	if (before->no_checksum != after->no_checksum)
		return "a datagram without a checksum got one, or lost it";
	return NULL;
}

static const char *hops_are_right(const struct view *before, const struct view *after, bool forwarded)
{
	if (after->hops != before->hops - forwarded)
		return "the hops are wrong";
	return forwarded && !after->hops ? "forwarded without a hop left" : NULL;
}

static const char *check_to_backend(const struct world *w, const struct definition *d, const struct view *before, const struct view *after,
				    bool forwarded, bool *full)
{
	struct flow f = { .client = before->source, .service = before->destination, .protocol = before->protocol };
	/* A connection that a peer began translated is where that has said. */
	const struct flow *known = model_by_client(before->protocol, &before->source, &before->destination);
	struct endpoint node = node_address(w, before->family);
	int i = 0;

	while (i < d->count && !same(d->backend[i], after->destination))
		i++;
	if (i == d->count && known && known->doubted)
		return NULL;
	if (i == d->count && known && same(known->backend, after->destination))
		return known->local == forwarded ? "a packet of a peer's connection went the wrong way" : NULL;
	if (i == d->count)
		return "a packet for a service goes to none of its backends";
	/* A backend that calls itself has to see somebody else. */
	f.local = d->local >> i & 1 && !same_address(&before->source, &after->destination);
	f.backend = after->destination;
	f.source = after->source;
	if (f.local == forwarded)
		return f.local ? "a packet for a local backend was sent out" : "a packet for a remote backend was not sent out";
	if (f.local && !same_address(&after->source, &before->source))
		return "a local backend does not see the client";
	if (!f.local && !same_address(&after->source, &node))
		return "a remote backend does not see this node";
	/* A local backend sees another port, too, when the client's is taken by another service with the same backend. */
	if (!is_snat_port(w, after->source.port) && !(f.local && after->source.port == before->source.port))
		return "a source port that is none of SNAT";
	*full = !model_learn(&f);
	return NULL;
}

/* A connection whose answers go another way. */
static void learn_direct(const struct view *before, const struct endpoint *backend, bool *full)
{
	struct flow f = { .client = before->source, .service = before->destination, .backend = *backend, .source = before->source,
			  .protocol = before->protocol, .dsr = true };

	*full = !model_learn(&f);
}

/* Direct server return: the packet one hop on, to a backend; as it came or translated, in an outer header, with an option or in a frame. */
static const char *check_direct(const struct world *w, const struct definition *d, const struct input *in, const struct view *before,
				const struct result *out, const struct view *outer, bool *full)
{
	static struct input unwrapped;
	static struct result inner;
	struct endpoint node = node_address(w, outer->family), service;
	enum wrapping wrapping = wrap_read(out->frame, out->length, &unwrapped, &service);
	struct view after;
	const char *wrong;
	int i = 0;

	if (outer->network_error && (wrapping == WRAP_IPIP || wrapping == WRAP_GENEVE))
		return "an outer header has a wrong checksum";
	if (wrapping == WRAP_IPIP || wrapping == WRAP_GENEVE) {
		while (i < d->count && !same_address(d->via[i].family ? &d->via[i] : &d->backend[i], &outer->destination))
			i++;
		if (i == d->count || !same_address(&outer->source, &node))
			return "an outer header is not from this node to a backend";
	}
	if (wrapping != WRAP_NONE && wrapping != WRAP_IPIP && !same(service, before->destination))
		return "a translated packet names another service";
	/* A packet that had an option of this kind before, and needs none. */
	if (wrapping == WRAP_OPTION && in->length == out->length)
		wrapping = WRAP_NONE;
	inner.length = wrapping == WRAP_NONE ? out->length : unwrapped.length;
	memcpy(inner.frame, wrapping == WRAP_NONE ? out->frame : unwrapped.frame, inner.length);
	if (!view_read(inner.frame, inner.length, &after))
		return "a wrapped packet contradicts itself";
	if (wrapping == WRAP_OPTION) /* of the header as it left */
		after.network_error = outer->network_error, after.transport_error = outer->transport_error;
	if (!same(after.source, before->source))
		return "a backend does not see the client";
	if (wrapping == WRAP_NONE && same(after.destination, before->destination)) {
		/* As it is, in a frame to a neighbour. */
		if (w->node->dispatch != LB_DISPATCH_L2)
			return "sent out as it came in";
		wrong = hops_are_right(before, &after, false);
		return wrong ? wrong : rest_is_same(in, before, &inner, &after);
	}
	if (wrapping == WRAP_IPIP) {
		if (!same(after.destination, before->destination))
			return "a wrapped packet has other addresses than before";
	} else {
		for (i = 0; i < d->count && !same(d->backend[i], after.destination);)
			i++;
		if (i == d->count)
			return "a translated packet goes to none of the backends";
	}
	learn_direct(before, &d->backend[i], full);
	wrong = hops_are_right(before, &after, true);
	return wrong ? wrong : rest_is_same(in, before, &inner, &after);
}

static bool is_peer(const struct world *w, const struct endpoint *e)
{
	const struct endpoint *peer = &w->peer[e->family == LB_IPV6];

	/* Ranges of the world: 24 and 64 bits. */
	return w->node->peers && peer->family && !memcmp(peer->address, e->address, e->family == LB_IPV4 ? 3 : 8);
}

/* What a peer has wrapped for a backend of this node. */
static const char *check_unwrapped(const struct world *w, const struct input *inner, enum wrapping wrapping,
				   const struct endpoint *translated, const struct view *outer, const struct result *out, const struct view *after,
				   bool *full)
{
	struct flow f = { .local = true };
	const struct definition *d;
	const struct flow *known;
	struct view before;
	const char *wrong;
	int i = 0;

	if (wrapping != WRAP_OPTION && !is_peer(w, &outer->source))
		return "a packet was unwrapped that no peer has sent";
	if (!view_read(inner->frame, inner->length, &before))
		return "a wrapped packet that contradicts itself was taken";
	f.client = before.source;
	f.service = wrapping == WRAP_IPIP ? before.destination : *translated;
	f.protocol = before.protocol;
	f.backend = after->destination;
	f.source = after->source;
	if (wrapping == WRAP_IPIP) {
		struct endpoint port = node_address(w, before.family);

		port.port = before.destination.port;
		d = service_at(w, before.protocol, &before.destination);
		if (!d)
			d = service_at(w, before.protocol, &port);
		while (d && i < d->count && !(same(d->backend[i], after->destination) && d->local >> i & 1))
			i++;
		known = model_by_client(before.protocol, &before.source, &before.destination);
		/* A connection that began translated is where that peer has said. */
		if ((!d || i == d->count) && !(known && (known->doubted || same(known->backend, after->destination))))
			return "an unwrapped packet goes to no backend of this node";
	} else if (!same(before.destination, after->destination))
		return "an unwrapped packet goes elsewhere than its peer has said";
	if (!same_address(&before.source, &after->source) || before.protocol != after->protocol)
		return "an unwrapped packet has another client";
	*full = !model_learn(&f);
	wrong = hops_are_right(&before, after, false);
	return wrong ? wrong : rest_is_same(inner, &before, out, after);
}

static const char *check_to_client(const struct flow *f, const struct view *after, bool forwarded)
{
	struct flow seen = *f;

	if (f->local == forwarded)
		return "an answer left by the wrong way";
	if (!same(after->source, f->service))
		return "an answer does not come from its service";
	if (!same(after->destination, f->client))
		return "an answer goes to somebody else";
	model_learn(&seen);
	return NULL;
}

/* Of a connection whose packets so far came to nothing: it went to nobody yet, but who asked what is known. */
static const struct flow *flow_of_lost_request(const struct world *w, const struct flow *known, const struct view *before,
					       const struct view *after, bool forwarded)
{
	const struct flow *asked = model_by_client(before->protocol, &after->destination, &after->source);
	const struct definition *d = service_at(w, after->protocol, &after->source);
	struct flow f = { .client = after->destination, .service = after->source, .backend = before->source, .source = before->destination,
			  .protocol = before->protocol, .local = !forwarded };

	if (!asked || !d || !asked->lost || (known && known->seen > asked->lost))
		return known;
	for (int i = 0; i < d->count; i++)
		if (same(d->backend[i], before->source) && model_learn(&f))
			return model_by_backend(f.protocol, &f.backend, &f.source);
	return known;
}

static bool is_one_host(const struct endpoint *e)
{
	const uint8_t *bytes = (const uint8_t *)e->address;
	static const uint8_t nobody[16];

	if (e->family == LB_IPV4)
		return bytes[0] && bytes[0] != 127 && bytes[0] < 224;
	return bytes[0] != 0xff && (memcmp(bytes, nobody, 15) || bytes[15] > 1);
}

static uint32_t read32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

/* RFC 9293, 3.10.7.1. */
static const char *check_reset(const struct input *in, const struct view *before, const uint8_t *reset)
{
	const uint8_t *tcp = in->frame + before->transport;
	uint32_t length = before->end - before->transport - (tcp[12] >> 4) * 4 + !!(tcp[13] & 2) + (tcp[13] & 1);

	if (before->protocol != IPPROTO_TCP || !(reset[13] & 4))
		return "an answer of ours is no reset";
	if (tcp[13] & 4)
		return "a reset was answered with a reset";
	if (memcmp(reset, tcp + 2, 2) || memcmp(reset + 2, tcp, 2))
		return "a reset has other ports";
	if (tcp[13] & 16)
		return read32(reset + 4) == read32(tcp + 8) ? NULL : "a reset has another number than was acknowledged";
	if (!(reset[13] & 16) || read32(reset + 8) != read32(tcp + 4) + length)
		return "a reset does not acknowledge what was sent";
	return NULL;
}

/* An answer of ours: a reset, an echo reply, or an error that quotes what it is about. */
static const char *check_answer(const struct world *w, const struct input *in, const struct view *before, const struct result *out,
				const struct view *after)
{
	const uint8_t *transport = out->frame + after->transport;
	uint8_t type = transport[0];
	bool is_reply;

	if (!same_address(&after->destination, &before->source))
		return "an answer of ours goes to somebody else than who asked";
	is_reply = after->protocol == IPPROTO_ICMP ? type == 0 : after->protocol == ICMPV6 && type == 129;
	/* An echo reply is the request turned round: what it came with stays. */
	if (is_reply ? after->network_error != before->network_error || after->transport_error != before->transport_error :
		       after->network_error || after->transport_error)
		return "an answer of ours has a wrong checksum";
	if (!is_ours(w, &after->source))
		return "an answer of ours does not come from an address of ours";
	if (!is_one_host(&before->source))
		return "an answer of ours goes to no single host";
	if (before->later)
		return "a later fragment was answered";
	if (after->protocol == IPPROTO_TCP)
		return check_reset(in, before, transport);
	if (is_reply)
		return before->protocol == after->protocol ? NULL : "an echo reply without a request";
	if (after->protocol == IPPROTO_ICMP ? type != 3 && type != 11 : after->protocol != ICMPV6 || (type != 1 && type != 2 && type != 3))
		return "an answer of ours of a strange kind";
	if (after->end - after->transport - 8 > before->end - before->network ||
	    memcmp(transport + 8, in->frame + before->network, after->end - after->transport - 8))
		return "an error quotes what was not sent";
	return NULL;
}

/* An error about a flow: what it quotes says where it belongs. */
static const char *check_error(const struct input *in, const struct view *before, const struct result *out, const struct view *after)
{
	struct view was, is;
	const struct flow *f, *asked;

	if (!view_read_quoted(in->frame, before, &was) || !view_read_quoted(out->frame, after, &is))
		return "an error was changed that quotes nothing";
	if (after->transport_error != before->transport_error || after->network_error != before->network_error)
		return "a translated error's checksum is off by another amount than before";
	if (is.network_error != was.network_error)
		return "a quoted header's checksum is off by another amount than before";
	f = model_by_backend(was.protocol, &was.destination, &was.source);
	if (f && same(is.source, f->client) && same(is.destination, f->service) && same_address(&after->destination, &f->client))
		return NULL;
	/* Of a connection whose packets came to nothing: see flow_of_lost_request(). */
	asked = model_by_client(was.protocol, &is.source, &is.destination);
	if (asked && asked->lost && (!f || f->seen < asked->lost) && same_address(&after->destination, &is.source))
		return NULL;
	if (f)
		return "an error about a packet to the backend does not reach the client";
	f = model_by_client(was.protocol, &was.destination, &was.source);
	if (!f)
		return "an error about an unknown flow was changed";
	if (same(is.source, f->backend) && same(is.destination, f->source) && same_address(&after->destination, &f->backend))
		return NULL;
	/* In a frame to the backend, which has the service's address itself. */
	if (f->dsr && same(is.source, was.source) && same(is.destination, was.destination) && same_address(&after->destination, &before->destination))
		return NULL;
	if (f->lost > f->seen && same_address(&after->destination, &is.source))
		return NULL;
	return "an error about a packet to the client does not reach the backend";
}

/* Connections are made before it is known whether there is a way. */
static void note_request(const struct world *w, const struct input *in, bool *full)
{
	struct view v;

	if (view_read(in->frame, in->length, &v) && service_at(w, v.protocol, &v.destination))
		*full = !model_ask(v.protocol, &v.source, &v.destination);
}

/* In an outer header of ours? */
static bool is_wrapped(const struct world *w, const struct view *before, const struct view *after)
{
	struct endpoint node = node_address(w, after->family);

	return same_address(&after->source, &node) &&
	       (after->protocol == IPPROTO_IPIP || after->protocol == IPPROTO_IPV6 ||
		(after->protocol == IPPROTO_UDP && after->destination.port == htons(6081) && before->destination.port != htons(6081)));
}

/* A backend's answer to who has sent this bears that address from now on. */
static void learn_option(const struct view *v, const struct endpoint *service, const struct endpoint *source, bool *full)
{
	struct flow f = { .client = v->source, .service = *service, .backend = v->destination, .source = *source, .protocol = v->protocol, .local = true };

	*full = !model_learn(&f);
}

static const char *check_changed(const struct world *w, const struct input *in, const struct result *out, bool forwarded, enum fate *fate,
				 bool *full)
{
	static struct input inner;
	struct view before, after;
	const struct definition *d;
	struct endpoint service;
	const struct flow *f, *asked;
	const char *wrong;
	bool direct;

	if (!view_read(in->frame, in->length, &before))
		return "a packet that contradicts itself was changed";
	if (!view_read(out->frame, out->length, &after))
		return "a packet that contradicts itself came out";
	d = in->hook == HOOK_INGRESS || in->hook == HOOK_XDP ? service_at(w, before.protocol, &before.destination) : NULL;
	direct = d && d->flags & LB_REGION_DSR && forwarded && same_address(&before.source, &after.source) | is_wrapped(w, &before, &after);
	/* In a frame to the backend, which has the service's address, too. */
	if (w->node->dispatch == LB_DISPATCH_L2 && (before.later || view_is_error(in->frame, &before)))
		direct = true;
	if (forwarded && is_ours(w, &after.destination) && !direct)
		return "a packet was sent to ourselves";
	if (!forwarded && (in->hook == HOOK_INGRESS || in->hook == HOOK_XDP)) {
		enum wrapping wrapping = wrap_read(in->frame, in->length, &inner, &service);

		if (wrapping == WRAP_IPIP || wrapping == WRAP_GENEVE) {
			*fate = FATE_TO_BACKEND;
			return check_unwrapped(w, &inner, wrapping, &service, &before, out, &after, full);
		}
		/* With an option: its source port is another. */
		if (wrapping == WRAP_OPTION && !before.fragment && !d && w->node->peers && same(before.destination, after.destination)) {
			*fate = FATE_TO_BACKEND;
			learn_option(&before, &service, &after.source, full);
			wrong = hops_are_right(&before, &after, false);
			return wrong ? wrong : rest_is_same(in, &before, out, &after);
		}
	}
	if (forwarded && !memcmp(out->frame, out->frame + 6, 6))
		return "a packet was sent to the device that it leaves by";
	if (view_is_error(in->frame, &before)) {
		*fate = FATE_ERROR;
		return check_error(in, &before, out, &after);
	}
	f = model_by_backend(before.protocol, &before.source, &before.destination);
	if (before.later) {
		/* Its ports, and so its flow, are those of another packet. */
		*fate = FATE_TO_BACKEND;
		if (in->length != out->length) /* wrapped, or with an option in a header that was wrong before */
			return after.network_error && after.network_error != before.network_error ? "an outer header has a wrong checksum" : NULL;
		wrong = hops_are_right(&before, &after, forwarded && !(w->node->dispatch == LB_DISPATCH_L2 && before.hops == after.hops));
		return wrong ? wrong : rest_is_same(in, &before, out, &after);
	}
	asked = model_by_client(before.protocol, &after.destination, &after.source);
	if (!d && asked && asked->doubted) {
		*fate = FATE_TO_CLIENT;
		wrong = hops_are_right(&before, &after, forwarded);
		return wrong ? wrong : rest_is_same(in, &before, out, &after);
	}
	if (!d && !(f && same(after.source, f->service) && same(after.destination, f->client)))
		f = flow_of_lost_request(w, f, &before, &after, forwarded);
	if (direct) {
		*fate = FATE_TO_BACKEND;
		return check_direct(w, d, in, &before, out, &after, full);
	}
	if ((!f && (!d || !d->count)) || after.protocol != before.protocol) {
		*fate = FATE_ANSWERED;
		note_request(w, in, full);
		return check_answer(w, in, &before, out, &after);
	}
	*fate = f ? FATE_TO_CLIENT : FATE_TO_BACKEND;
	wrong = f ? check_to_client(f, &after, forwarded) : check_to_backend(w, d, &before, &after, forwarded, full);
	if (!wrong)
		wrong = hops_are_right(&before, &after, forwarded);
	return wrong ? wrong : rest_is_same(in, &before, out, &after);
}

static void note_option(const struct world *w, const struct input *in, bool *full)
{
	static struct input inner;
	struct endpoint service;
	struct view v;

	/* What XDP lets pass comes by again. */
	if (!w->node->peers || in->hook != HOOK_INGRESS || wrap_read(in->frame, in->length, &inner, &service) != WRAP_OPTION || !view_read(in->frame, in->length, &v))
		return;
	/* It may not have been taken for one: then it is as if it had been lost. A source that another connection has is not shared. */
	if (v.fragment || v.protocol == IPPROTO_SCTP || model_by_backend(v.protocol, &v.destination, &v.source)) {
		*full = !model_doubt(v.protocol, &v.source, &service);
		return;
	}
	learn_option(&v, &service, &v.source, full);
}

const char *check(const struct world *w, const struct input *in, const struct result *out, enum fate *fate, bool *model_is_full)
{
	bool xdp = in->hook == HOOK_XDP, same_bytes = in->length == out->length && !memcmp(in->frame, out->frame, in->length);
	bool dropped = out->verdict == (xdp ? 1 : 2), passed = out->verdict == (xdp ? 2 : -1);
	static struct input inner;
	struct endpoint service;
	bool forwarded = xdp ? out->verdict == 3 || out->verdict == 4 : out->verdict == 7;

	*fate = dropped ? FATE_DROPPED : FATE_PASSED;
	if (!dropped && !passed && !forwarded)
		return "a verdict that is none of ours";
	if (dropped || (passed && same_bytes)) {
		note_request(w, in, model_is_full);
		if (passed)
			note_option(w, in, model_is_full);
		return NULL;
	}
	if (same_bytes)
		return "sent out as it came in";
	if (xdp && passed && wrap_read(in->frame, in->length, &inner, &service) == WRAP_NONE)
		return "XDP hands on a packet that it has changed";
	return check_changed(w, in, out, forwarded, fate, model_is_full);
}
