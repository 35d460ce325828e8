/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the sender of a packet that goes nowhere is told: a TCP reset (RFC 9293, 3.10.7.1), or an ICMP error that quotes the packet (RFC
 * 792, RFC 1812 4.3.2, RFC 4443), from the address that it was sent to. The answer takes the packet's place and leaves by the device that
 * it came in by. Only at tc: XDP hands these packets on.
 */
#ifndef LB_ANSWERS_H
#define LB_ANSWERS_H

#include "abi.h"
#include "forward.h"
#include "kernel.h"
#include "packet.h"
#include "packet_maps.h"
#include "reasons.h"
#include "work.h"

#define LB_ANSWER_HOPS 64
#define LB_QUOTED_IPV4 548 /* an error of 576 bytes */
#define LB_QUOTED_IPV6 (1280 - 40 - 8) /* one that fits the least MTU */
#define LB_CONTROL_TOS 0xc0 /* internetwork control, as routers' errors have it */
#define LB_ICMP_LENGTH 8

#define LB_MILLISECOND (1000 * 1000) /* in nanoseconds */
/* As net.ipv4.icmp_msgs_per_sec and _burst are by default; resets cost their receiver less. */
#define LB_ICMP_EACH_MILLISECOND   1
#define LB_RESETS_EACH_MILLISECOND 10
#define LB_BURST_MILLISECONDS	   50

enum lb_answered { LB_NOT_ANSWERED, LB_ANSWERED, LB_ANSWER_LIMITED };

struct lb_icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};
LB_STATIC_ASSERT(sizeof(struct lb_icmp) == LB_ICMP_LENGTH);

struct lb_tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 offset; /* 4 bits, in words */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};
LB_STATIC_ASSERT(sizeof(struct lb_tcp) == 20);

/* Lengths are cut to these bits for the verifier. */
#define LB_SEGMENT_MASK 0x7ff
#define LB_SUM_CHUNK	512 /* what bpf_csum_diff takes at once */

/* 0 -> the answer that is being made.
 * Written and read within one run of a program. */
struct lb_draft {
	union {
		struct lb_ipv4 ipv4;
		struct lb_ipv6 ipv6;
	};
	union {
		struct lb_tcp tcp;
		struct lb_icmp icmp;
		__u8 segment[2 * (LB_SEGMENT_MASK + 1)];
	};
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_draft);
} lb_drafts SEC(".maps");

/* ---- how many ---------------------------------------------------------------------------------------------------------------- */

/* May one more be sent? The tokens of a millisecond are given out once: a CPU that sees them gone takes no lock. */
LB_INLINE bool lb_answer_allowed(__u32 kind)
{
	struct lb_budget *budget = bpf_map_lookup_elem(&lb_budgets, &kind);
	__u64 now = bpf_ktime_get_ns() / LB_MILLISECOND, passed;
	__u32 rate = kind == LB_BUDGET_ICMP ? LB_ICMP_EACH_MILLISECOND : LB_RESETS_EACH_MILLISECOND;
	__u32 most = rate * LB_BURST_MILLISECONDS;
	bool allowed = false;

	if (!budget || (lb_read_once(budget->at) == now && !lb_read_once(budget->tokens)))
		return false;
	bpf_spin_lock(&budget->lock);
	passed = now > budget->at ? now - budget->at : 0;
	if (passed) {
		budget->at = now;
		if (passed >= LB_BURST_MILLISECONDS || budget->tokens + (__u32)passed * rate > most)
			budget->tokens = most;
		else
			budget->tokens += (__u32)passed * rate;
	}
	if (budget->tokens) {
		budget->tokens--;
		allowed = true;
	}
	bpf_spin_unlock(&budget->lock);
	return allowed;
}

/* ---- to whom ------------------------------------------------------------------------------------------------------------------ */

/* Is this one to send answers to? Those to addresses of ours would come back. */
LB_INLINE bool lb_may_be_told(const __be32 *address, __u8 family)
{
	return lb_is_unicast(address, family) && !lb_is_service_address(address, family) && !lb_is_node_address(address, family);
}

