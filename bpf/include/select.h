/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The selection core: from a region and a flow to a backend. Every hook and explain() choose with this code; it knows no
 * context. `changes` is false where nothing may be changed: no cursor moves, no affinity is written.
 */
#ifndef LB_SELECT_H
#define LB_SELECT_H

#include "abi.h"
#include "affinity.h"
#include "flow.h"
#include "frontend.h"
#include "hash.h"
#include "maps.h"
#include "random.h"
#include "reasons.h"

struct lb_choice {
	__u32 index;
	__u32 cell; /* meaningless when chosen by affinity */
	__u64 word; /* of the backend; chosen near: without flags */
	__be32 ipv4;
	const __be32 *address; /* meaningless when chosen near */
	__u32 affinity_left; /* seconds, after this use; 0: not chosen by affinity */
};

enum lb_want { LB_WANT_CLIENT = 1, LB_WANT_SOCKET = 2 };

/* Which numbers the choice depends on: finding them out costs a call, so the hook does it only when asked. */
LB_INLINE __u32 lb_region_wants(const struct lb_head *head)
{
	if (head->affinity)
		return LB_WANT_CLIENT;
	if (head->algorithm == LB_MAGLEV)
		return LB_WANT_CLIENT | LB_WANT_SOCKET;
	return head->algorithm == LB_SOURCE_HASH ? LB_WANT_CLIENT : 0;
}

LB_INLINE enum lb_reason lb_region_empty(const struct lb_head *head)
{
	if (head->flags & LB_REGION_LOCAL_ONLY)
		return LB_REASON_NO_LOCAL_BACKEND;
	return head->flags & LB_REGION_DROP ? LB_REASON_NO_BACKENDS_DROP : LB_REASON_NO_BACKENDS;
}

/* Word `at` of a region, counted from its first cell; NULL when the index is no good. */
LB_INLINE const __u64 *lb_region_word(const struct lb_line *line, __u32 first, __u32 at)
{
	at += LB_HEAD_WORDS;
	if (at >= LB_LINE_WORDS) {
		first += at / LB_LINE_WORDS;
		line = bpf_map_lookup_elem(&lb_table, &first);
		if (!line)
			return NULL;
	}
	return &line->word[at % LB_LINE_WORDS];
}

LB_INLINE __u32 lb_cursor_turn(const struct lb_head *head, const bool changes)
{
	__u32 service = head->service;
	struct lb_cursor *cursor;
	__u32 *position;

#if LB_LEGACY
	cursor = bpf_map_lookup_elem(&lb_cursors_cpu, &service);
#else
	cursor = bpf_map_lookup_elem(&lb_cursors, &service);
#endif
	if (!cursor)
		return 0;
	position = head->family == LB_IPV6 ? &cursor->position6 : &cursor->position4;
	if (!changes)
		return *position;
#if LB_LEGACY
	return (*position)++;
#else
	return __sync_fetch_and_add(position, 1);
#endif
}

/* Which cell. The length is not 0. */
LB_INLINE __u32 lb_cell_choose(const struct lb_head *head, const struct lb_flow *f, const bool changes)
{
	__u32 length = head->length;

	switch (head->algorithm) {
	case LB_ROUND_ROBIN:
		return lb_cursor_turn(head, changes) % length;
	case LB_MAGLEV:
	case LB_SOURCE_HASH:
		return lb_hash_scale(lb_hash_of(head->algorithm, head->affinity, f), length);
	default:
		return lb_hash_scale(changes ? lb_random() : bpf_get_prandom_u32(), length);
	}
}

LB_INLINE enum lb_reason lb_choice_set(struct lb_choice *choice, __u32 index)
{
	const struct lb_backend *backend;

	choice->index = index;
	backend = bpf_map_lookup_elem(&lb_backends, &choice->index);
	if (!backend || !index)
		return LB_REASON_CORRUPT_INDEX;
	choice->address = backend->address;
	choice->ipv4 = backend->address[0];
	choice->word = lb_read_once(backend->word);
	return LB_REASON_FORWARDED;
}

/*
 * Is the backend one of the region's? Only those take new flows. They are listed behind the cells, ascending. The search has
 * no branch on what it finds: the verifier would walk every path of it.
 */
LB_INLINE bool lb_region_has(const struct lb_line *line, __u32 first, __u32 index)
{
	__u32 low = LB_HEAD_WORDS + line->head.length, span = line->head.members;

	for (int i = 0; i <= LB_INDEX_BITS && span; i++) {
		__u32 half = span / 2, at = first + (low + half) / LB_LINE_WORDS;
		__u64 below;

		line = bpf_map_lookup_elem(&lb_table, &at);
		if (!line)
			return false;
		below = (line->word[(low + half) % LB_LINE_WORDS] & LB_INDEX_MAX) - index;
		if (span == 1)
			return !below;
		below = (below - 1) >> 63; /* 1: the member is not greater than the index */
		barrier_var(below);
		low += half & -(__u32)below;
		span -= half;
	}
	return false;
}

/* Seconds that an affinity is good for, 0 if it is not: too old, or its backend takes no new flows. */
static __noinline __u32 lb_affinity_left(__u64 word, const struct lb_line *line, __u32 first, __u32 now)
{
	__u32 age = lb_affinity_age(word, now), ref = word, index = lb_ref_index(ref);
	const struct lb_backend *backend;

	if (!line || !word || age > line->head.affinity)
		return 0;
	backend = bpf_map_lookup_elem(&lb_backends, &index);
	if (!backend || lb_backend_generation(lb_read_once(backend->word)) != lb_ref_generation(ref))
		return 0;
	return lb_region_has(line, first, index) ? line->head.affinity - age + 1 : 0;
}

