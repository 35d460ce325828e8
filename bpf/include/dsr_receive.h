/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Direct server return, the backend's side: what peers have wrapped is unwrapped and goes to a backend of this node; a connection is made for it,
 * so that the answers, which go to the client directly, bear the service address. dsr.h has the formats.
 */
#ifndef LB_DSR_RECEIVE_H
#define LB_DSR_RECEIVE_H

#include "dsr.h"
#include "forward.h"
#include "packet.h"
#include "work.h"

#if LB_XDP
/* Takes bytes away behind the link header, which moves with the packet. */
LB_INLINE bool lb_shrink(lb_context *ctx, __u32 length, __u32 inner_family)
{
	struct lb_ethernet link;

	if (!lb_load(ctx, 0, &link, sizeof(link)))
		return false;
	link.type = inner_family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);
	return !bpf_xdp_adjust_head(ctx, length) && lb_store(ctx, 0, &link, sizeof(link));
}
#else
/* 6.3 has flags that change what the kernel takes the packet for; before, both headers have to be of one family. */
#define LB_DECAP_IPV4 (1ull << 7)
#define LB_DECAP_IPV6 (1ull << 8)
LB_INLINE bool lb_shrink(lb_context *ctx, __u32 length, __u32 inner_family)
{
	__be16 type = inner_family == LB_IPV4 ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);
	__u64 flags = inner_family == LB_IPV4 ? LB_DECAP_IPV4 : LB_DECAP_IPV6;

	if (ctx->protocol == type)
		flags = 0;
	return !bpf_skb_adjust_room(ctx, -(int)length, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       lb_store(ctx, 12, &type, sizeof(type));
}
#endif

/* Did the peer send it to this node itself? What does not go to a backend of it, and is not forwarded, came to an address of it. */
__noinline int lb_outer_is_ours(lb_context *ctx)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	const struct lb_outer *outer;
	struct bpf_fib_lookup *fib;
	long result;

	if (!work || !node || !ctx)
		return 0;
	outer = &work->outer;
	fib = &work->way.fib;
	if (outer->family == LB_IPV4 ? outer->destination[0] == node->address4 : lb_address_equal(outer->destination, node->address6, LB_IPV6))
		return true;
	__builtin_memset(fib, 0, sizeof(*fib));
#if LB_XDP
	fib->ifindex = ctx->ingress_ifindex;
#else
	fib->ifindex = ctx->ifindex;
#endif
	if (outer->family == LB_IPV4) {
		fib->family = LB_AF_INET;
		fib->ipv4_src = outer->source[0];
		fib->ipv4_dst = outer->destination[0];
	} else {
		fib->family = LB_AF_INET6;
		lb_address_copy(fib->ipv6_src, outer->source);
		lb_address_copy(fib->ipv6_dst, outer->destination);
	}
	result = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	return result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* The index, if it is a backend of the service on this node; else 0. */
LB_INLINE __u32 lb_if_local(const __u32 *index, __u32 service)
{
	const struct lb_backend *backend;
	__u64 word;

	if (!index)
		return 0;
	backend = bpf_map_lookup_elem(&lb_backends, index);
	if (!backend)
		return 0;
	word = lb_read_once(backend->word);
	return lb_backend_service(word) == service && lb_backend_flags(word) & LB_BACKEND_LOCAL ? *index : 0;
}

/* The backend that the service's cells say, if it is on this node: tables of all nodes agree on flows of maglev and source-hash. */
__noinline __u32 lb_local_by_cell(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_region region = {};
	struct lb_choice choice;

	if (!work || !ctx)
		return 0;
	region.first = work->region;
	region.line = bpf_map_lookup_elem(&lb_table, &region.first);
	if (!region.line || !region.line->head.length || region.line->head.algorithm < LB_MAGLEV)
		return 0;
	if (lb_select_anew(&region, &work->flow, &choice, false) != LB_REASON_FORWARDED)
		return 0;
	return lb_if_local(&choice.index, region.line->head.service);
}

/* One of the backends of this node, the same for each packet of a flow while they stay. */
__noinline __u32 lb_local_by_hash(lb_context *ctx, __u32 service)
{
	struct lb_work *work = lb_work();
	struct lb_local_key key = { .service = service };
	__u32 *count, index, start;

	if (!work || !ctx)
		return 0;
	key.family = work->packet.family | LB_LOCAL_NTH;
	count = bpf_map_lookup_elem(&lb_locals, &key);
	if (!count || !*count)
		return 0;
	lb_key_of_client(&work->key, &work->packet);
	start = lb_flow_key_hash(&work->key) >> 32;
	/* In the middle of a change some may not be what they were. */
	for (int i = 0; i < 4; i++) {
		key.address[0] = 1 + (start + i) % *count;
		index = lb_if_local(bpf_map_lookup_elem(&lb_locals, &key), service);
		if (index)
			return index;
	}
	return 0;
}

