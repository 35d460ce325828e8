/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Masquerade: what workloads send to outside leaves with the node's address. Its connections lie with the services', so that no port of the
 * node's address is used for two things.
 */
#ifndef LB_MASQUERADE_H
#define LB_MASQUERADE_H

#include "connections.h"
#include "forward.h"
#include "icmp.h"
#include "new_connection.h"
#include "work.h"

/* Does the packet in lb_work() leave with another source? */
LB_INLINE bool lb_is_masqueraded(const struct lb_packet *p, const struct lb_node *node)
{
	return node->masquerade && lb_in_ranges(node->masquerade, p->source, p->family) &&
	       !(node->masquerade_exclude && lb_in_ranges(node->masquerade_exclude, p->destination, p->family));
}

/* Finds or makes the connection, and says in `to` what the packet becomes. A reason of enum lb_reason; NOT_BALANCED: it stays as it is. */
__noinline int lb_masquerade(lb_context *ctx)
{
	const struct lb_node *node = lb_node_settings();
	struct lb_work *work = lb_work();
	struct lb_connection *c;
	struct lb_found found;
	enum lb_reason reason;

	if (!node || !work || !ctx)
		return LB_REASON_CORRUPT_INDEX;
	if (!lb_is_masqueraded(&work->packet, node))
		return LB_REASON_NOT_BALANCED;
	lb_key_of_client(&work->key, &work->packet);
	work->hash = lb_flow_key_hash(&work->key);
	work->old = LB_NOBODY;
	if (lb_find_by_client(&work->key, work->hash, &found)) {
		c = found.connection;
		lb_to_backend_of(work, c);
		if (work->mode == LB_MODE_MASQUERADE && lb_still_owned(&found) &&
		    (work->packet.protocol != LB_IPPROTO_UDP || !lb_has_expired(c, node, lb_seconds()))) {
			lb_touch(c, &work->packet, lb_life_of_client(c, &work->packet));
			return LB_REASON_FORWARDED;
		}
		work->old = found.index;
		work->old_owned = found.owned;
	}
	lb_address_copy(work->backend, work->packet.destination);
	work->backend_port = work->packet.destination_port;
	work->backend_ref = 0;
	work->service = 0;
	work->mode = LB_MODE_MASQUERADE;
	reason = lb_source_of_node(work, node);
	return reason == LB_REASON_FORWARDED ? lb_connect(ctx, work) : reason;
}

/*
 * ---- echo: the identifier stands for the port of who asks, and the other end has port 0 -------------------------------------------
 */
#define LB_ECHO_ID 4 /* its offset */

/* Reads the identifier into the ports of the packet in lb_work(), an echo request or the reply to one. */
LB_INLINE bool lb_read_echo(lb_context *ctx, struct lb_packet *p, const bool reply)
{
	__be16 id;

	if (p->length < p->l4 - p->l3 + LB_ICMP_LENGTH || !lb_load(ctx, p->l4 + LB_ECHO_ID, &id, sizeof(id)))
		return false;
	p->source_port = reply ? 0 : id;
	p->destination_port = reply ? id : 0;
	return true;
}

/* Makes the packet what lb_work() says. */
LB_INLINE bool lb_rewrite_echo(lb_context *ctx, const struct lb_work *work, const bool reply)
{
	const struct lb_packet *p = &work->packet;
	const struct lb_tuple *to = &work->to;
	__be16 id = reply ? to->destination_port : to->source_port;
	__u64 addresses = 0, segment = lb_sum_change16(0, reply ? p->destination_port : p->source_port, id);

	if (p->family == LB_IPV6) {
		addresses = lb_sum_change_address(0, p->source, to->source, LB_IPV6);
		addresses = lb_sum_change_address(addresses, p->destination, to->destination, LB_IPV6);
	}
	if (!lb_correct_checksum(ctx, p, p->l4 + 2, addresses, segment) || !lb_store(ctx, p->l4 + LB_ECHO_ID, &id, sizeof(id)))
		return false;
	return p->family == LB_IPV4 ? lb_write_ipv4(ctx, p, to, 0) : lb_write_ipv6(ctx, p, to, 0);
}

#endif
