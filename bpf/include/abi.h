/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layouts that the programs (bpf/) and the controller (native/core) share: every struct, bit field and limit of the maps
 * is written here and nowhere else. Plain C that clang -target bpf and a C++20 compiler both take; docs/architecture.md
 * says what the words mean. A change of anything below is a change of LB_LAYOUT.
 */
#ifndef LB_ABI_H
#define LB_ABI_H

#include <linux/types.h>

#define LB_LAYOUT 4 /* stored in lb_control.layout; open() refuses pins of another one */

#ifdef __cplusplus
#define LB_STATIC_ASSERT(c) static_assert(c)
#else
#define LB_STATIC_ASSERT(c) _Static_assert(c, #c)
#endif
#define LB_INLINE static inline __attribute__((always_inline, unused))

/* ---- indices -------------------------------------------------------------------------------------------------- */

#define LB_INDEX_BITS 20 /* slots, backends and services: index 0 is never given out */
#define LB_INDEX_MAX ((1u << LB_INDEX_BITS) - 1)
#define LB_GENERATION_BITS 12
#define LB_GENERATION_MASK ((1u << LB_GENERATION_BITS) - 1)

enum lb_family { LB_IPV4 = 4, LB_IPV6 = 6 };
/* Where a packet comes from: internal = sockets and workloads of this node, external = outside. */
enum lb_scope { LB_SCOPE_INTERNAL = 0, LB_SCOPE_EXTERNAL = 1 };
enum lb_hook { LB_HOOK_SOCKET = 0, LB_HOOK_TC = 1, LB_HOOK_XDP = 2, LB_HOOK_COUNT = 3 };
enum lb_verdict { LB_FORWARD = 0, LB_PASS = 1, LB_REJECT = 2, LB_DROP = 3 };
enum lb_algorithm { LB_RANDOM = 0, LB_ROUND_ROBIN = 1, LB_MAGLEV = 2, LB_SOURCE_HASH = 3 };

/*
 * ---- frontends: a hash table of 64-byte lines --------------------------------------------------------------------
 * A key's place is one of the ways of its line, or where those were all taken, of one of the lines after it. A way names a
 * slot, and the slot has the whole key. A key that lives never moves, and a slot rests before it is another key's, so who
 * finds the slot by a way may compare the key there, whatever has become of the way meanwhile.
 */

LB_INLINE __u64 lb_mix64(__u64 x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return x;
}

/* The words of a key: address[0] of IPv4, address[3] of IPv6, and the rest of what is not an address. */
#define LB_KEY_IPV6 (1ull << 63)
LB_INLINE __u64 lb_key_word(__be32 address, __be16 port, __u8 protocol, __u8 scope, int six)
{
	return (__u64)address | (__u64)((__u32)port | (__u32)protocol << 16 | (__u32)scope << 24) << 32 | (six ? LB_KEY_IPV6 : 0);
}

/*
 * Two rounds for every word: after one, the low bits of the line do not know the high bits of the word, and addresses times
 * ports, which is what frontends are, crowd into few lines.
 */
LB_INLINE __u64 lb_key_hash(__u64 word, const __be32 *address, int six, __u64 seed)
{
	__u64 x = word ^ seed;

	if (six) {
		x ^= ((__u64)address[0] << 32 | address[1]) * 0x9e3779b97f4a7c15ull;
		x ^= x >> 32;
		x = x * 0xd6e8feb86659fd93ull + address[2];
	}
	x *= 0x9e3779b97f4a7c15ull;
	x ^= x >> 32;
	return x * 0xd6e8feb86659fd93ull;
}

#define LB_FRONTEND_WAYS 14
#define LB_FRONTEND_LINES 8 /* that a key may lie in: from its own on, round the end */
struct lb_frontends {
	__u64 signs; /* a bit for the hash of each key here; LB_SIGN_MORE: a key of this line, or one before it, lies further on */
	__u32 way[LB_FRONTEND_WAYS]; /* tag of the hash, never 0 | slot; 0: free */
};
LB_STATIC_ASSERT(sizeof(struct lb_frontends) == 64);

