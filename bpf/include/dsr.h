/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Direct server return. The load balancer's side: the packet goes to the backend's node as it is, one hop on, in an outer header (RFC 2003,
 * RFC 2473, RFC 4213) or in a frame to it; the answer does not come back here. The backend's side: outer headers of peers are taken off, the
 * packet goes to the backend of this node that they name, and its answers bear the service address.
 */
#ifndef LB_DSR_H
#define LB_DSR_H

#include "deliver.h"
#include "forward.h"
#include "packet.h"
#include "work.h"

#define LB_OUTER_HOPS 64

#if LB_XDP
/* Makes room between the link header and the IP header. Only frames without tags. */
LB_INLINE bool lb_grow(lb_context *ctx, const __u32 length, __u32 family)
{
	return !bpf_xdp_adjust_head(ctx, -(int)length);
}

/* Takes the header away; the link header moves with the packet. */
LB_INLINE bool lb_shrink(lb_context *ctx, const __u32 length, __u32 inner_family)
{
	struct lb_ethernet link;

	if (!lb_load(ctx, 0, &link, sizeof(link)))
		return false;
	link.type = inner_family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);
	return !bpf_xdp_adjust_head(ctx, length) && lb_store(ctx, 0, &link, sizeof(link));
}
#else
LB_INLINE bool lb_grow(lb_context *ctx, const __u32 length, __u32 family)
{
	__u64 flags = family == LB_IPV4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;

	return !bpf_skb_adjust_room(ctx, length, BPF_ADJ_ROOM_MAC, flags);
}

/* 6.3 has flags that change what the kernel takes the packet for; before, both headers have to be of one family. */
#define LB_DECAP_IPV4 (1ull << 7)
#define LB_DECAP_IPV6 (1ull << 8)
LB_INLINE bool lb_shrink(lb_context *ctx, const __u32 length, __u32 inner_family)
{
	__be16 type = inner_family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);
	__u64 flags = inner_family == LB_IPV4 ? LB_DECAP_IPV4 : LB_DECAP_IPV6;

	if (ctx->protocol == type)
		flags = 0;
	return !bpf_skb_adjust_room(ctx, -(int)length, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       lb_store(ctx, 12, &type, sizeof(type));
}
#endif

/* ---- the load balancer's side ----------------------------------------------------------------------------------------------- */

/* Where the encapsulated packet goes, and from which address. */
LB_INLINE enum lb_reason lb_outer_choose(struct lb_work *work, const struct lb_node *node)
{
	__u32 index = lb_ref_index(work->backend_ref);
	const struct lb_backend *backend = bpf_map_lookup_elem(&lb_backends, &index);
	struct lb_outer *outer = &work->outer;
	const struct lb_via *via = NULL;
	__u64 word = backend ? lb_read_once(backend->word) : 0;

	if (lb_backend_generation(word) == lb_ref_generation(work->backend_ref) && lb_backend_flags(word) & LB_BACKEND_VIA)
		via = bpf_map_lookup_elem(&lb_vias, &index);
	if (via) {
		lb_address_copy(outer->destination, via->address);
		outer->family = via->family;
	} else {
		lb_address_copy(outer->destination, work->to.destination);
		outer->family = work->packet.family;
	}
	if (outer->family == LB_IPV4) {
		outer->source[0] = node->address4;
		outer->source[1] = outer->source[2] = outer->source[3] = 0;
		outer->length = sizeof(struct lb_ipv4);
	} else {
		lb_address_copy(outer->source, node->address6);
		outer->length = sizeof(struct lb_ipv6);
	}
	return outer->source[0] | outer->source[1] | outer->source[2] | outer->source[3] ? LB_REASON_FORWARDED :
											    LB_REASON_NO_NODE_ADDRESS;
}

