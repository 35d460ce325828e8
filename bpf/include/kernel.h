/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs read of the kernel's own structures, relocated by field name at load, and its functions. Little enough
 * to be written down, so that nobody needs a vmlinux.h to build.
 */
#ifndef LB_KERNEL_H
#define LB_KERNEL_H

#include "abi.h"
#include "config.h"

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

/* <linux/in.h> and <sys/socket.h> want the C library of the target. */
#define LB_AF_INET 2
#define LB_AF_INET6 10
#define LB_IPPROTO_TCP 6
#define LB_IPPROTO_UDP 17
#define LB_EADDRINUSE 98
#define LB_ECONNREFUSED 111
#define LB_EHOSTUNREACH 113

#define lb_read_once(x) (*(const volatile typeof(x) *)&(x))
#define lb_write_once(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* The same address, but only once `loaded` is there: a dependency that every machine honours, where BPF has no acquire. */
#define lb_address_after(address, loaded)                  \
	({                                                 \
		__u64 zero_ = (loaded);                    \
		asm volatile("%0 &= 0" : "+r"(zero_));     \
		(typeof(address))((void *)(address) + zero_); \
	})

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "keys are put together in registers");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	long long counter;
} atomic64_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	unsigned short skc_family;
	unsigned char skc_ipv6only : 1;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	atomic64_t skc_cookie;
};

struct bpf_local_storage;
struct socket;

struct sock {
	struct sock_common __sk_common;
	__u8 sk_kern_sock : 1;
	struct socket *sk_socket;
	struct bpf_local_storage *sk_bpf_storage;
};

struct inet_sock {
	struct sock sk;
};
struct udp_sock {
	struct inet_sock inet;
};
struct udp6_sock {
	struct udp_sock udp;
};
struct inet_connection_sock {
	struct inet_sock icsk_inet;
};
struct tcp_sock {
	struct inet_connection_sock inet_conn;
};
struct tcp6_sock {
	struct tcp_sock tcp;
};

struct bpf_sock_addr_kern {
	struct sock *sk;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};
struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

#pragma clang attribute pop

#if !LB_LEGACY
extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;
extern int bpf_sock_destroy(struct sock_common *sock) __ksym __weak;
#endif

/* The context as the kernel knows it. Only behind `if (lb_can_cast)`: older kernels have no such function. */
LB_INLINE void *lb_kernel_context(void *context)
{
#if LB_LEGACY
	return context;
#else
	return bpf_cast_to_kern_ctx(context);
#endif
}

#endif
