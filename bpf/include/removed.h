/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which connections end because their backend was removed. */
#ifndef LB_REMOVED_H
#define LB_REMOVED_H

#include "abi.h"
#include "kernel.h"
#include "maps.h"

LB_INLINE bool lb_backend_is_gone(__u32 ref)
{
	__u32 index = lb_ref_index(ref);
	const struct lb_backend *backend = bpf_map_lookup_elem(&lb_backends, &index);
	__u64 word;

	if (!backend)
		return false;
	word = lb_read_once(backend->word);
	return lb_backend_generation(word) != lb_ref_generation(ref) || !(lb_backend_flags(word) & LB_BACKEND_LIVE);
}

/* Of a connection that is tracked, and a backend that is gone: is it time? */
LB_INLINE bool lb_reset_is_due(__u32 ref)
{
	__u32 index = lb_ref_index(ref), now = bpf_ktime_get_ns() / 1000000000ull;
	__u64 *word = bpf_map_lookup_elem(&lb_resets, &index), reset;

	if (!word)
		return false;
	reset = lb_read_once(*word);
	return lb_reset_ref(reset) == ref && (__s32)(now - lb_reset_seconds(reset)) >= 0;
}

#endif
