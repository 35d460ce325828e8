/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of a packet: which connection it belongs to, which backend a new one gets, and what it is rewritten to. The context is
 * known only as far as packet.h and deliver.h hide it; both hooks run this code.
 */
#ifndef LB_FORWARD_H
#define LB_FORWARD_H

#include "config.h"
#include "counters.h"
#include "deliver.h"
#include "frontend.h"
#include "new_connection.h"
#include "packet.h"
#include "ranges.h"
#include "removed.h"
#include "reasons.h"
#include "select.h"
#include "work.h"

/* Of the attachment. */
const volatile __u32 lb_role = LB_ROLE_EXTERNAL;

#if LB_XDP
enum { LB_UNTOUCHED = XDP_PASS, LB_REWRITTEN = XDP_PASS, LB_GONE = XDP_DROP };
#else
/* UNSPEC: programs behind ours run, and the stack gets the packet in the end. */
enum { LB_UNTOUCHED = TC_ACT_UNSPEC, LB_REWRITTEN = TC_ACT_UNSPEC, LB_GONE = TC_ACT_SHOT };
#endif

/* Ends with a verdict that is no forward. */
LB_INLINE int lb_end(enum lb_reason reason, int verdict)
{
	lb_count_verdict(LB_THIS_HOOK, reason);
	return verdict;
}

LB_INLINE struct lb_traffic_counts *lb_traffic_here(void)
{
	__u32 i = bpf_get_smp_processor_id();
	struct lb_traffic *traffic = bpf_map_lookup_elem(&lb_traffic, &i);

	return traffic ? &traffic->hook[LB_THIS_HOOK - 1] : NULL;
}

LB_INLINE int lb_let_pass(enum lb_reason reason)
{
	struct lb_traffic_counts *counts = lb_traffic_here();

	if (reason != LB_REASON_NOT_A_SERVICE || !counts)
		return lb_end(reason, LB_UNTOUCHED);
	counts->passed++;
	return LB_UNTOUCHED;
}

LB_INLINE int lb_throw_away(enum lb_reason reason, __u32 service)
{
	if (service)
		lb_count_failure(service);
	return lb_end(reason, LB_GONE);
}

/* Reads the packet into lb_work(); 1: it may be of a service. */
__noinline int lb_read_packet(lb_context *ctx)
{
	struct lb_work *work = lb_work();

	if (!work || !ctx)
		return 0;
	__builtin_memset(&work->packet, 0, sizeof(work->packet));
	work->forced = 0;
	work->wanted = 0;
	work->other = 0;
	work->overhead = 0;
	work->translated = 0;
	work->tracked = 0;
	return lb_parse(ctx, &work->packet);
}

/* ---- whose address --------------------------------------------------------------------------------------------------------------- */

LB_INLINE bool lb_is_unicast(const __be32 *address, __u8 family)
{
	__u32 first = bpf_ntohl(address[0]);

	if (family == LB_IPV4)
		return first >> 24 && first >> 24 != 127 && first < 0xe0000000;
	if (first >> 24 == 0xff)
		return false;
	return address[0] | address[1] | address[2] || bpf_ntohl(address[3]) > 1;
}

LB_INLINE bool lb_is_service_address(const __be32 *address, __u8 family)
{
	struct lb_peer6 key = {.address = {0, 0, bpf_htonl(0xffff), address[0]}};

	if (family == LB_IPV6)
		lb_address_copy(key.address, address);
	return bpf_map_lookup_elem(&lb_addresses, &key);
}

/* Of lb_node: the node's own, not a service's alone. */
LB_INLINE bool lb_is_node_address(const __be32 *address, __u8 family)
{
	const struct lb_node *node = lb_node_settings();

	if (!node)
		return false;
	return family == LB_IPV4 ? address[0] == node->address4 : lb_address_equal(address, node->address6, LB_IPV6);
}

/*
 * May a client have this address? Nobody outside has one of ours, and what answers there sends would come back to us.
 */
LB_INLINE bool lb_may_be_client(const struct lb_packet *p)
{
	if (lb_role != LB_ROLE_EXTERNAL)
		return true;
	return lb_is_unicast(p->source, p->family) && !lb_is_service_address(p->source, p->family) && !lb_is_node_address(p->source, p->family);
}