/* RFC 1812 4.3.2.7, RFC 4443 2.4 (e): never in answer to an error, and never to many. `link`: destination and source of the frame. */
LB_INLINE bool lb_may_answer(const struct lb_packet *p, const __u8 *link)
{
	return lb_has_ports(p->protocol) && p->part != LB_LATER_FRAGMENT && !(p->flags & LB_TCP_RST) && !((link[0] | link[6]) & 1) &&
	       lb_may_be_told(p->source, p->family) && lb_is_unicast(p->destination, p->family);
}

/* ---- what -------------------------------------------------------------------------------------------------------------------- */

/* The same length, not 0, for the verifier: that of 6.1 does not learn from a comparison with 0. */
LB_INLINE __u32 lb_segment_length(__u32 length)
{
	length--;
	barrier_var(length);
	return (length & LB_SEGMENT_MASK) + 1;
}

/* The sum of the segment, as those of lb_sum_*; what is behind it up to a multiple of 4 is 0. */
LB_INLINE __u64 lb_sum_segment(struct lb_draft *draft, __u32 length)
{
	__s64 sum = 0;

	length = (length + 3) & ~3u;
#pragma unroll
	for (int i = 0; i < (LB_SEGMENT_MASK + 1) / LB_SUM_CHUNK; i++) {
		__u32 part = length > LB_SUM_CHUNK ? LB_SUM_CHUNK : length;

		length -= part;
		barrier_var(part);
		part &= 2 * LB_SUM_CHUNK - 1;
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(draft->segment + i * LB_SUM_CHUNK), part, sum);
	}
	return (__u32)sum;
}

LB_INLINE __u64 lb_sum_addresses(const struct lb_packet *p)
{
	__u64 sum = (__u64)p->source[0] + p->destination[0];

	if (p->family == LB_IPV4)
		return sum;
	for (int i = 1; i < 4; i++)
		sum += (__u64)p->source[i] + p->destination[i];
	return sum;
}

/* Checksum of the segment; ICMP of IPv4 does without addresses. */
LB_INLINE __be16 lb_segment_checksum(struct lb_draft *draft, const struct lb_packet *p, __u8 protocol, __u32 length)
{
	__u64 sum = lb_sum_segment(draft, length);

	if (protocol != LB_IPPROTO_ICMP)
		sum += lb_sum_addresses(p) + bpf_htons(length) + bpf_htons(protocol);
	return ~lb_sum_fold(sum);
}

/* An IP header from the packet's destination to its source. */
LB_INLINE void lb_draft_ip(struct lb_draft *draft, const struct lb_packet *p, __u8 protocol, __u32 length, __u8 tos)
{
	if (p->family == LB_IPV4) {
		struct lb_ipv4 *ip = &draft->ipv4;
		__be16 first = bpf_htons(0x4500 | tos), total = bpf_htons(sizeof(*ip) + length),
		       last = bpf_htons(LB_ANSWER_HOPS << 8 | protocol);

		ip->version_length = 0x45;
		ip->tos = tos;
		ip->length = total;
		ip->id = 0;
		ip->fragment = bpf_htons(LB_IPV4_DONT);
		ip->ttl = LB_ANSWER_HOPS;
		ip->protocol = protocol;
		ip->checksum = ~lb_sum_fold(lb_sum_addresses(p) + first + total + bpf_htons(LB_IPV4_DONT) + last);
		ip->source = p->destination[0];
		ip->destination = p->source[0];
		return;
	}
	struct lb_ipv6 *ip = &draft->ipv6;

	ip->version_class_label = bpf_htonl(6u << 28 | (__u32)tos << 20);
	ip->length = bpf_htons(length);
	ip->next = protocol;
	ip->hops = LB_ANSWER_HOPS;
	lb_address_copy(ip->source, p->destination);
	lb_address_copy(ip->destination, p->source);
}

