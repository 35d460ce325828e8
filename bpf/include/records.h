/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values that only the programs read and write. */
#ifndef LB_RECORDS_H
#define LB_RECORDS_H

#include "abi.h"
#include "kernel.h"

/* lb_sockets: the record comes first, it is what the sweep of sockets reads. */
struct lb_socket {
	struct lb_record record;
	__u32 sent_ref; /* the backend that this socket's last datagram went to */
	__u8 sender;    /* attachment + 1 that sent it there; 0: it was not translated */
	__u8 reserved[3];
	struct lb_pin pin[LB_PINS];
};

struct lb_more_pins {
	struct lb_pin pin[LB_MORE_PINS];
};

/*
 * Sets of peers. Before 5.12 the first way is a lock instead. The socket's cookie says whose a way is; a free way has 0.
 */
#if LB_LEGACY
#define LB_FIRST_WAY 1
struct lb_peer_set4 {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 cookie[LB_WAYS - 1];
	struct lb_peer4 unused;
	struct lb_peer4 peer[LB_WAYS - 1];
};
struct lb_peer_set6 {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 cookie[LB_WAYS - 1];
	struct lb_peer4 unused;
	struct lb_peer4 peer[LB_WAYS - 1];
	struct lb_peer6 unused_address;
	struct lb_peer6 address[LB_WAYS - 1];
};
#else
#define LB_FIRST_WAY 0
struct lb_peer_set4 {
	__u64 cookie[LB_WAYS];
	struct lb_peer4 peer[LB_WAYS];
};
struct lb_peer_set6 {
	__u64 cookie[LB_WAYS];
	struct lb_peer4 peer[LB_WAYS];
	struct lb_peer6 address[LB_WAYS];
};
#endif
#define LB_SET_WAYS (LB_WAYS - LB_FIRST_WAY)
LB_STATIC_ASSERT(sizeof(struct lb_peer_set4) == sizeof(struct lb_peers4));
LB_STATIC_ASSERT(sizeof(struct lb_peer_set6) == sizeof(struct lb_peers6));

#endif
