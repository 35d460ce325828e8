/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of connections: abi.h has its layout. Found from the client's side by (client, service), from the backend's by
 * (backend, source); both lead to one entry. Nothing runs in the background: a way whose entry was silent for its time is taken by the
 * next flow that needs one, and only entries that saw nothing but SYNs for a while are taken before their time.
 */
#ifndef LB_CONNECTIONS_H
#define LB_CONNECTIONS_H

#include "abi.h"
#include "config.h"
#include "flow.h"
#include "packet.h"
#include "packet_maps.h"
#include "random.h"

const volatile __u32 lb_owner_mask = 8191;  /* sets in lb_owners, less 1 */
const volatile __u32 lb_reply_mask = 16383; /* sets in lb_replies, less 1 */
const volatile __u64 lb_flow_seed = 0;      /* so that nobody outside can tell which flows share a set */

#define LB_OPENING_SECONDS 10 /* what saw nothing but SYNs for so long may be taken by another flow */
#define LB_PORT_TRIES 24
#define LB_NOBODY 0xffffffffu /* no index */

struct lb_flow_key {
	__be32 near[4]; /* client, or backend */
	__be32 far[4];  /* service, or source */
	__be16 near_port;
	__be16 far_port;
	__u8 protocol;
	__u8 family;
};

LB_INLINE __u32 lb_seconds(void)
{
#if LB_LEGACY
	return bpf_ktime_get_ns() / 1000000000ull;
#else
	return bpf_ktime_get_coarse_ns() / 1000000000ull;
#endif
}

LB_INLINE __u64 lb_flow_key_hash(const struct lb_flow_key *k)
{
	__u64 x = lb_mix64(((__u64)k->near[0] << 32 | k->far[0]) ^ lb_flow_seed);

	if (k->family == LB_IPV6) {
		x = lb_mix64(x ^ ((__u64)k->near[1] << 32 | k->near[2]));
		x = lb_mix64(x ^ ((__u64)k->near[3] << 32 | k->far[1]));
		x = lb_mix64(x ^ ((__u64)k->far[2] << 32 | k->far[3]));
	}
	return lb_mix64(x ^ ((__u64)k->near_port << 32 | (__u32)k->far_port << 16 | k->protocol << 8 | k->family));
}

/* The two sets of a hash, and its tag, which shares no bits with the first. */
LB_INLINE __u32 lb_set_first(__u64 hash, __u32 mask) { return hash & mask; }
LB_INLINE __u32 lb_set_second(__u64 hash, __u32 mask)
{
	__u32 other = (hash >> 24) & mask;

	return other == (hash & mask) ? other ^ 1 : other;
}
LB_INLINE __u64 lb_hash_tag48(__u64 hash)
{
	__u64 tag = hash >> 16;

	return tag ? tag : 1;
}
LB_INLINE __u32 lb_hash_tag24(__u64 hash)
{
	__u32 tag = hash >> 40;

	return tag ? tag : 1;
}

LB_INLINE struct lb_owner_set *lb_owner_set_at(__u32 set) { return bpf_map_lookup_elem(&lb_owners, &set); }
LB_INLINE struct lb_owner_set *lb_reply_set_at(__u32 set) { return bpf_map_lookup_elem(&lb_replies, &set); }
LB_INLINE __u32 lb_connection_index(__u32 set, int way) { return set * LB_FLOW_WAYS + LB_FIRST_FLOW_WAY + way; }
LB_INLINE struct lb_connection *lb_connection_at(__u32 index) { return bpf_map_lookup_elem(&lb_connections, &index); }

/* The owner word of an entry. */
LB_INLINE __u64 *lb_owner_at(__u32 index)
{
	__u32 set = index / LB_FLOW_WAYS, way = index % LB_FLOW_WAYS - LB_FIRST_FLOW_WAY;
	struct lb_owner_set *owners = lb_owner_set_at(set);

	if (!owners || way >= LB_FLOW_SET_WAYS)
		return NULL;
	barrier_var(way);
	way &= LB_FLOW_WAYS - 1;
	barrier_var(way); /* or clang compares with 7, which verifiers before 6.3 take for no bound */
	return way < LB_FLOW_SET_WAYS ? &owners->way[way] : NULL;
}

/* ---- age ------------------------------------------------------------------------------------------------------------------ */

LB_INLINE __u64 lb_life(__u32 seconds, __u32 flags) { return (__u64)seconds << 32 | flags; }
LB_INLINE __u32 lb_life_seen(__u64 life) { return life >> 32; }

