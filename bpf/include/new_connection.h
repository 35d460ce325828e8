/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a connection: a way for its entry, a source that the backend knows nobody else by, and agreement with other CPUs. */
#ifndef LB_NEW_CONNECTION_H
#define LB_NEW_CONNECTION_H

#include "connections.h"
#include "counters.h"
#include "kernel.h"
#include "packet.h"
#include "reasons.h"
#include "work.h"

/* Looks for the best way in the first (0) or the second (1) set of the packet's hash. */
__noinline int lb_way_offer(lb_context *ctx, __u32 turn)
{
	struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	struct lb_owner_set *owners;
	struct lb_offer *offer;
	__u32 set, now = lb_seconds();
	bool is_free = false;

	if (!work || !node || !ctx)
		return 0;
	set = turn ? lb_set_second(work->hash, lb_owner_mask) : lb_set_first(work->hash, lb_owner_mask);
	offer = &work->offer[turn & 1];
	offer->index = LB_NOBODY;
	offer->free = 0;
	owners = lb_owner_set_at(set);
	if (!owners)
		return 0;
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		__u64 owned = lb_read_once(owners->way[i]);
		struct lb_connection *c;

		if (owned & LB_OWNER_BUSY)
			continue;
		if (!lb_owner_tag(owned)) {
			offer->free++;
			is_free = true;
		} else {
			c = is_free ? NULL : lb_connection_at(lb_connection_index(set, i));
			if (!c || !lb_may_take(c, node, now))
				continue;
		}
		offer->index = lb_connection_index(set, i);
		offer->owned = owned;
	}
	return 1;
}

/* Takes a way for the packet's flow; it says BUSY from now on. */
__noinline int lb_way_take(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	__u64 tag;

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	tag = lb_hash_tag48(work->hash);
	work->made = work->old;
	if (work->old != LB_NOBODY &&
	    lb_exchange_owner(work->old, work->old_owned, lb_owner(tag, lb_owner_serial(work->old_owned) + 1, LB_OWNER_BUSY)))
		return LB_REASON_FORWARDED;
	lb_way_offer(ctx, 0);
	lb_way_offer(ctx, 1);
	for (int turn = 0; turn < 2; turn++) {
		/* The emptier set first, so that they fill evenly. */
		bool second = (work->offer[1].free > work->offer[0].free) ^ turn;
		struct lb_offer offer = second ? work->offer[1] : work->offer[0];

		work->made = offer.index;
		if (offer.index != LB_NOBODY &&
		    lb_exchange_owner(offer.index, offer.owned, lb_owner(tag, lb_owner_serial(offer.owned) + 1, LB_OWNER_BUSY)))
			return LB_REASON_FORWARDED;
	}
	return LB_REASON_CONNECTIONS_FULL;
}

/* Has the node a socket of its own for what `near` of the key sends to `far`? `connected`: of datagram sockets, only one that is connected. */
LB_INLINE bool lb_has_socket(lb_context *ctx, const struct lb_flow_key *k, bool connected)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 length;
	bool found;

	if (k->family == LB_IPV4) {
		tuple.ipv4.saddr = k->near[0];
		tuple.ipv4.daddr = k->far[0];
		tuple.ipv4.sport = k->near_port;
		tuple.ipv4.dport = k->far_port;
		length = sizeof(tuple.ipv4);
	} else {
		lb_address_copy(tuple.ipv6.saddr, k->near);
		lb_address_copy(tuple.ipv6.daddr, k->far);
		tuple.ipv6.sport = k->near_port;
		tuple.ipv6.dport = k->far_port;
		length = sizeof(tuple.ipv6);
	}
	if (k->protocol == LB_IPPROTO_TCP) {
		/* Also those that wait for the end of a connection. */
		sk = bpf_skc_lookup_tcp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return false;
		bpf_sk_release(sk);
		return true;
	}
	sk = k->protocol == LB_IPPROTO_UDP ? bpf_sk_lookup_udp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0) : NULL;
	if (!sk)
		return false;
	found = !connected || sk->dst_port;
	bpf_sk_release(sk);
	return found;
}

/* Is the source one that this node answers at itself: its port a frontend's, or a socket there? */
LB_INLINE bool lb_source_is_ours(lb_context *ctx, const struct lb_flow_key *k)
{
	__u32 host = bpf_ntohs(k->far_port), element = host / 8;
	struct lb_ports *ports = bpf_map_lookup_elem(&lb_ports, &element);

	return (ports && lb_read_once(ports->use[host % 8])) || lb_has_socket(ctx, k, false);
}

/* Claims (backend, source, port) for the entry that is being made; 1 when it has it now. */
__noinline int lb_source_claim(lb_context *ctx, __u32 port, __u32 check)
{
	struct lb_work *work = lb_work();
	struct lb_flow_key *key;
	__u64 hash, *owner;

	if (!work || !ctx)
		return 0;
	key = &work->reply;
	key->near_port = work->backend_port;
	key->far_port = port;
	key->protocol = work->packet.protocol;
	key->family = work->packet.family;
	lb_address_copy(key->near, work->backend);
	lb_address_copy(key->far, work->source);
	if (check && lb_source_is_ours(ctx, key))
		return 0;
	hash = lb_flow_key_hash(key);
	owner = lb_owner_at(work->made);
	if (!owner || !lb_reply_is_free(key, hash, work->made))
		return 0;
	if (!lb_reply_insert(hash, lb_reply_word(lb_hash_tag24(hash), lb_owner_serial(lb_read_once(*owner)), work->made)))
		return 0;
	/* Another CPU may have claimed the same meanwhile: both see each other now, and both look for another port. */
	if (!lb_reply_is_free(key, hash, work->made))
		return 0;
	work->source_port = port;
	return 1;
}