/* ---- connections ------------------------------------------------------------------------------------------------------------ */

LB_INLINE void lb_count_packet(const struct lb_packet *p)
{
	struct lb_traffic_counts *counts = lb_traffic_here();

	if (!counts)
		return;
	counts->packets++;
	counts->bytes += p->length;
}

/* A packet of the connection was seen; `flags`: enum lb_life to be added. */
LB_INLINE void lb_touch(struct lb_connection *c, const struct lb_packet *p, __u32 flags)
{
	__u64 life = lb_read_once(c->life), fresh = lb_life(lb_seconds(), (__u32)life | flags);

	if (life != fresh)
		lb_write_once(c->life, fresh);
	__atomic_fetch_add(&c->packets, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&c->bytes, p->length, __ATOMIC_RELAXED);
	lb_count_packet(p);
}

/* SHUTDOWN COMPLETE: both sides have done. */
LB_INLINE bool lb_is_completed(const struct lb_packet *p)
{
	return p->protocol == LB_IPPROTO_SCTP && (p->flags & (LB_TCP_RST | LB_TCP_FIN)) == (LB_TCP_RST | LB_TCP_FIN);
}

LB_INLINE __u32 lb_life_of_client(const struct lb_connection *c, const struct lb_packet *p)
{
	__u32 flags = 0;

	if (p->protocol == LB_IPPROTO_UDP)
		return lb_read_once(c->life) & LB_LIFE_ANSWERED ? LB_LIFE_OPENED : 0;
	if (lb_is_completed(p))
		return LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;
	if (p->flags & LB_TCP_RST)
		flags |= LB_LIFE_RESET;
	if (p->flags & LB_TCP_FIN)
		flags |= LB_LIFE_FIN_CLIENT;
	/* Only after an answer: a flood of ACKs must not look like connections. With DSR answers do not come by. */
	if (!(p->flags & LB_TCP_SYN) && (c->mode == LB_MODE_DSR || lb_read_once(c->life) & LB_LIFE_ANSWERED))
		flags |= LB_LIFE_OPENED;
	return flags;
}

LB_INLINE __u32 lb_life_of_backend(const struct lb_packet *p)
{
	__u32 flags = LB_LIFE_ANSWERED;

	if (p->protocol == LB_IPPROTO_UDP)
		return flags;
	if (lb_is_completed(p))
		return flags | LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;
	if (p->flags & LB_TCP_RST)
		flags |= LB_LIFE_RESET;
	if (p->flags & LB_TCP_FIN)
		flags |= LB_LIFE_FIN_BACKEND;
	return flags;
}

LB_INLINE bool lb_is_opening(const struct lb_packet *p)
{
	return (p->flags & (LB_TCP_SYN | LB_TCP_ACK)) == LB_TCP_SYN;
}

/* Does each connection need its entry, so that it can end with its backend? */
LB_INLINE bool lb_is_tracked(const struct lb_head *head, __u8 protocol)
{
	return head->flags & LB_REGION_TRACK && protocol == LB_IPPROTO_TCP;
}

/* Has the connection to end, as its backend was removed? */
LB_INLINE bool lb_must_end(const struct lb_connection *c)
{
	__u32 ref = c->backend_ref;

	return lb_read_once(c->life) & LB_LIFE_TRACKED && lb_backend_is_gone(ref) && lb_reset_is_due(ref);
}

/* May the packet's connection go on with the backend that it has? */
LB_INLINE bool lb_may_go_on(const struct lb_connection *c, const struct lb_packet *p, __u32 service, const struct lb_node *node)
{
	const __u32 closed = LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;
	__u32 ref = c->backend_ref, index = lb_ref_index(ref), needed = LB_BACKEND_LIVE | LB_BACKEND_EXISTING;
	const struct lb_backend *backend;
	__u64 word, life = lb_read_once(c->life);

	if (p->protocol != LB_IPPROTO_UDP) {
		if (!lb_is_opening(p))
			return true;
		if (life & LB_LIFE_RESET || (life & closed) == closed)
			return false;
		needed = LB_BACKEND_LIVE;
	}
	if (lb_has_expired(c, node, lb_seconds()))
		return false;
	backend = bpf_map_lookup_elem(&lb_backends, &index);
	if (!backend)
		return false;
	word = lb_read_once(backend->word);
	if (lb_backend_generation(word) != lb_ref_generation(ref) || lb_backend_service(word) != service)
		return false;
	if ((lb_backend_flags(word) & needed) != needed)
		return false;
	/* A new connection by an old tuple: only to a backend that takes new ones. */
	return p->protocol == LB_IPPROTO_UDP || lb_backend_flags(word) & (7 * LB_BACKEND_POOLS);
}