/* For how long it may be silent. */
LB_INLINE __u32 lb_idle_allowed(const struct lb_node *node, __u8 protocol, __u32 flags)
{
	__u32 closed = LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;

	if (flags & LB_LIFE_RESET || (flags & closed) == closed)
		return LB_CLOSED_SECONDS;
	return protocol == LB_IPPROTO_TCP || protocol == LB_IPPROTO_SCTP ? node->idle_tcp : node->idle_udp;
}

LB_INLINE __u32 lb_idle(__u64 life, __u32 now)
{
	__s32 idle = now - lb_life_seen(life);

	return idle < 0 ? 0 : idle; /* another CPU may have seen the next second */
}

LB_INLINE bool lb_has_expired(const struct lb_connection *c, const struct lb_node *node, __u32 now)
{
	__u64 life = lb_read_once(c->life);

	return lb_idle(life, now) > lb_idle_allowed(node, c->protocol, life);
}

/* May a new flow take its way? UDP has no SYN: an unanswered flow is as good as one, as a scan leaves nothing else. */
LB_INLINE bool lb_may_take(const struct lb_connection *c, const struct lb_node *node, __u32 now)
{
	__u64 life = lb_read_once(c->life);
	__u32 idle = lb_idle(life, now);

	return idle > lb_idle_allowed(node, c->protocol, life) ||
	       (!(life & (LB_LIFE_OPENED | LB_LIFE_ANSWERED)) && c->protocol != LB_IPPROTO_UDP && idle >= LB_OPENING_SECONDS);
}

/* Has it ended, or never begun as far as anybody can tell? */
LB_INLINE bool lb_is_over(const struct lb_connection *c, const struct lb_node *node, __u32 now)
{
	const __u32 closed = LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;
	__u64 life = lb_read_once(c->life);

	return life & LB_LIFE_RESET || (life & closed) == closed || lb_may_take(c, node, now);
}

/* ---- finding --------------------------------------------------------------------------------------------------------------- */

LB_INLINE bool lb_is_clients(const struct lb_connection *c, const struct lb_flow_key *k)
{
	return c->client_port == k->near_port && c->service_port == k->far_port && c->protocol == k->protocol &&
	       c->family == k->family && lb_address_equal(c->client, k->near, k->family) &&
	       lb_address_equal(c->service, k->far, k->family);
}

LB_INLINE bool lb_is_backends(const struct lb_connection *c, const struct lb_flow_key *k)
{
	return c->backend_port == k->near_port && c->source_port == k->far_port && c->protocol == k->protocol &&
	       c->family == k->family && lb_address_equal(c->backend, k->near, k->family) &&
	       lb_address_equal(c->source, k->far, k->family);
}

struct lb_found {
	struct lb_connection *connection; /* NULL: none */
	__u64 *owner;
	__u64 owned; /* what the owner word said */
	__u32 index;
};

/* Is the entry still what it was when its owner was read? To be asked after all that was read of it. */
LB_INLINE bool lb_still_owned(const struct lb_found *found)
{
	__u64 *owner = lb_address_after(found->owner, lb_read_once(found->connection->life));

	return lb_read_once(*owner) == found->owned;
}

LB_INLINE bool lb_find_in_set(__u32 set, __u64 tag, const struct lb_flow_key *k, struct lb_found *found)
{
	struct lb_owner_set *owners = lb_owner_set_at(set);

	if (!owners)
		return false;
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		__u64 owned = lb_read_once(owners->way[i]);

		if (lb_owner_tag(owned) != tag || owned & LB_OWNER_BUSY)
			continue;
		found->connection = lb_connection_at(lb_connection_index(set, i));
		if (!found->connection)
			return false;
		found->connection = lb_address_after(found->connection, owned);
		if (!lb_is_clients(found->connection, k))
			continue;
		found->owner = &owners->way[i];
		found->owned = owned;
		found->index = lb_connection_index(set, i);
		return true;
	}
	return false;
}

/* The connection of a client's packet. */
LB_INLINE bool lb_find_by_client(const struct lb_flow_key *k, __u64 hash, struct lb_found *found)
{
	__u64 tag = lb_hash_tag48(hash);

	found->connection = NULL;
	if (lb_find_in_set(lb_set_first(hash, lb_owner_mask), tag, k, found) ||
	    lb_find_in_set(lb_set_second(hash, lb_owner_mask), tag, k, found))
		return lb_still_owned(found);
	found->connection = NULL;
	return false;
}

/* What a word of lb_replies leads to. */
enum lb_lead {
	LB_LEAD_STALE, /* nothing any more: the word may be replaced */
	LB_LEAD_BUSY,  /* an entry that is being written, maybe this one */
	LB_LEAD_OTHER, /* an entry of another key */
	LB_LEAD_FOUND,
};

