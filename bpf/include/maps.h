/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map of the balancer. Each object declares all of them; the loader makes them once and hands the same ones to all.
 * Sizes are defaults: the loader sets those that are the user's choice.
 */
#ifndef LB_MAPS_H
#define LB_MAPS_H

#include "abi.h"
#include "config.h"
#include "kernel.h"
#include "records.h"

#define LB_DEFAULT_INDICES (65536 + 1)

#define LB_MAPPED_ARRAY(name, size, type_of_value)      \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_ARRAY);       \
		__uint(map_flags, BPF_F_MMAPABLE);      \
		__uint(max_entries, size);              \
		__type(key, __u32);                     \
		__type(value, type_of_value);           \
	} name SEC(".maps")

/* Line -> ways of the keys that have their place there: address, port, protocol and scope -> slot.
 * Written by the controller: a way when its key is born, and after the commit that removes it. */
LB_MAPPED_ARRAY(lb_frontends, 8192, struct lb_frontends);

/* Slot -> the word that names its region, and its key.
 * The word is written by the controller in every commit: pending, then final; the key before anything names the slot. */
LB_MAPPED_ARRAY(lb_slots, LB_DEFAULT_INDICES, struct lb_slot);

/* Slot / 16 -> the addresses of IPv6 keys.
 * Written by the controller with the slot's key. */
LB_MAPPED_ARRAY(lb_keys6, LB_DEFAULT_INDICES / LB_KEYS6_PACKED + 1, struct lb_keys6);

/* n of a pending slot -> the words before and after the commit.
 * Written by the controller before the slot says "pending n". */
LB_MAPPED_ARRAY(lb_pending, LB_DEFAULT_INDICES, struct lb_pending);

/* Line -> 64 bytes of regions.
 * Written by the controller while no slot names them. */
LB_MAPPED_ARRAY(lb_table, 65536, struct lb_line);

/* Backend -> address, port, generation, state.
 * Written by the controller: the address before a region names it, the word on each change of state. */
LB_MAPPED_ARRAY(lb_backends, LB_DEFAULT_INDICES, struct lb_backend);

/* Backend that was removed -> from when its tracked connections end, as lb_reset_word() has it.
 * Written by the controller before the backend's word; what has another ref is of an earlier one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} lb_resets SEC(".maps");

/* 0 -> number of the last commit, and what holds for the whole balancer.
 * Written by the controller. */
LB_MAPPED_ARRAY(lb_control, 1, struct lb_control);

/* Range set and IPv4 address -> allowed.
 * Written by the controller. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_range4);
	__type(value, __u32);
} lb_ranges4 SEC(".maps");

/* Range set and IPv6 address -> allowed.
 * As lb_ranges4. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_range6);
	__type(value, __u32);
} lb_ranges6 SEC(".maps");

/* Address in the service ranges that a frontend has, whatever the port -> present; IPv4 as ::ffff:a.b.c.d.
 * Written by the controller before the first key with the address, and after the last; empty without service ranges. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct lb_peer6);
	__type(value, __u32);
} lb_held SEC(".maps");

/* Service -> where its round robin stands.
 * Moved by the programs at each choice (kernels from 5.12 on). */
LB_MAPPED_ARRAY(lb_cursors, LB_DEFAULT_INDICES, struct lb_cursor);

/* Stripe x backend -> connections.
 * Counted by the programs at each translated connect(), and at the first datagram to a service. */
LB_MAPPED_ARRAY(lb_usage, LB_STRIPES * LB_DEFAULT_INDICES, __u64);

/* Service -> rejects and drops.
 * Counted by the programs. */
LB_MAPPED_ARRAY(lb_failures, LB_DEFAULT_INDICES, __u64);

/* Stripe -> verdicts by hook and reason.
 * Counted by the programs for every verdict but forward, of which lb_usage tells. */
LB_MAPPED_ARRAY(lb_verdicts, LB_STRIPES, struct lb_verdicts);

/* Port / 8 -> which protocols and families use it as a node port or host port.
 * Written by the controller. */
LB_MAPPED_ARRAY(lb_ports, LB_PORT_ELEMENTS, struct lb_ports);

/* Set -> TCP sockets connected to IPv4 services, and the services' addresses, for getpeername.
 * A way is taken at connect() and given back at the next connect() or at release, by its socket. */
LB_MAPPED_ARRAY(lb_peers4, 8192, struct lb_peer_set4);

/* Set -> the same of IPv6 services.
 * As lb_peers4. */
LB_MAPPED_ARRAY(lb_peers6, 4096, struct lb_peer_set6);

/* Client and service -> the backend it has affinity to, and when it last used it.
 * Written by the programs at connect() and at the first datagram to a service. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct lb_affinity_key);
	__type(value, struct lb_affinity);
} lb_affinities SEC(".maps");

/* Socket -> what it was connected to, and its first pins.
 * Written by the programs, always under the socket's lock; goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lb_socket);
} lb_sockets SEC(".maps");

/* Socket -> the pins that lb_sockets has no room for.
 * Made for sockets that talk to more than LB_PINS services; otherwise as lb_sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lb_more_pins);
} lb_pins SEC(".maps");

/* Network namespace x attachment -> present.
 * Written by the controller for attachments that are not for all namespaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct lb_netns_key);
	__type(value, __u8);
} lb_netns SEC(".maps");

#if LB_LEGACY
/* Service -> where its round robin stands on each CPU, without an instruction that fetches.
 * Moved by the programs at each choice (kernels before 5.12). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_DEFAULT_INDICES);
	__type(key, __u32);
	__type(value, struct lb_cursor);
} lb_cursors_cpu SEC(".maps");
#endif

#endif
