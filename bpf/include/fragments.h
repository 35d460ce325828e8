/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Later fragments have no ports: they follow the first one, which leaves its ports behind. */
#ifndef LB_FRAGMENTS_H
#define LB_FRAGMENTS_H

#include "abi.h"
#include "deliver.h"
#include "forward.h"
#include "icmp.h"
#include "packet.h"
#include "packet_maps.h"
#include "work.h"

LB_INLINE void lb_fragment_key_of(struct lb_fragment_key *key, const struct lb_packet *p)
{
	lb_address_copy(key->source, p->source);
	lb_address_copy(key->destination, p->destination);
	key->id = p->id;
	key->protocol = p->protocol;
	key->family = p->family;
	key->reserved = 0;
}

/* Leaves the ports of a first fragment behind. */
__noinline int lb_fragment_keep(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_fragment_key key;
	struct lb_fragment ports;

	if (!work || !ctx)
		return 0;
	lb_fragment_key_of(&key, &work->packet);
	ports.source_port = work->packet.source_port;
	ports.destination_port = work->packet.destination_port;
	return !bpf_map_update_elem(&lb_fragments, &key, &ports, BPF_ANY);
}

/* The packet is one of a connection, or to be left alone: so are the others of its datagram. */
LB_INLINE void lb_fragment_note(lb_context *ctx, const struct lb_work *work)
{
	if (work->packet.part == LB_FIRST_FRAGMENT)
		lb_fragment_keep(ctx);
}

/* Gives a later fragment the ports of its first; 0: that did not come by. */
__noinline int lb_fragment_find(lb_context *ctx)
{
	struct lb_work *work = lb_work();
	struct lb_fragment_key key;
	struct lb_fragment *ports;

	if (!work || !ctx)
		return 0;
	lb_fragment_key_of(&key, &work->packet);
	ports = bpf_map_lookup_elem(&lb_fragments, &key);
	if (!ports)
		return 0;
	work->packet.source_port = ports->source_port;
	work->packet.destination_port = ports->destination_port;
	return 1;
}

/* What the routing table makes of the packet as it is: BPF_FIB_LKUP_RET_NOT_FWDED for what is for this node itself, or has no route. */
__noinline int lb_way_untranslated(lb_context *ctx)
{
	struct lb_work *work = lb_work();

	if (!work || !ctx)
		return BPF_FIB_LKUP_RET_FWD_DISABLED;
	lb_address_copy(work->to.source, work->packet.source);
	lb_address_copy(work->to.destination, work->packet.destination);
	work->to.source_port = 0;
	work->to.destination_port = 0;
	lb_find_way(ctx, &work->packet, &work->to, &work->way, 0);
	return work->way.result;
}

/*
 * Is a later fragment without its first to be dropped? One to a service would go back to where it came from. What the stack does not
 * forward goes on: it may have the first.
 */
LB_INLINE bool lb_fragment_is_lost(lb_context *ctx, struct lb_work *work)
{
	int result;

	if (lb_role != LB_ROLE_EXTERNAL || !lb_is_service_address(work->packet.destination, work->packet.family))
		return false;
	result = lb_way_untranslated(ctx);
	return result != BPF_FIB_LKUP_RET_NOT_FWDED && result != BPF_FIB_LKUP_RET_FWD_DISABLED;
}

#endif