#define LB_SIGN_MORE (1ull << 63)
LB_INLINE __u32 lb_hash_line(__u64 hash) { return (__u32)(hash >> 32); } /* and the number of lines less 1 */
LB_INLINE __u64 lb_hash_sign(__u64 hash) { return 1ull << ((hash >> 58) * 63 >> 6); }
#define LB_WAY_TAKEN (1u << LB_INDEX_BITS) /* lowest bit of each tag */
LB_INLINE __u32 lb_hash_way(__u64 hash) { return (__u32)(hash >> 52) << LB_INDEX_BITS | LB_WAY_TAKEN; } /* the way of slot 0 */
LB_INLINE __u32 lb_way_slot(__u32 way) { return way & LB_INDEX_MAX; }

/* The first three words of the addresses of IPv6 keys: the fourth is in the slot's own. Packed, as there are many. */
#define LB_KEYS6_PACKED 16
struct lb_keys6 {
	__be32 address[LB_KEYS6_PACKED][3];
};

/* ---- slots ------------------------------------------------------------------------------------------------------
 * absent:  kind 0 | generation
 * final:   kind 1 | generation | region
 * pending: kind 2 | number (42) | n, an index into pending[]
 */
enum lb_slot_kind { LB_SLOT_ABSENT = 0, LB_SLOT_FINAL = 1, LB_SLOT_PENDING = 2 };

#define LB_REGION_BITS 24 /* first line of the region in the table */
#define LB_NUMBER_BITS 42
#define LB_NUMBER_MASK ((1ull << LB_NUMBER_BITS) - 1)

LB_INLINE __u32 lb_slot_kind(__u64 w) { return (__u32)(w >> 62); }
LB_INLINE __u32 lb_slot_region(__u64 w) { return (__u32)w & ((1u << LB_REGION_BITS) - 1); }
LB_INLINE __u32 lb_slot_generation(__u64 w) { return (__u32)(w >> LB_REGION_BITS) & LB_GENERATION_MASK; }
LB_INLINE __u64 lb_slot_absent(__u32 generation) { return (__u64)(generation & LB_GENERATION_MASK) << LB_REGION_BITS; }
LB_INLINE __u64 lb_slot_final(__u32 region, __u32 generation)
{
	return (__u64)LB_SLOT_FINAL << 62 | lb_slot_absent(generation) | region;
}
LB_INLINE __u64 lb_slot_pending(__u64 number, __u32 n)
{
	return (__u64)LB_SLOT_PENDING << 62 | (number & LB_NUMBER_MASK) << LB_INDEX_BITS | n;
}
LB_INLINE __u32 lb_pending_index(__u64 w) { return (__u32)w & LB_INDEX_MAX; }
LB_INLINE __u64 lb_pending_number(__u64 w) { return w >> LB_INDEX_BITS & LB_NUMBER_MASK; }
/* Has commit `number` been reached when the control word says `committed`? Both modulo 2^42. */
LB_INLINE int lb_number_reached(__u64 committed, __u64 number)
{
	return ((committed - number) & LB_NUMBER_MASK) < 1ull << (LB_NUMBER_BITS - 1);
}

struct lb_slot {
	__u64 word;
	__u64 key; /* lb_key_word(): written while nothing names the slot */
};

struct lb_pending {
	__u64 before;
	__u64 after;
};

/* ---- table: regions of 64-byte lines, a head (4 words) and then the cells ---------------------------------------- */

#define LB_LINE_WORDS 8
#define LB_HEAD_WORDS 4

enum lb_region_flag {
	LB_REGION_DROP = 1 << 0,       /* no backends: drop instead of reject */
	LB_REGION_LOCAL_ONLY = 1 << 1, /* no cells because the policy is Local and no backend is on this node */
	LB_REGION_TRACK = 1 << 2,      /* onBackendRemoved is 'reset': TCP sockets are recorded in socket storage, where a sweep finds them */
	LB_REGION_SNAT = 1 << 3,       /* packet hooks, backends elsewhere: translate the source, whatever enableDSR says */
	LB_REGION_DSR = 1 << 4,        /* packet hooks, backends elsewhere: direct server return */
	LB_REGION_NEAR = 1 << 6,       /* IPv4, no more cells than fit beside the head, no affinity, no anchors: see lb_cell_near() */
	LB_REGION_ANCHORED = 1 << 5,   /* its cells have anchors: DSR flows need memory only where a cell says so */
	LB_REGION_SUCCEEDS = 1 << 7,   /* the word behind its cells and members is the line of the region before it, whose anchors count for a while */
};

