/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <arpa/inet.h>
#include <string.h>

#include "model.h"
#include "verify.h"

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
	struct endpoint node = node_address(w, before->family);
	int i = 0;

	while (i < d->count && !same(d->backend[i], after->destination))
		i++;
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

/* Direct server return: the packet as it came, one hop on, in an outer header to a backend. */
static const char *check_wrapped(const struct world *w, const struct definition *d, const struct input *in, const struct view *before,
				 const struct result *out, const struct view *outer)
{
	static struct result inner;
	struct endpoint node = node_address(w, outer->family);
	struct view after;
	const char *wrong;
	int i = 0;

	while (i < d->count && !same_address(d->via[i].family ? &d->via[i] : &d->backend[i], &outer->destination))
		i++;
	if (i == d->count || !same_address(&outer->source, &node))
		return "an outer header is not from this node to a backend";
	if (outer->network_error)
		return "an outer header has a wrong checksum";
	inner.length = before->network + out->length - outer->transport;
	memcpy(inner.frame, in->frame, before->network);
	memcpy(inner.frame + before->network, out->frame + outer->transport, out->length - outer->transport);
	if (!view_read(inner.frame, inner.length, &after))
		return "a wrapped packet contradicts itself";
	if (!same(after.source, before->source) || !same(after.destination, before->destination))
		return "a wrapped packet has other addresses than before";
	wrong = hops_are_right(before, &after, true);
	return wrong ? wrong : rest_is_same(in, before, &inner, &after);
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

static const char *check_changed(const struct world *w, const struct input *in, const struct result *out, bool forwarded, enum fate *fate,
				 bool *full)
{
	struct view before, after;
	const struct definition *d;
	const struct flow *f;
	const char *wrong;

	if (!view_read(in->frame, in->length, &before))
		return "a packet that contradicts itself was changed";
	if (!view_read(out->frame, out->length, &after))
		return "a packet that contradicts itself came out";
	if (forwarded && is_ours(w, &after.destination))
		return "a packet was sent to ourselves";
	if (forwarded && !memcmp(out->frame, out->frame + 6, 6))
		return "a packet was sent to the device that it leaves by";
	if (view_is_error(in->frame, &before)) {
		*fate = FATE_ERROR;
		return check_error(in, &before, out, &after);
	}
	d = in->hook == HOOK_INGRESS || in->hook == HOOK_XDP ? service_at(w, before.protocol, &before.destination) : NULL;
	f = model_by_backend(before.protocol, &before.source, &before.destination);
	if (before.later) {
		/* Its ports, and so its flow, are those of another packet. */
		*fate = FATE_TO_BACKEND;
		if (after.protocol != before.protocol) /* wrapped */
			return after.network_error ? "an outer header has a wrong checksum" : NULL;
		wrong = hops_are_right(&before, &after, forwarded);
		return wrong ? wrong : rest_is_same(in, &before, out, &after);
	}
	if (!d && !(f && same(after.source, f->service) && same(after.destination, f->client)))
		f = flow_of_lost_request(w, f, &before, &after, forwarded);
	if (d && d->flags & LB_REGION_DSR && forwarded && (after.protocol == IPPROTO_IPIP || after.protocol == IPPROTO_IPV6)) {
		*fate = FATE_TO_BACKEND;
		return check_wrapped(w, d, in, &before, out, &after);
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

const char *check(const struct world *w, const struct input *in, const struct result *out, enum fate *fate, bool *model_is_full)
{
	bool xdp = in->hook == HOOK_XDP, same_bytes = in->length == out->length && !memcmp(in->frame, out->frame, in->length);
	bool dropped = out->verdict == (xdp ? 1 : 2), passed = out->verdict == (xdp ? 2 : -1);
	bool forwarded = xdp ? out->verdict == 3 || out->verdict == 4 : out->verdict == 7;

	*fate = dropped ? FATE_DROPPED : FATE_PASSED;
	if (!dropped && !passed && !forwarded)
		return "a verdict that is none of ours";
	if (dropped || (passed && same_bytes)) {
		note_request(w, in, model_is_full);
		return NULL;
	}
	if (same_bytes)
		return "sent out as it came in";
	if (xdp && passed)
		return "XDP hands on a packet that it has changed";
	return check_changed(w, in, out, forwarded, fate, model_is_full);
}