/* ---- from outside to a backend ------------------------------------------------------------------------------------------------- */

LB_INLINE void lb_flow_of_packet(struct lb_flow *f, const struct lb_packet *p)
{
	lb_address_copy(f->address, p->destination);
	f->port = p->destination_port;
	f->protocol = p->protocol;
	f->family = p->family;
	f->scope = lb_role == LB_ROLE_WORKLOAD ? LB_SCOPE_INTERNAL : LB_SCOPE_EXTERNAL;
	lb_flow_set_client(f, p->source);
	f->socket = p->source_port;
}

LB_INLINE void lb_key_of_client(struct lb_flow_key *key, const struct lb_packet *p)
{
	lb_address_copy(key->near, p->source);
	lb_address_copy(key->far, p->destination);
	key->near_port = p->source_port;
	key->far_port = p->destination_port;
	key->protocol = p->protocol;
	key->family = p->family;
}

LB_INLINE bool lb_uses_dsr(const struct lb_node *node, const struct lb_head *head, __u8 protocol)
{
	__u32 dsr = node->dsr, bit = protocol == LB_IPPROTO_TCP ? LB_DSR_TCP : protocol == LB_IPPROTO_UDP ? LB_DSR_UDP : LB_DSR_SCTP;

	if (!(dsr & LB_DSR_ON) || !(dsr & bit) || head->flags & LB_REGION_SNAT)
		return false;
	return dsr & LB_DSR_ALL || head->flags & LB_REGION_DSR;
}

LB_INLINE enum lb_reason lb_source_of_node(struct lb_work *work, const struct lb_node *node)
{
	__builtin_memset(work->source, 0, sizeof(work->source));
	if (work->packet.family == LB_IPV4) {
		work->source[0] = node->address4;
		return work->source[0] ? LB_REASON_FORWARDED : LB_REASON_NO_NODE_ADDRESS;
	}
	lb_address_copy(work->source, node->address6);
	return work->source[0] | work->source[1] | work->source[2] | work->source[3] ? LB_REASON_FORWARDED : LB_REASON_NO_NODE_ADDRESS;
}

/* The outer destination that the packet's backend has now; of one that is gone, the one that its connection was made with stays. */
__noinline int lb_via_find(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	const struct lb_backend *backend;
	const struct lb_via *via;
	__u32 ref, index, family;
	__u64 word;

	if (!work || !ctx)
		return 0;
	ref = work->backend_ref;
	index = lb_ref_index(ref);
	backend = bpf_map_lookup_elem(&lb_backends, &index);
	word = backend ? lb_read_once(backend->word) : 0;
	if (!(lb_backend_flags(word) & LB_BACKEND_LIVE) || lb_backend_generation(word) != lb_ref_generation(ref))
		return 0;
	work->via_family = 0;
	via = lb_backend_flags(word) & LB_BACKEND_VIA ? bpf_map_lookup_elem(&lb_vias, &index) : NULL;
	if (!via || lb_read_once(via->ref) != ref)
		return 0;
	lb_address_copy(work->via, via->address);
	family = via->family;
	if (lb_read_once(via->ref_again) == ref)
		work->via_family = family;
	return work->via_family;
}

/* How packets get to the chosen backend, and what their source becomes. */
LB_INLINE enum lb_reason lb_choose_mode(struct lb_work *work, const struct lb_node *node, const struct lb_head *head,
					const struct lb_choice *choice)
{
	const struct lb_packet *p = &work->packet;
	/* Those that must not see the client: a workload that meets itself, and with masqueradeAll everybody whom a workload asks. */
	bool hairpin = lb_address_equal(p->source, work->backend, p->family) ||
		       (lb_role == LB_ROLE_WORKLOAD && node->flags & LB_NODE_MASQUERADE_ALL);

	lb_address_copy(work->source, p->source);
	work->mode = LB_MODE_LOCAL;
	if (work->forced)
		return LB_REASON_FORWARDED;
	if (!hairpin && (lb_role == LB_ROLE_WORKLOAD || lb_backend_flags(choice->word) & LB_BACKEND_LOCAL))
		return LB_REASON_FORWARDED;
	if (!hairpin && lb_uses_dsr(node, head, p->protocol)) {
		work->mode = LB_MODE_DSR;
		work->via_family = 0;
		return LB_REASON_FORWARDED;
	}
	work->mode = LB_MODE_SNAT;
	return lb_source_of_node(work, node);
}

