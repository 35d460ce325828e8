/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Node ports and host ports in use must not be bound by applications in the balancer's own namespace. */
#ifndef LB_PORTS_H
#define LB_PORTS_H

#include "abi.h"
#include "context.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"

LB_INLINE bool lb_context_is_v6only(struct bpf_sock_addr *ctx)
{
	struct tcp6_sock *tcp;
	struct udp6_sock *udp;

	if (lb_can_cast) {
		struct bpf_sock_addr_kern *kernel = lb_kernel_context(ctx);

		return BPF_CORE_READ_BITFIELD(&kernel->sk->__sk_common, skc_ipv6only);
	}
	tcp = bpf_skc_to_tcp6_sock(ctx->sk);
	if (tcp)
		return BPF_CORE_READ_BITFIELD(&tcp->tcp.inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	udp = bpf_skc_to_udp6_sock(ctx->sk);
	return udp && BPF_CORE_READ_BITFIELD(&udp->udp.inet.sk.__sk_common, skc_ipv6only);
}

/* Is the address a frontend now? Whether it has backends is no matter. */
static __noinline bool lb_frontend_exists(const struct lb_flow *f)
{
	struct lb_slot *slot;

	return f && lb_frontend_lookup(f, &slot) && lb_slot_kind(lb_slot_read(slot)) == LB_SLOT_FINAL;
}

/* Is what the application wants to bind a service's? `f` has the address as if it were a destination. */
LB_INLINE bool lb_port_is_taken(struct bpf_sock_addr *ctx, const bool six, struct lb_flow *f)
{
	__u32 port = bpf_ntohs(f->port), element = port / 8, zero = 0, uses, mask;
	const bool tcp = f->protocol == LB_IPPROTO_TCP;
	struct lb_control *control;
	struct lb_ports *ports;

	if (!port || (!tcp && f->protocol != LB_IPPROTO_UDP))
		return false;
	ports = bpf_map_lookup_elem(&lb_ports, &element);
	if (!ports)
		return false;
	uses = lb_read_once(ports->use[port % 8]);
	if (!uses)
		return false;
	control = bpf_map_lookup_elem(&lb_control, &zero);
	if (!control || !lb_read_once(control->host_netns) || bpf_get_netns_cookie(ctx) != lb_read_once(control->host_netns))
		return false;

	if (f->address[0] || f->address[1] || f->address[2] || f->address[3]) {
		f->scope = LB_SCOPE_INTERNAL;
		if (lb_frontend_exists(f))
			return true;
		f->scope = LB_SCOPE_EXTERNAL;
		return lb_frontend_exists(f);
	}
	mask = tcp ? LB_PORT_TCP4 : LB_PORT_UDP4;
	if (six && f->family == LB_IPV6) {
		if (lb_context_is_v6only(ctx))
			mask = 0;
		mask |= tcp ? LB_PORT_TCP6 : LB_PORT_UDP6;
	}
	return uses & mask;
}

#endif
