/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Affinity: the backend that a client had. What decides is one word beside two tags of the key: the hash may give the
 * element to another key at any time. The word is read before the tags, so whichever way the hash copies, a word of
 * another key comes with a tag of another key.
 */
#ifndef LB_AFFINITY_H
#define LB_AFFINITY_H

#include "abi.h"
#include "maps.h"

#define LB_NANOSECONDS 1000000000ull

LB_INLINE __u64 lb_affinity_word(__u32 seconds, __u32 backend_ref)
{
	return (__u64)seconds << 32 | backend_ref;
}

/* Time that a machine spends suspended counts. */
LB_INLINE __u32 lb_affinity_now(void)
{
	return bpf_ktime_get_boot_ns() / LB_NANOSECONDS;
}

LB_INLINE __u32 lb_affinity_age(__u64 word, __u32 now)
{
	__u32 then = word >> 32;

	/* Another CPU may have written a second that we have not reached. */
	return (__s32)(now - then) < 0 ? 0 : now - then;
}

/* 0: the element is another key's by now. A word is never 0. */
LB_INLINE __u64 lb_affinity_read(const struct lb_affinity *a, __u64 tag)
{
	__u64 word = lb_read_once(a->word);

	a = lb_address_after(a, word);
	return lb_read_once(a->tag) == tag && lb_read_once(a->tag_again) == tag ? word : 0;
}

/*
 * Puts `new` where `old` was; returns what is there afterwards. On 5.10 there is no compare-and-exchange: of two first
 * connects at once both write, and the one that wrote first goes to a backend that the next connect will not choose.
 */
LB_INLINE __u64 lb_affinity_swap(struct lb_affinity *a, __u64 old, __u64 new)
{
#if LB_LEGACY
	lb_write_once(a->word, new);
	return new;
#else
	__u64 found = __sync_val_compare_and_swap(&a->word, old, new);

	return found == old ? new : found;
#endif
}

#endif
