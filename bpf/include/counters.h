/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting: atomic adds to stripes, as cgroup programs are preempted and maps for each CPU cannot be mapped. */
#ifndef LB_COUNTERS_H
#define LB_COUNTERS_H

#include "abi.h"
#include "maps.h"
#include "reasons.h"

LB_INLINE void lb_count(__u64 *counter)
{
	/* Relaxed and unused, so that no compiler makes it an instruction that fetches. */
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

LB_INLINE __u32 lb_stripe(void)
{
	return bpf_get_smp_processor_id() & lb_stripe_mask;
}

LB_INLINE void lb_count_use(__u32 backend)
{
	__u32 i = lb_stripe() * lb_usage_stride + backend;
	__u64 *counter = bpf_map_lookup_elem(&lb_usage, &i);

	if (counter)
		lb_count(counter);
}

LB_INLINE void lb_count_verdict(enum lb_hook hook, enum lb_reason reason)
{
	__u32 i = lb_stripe(), number = reason;
	struct lb_verdicts *verdicts = bpf_map_lookup_elem(&lb_verdicts, &i);

	if (!verdicts)
		return;
	barrier_var(number); /* or clang, which knows all reasons, drops the bound that the verifier needs */
	lb_count(&verdicts->count[hook][number & (LB_REASON_SPACE - 1)]);
}

LB_INLINE void lb_count_failure(__u32 service)
{
	__u64 *counter = bpf_map_lookup_elem(&lb_failures, &service);

	if (counter)
		lb_count(counter);
}

#endif
