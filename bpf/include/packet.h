/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet of either context. tc reads and writes through helpers, which know of paged and shared data and of checksums that the device has
 * still to do; XDP touches the bytes themselves. Offsets are from the start of the frame; addresses are words, IPv4 in the first.
 */
#ifndef LB_PACKET_H
#define LB_PACKET_H

#include "abi.h"
#include "crc32c.h"
#include "flow.h"
#include "kernel.h"

#if LB_XDP
typedef struct xdp_md lb_context;
#else
typedef struct __sk_buff lb_context;
#endif

#define LB_ETH_LENGTH 14
#define LB_ETH_IPV4 0x0800
#define LB_ETH_IPV6 0x86dd
#define LB_ETH_VLAN 0x8100
#define LB_ETH_QINQ 0x88a8

#define LB_IPPROTO_HOPOPTS 0
#define LB_IPPROTO_ICMP 1
#define LB_IPPROTO_IPIP 4
#define LB_IPPROTO_IPV6 41
#define LB_IPPROTO_ROUTING 43
#define LB_IPPROTO_FRAGMENT 44
#define LB_IPPROTO_AH 51
#define LB_IPPROTO_ICMPV6 58
#define LB_IPPROTO_DSTOPTS 60
#define LB_IPPROTO_SCTP 132

struct lb_ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};

struct lb_ipv4 {
	__u8 version_length; /* version 4 bits, header length in words */
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment; /* flags 3 bits, offset in units of 8 bytes */
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};
LB_STATIC_ASSERT(sizeof(struct lb_ipv4) == 20);
#define LB_IPV4_MORE 0x2000
#define LB_IPV4_DONT 0x4000
#define LB_IPV4_OFFSET 0x1fff

struct lb_ipv6 {
	__be32 version_class_label;
	__be16 length; /* of what follows */
	__u8 next;
	__u8 hops;
	__be32 source[4];
	__be32 destination[4];
};
LB_STATIC_ASSERT(sizeof(struct lb_ipv6) == 40);

enum lb_tcp_flag { LB_TCP_FIN = 1, LB_TCP_SYN = 2, LB_TCP_RST = 4, LB_TCP_ACK = 16 };

/* RFC 9260, 3.2 */
enum lb_sctp_chunk {
	LB_SCTP_INIT = 1,
	LB_SCTP_ABORT = 6,
	LB_SCTP_SHUTDOWN = 7,
	LB_SCTP_SHUTDOWN_ACK = 8,
	LB_SCTP_SHUTDOWN_COMPLETE = 14,
};
#define LB_SCTP_CHECKSUM 8 /* its offset */
#define LB_SCTP_FIRST_CHUNK 12

enum lb_part {
	LB_WHOLE = 0,
	LB_FIRST_FRAGMENT = 1,
	LB_LATER_FRAGMENT = 2, /* has no ports of its own */
};

struct lb_packet {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* enum lb_family; 0: not an IP packet that we can read */
	__u8 part;   /* enum lb_part */
	__u8 flags;  /* of TCP; SCTP: SYN for INIT, RST for ABORT, FIN for SHUTDOWN and its ACK, both for SHUTDOWN COMPLETE */
	__u8 hops;   /* TTL, hop limit */
	__u8 tos;    /* TOS, traffic class */
	__u8 may_fragment; /* IPv4 without DF */
	__u8 icmp_type;
	__u32 l3;    /* offset of the IP header */
	__u32 l4;    /* offset of what follows it and its extensions */
	__u32 length; /* of the IP packet, header and all */
	__u32 id;    /* of fragments, as in the packet */
	__u32 header; /* length of the header of TCP or UDP */
};

/* ---- bytes ---------------------------------------------------------------------------------------------------------- */

/* Offsets are far below this; the verifier has to be told. */
#define LB_OFFSET_MASK 0x1ff

/* The bytes at `offset`, NULL if the frame has not so many, or has them in pages. */
LB_INLINE void *lb_bytes(lb_context *ctx, __u32 offset, const __u32 length)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *at;

	if (offset > LB_OFFSET_MASK)
		return NULL;
	/* The bound has to stay with the register that is added. */
	asm volatile("%0 &= 0x1ff" : "+r"(offset));
	at = data + offset;
	barrier_var(at);
	return at + length > end ? NULL : at;
}

/* All machines that we know of load and store words anywhere; clang, not told so, would do it byte by byte. */
#define LB_WORDS(at) __builtin_assume_aligned(at, 4)

#if LB_XDP
LB_INLINE __u32 lb_frame_length(lb_context *ctx)
{
	__u64 length = (void *)(long)ctx->data_end - (void *)(long)ctx->data;

	barrier_var(length); /* or clang subtracts 32-bit halves of pointers */
	return length;
}

