/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What TCP sockets were connected to, for getpeername. Sets of ways, chosen by the socket's own address: sockets are reused
 * last in, first out, so the lines stay warm. A way belongs to the socket whose cookie it holds; only that socket's hooks
 * look at it, one at a time (connect and getpeername hold the socket's lock, release is the last). Sockets compete for
 * free ways alone: compare-and-exchange, or a lock on kernels before 5.12.
 */
#ifndef LB_PEERS_H
#define LB_PEERS_H

#include "abi.h"
#include "flow.h"
#include "maps.h"

/* A hash of a socket's address. The copy of half a pointer is a number to the verifier. */
LB_INLINE __u32 lb_socket_hash(const void *sk)
{
	__u32 low;

	asm volatile("%0 = %1" : "=w"(low) : "w"((__u32)(unsigned long)sk));
	return low * 0x9e3779b1u >> 10;
}

LB_INLINE struct lb_peer_set4 *lb_peers4_of(__u32 hash)
{
	__u32 i = hash & lb_peer4_mask;

	return bpf_map_lookup_elem(&lb_peers4, &i);
}

LB_INLINE struct lb_peer_set6 *lb_peers6_of(__u32 hash)
{
	__u32 i = hash & lb_peer6_mask;

	return bpf_map_lookup_elem(&lb_peers6, &i);
}

/* Eight bits of a backend's address. */
LB_INLINE __u8 lb_peer_check(__be32 folded, __be16 port)
{
	return ((folded ^ port) * 0x9e3779b1u) >> 24;
}

/* The way that has this cookie, -1 if none. */
LB_INLINE int lb_way_find(const __u64 *cookies, __u64 cookie)
{
#pragma unroll
	for (int i = 0; i < LB_SET_WAYS; i++)
		if (lb_read_once(cookies[i]) == cookie)
			return i;
	return -1;
}

/* Takes a free way, -1 if there is none. The address is written while the way says BUSY: for readers in user space. */
#if LB_LEGACY
#define lb_way_claim(set, owner)                                         \
	({                                                               \
		int way_ = -1;                                           \
		bpf_spin_lock(&(set)->lock);                             \
		for (int i_ = LB_SET_WAYS - 1; i_ >= 0; i_--)            \
			if (!(set)->cookie[i_])                          \
				way_ = i_;                               \
		if (way_ >= 0 && way_ < LB_SET_WAYS)                     \
			(set)->cookie[way_] = (owner) | LB_WAY_BUSY;     \
		bpf_spin_unlock(&(set)->lock);                           \
		way_;                                                    \
	})
#else
LB_INLINE int lb_way_claim_from(__u64 *cookies, __u64 owner)
{
#pragma unroll
	for (int i = 0; i < LB_SET_WAYS; i++)
		if (!lb_read_once(cookies[i]) && !__sync_val_compare_and_swap(&cookies[i], 0, owner | LB_WAY_BUSY))
			return i;
	return -1;
}
#define lb_way_claim(set, owner) lb_way_claim_from((set)->cookie, owner)
#endif

/* Remembers the service that the socket connects to; false when the set is full. `seen`: it may have a way already. */
LB_INLINE bool lb_peer4_put(struct lb_peer_set4 *set, __u64 cookie, bool seen, const struct lb_flow *f, __u8 check)
{
	struct lb_peer4 peer = { .address = f->address[0], .port = f->port, .attachment = lb_attachment, .check = check };
	int way = seen ? lb_way_find(set->cookie, cookie) : -1;

	if (way < 0)
		way = lb_way_claim(set, cookie);
	if (way < 0 || way >= LB_SET_WAYS)
		return false;
	lb_write_once(set->cookie[way], cookie | LB_WAY_BUSY);
	set->peer[way] = peer;
	lb_write_once(set->cookie[way], cookie);
	return true;
}

LB_INLINE bool lb_peer6_put(struct lb_peer_set6 *set, __u64 cookie, bool seen, const struct lb_flow *f, __u8 check)
{
	struct lb_peer4 peer = { .port = f->port, .attachment = lb_attachment, .check = check };
	int way = seen ? lb_way_find(set->cookie, cookie) : -1;

	if (way < 0)
		way = lb_way_claim(set, cookie);
	if (way < 0 || way >= LB_SET_WAYS)
		return false;
	lb_write_once(set->cookie[way], cookie | LB_WAY_BUSY);
	set->peer[way] = peer;
	lb_address_copy(set->address[way].address, f->address);
	lb_write_once(set->cookie[way], cookie);
	return true;
}

/* Gives the socket's way back. */
LB_INLINE void lb_way_clear(__u64 *cookies, __u64 cookie)
{
	int way = lb_way_find(cookies, cookie);

	if (way >= 0 && way < LB_SET_WAYS)
		lb_write_once(cookies[way], 0);
}

#endif
