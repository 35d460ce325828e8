/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP at tc: echo requests to service addresses, and errors about translated flows. An error goes to the end that it concerns, in that
 * end's terms: the packet that it quotes becomes the one that this end has sent.
 */
#ifndef LB_ICMP_H
#define LB_ICMP_H

#include "abi.h"
#include "answers.h"
#include "forward.h"
#include "packet.h"
#include "packet_maps.h"
#include "work.h"

/* RFC 792, RFC 4443 */
#define LB_ICMP4_ECHO	    8
#define LB_ICMP4_ECHO_REPLY 0
#define LB_ICMP6_ECHO	    128
#define LB_ICMP6_ECHO_REPLY 129

LB_INLINE bool lb_is_icmp(const struct lb_packet *p)
{
	return p->family && p->part == LB_WHOLE && p->protocol == (p->family == LB_IPV4 ? LB_IPPROTO_ICMP : LB_IPPROTO_ICMPV6);
}

/* About a packet, which it quotes. Redirects are for the sender's own table, on one link. */
LB_INLINE bool lb_is_icmp_error(const struct lb_packet *p)
{
	__u8 type = p->icmp_type;

	if (!lb_is_icmp(p))
		return false;
	return p->family == LB_IPV4 ? type == 3 || type == 4 || type == 11 || type == 12 : type >= 1 && type <= 4;
}

LB_INLINE bool lb_is_echo(const struct lb_packet *p)
{
	return lb_is_icmp(p) && p->icmp_type == (p->family == LB_IPV4 ? LB_ICMP4_ECHO : LB_ICMP6_ECHO);
}

LB_INLINE bool lb_is_echo_reply(const struct lb_packet *p)
{
	return lb_is_icmp(p) && p->icmp_type == (p->family == LB_IPV4 ? LB_ICMP4_ECHO_REPLY : LB_ICMP6_ECHO_REPLY);
}

/* ---- echo -------------------------------------------------------------------------------------------------------------------- */

/* Swaps what a frame has at both places. */
LB_INLINE bool lb_swap(lb_context *ctx, __u32 at, const __u32 length)
{
	__u8 both[2 * 16];

	return lb_load(ctx, at, both, 2 * length) && lb_store(ctx, at, both + length, length) && lb_store(ctx, at + length, both, length);
}

LB_INLINE bool lb_echo_turn(lb_context *ctx, const struct lb_packet *p)
{
	__u8 type = p->family == LB_IPV4 ? LB_ICMP4_ECHO_REPLY : LB_ICMP6_ECHO_REPLY, hops = LB_ANSWER_HOPS;
	__be16 checksum, before;

	if (!lb_load(ctx, p->l4 + 2, &checksum, sizeof(checksum)) || !lb_load(ctx, p->l4, &before, sizeof(before)))
		return false;
	/* The sum does not mind in which order the addresses come. */
	checksum = lb_checksum_after(checksum, lb_sum_change16(0, before, (before & bpf_htons(0xff)) | bpf_htons(type << 8)));
	/* Of nothing but zeros only the other zero is right, which always is. */
	if (!checksum)
		checksum = 0xffff;
	if (!lb_store(ctx, p->l4, &type, 1) || !lb_store(ctx, p->l4 + 2, &checksum, sizeof(checksum)) || !lb_swap(ctx, 0, 6))
		return false;
	if (p->family == LB_IPV6)
		return lb_swap(ctx, p->l3 + 8, 16) && lb_store(ctx, p->l3 + 7, &hops, 1);
	return lb_swap(ctx, p->l3 + 12, 4) && lb_store(ctx, p->l3 + 8, &hops, 1) &&
	       !bpf_l3_csum_replace(ctx, p->l3 + 10, 0, lb_sum_fold32(lb_sum_change16(0, p->hops, hops)), 0);
}

/*
 * Is the packet an echo request to a service? Then it is the reply now, and LB_REASON_ECHO_ANSWERED. LB_REASON_NOT_BALANCED: it is none, or
 * for the node, which answers itself.
 */
__noinline int lb_echo(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_packet *p;
	__u8 link[12];

	if (!work || !ctx || lb_role != LB_ROLE_EXTERNAL)
		return LB_REASON_NOT_BALANCED;
	p = &work->packet;
	if (!lb_is_echo(p) || p->length < p->l4 - p->l3 + LB_ICMP_LENGTH)
		return LB_REASON_NOT_BALANCED;
	if (!lb_is_service_address(p->destination, p->family) || lb_is_node_address(p->destination, p->family) ||
	    !lb_may_be_told(p->source, p->family) || !lb_load(ctx, 0, link, sizeof(link)) || (link[0] | link[6]) & 1)
		return LB_REASON_NOT_BALANCED;
	return lb_echo_turn(ctx, p) ? LB_REASON_ECHO_ANSWERED : LB_REASON_CORRUPT_INDEX;
}

/* ---- errors -------------------------------------------------------------------------------------------------------------------- */

/* Reads what the error quotes: a packet with ports, of its destination, and cut short behind 8 bytes of its transport header at the
 * earliest. */