LB_INLINE bool lb_load(lb_context *ctx, __u32 offset, void *to, const __u32 length)
{
	void *at = lb_bytes(ctx, offset, length);

	if (!at)
		return false;
	__builtin_memcpy(to, LB_WORDS(at), length);
	return true;
}

LB_INLINE bool lb_store(lb_context *ctx, __u32 offset, const void *from, const __u32 length)
{
	void *at = lb_bytes(ctx, offset, length);

	if (!at)
		return false;
	__builtin_memcpy(LB_WORDS(at), from, length);
	return true;
}
#else
LB_INLINE __u32 lb_frame_length(lb_context *ctx) { return ctx->len; }

/* [Of 104 ns for a packet to no service, the helper took 80.] */
LB_INLINE bool lb_load(lb_context *ctx, __u32 offset, void *to, const __u32 length)
{
	void *at = lb_bytes(ctx, offset, length);

	if (!at)
		return !bpf_skb_load_bytes(ctx, offset, to, length);
	__builtin_memcpy(to, LB_WORDS(at), length);
	return true;
}

LB_INLINE bool lb_store(lb_context *ctx, __u32 offset, const void *from, const __u32 length)
{
	return !bpf_skb_store_bytes(ctx, offset, from, length, 0);
}
#endif

/* ---- checksums (RFC 1071, RFC 1624): sums of 16-bit words, not complemented, in the byte order of the packet ------------ */

/* What an Internet checksum has to be corrected by: a sum of ~old + new. */
LB_INLINE __u64 lb_sum_change32(__u64 sum, __be32 from, __be32 to) { return sum + (__u32)~from + to; }
LB_INLINE __u64 lb_sum_change16(__u64 sum, __be16 from, __be16 to) { return sum + (__u16)~from + to; }
LB_INLINE __u64 lb_sum_change_address(__u64 sum, const __be32 *from, const __be32 *to, __u8 family)
{
	sum = lb_sum_change32(sum, from[0], to[0]);
	if (family == LB_IPV4)
		return sum;
	for (int i = 1; i < 4; i++)
		sum = lb_sum_change32(sum, from[i], to[i]);
	return sum;
}

/* To 32 bits, as the kernel's helpers take it. */
LB_INLINE __u32 lb_sum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}
LB_INLINE __u16 lb_sum_fold(__u64 sum)
{
	__u32 folded = lb_sum_fold32(sum);

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return folded;
}
LB_INLINE __be16 lb_checksum_after(__be16 checksum, __u64 change)
{
	return ~lb_sum_fold((__u16)~checksum + (__u64)lb_sum_fold(change));
}

/*
 * Corrects the checksum of TCP, UDP or ICMPv6 at `offset`. `pseudo`: of the addresses, which are in the pseudo header; `ports`: of what
 * is in the segment. A UDP checksum of 0 means that there is none, and stays; one that comes out as 0 is sent as ffff.
 */
#if LB_XDP
LB_INLINE bool lb_correct_checksum(lb_context *ctx, const struct lb_packet *p, __u32 offset, __u64 pseudo, __u64 ports)
{
	__be16 *checksum = lb_bytes(ctx, offset, sizeof(*checksum));

	if (!checksum)
		return false;
	if (p->protocol == LB_IPPROTO_UDP && !*checksum)
		return true;
	*checksum = lb_checksum_after(*checksum, (__u64)lb_sum_fold(pseudo) + lb_sum_fold(ports));
	if (p->protocol == LB_IPPROTO_UDP && !*checksum)
		*checksum = 0xffff;
	return true;
}
#else
#define LB_F_IPV6 (1ull << 7) /* BPF_F_IPV6, 6.16: the sum of the whole packet does not change with an IPv6 address and its checksum */
LB_INLINE bool lb_correct_checksum(lb_context *ctx, const struct lb_packet *p, __u32 offset, __u64 pseudo, __u64 ports)
{
	__u64 flags = p->protocol == LB_IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 addresses = lb_sum_fold32(pseudo), segment = lb_sum_fold32(ports);

	if (segment && bpf_l4_csum_replace(ctx, offset, 0, segment, flags))
		return false;
	if (!addresses)
		return true;
	flags |= BPF_F_PSEUDO_HDR;
	if (p->family == LB_IPV6) {
		if (!bpf_l4_csum_replace(ctx, offset, 0, addresses, flags | LB_F_IPV6))
			return true;
		/* Older kernels miscount the sum that the device took: let the stack check the packet itself. */
		bpf_csum_level(ctx, BPF_CSUM_LEVEL_RESET);
	}
	return !bpf_l4_csum_replace(ctx, offset, 0, addresses, flags);
}
#endif

