/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Random numbers for choices: splitmix64, one sequence for each CPU. [bpf_get_prandom_u32 took 34 ns of a connect's 150, more
 * than anything else there: two calls, on a machine where each return is guarded. This takes 1.]
 */
#ifndef LB_RANDOM_H
#define LB_RANDOM_H

#include "abi.h"
#include "kernel.h"

#define LB_SEQUENCES 128 /* CPUs beyond share them; each has a cache line of its own */
static __u64 lb_sequence[LB_SEQUENCES][8];

/*
 * No atomic step: a program that is preempted here, or a CPU that shares the sequence, may draw the same number, which harms
 * no choice. The first draw starts the sequence, so that the first choices of many nodes do not agree.
 */
LB_INLINE __u32 lb_random(void)
{
	__u64 *sequence = &lb_sequence[bpf_get_smp_processor_id() % LB_SEQUENCES][0];
	__u64 x = lb_read_once(*sequence);

	if (!x)
		x = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	lb_write_once(*sequence, x + 0x9e3779b97f4a7c15ull);
	return lb_mix64(x);
}

#endif