LB_INLINE void lb_outer_way(lb_context *ctx, struct lb_work *work)
{
	const struct lb_outer *outer = &work->outer;
	struct lb_way_out *way = &work->way;

	__builtin_memset(way, 0, sizeof(*way));
#if LB_XDP
	way->fib.ifindex = ctx->ingress_ifindex;
	way->fib.tot_len = work->packet.length + outer->length;
#else
	way->fib.ifindex = ctx->ifindex;
	way->fib.tot_len = ctx->gso_segs > 1 ? 0 : work->packet.length + outer->length;
#endif
	way->fib.l4_protocol = work->packet.family == LB_IPV4 ? LB_IPPROTO_IPIP : LB_IPPROTO_IPV6;
	if (outer->family == LB_IPV4) {
		way->fib.family = LB_AF_INET;
		way->fib.tos = work->packet.tos;
		way->fib.ipv4_src = outer->source[0];
		way->fib.ipv4_dst = outer->destination[0];
	} else {
		way->fib.family = LB_AF_INET6;
		way->fib.flowinfo = bpf_htonl((__u32)work->packet.tos << 20);
		lb_address_copy(way->fib.ipv6_src, outer->source);
		lb_address_copy(way->fib.ipv6_dst, outer->destination);
	}
	way->result = bpf_fib_lookup(ctx, &way->fib, sizeof(way->fib), 0);
}

/* One hop less, nothing else. */
LB_INLINE bool lb_hop(lb_context *ctx, const struct lb_packet *p)
{
	struct lb_tuple same = {};

	lb_address_copy(same.source, p->source);
	lb_address_copy(same.destination, p->destination);
	return p->family == LB_IPV4 ? lb_write_ipv4(ctx, p, &same, 1) : lb_write_ipv6(ctx, p, &same, 1);
}

LB_INLINE bool lb_wrap_ipv4(lb_context *ctx, const struct lb_work *work)
{
	const struct lb_packet *p = &work->packet;
	struct lb_ipv4 ip = {
		.version_length = 0x45,
		.tos = p->tos,
		.length = bpf_htons(p->length + sizeof(ip)),
		.id = (__be16)work->hash,
		.fragment = p->may_fragment ? 0 : bpf_htons(LB_IPV4_DONT),
		.ttl = LB_OUTER_HOPS,
		.protocol = p->family == LB_IPV4 ? LB_IPPROTO_IPIP : LB_IPPROTO_IPV6,
		.source = work->outer.source[0],
		.destination = work->outer.destination[0],
	};
	const __be16 *words = (const __be16 *)&ip;
	__be16 type = bpf_htons(LB_ETH_IPV4);
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	ip.checksum = ~lb_sum_fold(sum);
	return lb_grow(ctx, sizeof(ip), LB_IPV4) && lb_store(ctx, LB_ETH_LENGTH, &ip, sizeof(ip)) && lb_store(ctx, 12, &type, 2);
}

LB_INLINE bool lb_wrap_ipv6(lb_context *ctx, const struct lb_work *work)
{
	const struct lb_packet *p = &work->packet;
	struct lb_ipv6 ip = {
		/* The flow label spreads the flows of one peer over its queues (RFC 6438). */
		.version_class_label = bpf_htonl(6u << 28 | (__u32)p->tos << 20 | ((__u32)work->hash & 0xfffff)),
		.length = bpf_htons(p->length),
		.next = p->family == LB_IPV4 ? LB_IPPROTO_IPIP : LB_IPPROTO_IPV6,
		.hops = LB_OUTER_HOPS,
	};
	__be16 type = bpf_htons(LB_ETH_IPV6);

	lb_address_copy(ip.source, work->outer.source);
	lb_address_copy(ip.destination, work->outer.destination);
	return lb_grow(ctx, sizeof(ip), LB_IPV6) && lb_store(ctx, LB_ETH_LENGTH, &ip, sizeof(ip)) && lb_store(ctx, 12, &type, 2);
}

