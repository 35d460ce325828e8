/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket remembers of its connect(): in its storage, or for TCP in a set of peers. The kernel holds the socket's lock
 * around every hook that comes here, so hooks of one socket never run at once (release has the socket for itself). Only the
 * sweep reads records meanwhile, and it looks at backend_ref, which is 0 while a record is written.
 *
 * Nested cgroups: the kernel runs the programs of the inner cgroup first, in the same call, and each of ours replaces or
 * clears the socket's record whenever it runs. So a record of another attachment that is live was written in this very call,
 * and the address that we see is the backend that it chose. What is left are records of an attachment that runs no more for
 * this socket: one that was detached is not live; one that covers the socket's namespace no more clears its own records; one
 * that was detached and whose id was given to another cgroup's is told by the address, which is not the record's backend.
 * (UDP compares it, as its record outlives a connect that is refused; a way of TCP has 8 bits of it.)
 */
#ifndef LB_SOCKETS_H
#define LB_SOCKETS_H

#include "abi.h"
#include "context.h"
#include "flow.h"
#include "maps.h"
#include "peers.h"
#include "select.h"

/* The socket's storage if it has one. */
LB_INLINE struct lb_socket *lb_socket_seen(struct bpf_sock_addr *ctx)
{
	if (lb_can_cast) {
		struct bpf_sock_addr_kern *kernel = lb_kernel_context(ctx);

		if (!kernel->sk->sk_bpf_storage)
			return NULL;
	}
	return bpf_sk_storage_get(&lb_sockets, ctx->sk, NULL, 0);
}

