/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that nobody thought of: mutations of known ones and random flows, checked against a model of who talks to whom. */
#ifndef PACKETS_FUZZ_H
#define PACKETS_FUZZ_H

#include "world.h"

void fuzz_seed(int hook, int device, const char *hex);
/* `hook`: -1 for all. Prints progress; false, with a description, at the first packet that breaks a promise. */
bool fuzz_run(struct world *w, int hook, uint64_t packets, uint32_t seed);

#endif