LB_INLINE bool lb_read_quoted(lb_context *ctx, struct lb_work *work)
{
	const struct lb_packet *p = &work->packet;
	struct lb_packet *q = &work->quoted;
	__be16 ports[2];

	__builtin_memset(q, 0, sizeof(*q));
	q->l3 = p->l4 + LB_ICMP_LENGTH;
	if (!(p->family == LB_IPV4 ? lb_parse_ipv4(ctx, q, false) : lb_parse_ipv6(ctx, q, false)))
		return false;
	if (q->part == LB_LATER_FRAGMENT || !lb_has_ports(q->protocol) || q->l4 + 8 > p->l3 + p->length)
		return false;
	if (!lb_address_equal(p->destination, q->source, p->family) || !lb_load(ctx, q->l4, ports, sizeof(ports)))
		return false;
	q->source_port = ports[0];
	q->destination_port = ports[1];
	lb_address_copy(work->reply.near, q->destination);
	lb_address_copy(work->reply.far, q->source);
	work->reply.near_port = q->destination_port;
	work->reply.far_port = q->source_port;
	work->reply.protocol = q->protocol;
	work->reply.family = q->family;
	return true;
}

/* The quoted packet went to a backend: the error is for the client. Who else than the backend sent it stays its source. */
LB_INLINE void lb_error_to_client(struct lb_work *work, const struct lb_connection *c)
{
	const struct lb_packet *p = &work->packet;

	lb_address_copy(work->inner.source, c->client);
	lb_address_copy(work->inner.destination, c->service);
	work->inner.source_port = c->client_port;
	work->inner.destination_port = c->service_port;
	lb_address_copy(work->to.source, lb_address_equal(p->source, c->backend, p->family) ? c->service : p->source);
	lb_address_copy(work->to.destination, c->client);
}

/* The quoted packet went to the client: the error is for the backend. */
LB_INLINE void lb_error_to_backend(struct lb_work *work, const struct lb_connection *c)
{
	lb_address_copy(work->inner.source, c->backend);
	lb_address_copy(work->inner.destination, c->source);
	work->inner.source_port = c->backend_port;
	work->inner.destination_port = c->source_port;
	lb_address_copy(work->to.source, c->mode == LB_MODE_SNAT || c->mode == LB_MODE_MASQUERADE ? c->source : work->packet.source);
	lb_address_copy(work->to.destination, c->backend);
	work->backend_ref = c->backend_ref;
}

/*
 * Is the packet an error about what a backend sent to a client without our having seen it? Nothing is remembered of such a flow where its cell
 * decides. Then lb_work() says what it becomes, and 1.
 */
__noinline int lb_error_by_cell(lb_context *ctx)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	struct lb_cell_choice cell = {};
	struct lb_region region = {};
	struct lb_choice choice;

	if (!node || !work || !ctx)
		return 0;
	lb_address_copy(work->flow.address, work->reply.far);
	work->flow.port = work->reply.far_port;
	work->flow.protocol = work->reply.protocol;
	work->flow.family = work->reply.family;
	work->flow.scope = LB_SCOPE_EXTERNAL;
	lb_flow_set_client(&work->flow, work->reply.near);
	work->flow.socket = work->reply.near_port;
	work->forced = 0;
	if (lb_frontend_find(&work->flow, &region) != LB_REASON_FORWARDED || !lb_is_anchored(work, region.line, node))
		return 0;
	work->region = region.first;
	if (lb_look_at_cell(work, region.line, node, &cell, false) != LB_REASON_FORWARDED ||
	    lb_choice_set(&choice, cell.backend) != LB_REASON_FORWARDED || lb_backend_flags(choice.word) & LB_BACKEND_LOCAL)
		return 0;
	lb_address_copy(work->inner.source, choice.address);
	lb_address_copy(work->inner.destination, work->reply.near);
	work->inner.source_port = lb_backend_port(choice.word);
	work->inner.destination_port = work->reply.near_port;
	lb_address_copy(work->to.source, work->packet.source);
	lb_address_copy(work->to.destination, choice.address);
	work->backend_ref = lb_backend_ref(choice.index, lb_backend_generation(choice.word));
	work->mode = LB_MODE_DSR;
	return 1;
}

/*
 * Is the packet an error about a connection, on its way in, or out? Then lb_work() says what it becomes, and 1. What goes to a client of a
 * local backend is translated on its way out, like the backend's packets; and so is what goes to outside from a workload that is
 * masqueraded.
 */
__noinline int lb_error_look(lb_context *ctx, __u32 out)
{
	struct lb_work *work = lb_work();
	struct lb_found found;

	if (!work || !ctx || !lb_is_icmp_error(&work->packet) || !lb_read_quoted(ctx, work))
		return 0;
	work->to.source_port = 0;
	work->to.destination_port = 0;
	if (lb_find_by_backend(&work->reply, &found)) {
		if ((found.connection->mode == LB_MODE_LOCAL) != !!out || lb_is_sockets(ctx, work, found.connection))
			return 0;
		lb_error_to_client(work, found.connection);
	} else {
		work->hash = lb_flow_key_hash(&work->reply);
		if (!lb_find_by_client(&work->reply, work->hash, &found))
			return out ? 0 : lb_error_by_cell(ctx);
		if ((found.connection->mode == LB_MODE_MASQUERADE) != !!out)
			return 0;
		lb_error_to_backend(work, found.connection);
	}
	work->mode = found.connection->mode;
	return lb_still_owned(&found);
}