/* The backend of this node that has the address, or alone the outer destination, that the peer has sent to; 0: none. */
__noinline __u32 lb_local_by_address(lb_context *ctx, __u32 service)
{
	struct lb_local_key key = {.service = service, .address = {0, 0, bpf_htonl(0xffff)}};
	struct lb_work *work = lb_work();

	if (!work || !ctx)
		return 0;
	key.family = work->packet.family;
	if (work->outer.family == LB_IPV4)
		key.address[3] = work->outer.destination[0];
	else
		lb_address_copy(key.address, work->outer.destination);
	return lb_if_local(bpf_map_lookup_elem(&lb_locals, &key), service);
}

/* The backend of the packet's connection, which may be gone as a backend: what is established goes on. */
__noinline __u32 lb_local_by_connection(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_found found;
	__u32 ref;

	if (!work || !ctx || work->packet.protocol == LB_IPPROTO_UDP || lb_is_opening(&work->packet))
		return 0;
	lb_key_of_client(&work->key, &work->packet);
	if (!lb_find_by_client(&work->key, lb_flow_key_hash(&work->key), &found) || found.connection->mode != LB_MODE_LOCAL)
		return 0;
	ref = found.connection->backend_ref;
	return lb_still_owned(&found) ? lb_ref_index(ref) : 0;
}

/*
 * Where a connection belongs of which this node, where a peer believes it, knows nothing: to the other backend of its cell. Balancers do not share
 * what they remember, so one may know only the anchor of a flow that another has sent to the current backend. 0: there is none elsewhere.
 */
__noinline __u32 lb_other_by_cell(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	__u32 current = 0, anchor = 0, other;
	const struct lb_line *line;
	struct lb_found found;
	__u64 cell = 0;

	if (!work || !ctx || work->marked || work->packet.protocol != LB_IPPROTO_TCP || lb_is_opening(&work->packet))
		return 0;
	line = bpf_map_lookup_elem(&lb_table, &work->region);
	if (!line)
		return 0;
	if (lb_cells_last(line->head.algorithm, line->head.affinity) && lb_cell_of(line, work->region, &work->flow, &cell)) {
		current = lb_cell_current(cell);
		anchor = lb_cell_anchor(cell);
	}
	if (lb_read_once(line->head.flags) & LB_REGION_SUCCEEDS)
		anchor = lb_anchor_before(line, work->region, &work->flow);
	other = current != work->forced ? current : anchor;
	if (!other || other == work->forced || lb_backend_flags(lb_backend_word_of(other)) & LB_BACKEND_LOCAL)
		return 0;
	lb_key_of_client(&work->key, &work->packet);
	work->hash = lb_flow_key_hash(&work->key);
	return lb_find_by_client(&work->key, work->hash, &found) ? 0 : other;
}

/* Finds the backend of this node that a peer's packet is for, whose service lb_work() has. */
LB_INLINE enum lb_reason lb_find_local(lb_context *ctx, struct lb_work *work)
{
	__u32 service = work->service;

	work->forced = lb_local_by_address(ctx, service);
	if (!work->forced && lb_outer_is_ours(ctx)) {
		work->forced = lb_local_by_cell(ctx);
		if (!work->forced)
			work->forced = lb_local_by_hash(ctx, service);
	}
	if (work->forced)
		work->other = lb_other_by_cell(ctx);
	else
		work->forced = lb_local_by_connection(ctx);
	return work->forced ? LB_REASON_FORWARDED : LB_REASON_NO_LOCAL_BACKEND;
}

LB_INLINE void lb_keep_outer(struct lb_work *work, __u32 length)
{
	const struct lb_packet *p = &work->packet;

	lb_address_copy(work->outer.source, p->source);
	lb_address_copy(work->outer.destination, p->destination);
	work->outer.family = p->family;
	work->outer.length = length;
	work->overhead = length;
}

