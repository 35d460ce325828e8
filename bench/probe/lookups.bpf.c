// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One lookup with the balancer's own code (bpf/include), of a service at random, checked. Run with BPF_PROG_TEST_RUN on the maps of a
 * pinned balancer while commits change them. Every backend address says what it belongs to, from the lowest bit: 2 bits which of its
 * service's, then the service, then the commit, 24 bits in all, in 11.0.0.0/8 or fd80::/96.
 */
#include "abi.h"
#include "config.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"
#include "reasons.h"
#include "select.h"

#include "lookups.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 service_bits = 7;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOOKUPS_THREADS);
	__type(key, __u32);
	__type(value, struct lookups_count);
} lookups_counts SEC(".maps");

LB_INLINE __u32 next_random(struct lookups_count *count)
{
	__u32 x = count->random;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return count->random = x;
}

LB_INLINE void describe(struct lb_flow *flow, __u32 service, bool six)
{
	*flow = (struct lb_flow){.port = bpf_htons(80), .protocol = LB_IPPROTO_TCP, .scope = 0};
	if (six) {
		flow->family = LB_IPV6;
		flow->address[0] = bpf_htonl(0xfd960000);
		flow->address[3] = bpf_htonl(service);
	} else {
		flow->family = LB_IPV4;
		flow->address[0] = bpf_htonl(0x0a600000 + service);
	}
}

/* The 24 bits that say what it belongs to, or -1. */
LB_INLINE __u32 meaning(const struct lb_choice *choice, bool six)
{
	__u32 last = bpf_ntohl(six ? choice->address[3] : choice->ipv4);

	if (lb_backend_port(choice->word) != bpf_htons(8080))
		return -1;
	if (six)
		return choice->address[0] == bpf_htonl(0xfd800000) && !(last >> 24) ? last : -1;
	return last >> 24 == 11 ? last & 0xffffff : -1;
}

SEC("tc")
int check_lookup(struct __sk_buff *skb)
{
	__u32 *thread = (void *)(long)skb->data, bits, service, commit, half = 1u << (21 - service_bits);
	struct lookups_count *count;
	struct lb_region region = {};
	struct lb_choice choice = {};
	struct lb_flow flow;
	bool six;

	if ((void *)(thread + 1) > (void *)(long)skb->data_end)
		return -1;
	count = bpf_map_lookup_elem(&lookups_counts, thread);
	if (!count)
		return -1;
	/* With the result, so that it also keeps this lookup behind the one before. */
	six = __sync_fetch_and_add(&count->lookups, 1) & 1;
	service = next_random(count) & ((1u << service_bits) - 1);
	describe(&flow, service, six);
	if (lb_frontend_find(&flow, &region) != LB_REASON_FORWARDED || lb_select_for_socket(&region, &flow, &choice) != LB_REASON_FORWARDED) {
		count->missed++;
		return 0;
	}
	bits = meaning(&choice, six);
	if (bits == (__u32)-1 || ((bits >> 2) & ((1u << service_bits) - 1)) != service) {
		count->foreign++;
		return 0;
	}
	commit = bits >> (2 + service_bits);
	if (((commit - count->newest) & (2 * half - 1)) >= half)
		count->backwards++;
	else
		count->newest = commit;
	return 0;
}