/* Which of a service's backend sets a region is made of; also the bits lb_backend_flag uses. */
enum lb_pool { LB_POOL_CLUSTER = 0, LB_POOL_INTERNAL = 1, LB_POOL_EXTERNAL = 2 };

struct lb_head {
	__u32 serial;   /* raised each time these lines are written, stored last: for readers in user space */
	__u32 service;  /* service id */
	__u32 length;   /* number of cells; 0: no backends */
	__u32 members;  /* with affinity: number of distinct backends listed, ascending, after the cells */
	__u32 affinity; /* timeout in seconds; 0: none */
	__u8 algorithm;
	__u8 pool;
	__u8 flags;  /* enum lb_region_flag */
	__u8 family; /* enum lb_family of the backends */
	__u32 policy; /* id of a source range set; 0: everyone may */
	__u32 changed; /* anchored: seconds of CLOCK_MONOTONIC when its backends last changed */
};
LB_STATIC_ASSERT(sizeof(struct lb_head) == LB_HEAD_WORDS * 8);

struct lb_line {
	union {
		__u64 word[LB_LINE_WORDS];
		struct {
			struct lb_head head;
			__u64 cell[LB_LINE_WORDS - LB_HEAD_WORDS];
		};
	};
};
LB_STATIC_ASSERT(sizeof(struct lb_line) == 64);

/* A cell: the backend for new flows, the one where flows of which nothing is remembered belong, and "remembered". */
#define LB_CELL_ANCHOR_SHIFT 24
#define LB_CELL_REMEMBERED (1ull << 63)
LB_INLINE __u64 lb_cell(__u32 current, __u32 anchor) { return (__u64)anchor << LB_CELL_ANCHOR_SHIFT | current; }
LB_INLINE __u32 lb_cell_current(__u64 c) { return (__u32)c & LB_INDEX_MAX; }

/*
 * Near cells: what else a connect() needs of the backend, so that it reads no other line. Generation of the backend over its
 * index, and its address; the ports are in head.members, of the first two cells, and head.changed.
 */
#define LB_NEAR_CELLS (LB_LINE_WORDS - LB_HEAD_WORDS)
LB_INLINE __u64 lb_cell_near(__u32 index, __u32 generation, __be32 address)
{
	return (__u64)address << 32 | (generation & LB_GENERATION_MASK) << LB_INDEX_BITS | index;
}
LB_INLINE __u32 lb_near_generation(__u64 c) { return (__u32)c >> LB_INDEX_BITS; }
LB_INLINE __be16 lb_near_port(const struct lb_head *h, __u32 cell)
{
	return (__be16)((cell & 2 ? h->changed : h->members) >> (cell & 1) * 16);
}

LB_INLINE __u32 lb_cell_anchor(__u64 c) { return (__u32)(c >> LB_CELL_ANCHOR_SHIFT) & LB_INDEX_MAX; }
/* Is a flow's cell always the same? With affinity the client's entry decides, and a random choice is remembered, too. */
LB_INLINE int lb_cells_last(__u8 algorithm, __u32 affinity)
{
	return (algorithm == LB_MAGLEV || algorithm == LB_SOURCE_HASH) && !affinity;
}

/* ---- backends: one index for each (service, address, port) ------------------------------------------------------- */

