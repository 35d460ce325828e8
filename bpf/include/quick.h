/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packets that there are most of, in the driver: whole TCP and UDP packets without tags and options, of flows whose backend and way are
 * known, and packets to no service. They are the same as forward.h, dsr.h and deliver.h make them, with next to no calls and stores: [a
 * call with its guarded return takes 8 to 10 ns on the machine that this was measured on; the whole path took 165 to 250 ns, this one 40 to
 * 70]. Whatever it is not sure of it leaves to the others, as it was: nothing is changed or counted before everything is known.
 */
#ifndef LB_QUICK_H
#define LB_QUICK_H

#include "deliver.h"
#include "dsr.h"
#include "forward.h"
#include "frontend.h"
#include "next_hop.h"
#include "packet.h"

#define LB_SLOWLY (-1) /* no verdict */

LB_INLINE bool lb_quick_ports(lb_context *ctx, struct lb_packet *p)
{
	const struct lb_udp *udp = lb_bytes(ctx, p->l4, sizeof(*udp));
	__u32 left = p->length - (p->l4 - p->l3);
	const __u8 *tcp;

	if (!udp)
		return false;
	p->source_port = udp->source;
	p->destination_port = udp->destination;
	if (p->protocol == LB_IPPROTO_UDP)
		return left >= 8 && bpf_ntohs(udp->length) >= 8 && bpf_ntohs(udp->length) <= left &&
		       udp->destination != bpf_htons(LB_GENEVE_PORT);
	tcp = lb_bytes(ctx, p->l4, 20);
	if (!tcp || p->protocol != LB_IPPROTO_TCP)
		return false;
	p->flags = tcp[13];
	return tcp[12] >> 4 >= 5 && (__u32)(tcp[12] >> 4) * 4 <= left;
}

/* `p` is zeroed. */
LB_INLINE bool lb_quick_read4(lb_context *ctx, struct lb_packet *p)
{
	const struct lb_ipv4 *ip = lb_bytes(ctx, LB_ETH_LENGTH, sizeof(*ip));

	if (!ip || ip->version_length != 0x45 || ip->fragment & bpf_htons(LB_IPV4_MORE | LB_IPV4_OFFSET))
		return false;
	p->family = LB_IPV4;
	p->l3 = LB_ETH_LENGTH;
	p->l4 = LB_ETH_LENGTH + sizeof(*ip);
	p->length = bpf_ntohs(ip->length);
	p->source[0] = ip->source;
	p->destination[0] = ip->destination;
	p->protocol = ip->protocol;
	p->hops = ip->ttl;
	p->tos = ip->tos;
	p->may_fragment = !(ip->fragment & bpf_htons(LB_IPV4_DONT));
	return p->length >= sizeof(*ip) && p->length <= lb_frame_length(ctx) - p->l3 && p->hops > 1 && lb_quick_ports(ctx, p);
}

LB_INLINE bool lb_quick_read6(lb_context *ctx, struct lb_packet *p)
{
	const struct lb_ipv6 *ip = lb_bytes(ctx, LB_ETH_LENGTH, sizeof(*ip));

	if (!ip || (ip->version_class_label & 0xf0) != 0x60)
		return false;
	p->family = LB_IPV6;
	p->l3 = LB_ETH_LENGTH;
	p->l4 = LB_ETH_LENGTH + sizeof(*ip);
	p->length = sizeof(*ip) + bpf_ntohs(ip->length);
	lb_address_copy(p->source, ip->source);
	lb_address_copy(p->destination, ip->destination);
	p->protocol = ip->next;
	p->hops = ip->hops;
	p->tos = bpf_ntohl(ip->version_class_label) >> 20;
	return p->length <= lb_frame_length(ctx) - p->l3 && p->hops > 1 && lb_quick_ports(ctx, p);
}

