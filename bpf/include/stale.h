/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which records of connected sockets are out of date. */
#ifndef LB_STALE_H
#define LB_STALE_H

#include "abi.h"
#include "kernel.h"
#include "maps.h"
#include "removed.h"

/*
 * Why the backend of a record serves its socket no more, 0 if it does. TCP goes on with a backend that takes no flows, and with
 * one that is removed unless its service says that it ends then.
 */
LB_INLINE __u32 lb_record_stale(const struct lb_record *r)
{
	__u32 ref = r->backend_ref, index = lb_ref_index(ref);
	struct lb_backend *backend;
	__u64 word;

	if (!ref)
		return 0;
	backend = bpf_map_lookup_elem(&lb_backends, &index);
	if (!backend)
		return 0;
	word = lb_read_once(backend->word);
	if (lb_backend_generation(word) != lb_ref_generation(ref) || !(lb_backend_flags(word) & LB_BACKEND_LIVE))
		return r->protocol == LB_IPPROTO_UDP || (r->more && lb_reset_is_due(ref)) ? LB_STALE_REMOVED : 0;
	if (r->protocol == LB_IPPROTO_UDP && !(lb_backend_flags(word) & LB_BACKEND_EXISTING))
		return LB_STALE_MOVED_OFF;
	return 0;
}

/*
 * Is the socket connected to the record's backend? A record of a connect that failed, or of an earlier one, says nothing. A
 * closed one that only waits to be freed has no struct socket.
 */
LB_INLINE bool lb_record_is_peers(const struct lb_record *r, const struct sock *sk)
{
	if (!sk->sk_socket || sk->__sk_common.skc_dport != r->backend_port)
		return false;
	if (r->family == LB_IPV4)
		return sk->__sk_common.skc_daddr == r->backend[0];
	return sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[0] == r->backend[0] &&
	       sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[1] == r->backend[1] &&
	       sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[2] == r->backend[2] &&
	       sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[3] == r->backend[3];
}

#endif
