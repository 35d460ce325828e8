// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The socket load balancer: the destination is rewritten at the system call, before a packet exists. Hooks of a cgroup;
 * 1 lets the call go on, 0 refuses it.
 */
#include "abi.h"
#include "config.h"
#include "context.h"
#include "counters.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"
#include "pins.h"
#include "ports.h"
#include "ranges.h"
#include "reasons.h"
#include "select.h"
#include "sockets.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { LB_REFUSE = 0, LB_GO_ON = 1 };

LB_INLINE int lb_pass(enum lb_reason reason)
{
	lb_count_verdict(LB_HOOK_SOCKET, reason);
	return LB_GO_ON;
}

/* `service` is 0 where none is known. A call that an inner cgroup has refused already is counted there. */
static __noinline int lb_refuse(__u32 reason, __u32 service, int error)
{
	if (lb_can_set_retval) {
		if (bpf_get_retval())
			return LB_REFUSE;
		bpf_set_retval(-error);
	}
	lb_count_verdict(LB_HOOK_SOCKET, reason);
	if (service)
		lb_count_failure(service);
	return LB_REFUSE;
}

LB_INLINE int lb_refuse_flow(enum lb_reason reason, __u32 service)
{
	const bool rejects = reason == LB_REASON_NO_BACKENDS || reason == LB_REASON_NO_SUCH_PORT;

	return lb_refuse(reason, service, rejects ? LB_ECONNREFUSED : LB_EHOSTUNREACH);
}

/* The numbers that the choice depends on. */
LB_INLINE void lb_flow_complete(struct bpf_sock_addr *ctx, const struct lb_head *head, struct lb_flow *flow)
{
	__u32 wants = lb_region_wants(head);

	flow->client_kind = LB_CLIENT_NETNS;
	flow->client_low = 0;
	flow->client = wants & LB_WANT_CLIENT ? bpf_get_netns_cookie(ctx) : 0;
	flow->socket = wants & LB_WANT_SOCKET ? bpf_get_socket_cookie(ctx) : 0;
}

/* ---- connect ------------------------------------------------------------------------------------------------------------ */

LB_INLINE int lb_connect(struct bpf_sock_addr *ctx, const bool six)
{
	struct lb_memory memory;
	struct lb_region region;
	struct lb_choice choice;
	enum lb_reason reason;
	struct lb_flow flow;

	lb_context_read(ctx, six, &flow);
	if (flow.protocol != LB_IPPROTO_TCP && flow.protocol != LB_IPPROTO_UDP)
		return LB_GO_ON;
	if (!lb_context_covered(ctx)) {
		lb_memory_disown(ctx, flow.protocol, flow.family);
		return lb_pass(LB_REASON_OTHER_NAMESPACE);
	}

	reason = lb_frontend_find(&flow, &region);
	if (lb_memory_read(ctx, &flow, &memory))
		return lb_pass(LB_REASON_ALREADY_TRANSLATED);
	if (reason == LB_REASON_NOT_A_SERVICE) {
		lb_memory_clear(ctx, &flow, &memory);
		reason = lb_outside_services(&flow);
		return reason == LB_REASON_NOT_A_SERVICE ? lb_pass(reason) : lb_refuse_flow(reason, 0);
	}
	if (reason != LB_REASON_FORWARDED)
		return lb_refuse_flow(reason, 0);

	lb_flow_complete(ctx, &region.line->head, &flow);
	reason = lb_select_for_socket(&region, &flow, &choice);
	if (reason != LB_REASON_FORWARDED)
		return lb_refuse_flow(reason, region.line->head.service);
	if (!lb_memory_write(ctx, &flow, &choice, &memory, &region.line->head))
		return lb_refuse_flow(LB_REASON_RECORD_FAILED, region.line->head.service);
	lb_context_write(ctx, six, flow.family, flow.family == LB_IPV4 ? &choice.ipv4 : choice.address, lb_backend_port(choice.word));
	lb_count_use(choice.index);
	return LB_GO_ON;
}

SEC("cgroup/connect4")
int lb_connect4(struct bpf_sock_addr *ctx)
{
	return lb_connect(ctx, false);
}

SEC("cgroup/connect6")
int lb_connect6(struct bpf_sock_addr *ctx)
{
	return lb_connect(ctx, true);
}

/* ---- a datagram with an address of its own -------------------------------------------------------------------------------- */