LB_INLINE enum lb_lead lb_follow(__u64 word, const struct lb_flow_key *k, struct lb_found *found)
{
	found->index = lb_reply_index(word);
	found->owner = lb_owner_at(found->index);
	if (!found->owner)
		return LB_LEAD_STALE;
	found->owned = lb_read_once(*found->owner);
	if (!lb_owner_tag(found->owned) || lb_owner_serial(found->owned) != lb_reply_serial(word))
		return LB_LEAD_STALE;
	if (found->owned & LB_OWNER_BUSY)
		return LB_LEAD_BUSY;
	found->connection = lb_connection_at(found->index);
	if (!found->connection)
		return LB_LEAD_STALE;
	found->connection = lb_address_after(found->connection, found->owned);
	return lb_is_backends(found->connection, k) ? LB_LEAD_FOUND : LB_LEAD_OTHER;
}

LB_INLINE bool lb_find_reply_in_set(__u32 at, __u32 tag, const struct lb_flow_key *k, struct lb_found *found)
{
	struct lb_owner_set *set = lb_reply_set_at(at);

	if (!set)
		return false;
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		__u64 word = lb_read_once(set->way[i]);

		if (lb_reply_tag(word) == tag && lb_follow(word, k, found) == LB_LEAD_FOUND && lb_still_owned(found))
			return true;
	}
	return false;
}

/* The connection of a backend's packet. */
LB_INLINE bool lb_find_by_backend(const struct lb_flow_key *k, struct lb_found *found)
{
	__u64 hash = lb_flow_key_hash(k);
	__u32 tag = lb_hash_tag24(hash);

	if (lb_find_reply_in_set(lb_set_first(hash, lb_reply_mask), tag, k, found) ||
	    lb_find_reply_in_set(lb_set_second(hash, lb_reply_mask), tag, k, found))
		return true;
	found->connection = NULL;
	return false;
}

/* ---- finding in a few steps: what is not where it would be nearly always is left to the others ------------------------------------ */

/* The first way whose word has the tag; LB_FLOW_SET_WAYS: none. */
LB_INLINE __u32 lb_way_tagged(const struct lb_owner_set *set, __u64 tag, const __u32 shift, __u64 *word)
{
#pragma unroll
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		*word = lb_read_once(set->way[i]);
		if (*word >> shift == tag)
			return i;
	}
	return LB_FLOW_SET_WAYS;
}

LB_INLINE bool lb_found_at(struct lb_found *found, struct lb_owner_set *owners, __u32 set, __u32 way)
{
	found->owner = &owners->way[way];
	found->index = lb_connection_index(set, way);
	found->connection = lb_connection_at(found->index);
	if (!found->connection || found->owned & LB_OWNER_BUSY)
		return false;
	found->connection = lb_address_after(found->connection, found->owned);
	return true;
}

LB_INLINE bool lb_find_by_client_quickly(const struct lb_flow_key *k, __u64 hash, struct lb_found *found)
{
	__u32 set = lb_set_first(hash, lb_owner_mask), way;
	struct lb_owner_set *owners = lb_owner_set_at(set);
	__u64 tag = lb_hash_tag48(hash);

	if (!owners)
		return false;
	way = lb_way_tagged(owners, tag, LB_OWNER_TAG_SHIFT, &found->owned);
	if (way == LB_FLOW_SET_WAYS) {
		set = lb_set_second(hash, lb_owner_mask);
		owners = lb_owner_set_at(set);
		if (!owners)
			return false;
		way = lb_way_tagged(owners, tag, LB_OWNER_TAG_SHIFT, &found->owned);
	}
	barrier_var(way);
	return way < LB_FLOW_SET_WAYS && lb_found_at(found, owners, set, way) && lb_is_clients(found->connection, k);
}

LB_INLINE bool lb_find_by_backend_quickly(const struct lb_flow_key *k, struct lb_found *found)
{
	__u64 hash = lb_flow_key_hash(k), word;
	struct lb_owner_set *replies = lb_reply_set_at(lb_set_first(hash, lb_reply_mask)), *owners;
	__u32 tag = lb_hash_tag24(hash), way;

	if (!replies)
		return false;
	if (lb_way_tagged(replies, tag, 40, &word) == LB_FLOW_SET_WAYS) {
		replies = lb_reply_set_at(lb_set_second(hash, lb_reply_mask));
		if (!replies || lb_way_tagged(replies, tag, 40, &word) == LB_FLOW_SET_WAYS)
			return false;
	}
	found->index = lb_reply_index(word);
	owners = lb_owner_set_at(found->index / LB_FLOW_WAYS);
	way = found->index % LB_FLOW_WAYS - LB_FIRST_FLOW_WAY;
	if (!owners)
		return false;
	barrier_var(way);
	way &= LB_FLOW_WAYS - 1;
	barrier_var(way); /* as in lb_owner_at() */
	if (way >= LB_FLOW_SET_WAYS)
		return false;
	found->owned = lb_read_once(owners->way[way]);
	return lb_owner_tag(found->owned) && lb_owner_serial(found->owned) == lb_reply_serial(word) &&
	       lb_found_at(found, owners, found->index / LB_FLOW_WAYS, way) && lb_is_backends(found->connection, k);
}