/* ---- parsing ------------------------------------------------------------------------------------------------------------ */

LB_INLINE bool lb_has_ports(__u8 protocol)
{
	return protocol == LB_IPPROTO_TCP || protocol == LB_IPPROTO_UDP || protocol == LB_IPPROTO_SCTP;
}

/* Offset of the transport header's checksum; SCTP's covers no addresses. */
LB_INLINE __u32 lb_checksum_offset(const struct lb_packet *p)
{
	return p->l4 + (p->protocol == LB_IPPROTO_TCP ? 16 : p->protocol == LB_IPPROTO_UDP ? 6 : 2);
}

/* Offset of the network header, and the type behind the link header and its tags. 0: no such packet. */
LB_INLINE __u32 lb_parse_link(lb_context *ctx, __be16 *type)
{
	__u32 at = LB_ETH_LENGTH;
	__be16 tag[2];

	if (!lb_load(ctx, at - 2, type, 2))
		return 0;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (*type != bpf_htons(LB_ETH_VLAN) && *type != bpf_htons(LB_ETH_QINQ))
			break;
		if (!lb_load(ctx, at, tag, sizeof(tag)))
			return 0;
		*type = tag[1];
		at += sizeof(tag);
	}
	return at;
}

/* `whole`: all of the packet has to be there. */
LB_INLINE bool lb_parse_ipv4(lb_context *ctx, struct lb_packet *p, const bool whole)
{
	struct lb_ipv4 ip;
	__u32 header;

	if (!lb_load(ctx, p->l3, &ip, sizeof(ip)))
		return false;
	header = (ip.version_length & 15) * 4;
	p->length = bpf_ntohs(ip.length);
	if (ip.version_length >> 4 != 4 || header < sizeof(ip) || p->length < header)
		return false;
	if (whole && p->length > lb_frame_length(ctx) - p->l3)
		return false;
	p->family = LB_IPV4;
	p->source[0] = ip.source;
	p->destination[0] = ip.destination;
	p->protocol = ip.protocol;
	p->hops = ip.ttl;
	p->tos = ip.tos;
	p->may_fragment = !(ip.fragment & bpf_htons(LB_IPV4_DONT));
	p->l4 = p->l3 + header;
	if (ip.fragment & bpf_htons(LB_IPV4_OFFSET))
		p->part = LB_LATER_FRAGMENT;
	else if (ip.fragment & bpf_htons(LB_IPV4_MORE))
		p->part = LB_FIRST_FRAGMENT;
	p->id = ip.id;
	return true;
}

#define LB_EXTENSIONS 6

LB_INLINE bool lb_parse_ipv6(lb_context *ctx, struct lb_packet *p, const bool whole)
{
	struct lb_ipv6 ip;

	if (!lb_load(ctx, p->l3, &ip, sizeof(ip)))
		return false;
	p->length = sizeof(ip) + bpf_ntohs(ip.length);
	if ((ip.version_class_label & 0xf0) != 0x60 || (whole && p->length > lb_frame_length(ctx) - p->l3))
		return false;
	p->family = LB_IPV6;
	lb_address_copy(p->source, ip.source);
	lb_address_copy(p->destination, ip.destination);
	p->hops = ip.hops;
	p->tos = bpf_ntohl(ip.version_class_label) >> 20;
	p->l4 = p->l3 + sizeof(ip);
	p->protocol = ip.next;
	for (int i = 0; i < LB_EXTENSIONS; i++) {
		__u8 header[8];

		if (p->protocol != LB_IPPROTO_HOPOPTS && p->protocol != LB_IPPROTO_ROUTING &&
		    p->protocol != LB_IPPROTO_DSTOPTS && p->protocol != LB_IPPROTO_FRAGMENT)
			return true;
		if (!lb_load(ctx, p->l4, header, sizeof(header)))
			return false;
		/* A source route's last address is not the one in the header: the checksum would be made for another. */
		if (p->protocol == LB_IPPROTO_ROUTING && header[3])
			return false;
		if (p->protocol == LB_IPPROTO_FRAGMENT) {
			__be16 fragment = *(__be16 *)&header[2];

			p->id = *(__be32 *)&header[4];
			p->l4 += sizeof(header);
			if (fragment & bpf_htons(0xfff8))
				p->part = LB_LATER_FRAGMENT;
			else if (fragment & bpf_htons(1))
				p->part = LB_FIRST_FRAGMENT;
		} else {
			p->l4 += 8 + header[1] * 8;
		}
		p->protocol = header[0];
		if (p->part == LB_LATER_FRAGMENT)
			return true;
	}
	return false;
}