/* A flow of a service that needs no entry: its cell says where it belongs. */
LB_INLINE bool lb_quick_cell(const struct lb_packet *p, const struct lb_flow *flow, const struct lb_region *region, struct lb_quick *q)
{
	const struct lb_head *head = &region->line->head;
	const struct lb_backend *backend;
	__u64 cell, word;
	__u32 index;

	/* Of cells that do not last, for the moment at which the flags of their region go. */
	if (!lb_cells_last(head->algorithm, head->affinity) || head->flags & LB_REGION_SUCCEEDS || lb_is_opening(p) ||
	    !lb_cell_of(region->line, region->first, flow, &cell) ||
	    cell & LB_CELL_REMEMBERED)
		return false;
	index = lb_cell_current(cell);
	backend = bpf_map_lookup_elem(&lb_backends, &index);
	if (!backend || !index)
		return false;
	word = lb_read_once(backend->word);
	if (lb_backend_flags(word) & (LB_BACKEND_LOCAL | LB_BACKEND_VIA) || !lb_is_unicast(p->source, p->family) ||
	    lb_is_node_address(p->source, p->family) || lb_address_equal(p->source, backend->address, p->family) ||
	    lb_may_be_from_service(p, flow->scope))
		return false;
	lb_address_copy(q->to.destination, backend->address);
	lb_address_copy(q->to.source, p->source);
	q->to.destination_port = lb_backend_port(word);
	q->to.source_port = p->source_port;
	q->mode = LB_MODE_DSR;
	q->place = index;
	q->id = (flow->client ^ flow->client_low ^ flow->socket) & ~LB_OUTER_MARK;
	return true;
}

/* Its backend is gone, and maybe it has to end with it. */
LB_INLINE bool lb_may_end(const struct lb_connection *c)
{
	return lb_read_once(c->life) & LB_LIFE_TRACKED && lb_backend_is_gone(c->backend_ref);
}

/* A packet of the client's, of a connection that there is. */
LB_INLINE bool lb_quick_forth(const struct lb_packet *p, const struct lb_head *head, const struct lb_node *node, struct lb_quick *q,
			      struct lb_connection **connection)
{
	struct lb_flow_key key;
	struct lb_found found;
	__u64 hash;

	lb_key_of_client(&key, p);
	hash = lb_flow_key_hash(&key);
	if (!lb_find_by_client_quickly(&key, hash, &found) || !lb_may_go_on(found.connection, p, head->service, node) ||
	    lb_may_end(found.connection) || (found.connection->mode == LB_MODE_DSR && found.connection->overhead))
		return false;
	*connection = found.connection;
	lb_address_copy(q->to.destination, found.connection->backend);
	lb_address_copy(q->to.source, found.connection->source);
	q->to.destination_port = found.connection->backend_port;
	q->to.source_port = found.connection->source_port;
	q->mode = found.connection->mode;
	q->place = lb_ref_index(found.connection->backend_ref);
	q->id = hash & ~LB_OUTER_MARK;
	q->flags = lb_life_of_client(found.connection, p);
	return lb_still_owned(&found);
}

/* A packet of a backend's, to an address that translated sources have. */
LB_INLINE bool lb_quick_back(const struct lb_packet *p, struct lb_quick *q, struct lb_connection **connection)
{
	struct lb_flow_key key;
	struct lb_found found;

	lb_key_of_client(&key, p);
	if (!lb_find_by_backend_quickly(&key, &found) || lb_may_end(found.connection))
		return false;
	*connection = found.connection;
	lb_address_copy(q->to.source, found.connection->service);
	lb_address_copy(q->to.destination, found.connection->client);
	q->to.source_port = found.connection->service_port;
	q->to.destination_port = found.connection->client_port;
	q->mode = found.connection->mode;
	q->place = lb_way_place_of(found.connection->client);
	q->flags = lb_life_of_backend(p);
	return lb_still_owned(&found) && q->mode == LB_MODE_SNAT;
}

