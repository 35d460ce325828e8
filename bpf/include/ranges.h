/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ranges of addresses, and what they say of addresses that are no frontends. */
#ifndef LB_RANGES_H
#define LB_RANGES_H

#include "abi.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"
#include "reasons.h"

LB_INLINE bool lb_in_ranges(__u32 set, const __be32 *address, __u8 family)
{
	if (family == LB_IPV4) {
		struct lb_range4 key = { .prefix = 64, .set = set, .address = address[0] };

		return bpf_map_lookup_elem(&lb_ranges4, &key);
	}
	struct lb_range6 key = { .prefix = 160, .set = set };

	lb_address_copy(key.address, address);
	return bpf_map_lookup_elem(&lb_ranges6, &key);
}

LB_INLINE bool lb_is_held(const struct lb_flow *f)
{
	struct lb_peer6 key = { .address = { 0, 0, bpf_htonl(0xffff), f->address[0] } };

	if (f->family == LB_IPV6)
		lb_address_copy(key.address, f->address);
	return bpf_map_lookup_elem(&lb_held, &key);
}

/* Is there such a frontend for those who are inside? From outside cluster addresses are passed on. */
static __noinline bool lb_is_frontend_inside(struct lb_flow *f)
{
	const __u8 scope = f->scope;
	struct lb_slot *slot;
	__u32 index;

	f->scope = LB_SCOPE_INTERNAL;
	index = lb_frontend_lookup(f, &slot);
	f->scope = scope;
	return index && lb_slot_kind(lb_slot_read(slot)) == LB_SLOT_FINAL;
}

/*
 * What becomes of what is for no frontend: addresses of the service ranges are nobody else's. LB_REASON_NOT_A_SERVICE: it goes on as it is. `f` is as it was
 * afterwards.
 */
LB_INLINE enum lb_reason lb_outside_services(struct lb_flow *f)
{
	__u32 zero = 0, set;
	struct lb_control *control = bpf_map_lookup_elem(&lb_control, &zero);

	set = control ? lb_read_once(control->service_ranges) : 0;
	if (!set || !lb_in_ranges(set, f->address, f->family))
		return LB_REASON_NOT_A_SERVICE;
	if (!lb_is_held(f))
		return LB_REASON_NO_SUCH_SERVICE;
	return f->scope == LB_SCOPE_EXTERNAL && lb_is_frontend_inside(f) ? LB_REASON_NOT_A_SERVICE : LB_REASON_NO_SUCH_PORT;
}

#endif