LB_INLINE struct lb_socket *lb_socket_make(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&lb_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

/* Another attachment's, and that one still runs. */
LB_INLINE bool lb_attachment_is_other(__u32 id)
{
	struct lb_control *control;
	__u32 zero = 0;

	if (id == lb_attachment)
		return false;
	control = bpf_map_lookup_elem(&lb_control, &zero);
	return control && lb_read_once(control->attachments) >> (id & 63) & 1;
}

/* Is this the backend that the record says? Only then the record says anything about the address. */
LB_INLINE bool lb_record_is_of(const struct lb_record *r, const struct lb_flow *f)
{
	return r->backend_ref && r->backend_port == f->port && r->family == f->family &&
	       lb_address_equal(r->backend, f->address, f->family);
}

LB_INLINE bool lb_record_is_others(const struct lb_record *r, const struct lb_flow *f)
{
	return lb_record_is_of(r, f) && lb_attachment_is_other(r->attachment);
}

LB_INLINE void lb_record_write(struct lb_record *r, struct bpf_sock_addr *ctx, const struct lb_flow *f,
			       const struct lb_choice *choice)
{
	lb_write_once(r->backend_ref, 0);
	lb_address_copy(r->service, f->address);
	r->service_port = f->port;
	r->backend[0] = choice->ipv4;
	r->backend[1] = r->backend[2] = r->backend[3] = 0;
	if (f->family == LB_IPV6)
		lb_address_copy(r->backend, choice->address);
	r->backend_port = lb_backend_port(choice->word);
	r->family = f->family;
	r->attachment = lb_attachment;
	r->protocol = f->protocol;
	if (!r->cookie) {
		r->cookie = bpf_get_socket_cookie(ctx);
		r->tgid = bpf_get_current_pid_tgid() >> 32;
	}
	lb_write_once(r->backend_ref, lb_backend_ref(choice->index, lb_backend_generation(choice->word)));
}

/* ---- TCP: a way of a set, or the storage where there is none ---------------------------------------------------- */

/* The socket's way, NULL if it has none. */
LB_INLINE const struct lb_peer4 *lb_peer_find(struct bpf_sock_addr *ctx, __u8 family, __u64 cookie)
{
	__u32 hash = lb_socket_hash(ctx->sk);
	int way = -1;

	if (family == LB_IPV4) {
		struct lb_peer_set4 *set = lb_peers4_of(hash);

		if (set)
			way = lb_way_find(set->cookie, cookie);
		return set && way >= 0 && way < LB_SET_WAYS ? &set->peer[way] : NULL;
	}
	struct lb_peer_set6 *set = lb_peers6_of(hash);

	if (set)
		way = lb_way_find(set->cookie, cookie);
	return set && way >= 0 && way < LB_SET_WAYS ? &set->peer[way] : NULL;
}

LB_INLINE bool lb_peer_is_others(const struct lb_peer4 *peer, const struct lb_flow *f)
{
	return peer->check == lb_peer_check(lb_address_fold(f->address), f->port) && lb_attachment_is_other(peer->attachment);
}

LB_INLINE bool lb_peer_remember(struct bpf_sock_addr *ctx, const struct lb_flow *f, const struct lb_choice *choice,
				__u64 cookie_seen)
{
	__u8 check = lb_peer_check(f->family == LB_IPV4 ? choice->ipv4 : lb_address_fold(choice->address), lb_backend_port(choice->word));
	__u64 cookie = cookie_seen ? cookie_seen : bpf_get_socket_cookie(ctx);
	__u32 hash = lb_socket_hash(ctx->sk);

	if (f->family == LB_IPV4) {
		struct lb_peer_set4 *set = lb_peers4_of(hash);

		return set && lb_peer4_put(set, cookie, cookie_seen, f, check);
	}
	struct lb_peer_set6 *set = lb_peers6_of(hash);

	return set && lb_peer6_put(set, cookie, cookie_seen, f, check);
}

LB_INLINE void lb_peer_clear(struct bpf_sock_addr *ctx, __u8 family, __u64 cookie)
{
	__u32 hash = lb_socket_hash(ctx->sk);

	if (family == LB_IPV4) {
		struct lb_peer_set4 *set = lb_peers4_of(hash);

		if (set)
			lb_way_clear(set->cookie, cookie);
		return;
	}
	struct lb_peer_set6 *set = lb_peers6_of(hash);

	if (set)
		lb_way_clear(set->cookie, cookie);
}

/* ---- either --------------------------------------------------------------------------------------------------------- */

/* What is known of the socket before the call: looked up once, as each look costs. */
struct lb_memory {
	struct lb_socket *socket; /* UDP, and TCP that has a cookie */
	__u64 cookie;             /* TCP */
};

/* Fills in the memory; true if an inner cgroup's attachment has translated this call already. */
LB_INLINE bool lb_memory_read(struct bpf_sock_addr *ctx, const struct lb_flow *f, struct lb_memory *memory)
{
	const struct lb_peer4 *peer;

	memory->socket = NULL;
	memory->cookie = 0;
	if (f->protocol == LB_IPPROTO_TCP) {
		memory->cookie = lb_context_cookie_seen(ctx);
		if (!memory->cookie)
			return false;
		peer = lb_peer_find(ctx, f->family, memory->cookie);
		if (peer && lb_peer_is_others(peer, f))
			return true;
	}
	memory->socket = lb_socket_seen(ctx);
	return memory->socket && lb_record_is_others(&memory->socket->record, f);
}

/* Remembers what the socket connects to; false when there is no memory. */
LB_INLINE bool lb_memory_write(struct bpf_sock_addr *ctx, const struct lb_flow *f, const struct lb_choice *choice,
			       struct lb_memory *memory, const struct lb_head *head)
{
	struct lb_socket *socket = memory->socket;

	if (f->protocol == LB_IPPROTO_TCP) {
		if (!(head->flags & LB_REGION_TRACK) && !lb_context_is_kernels(ctx) &&
		    lb_peer_remember(ctx, f, choice, memory->cookie)) {
			if (socket)
				lb_write_once(socket->record.backend_ref, 0);
			return true;
		}
		if (memory->cookie) /* of an earlier connect, which failed */
			lb_peer_clear(ctx, f->family, memory->cookie);
	}
	if (!socket)
		socket = lb_socket_make(ctx);
	if (!socket)
		return false;
	if (f->protocol == LB_IPPROTO_TCP)
		socket->record.more = !!(head->flags & LB_REGION_TRACK);
	lb_record_write(&socket->record, ctx, f, choice);
	return true;
}

/* The socket connects to what is no service: what it was connected to before counts no more. */
LB_INLINE void lb_memory_clear(struct bpf_sock_addr *ctx, const struct lb_flow *f, const struct lb_memory *memory)
{
	if (memory->cookie)
		lb_peer_clear(ctx, f->family, memory->cookie);
	if (memory->socket)
		lb_write_once(memory->socket->record.backend_ref, 0);
}

/* The attachment does not cover the socket's namespace; if it once did, what it left must not look like another's. */
static __noinline void lb_memory_disown(struct bpf_sock_addr *ctx, __u32 protocol, __u32 family)
{
	struct lb_socket *socket = lb_socket_seen(ctx);
	__u64 cookie = protocol == LB_IPPROTO_TCP ? lb_context_cookie_seen(ctx) : 0;

	if (cookie) {
		const struct lb_peer4 *peer = lb_peer_find(ctx, family, cookie);

		if (peer && peer->attachment == lb_attachment)
			lb_peer_clear(ctx, family, cookie);
	}
	if (!socket)
		return;
	if (socket->record.attachment == lb_attachment)
		lb_write_once(socket->record.backend_ref, 0);
	if (socket->sender == lb_attachment + 1)
		socket->sender = 0;
}

#endif
