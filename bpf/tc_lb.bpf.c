// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet load balancer at tc. External: a NIC, packets from outside and answers of this node's backends. Workload: the host's side of a
 * workload's device, whose ingress is what the workload sends. What is not ours leaves with TC_ACT_UNSPEC, unchanged.
 */
#define LB_XDP 0
#include <linux/pkt_cls.h>

#include "abi.h"
#include "answers.h"
#include "config.h"
#include "deliver.h"
#include "dsr.h"
#include "dsr_receive.h"
#include "forward.h"
#include "fragments.h"
#include "frontend.h"
#include "icmp.h"
#include "maps.h"
#include "masquerade.h"
#include "packet.h"
#include "reasons.h"
#include "work.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Sends the packet that `to` describes on its way: through the stack when the way leads to or through this node, else out directly. */
LB_INLINE int lb_translate_out(struct __sk_buff *skb, struct lb_work *work)
{
	enum lb_reason reason;

	if (!lb_can_rewrite(&work->packet, &work->to))
		return lb_throw_away(LB_REASON_SCTP_PORT, 0);
	if (work->packet.hops <= 1)
		return lb_refuse(skb, LB_REASON_HOP_LIMIT, 0, 0);
	reason = lb_find_way_again(skb, 0);
	if (reason != LB_REASON_FORWARDED && reason != LB_REASON_HANDED_OVER)
		return lb_refuse(skb, reason, 0, lb_way_mtu(work, 0));
	if (!lb_rewrite(skb, &work->packet, &work->to, 1))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_send_out(skb, &work->way);
}

LB_INLINE int lb_translate_in(struct __sk_buff *skb, struct lb_work *work)
{
	if (!lb_can_rewrite(&work->packet, &work->to))
		return lb_throw_away(LB_REASON_SCTP_PORT, 0);
	if (!lb_rewrite(skb, &work->packet, &work->to, 0))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return LB_REWRITTEN;
}

LB_INLINE int lb_send_to_backend(struct __sk_buff *skb, struct lb_work *work)
{
	enum lb_reason reason;

	if (work->mode == LB_MODE_LOCAL)
		return lb_translate_in(skb, work);
	if (work->mode != LB_MODE_DSR)
		return lb_translate_out(skb, work);
	work->hash &= ~LB_OUTER_MARK;
	reason = lb_dsr_way(skb);
	if (reason != LB_REASON_FORWARDED && reason != LB_REASON_HANDED_OVER)
		return lb_refuse(skb, reason, 0, lb_way_mtu(work, work->dispatch == LB_DISPATCH_L2 ? 0 : work->outer.length));
	if (!lb_dsr_wrap(skb))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_send_out(skb, &work->way);
}

/* What may be a peer's. LB_REASON_NOT_BALANCED in `reason`: it is not, and goes the way of other packets. */
LB_INLINE int lb_unwrap(struct __sk_buff *skb, struct lb_work *work, enum lb_reason *seen)
{
	enum lb_reason reason = lb_dsr_look(skb, work);

	*seen = reason;
	if (reason == LB_REASON_NOT_BALANCED || reason == LB_REASON_NOT_A_PEER || reason == LB_REASON_NOT_A_SERVICE)
		return LB_UNTOUCHED;
	if (reason != LB_REASON_FORWARDED)
		return lb_throw_away(reason, 0);
	if (work->other && lb_send_on(skb) == LB_REASON_FORWARDED)
		return lb_send_out(skb, &work->way);
	reason = work->translated ? lb_dsr_learn(skb) : lb_to_backend(skb);
	if (reason != LB_REASON_FORWARDED)
		return lb_throw_away(reason, work->service);
	if (!lb_dsr_unwrap(skb))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	lb_count_verdict(LB_THIS_HOOK, LB_REASON_DECAPSULATED);
	/* Its source is another only where two services lead one client's port to one backend. */
	return lb_send_to_backend(skb, work);
}