/* Around a packet to its backend, which nobody serves `via` another; false: this node has no address. */
LB_INLINE bool lb_quick_outer(const struct lb_packet *p, const struct lb_node *node, struct lb_quick *q)
{
	struct lb_outer *outer = &q->outer;

	outer->family = p->family;
	outer->protocol = p->family == LB_IPV4 ? LB_IPPROTO_IPIP : LB_IPPROTO_IPV6;
	outer->length = p->family == LB_IPV4 ? sizeof(struct lb_ipv4) : sizeof(struct lb_ipv6);
	lb_address_copy(outer->destination, q->to.destination);
	if (p->family == LB_IPV4) {
		outer->source[0] = node->address4;
		return outer->source[0];
	}
	lb_address_copy(outer->source, node->address6);
	return outer->source[0] | outer->source[1] | outer->source[2] | outer->source[3];
}

/* Which way, if it is known. `more`: bytes around the packet. */
LB_INLINE const struct lb_next_hop *lb_quick_way(lb_context *ctx, const struct lb_packet *p, const struct lb_node *node,
						 const struct lb_quick *q, __u32 more)
{
	struct lb_way_key key = {
		.destination = q->to.destination,
		.arrived = lb_arrived_by(ctx),
		.asked = lb_way_asked(p->family, p->tos, more),
		.family = p->family,
	};
	const struct lb_next_hop *hop = lb_next_hop_at(q->place);

	return hop && lb_next_hop_serves(hop, &key, lb_read_once(node->routes), p->length + more) ? hop : NULL;
}

LB_INLINE int lb_quick_send(lb_context *ctx, const struct lb_next_hop *hop)
{
	if (!lb_store(ctx, 0, hop->link, sizeof(hop->link)))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	if (lb_can_send_back && hop->device == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(hop->device, 0);
}

/* As lb_frontend_find(), but CORRUPT_INDEX also for what is being changed at this moment. */
LB_INLINE enum lb_reason lb_quick_service(const struct lb_flow *flow, struct lb_region *region)
{
	__u64 key = lb_flow_key(flow), hash = lb_flow_hash_key(flow, key), word;
	struct lb_slot *slot;
	__u32 first;
	bool more;

	if (!lb_frontend_near(flow, key, hash, &slot, &more))
		return more ? LB_REASON_CORRUPT_INDEX : LB_REASON_NOT_A_SERVICE;
	word = lb_read_once(slot->word);
	if (lb_slot_kind(word) != LB_SLOT_FINAL)
		return LB_REASON_CORRUPT_INDEX;
	first = lb_slot_region(word);
	region->first = first;
	/* Of a copy: what helpers are given lies on the stack, all of it. */
	region->line = bpf_map_lookup_elem(&lb_table, &first);
	return region->line ? LB_REASON_FORWARDED : LB_REASON_CORRUPT_INDEX;
}

/* False: half of it may be done. */
LB_INLINE bool lb_quick_change(lb_context *ctx, const struct lb_packet *p, const struct lb_quick *q, bool wrapped, bool as_it_is)
{
	if (as_it_is)
		return true;
	if (wrapped)
		return lb_wrap_ipip(ctx, p, &q->outer, q->id);
	return lb_rewrite_ports(ctx, p, &q->to) && lb_rewrite_addresses(ctx, p, &q->to, 1);
}

/* Sends it off, if the way is known. `connection`: NULL if nothing is remembered of the flow. */
LB_INLINE int lb_quick_go(lb_context *ctx, const struct lb_packet *p, const struct lb_node *node, struct lb_quick *q,
			  struct lb_connection *connection)
{
	bool as_it_is = q->mode == LB_MODE_DSR && node->dispatch == LB_DISPATCH_L2, wrapped = q->mode == LB_MODE_DSR && !as_it_is;
	const struct lb_next_hop *hop;

	if (as_it_is ? q->to.destination_port != p->destination_port : wrapped ? node->dispatch != LB_DISPATCH_IPIP : q->mode != LB_MODE_SNAT)
		return LB_SLOWLY;
	if (wrapped && !lb_quick_outer(p, node, q))
		return LB_SLOWLY;
	hop = lb_quick_way(ctx, p, node, q, wrapped ? q->outer.length : 0);
	if (!hop)
		return LB_SLOWLY;
	if (connection)
		lb_touch(connection, p, q->flags);
	else
		lb_count_packet(p);
	if (!lb_quick_change(ctx, p, q, wrapped, as_it_is))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_quick_send(ctx, hop);
}

/* A flow that has an entry. `first`: line of the service's region; 0: the packet is a backend's. */
LB_INLINE int lb_quick_known(lb_context *ctx, const struct lb_packet *p, struct lb_quick *q, __u32 first)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_connection *connection;
	const struct lb_line *line;

	if (!node)
		return LB_SLOWLY;
	if (!first)
		return lb_quick_back(p, q, &connection) ? lb_quick_go(ctx, p, node, q, connection) : LB_SLOWLY;
	line = bpf_map_lookup_elem(&lb_table, &first);
	if (!line || !lb_quick_forth(p, &line->head, node, q, &connection))
		return LB_SLOWLY;
	return lb_quick_go(ctx, p, node, q, connection);
}

