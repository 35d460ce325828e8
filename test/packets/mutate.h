/* SPDX-License-Identifier: Apache-2.0 */
/* Where the fuzzer's packets come from. */
#ifndef PACKETS_MUTATE_H
#define PACKETS_MUTATE_H

#include "world.h"

struct input {
	int hook, device;
	uint32_t length;
	uint8_t frame[4096];
};

extern uint64_t random_state;
uint32_t random_below(uint32_t n);

void mutate_add_seed(int hook, int device, const uint8_t *frame, uint32_t length);
/* The next packet, from nothing but `random_state` and the model. */
void mutate_next(const struct world *w, struct input *in);

#endif
