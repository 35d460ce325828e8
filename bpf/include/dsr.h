/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Direct server return, the load balancer's side: the packet goes to the backend's node one hop on, and the answer does not come back here.
 *   ipip    as it is, in an outer header (RFC 2003, RFC 2473, RFC 4213)
 *   geneve  translated to the backend, in an outer header, UDP and Geneve with the service address in an option (RFC 8926)
 *   option  translated to the backend; the packets that need it have the service address in an IPv4 option or an IPv6 destination option
 *   l2      as it is, in a frame to the backend
 */
#ifndef LB_DSR_H
#define LB_DSR_H

#include "deliver.h"
#include "forward.h"
#include "packet.h"
#include "work.h"

#define LB_OUTER_HOPS 64

#define LB_GENEVE_PORT 6081
#define LB_GENEVE_CLASS 0xffeb /* of those for experiments, RFC 8926 7 */
#define LB_OPTION_IPV4 0x9e    /* for experiments, copied into fragments: RFC 4727 */
#define LB_OPTION_IPV6 0x1e    /* likewise: to be skipped by who does not know it */

struct lb_udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};
struct lb_geneve {
	__u8 version_words; /* of the options */
	__u8 flags;
	__be16 type;        /* of the packet inside */
	__be32 network;
	__be16 option_class;
	__u8 option_type; /* enum lb_family of the address */
	__u8 option_words;
};
LB_STATIC_ASSERT(sizeof(struct lb_geneve) == 12);
struct lb_geneve4 {
	struct lb_udp udp;
	struct lb_geneve geneve;
	__be32 address;
	__be16 port;
	__be16 reserved;
};
LB_STATIC_ASSERT(sizeof(struct lb_geneve4) == 28);
struct lb_geneve6 {
	struct lb_udp udp;
	struct lb_geneve geneve;
	__be32 address[4];
	__be16 port;
	__be16 reserved;
};
LB_STATIC_ASSERT(sizeof(struct lb_geneve6) == 40);

struct lb_option4 {
	__u8 type;
	__u8 length;
	__be16 port;
	__be32 address;
};
LB_STATIC_ASSERT(sizeof(struct lb_option4) == 8);
struct lb_option6 {
	__u8 next;
	__u8 words; /* of 8 bytes, beyond the first */
	__u8 type;
	__u8 length;
	__be32 address[4];
	__be16 port;
	__u8 padding[2];
};
LB_STATIC_ASSERT(sizeof(struct lb_option6) == 24);

#if LB_XDP
/* Makes room between the link header and the IP header. Only frames without tags, whose link header is written anew. */
LB_INLINE bool lb_grow(lb_context *ctx, const __u32 length, __u64 flags)
{
	return !bpf_xdp_adjust_head(ctx, -(int)length);
}
#define LB_GROW_IPV4 0
#define LB_GROW_IPV6 0
#define LB_GROW_UDP 0
#else
LB_INLINE bool lb_grow(lb_context *ctx, const __u32 length, __u64 flags)
{
	return !bpf_skb_adjust_room(ctx, length, BPF_ADJ_ROOM_MAC, flags);
}
#define LB_GROW_IPV4 BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
#define LB_GROW_IPV6 BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
#define LB_GROW_UDP BPF_F_ADJ_ROOM_ENCAP_L4_UDP
#endif

/* Where the encapsulated packet goes, and from which address. */
LB_INLINE enum lb_reason lb_outer_choose(lb_context *ctx, struct lb_work *work, const struct lb_node *node)
{
	struct lb_outer *outer = &work->outer;

	lb_via_find(ctx);
	if (work->via_family) {
		lb_address_copy(outer->destination, work->via);
		outer->family = work->via_family;
	} else {
		lb_address_copy(outer->destination, work->to.destination);
		outer->family = work->packet.family;
	}
	outer->protocol = work->packet.family == LB_IPV4 ? LB_IPPROTO_IPIP : LB_IPPROTO_IPV6;
	outer->length = outer->family == LB_IPV4 ? sizeof(struct lb_ipv4) : sizeof(struct lb_ipv6);
	if (work->dispatch == LB_DISPATCH_GENEVE) {
		outer->protocol = LB_IPPROTO_UDP;
		outer->length += work->packet.family == LB_IPV4 ? sizeof(struct lb_geneve4) : sizeof(struct lb_geneve6);
	}
	if (outer->family == LB_IPV4) {
		outer->source[0] = node->address4;
		outer->source[1] = outer->source[2] = outer->source[3] = 0;
	} else {
		lb_address_copy(outer->source, node->address6);
	}
	return outer->source[0] | outer->source[1] | outer->source[2] | outer->source[3] ? LB_REASON_FORWARDED :
											    LB_REASON_NO_NODE_ADDRESS;
}