enum lb_backend_flag {
	LB_BACKEND_LIVE = 1 << 0,     /* the index is given out */
	LB_BACKEND_EXISTING = 1 << 1, /* connected and pinned UDP sockets may stay */
	LB_BACKEND_POOLS = 1 << 2,    /* << enum lb_pool: has cells in the regions of that pool; for people and checks, choices go by cells */
	LB_BACKEND_LOCAL = 1 << 5,    /* on this node: packets go to it with the client's address, and its answers pass here */
	LB_BACKEND_VIA = 1 << 6,      /* DSR: lb_vias has the outer destination; else it is the backend */
};

struct lb_backend {
	__u64 word;        /* port (be16) | generation 12 << 16 | service 20 << 28 | flags 8 << 48 */
	__be32 address[4]; /* IPv4: address[0], the rest 0 */
};
LB_STATIC_ASSERT(sizeof(struct lb_backend) == 24);

LB_INLINE __u64 lb_backend_word(__be16 port, __u32 generation, __u32 service, __u32 flags)
{
	return (__u64)port | (__u64)(generation & LB_GENERATION_MASK) << 16 | (__u64)service << 28 | (__u64)flags << 48;
}
LB_INLINE __be16 lb_backend_port(__u64 w) { return (__be16)w; }
LB_INLINE __u32 lb_backend_generation(__u64 w) { return (__u32)(w >> 16) & LB_GENERATION_MASK; }
LB_INLINE __u32 lb_backend_service(__u64 w) { return (__u32)(w >> 28) & LB_INDEX_MAX; }
LB_INLINE __u32 lb_backend_flags(__u64 w) { return (__u32)(w >> 48) & 0xff; }

/* A backend as sockets and affinities remember it: index and generation, 32 bits. */
LB_INLINE __u32 lb_backend_ref(__u32 index, __u32 generation)
{
	return index << LB_GENERATION_BITS | (generation & LB_GENERATION_MASK);
}
LB_INLINE __u32 lb_ref_index(__u32 ref) { return ref >> LB_GENERATION_BITS; }
LB_INLINE __u32 lb_ref_generation(__u32 ref) { return ref & LB_GENERATION_MASK; }

/*
 * lb_resets[backend], of one that was removed: its ref, and the second of CLOCK_MONOTONIC from which on TCP connections with it that are tracked
 * end.
 */
LB_INLINE __u64 lb_reset_word(__u32 ref, __u32 seconds) { return (__u64)ref << 32 | seconds; }
LB_INLINE __u32 lb_reset_ref(__u64 w) { return (__u32)(w >> 32); }
LB_INLINE __u32 lb_reset_seconds(__u64 w) { return (__u32)w; }

/* ---- control: one element, mmap'ed --------------------------------------------------------------------------------- */

struct lb_control {
	__u64 number;       /* the last commit; release store */
	__u64 log;          /* which log segment lives: 0 or 1 */
	__u64 layout;       /* LB_LAYOUT */
	__u64 instance;     /* random, made at creation */
	__u64 host_netns;   /* cookie of the balancer's own namespace: bind protection is there only; 0: nowhere */
	__u64 attachments;  /* bit i: attachment id i is live */
	__u64 capacity[5];  /* frontends, backends, cells, connections, affinities, as opened */
	__u64 retired_connections; /* of backends whose counters were given back */
	__u64 owner;        /* pid of the writer, 0: none */
	__u64 leaving;      /* close() with detach has begun: whoever opens next ends it */
	__u64 retiring;     /* odd: counters are being moved from a backend to retired ones; readers of sums try again */
	__u64 service_ranges; /* range set: addresses that are services' alone; 0: none */
};
LB_STATIC_ASSERT(sizeof(struct lb_control) == 128);

/* ---- counters ---------------------------------------------------------------------------------------------------- */

#define LB_STRIPES 8 /* counters are kept per CPU modulo this; a power of two */
/* lb_usage[stripe * backends + backend]: connections. lb_failures[service]: rejects and drops. */
/* lb_verdicts[stripe]: one struct for each stripe. */
#define LB_REASON_SPACE 64
/* No reasons have these numbers: what packet hooks have translated, in both directions. Of lb_traffic; told along with the reasons. */
#define LB_COUNT_PACKETS 0
#define LB_COUNT_BYTES (LB_REASON_SPACE - 1)
struct lb_verdicts {
	__u64 count[LB_HOOK_COUNT][LB_REASON_SPACE];
};

