/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a translated packet goes: the routing table is asked first, and only what it can deliver is rewritten. */
#ifndef LB_DELIVER_H
#define LB_DELIVER_H

#include "kernel.h"
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

/* Asks the routing table for the packet that `to` describes, `more` bytes longer than it is. */
LB_INLINE void lb_find_way(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, struct lb_way_out *way, __u32 more)
{
	__builtin_memset(way, 0, sizeof(*way));
#if LB_XDP
	way->fib.ifindex = ctx->ingress_ifindex;
#else
	way->fib.ifindex = ctx->ifindex;
#endif
	way->fib.tot_len = lb_length_on_wire(ctx, p) + more;
	way->fib.l4_protocol = p->protocol;
	way->fib.sport = to->source_port;
	way->fib.dport = to->destination_port;
	if (p->family == LB_IPV4) {
		way->fib.family = LB_AF_INET;
		way->fib.tos = p->tos;
		way->fib.ipv4_src = to->source[0];
		way->fib.ipv4_dst = to->destination[0];
	} else {
		way->fib.family = LB_AF_INET6;
		way->fib.flowinfo = bpf_htonl((__u32)p->tos << 20);
		lb_address_copy(way->fib.ipv6_src, to->source);
		lb_address_copy(way->fib.ipv6_dst, to->destination);
	}
	way->result = bpf_fib_lookup(ctx, &way->fib, sizeof(way->fib), 0);
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