/*
 * A source that no other connection to this backend has: the client's own where its address stays, else a port of the SNAT range. A claim
 * that was lost leaves a word behind that leads to this entry, whose source is another then; it goes with the entry.
 */
__noinline int lb_source_choose(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_node *node = lb_node_settings();
	__u32 start, span;

	if (!work || !node || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	work->source_port = work->packet.source_port;
	if (work->mode == LB_MODE_DSR)
		return LB_REASON_FORWARDED;
	if (work->mode == LB_MODE_LOCAL && lb_source_claim(ctx, work->packet.source_port, 0))
		return LB_REASON_FORWARDED;
	span = (__u32)node->snat_high - node->snat_low + 1;
	start = lb_random();
	for (int i = 0; i < LB_PORT_TRIES; i++) {
		/* A stride that is odd and long: neighbours of a port in use are in use, too. */
		__u32 port = node->snat_low + (start + i * 0x9e3779b1u) % (span & 0xffff ? span & 0x1ffff : 1);

		if (lb_source_claim(ctx, bpf_htons(port), 1))
			return LB_REASON_FORWARDED;
	}
	return LB_REASON_SNAT_PORTS_EXHAUSTED;
}

/* The entry of the same flow that another CPU made meanwhile, if it has a lower index than ours: that one counts. */
LB_INLINE bool lb_find_twin(const struct lb_work *work, __u32 set, struct lb_found *twin)
{
	struct lb_owner_set *owners = lb_owner_set_at(set);
	__u64 tag = lb_hash_tag48(work->hash);

	if (!owners)
		return false;
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		__u64 owned = lb_read_once(owners->way[i]);

		twin->index = lb_connection_index(set, i);
		if (lb_owner_tag(owned) != tag || owned & LB_OWNER_BUSY || twin->index >= work->made)
			continue;
		twin->connection = lb_connection_at(twin->index);
		if (twin->connection && lb_is_clients(twin->connection, &work->key))
			return true;
	}
	return false;
}

/* Writes the entry, and hands it to the other CPUs. `made` may become the index of theirs. */
__noinline int lb_connection_write(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_connection *c;
	struct lb_found twin;
	__u64 *owner, owned;
	__u32 now = lb_seconds();

	if (!work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	owner = lb_owner_at(work->made);
	c = lb_connection_at(work->made);
	if (!owner || !c)
		return LB_REASON_CORRUPT_INDEX;
	owned = lb_read_once(*owner);
	lb_address_copy(c->client, work->key.near);
	lb_address_copy(c->service, work->key.far);
	lb_address_copy(c->backend, work->backend);
	lb_address_copy(c->source, work->source);
	c->client_port = work->key.near_port;
	c->service_port = work->key.far_port;
	c->backend_port = work->backend_port;
	c->source_port = work->source_port;
	c->protocol = work->key.protocol;
	c->family = work->key.family;
	c->mode = work->mode;
	c->overhead = work->mode == LB_MODE_DSR ? work->via_family : work->overhead;
	lb_address_copy(c->via, work->via);
	c->backend_ref = work->backend_ref;
	c->service_id = work->service;
	c->created = now;
	c->packets = 0;
	c->bytes = 0;
	c->life = lb_life(now, work->tracked ? LB_LIFE_TRACKED : 0);
#if LB_LEGACY
	lb_exchange_owner(work->made, owned, owned & ~LB_OWNER_BUSY);
#else
	__sync_lock_test_and_set(owner, owned & ~LB_OWNER_BUSY);
#endif
	if (work->backend_ref) {
		lb_count_use(lb_ref_index(work->backend_ref));
		lb_count_verdict(LB_THIS_HOOK, LB_REASON_FORWARDED);
	}
	if (lb_find_twin(work, lb_set_first(work->hash, lb_owner_mask), &twin) ||
	    lb_find_twin(work, lb_set_second(work->hash, lb_owner_mask), &twin)) {
		lb_exchange_owner(work->made, owned & ~LB_OWNER_BUSY, lb_owner(0, lb_owner_serial(owned), 0));
		work->made = twin.index;
	}
	return LB_REASON_FORWARDED;
}

/* Makes the connection that lb_work() describes. Its index is in `made`: of an entry of another CPU's, when that was quicker. */
LB_INLINE enum lb_reason lb_connection_make(lb_context *ctx, struct lb_work *work)
{
	enum lb_reason reason = lb_way_take(ctx);
	__u64 *owner;

	if (reason != LB_REASON_FORWARDED)
		return reason;
	reason = lb_source_choose(ctx);
	if (reason == LB_REASON_FORWARDED)
		return lb_connection_write(ctx);
	owner = lb_owner_at(work->made);
	if (owner)
		lb_write_once(*owner, lb_owner(0, lb_owner_serial(lb_read_once(*owner)), 0));
	return reason;
}

#endif
