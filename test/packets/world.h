/* SPDX-License-Identifier: Apache-2.0 */
/* The packet programs, not attached to anything, and a network namespace whose devices, routes and neighbours they find. */
#ifndef PACKETS_WORLD_H
#define PACKETS_WORLD_H

#include "fixture.h"

enum hook { HOOK_INGRESS, HOOK_EGRESS, HOOK_WORKLOAD_INGRESS, HOOK_WORKLOAD_EGRESS, HOOK_XDP, HOOKS };
extern const char *const hook_names[HOOKS];

#define FRAME_MAX 65535
#define MAX_DEFINED 256
struct definition { /* of a service: what the fuzzer's model checks against */
	struct endpoint at;
	uint8_t protocol, flags;
	uint32_t policy;
	int count;
	struct endpoint backend[8];
	struct endpoint via[8]; /* family 0: none */
	uint32_t local;
};

struct world {
	struct fixture f;
	int program[HOOKS];
	struct lb_node *node;
	struct lb_traffic *traffic;
	uint32_t cpus;
	bool has_xdp_device; /* the kernel takes the device of a test run of XDP (5.15) */
	struct definition defined[MAX_DEFINED];
	int count;
	struct endpoint peer[2], stranger[2]; /* of each family: wrapped packets come from one that is known, or one that is not */
};

struct result {
	int verdict;
	uint32_t length;
	uint8_t frame[FRAME_MAX + 512];
};

/* `sets` of the table of connections; 0: as many as there are by default. */
void world_open(struct world *w, const char *objects, bool legacy, uint32_t sets);
void world_define(struct world *w, const struct definition *d, struct service_options options);
/* Wrapped packets are taken from this set of ranges. `at`: an address in it, and one that is not. */
void world_trust(struct world *w, uint32_t set, struct endpoint peer, struct endpoint stranger);
void world_allow(struct world *w, uint32_t set, struct endpoint network, int prefix);
/* What the programs remember of packets is gone; what they were told stays. */
void world_forget(struct world *w);
/* 0, or a negative error of the kernel: it takes no such packet. */
int world_run(const struct world *w, enum hook hook, int device, const uint8_t *frame, uint32_t length, struct result *result);
uint64_t world_counted(const struct world *w, enum lb_hook hook, int reason);

#endif