/* The first datagram of a socket to a frontend (it has no pin), or the first after its backend went. */
LB_INLINE enum lb_reason lb_send_first(struct bpf_sock_addr *ctx, const struct lb_region *region, struct lb_flow *flow,
				       struct lb_choice *choice, struct lb_pin *pin)
{
	const struct lb_head *head = &region->line->head;
	__u32 shared = lb_pin_find_service(ctx, head->service, flow->family);
	struct lb_socket *socket;
	enum lb_reason reason;
	int i;

	if (!shared || !lb_choice_keep(choice, shared)) {
		lb_flow_complete(ctx, head, flow);
		reason = lb_select_for_socket(region, flow, choice);
		if (reason != LB_REASON_FORWARDED)
			return reason;
	}
	if (!pin) {
		i = lb_pin_claim(ctx);
		if (i < 0)
			return i == LB_NO_PIN ? LB_REASON_TOO_MANY_SERVICES : LB_REASON_RECORD_FAILED;
		socket = lb_socket_make(ctx);
		pin = socket ? lb_pin_at(ctx, socket, i) : NULL;
		if (!pin)
			return LB_REASON_RECORD_FAILED;
		lb_sent_mark(socket, choice);
	}
	lb_pin_write(pin, flow, lb_slot_ref(region->slot, region->generation), choice);
	lb_count_use(choice->index);
	return LB_REASON_FORWARDED;
}

/*
 * An inner cgroup's attachment marks the socket as the sender of a translated datagram, or takes the mark away, each time it
 * runs; the outer one's runs next, in the same call and under the same lock.
 */
LB_INLINE int lb_send(struct bpf_sock_addr *ctx, const bool six)
{
	struct lb_pin *pin = NULL;
	struct lb_socket *socket;
	struct lb_region region;
	struct lb_choice choice;
	enum lb_reason reason;
	struct lb_flow flow;

	lb_context_read(ctx, six, &flow);
	if (flow.protocol != LB_IPPROTO_UDP)
		return LB_GO_ON;
	if (!lb_context_covered(ctx)) {
		lb_memory_disown(ctx, flow.protocol, flow.family);
		return lb_pass(LB_REASON_OTHER_NAMESPACE);
	}

	reason = lb_frontend_find(&flow, &region);
	socket = lb_socket_seen(ctx);
	if (socket && socket->sender) {
		if (lb_sent_by_other(socket, &flow))
			return lb_pass(LB_REASON_ALREADY_TRANSLATED);
		socket->sender = 0;
	}
	if (reason == LB_REASON_NOT_A_SERVICE)
		reason = lb_outside_services(&flow);
	if (reason == LB_REASON_NOT_A_SERVICE)
		return lb_pass(LB_REASON_NOT_A_SERVICE);
	if (reason != LB_REASON_FORWARDED)
		return lb_refuse_flow(reason, 0);

	if (socket)
		pin = lb_pin_of_slot(ctx, socket, lb_slot_ref(region.slot, region.generation));
	/* The frontend may have moved to another service, whose backends are others. */
	if (!pin || !lb_choice_keep(&choice, lb_pin_backend_ref(pin->word)) ||
	    lb_backend_service(choice.word) != region.line->head.service)
		reason = lb_send_first(ctx, &region, &flow, &choice, pin);
	if (reason != LB_REASON_FORWARDED)
		return lb_refuse_flow(reason, region.line->head.service);
	if (socket)
		lb_sent_mark(socket, &choice);
	lb_context_write(ctx, six, flow.family, flow.family == LB_IPV4 ? &choice.ipv4 : choice.address, lb_backend_port(choice.word));
	return LB_GO_ON;
}

SEC("cgroup/sendmsg4")
int lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lb_send(ctx, false);
}

/* The kernel runs sendmsg4 for IPv4-mapped destinations, and refuses any that sendmsg6 would write. */
SEC("cgroup/sendmsg6")
int lb_sendmsg6(struct bpf_sock_addr *ctx)
{
	return lb_send(ctx, true);
}

/* ---- the source of what was received ---------------------------------------------------------------------------------------- */

LB_INLINE int lb_receive(struct bpf_sock_addr *ctx, const bool six)
{
	struct lb_socket *socket = lb_socket_seen(ctx);
	struct lb_flow source;
	struct lb_pin *pin;

	if (!socket)
		return LB_GO_ON;
	lb_context_read(ctx, six, &source);
	if (lb_context_is_peer(ctx, &source)) {
		struct lb_record *record = &socket->record;

		if (lb_record_is_of(record, &source))
			lb_context_write(ctx, six, record->family, record->service, record->service_port);
		return LB_GO_ON;
	}
	pin = lb_pin_of_source(ctx, socket, &source);
	if (pin)
		lb_context_write(ctx, six, pin->family, pin->address, pin->port);
	return LB_GO_ON;
}

