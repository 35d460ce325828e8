/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the routing table answered about a destination: device, MAC addresses, MTU. [bpf_fib_lookup was a third of what an XDP packet cost.]
 * Each CPU has entries of its own, so that nobody else writes what is read; packet programs of a CPU are never interrupted by one another.
 *
 * An entry counts for a quarter of a second, so a way that has ended is used no longer than that whoever notices; the controller, which
 * hears of changes from the kernel, ends all entries at once by raising lb_node.routes. Only ways that lead out are remembered: a neighbour
 * that is not known, and a packet that is too long, is asked about each time.
 *
 * The answer may depend on more than the destination: on the source (rules, IPv6 routes with a source) or on the flow (several next hops).
 * What DSR wraps has an outer header that is the same for all flows to a backend. Of other packets only the controller can say that nothing
 * else counts: it renews lb_node.routes_until as long as it sees no such rule or route.
 */
#ifndef LB_NEXT_HOP_H
#define LB_NEXT_HOP_H

#include "config.h"
#include "connections.h"
#include "packet_maps.h"

const volatile __u32 lb_next_hop_mask = 511; /* entries for each CPU, less 1 */
const volatile __u32 lb_next_hop_jiffies = 25; /* for which an entry counts */

/* What is asked about, beside the length. */
struct lb_way_key {
	const __be32 *destination;
	__u32 arrived; /* device */
	__u32 asked;
	__u8 family; /* enum lb_family */
};

/* `wrapped`: in an outer header that is the same for all flows to the destination. */
LB_INLINE __u32 lb_way_asked(__u8 family, __u8 tos, bool wrapped)
{
	return family | (__u32)tos << 8 | (__u32)wrapped << 16 | lb_attachment << 24;
}

/* Backends' places follow from their indices, which are dense: they do not get into each other's way. */
LB_INLINE __u32 lb_way_place_of(const __be32 *destination)
{
	__u32 x = destination[0] ^ destination[1] ^ destination[2] ^ destination[3];

	return x * 0x9e3779b1u >> 16;
}

LB_INLINE struct lb_next_hop *lb_next_hop_at(__u32 place)
{
	__u32 i = bpf_get_smp_processor_id() * (lb_next_hop_mask + 1) + (place & lb_next_hop_mask);

	return bpf_map_lookup_elem(&lb_next_hops, &i);
}

/* Is this the way for a packet of that length? */
LB_INLINE bool lb_next_hop_serves(const struct lb_next_hop *hop, const struct lb_way_key *key, __u32 routes, __u32 length)
{
	return hop->asked == key->asked && hop->arrived == key->arrived && hop->routes == routes && length <= hop->mtu &&
	       lb_address_equal(hop->destination, key->destination, key->family) && bpf_jiffies64() - hop->at < lb_next_hop_jiffies;
}

/* The kernel said so when lb_node.routes was `routes`. */
LB_INLINE void lb_next_hop_keep(struct lb_next_hop *hop, const struct lb_way_key *key, __u32 routes, const struct bpf_fib_lookup *fib)
{
	lb_address_copy(hop->destination, key->destination);
	hop->arrived = key->arrived;
	hop->asked = key->asked;
	hop->routes = routes;
	hop->mtu = fib->mtu_result;
	hop->at = bpf_jiffies64();
	hop->device = fib->ifindex;
	__builtin_memcpy(hop->link, fib->dmac, 6);
	__builtin_memcpy((__u8 *)hop->link + 6, fib->smac, 6);
}

#endif