/* lb_traffic[CPU]: what there is most of, counted without atomic steps: packet programs of a CPU are never interrupted by one another. */
struct lb_traffic_counts {
	__u64 packets; /* translated, in both directions */
	__u64 bytes;
	__u64 passed;  /* LB_REASON_NOT_A_SERVICE */
	__u64 reserved;
};
struct lb_traffic {
	struct lb_traffic_counts hook[LB_HOOK_COUNT - 1]; /* without LB_HOOK_SOCKET */
};
LB_STATIC_ASSERT(sizeof(struct lb_traffic) == 64);

struct lb_cursor {
	__u32 position4; /* round-robin position of the IPv4 cells */
	__u32 position6;
};

/* ---- ports in use by node port and host port frontends: 8 ports for each element ---------------------------------- */

enum lb_port_use {
	LB_PORT_TCP4 = 1 << 0,
	LB_PORT_UDP4 = 1 << 1,
	LB_PORT_TCP6 = 1 << 2,
	LB_PORT_UDP6 = 1 << 3,
	LB_PORT_SCTP4 = 1 << 4, /* for SNAT only: no hook sees SCTP bind */
	LB_PORT_SCTP6 = 1 << 5,
};
#define LB_PORT_USES 6
struct lb_ports {
	__u8 use[8];
};
#define LB_PORT_ELEMENTS (65536 / 8)

/* ---- affinity ------------------------------------------------------------------------------------------------------ */

enum lb_client_kind { LB_CLIENT_NETNS = 1, LB_CLIENT_ADDRESS = 2 };
struct lb_affinity_key {
	__u32 service;
	__u8 family; /* of the backends */
	__u8 kind;   /* enum lb_client_kind */
	__u16 reserved;
	__u64 client[2]; /* namespace cookie and 0, or the source address */
};
LB_STATIC_ASSERT(sizeof(struct lb_affinity_key) == 24);

/* The tag is written once with the element, before and behind the word: a reader that finds both has the word of its key. */
struct lb_affinity {
	__u64 tag;
	__u64 word; /* seconds since boot (32) << 32 | backend ref (32) */
	__u64 tag_again;
};

LB_INLINE __u64 lb_affinity_tag(const struct lb_affinity_key *k)
{
	return lb_mix64(k->client[0] ^ lb_mix64(k->client[1] + ((__u64)k->service << 16 | (__u32)k->family << 8 | k->kind))) | 1;
}

/* ---- sockets ------------------------------------------------------------------------------------------------------- */

#define LB_PINS 4       /* of an unconnected UDP socket, in lb_sockets */
#define LB_MORE_PINS 64 /* in lb_pins, for sockets that talk to more services */

/* slot 20 | its generation 12 | backend 20 | its generation 12; 0: free. */
LB_INLINE __u64 lb_pin_word(__u32 slot_ref, __u32 backend_ref) { return (__u64)slot_ref << 32 | backend_ref; }
LB_INLINE __u32 lb_slot_ref(__u32 slot, __u32 generation) { return lb_backend_ref(slot, generation); }
LB_INLINE __u32 lb_pin_slot_ref(__u64 w) { return (__u32)(w >> 32); }
LB_INLINE __u32 lb_pin_backend_ref(__u64 w) { return (__u32)w; }

struct lb_pin {
	__u64 word;
	__be32 address[4]; /* service address, IPv4 in address[0] */
	__be16 port;
	__u8 family;
	__u8 reserved[5];
};
LB_STATIC_ASSERT(sizeof(struct lb_pin) == 32);

/* What a connected socket was connected to; valid only while backend and backend_port equal the socket's peer. */
struct lb_record {
	__be32 service[4];
	__be32 backend[4];
	__be16 service_port;
	__be16 backend_port;
	__u32 backend_ref; /* 0: no record */
	__u8 family;
	__u8 attachment; /* id of the attachment that wrote it */
	__u8 protocol;
	__u8 more; /* the socket has pins in lb_pins; of TCP: it is tracked */
	__u32 tgid;
	__u64 cookie;
};
LB_STATIC_ASSERT(sizeof(struct lb_record) == 56);

