// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet load balancer in the driver: what is forwarded to another node, and its answers. Everything else is for the programs at tc
 * on the same device, which find the same connections.
 */
#define LB_XDP 1

#include "abi.h"
#include "config.h"
#include "deliver.h"
#include "dsr.h"
#include "dsr_receive.h"
#include "forward.h"
#include "frontend.h"
#include "maps.h"
#include "packet.h"
#include "quick.h"
#include "reasons.h"
#include "work.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What follows is called, not inlined: the stack of all that calls each other is short, and lb_xdp() has its share. */

__noinline int lb_translate_out(struct xdp_md *xdp)
{
	struct lb_work *work = lb_work();

	/* No way, too big, a neighbour that has to be asked for: tc comes to the same and can do more about it. */
	if (!work || !xdp || work->packet.hops <= 1 || lb_find_way_again(xdp, 0) != LB_REASON_FORWARDED)
		return lb_let_pass(LB_REASON_HANDED_OVER);
	if (!lb_rewrite(xdp, &work->packet, &work->to, 1))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_send_out(xdp, &work->way);
}

__noinline int lb_send_dsr(struct xdp_md *xdp)
{
	struct lb_work *work = lb_work();

	if (!work || !xdp)
		return XDP_PASS;
	work->hash &= ~LB_OUTER_MARK;
	if (lb_dsr_way(xdp) != LB_REASON_FORWARDED)
		return lb_let_pass(LB_REASON_HANDED_OVER);
	if (!lb_dsr_wrap(xdp))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_send_out(xdp, &work->way);
}

/* A packet of a peer, to a backend of this node: what lb_to_backend() or lb_dsr_learn() has said of it is done. */
__noinline int lb_unwrap(struct xdp_md *xdp)
{
	struct lb_work *work = lb_work();

	if (!work || !xdp || !lb_dsr_unwrap(xdp) || !lb_rewrite(xdp, &work->packet, &work->to, 0))
		return lb_throw_away(LB_REASON_CORRUPT_INDEX, 0);
	return lb_end(LB_REASON_DECAPSULATED, XDP_PASS);
}

/* Finds the service that the packet is for. */
__noinline int lb_look_for_service(struct xdp_md *xdp)
{
	struct lb_work *work = lb_work();
	struct lb_region region;
	enum lb_reason reason;

	if (!work || !xdp)
		return LB_REASON_NOT_A_SERVICE;
	lb_flow_of_packet(&work->flow, &work->packet);
	reason = lb_frontend_find(&work->flow, &region);
	if (reason == LB_REASON_FORWARDED)
		work->region = region.first;
	return reason;
}

/* Any packet. */
__noinline int lb_xdp_slowly(struct xdp_md *xdp)
{
	struct lb_work *work = lb_work();
	enum lb_reason reason;
	bool readable;
	int whose;

	if (!work || !xdp)
		return XDP_PASS;
	readable = lb_read_packet(xdp) && lb_has_ports(work->packet.protocol);
	if (!readable || lb_may_be_peers(&work->packet)) {
		if (lb_dsr_look(xdp, work) == LB_REASON_FORWARDED) {
			if (work->other)
				return lb_let_pass(LB_REASON_HANDED_OVER);
			reason = work->translated ? lb_dsr_learn(xdp) : lb_to_backend(xdp);
			if (reason != LB_REASON_FORWARDED || work->mode != LB_MODE_LOCAL)
				return lb_let_pass(LB_REASON_HANDED_OVER);
			return lb_unwrap(xdp);
		}
		/* Whatever else it is, tc looks again. */
		if (!readable || !lb_read_packet(xdp))
			return XDP_PASS;
	}
	if (work->packet.part != LB_WHOLE)
		return XDP_PASS;
	whose = lb_is_for_snat(&work->packet) ? lb_to_client(xdp) : LB_NOBODYS;
	if (whose == LB_REMOVED_BACKENDS || (whose == LB_BACKENDS && work->mode == LB_MODE_MASQUERADE))
		return lb_let_pass(LB_REASON_HANDED_OVER);
	if (whose == LB_BACKENDS)
		return lb_translate_out(xdp);
	reason = lb_look_for_service(xdp);
	if (reason == LB_REASON_NOT_A_SERVICE)
		return lb_let_pass(reason);
	if (reason != LB_REASON_FORWARDED)
		return lb_throw_away(reason, 0);
	reason = lb_to_backend(xdp);
	/* Refusals are answered at tc. What was chosen stays: tc finds the connection. */
	if (reason != LB_REASON_FORWARDED || work->mode == LB_MODE_LOCAL)
		return lb_let_pass(LB_REASON_HANDED_OVER);
	return work->mode == LB_MODE_DSR ? lb_send_dsr(xdp) : lb_translate_out(xdp);
}

SEC("xdp")
int lb_xdp(struct xdp_md *xdp)
{
	int verdict = lb_quickly(xdp);

	return verdict == LB_SLOWLY ? lb_xdp_slowly(xdp) : verdict;
}