/* Length of the segment; 0: there is none. How long a datagram in fragments is is not known, so they are not acknowledged. */
LB_INLINE __u32 lb_draft_reset(lb_context *ctx, struct lb_draft *draft, const struct lb_packet *p)
{
	__u32 length = p->length - (p->l4 - p->l3);
	struct lb_tcp *reset = &draft->tcp, from;

	if (p->part != LB_WHOLE || !lb_load(ctx, p->l4, &from, sizeof(from)))
		return 0;
	__builtin_memset(reset, 0, sizeof(*reset));
	reset->source = p->destination_port;
	reset->destination = p->source_port;
	reset->offset = sizeof(*reset) / 4 << 4;
	if (from.flags & LB_TCP_ACK) {
		reset->flags = LB_TCP_RST;
		reset->sequence = from.acknowledgement;
	} else {
		reset->flags = LB_TCP_RST | LB_TCP_ACK;
		length -= (from.offset >> 4) * 4;
		length += !!(from.flags & LB_TCP_SYN) + !!(from.flags & LB_TCP_FIN);
		reset->acknowledgement = bpf_htonl(bpf_ntohl(from.sequence) + length);
	}
	lb_draft_ip(draft, p, LB_IPPROTO_TCP, sizeof(*reset), 0);
	reset->checksum = lb_segment_checksum(draft, p, LB_IPPROTO_TCP, sizeof(*reset));
	return sizeof(*reset);
}

LB_INLINE bool lb_rejects(__u32 reason)
{
	return reason == LB_REASON_NO_BACKENDS || reason == LB_REASON_NO_SUCH_PORT || reason == LB_REASON_BACKEND_REMOVED;
}

/* Type, code and second word of the error. */
LB_INLINE struct lb_icmp lb_error_of(const struct lb_packet *p, __u32 reason, __u32 mtu)
{
	bool four = p->family == LB_IPV4;
	struct lb_icmp error = {};

	if (reason == LB_REASON_HOP_LIMIT) {
		error.type = four ? 11 : 3;
	} else if (reason == LB_REASON_TOO_BIG) {
		error.type = four ? 3 : 2;
		error.code = four ? 4 : 0;
		error.rest = bpf_htonl(mtu);
	} else {
		error.type = four ? 3 : 1;
		error.code = four ? 3 : 4;
	}
	return error;
}

LB_INLINE __u32 lb_draft_error(lb_context *ctx, struct lb_draft *draft, const struct lb_packet *p, struct lb_icmp error)
{
	__u8 protocol = p->family == LB_IPV4 ? LB_IPPROTO_ICMP : LB_IPPROTO_ICMPV6;
	__u32 quoted = p->family == LB_IPV4 ? LB_QUOTED_IPV4 : LB_QUOTED_IPV6;

	if (p->length < quoted)
		quoted = p->length;
	quoted = lb_segment_length(quoted);
	if (bpf_skb_load_bytes(ctx, p->l3, draft->segment + LB_ICMP_LENGTH, quoted))
		return 0;
	__builtin_memset(draft->segment + LB_ICMP_LENGTH + quoted, 0, 4);
	draft->icmp = error;
	lb_draft_ip(draft, p, protocol, LB_ICMP_LENGTH + quoted, LB_CONTROL_TOS);
	draft->icmp.checksum = lb_segment_checksum(draft, p, protocol, LB_ICMP_LENGTH + quoted);
	return LB_ICMP_LENGTH + quoted;
}

/* ---- in the packet's place ---------------------------------------------------------------------------------------------------- */

/* Has the device that it leaves by still to fill in a checksum? It would do so in the answer, too. Spoils two bytes of the IP header. */
LB_INLINE bool lb_has_open_checksum(lb_context *ctx, __u32 at)
{
	__be16 word = 0;

	return lb_store(ctx, at, &word, sizeof(word)) && lb_checksum_is_open(ctx, at);
}

/* The frame becomes its link header and `length` bytes to write, and owes no checksum any more. */
LB_INLINE bool lb_clear(lb_context *ctx, const struct lb_packet *p, __u32 length)
{
	__u32 taken = p->l4 + 4;

	if (!lb_has_open_checksum(ctx, p->l3))
		return !bpf_skb_change_tail(ctx, p->l3 + length, 0);
	/* The kernel forgets about the checksum when the place that it begins at goes. Cutting at the front does that, behind the link
	 * header. */
	return p->l3 == LB_ETH_LENGTH && !bpf_skb_change_tail(ctx, p->l3 + length + taken, 0) &&
	       !bpf_skb_adjust_room(ctx, -(int)taken, BPF_ADJ_ROOM_MAC, 0) && !lb_has_open_checksum(ctx, p->l3);
}