/* Chooses a backend for a new connection, and how packets get there. */
__noinline int lb_choose_backend(lb_context *ctx)
{
	const struct lb_node *node;
	struct lb_work *work = lb_work();
	struct lb_region region = {};
	struct lb_choice choice;
	enum lb_reason reason;

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	if (!lb_may_be_client(&work->packet))
		return LB_REASON_SOURCE_IS_OURS;
	region.first = work->region;
	region.line = bpf_map_lookup_elem(&lb_table, &region.first);
	if (!region.line)
		return LB_REASON_CORRUPT_INDEX;
	if (work->forced || work->wanted)
		reason = lb_choice_set(&choice, work->forced ? work->forced : work->wanted);
	else
		reason = lb_select(&region, &work->flow, &choice, true);
	if (reason != LB_REASON_FORWARDED)
		return reason;
	lb_address_copy(work->backend, choice.address);
	if (work->packet.family == LB_IPV4)
		work->backend[1] = work->backend[2] = work->backend[3] = 0;
	work->backend_port = lb_backend_port(choice.word);
	work->backend_ref = lb_backend_ref(choice.index, lb_backend_generation(choice.word));
	work->service = region.line->head.service;
	node = lb_node_settings(); /* not kept meanwhile: stack is short here */
	if (!node)
		return LB_REASON_CORRUPT_INDEX;
	reason = lb_choose_mode(work, node, &region.line->head, &choice);
	if (work->mode == LB_MODE_DSR)
		lb_via_find(ctx);
	return reason;
}

/* ---- anchored cells: docs/architecture.md, DATAPATH rules 17 to 23 ------------------------------------------------------------- */

LB_INLINE __u64 lb_backend_word_of(__u32 index)
{
	const struct lb_backend *backend = bpf_map_lookup_elem(&lb_backends, &index);

	return backend && index ? lb_read_once(backend->word) : 0;
}

/* May the backend serve flows that it has? */
LB_INLINE bool lb_serves_existing(__u64 word, __u8 protocol)
{
	__u32 needed = protocol == LB_IPPROTO_UDP ? LB_BACKEND_LIVE | LB_BACKEND_EXISTING : LB_BACKEND_LIVE;

	return (lb_backend_flags(word) & needed) == needed;
}

LB_INLINE bool lb_takes_new(__u64 word)
{
	return lb_backend_flags(word) & LB_BACKEND_LIVE && lb_backend_flags(word) & (7 * LB_BACKEND_POOLS);
}

/* What an anchored cell says of a flow of which nothing is remembered. */
struct lb_cell_choice {
	__u32 backend; /* 0: to be selected, as a new flow's */
	__u32 instead; /* when it cannot be remembered; 0: nobody may */
	bool remembered; /* the bit: an entry counts */
	bool store;
};

LB_INLINE bool lb_cell_of(const struct lb_line *line, __u32 first, const struct lb_flow *f, __u64 *cell)
{
	const __u64 *word;

	if (!line->head.length)
		return false;
	word = lb_region_word(line, first, lb_cell_choose(&line->head, f, false));
	if (!word)
		return false;
	*cell = lb_read_once(*word);
	return true;
}

/* Where the flow belonged in the region before this one, whose cells do not correspond to these; 0: nowhere. */
LB_INLINE __u32 lb_anchor_before(const struct lb_line *line, __u32 first, const struct lb_flow *f)
{
	const __u64 *word = lb_region_word(line, first, line->head.length + line->head.members);
	const struct lb_line *before;
	__u64 cell;
	__u32 older;

	if (!word)
		return 0;
	older = lb_read_once(*word);
	before = bpf_map_lookup_elem(&lb_table, &older);
	return before && lb_cell_of(before, older, f, &cell) ? lb_cell_anchor(cell) : 0;
}

