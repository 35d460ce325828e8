/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a destination to the region that serves it: key -> way -> slot -> word -> line of the table. */
#ifndef LB_FRONTEND_H
#define LB_FRONTEND_H

#include "abi.h"
#include "flow.h"
#include "maps.h"
#include "reasons.h"

struct lb_region {
	__u32 slot;
	__u32 generation; /* of the slot */
	__u32 first;      /* line */
	const struct lb_line *line;
};

LB_INLINE __u64 lb_flow_key(const struct lb_flow *f)
{
	return f->family == LB_IPV6 ? lb_key_word(f->address[3], f->port, f->protocol, f->scope, true) :
				      lb_key_word(f->address[0], f->port, f->protocol, f->scope, false);
}

LB_INLINE __u64 lb_flow_hash_key(const struct lb_flow *f, __u64 key)
{
	return lb_key_hash(key, f->address, f->family == LB_IPV6, lb_frontend_seed);
}

LB_INLINE struct lb_frontends *lb_frontends_at(__u32 line)
{
	line &= lb_frontend_mask;
	return bpf_map_lookup_elem(&lb_frontends, &line);
}

/* What of an IPv6 address is not in the key's word; 0 of IPv4. */
LB_INLINE __u64 lb_key_high(const struct lb_flow *f)
{
	return f->family == LB_IPV6 ? (__u64)f->address[0] << 32 | f->address[1] : 0;
}

LB_INLINE __u32 lb_key_middle(const struct lb_flow *f)
{
	return f->family == LB_IPV6 ? f->address[2] : 0;
}

/* The slot itself, NULL if it is another key's. */
LB_INLINE struct lb_slot *lb_slot_of_key(__u32 index, __u64 key, __u64 high, __u32 middle)
{
	struct lb_slot *slot = bpf_map_lookup_elem(&lb_slots, &index);
	__u32 packed = index / LB_KEYS6_PACKED;
	const struct lb_keys6 *keys;
	const __be32 *address;

	if (!slot || lb_read_once(slot->key) != key)
		return NULL;
	if (!(key & LB_KEY_IPV6))
		return slot;
	keys = bpf_map_lookup_elem(&lb_keys6, &packed);
	if (!keys)
		return NULL;
	address = keys->address[index % LB_KEYS6_PACKED];
	return ((__u64)address[0] << 32 | address[1]) == high && address[2] == middle ? slot : NULL;
}

/*
 * Each way of the line with the key's tag, and the lines after it: for the few keys that share a tag with another one of their
 * line, and those that found their line full. By numbers alone, so that the verifier walks it once and not at each call.
 */
__noinline __u32 lb_frontend_scan(__u64 key, __u64 hash, __u64 high, __u32 middle)
{
	__u32 mine = lb_hash_way(hash), first = lb_hash_line(hash);

	for (int i = 0; i < LB_FRONTEND_LINES; i++) {
		const struct lb_frontends *line = lb_frontends_at(first + i);

		if (!line)
			return 0;
		for (int j = 0; j < LB_FRONTEND_WAYS; j++) {
			__u32 index = lb_read_once(line->way[j]) ^ mine;

			if (index <= LB_INDEX_MAX && lb_slot_of_key(index, key, high, middle))
				return index;
		}
		if (!(lb_read_once(line->signs) & LB_SIGN_MORE))
			return 0;
	}
	return 0;
}

/*
 * Slot of the key, as far as its own line tells, else 0; `more`: it may be elsewhere. Most addresses that applications connect
 * to are no services: the signs say so at once. The ways are looked at without a branch: what is left of those with the key's
 * tag is their lowest bit and the slot, which are summed. More than one has to be looked at way by way: a sum of slots may be a
 * slot that nobody found, which may have the key of old, or be another key's at any moment.
 */