LB_INLINE void lb_outer_way(lb_context *ctx, struct lb_work *work)
{
	const struct lb_outer *outer = &work->outer;
	struct lb_question question = {
		.source = outer->source,
		.destination = outer->destination,
		.length = lb_length_on_wire(ctx, &work->packet) + outer->length,
		.family = outer->family,
		.protocol = outer->protocol,
		.tos = work->packet.tos,
		.wrapped = true,
	};

	lb_recall_way(ctx, &question, &work->way, work->way_place);
}

/* One hop less, nothing else. */
#if LB_XDP
LB_INLINE bool lb_hop(lb_context *ctx, const struct lb_packet *p)
{
	if (p->family == LB_IPV4) {
		struct lb_ipv4 *ip = lb_bytes(ctx, p->l3, sizeof(*ip));
		__u32 checksum;

		if (!ip)
			return false;
		/* RFC 1141: the sum of the header has 0x100 less. */
		checksum = (__u32)ip->checksum + bpf_htons(0x100);
		ip->checksum = checksum + (checksum >= 0xffff);
		ip->ttl--;
		return true;
	}
	struct lb_ipv6 *ip = lb_bytes(ctx, p->l3, sizeof(*ip));

	if (!ip)
		return false;
	ip->hops--;
	return true;
}
#else
LB_INLINE bool lb_hop(lb_context *ctx, const struct lb_packet *p)
{
	struct lb_tuple same = {};

	lb_address_copy(same.source, p->source);
	lb_address_copy(same.destination, p->destination);
	return p->family == LB_IPV4 ? lb_write_ipv4(ctx, p, &same, 1) : lb_write_ipv6(ctx, p, &same, 1);
}
#endif

/*
 * A bit of the hash that outer headers bear, in the identification of IPv4 and the flow label of IPv6: set by a backend's node that sends a packet
 * on to another, so that this happens once.
 */
#define LB_OUTER_MARK 0x8000ull

/* Outer header in words. IPv4: struct lb_ipv4. */
LB_INLINE void lb_fill_outer4(__be32 *word, const struct lb_packet *p, const struct lb_outer *outer, __u32 id)
{
	__be16 length = bpf_htons(p->length + outer->length), fragment = p->may_fragment ? 0 : bpf_htons(LB_IPV4_DONT);
	__u64 sum = 0;

	word[0] = 0x45 | (__u32)p->tos << 8 | (__u32)length << 16;
	word[1] = (__u16)id | (__u32)fragment << 16;
	word[2] = LB_OUTER_HOPS | outer->protocol << 8;
	word[3] = outer->source[0];
	word[4] = outer->destination[0];
#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += word[i];
	word[2] |= (__u32)(__u16)~lb_sum_fold(sum) << 16;
}

/* IPv6: struct lb_ipv6. The flow label spreads the flows of one peer over its queues (RFC 6438). */
LB_INLINE void lb_fill_outer6(__be32 *word, const struct lb_packet *p, const struct lb_outer *outer, __u32 id)
{
	word[0] = bpf_htonl(6u << 28 | (__u32)p->tos << 20 | (id & 0xfffff));
	word[1] = bpf_htons(p->length + outer->length - sizeof(struct lb_ipv6)) | outer->protocol << 16 | LB_OUTER_HOPS << 24;
	lb_address_copy(word + 2, outer->source);
	lb_address_copy(word + 6, outer->destination);
}

/* The outer IP header and what the link header says of it. There is room. */
LB_INLINE bool lb_write_outer(lb_context *ctx, const struct lb_packet *p, const struct lb_outer *outer, __u32 id)
{
	__be16 type = outer->family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);

	if (outer->family == LB_IPV4) {
		__be32 word[5];

		lb_fill_outer4(word, p, outer, id);
		return lb_store(ctx, LB_ETH_LENGTH, word, sizeof(word)) && lb_store(ctx, 12, &type, 2);
	}
	__be32 word[10];

	lb_fill_outer6(word, p, outer, id);
	return lb_store(ctx, LB_ETH_LENGTH, word, sizeof(word)) && lb_store(ctx, 12, &type, 2);
}

LB_INLINE bool lb_wrap_ipip(lb_context *ctx, const struct lb_packet *p, const struct lb_outer *outer, __u32 id)
{
	if (!lb_hop(ctx, p))
		return false;
	if (outer->family == LB_IPV4 ? !lb_grow(ctx, sizeof(struct lb_ipv4), LB_GROW_IPV4) : !lb_grow(ctx, sizeof(struct lb_ipv6), LB_GROW_IPV6))
		return false;
	return lb_write_outer(ctx, p, outer, id);
}