/* SCTP's checksum, if it is there. How much of the packet is quoted is no matter. */
LB_INLINE bool lb_rewrite_quoted_crc(lb_context *ctx, const struct lb_work *work, __u64 *change)
{
	const struct lb_packet *p = &work->packet, *q = &work->quoted;
	__u32 at = q->l4 + LB_SCTP_CHECKSUM, before, after;

	if (q->part != LB_WHOLE || at + sizeof(before) > p->l3 + p->length)
		return true;
	if (!lb_load(ctx, at, &before, sizeof(before)))
		return false;
	after = before ^ lb_crc_change_of_ports(q, &work->inner);
	*change = lb_sum_change32(*change, before, after);
	return lb_store(ctx, at, &after, sizeof(after));
}

/* The quoted transport header, as far as it is there; what that changes of the sum of the error is added to `change`. */
LB_INLINE bool lb_rewrite_quoted_ports(lb_context *ctx, const struct lb_work *work, __u64 *change)
{
	const struct lb_packet *p = &work->packet, *q = &work->quoted;
	const struct lb_tuple *to = &work->inner;
	__be16 ports[2] = {to->source_port, to->destination_port}, before, after;
	__u32 at = lb_checksum_offset(q);
	__u64 segment, pseudo;

	segment = lb_sum_change16(lb_sum_change16(0, q->source_port, ports[0]), q->destination_port, ports[1]);
	*change += segment;
	if (q->protocol == LB_IPPROTO_SCTP) {
		if (!lb_rewrite_quoted_crc(ctx, work, change))
			return false;
	} else if (at + sizeof(before) <= p->l3 + p->length) {
		pseudo = lb_sum_change_address(0, q->source, to->source, q->family);
		pseudo = lb_sum_change_address(pseudo, q->destination, to->destination, q->family);
		if (!lb_load(ctx, at, &before, sizeof(before)))
			return false;
		after = lb_checksum_after(before, (__u64)lb_sum_fold(pseudo) + lb_sum_fold(segment));
		if (q->protocol == LB_IPPROTO_UDP)
			after = !before ? 0 : after ? after : 0xffff;
		*change = lb_sum_change16(*change, before, after);
		if (!lb_store(ctx, at, &after, sizeof(after)))
			return false;
	}
	return lb_store(ctx, q->l4, ports, sizeof(ports));
}

/* The quoted IP header, likewise. */
LB_INLINE bool lb_rewrite_quoted_addresses(lb_context *ctx, const struct lb_work *work, __u64 *change)
{
	const struct lb_packet *q = &work->quoted;
	const struct lb_tuple *to = &work->inner;
	__u64 addresses = lb_sum_change_address(0, q->source, to->source, q->family);
	__be16 before, after;

	addresses = lb_sum_change_address(addresses, q->destination, to->destination, q->family);
	*change += lb_sum_fold(addresses);
	if (q->family == LB_IPV6)
		return lb_write_ipv6(ctx, q, to, 0);
	if (!lb_load(ctx, q->l3 + 10, &before, sizeof(before)))
		return false;
	after = lb_checksum_after(before, addresses);
	*change = lb_sum_change16(*change, before, after);
	return lb_store(ctx, q->l3 + 10, &after, sizeof(after)) && lb_store(ctx, q->l3 + 12, to->source, 4) &&
	       lb_store(ctx, q->l3 + 16, to->destination, 4);
}

/*
 * Makes the error what lb_error_look() said. What is stored here does not change the sum of the whole, which a device may have taken: the
 * checksums see to that. 0: half of it may be done.
 */
__noinline int lb_error_rewrite(lb_context *ctx, __u32 hops)
{
	struct lb_work *work = lb_work();
	const struct lb_packet *p;
	__u64 change = 0;
	__be16 checksum;

	if (!work || !ctx)
		return 0;
	p = &work->packet;
	if (!lb_rewrite_quoted_ports(ctx, work, &change) || !lb_rewrite_quoted_addresses(ctx, work, &change))
		return 0;
	if (p->family == LB_IPV6) {
		change = lb_sum_change_address(change, p->source, work->to.source, LB_IPV6);
		change = lb_sum_change_address(change, p->destination, work->to.destination, LB_IPV6);
	}
	if (!lb_load(ctx, p->l4 + 2, &checksum, sizeof(checksum)))
		return 0;
	checksum = lb_checksum_after(checksum, change);
	if (!lb_store(ctx, p->l4 + 2, &checksum, sizeof(checksum)))
		return 0;
	return p->family == LB_IPV4 ? lb_write_ipv4(ctx, p, &work->to, hops) : lb_write_ipv6(ctx, p, &work->to, hops);
}

#endif