SEC("cgroup/recvmsg4")
int lb_recvmsg4(struct bpf_sock_addr *ctx)
{
	return lb_receive(ctx, false);
}

SEC("cgroup/recvmsg6")
int lb_recvmsg6(struct bpf_sock_addr *ctx)
{
	return lb_receive(ctx, true);
}

/* ---- getpeername -------------------------------------------------------------------------------------------------------------- */

/* The service that a TCP socket's way says; false if it has none. */
LB_INLINE bool lb_peername_tcp(struct bpf_sock_addr *ctx, const bool six, __u8 family, __u64 cookie)
{
	__u32 hash = lb_socket_hash(ctx->sk);
	int way;

	if (family == LB_IPV4) {
		struct lb_peer_set4 *set = lb_peers4_of(hash);

		way = set ? lb_way_find(set->cookie, cookie) : -1;
		if (!set || way < 0 || way >= LB_SET_WAYS)
			return false;
		lb_context_write(ctx, six, LB_IPV4, &set->peer[way].address, set->peer[way].port);
		return true;
	}
	struct lb_peer_set6 *set = lb_peers6_of(hash);

	way = set ? lb_way_find(set->cookie, cookie) : -1;
	if (!set || way < 0 || way >= LB_SET_WAYS)
		return false;
	lb_context_write(ctx, six, LB_IPV6, set->address[way].address, set->peer[way].port);
	return true;
}

LB_INLINE int lb_peername(struct bpf_sock_addr *ctx, const bool six)
{
	struct lb_socket *socket;
	struct lb_flow peer;
	__u64 cookie;

	lb_context_read(ctx, six, &peer);
	if (peer.protocol == LB_IPPROTO_TCP) {
		cookie = lb_context_cookie_seen(ctx);
		if (!cookie || lb_peername_tcp(ctx, six, peer.family, cookie))
			return LB_GO_ON;
	} else if (peer.protocol != LB_IPPROTO_UDP) {
		return LB_GO_ON;
	}
	socket = lb_socket_seen(ctx);
	if (socket && lb_record_is_of(&socket->record, &peer))
		lb_context_write(ctx, six, peer.family, socket->record.service, socket->record.service_port);
	return LB_GO_ON;
}

SEC("cgroup/getpeername4")
int lb_getpeername4(struct bpf_sock_addr *ctx)
{
	return lb_peername(ctx, false);
}

SEC("cgroup/getpeername6")
int lb_getpeername6(struct bpf_sock_addr *ctx)
{
	return lb_peername(ctx, true);
}

/* ---- bind ---------------------------------------------------------------------------------------------------------------------- */

LB_INLINE int lb_bind(struct bpf_sock_addr *ctx, const bool six)
{
	struct lb_flow wanted;

	lb_context_read(ctx, six, &wanted);
	if (lb_port_is_taken(ctx, six, &wanted))
		return lb_refuse(LB_REASON_PORT_IN_USE, 0, LB_EADDRINUSE);
	return LB_GO_ON;
}

SEC("cgroup/bind4")
int lb_bind4(struct bpf_sock_addr *ctx)
{
	return lb_bind(ctx, false);
}

SEC("cgroup/bind6")
int lb_bind6(struct bpf_sock_addr *ctx)
{
	return lb_bind(ctx, true);
}

/* ---- release --------------------------------------------------------------------------------------------------------------------- */

/* Gives TCP's ways back; storage goes with the socket. A socket without a cookie was never ours. */
SEC("cgroup/sock_release")
int lb_sock_release(struct bpf_sock *sk)
{
	struct lb_peer_set4 *set4;
	struct lb_peer_set6 *set6;
	__u64 cookie;

	if (sk->protocol != LB_IPPROTO_TCP)
		return LB_GO_ON;
	if (lb_can_cast)
		cookie = ((struct sock *)lb_kernel_context(sk))->__sk_common.skc_cookie.counter;
	else
		cookie = bpf_get_socket_cookie(sk);
	if (!cookie)
		return LB_GO_ON;
	set4 = lb_peers4_of(lb_socket_hash(sk));
	if (set4)
		lb_way_clear(set4->cookie, cookie);
	if (sk->family != LB_AF_INET6)
		return LB_GO_ON;
	set6 = lb_peers6_of(lb_socket_hash(sk));
	if (set6)
		lb_way_clear(set6->cookie, cookie);
	return LB_GO_ON;
}