/* An association ends with one side's SHUTDOWN, the other's SHUTDOWN ACK, and a SHUTDOWN COMPLETE, which nobody answers. */
LB_INLINE __u8 lb_flags_of_chunk(__u8 chunk)
{
	switch (chunk) {
	case LB_SCTP_INIT:
		return LB_TCP_SYN;
	case LB_SCTP_ABORT:
		return LB_TCP_RST;
	case LB_SCTP_SHUTDOWN:
	case LB_SCTP_SHUTDOWN_ACK:
		return LB_TCP_ACK | LB_TCP_FIN;
	case LB_SCTP_SHUTDOWN_COMPLETE:
		return LB_TCP_RST | LB_TCP_FIN;
	default:
		return LB_TCP_ACK;
	}
}

/* Is all of the transport header there, and does what it says of its length agree with the packet's? */
LB_INLINE bool lb_parse_ports(lb_context *ctx, struct lb_packet *p)
{
	__u32 left = p->length - (p->l4 - p->l3);
	__be16 ports[2];

	if (p->l4 - p->l3 > p->length || !lb_load(ctx, p->l4, ports, sizeof(ports)))
		return false;
	p->source_port = ports[0];
	p->destination_port = ports[1];
	if (p->protocol == LB_IPPROTO_TCP) {
		__u8 word[2];

		if (left < 20 || !lb_load(ctx, p->l4 + 12, word, sizeof(word)))
			return false;
		p->flags = word[1];
		p->header = (word[0] >> 4) * 4;
		return word[0] >> 4 >= 5 && (__u32)(word[0] >> 4) * 4 <= left;
	}
	if (p->protocol == LB_IPPROTO_UDP) {
		__be16 length;

		if (left < 8 || !lb_load(ctx, p->l4 + 4, &length, sizeof(length)))
			return false;
		p->header = 8;
		return bpf_ntohs(length) >= 8 && (p->part || bpf_ntohs(length) <= left);
	}
	/* SCTP: the first chunk tells. */
	__u8 chunk;

	if (left < 16 || !lb_load(ctx, p->l4 + LB_SCTP_FIRST_CHUNK, &chunk, sizeof(chunk)))
		return false;
	p->flags = lb_flags_of_chunk(chunk);
	return true;
}

LB_INLINE bool lb_parse_network(lb_context *ctx, struct lb_packet *p, __be16 type)
{
	if (type == bpf_htons(LB_ETH_IPV4))
		return lb_parse_ipv4(ctx, p, true);
	if (type == bpf_htons(LB_ETH_IPV6))
		return lb_parse_ipv6(ctx, p, true);
	return false;
}

/* False: nothing that concerns us. Later fragments have no ports yet. `p` is zeroed. */
LB_INLINE bool lb_parse(lb_context *ctx, struct lb_packet *p)
{
	__be16 type;

	p->l3 = lb_parse_link(ctx, &type);
	if (!p->l3 || !lb_parse_network(ctx, p, type))
		return false;
	if (p->protocol == (p->family == LB_IPV4 ? LB_IPPROTO_ICMP : LB_IPPROTO_ICMPV6))
		return p->part == LB_WHOLE && lb_load(ctx, p->l4, &p->icmp_type, 1);
	if (p->part == LB_LATER_FRAGMENT)
		return lb_has_ports(p->protocol) && p->l4 - p->l3 <= p->length;
	return lb_has_ports(p->protocol) && lb_parse_ports(ctx, p);
}

/* ---- rewriting ------------------------------------------------------------------------------------------------------------ */

/* What a packet is to become: its addresses and ports, all of them. */
struct lb_tuple {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
};

#if LB_XDP
LB_INLINE bool lb_write_ipv4(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u8 hops)
{
	struct lb_ipv4 *ip = lb_bytes(ctx, p->l3, sizeof(*ip));
	__u64 change;

	if (!ip)
		return false;
	change = lb_sum_change32(lb_sum_change32(0, ip->source, to->source[0]), ip->destination, to->destination[0]);
	change = lb_sum_change16(change, ip->ttl, ip->ttl - hops);
	ip->source = to->source[0];
	ip->destination = to->destination[0];
	ip->ttl -= hops;
	ip->checksum = lb_checksum_after(ip->checksum, change);
	return true;
}
#else
/* From the TTL to the end, in one call. */
LB_INLINE bool lb_write_ipv4(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u8 hops)
{
	__be32 word[3];
	__u64 change;
	__be16 first;

	if (!lb_load(ctx, p->l3 + 8, word, sizeof(word)))
		return false;
	first = (__be16)word[0];
	change = lb_sum_change32(lb_sum_change32(0, word[1], to->source[0]), word[2], to->destination[0]);
	change = lb_sum_change16(change, first, first - hops);
	word[0] = (__u16)(first - hops) | (__u32)lb_checksum_after(word[0] >> 16, change) << 16;
	word[1] = to->source[0];
	word[2] = to->destination[0];
	return lb_store(ctx, p->l3 + 8, word, sizeof(word));
}
#endif

