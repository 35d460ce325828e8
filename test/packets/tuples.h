/* SPDX-License-Identifier: Apache-2.0 */
/* Very many flows at once through services that share backends: whatever the order, each answer reaches who asked, from what was asked. */
#ifndef PACKETS_TUPLES_H
#define PACKETS_TUPLES_H

#include "world.h"

/* Prints progress; false, with a description, at the first packet that breaks a promise. */
bool tuples_run(struct world *w, uint32_t count, uint32_t seed);

#endif