/* What the sweep of sockets reads for each socket of the record map, in one write of the iterator. */
enum lb_stale_reason {
	LB_STALE_REMOVED = 1,   /* the backend is gone */
	LB_STALE_MOVED_OFF = 2, /* it takes no connected UDP sockets */
};
struct lb_stale {
	struct lb_record record;
	__u32 netns;  /* inode number of the socket's network namespace (net->ns.inum) */
	__u32 reason; /* enum lb_stale_reason */
};

/*
 * Peers of TCP sockets, for getpeername: 8-way sets, found by a hash of the socket. A way belongs to who holds its cookie. Before
 * kernel 5.12 the first word is a lock, and the first way is not used.
 */
#define LB_WAYS 8
#define LB_WAY_BUSY (1ull << 63)
#define LB_WAY_DEAD (1ull << 62) /* of an attachment that is gone: freed after a grace period (sweep.bpf.c) */
struct lb_peer4 {
	__be32 address;
	__be16 port;
	__u8 attachment;
	__u8 check; /* hash of the backend's address */
};
struct lb_peers4 {
	__u64 cookie[LB_WAYS];
	struct lb_peer4 peer[LB_WAYS];
};
LB_STATIC_ASSERT(sizeof(struct lb_peers4) == 128);
struct lb_peer6 {
	__be32 address[4];
};
struct lb_peers6 {
	__u64 cookie[LB_WAYS];
	struct lb_peer4 peer[LB_WAYS]; /* port and attachment; address unused */
	struct lb_peer6 address[LB_WAYS];
};
LB_STATIC_ASSERT(sizeof(struct lb_peers6) == 256);

/* What lb_mark_ways and lb_free_ways are asked: a test run looks at one set and moves on to the next, and is repeated. */
struct lb_ways_task {
	__u32 family;
	__u32 set;
	__u32 changed; /* ways, so far */
	__u32 reserved;
};

/* Namespaces of attachments that are not for all of them. */
struct lb_netns_key {
	__u64 cookie;
	__u32 attachment;
	__u32 reserved;
};

/* ---- packet hooks --------------------------------------------------------------------------------------------------- */

/* What the programs of a device do: see docs/architecture.md, Packets. */
/* lb_gate: what the gates at tc lead to. */
enum lb_gate_key { LB_GATE_INGRESS = 0, LB_GATE_EGRESS = 1 };
enum lb_role { LB_ROLE_EXTERNAL = 0, LB_ROLE_WORKLOAD = 1 };

/* Settings of the packet hooks: one element of lb_node, mmap'ed, each field read once and by itself. */
enum lb_dispatch { LB_DISPATCH_IPIP = 0, LB_DISPATCH_GENEVE = 1, LB_DISPATCH_OPTION = 2, LB_DISPATCH_L2 = 3 };
enum lb_dsr_flag {
	LB_DSR_ALL = 1 << 0,  /* services that say nothing use DSR; else only those with LB_REGION_DSR */
	LB_DSR_TCP = 1 << 1,  /* protocols */
	LB_DSR_UDP = 1 << 2,
	LB_DSR_SCTP = 1 << 3,
	LB_DSR_ON = 1 << 4,
};
enum lb_node_flag {
	LB_NODE_MASQUERADE_ALL = 1 << 0, /* what workloads send to services leaves with the node's address, wherever the backend is */
};
struct lb_node {
	__be32 address4;    /* source of SNAT and of outer headers; 0: none of this family */
	__be32 address6[4];
	__u16 snat_low;     /* first and last port of SNAT, host order */
	__u16 snat_high;
	__u32 idle_tcp;     /* seconds for which a silent flow is remembered: TCP and SCTP */
	__u32 idle_udp;
	__u16 dsr;          /* enum lb_dsr_flag */
	__u16 dispatch;     /* enum lb_dispatch */
	__u32 peers;        /* range set: outer sources whose packets are decapsulated; 0: nobody's */
	__u32 pods;         /* range set: workloads of this node; 0: not known */
	__u32 masquerade;   /* range set: sources that leave with the node's address; 0: none */
	__u32 masquerade_exclude; /* range set: destinations that do not need it */
	__u32 flags;        /* enum lb_node_flag */
	__u32 routes;       /* raised when something about devices, addresses, routes, rules or neighbours has changed */
	__u32 routes_until; /* second of CLOCK_MONOTONIC up to which ways depend on nothing but device, destination and TOS */
};
LB_STATIC_ASSERT(sizeof(struct lb_node) == 64);