/* Functions of their own: one stack has no room for all of it, nor any for two of the longer addresses. */
__noinline int lb_quick_known4(lb_context *ctx, __u32 first)
{
	struct lb_packet p = {};
	struct lb_quick q = {};

	return ctx && lb_quick_read4(ctx, &p) ? lb_quick_known(ctx, &p, &q, first) : LB_SLOWLY;
}

__noinline int lb_quick_known6(lb_context *ctx, __u32 first)
{
	struct lb_work *work = lb_work();

	return ctx && work ? lb_quick_known(ctx, &work->packet, &work->quick, first) : LB_SLOWLY;
}

/* A verdict, or LB_SLOWLY. `family` is known where this is called: verifiers before 6.5 sum up the stacks of calls that are never made, too. */
LB_INLINE int lb_quick_forward(lb_context *ctx, const struct lb_packet *p, struct lb_quick *q, const __u8 family)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_region region = {};
	const struct lb_head *head;
	struct lb_flow flow = {};
	enum lb_reason reason;

	if (!node)
		return LB_SLOWLY;
	if (lb_is_for_snat(p))
		return family == LB_IPV4 ? lb_quick_known4(ctx, 0) : lb_quick_known6(ctx, 0);
	lb_flow_of_packet(&flow, p);
	reason = lb_quick_service(&flow, &region);
	if (reason == LB_REASON_NOT_A_SERVICE)
		return lb_let_pass(reason);
	if (reason != LB_REASON_FORWARDED || region.line->head.policy)
		return LB_SLOWLY;
	head = &region.line->head;
	if (!(head->flags & LB_REGION_ANCHORED) || lb_is_tracked(head, p->protocol) || !lb_uses_dsr(node, head, p->protocol))
		return family == LB_IPV4 ? lb_quick_known4(ctx, region.first) : lb_quick_known6(ctx, region.first);
	return lb_quick_cell(p, &flow, &region, q) ? lb_quick_go(ctx, p, node, q, NULL) : LB_SLOWLY;
}

__noinline int lb_quickly6(lb_context *ctx)
{
	struct lb_work *work = lb_work();

	if (!ctx || !work)
		return LB_SLOWLY;
	__builtin_memset(&work->packet, 0, sizeof(work->packet));
	__builtin_memset(&work->quick, 0, sizeof(work->quick));
	return lb_quick_read6(ctx, &work->packet) ? lb_quick_forward(ctx, &work->packet, &work->quick, LB_IPV6) : LB_SLOWLY;
}

LB_INLINE int lb_quickly(lb_context *ctx)
{
	const __be16 *type = lb_bytes(ctx, LB_ETH_LENGTH - 2, sizeof(*type));
	struct lb_packet p = {};
	struct lb_quick q = {};

	if (!type)
		return LB_SLOWLY;
	if (*type == bpf_htons(LB_ETH_IPV4))
		return lb_quick_read4(ctx, &p) ? lb_quick_forward(ctx, &p, &q, LB_IPV4) : LB_SLOWLY;
	return *type == bpf_htons(LB_ETH_IPV6) ? lb_quickly6(ctx) : LB_SLOWLY;
}

#endif
