/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket hook is called with. `six` says whether the address of this hook is an IPv6 one; an IPv4-mapped one is read
 * as IPv4 and written as it came.
 */
#ifndef LB_CONTEXT_H
#define LB_CONTEXT_H

#include "abi.h"
#include "config.h"
#include "flow.h"
#include "kernel.h"
#include "maps.h"

/* The address of the call, as the destination of a flow. */
LB_INLINE void lb_context_read(struct bpf_sock_addr *ctx, const bool six, struct lb_flow *f)
{
	f->protocol = ctx->protocol;
	f->port = ctx->user_port;
	f->scope = LB_SCOPE_INTERNAL;
	f->family = LB_IPV4;
	f->address[1] = f->address[2] = f->address[3] = 0;
	if (!six) {
		f->address[0] = ctx->user_ip4;
		return;
	}
	f->address[0] = ctx->user_ip6[0];
	f->address[1] = ctx->user_ip6[1];
	f->address[2] = ctx->user_ip6[2];
	f->address[3] = ctx->user_ip6[3];
	if (f->address[0] || f->address[1] || f->address[2] != bpf_htonl(0xffff)) {
		f->family = LB_IPV6;
		return;
	}
	f->address[0] = f->address[3];
	f->address[2] = f->address[3] = 0;
}

/* Replaces the address by one of the same family. */
LB_INLINE void lb_context_write(struct bpf_sock_addr *ctx, const bool six, __u8 family, const __be32 *address, __be16 port)
{
	ctx->user_port = port;
	if (!six) {
		ctx->user_ip4 = address[0];
	} else if (family == LB_IPV4) {
		ctx->user_ip6[3] = address[0];
	} else {
		ctx->user_ip6[0] = address[0];
		ctx->user_ip6[1] = address[1];
		ctx->user_ip6[2] = address[2];
		ctx->user_ip6[3] = address[3];
	}
}

/* Is this the address that the socket is connected to? */
LB_INLINE bool lb_context_is_peer(struct bpf_sock_addr *ctx, const struct lb_flow *f)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || sk->dst_port != f->port)
		return false;
	if (f->family == LB_IPV4)
		return sk->dst_ip4 == f->address[0];
	return sk->dst_ip6[0] == f->address[0] && sk->dst_ip6[1] == f->address[1] && sk->dst_ip6[2] == f->address[2] &&
	       sk->dst_ip6[3] == f->address[3];
}

/* Does the attachment cover this socket's network namespace? */
LB_INLINE bool lb_context_covered(struct bpf_sock_addr *ctx)
{
	if (lb_all_namespaces)
		return true;

	struct lb_netns_key key = { .cookie = bpf_get_netns_cookie(ctx), .attachment = lb_attachment };

	return bpf_map_lookup_elem(&lb_netns, &key);
}

/* The cookie if the socket has one, 0 if not. Where it cannot be read, asking for it makes one. */
LB_INLINE __u64 lb_context_cookie_seen(struct bpf_sock_addr *ctx)
{
	if (lb_can_cast) {
		struct bpf_sock_addr_kern *kernel = lb_kernel_context(ctx);

		return kernel->sk->__sk_common.skc_cookie.counter;
	}
	return bpf_get_socket_cookie(ctx);
}

/* The kernel's own sockets, NFS's and MPTCP's subflows for instance: no release hook runs for them. */
LB_INLINE bool lb_context_is_kernels(struct bpf_sock_addr *ctx)
{
	struct tcp_sock *tcp;

	if (lb_can_cast) {
		struct bpf_sock_addr_kern *kernel = lb_kernel_context(ctx);

		return BPF_CORE_READ_BITFIELD(kernel->sk, sk_kern_sock);
	}
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	return tcp && BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk, sk_kern_sock);
}

#endif