/* Reads the packet inside, `length` bytes behind the IP header of the one around it. */
LB_INLINE bool lb_read_inside(lb_context *ctx, struct lb_work *work, __u32 length, __be16 type)
{
	struct lb_packet *p = &work->packet;
	__u32 at = p->l3 + length, end = p->l3 + p->length;

	lb_keep_outer(work, length);
	__builtin_memset(p, 0, sizeof(*p));
	p->l3 = at;
	return lb_parse_network(ctx, p, type) && p->l3 + p->length <= end && p->part != LB_LATER_FRAGMENT && lb_has_ports(p->protocol) &&
	       lb_parse_ports(ctx, p);
}

LB_INLINE bool lb_is_marked(lb_context *ctx, const struct lb_packet *p)
{
	__be16 id = 0;
	__be32 first = 0;

	if (p->family == LB_IPV4)
		return lb_load(ctx, p->l3 + 4, &id, sizeof(id)) && id & LB_OUTER_MARK;
	return lb_load(ctx, p->l3, &first, sizeof(first)) && bpf_ntohl(first) & LB_OUTER_MARK;
}

/* IP in IP: whose it is, lb_dsr_whose() finds out. */
LB_INLINE enum lb_reason lb_look_ipip(lb_context *ctx, struct lb_work *work)
{
	struct lb_packet *p = &work->packet;
	__be16 type = p->protocol == LB_IPPROTO_IPIP ? bpf_htons(LB_ETH_IPV4) : bpf_htons(LB_ETH_IPV6);

	work->marked = lb_is_marked(ctx, p);
	if (!lb_read_inside(ctx, work, p->l4 - p->l3, type))
		return LB_REASON_NOT_BALANCED;
	lb_flow_of_packet(&work->flow, p);
	work->translated = 0;
	return LB_REASON_FORWARDED;
}

/* The packet is translated already; `work->key` is the client's side of its connection. */
LB_INLINE void lb_learn_from(struct lb_work *work, const __be32 *service, __be16 port)
{
	const struct lb_packet *p = &work->packet;

	lb_key_of_client(&work->key, p);
	lb_address_copy(work->key.far, service);
	if (p->family == LB_IPV4)
		work->key.far[1] = work->key.far[2] = work->key.far[3] = 0;
	work->key.far_port = port;
	lb_address_copy(work->backend, p->destination);
	lb_address_copy(work->source, p->source);
	work->backend_port = p->destination_port;
	work->mode = LB_MODE_LOCAL;
	work->backend_ref = 0;
	work->service = 0;
	work->translated = 1;
}

LB_INLINE enum lb_reason lb_look_geneve(lb_context *ctx, struct lb_work *work)
{
	struct lb_packet *p = &work->packet;
	__be32 address[4] = {};
	struct lb_geneve geneve;
	struct lb_udp udp;
	__u32 at = p->l4 + sizeof(struct lb_udp);
	__be16 port;

	/* As long as it says, or the stack would not take it. */
	if (!lb_load(ctx, p->l4, &udp, sizeof(udp)) || bpf_ntohs(udp.length) < sizeof(udp) + sizeof(geneve) ||
	    p->l4 + bpf_ntohs(udp.length) > p->l3 + p->length)
		return LB_REASON_NOT_BALANCED;
	if (!lb_load(ctx, at, &geneve, sizeof(geneve)) || geneve.option_class != bpf_htons(LB_GENEVE_CLASS))
		return LB_REASON_NOT_BALANCED;
	at += sizeof(geneve);
	if (geneve.option_type == LB_IPV4) {
		if (geneve.version_words != 3 || geneve.option_words != 2 || geneve.type != bpf_htons(LB_ETH_IPV4) ||
		    !lb_load(ctx, at, address, 4) || !lb_load(ctx, at + 4, &port, sizeof(port)))
			return LB_REASON_NOT_BALANCED;
		at += 8;
	} else {
		if (geneve.option_type != LB_IPV6 || geneve.version_words != 6 || geneve.option_words != 5 ||
		    geneve.type != bpf_htons(LB_ETH_IPV6) || !lb_load(ctx, at, address, sizeof(address)) ||
		    !lb_load(ctx, at + 16, &port, sizeof(port)))
			return LB_REASON_NOT_BALANCED;
		at += 20;
	}
	if (!lb_read_inside(ctx, work, at - p->l3, geneve.type))
		return LB_REASON_NOT_BALANCED;
	lb_learn_from(work, address, port);
	return LB_REASON_FORWARDED;
}

