/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a flow to a cell: what each hashing algorithm hashes, and how a hash becomes an index. */
#ifndef LB_HASH_H
#define LB_HASH_H

#include "abi.h"
#include "flow.h"

/* Even over any length, without a division. */
LB_INLINE __u32 lb_hash_scale(__u32 hash, __u32 length)
{
	return (__u64)hash * length >> 32;
}

LB_INLINE __u32 lb_hash_client(const struct lb_flow *f)
{
	return lb_mix64(f->client ^ f->client_low * 0x9e3779b97f4a7c15ull);
}

/* One socket always gets the same backend of a service: client, destination, and a number of the socket. */
LB_INLINE __u32 lb_hash_flow(const struct lb_flow *f)
{
	__u64 x = (__u64)f->address[0] << 32 | (__u32)f->port << 16 | (__u32)f->protocol << 8 | f->scope;

	if (f->family == LB_IPV6)
		x = lb_mix64(x ^ ((__u64)f->address[1] << 32 | f->address[2])) ^ f->address[3];
	return lb_mix64(x ^ lb_mix64(f->client ^ f->client_low * 0x9e3779b97f4a7c15ull ^ lb_mix64(f->socket)));
}

/* What an algorithm whose cells last hashes; with affinity maglev knows the client alone. */
LB_INLINE __u32 lb_hash_of(__u8 algorithm, __u32 affinity, const struct lb_flow *f)
{
	return algorithm == LB_MAGLEV && !affinity ? lb_hash_flow(f) : lb_hash_client(f);
}

#endif