/* UDP over IPv6 without a checksum: RFC 6935. The source port spreads flows. */
LB_INLINE void lb_fill_geneve(struct lb_udp *udp, struct lb_geneve *geneve, const struct lb_work *work, const __u32 own, __u8 words)
{
	udp->source = bpf_htons(0xc000 | (work->hash & 0x3fff));
	udp->destination = bpf_htons(LB_GENEVE_PORT);
	udp->length = bpf_htons(work->packet.length + own);
	udp->checksum = 0;
	geneve->version_words = words + 1;
	geneve->flags = 0;
	geneve->type = work->packet.family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);
	geneve->network = 0;
	geneve->option_class = bpf_htons(LB_GENEVE_CLASS);
	geneve->option_type = work->packet.family;
	geneve->option_words = words;
}

LB_INLINE bool lb_wrap_geneve4(lb_context *ctx, const struct lb_work *work)
{
	struct lb_geneve4 header = { .address = work->packet.destination[0], .port = work->packet.destination_port };
	bool done;

	lb_fill_geneve(&header.udp, &header.geneve, work, sizeof(header), 2);
	if (work->outer.family == LB_IPV4)
		done = lb_grow(ctx, sizeof(struct lb_ipv4) + sizeof(header), LB_GROW_IPV4 | LB_GROW_UDP) &&
		       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv4), &header, sizeof(header));
	else
		done = lb_grow(ctx, sizeof(struct lb_ipv6) + sizeof(header), LB_GROW_IPV6 | LB_GROW_UDP) &&
		       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv6), &header, sizeof(header));
	return done && lb_write_outer(ctx, &work->packet, &work->outer, work->hash);
}

LB_INLINE bool lb_wrap_geneve6(lb_context *ctx, const struct lb_work *work)
{
	struct lb_geneve6 header = { .port = work->packet.destination_port };
	bool done;

	lb_address_copy(header.address, work->packet.destination);
	lb_fill_geneve(&header.udp, &header.geneve, work, sizeof(header), 5);
	if (work->outer.family == LB_IPV4)
		done = lb_grow(ctx, sizeof(struct lb_ipv4) + sizeof(header), LB_GROW_IPV4 | LB_GROW_UDP) &&
		       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv4), &header, sizeof(header));
	else
		done = lb_grow(ctx, sizeof(struct lb_ipv6) + sizeof(header), LB_GROW_IPV6 | LB_GROW_UDP) &&
		       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv6), &header, sizeof(header));
	return done && lb_write_outer(ctx, &work->packet, &work->outer, work->hash);
}

/* Does the packet tell the backend's node the service? A SYN does for the whole connection; of UDP nobody knows which packet is the first. */
LB_INLINE bool lb_needs_option(const struct lb_packet *p)
{
	return p->protocol == LB_IPPROTO_UDP || lb_is_opening(p) || (p->protocol == LB_IPPROTO_SCTP && p->flags & LB_TCP_SYN);
}

#if LB_XDP
/* Makes room behind the fixed part of the IP header, which moves with the link header. */
LB_INLINE bool lb_grow_inside(lb_context *ctx, const __u32 header, const __u32 length)
{
	__u8 moved[LB_ETH_LENGTH + sizeof(struct lb_ipv6)];

	return lb_load(ctx, 0, moved, LB_ETH_LENGTH + header) && !bpf_xdp_adjust_head(ctx, -(int)length) &&
	       lb_store(ctx, 0, moved, LB_ETH_LENGTH + header);
}
#else
LB_INLINE bool lb_grow_inside(lb_context *ctx, const __u32 header, const __u32 length)
{
	return !bpf_skb_adjust_room(ctx, length, BPF_ADJ_ROOM_NET, 0);
}
#endif

LB_INLINE bool lb_add_option4(lb_context *ctx, const struct lb_work *work)
{
	struct lb_option4 option = {
		.type = LB_OPTION_IPV4,
		.length = sizeof(option),
		.port = work->packet.destination_port,
		.address = work->packet.destination[0],
	};
	__be16 before[2], after[2], checksum;
	__u8 version_length, first[2];
	const __be16 *words = (const __be16 *)&option;
	__u64 change = 0;

	if (!lb_load(ctx, LB_ETH_LENGTH, first, sizeof(first)) || !lb_load(ctx, LB_ETH_LENGTH, before, sizeof(before)) ||
	    !lb_load(ctx, LB_ETH_LENGTH + 10, &checksum, sizeof(checksum)))
		return false;
	version_length = first[0] + sizeof(option) / 4;
	after[0] = (__be16)(version_length | first[1] << 8);
	after[1] = bpf_htons(bpf_ntohs(before[1]) + sizeof(option));
	change = lb_sum_change16(lb_sum_change16(0, before[0], after[0]), before[1], after[1]);
#pragma unroll
	for (int i = 0; i < 4; i++)
		change += words[i];
	checksum = lb_checksum_after(checksum, change);
	return lb_grow_inside(ctx, sizeof(struct lb_ipv4), sizeof(option)) && lb_store(ctx, LB_ETH_LENGTH, after, sizeof(after)) &&
	       lb_store(ctx, LB_ETH_LENGTH + 10, &checksum, sizeof(checksum)) &&
	       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv4), &option, sizeof(option));
}

