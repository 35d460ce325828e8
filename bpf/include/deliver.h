/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a translated packet goes: the routing table is asked first, and only what it can deliver is rewritten. */
#ifndef LB_DELIVER_H
#define LB_DELIVER_H

#include "kernel.h"
#include "next_hop.h"
#include "packet.h"
#include "reasons.h"
#include "work.h"

/* The length that has to fit: what the device cuts into segments has theirs. */
LB_INLINE __u32 lb_length_on_wire(lb_context *ctx, const struct lb_packet *p)
{
#if !LB_XDP
	if (ctx->gso_segs > 1)
		return p->l4 - p->l3 + p->header + ctx->gso_size;
#endif
	return p->length;
}

LB_INLINE __u32 lb_arrived_by(lb_context *ctx)
{
#if LB_XDP
	return ctx->ingress_ifindex;
#else
	return ctx->ifindex;
#endif
}

/* What the routing table is asked about. */
struct lb_question {
	const __be32 *source;
	const __be32 *destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 length;
	__u8 family; /* enum lb_family */
	__u8 protocol;
	__u8 tos;
	bool wrapped; /* as lb_way_asked() */
};

LB_INLINE void lb_ask_way(lb_context *ctx, const struct lb_question *q, struct lb_way_out *way)
{
	__builtin_memset(way, 0, sizeof(*way));
	way->fib.ifindex = lb_arrived_by(ctx);
	way->fib.tot_len = q->length;
	way->fib.l4_protocol = q->protocol;
	way->fib.sport = q->source_port;
	way->fib.dport = q->destination_port;
	if (q->family == LB_IPV4) {
		way->fib.family = LB_AF_INET;
		way->fib.tos = q->tos;
		way->fib.ipv4_src = q->source[0];
		way->fib.ipv4_dst = q->destination[0];
	} else {
		way->fib.family = LB_AF_INET6;
		way->fib.flowinfo = bpf_htonl((__u32)q->tos << 20);
		lb_address_copy(way->fib.ipv6_src, q->source);
		lb_address_copy(way->fib.ipv6_dst, q->destination);
	}
	way->result = bpf_fib_lookup(ctx, &way->fib, sizeof(way->fib), 0);
}

/* The same, unless the answer is known. `place`: where it is kept. */
LB_INLINE void lb_recall_way(lb_context *ctx, const struct lb_question *q, struct lb_way_out *way, __u32 place)
{
	struct lb_way_key key = {
		.destination = q->destination,
		.arrived = lb_arrived_by(ctx),
		.asked = lb_way_asked(q->family, q->tos, q->wrapped),
		.family = q->family,
	};
	const struct lb_node *node = lb_node_settings();
	struct lb_next_hop *hop = lb_next_hop_at(place);
	__u32 routes = node ? lb_read_once(node->routes) : 0;

	if (hop && lb_next_hop_serves(hop, &key, routes, q->length)) {
		way->result = BPF_FIB_LKUP_RET_SUCCESS;
		way->fib.ifindex = hop->device;
		__builtin_memcpy(way->fib.dmac, hop->link, 6);
		__builtin_memcpy(way->fib.smac, (const __u8 *)hop->link + 6, 6);
		return;
	}
	lb_ask_way(ctx, q, way);
	if (!hop || !node || way->result != BPF_FIB_LKUP_RET_SUCCESS)
		return;
	if (q->wrapped || (__s32)(lb_read_once(node->routes_until) - lb_seconds()) > 0)
		lb_next_hop_keep(hop, &key, routes, &way->fib);
}

/* About the packet that `to` describes, `more` bytes longer than it is. */
LB_INLINE struct lb_question lb_question_of(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u32 more)
{
	return (struct lb_question){
		.source = to->source,
		.destination = to->destination,
		.source_port = to->source_port,
		.destination_port = to->destination_port,
		.length = lb_length_on_wire(ctx, p) + more,
		.family = p->family,
		.protocol = p->protocol,
		.tos = p->tos,
	};
}

LB_INLINE void lb_find_way(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, struct lb_way_out *way, __u32 more)
{
	struct lb_question question = lb_question_of(ctx, p, to, more);

	lb_ask_way(ctx, &question, way);
}

/* LB_REASON_FORWARDED: there is a way, by a neighbour that is known; HANDED_OVER: by one that is not. */
LB_INLINE enum lb_reason lb_way_reason(const struct lb_way_out *way)
{
	switch (way->result) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return LB_REASON_FORWARDED;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return LB_REASON_HANDED_OVER;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return LB_REASON_TOO_BIG;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		return LB_REASON_FORWARDING_DISABLED;
	default:
		return LB_REASON_NO_ROUTE;
	}
}

/* Finds the way for a packet of a connection, which is one of many. What lb_way_reason() says. */
__noinline int lb_find_way_again(lb_context *ctx, __u32 more)
{
	struct lb_work *work = lb_work();
	struct lb_question question;

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	question = lb_question_of(ctx, &work->packet, &work->to, more);
	lb_recall_way(ctx, &question, &work->way, work->way_place);
	return lb_way_reason(&work->way);
}

LB_INLINE bool lb_write_link(lb_context *ctx, const struct bpf_fib_lookup *fib)
{
	__u8 addresses[12];

	__builtin_memcpy(addresses, fib->dmac, 6);
	__builtin_memcpy(addresses + 6, fib->smac, 6);
	return lb_store(ctx, 0, addresses, sizeof(addresses));
}

#if LB_XDP
/* Of the attachment: its devices send with XDP_TX. veth drops such frames unless its peer has an XDP program, too; redirected ones it takes. */
const volatile __u8 lb_can_send_back = 1;

/* The verdict for the context. The packet has been rewritten. */
LB_INLINE int lb_send_out(lb_context *ctx, const struct lb_way_out *way)
{
	if (!lb_write_link(ctx, &way->fib))
		return XDP_DROP;
	if (lb_can_send_back && way->fib.ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(way->fib.ifindex, 0);
}
#else
LB_INLINE int lb_send_out(lb_context *ctx, const struct lb_way_out *way)
{
	if (way->result == BPF_FIB_LKUP_RET_NO_NEIGH) {
		struct bpf_redir_neigh next = {.nh_family = way->fib.family};

		__builtin_memcpy(next.ipv6_nh, way->fib.ipv6_dst, sizeof(next.ipv6_nh));
		return bpf_redirect_neigh(way->fib.ifindex, &next, sizeof(next), 0);
	}
	if (!lb_write_link(ctx, &way->fib))
		return TC_ACT_SHOT;
	return bpf_redirect(way->fib.ifindex, 0);
}
#endif

#endif