/* An error about a connection goes the way of its packets. About errors nobody is told. */
LB_INLINE int lb_send_error(struct __sk_buff *skb, struct lb_work *work)
{
	const struct lb_node *node = lb_node_settings();
	enum lb_reason reason;
	bool as_it_is;

	if (!node)
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	if (work->mode == LB_MODE_LOCAL || work->mode == LB_MODE_MASQUERADE) {
		if (!lb_error_rewrite(skb, 0))
			return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
		return lb_end(LB_REASON_ICMP_RELATED, LB_REWRITTEN);
	}
	/* With DSR on the link the backend knows the client's terms. The other kinds translate at its node; the error goes there unwrapped.
	 */
	as_it_is = work->mode == LB_MODE_DSR && node->dispatch == LB_DISPATCH_L2;
	if (work->packet.hops <= 1)
		return lb_throw_away(LB_REASON_HOP_LIMIT, 0);
	lb_find_way(skb, &work->packet, &work->to, &work->way, 0);
	reason = lb_way_reason(&work->way);
	if (reason != LB_REASON_FORWARDED && reason != LB_REASON_HANDED_OVER)
		return lb_throw_away(reason, 0);
	if (!as_it_is && !lb_error_rewrite(skb, 1))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	lb_count_verdict(LB_THIS_HOOK, LB_REASON_ICMP_RELATED);
	return lb_send_out(skb, &work->way);
}

/* Is the packet, whose port does not matter, for a service address that nobody has? */
LB_INLINE bool lb_is_for_nobody(struct lb_work *work)
{
	lb_flow_of_packet(&work->flow, &work->packet);
	return lb_outside_services(&work->flow) == LB_REASON_NO_SUCH_SERVICE;
}

/* An echo request of a workload leaves with the node's address and another identifier, by which the reply finds back. */
LB_INLINE int lb_echo_out(struct __sk_buff *skb, struct lb_work *work)
{
	enum lb_reason reason;

	if (lb_role != LB_ROLE_EXTERNAL || !lb_is_echo(&work->packet) || !lb_read_echo(skb, &work->packet, false))
		return TC_ACT_UNSPEC;
	reason = lb_masquerade(skb);
	if (reason == LB_REASON_NOT_BALANCED)
		return TC_ACT_UNSPEC;
	if (reason != LB_REASON_FORWARDED || !lb_rewrite_echo(skb, work, false))
		return lb_throw_away(reason != LB_REASON_FORWARDED ? reason : LB_REASON_CORRUPT_INDEX, 0);
	return LB_REWRITTEN;
}

/* Is it the reply to a workload's echo request? Then it is its now. */
LB_INLINE bool lb_is_workloads_echo(struct __sk_buff *skb, struct lb_work *work)
{
	const struct lb_packet *p = &work->packet;

	return lb_role == LB_ROLE_EXTERNAL && lb_is_echo_reply(p) && lb_is_node_address(p->destination, p->family) &&
	       lb_read_echo(skb, &work->packet, true) && lb_to_client(skb) == LB_BACKENDS && work->mode == LB_MODE_MASQUERADE;
}

LB_INLINE int lb_icmp_in(struct __sk_buff *skb, struct lb_work *work)
{
	enum lb_reason reason;

	if (lb_is_workloads_echo(skb, work))
		return lb_rewrite_echo(skb, work, true) ? LB_REWRITTEN : lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	reason = lb_echo(skb);
	if (reason == LB_REASON_ECHO_ANSWERED) {
		lb_count_verdict(LB_THIS_HOOK, reason);
		return bpf_redirect(skb->ifindex, 0);
	}
	if (reason != LB_REASON_NOT_BALANCED)
		return lb_throw_away(reason, 0);
	if (lb_error_look(skb, 0))
		return lb_send_error(skb, work);
	if (lb_is_echo(&work->packet) && lb_is_for_nobody(work))
		return lb_throw_away(LB_REASON_NO_SUCH_SERVICE, 0);
	return lb_let_pass(reason);
}

/* A later fragment without ports. */
LB_INLINE int lb_fragment_in(struct __sk_buff *skb, struct lb_work *work)
{
	if (lb_is_for_nobody(work))
		return lb_throw_away(LB_REASON_NO_SUCH_SERVICE, 0);
	return lb_fragment_is_lost(skb, work) ? lb_throw_away(LB_REASON_FRAGMENT_WITHOUT_FIRST, 0) : lb_let_pass(LB_REASON_NOT_BALANCED);
}