/* Of flows that cannot tell whether they are new: has it been long enough since the service last changed, or last could not remember one? */
LB_INLINE bool lb_is_quiet(const struct lb_head *head, const struct lb_node *node)
{
	__u32 service = head->service, now = lb_seconds();
	__u64 *refused = bpf_map_lookup_elem(&lb_refused, &service), at = refused ? lb_read_once(*refused) : 0;

	if ((__s32)(now - lb_read_once(head->changed)) <= (__s32)node->idle_udp)
		return false;
	return !at || (__s32)(now - (__u32)at) > (__s32)node->idle_udp;
}

/* `opening`: the packet is one that opens a flow, where that can be told. `work` has flow and region. */
LB_INLINE enum lb_reason lb_look_at_cell(const struct lb_work *work, const struct lb_line *line, const struct lb_node *node,
					 struct lb_cell_choice *choice, bool opening)
{
	__u8 protocol = work->flow.protocol, flags = lb_read_once(line->head.flags);
	bool lasts = lb_cells_last(line->head.algorithm, line->head.affinity) && line->head.length;
	__u32 current = 0, settled = 0, anchor;
	__u64 cell = LB_CELL_REMEMBERED, word;

	if (lasts && !lb_cell_of(line, work->region, &work->flow, &cell))
		return LB_REASON_CORRUPT_INDEX;
	current = lb_cell_current(cell);
	settled = anchor = lb_cell_anchor(cell);
	choice->backend = current;
	choice->instead = 0;
	choice->store = !lasts;
	choice->remembered = cell & LB_CELL_REMEMBERED || flags & LB_REGION_SUCCEEDS;
	if (!choice->remembered)
		return LB_REASON_FORWARDED;
	if (flags & LB_REGION_SUCCEEDS)
		anchor = lb_anchor_before(line, work->region, &work->flow);
	word = lb_backend_word_of(anchor);
	if (protocol == LB_IPPROTO_UDP)
		opening = lb_is_quiet(&line->head, node);
	if (!opening && lb_serves_existing(word, protocol))
		choice->backend = anchor;
	/* Nothing need be remembered of a flow that is where all agree that it belongs. */
	if (!lasts || current != anchor || current != settled) {
		choice->store = true;
		/*
		 * Who cannot be remembered must be where the cell sends it the next time, too. The next region takes that over from this one, but
		 * not beside what it takes over from the one before.
		 */
		if (lb_serves_existing(word, protocol))
			choice->instead = !opening || lb_takes_new(word) ? anchor : 0;
		else
			choice->instead = flags & LB_REGION_SUCCEEDS ? 0 : current;
	}
	return LB_REASON_FORWARDED;
}

/* Do cells decide where the flow goes? Not where every flow needs an entry for its answers, and not of what a peer has chosen the backend for. */
LB_INLINE bool lb_is_anchored(const struct lb_work *work, const struct lb_line *line, const struct lb_node *node)
{
	return lb_role == LB_ROLE_EXTERNAL && line->head.flags & LB_REGION_ANCHORED && !work->forced &&
	       !lb_is_tracked(&line->head, work->flow.protocol) &&
	       lb_uses_dsr(node, &line->head, work->flow.protocol);
}

LB_INLINE void lb_note_refusal(__u32 service)
{
	__u64 *refused = bpf_map_lookup_elem(&lb_refused, &service);

	if (refused)
		lb_write_once(*refused, lb_seconds());
}

LB_INLINE bool lb_may_be_from_service(const struct lb_packet *p, __u8 scope)
{
	struct lb_flow source = { .port = p->source_port, .protocol = p->protocol, .family = p->family, .scope = scope };

	lb_address_copy(source.address, p->source);
	return lb_frontend_may_be(&source);
}

/* Is the source a service? What its backend answers would come back for ever. The signs make this cheap enough for each packet. */
LB_INLINE bool lb_is_from_service(const struct lb_packet *p, __u8 scope)
{
	struct lb_flow source = { .port = p->source_port, .protocol = p->protocol, .family = p->family, .scope = scope };
	struct lb_slot *slot;

	lb_address_copy(source.address, p->source);
	return lb_frontend_lookup(&source, &slot);
}