/* Range sets: a longest-prefix match on (set, address). A set that has changed has another id; 0 is no set. */
struct lb_range4 {
	__u32 prefix; /* bits of what follows: 32 for the set, then those of the network */
	__u32 set;
	__be32 address;
};
struct lb_range6 {
	__u32 prefix;
	__u32 set;
	__be32 address[4];
};

/*
 * Connections. An entry describes a flow and both its directions. Entries are the ways of 8-way sets; a key has two sets that it may lie in.
 * Who holds a way is told by its owner word, which is in an array of its own, so that a look at a set is a look at one line:
 *     tag of the client's side 48 | serial 15, raised whenever the way changes hands | 1: being written;   tag 0: free
 * An entry is read between two looks at its owner. What belongs to the entry in lb_replies is a hint: tag | serial of the owner | index,
 * valid only while the owner has that serial, so the two directions cannot be lost apart. Nothing is ever freed by a clock: a way whose
 * entry has been silent for its time is one that a new flow may take.
 * Before kernel 5.12 the first word of a set is a lock, and the first way is not used.
 */
#define LB_FLOW_WAYS 8
#define LB_OWNER_BUSY 1ull
#define LB_OWNER_SERIAL_BITS 15
#define LB_OWNER_TAG_SHIFT (LB_OWNER_SERIAL_BITS + 1)
LB_INLINE __u64 lb_owner_tag(__u64 owner) { return owner >> LB_OWNER_TAG_SHIFT; }
LB_INLINE __u32 lb_owner_serial(__u64 owner) { return (__u32)(owner >> 1) & ((1u << LB_OWNER_SERIAL_BITS) - 1); }
LB_INLINE __u64 lb_owner(__u64 tag, __u32 serial, __u64 busy)
{
	return tag << LB_OWNER_TAG_SHIFT | (__u64)(serial & ((1u << LB_OWNER_SERIAL_BITS) - 1)) << 1 | busy;
}
struct lb_owners {
	__u64 way[LB_FLOW_WAYS];
};
#define LB_CONNECTION_BITS 25
/* Word of lb_replies: tag 24 | serial 15 | index 25; 0: free. */
LB_INLINE __u64 lb_reply_word(__u32 tag, __u32 serial, __u32 index)
{
	return (__u64)tag << 40 | (__u64)serial << LB_CONNECTION_BITS | index;
}
LB_INLINE __u32 lb_reply_tag(__u64 w) { return (__u32)(w >> 40); }
LB_INLINE __u32 lb_reply_serial(__u64 w) { return (__u32)(w >> LB_CONNECTION_BITS) & ((1u << LB_OWNER_SERIAL_BITS) - 1); }
LB_INLINE __u32 lb_reply_index(__u64 w) { return (__u32)w & ((1u << LB_CONNECTION_BITS) - 1); }

#define LB_CLOSED_SECONDS 60 /* for which an entry stays after a reset, or a FIN of both sides */

/* lb_vias[backend]: where encapsulated packets for it go. The hash may give the element to another backend while it is read: both refs tell. */
struct lb_via {
	__u32 ref; /* of the backend */
	__be32 address[4];
	__u32 family; /* enum lb_family */
	__u32 ref_again;
};

/*
 * lb_locals: the backend of a service that has this address, or this outer destination, on this node (IPv4 as ::ffff:a.b.c.d). With LB_LOCAL_NTH
 * the address is a number instead: 1 and so on of those of the family; 0: how many there are. The value is a backend index.
 */