/* The service address beside the packet's own; it stays in the packet, as who does not know it skips it. */
LB_INLINE enum lb_reason lb_look_option(lb_context *ctx, struct lb_work *work)
{
	struct lb_packet *p = &work->packet;
	__be32 address[4] = {};

	if (p->family == LB_IPV4) {
		struct lb_option4 option;

		if (p->l4 - p->l3 < sizeof(struct lb_ipv4) + sizeof(option) ||
		    !lb_load(ctx, p->l3 + sizeof(struct lb_ipv4), &option, sizeof(option)) || option.type != LB_OPTION_IPV4 ||
		    option.length != sizeof(option))
			return LB_REASON_NOT_BALANCED;
		address[0] = option.address;
		lb_learn_from(work, address, option.port);
	} else {
		struct lb_option6 option;
		__u8 next;

		if (!lb_load(ctx, p->l3 + 6, &next, 1) || next != LB_IPPROTO_DSTOPTS)
			return LB_REASON_NOT_BALANCED;
		if (p->l4 - p->l3 < sizeof(struct lb_ipv6) + sizeof(option) ||
		    !lb_load(ctx, p->l3 + sizeof(struct lb_ipv6), &option, sizeof(option)) || option.type != LB_OPTION_IPV6 ||
		    option.length != 18 || option.words != sizeof(option) / 8 - 1)
			return LB_REASON_NOT_BALANCED;
		lb_learn_from(work, option.address, option.port);
	}
	work->outer.length = 0;
	return LB_REASON_FORWARDED;
}

/*
 * Is this a packet of a peer? Then lb_work() has the packet inside, and who is to get it; nothing has changed yet. LB_REASON_NOT_BALANCED: it is
 * something else, and lb_work() may have to be read again.
 */
__noinline int lb_dsr_read(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_node *node = lb_node_settings();
	struct lb_packet *p;

	if (!work || !node || !ctx)
		return LB_REASON_NOT_BALANCED;
	p = &work->packet;
	if (!node->peers || !p->family || p->part != LB_WHOLE || p->l3 != LB_ETH_LENGTH)
		return LB_REASON_NOT_BALANCED;
	if (p->protocol == LB_IPPROTO_IPIP || p->protocol == LB_IPPROTO_IPV6)
		return lb_in_ranges(node->peers, p->source, p->family) ? lb_look_ipip(ctx, work) : LB_REASON_NOT_A_PEER;
	if (p->protocol == LB_IPPROTO_UDP && p->destination_port == bpf_htons(LB_GENEVE_PORT) &&
	    lb_in_ranges(node->peers, p->source, p->family))
		return lb_look_geneve(ctx, work);
	/* There is no outer source to tell peers by: who gives peers at all trusts the network with this. */
	if (!lb_has_ports(p->protocol) || !lb_parse_ports(ctx, p))
		return LB_REASON_NOT_BALANCED;
	return lb_look_option(ctx, work);
}

/* The service of the flow in lb_work(). A reason. */
__noinline int lb_dsr_service(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_region region = {};
	enum lb_reason reason;

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	reason = lb_frontend_find(&work->flow, &region);
	if (reason != LB_REASON_FORWARDED || !region.line)
		return LB_REASON_NOT_A_SERVICE;
	work->region = region.first;
	work->service = region.line->head.service;
	return LB_REASON_FORWARDED;
}

/*
 * Who is to get a packet that came untranslated follows from the service, and from the address that the peer sent it to. A reason. Asked twice, by a
 * function: a loop around the lookup is one that verifiers before 6.5 take for endless.
 */
LB_INLINE enum lb_reason lb_dsr_whose(lb_context *ctx, struct lb_work *work)
{
	const struct lb_node *node = lb_node_settings();

	if (!node)
		return LB_REASON_CORRUPT_INDEX;
	if (lb_dsr_service(ctx) == LB_REASON_FORWARDED)
		return LB_REASON_FORWARDED;
	/* A node port of the peer's address: here it is known by our own. */
	if (work->packet.family == LB_IPV4)
		work->flow.address[0] = node->address4;
	else
		lb_address_copy(work->flow.address, node->address6);
	return lb_dsr_service(ctx);
}

LB_INLINE enum lb_reason lb_dsr_look(lb_context *ctx, struct lb_work *work)
{
	enum lb_reason reason = lb_dsr_read(ctx);

	if (reason != LB_REASON_FORWARDED || work->translated)
		return reason;
	reason = lb_dsr_whose(ctx, work);
	return reason == LB_REASON_FORWARDED ? lb_find_local(ctx, work) : reason;
}