/*
 * Says in lb_work() that the packet goes to this backend, with nothing remembered. 0: that will not do, as it is on this node, where answers must
 * be known, or because of where it comes from.
 */
__noinline int lb_go_stateless(lb_context *ctx, __u32 index)
{
	struct lb_work *work = lb_work();
	struct lb_choice choice;

	if (!work || !ctx || lb_choice_set(&choice, index) != LB_REASON_FORWARDED)
		return 0;
	if (lb_backend_flags(choice.word) & LB_BACKEND_LOCAL || !lb_is_unicast(work->packet.source, work->packet.family) ||
	    lb_is_node_address(work->packet.source, work->packet.family) || lb_is_from_service(&work->packet, work->flow.scope))
		return 0;
	/* A backend that calls its own service sees a source it can answer; the ports of SCTP stay. */
	if (lb_address_equal(work->packet.source, choice.address, work->packet.family) ||
	    (work->packet.protocol == LB_IPPROTO_SCTP && lb_backend_port(choice.word) != work->packet.destination_port))
		return 0;
	lb_address_copy(work->to.destination, choice.address);
	lb_address_copy(work->to.source, work->packet.source);
	work->to.destination_port = lb_backend_port(choice.word);
	work->to.source_port = work->packet.source_port;
	work->backend_ref = lb_backend_ref(index, lb_backend_generation(choice.word));
	work->way_place = index;
	work->mode = LB_MODE_DSR;
	work->via_family = 0;
	lb_count_packet(&work->packet);
	if (lb_is_opening(&work->packet)) {
		lb_count_use(index);
		lb_count_verdict(LB_THIS_HOOK, LB_REASON_FORWARDED);
	}
	return 1;
}

/* Takes over what the entry says of the packet to its backend. */
LB_INLINE void lb_to_backend_of(struct lb_work *work, const struct lb_connection *c)
{
	lb_address_copy(work->to.destination, c->backend);
	lb_address_copy(work->to.source, c->source);
	work->to.destination_port = c->backend_port;
	work->to.source_port = c->source_port;
	work->mode = c->mode;
	work->backend_ref = c->backend_ref;
	if (c->mode == LB_MODE_DSR) {
		work->via_family = c->overhead;
		lb_address_copy(work->via, c->via);
	}
	work->way_place = lb_ref_index(c->backend_ref);
}

/* Makes the connection that lb_work() describes; the packet is its first. */
LB_INLINE enum lb_reason lb_connect(lb_context *ctx, struct lb_work *work)
{
	enum lb_reason reason = lb_connection_make(ctx, work);
	struct lb_connection *c;

	if (reason != LB_REASON_FORWARDED)
		return reason;
	c = lb_connection_at(work->made);
	if (!c)
		return LB_REASON_CORRUPT_INDEX;
	lb_to_backend_of(work, c);
	lb_touch(c, &work->packet, lb_life_of_client(c, &work->packet));
	return LB_REASON_FORWARDED;
}

/*
 * Finds or makes the connection of a packet to the service whose region `work` names, and says in `to` what the packet becomes. A reason of
 * enum lb_reason.
 */