/* Backend ref of the client's affinity, 0 if it has none that is good, and the seconds left << 32. */
LB_INLINE __u64 lb_affinity_find(struct lb_affinity_key *key, const struct lb_line *line, __u32 first, bool changes)
{
	struct lb_affinity *a = bpf_map_lookup_elem(&lb_affinities, key);
	__u32 now, left;
	__u64 word;

	if (!a)
		return 0;
	now = lb_affinity_now();
	word = lb_affinity_read(a, lb_affinity_tag(key));
	left = lb_affinity_left(word, line, first, now);
	if (!left)
		return 0;
	/* Sliding, written only when the second is another one. Losing the exchange means that somebody else just did it. */
	if (changes && lb_affinity_age(word, now))
		lb_affinity_swap(a, word, lb_affinity_word(now, word));
	return (__u64)left << 32 | (__u32)word;
}

/* Puts `fresh` where `seen` was, 0 for nothing; returns what is there afterwards. Calls nothing of ours: packet programs have no stack left for it. */
static __noinline __u64 lb_affinity_put(struct lb_affinity_key *key, __u64 seen, __u64 fresh)
{
	__u64 tag = lb_affinity_tag(key), word;
	struct lb_affinity *a;

	if (!seen) {
		struct lb_affinity value = { .tag = tag, .word = fresh, .tag_again = tag };

		if (!bpf_map_update_elem(&lb_affinities, key, &value, BPF_NOEXIST))
			return fresh;
	}
	a = bpf_map_lookup_elem(&lb_affinities, key);
	if (!a)
		return fresh;
	if (seen)
		return lb_affinity_swap(a, seen, fresh);
	word = lb_affinity_read(a, tag);
	return word ? word : fresh;
}

/*
 * Gives the client an affinity to `ref`, or finds the one that it got elsewhere in the meantime: clients that connect for
 * the first time on several CPUs at once agree. Returns the ref to use.
 */
LB_INLINE __u32 lb_affinity_store(struct lb_affinity_key *key, const struct lb_line *line, __u32 first, __u32 ref)
{
	__u32 now = lb_affinity_now();
	__u64 fresh = lb_affinity_word(now, ref), word = lb_affinity_put(key, 0, fresh);

	if (word == fresh || lb_affinity_left(word, line, first, now))
		return word;
	word = lb_affinity_put(key, word, fresh);
	return lb_affinity_left(word, line, first, now) ? (__u32)word : ref;
}

LB_INLINE enum lb_reason lb_select_anew(const struct lb_region *region, const struct lb_flow *f, struct lb_choice *choice,
					const bool changes)
{
	const __u64 *cell;

	choice->affinity_left = 0;
	choice->cell = lb_cell_choose(&region->line->head, f, changes);
	cell = lb_region_word(region->line, region->first, choice->cell);
	if (!cell)
		return LB_REASON_CORRUPT_INDEX;
	return lb_choice_set(choice, lb_cell_current(*cell));
}

LB_INLINE enum lb_reason lb_select_by_affinity(const struct lb_region *region, const struct lb_flow *f,
					       struct lb_choice *choice, const bool changes)
{
	struct lb_affinity_key key = {
		.service = region->line->head.service,
		.family = region->line->head.family,
		.kind = f->client_kind,
		.client = { f->client, f->client_low },
	};
	__u64 found = lb_affinity_find(&key, region->line, region->first, changes);
	enum lb_reason reason;
	__u32 ref;

	if (found) {
		reason = lb_choice_set(choice, lb_ref_index(found));
		choice->cell = 0;
		choice->affinity_left = found >> 32;
		return reason;
	}
	reason = lb_select_anew(region, f, choice, changes);
	if (!changes || reason != LB_REASON_FORWARDED)
		return reason;
	ref = lb_backend_ref(choice->index, lb_backend_generation(choice->word));
	found = lb_affinity_store(&key, region->line, region->first, ref);
	return found == ref ? reason : lb_choice_set(choice, lb_ref_index(found));
}

/* The backend of a new flow. */
LB_INLINE enum lb_reason lb_select(const struct lb_region *region, const struct lb_flow *f, struct lb_choice *choice,
				   const bool changes)
{
	const struct lb_head *head = &region->line->head;

	if (!head->length)
		return lb_region_empty(head);
	if (head->affinity)
		return lb_select_by_affinity(region, f, choice, changes);
	return lb_select_anew(region, f, choice, changes);
}

/* The same for a socket, to which it is enough to know the backend's address and generation. */
LB_INLINE enum lb_reason lb_select_for_socket(const struct lb_region *region, const struct lb_flow *f, struct lb_choice *choice)
{
	const struct lb_head *head = &region->line->head;
	const __u64 *cell;

	if (!(head->flags & LB_REGION_NEAR))
		return lb_select(region, f, choice, true);
	choice->affinity_left = 0;
	choice->cell = lb_cell_choose(head, f, true) % LB_NEAR_CELLS;
	cell = &region->line->cell[choice->cell];
	choice->index = lb_cell_current(*cell);
	choice->word = lb_backend_word(lb_near_port(head, choice->cell), lb_near_generation(*cell), head->service, 0);
	choice->ipv4 = *cell >> 32;
	choice->address = (const __be32 *)region->line->word;
	return choice->index ? LB_REASON_FORWARDED : LB_REASON_CORRUPT_INDEX;
}

#endif