/*
 * Finds the way for the packet in its outer header (in a frame, for 'l2'). LB_REASON_FORWARDED: by a neighbour that is known, HANDED_OVER: by
 * one that is not; the packet is as it was.
 */
__noinline int lb_dsr_way(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_node *node = lb_node_settings();
	enum lb_reason reason;

	if (!work || !node || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	if (work->packet.hops <= 1)
		return LB_REASON_HOP_LIMIT;
	if (node->dispatch == LB_DISPATCH_L2) {
		if (work->to.destination_port != work->packet.destination_port)
			return LB_REASON_DSR_PORT;
		lb_find_way(ctx, &work->packet, &work->to, &work->way);
		return lb_way_reason(&work->way);
	}
	if (work->packet.l3 != LB_ETH_LENGTH)
		return LB_REASON_NOT_BALANCED;
	reason = lb_outer_choose(work, node);
	if (reason != LB_REASON_FORWARDED)
		return reason;
	lb_outer_way(ctx, work);
	return lb_way_reason(&work->way);
}

/* Makes the packet what it is to be on that way. 0: half of it may be done. */
__noinline int lb_dsr_wrap(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_node *node = lb_node_settings();

	if (!work || !node || !ctx)
		return 0;
	if (node->dispatch == LB_DISPATCH_L2) /* no hop: the backend is on this link */
		return 1;
	if (!lb_hop(ctx, &work->packet))
		return 0;
	return work->outer.family == LB_IPV4 ? lb_wrap_ipv4(ctx, work) : lb_wrap_ipv6(ctx, work);
}

/* ---- the backend's side ------------------------------------------------------------------------------------------------------ */

LB_INLINE bool lb_outer_is_ours(const struct lb_work *work, const struct lb_node *node)
{
	if (work->outer.family == LB_IPV4)
		return work->outer.destination[0] == node->address4;
	return lb_address_equal(work->outer.destination, node->address6, LB_IPV6);
}

/* The backend of this node that a peer's packet is for; 0: none. `outer` is the address that the peer sent it to. */
LB_INLINE __u32 lb_local_backend(const struct lb_work *work, const struct lb_node *node, __u32 service)
{
	struct lb_local_key key = { .service = service, .family = work->packet.family };
	const struct lb_backend *backend;
	__u32 *index;
	__u64 word;

	if (work->outer.family == work->packet.family) {
		lb_address_copy(key.address, work->outer.destination);
		if (work->packet.family == LB_IPV4)
			key.address[1] = key.address[2] = key.address[3] = 0;
	}
	index = bpf_map_lookup_elem(&lb_locals, &key);
	if (!index && lb_outer_is_ours(work, node)) {
		__builtin_memset(key.address, 0, sizeof(key.address));
		index = bpf_map_lookup_elem(&lb_locals, &key);
	}
	if (!index)
		return 0;
	backend = bpf_map_lookup_elem(&lb_backends, index);
	if (!backend)
		return 0;
	word = lb_read_once(backend->word);
	if (lb_backend_service(word) != service || !(lb_backend_flags(word) & LB_BACKEND_LOCAL))
		return 0;
	return *index;
}

/*
 * Is this a packet that a peer has wrapped, to a service that this node has a backend of? Then lb_work() has the packet inside, and who is to get it;
 * still wrapped. LB_REASON_NOT_BALANCED: it is something else.
 */
__noinline int lb_dsr_unwrap_look(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_node *node = lb_node_settings();
	struct lb_packet *p;
	struct lb_region region = {};
	__u32 protocol, at;
	bool whole;

	if (!work || !node || !ctx)
		return LB_REASON_NOT_BALANCED;
	p = &work->packet;
	protocol = p->protocol;
	if (!node->peers || !p->family || p->part != LB_WHOLE || p->l3 != LB_ETH_LENGTH ||
	    (protocol != LB_IPPROTO_IPIP && protocol != LB_IPPROTO_IPV6))
		return LB_REASON_NOT_BALANCED;
	if (!lb_in_ranges(node->peers, p->source, p->family))
		return LB_REASON_NOT_A_PEER;
	lb_address_copy(work->outer.source, p->source);
	lb_address_copy(work->outer.destination, p->destination);
	work->outer.family = p->family;
	work->outer.length = p->l4 - p->l3;
	at = p->l4;
	__builtin_memset(p, 0, sizeof(*p));
	p->l3 = at;
	whole = lb_parse_network(ctx, p, protocol == LB_IPPROTO_IPIP ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6));
	if (!whole || p->part == LB_LATER_FRAGMENT || !lb_has_ports(p->protocol) || !lb_parse_ports(ctx, p))
		return LB_REASON_NOT_BALANCED;
	lb_flow_of_packet(&work->flow, p);
	if (lb_frontend_find(&work->flow, &region) != LB_REASON_FORWARDED)
		return LB_REASON_NOT_A_SERVICE;
	work->region = region.first;
	work->forced = lb_local_backend(work, node, region.line->head.service);
	if (!work->forced)
		return LB_REASON_NO_LOCAL_BACKEND;
	work->kind = work->outer.family == LB_IPV4 ? LB_DECAPSULATED4 : LB_DECAPSULATED6;
	return LB_REASON_FORWARDED;
}

