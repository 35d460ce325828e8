/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a destination to the region that serves it: key -> slot -> word -> line of the table. */
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

/* The end of a key in one store: the hash helper's wide loads must not wait for narrow stores. */
LB_INLINE __u32 lb_key_tail(const struct lb_flow *f)
{
	return (__u32)f->port | (__u32)f->protocol << 16 | (__u32)f->scope << 24;
}

LB_INLINE __u32 lb_flow_tag(const struct lb_flow *f)
{
	if (f->family == LB_IPV4) {
		struct lb_key4 key = { .address = f->address[0], .port = f->port, .protocol = f->protocol, .scope = f->scope };

		return lb_key4_tag(&key);
	}
	struct lb_key6 key = { .port = f->port, .protocol = f->protocol, .scope = f->scope };

	lb_address_copy(key.address, f->address);
	return lb_key6_tag(&key);
}

/* Most addresses that applications connect to are no services: the filter saves the call of the hash [25 ns of 54]. */
LB_INLINE bool lb_filter_passes(__u32 tag)
{
	__u32 i = lb_filter_word(tag);
	__u64 *word;

	if (!lb_filter_kept)
		return true;
	word = bpf_map_lookup_elem(&lb_filter, &i);
	return !word || lb_read_once(*word) & lb_filter_bit(tag);
}

LB_INLINE __u64 *lb_frontend_element(const struct lb_flow *f)
{
	if (f->family == LB_IPV4) {
		__u64 key = f->address[0] | (__u64)lb_key_tail(f) << 32;

		return bpf_map_lookup_elem(&lb_frontends4, &key);
	}
	__u32 key[] = { f->address[0], f->address[1], f->address[2], f->address[3], lb_key_tail(f) };

	return bpf_map_lookup_elem(&lb_frontends6, key);
}

/* Slot of the key, 0 if there is none. */
LB_INLINE __u32 lb_frontend_lookup(const struct lb_flow *f)
{
	__u32 tag = lb_flow_tag(f);
	__u64 *element, word;

	if (!lb_filter_passes(tag))
		return 0;
	element = lb_frontend_element(f);
	if (!element)
		return 0;
	word = lb_read_once(*element);
	if (lb_frontend_tag(word) == tag)
		return lb_frontend_slot(word);
	/* The element went to another key while we held it. If ours is there, it is in another one by now. */
	element = lb_frontend_element(f);
	if (!element)
		return 0;
	word = lb_read_once(*element);
	return lb_frontend_tag(word) == tag ? lb_frontend_slot(word) : 0;
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
LB_INLINE __u64 lb_slot_read(__u32 slot)
{
	__u64 *element = bpf_map_lookup_elem(&lb_slots, &slot);
	__u64 word;

	if (!element)
		return 0;
	word = lb_read_once(*element);
	if (lb_slot_kind(word) == LB_SLOT_PENDING)
		word = lb_slot_settle(word);
	return word;
}

/* Is the destination a service? On LB_REASON_FORWARDED the region is filled in. */
LB_INLINE enum lb_reason lb_frontend_find(const struct lb_flow *f, struct lb_region *region)
{
	__u32 slot = lb_frontend_lookup(f);
	__u64 word;

	if (!slot)
		return LB_REASON_NOT_A_SERVICE;
	word = lb_slot_read(slot);
	if (lb_slot_kind(word) != LB_SLOT_FINAL)
		return LB_REASON_NOT_A_SERVICE;
	region->slot = slot;
	region->generation = lb_slot_generation(word);
	region->first = lb_slot_region(word);
	region->line = bpf_map_lookup_elem(&lb_table, &region->first);
	return region->line ? LB_REASON_FORWARDED : LB_REASON_CORRUPT_INDEX;
}

#endif