LB_INLINE __u32 lb_frontend_near(const struct lb_flow *f, __u64 key, __u64 hash, struct lb_slot **slot, bool *more)
{
	const struct lb_frontends *line = lb_frontends_at(lb_hash_line(hash));
	__u64 found = 0, mine = lb_hash_way(hash) ^ LB_WAY_TAKEN, signs;
	__u32 index;

	*more = false;
	if (!line)
		return 0;
	signs = lb_read_once(line->signs);
	if (!(signs & (lb_hash_sign(hash) | LB_SIGN_MORE)))
		return 0;
#pragma unroll
	for (int i = 0; i < LB_FRONTEND_WAYS; i++) {
		__u64 way = lb_read_once(line->way[i]) ^ mine;

		barrier_var(way); /* or the compiler makes branches of it, which nobody can predict */
		found += way & -((way - 2ull * LB_WAY_TAKEN) >> 63);
	}
	index = found ^ LB_WAY_TAKEN;
	*slot = index <= LB_INDEX_MAX ? lb_slot_of_key(index, key, lb_key_high(f), lb_key_middle(f)) : NULL;
	if (*slot)
		return index;
	*more = found || signs & LB_SIGN_MORE;
	return 0;
}

/* Slot of the key, 0 if there is none. */
LB_INLINE __u32 lb_frontend_lookup(const struct lb_flow *f, struct lb_slot **slot)
{
	__u64 key = lb_flow_key(f), hash = lb_flow_hash_key(f, key);
	bool more;
	__u32 index = lb_frontend_near(f, key, hash, slot, &more);

	if (index || !more)
		return index;
	index = lb_frontend_scan(key, hash, lb_key_high(f), lb_key_middle(f));
	*slot = index ? bpf_map_lookup_elem(&lb_slots, &index) : NULL;
	return *slot ? index : 0;
}

/* May this be a key? What the signs of its line say, without a look at the ways. */
LB_INLINE bool lb_frontend_may_be(const struct lb_flow *f)
{
	__u64 hash = lb_flow_hash_key(f, lb_flow_key(f));
	const struct lb_frontends *line = lb_frontends_at(lb_hash_line(hash));

	return !line || lb_read_once(line->signs) & (lb_hash_sign(hash) | LB_SIGN_MORE);
}

/* A slot in the middle of a commit. The number is loaded after the slot; so is the pair, whose index the slot holds. */
static __noinline __u64 lb_slot_settle(__u64 word)
{
	__u32 zero = 0, n = lb_pending_index(word);
	struct lb_control *control = bpf_map_lookup_elem(&lb_control, &zero);
	struct lb_pending *pair = bpf_map_lookup_elem(&lb_pending, &n);
	__u64 number;

	if (!control || !pair)
		return 0;
	control = lb_address_after(control, word);
	number = lb_read_once(control->number);
	if (lb_number_reached(number, lb_pending_number(word)))
		return lb_read_once(pair->after);
	return lb_read_once(pair->before);
}

/* What the slot says now: final or absent. A run loads a slot once, so loads of two slots need no order. */
LB_INLINE __u64 lb_slot_read(const struct lb_slot *slot)
{
	__u64 word = lb_read_once(slot->word);

	if (lb_slot_kind(word) == LB_SLOT_PENDING)
		word = lb_slot_settle(word);
	return word;
}

/* Is the destination a service? On LB_REASON_FORWARDED the region is filled in. */
LB_INLINE enum lb_reason lb_frontend_find(const struct lb_flow *f, struct lb_region *region)
{
	struct lb_slot *slot;
	__u32 index = lb_frontend_lookup(f, &slot);
	__u64 word;

	if (!index)
		return LB_REASON_NOT_A_SERVICE;
	word = lb_slot_read(slot);
	if (lb_slot_kind(word) != LB_SLOT_FINAL)
		return LB_REASON_NOT_A_SERVICE;
	region->slot = index;
	region->generation = lb_slot_generation(word);
	region->first = lb_slot_region(word);
	region->line = bpf_map_lookup_elem(&lb_table, &region->first);
	return region->line ? LB_REASON_FORWARDED : LB_REASON_CORRUPT_INDEX;
}

#endif
