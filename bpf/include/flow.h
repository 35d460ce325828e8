/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One address type for IPv4 and IPv6, and the tuple that a choice depends on. No context is known here; the controller hashes flows, too. */
#ifndef LB_FLOW_H
#define LB_FLOW_H

#include "abi.h"

#include <stdbool.h>

struct lb_flow {
	__be32 address[4]; /* destination; IPv4: address[0], the rest 0. An IPv4-mapped IPv6 address is IPv4 */
	__be16 port;
	__u8 protocol;
	__u8 family; /* enum lb_family */
	__u8 scope;  /* enum lb_scope */
	__u8 client_kind; /* enum lb_client_kind; with what follows filled in only when lb_region_wants() says so */
	__u64 client;     /* namespace cookie, or the source address: IPv4, or the first half */
	__u64 client_low; /* second half of an IPv6 address, else 0 */
	__u64 socket;     /* number of the socket, or the source port */
};

LB_INLINE bool lb_address_equal(const __be32 *a, const __be32 *b, __u8 family)
{
	if (family == LB_IPV4)
		return a[0] == b[0];
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

LB_INLINE __be32 lb_address_fold(const __be32 *a)
{
	return a[0] ^ a[1] ^ a[2] ^ a[3];
}

/* The client of a packet: its source address. */
LB_INLINE void lb_flow_set_client(struct lb_flow *f, const __be32 *source)
{
	f->client_kind = LB_CLIENT_ADDRESS;
	f->client = source[0];
	f->client_low = 0;
	if (f->family == LB_IPV6) {
		f->client |= (__u64)source[1] << 32;
		f->client_low = (__u64)source[3] << 32 | source[2];
	}
}

LB_INLINE void lb_address_copy(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

#endif