SEC("tc")
int lb_tc_ingress(struct __sk_buff *skb)
{
	struct lb_work *work = lb_work();
	struct lb_region region;
	enum lb_reason reason;
	bool readable;
	int whose;

	if (!work)
		return TC_ACT_UNSPEC;
	readable = lb_read_packet(skb) && lb_has_ports(work->packet.protocol);
	if (lb_is_icmp(&work->packet))
		return lb_icmp_in(skb, work);
	if (!readable || lb_may_be_peers(&work->packet)) {
		int verdict = lb_unwrap(skb, work, &reason);

		if (reason != LB_REASON_NOT_BALANCED)
			return verdict == LB_UNTOUCHED ? lb_let_pass(reason) : verdict;
		if (!readable || !lb_read_packet(skb))
			return lb_let_pass(LB_REASON_NOT_BALANCED);
	}
	if (work->packet.part == LB_LATER_FRAGMENT && !lb_fragment_find(skb))
		return lb_fragment_in(skb, work);
	whose = lb_is_for_snat(&work->packet) ? lb_to_client(skb) : LB_NOBODYS;
	if (whose == LB_REMOVED_BACKENDS)
		return lb_refuse(skb, LB_REASON_BACKEND_REMOVED, 0, 0);
	if (whose == LB_BACKENDS) {
		lb_fragment_note(skb, work);
		return work->mode == LB_MODE_MASQUERADE ? lb_translate_in(skb, work) : lb_translate_out(skb, work);
	}
	lb_flow_of_packet(&work->flow, &work->packet);
	reason = lb_frontend_find(&work->flow, &region);
	if (reason == LB_REASON_NOT_A_SERVICE) {
		reason = lb_outside_services(&work->flow);
		if (reason != LB_REASON_NOT_A_SERVICE)
			return lb_refuse(skb, reason, 0, 0);
		/* Or its later ones would be taken for those of a service. */
		if (lb_is_service_address(work->packet.destination, work->packet.family))
			lb_fragment_note(skb, work);
		return lb_let_pass(reason);
	}
	if (reason != LB_REASON_FORWARDED)
		return lb_throw_away(reason, 0);
	work->region = region.first;
	lb_fragment_note(skb, work);
	reason = lb_to_backend(skb);
	if (reason != LB_REASON_FORWARDED)
		return lb_refuse(skb, reason, region.line->head.service, 0);
	return lb_send_to_backend(skb, work);
}

SEC("tc")
int lb_tc_egress(struct __sk_buff *skb)
{
	struct lb_work *work = lb_work();
	enum lb_reason reason;
	int whose;

	if (!work)
		return TC_ACT_UNSPEC;
	if (!lb_read_packet(skb))
		return TC_ACT_UNSPEC;
	if (lb_is_icmp(&work->packet))
		return lb_error_look(skb, 1) ? lb_send_error(skb, work) : lb_echo_out(skb, work);
	if (!lb_has_ports(work->packet.protocol) || (work->packet.part == LB_LATER_FRAGMENT && !lb_fragment_find(skb)))
		return TC_ACT_UNSPEC;
	whose = lb_to_client(skb);
	/* Its sender is behind the stack, which takes the answer for one of the client's. */
	if (whose == LB_REMOVED_BACKENDS && work->mode == LB_MODE_LOCAL)
		return lb_refuse_by(skb, LB_REASON_BACKEND_REMOVED, 0, 0, BPF_F_INGRESS);
	if (whose == LB_NOBODYS || work->mode != LB_MODE_LOCAL) {
		if (lb_role != LB_ROLE_EXTERNAL)
			return TC_ACT_UNSPEC;
		reason = lb_masquerade(skb);
		if (reason == LB_REASON_NOT_BALANCED)
			return TC_ACT_UNSPEC;
		if (reason != LB_REASON_FORWARDED)
			return lb_throw_away(reason, 0);
	}
	lb_fragment_note(skb, work);
	if (work->overhead && work->packet.protocol == LB_IPPROTO_TCP && work->packet.flags & LB_TCP_SYN &&
	    !lb_clamp_segments(skb, &work->packet, work->overhead))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_translate_in(skb, work);
}

/* ---- gates ------------------------------------------------------------------------------------------------------------------- */

/* lb_gate_key -> program.
 * Written by the process that loaded it, and emptied by the kernel when that ends. Private to the object. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} lb_gate SEC(".maps");

/* Where there is no tcx (before 6.6) a filter outlives its process; behind a gate it lets everything pass from then on. */
SEC("tc")
int lb_tc_ingress_gate(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &lb_gate, LB_GATE_INGRESS);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int lb_tc_egress_gate(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &lb_gate, LB_GATE_EGRESS);
	return TC_ACT_UNSPEC;
}