/* Takes the outer header off, which has no options [those of IPv4 and extensions of IPv6 are no peer's]. 0: it cannot be. */
__noinline int lb_dsr_unwrap(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	bool done;

	if (!work || !ctx)
		return 0;
	if (work->outer.length == sizeof(struct lb_ipv4))
		done = lb_shrink(ctx, sizeof(struct lb_ipv4), work->packet.family);
	else if (work->outer.length == sizeof(struct lb_ipv6))
		done = lb_shrink(ctx, sizeof(struct lb_ipv6), work->packet.family);
	else
		return 0;
	if (!done)
		return 0;
	work->packet.l3 -= work->outer.length;
	work->packet.l4 -= work->outer.length;
	return 1;
}

/* ---- answers of a backend whose packets come wrapped ---------------------------------------------------------------------------- */

#define LB_TCP_OPTIONS 8

#if !LB_XDP
/*
 * Lessens the segment size that a SYN ACK offers by what the outer header takes, so that the client's segments fit with it (RFC 9293, 3.7.1). `p`
 * is the packet as it is now.
 */
LB_INLINE bool lb_clamp_segments(lb_context *ctx, const struct lb_packet *p, __u8 kind)
{
	__u32 at = p->l4 + 20, less = kind == LB_DECAPSULATED4 ? sizeof(struct lb_ipv4) : sizeof(struct lb_ipv6);
	__u8 option[4];
	__be16 wanted, was;

	for (int i = 0; i < LB_TCP_OPTIONS; i++) {
		if (!lb_load(ctx, at, option, sizeof(option)))
			return true;
		if (option[0] == 0)
			return true;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (option[0] == 2 && option[1] == 4)
			break;
		if (option[1] < 2)
			return true;
		at += option[1];
	}
	if (option[0] != 2 || option[1] != 4)
		return true;
	was = *(__be16 *)&option[2];
	wanted = bpf_htons(bpf_ntohs(was) - less);
	if (bpf_ntohs(was) <= less + 536)
		return true;
	/* Its two bytes may begin at an odd place: the sum is of words. */
	if ((at - p->l4) & 1) {
		was = __builtin_bswap16(was);
		wanted = __builtin_bswap16(wanted);
	}
	if (!lb_correct_checksum(ctx, p, p->l4 + 16, 0, lb_sum_change16(0, was, wanted)))
		return false;
	if ((at - p->l4) & 1)
		wanted = __builtin_bswap16(wanted);
	return lb_store(ctx, at + 2, &wanted, sizeof(wanted));
}
#endif

#endif
