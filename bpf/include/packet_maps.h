/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps of the packet hooks, beside those of maps.h. Only tc_lb and xdp_lb declare them: a balancer that attaches to no device has none of
 * them. Made, and pinned, at the first attachment to a device.
 */
#ifndef LB_PACKET_MAPS_H
#define LB_PACKET_MAPS_H

#include "abi.h"
#include "kernel.h"
#include "maps.h"

/* Sets of owner words: before 5.12 the first is a lock. */
#if LB_LEGACY
#define LB_FIRST_FLOW_WAY 1
struct lb_owner_set {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 way[LB_FLOW_WAYS - 1];
};
#else
#define LB_FIRST_FLOW_WAY 0
struct lb_owner_set {
	__u64 way[LB_FLOW_WAYS];
};
#endif
#define LB_FLOW_SET_WAYS (LB_FLOW_WAYS - LB_FIRST_FLOW_WAY)
LB_STATIC_ASSERT(sizeof(struct lb_owner_set) == sizeof(struct lb_owners));

/* 0 -> settings of the packet hooks.
 * Written by the controller. */
LB_MAPPED_ARRAY(lb_node, 1, struct lb_node);

/* Set -> whose its ways are. As many sets as connections / 8, a power of two.
 * Ways are taken and given back by the programs. */
LB_MAPPED_ARRAY(lb_owners, 8192, struct lb_owner_set);

/* Set * 8 + way -> the connection.
 * Written by the program that took the way; who has it is told by lb_owners. */
LB_MAPPED_ARRAY(lb_connections, 65536, struct lb_connection);

/* Set -> where the connections of a backend's packets are. Twice as many sets as lb_owners.
 * As lb_owners. */
LB_MAPPED_ARRAY(lb_replies, 16384, struct lb_owner_set);

/* CPU -> what its packet programs have done most.
 * Counted by the programs of that CPU alone. */
LB_MAPPED_ARRAY(lb_traffic, 128, struct lb_traffic);

/* CPU and place -> the way to a destination.
 * Written and read by the programs of that CPU alone. */
LB_MAPPED_ARRAY(lb_next_hops, LB_NEXT_HOPS, struct lb_next_hop);

/* Service -> second of CLOCK_MONOTONIC when a flow of it could last not be remembered: its anchors do not move for a while.
 * Written by the programs. */
LB_MAPPED_ARRAY(lb_refused, LB_DEFAULT_INDICES, __u64);

/* Address of a service in the external scope, whatever the port -> present; IPv4 as ::ffff:a.b.c.d.
 * Written by the controller: before the first key with the address, and after the last. Echo requests to these are answered. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_peer6);
	__type(value, __u32);
} lb_addresses SEC(".maps");

/* Backend -> outer destination of DSR, for backends that have LB_BACKEND_VIA.
 * Written by the controller before the backend's word, and after it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct lb_via);
} lb_vias SEC(".maps");

/* Service and address -> a backend of this node, for packets that peers have encapsulated.
 * Written by the controller for backends that have LB_BACKEND_LOCAL; what it leads to is checked. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_local_key);
	__type(value, __u32);
} lb_locals SEC(".maps");

/* Where later fragments of a datagram belong: (source, destination, id, protocol) -> ports.
 * Written by the programs at a first fragment. */
struct lb_fragment_key {
	__be32 source[4];
	__be32 destination[4];
	__u32 id;
	__u8 protocol;
	__u8 family;
	__u16 reserved;
};
struct lb_fragment {
	__be16 source_port;
	__be16 destination_port;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct lb_fragment_key);
	__type(value, struct lb_fragment);
} lb_fragments SEC(".maps");

/* Kind -> how many answers to refused packets may be sent now, of all CPUs.
 * Written by the program at tc that sends one. */
enum lb_budget_kind { LB_BUDGET_ICMP, LB_BUDGET_RESETS, LB_BUDGETS };
struct lb_budget {
	struct bpf_spin_lock lock;
	__u32 tokens;
	__u64 at; /* millisecond of CLOCK_MONOTONIC that they were last added to */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_BUDGETS);
	__type(key, __u32);
	__type(value, struct lb_budget);
} lb_budgets SEC(".maps");

#endif