LB_INLINE bool lb_add_option6(lb_context *ctx, const struct lb_work *work)
{
	struct lb_option6 option = {
		.words = sizeof(option) / 8 - 1,
		.type = LB_OPTION_IPV6,
		.length = 18,
		.port = work->packet.destination_port,
		.padding = { 1, 0 },
	};
	__be16 length = bpf_htons(work->packet.length - sizeof(struct lb_ipv6) + sizeof(option));
	__u8 next = LB_IPPROTO_DSTOPTS;

	lb_address_copy(option.address, work->packet.destination);
	if (!lb_load(ctx, LB_ETH_LENGTH + 6, &option.next, 1))
		return false;
	return lb_grow_inside(ctx, sizeof(struct lb_ipv6), sizeof(option)) && lb_store(ctx, LB_ETH_LENGTH + 4, &length, sizeof(length)) &&
	       lb_store(ctx, LB_ETH_LENGTH + 6, &next, 1) &&
	       lb_store(ctx, LB_ETH_LENGTH + sizeof(struct lb_ipv6), &option, sizeof(option));
}

/* A header of IPv4 has room for 40 bytes of options. */
LB_INLINE bool lb_option_fits(const struct lb_packet *p)
{
	return p->family == LB_IPV6 || p->l4 - p->l3 + sizeof(struct lb_option4) <= 60;
}

/*
 * Finds the way for the packet as it will be. LB_REASON_FORWARDED: by a neighbour that is known, HANDED_OVER: by one that is not; the packet is
 * as it was.
 */
__noinline int lb_dsr_way(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_node *node = lb_node_settings();
	enum lb_reason reason;

	if (!work || !node || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	work->dispatch = node->dispatch;
	if (work->packet.hops <= 1)
		return LB_REASON_HOP_LIMIT;
	if (work->dispatch == LB_DISPATCH_L2) {
		if (work->to.destination_port != work->packet.destination_port)
			return LB_REASON_DSR_PORT;
		return lb_find_way_again(ctx, 0);
	}
	if (work->packet.l3 != LB_ETH_LENGTH)
		return LB_REASON_NOT_BALANCED;
	if (work->dispatch != LB_DISPATCH_IPIP && !lb_can_rewrite(&work->packet, &work->to))
		return LB_REASON_SCTP_PORT;
	if (work->dispatch == LB_DISPATCH_OPTION) {
		work->outer.length = 0;
		if (lb_needs_option(&work->packet))
			work->outer.length = work->packet.family == LB_IPV4 ? sizeof(struct lb_option4) : sizeof(struct lb_option6);
		if (work->outer.length && !lb_option_fits(&work->packet))
			return LB_REASON_NOT_BALANCED;
		return lb_find_way_again(ctx, work->outer.length);
	}
	reason = lb_outer_choose(ctx, work, node);
	if (reason != LB_REASON_FORWARDED)
		return reason;
	lb_outer_way(ctx, work);
	return lb_way_reason(&work->way);
}

/* Makes the packet what it is to be on that way. 0: half of it may be done. */
__noinline int lb_dsr_wrap(lb_context *ctx)
{
	struct lb_work *work = lb_work();

	if (!work || !ctx)
		return 0;
	if (work->dispatch == LB_DISPATCH_L2) /* no hop: the backend is on this link */
		return 1;
	if (work->dispatch == LB_DISPATCH_IPIP)
		return lb_wrap_ipip(ctx, &work->packet, &work->outer, work->hash);
	if (!lb_rewrite(ctx, &work->packet, &work->to, 1))
		return 0;
	if (work->dispatch == LB_DISPATCH_GENEVE)
		return work->packet.family == LB_IPV4 ? lb_wrap_geneve4(ctx, work) : lb_wrap_geneve6(ctx, work);
	if (!work->outer.length)
		return 1;
	return work->packet.family == LB_IPV4 ? lb_add_option4(ctx, work) : lb_add_option6(ctx, work);
}

#endif