/* From the length to the end. */
LB_INLINE bool lb_write_ipv6(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u8 hops)
{
	__be32 word[9] = { 0,
			   to->source[0],      to->source[1],      to->source[2],      to->source[3],
			   to->destination[0], to->destination[1], to->destination[2], to->destination[3] };

	if (!lb_load(ctx, p->l3 + 4, word, sizeof(word[0])))
		return false;
	word[0] -= (__u32)hops << 24;
	return lb_store(ctx, p->l3 + 4, word, sizeof(word));
}

#if !LB_XDP
/* Has the device that it leaves by still to fill in the checksum at `at`, which says 0? A correction of one that is not there yet changes nothing. */
LB_INLINE bool lb_checksum_is_open(lb_context *ctx, __u32 at)
{
	__be16 word = 0;

	return !bpf_l4_csum_replace(ctx, at, 0, 1, sizeof(word)) && lb_load(ctx, at, &word, sizeof(word)) && !word;
}
#endif

/* Whether an SCTP packet can have other ports: of the first fragment nobody knows how long the whole is. */
LB_INLINE bool lb_can_rewrite(const struct lb_packet *p, const struct lb_tuple *to)
{
	return p->protocol != LB_IPPROTO_SCTP || p->part != LB_FIRST_FRAGMENT ||
	       (p->source_port == to->source_port && p->destination_port == to->destination_port);
}

LB_INLINE __u32 lb_crc_change_of_ports(const struct lb_packet *p, const struct lb_tuple *to)
{
	__u32 source = p->source_port ^ to->source_port, destination = p->destination_port ^ to->destination_port;

	return lb_crc_change(source | destination << 16, p->length - (p->l4 - p->l3));
}

LB_INLINE bool lb_rewrite_sctp(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to)
{
	__be16 ports[2] = { to->source_port, to->destination_port };
	__u32 at = p->l4 + LB_SCTP_CHECKSUM, checksum;

	if (p->source_port == to->source_port && p->destination_port == to->destination_port)
		return true;
	if (p->part != LB_WHOLE || !lb_load(ctx, at, &checksum, sizeof(checksum)) || !lb_store(ctx, p->l4, ports, sizeof(ports)))
		return false;
#if !LB_XDP
	if (!checksum && lb_checksum_is_open(ctx, at))
		return true;
#endif
	checksum ^= lb_crc_change_of_ports(p, to);
	return lb_store(ctx, at, &checksum, sizeof(checksum));
}

/* Ports of TCP and UDP. */
LB_INLINE bool lb_rewrite_ports(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to)
{
	__be16 ports[2] = { to->source_port, to->destination_port };
	__u64 pseudo = 0, segment = 0;

	pseudo = lb_sum_change_address(pseudo, p->source, to->source, p->family);
	pseudo = lb_sum_change_address(pseudo, p->destination, to->destination, p->family);
	segment = lb_sum_change16(segment, p->source_port, to->source_port);
	segment = lb_sum_change16(segment, p->destination_port, to->destination_port);
	return lb_correct_checksum(ctx, p, lb_checksum_offset(p), pseudo, segment) && lb_store(ctx, p->l4, ports, sizeof(ports));
}

LB_INLINE bool lb_rewrite_addresses(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u8 hops)
{
	return p->family == LB_IPV4 ? lb_write_ipv4(ctx, p, to, hops) : lb_write_ipv6(ctx, p, to, hops);
}

/*
 * Makes the packet one of this tuple, `hops` hops on, all checksums right; it is one that lb_can_rewrite(). A later fragment has no ports and no
 * checksum of its own. False: half of it may be done, so the packet must be dropped.
 */
LB_INLINE bool lb_rewrite(lb_context *ctx, const struct lb_packet *p, const struct lb_tuple *to, __u8 hops)
{
	if (p->part != LB_LATER_FRAGMENT && !(p->protocol == LB_IPPROTO_SCTP ? lb_rewrite_sctp(ctx, p, to) : lb_rewrite_ports(ctx, p, to)))
		return false;
	return lb_rewrite_addresses(ctx, p, to, hops);
}

#endif
