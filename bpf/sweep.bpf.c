// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What is left of things that are gone. lb_sweep finds the sockets whose backend serves them no more, in every network
 * namespace: an iterator over lb_sockets, what is read from it is one struct lb_stale after another. lb_mark_ways and
 * lb_free_ways, which are never attached, give back the ways of sockets that outlived their attachment.
 */
#include "abi.h"
#include "config.h"
#include "kernel.h"
#include "maps.h"
#include "peers.h"
#include "stale.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("iter/bpf_sk_storage_map")
int lb_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct lb_stale stale = {};
	struct sock *sk = ctx->sk;
	const struct lb_socket *socket = ctx->value;

	if (!sk || !socket)
		return 0;
	/* A hook may be writing the record: it is whole if backend_ref, 0 meanwhile, is the same before and after. */
	stale.record.backend_ref = lb_read_once(socket->record.backend_ref);
	if (!stale.record.backend_ref)
		return 0;
	stale.record = socket->record;
	stale.reason = lb_record_stale(&stale.record);
	if (!stale.reason || !lb_record_is_peers(&stale.record, sk) ||
	    lb_read_once(socket->record.backend_ref) != stale.record.backend_ref)
		return 0;
	stale.netns = sk->__sk_common.skc_net.net->ns.inum;
	/* Without room the kernel asks again for this socket. */
	return bpf_seq_write(ctx->meta->seq, &stale, sizeof(stale)) ? 1 : 0;
}

/* ---- ways of dead attachments ---------------------------------------------------------------------------------------- */

LB_INLINE bool lb_way_is_dead(const struct lb_peer4 *peer)
{
	__u8 id = *(const volatile __u8 *)&peer->attachment;
	struct lb_control *control;
	__u32 zero = 0;

	control = bpf_map_lookup_elem(&lb_control, &zero);
	return control && !(lb_read_once(control->attachments) >> (id & 63) & 1);
}

/* Before 5.12 the lock keeps other sockets from claiming meanwhile; the way's own socket takes none. */
LB_INLINE bool lb_way_replace(__u64 *cookie, __u64 before, __u64 after)
{
#if LB_LEGACY
	if (lb_read_once(*cookie) != before)
		return false;
	lb_write_once(*cookie, after);
	return true;
#else
	return __sync_val_compare_and_swap(cookie, before, after) == before;
#endif
}

/*
 * A marked way is found by nobody, and claimed by nobody. A program of its socket that had found it before either ends its
 * attachment's death by writing it anew, or frees it; when every such program has ended, what is still marked can be freed.
 */
LB_INLINE __u32 lb_ways_mark(__u64 *cookies, const struct lb_peer4 *peers)
{
	__u32 marked = 0;

#pragma unroll
	for (int i = 0; i < LB_SET_WAYS; i++) {
		__u64 cookie = lb_read_once(cookies[i]);

		if (!cookie || cookie & (LB_WAY_BUSY | LB_WAY_DEAD) || !lb_way_is_dead(&peers[i]) ||
		    !lb_way_replace(&cookies[i], cookie, cookie | LB_WAY_DEAD))
			continue;
		if (lb_way_is_dead(&peers[i]))
			marked++;
		else /* it was written anew between the two looks */
			lb_way_replace(&cookies[i], cookie | LB_WAY_DEAD, cookie);
	}
	return marked;
}

LB_INLINE __u32 lb_ways_free(__u64 *cookies)
{
	__u32 freed = 0;

#pragma unroll
	for (int i = 0; i < LB_SET_WAYS; i++) {
		__u64 cookie = lb_read_once(cookies[i]);

		if (cookie & LB_WAY_DEAD && lb_way_replace(&cookies[i], cookie, 0))
			freed++;
	}
	return freed;
}

LB_INLINE int lb_ways_step(struct __sk_buff *skb, const bool mark)
{
	struct lb_ways_task *task = (void *)(long)skb->data;
	struct lb_peer_set4 *set4 = NULL;
	struct lb_peer_set6 *set6 = NULL;
	__u32 set;

	if ((void *)(task + 1) > (void *)(long)skb->data_end)
		return -1;
	set = task->set++;
	if (task->family == LB_IPV4)
		set4 = bpf_map_lookup_elem(&lb_peers4, &set);
	else
		set6 = bpf_map_lookup_elem(&lb_peers6, &set);
	if (set4)
		task->changed += mark ? lb_ways_mark(set4->cookie, set4->peer) : lb_ways_free(set4->cookie);
	if (set6)
		task->changed += mark ? lb_ways_mark(set6->cookie, set6->peer) : lb_ways_free(set6->cookie);
	return 0;
}

SEC("tc")
int lb_mark_ways(struct __sk_buff *skb)
{
	return lb_ways_step(skb, true);
}

SEC("tc")
int lb_free_ways(struct __sk_buff *skb)
{
	return lb_ways_step(skb, false);
}