#define LB_LOCAL_NTH 0x100
struct lb_local_key {
	__u32 service;
	__u32 family; /* of the packet inside */
	__be32 address[4];
};

/*
 * lb_next_hops[CPU * entries for each + place]: what the routing table answered about a destination. It counts for a while, for the same question, and
 * as long as lb_node.routes is the same: bpf/include/next_hop.h.
 */
#define LB_NEXT_HOPS 4096 /* for each CPU, at most */
struct lb_next_hop {
	__be32 destination[4];
	__u32 arrived; /* device that the packet came in by */
	__u32 asked;   /* by whom, and for what kind of packet */
	__u32 routes;  /* lb_node.routes, before it was asked */
	__u32 mtu;     /* or, before 5.12, the longest packet that was asked for */
	__u64 at;      /* jiffies */
	__u32 device;
	__u32 link[3]; /* destination and source of the frame */
	__u32 reserved[2];
};
LB_STATIC_ASSERT(sizeof(struct lb_next_hop) == 64);

enum lb_mode {
	LB_MODE_LOCAL = 0,
	LB_MODE_SNAT = 1,
	LB_MODE_DSR = 2,
	LB_MODE_MASQUERADE = 3, /* no service's: a workload's connection to outside; service and backend are where it goes */
};
/* What was seen of a connection. TCP: the flags that either side sent. */
enum lb_life {
	LB_LIFE_OPENED = 1 << 0,     /* more than SYNs, or UDP in both directions */
	LB_LIFE_FIN_CLIENT = 1 << 1,
	LB_LIFE_FIN_BACKEND = 1 << 2,
	LB_LIFE_RESET = 1 << 3,
	LB_LIFE_ANSWERED = 1 << 4,   /* the backend sent something */
	LB_LIFE_TRACKED = 1 << 5,    /* it ends when its backend is removed: see lb_reset_word() */
};
struct lb_connection {
	__be32 client[4];  /* IPv4: the first word, the rest 0 */
	__be32 service[4]; /* as the client sees it */
	__be32 backend[4];
	__be32 source[4];  /* as the backend sees the client: its own address, or the node's */
	__be16 client_port;
	__be16 service_port;
	__be16 backend_port;
	__be16 source_port;
	__u8 protocol;
	__u8 family; /* enum lb_family */
	__u8 mode;   /* enum lb_mode */
	__u8 overhead; /* bytes that a peer wraps its packets in; 0: they come as they are. DSR: family of `via` */
	__u32 backend_ref;
	__u64 life;    /* seconds of CLOCK_MONOTONIC when last seen << 32 | enum lb_life */
	__u32 created; /* likewise */
	__u32 service_id;
	__u64 packets; /* both directions */
	__u64 bytes;
	__be32 via[4]; /* DSR: outer destination, if it is another than the backend; what counts once the backend is gone */
};
LB_STATIC_ASSERT(sizeof(struct lb_connection) == 128);

/* ---- decide.bpf.c: a question and its answer, as the data of BPF_PROG_TEST_RUN ------------------------------------- */

struct lb_query {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 family;
	__u32 scope;
	__u64 client; /* namespace cookie */
	__u64 socket; /* per-socket number (the cookie) */
	__be32 source[4]; /* of a packet: who the client is, with what follows */
	__be16 source_port;
	__u16 packet; /* 1: a packet hook is asked about, else a socket hook */
	__u32 reserved;
};

enum lb_answer_flag { LB_ANSWER_AFFINITY = 1 };
struct lb_answer {
	__u8 verdict;
	__u8 reason;
	__u8 flags; /* enum lb_answer_flag */
	__u8 reserved;
	__u32 slot;
	__u32 slot_generation;
	__u32 region;
	__u32 service;
	__u32 backend; /* index; 0: none */
	__u32 backend_generation;
	__u32 affinity_left; /* seconds */
	__be32 address[4];
	__be16 port;
	__u16 reserved2;
	__u32 cell;
};
struct lb_decision {
	struct lb_query query;
	struct lb_answer answer;
};

#endif