/* Could it be a packet of a peer? Quick, for packets that have ports. */
LB_INLINE bool lb_may_be_peers(const struct lb_packet *p)
{
	__u32 header = p->l4 - p->l3;

	if (p->protocol == LB_IPPROTO_UDP && p->destination_port == bpf_htons(LB_GENEVE_PORT))
		return true;
	return header >= (p->family == LB_IPV4 ? sizeof(struct lb_ipv4) + sizeof(struct lb_option4) :
						 sizeof(struct lb_ipv6) + sizeof(struct lb_option6));
}

/* Finds or makes the connection of a packet that came translated. A reason of enum lb_reason. */
__noinline int lb_dsr_learn(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_connection *c;
	struct lb_found found;

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	work->hash = lb_flow_key_hash(&work->key);
	work->old = LB_NOBODY;
	if (lb_find_by_client(&work->key, work->hash, &found)) {
		c = found.connection;
		lb_to_backend_of(work, c);
		if (work->mode == LB_MODE_LOCAL && c->backend_port == work->backend_port &&
		    lb_address_equal(c->backend, work->backend, work->packet.family) && lb_still_owned(&found)) {
			lb_touch(c, &work->packet, lb_life_of_client(c, &work->packet));
			return LB_REASON_FORWARDED;
		}
		work->old = found.index;
		work->old_owned = found.owned;
		work->mode = LB_MODE_LOCAL;
		work->backend_ref = 0;
	}
	return lb_connect(ctx, work);
}

/* Takes the outer header off. One with options or extensions is no peer's. 0: it cannot be. */
__noinline int lb_dsr_unwrap(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	__u32 length;

	if (!work || !ctx)
		return 0;
	length = work->outer.length;
	if (!length)
		return 1;
	if (length > 80 || !lb_shrink(ctx, length, work->packet.family))
		return 0;
	work->packet.l3 -= length;
	work->packet.l4 -= length;
	return 1;
}

/*
 * Sends the packet of a peer on to the other backend of its cell, in the outer header that it has. Else it is as it was, and
 * LB_REASON_NOT_BALANCED: then it is for the backend of this node.
 */
__noinline int lb_send_on(lb_context *ctx)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	struct lb_choice choice;
	struct lb_outer came;
	enum lb_reason reason;

	if (!work || !node || !ctx || work->packet.hops <= 1 || lb_choice_set(&choice, work->other) != LB_REASON_FORWARDED)
		return LB_REASON_NOT_BALANCED;
	came = work->outer;
	lb_address_copy(work->to.destination, choice.address);
	work->backend_ref = lb_backend_ref(choice.index, lb_backend_generation(choice.word));
	work->dispatch = LB_DISPATCH_IPIP;
	work->hash |= LB_OUTER_MARK;
	reason = lb_outer_choose(ctx, work, node);
	if (reason == LB_REASON_FORWARDED) {
		lb_outer_way(ctx, work);
		reason = lb_way_reason(&work->way);
	}
	if ((reason != LB_REASON_FORWARDED && reason != LB_REASON_HANDED_OVER) || work->outer.family != came.family ||
	    work->outer.length != came.length || !lb_hop(ctx, &work->packet) || !lb_write_outer(ctx, &work->packet, &work->outer, work->hash)) {
		work->outer = came;
		return LB_REASON_NOT_BALANCED;
	}
	lb_count_packet(&work->packet);
	return LB_REASON_FORWARDED;
}

/* ---- answers of a backend whose packets come wrapped ---------------------------------------------------------------------------- */

#define LB_TCP_OPTIONS 8

#if !LB_XDP
/*
 * Lessens the segment size that a SYN ACK offers by what the outer header takes, so that the client's segments fit with it (RFC 9293, 3.7.1). `p`
 * is the packet as it is now.
 */
LB_INLINE bool lb_clamp_segments(lb_context *ctx, const struct lb_packet *p, __u32 less)
{
	__u32 at = p->l4 + 20, end;
	__u8 option[4], words;
	__be16 wanted, was;

	if (!lb_load(ctx, p->l4 + 12, &words, sizeof(words)))
		return true;
	end = p->l4 + (words >> 4) * 4;
	for (int i = 0; i < LB_TCP_OPTIONS; i++) {
		/* What follows the header is data. */
		if (at + sizeof(option) > end || !lb_load(ctx, at, option, sizeof(option)))
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