LB_INLINE bool lb_put_answer(lb_context *ctx, const struct lb_packet *p, struct lb_draft *draft, const __u8 *link, __u32 length)
{
	__u32 header = p->family == LB_IPV4 ? sizeof(struct lb_ipv4) : sizeof(struct lb_ipv6);

	if (!lb_clear(ctx, p, header + length))
		return false;
	length = lb_segment_length(length);
	if (bpf_skb_store_bytes(ctx, p->l3 + header, draft->segment, length, 0))
		return false;
	if (!(p->family == LB_IPV4 ? lb_store(ctx, p->l3, &draft->ipv4, sizeof(draft->ipv4))
				   : lb_store(ctx, p->l3, &draft->ipv6, sizeof(draft->ipv6))))
		return false;
	return lb_store(ctx, 0, link + 6, 6) && lb_store(ctx, 6, link, 6);
}

/*
 * Makes the packet at hand, which is as it came, an answer to its sender that tells of `reason`; `mtu` is what would have fitted. enum
 * lb_answered: only LB_ANSWERED leaves something that may be sent.
 */
__noinline int lb_answer(lb_context *ctx, __u32 reason, __u32 mtu)
{
	struct lb_work *work = lb_work();
	struct lb_draft *draft;
	__u32 zero = 0, length;
	bool resets;
	__u8 link[12];

	draft = bpf_map_lookup_elem(&lb_drafts, &zero);
	if (!work || !draft || !ctx || !lb_load(ctx, 0, link, sizeof(link)) || !lb_may_answer(&work->packet, link))
		return LB_NOT_ANSWERED;
	resets = work->packet.protocol == LB_IPPROTO_TCP && lb_rejects(reason);
	if (!lb_answer_allowed(resets ? LB_BUDGET_RESETS : LB_BUDGET_ICMP))
		return LB_ANSWER_LIMITED;
	if (resets)
		length = lb_draft_reset(ctx, draft, &work->packet);
	else
		length = lb_draft_error(ctx, draft, &work->packet, lb_error_of(&work->packet, reason, mtu));
	return length && lb_put_answer(ctx, &work->packet, draft, link, length) ? LB_ANSWERED : LB_NOT_ANSWERED;
}

/*
 * What fits through the way that the packet did not. Before 5.12 the kernel does not say; then it is told a size that every way of IPv6
 * takes, and that few of IPv4 do not, or the next of RFC 1191.
 */
LB_INLINE __u32 lb_way_mtu(const struct lb_work *work, __u32 more)
{
	__u32 mtu = work->way.fib.mtu_result;

	if (mtu > more && mtu - more < work->packet.length)
		return mtu - more;
	if (work->packet.family == LB_IPV6 || work->packet.length > 1280)
		return 1280;
	return work->packet.length > 1006 ? 1006 : work->packet.length > 508 ? 508 : 296;
}

/* Ends with a verdict that is no forward, and tells the sender if the reason is one to be told; `direction`: by the flags of bpf_redirect(). */
LB_INLINE int lb_refuse_by(lb_context *ctx, enum lb_reason reason, __u32 service, __u32 mtu, __u64 direction)
{
	struct lb_work *work = lb_work();
	int answered = LB_NOT_ANSWERED;

	/* What a peer has sent on came by it: its link is not the way to the sender. */
	if (work && !work->forced && (lb_rejects(reason) || reason == LB_REASON_HOP_LIMIT || reason == LB_REASON_TOO_BIG))
		answered = lb_answer(ctx, reason, mtu);
	if (answered == LB_ANSWERED) {
		lb_throw_away(reason, service);
		return bpf_redirect(ctx->ifindex, direction);
	}
	return lb_throw_away(answered == LB_ANSWER_LIMITED ? LB_REASON_ANSWER_LIMITED : reason, service);
}

/* The packet came in by the device that its sender is behind. */
LB_INLINE int lb_refuse(lb_context *ctx, enum lb_reason reason, __u32 service, __u32 mtu)
{
	return lb_refuse_by(ctx, reason, service, mtu, 0);
}

#endif