/* ---- taking a way ---------------------------------------------------------------------------------------------------------- */

/* Puts `wanted` where `seen` was; false when another was quicker. */
#if LB_LEGACY
#define lb_exchange(set, i, seen, wanted)                          \
	({                                                         \
		bool done_;                                        \
		bpf_spin_lock(&(set)->lock);                       \
		done_ = (set)->way[i] == (seen);                   \
		if (done_)                                         \
			(set)->way[i] = (wanted);                  \
		bpf_spin_unlock(&(set)->lock);                     \
		done_;                                             \
	})
#else
#define lb_exchange(set, i, seen, wanted) (__sync_val_compare_and_swap(&(set)->way[i], seen, wanted) == (seen))
#endif

LB_INLINE bool lb_exchange_owner(__u32 index, __u64 seen, __u64 wanted)
{
	struct lb_owner_set *owners = lb_owner_set_at(index / LB_FLOW_WAYS);
	__u32 way = index % LB_FLOW_WAYS - LB_FIRST_FLOW_WAY;

	if (!owners)
		return false;
	barrier_var(way);
	way &= LB_FLOW_WAYS - 1;
	barrier_var(way); /* or clang compares with 7, which verifiers before 6.3 take for no bound */
	if (way >= LB_FLOW_SET_WAYS)
		return false;
	return lb_exchange(owners, way, seen, wanted);
}

/* ---- replies ----------------------------------------------------------------------------------------------------------------- */

/* Is nobody else known to this backend by this source? An entry that has had its time makes room. Scans one set. */
LB_INLINE bool lb_reply_set_lacks(__u32 at, __u32 tag, const struct lb_flow_key *k, __u32 mine, const struct lb_node *node, __u32 now)
{
	struct lb_owner_set *set = lb_reply_set_at(at);

	if (!set)
		return false;
	for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
		__u64 word = lb_read_once(set->way[i]);
		struct lb_found found;
		enum lb_lead lead;

		if (lb_reply_tag(word) != tag || lb_reply_index(word) == mine)
			continue;
		lead = lb_follow(word, k, &found);
		if (lead == LB_LEAD_BUSY)
			return false;
		if (lead == LB_LEAD_FOUND && !lb_has_expired(found.connection, node, now))
			return false;
		if (lead == LB_LEAD_FOUND)
			lb_exchange_owner(found.index, found.owned, lb_owner(0, lb_owner_serial(found.owned), 0));
	}
	return true;
}

LB_INLINE bool lb_reply_is_free(const struct lb_flow_key *k, __u64 hash, __u32 mine)
{
	__u32 zero = 0, now = lb_seconds(), tag = lb_hash_tag24(hash);
	struct lb_node *node = bpf_map_lookup_elem(&lb_node, &zero);

	return node && lb_reply_set_lacks(lb_set_first(hash, lb_reply_mask), tag, k, mine, node, now) &&
	       lb_reply_set_lacks(lb_set_second(hash, lb_reply_mask), tag, k, mine, node, now);
}

/* Is the word of use to anybody? */
LB_INLINE bool lb_reply_is_stale(__u64 word)
{
	__u64 *owner = lb_owner_at(lb_reply_index(word)), owned;

	if (!owner)
		return true;
	owned = lb_read_once(*owner);
	return !lb_owner_tag(owned) || lb_owner_serial(owned) != lb_reply_serial(word);
}

LB_INLINE bool lb_reply_insert(__u64 hash, __u64 word)
{
	for (int turn = 0; turn < 2; turn++) {
		__u32 at = turn ? lb_set_second(hash, lb_reply_mask) : lb_set_first(hash, lb_reply_mask);
		struct lb_owner_set *set = lb_reply_set_at(at);

		if (!set)
			return false;
		for (int i = 0; i < LB_FLOW_SET_WAYS; i++) {
			__u64 seen = lb_read_once(set->way[i]);

			if (seen && !lb_reply_is_stale(seen))
				continue;
			if (lb_exchange(set, i, seen, word))
				return true;
		}
	}
	return false;
}

#endif