__noinline int lb_to_backend(lb_context *ctx)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	const struct lb_line *line;
	struct lb_cell_choice cell = {};
	struct lb_connection *c;
	struct lb_found found;
	enum lb_reason reason;
	bool is_anchored;

	if (!node || !work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	line = bpf_map_lookup_elem(&lb_table, &work->region);
	if (!line)
		return LB_REASON_CORRUPT_INDEX;
	if (line->head.policy && !lb_in_ranges(line->head.policy, work->packet.source, work->packet.family))
		return LB_REASON_SOURCE_NOT_ALLOWED;
	lb_key_of_client(&work->key, &work->packet);
	work->hash = lb_flow_key_hash(&work->key);
	work->old = LB_NOBODY;
	work->tracked = lb_is_tracked(&line->head, work->packet.protocol);
	is_anchored = lb_is_anchored(work, line, node);
	if (is_anchored) {
		reason = lb_look_at_cell(work, line, node, &cell, lb_is_opening(&work->packet));
		if (reason != LB_REASON_FORWARDED)
			return reason;
		work->wanted = cell.backend;
		if (!cell.remembered && lb_go_stateless(ctx, cell.backend))
			return LB_REASON_FORWARDED;
	}
	if (lb_find_by_client(&work->key, work->hash, &found)) {
		c = found.connection;
		/* Who has been silent for too long may have gone elsewhere since, while its cell had no bit. */
		if (lb_may_go_on(c, &work->packet, line->head.service, node) && !(is_anchored && lb_has_expired(c, node, lb_seconds()))) {
			lb_to_backend_of(work, c);
			if (!lb_still_owned(&found))
				return LB_REASON_CONNECTIONS_FULL;
			if (!lb_is_opening(&work->packet) && lb_must_end(c)) {
				lb_touch(c, &work->packet, LB_LIFE_RESET);
				return LB_REASON_BACKEND_REMOVED;
			}
			lb_touch(c, &work->packet, lb_life_of_client(c, &work->packet));
			return LB_REASON_FORWARDED;
		}
		work->old = found.index;
		work->old_owned = found.owned;
	}
	if (is_anchored && !cell.store && lb_go_stateless(ctx, cell.backend)) {
		if (work->old != LB_NOBODY)
			lb_exchange_owner(work->old, work->old_owned, lb_owner(0, lb_owner_serial(work->old_owned), 0));
		return LB_REASON_FORWARDED;
	}
	reason = lb_choose_backend(ctx);
	if (reason == LB_REASON_FORWARDED)
		reason = lb_connect(ctx, work);
	if (reason == LB_REASON_CONNECTIONS_FULL && is_anchored && cell.store) {
		lb_note_refusal(line->head.service);
		if (cell.instead && lb_go_stateless(ctx, cell.instead))
			return LB_REASON_FORWARDED;
	}
	return reason;
}

/* ---- from a backend to the client ------------------------------------------------------------------------------------------------ */

/*
 * A program of the node can bind a port of the SNAT range that a connection has, too, and ask the same backend. An answer is its socket's when
 * the connection is over; of datagrams, which have no end, when the connection was silent for a while and the socket is connected.
 */
LB_INLINE bool lb_is_sockets(lb_context *ctx, const struct lb_work *work, const struct lb_connection *c)
{
	const struct lb_node *node = lb_node_settings();
	__u32 now = lb_seconds();
	bool over;

	if (!node || (c->mode != LB_MODE_SNAT && c->mode != LB_MODE_MASQUERADE))
		return false;
	over = lb_is_over(c, node, now);
	if (!over && (c->protocol != LB_IPPROTO_UDP || !lb_idle(lb_read_once(c->life), now)))
		return false;
	return lb_has_socket(ctx, &work->reply, !over);
}

enum lb_whose { LB_NOBODYS, LB_BACKENDS, LB_REMOVED_BACKENDS };

/* Is the packet a backend's? Then `to` says what it becomes for the client, and the answer is enum lb_whose: of a connection that has to end, it goes nowhere. */
__noinline int lb_to_client(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_connection *c;
	struct lb_found found;

	if (!work || !ctx)
		return LB_NOBODYS;
	lb_key_of_client(&work->reply, &work->packet);
	if (!lb_find_by_backend(&work->reply, &found))
		return 0;
	c = found.connection;
	if (lb_is_sockets(ctx, work, c))
		return 0;
	lb_address_copy(work->to.source, c->service);
	lb_address_copy(work->to.destination, c->client);
	work->to.source_port = c->service_port;
	work->to.destination_port = c->client_port;
	work->mode = c->mode;
	work->way_place = lb_way_place_of(c->client);
	work->overhead = c->overhead;
	if (!lb_still_owned(&found))
		return 0;
	if (lb_must_end(c)) {
		lb_touch(c, &work->packet, LB_LIFE_RESET);
		return LB_REMOVED_BACKENDS;
	}
	lb_touch(c, &work->packet, lb_life_of_backend(&work->packet));
	return LB_BACKENDS;
}

/* Is this a port and address that translated sources have? */
LB_INLINE bool lb_is_for_snat(const struct lb_packet *p)
{
	const struct lb_node *node = lb_node_settings();
	__u16 port = bpf_ntohs(p->destination_port);

	if (!node || port < node->snat_low || port > node->snat_high)
		return false;
	if (p->family == LB_IPV4)
		return p->destination[0] == node->address4;
	return lb_address_equal(p->destination, node->address6, LB_IPV6);
}

#endif
