/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the packet programs know of the packet at hand. It lies in a map for each CPU: a stack has no room for it, and global functions, whose
 * loops the verifier looks at once, take nothing but the context and numbers on 5.10. Packet programs are never interrupted by one another.
 */
#ifndef LB_WORK_H
#define LB_WORK_H

#include "connections.h"
#include "packet.h"
#include "packet_maps.h"

/* A way that a new entry could have: a free one, else one whose entry has had its time. */
struct lb_offer {
	__u64 owned; /* by nobody, or by that entry */
	__u32 index; /* LB_NOBODY: the set is full */
	__u32 free;  /* ways of the set */
};

/* What the routing table answered. */
struct lb_way_out {
	struct bpf_fib_lookup fib;
	long result; /* BPF_FIB_LKUP_RET_* */
};

struct lb_outer {
	__be32 source[4];
	__be32 destination[4];
	__u32 family; /* enum lb_family */
	__u32 length; /* of all that is around the packet; of an option */
	__u32 protocol;
};

#if LB_XDP
#define LB_THIS_HOOK LB_HOOK_XDP
#else
#define LB_THIS_HOOK LB_HOOK_TC
#endif

/* Of the quick way: where a packet goes, and what it becomes. */
struct lb_quick {
	struct lb_tuple to;
	struct lb_outer outer;
	__u32 flags; /* enum lb_life, to be added */
	__u32 place; /* of its next hop */
	__u32 id;    /* differs between flows */
	__u8 mode;   /* enum lb_mode */
};

struct lb_work {
	struct lb_packet packet;
	struct lb_quick quick;
	struct lb_flow flow;
	struct lb_flow_key key; /* of the client's side */
	__u64 hash;             /* of the key */
	struct lb_tuple to;
	/* What a new connection is made of. */
	__be32 backend[4];
	__be32 source[4];
	__be16 backend_port;
	__be16 source_port;
	__u32 backend_ref;
	__u32 service;
	__u8 mode; /* enum lb_mode */
	__u8 overhead; /* bytes that a peer has wrapped the packet in */
	__u8 dispatch;   /* enum lb_dispatch of this packet */
	__u8 translated; /* a peer has translated it to the backend already */
	__u8 marked;     /* a backend's node has sent it on */
	__u8 tracked;    /* a new connection ends when its backend is removed */
	__u8 via_family; /* of `via`; 0: the connection has none */
	__be32 via[4];   /* outer destination that the connection was made with */
	__u32 forced; /* the backend that a peer has chosen; 0: none */
	__u32 wanted; /* the backend that an anchored cell says; 0: to be selected */
	__u32 other;  /* backend elsewhere that a peer's packet goes on to; 0: none */
	__u32 old;      /* entry that it replaces; LB_NOBODY: none */
	__u64 old_owned;
	__u32 made; /* index */
	__u32 region; /* line of the service's region */
	struct lb_offer offer[2];
	struct lb_flow_key reply; /* of the backend's side */
	struct lb_way_out way;
	__u32 way_place; /* where the way is remembered, for each CPU: next_hop.h */
	struct lb_packet quoted; /* by the ICMP error at hand */
	struct lb_tuple inner;   /* what that packet becomes */
	struct lb_outer outer; /* what DSR wraps the packet in, or what it came in */
};

/* 0 -> the packet at hand.
 * Written and read within one run of a program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lb_work);
} lb_works SEC(".maps");

LB_INLINE struct lb_work *lb_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lb_works, &zero);
}

LB_INLINE struct lb_node *lb_node_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lb_node, &zero);
}

#endif
