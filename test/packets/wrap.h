/* SPDX-License-Identifier: Apache-2.0 */
/* How load balancers hand packets to each other's backends (direct server return), read and written a second time: shares nothing with dsr.h. */
#ifndef PACKETS_WRAP_H
#define PACKETS_WRAP_H

#include "mutate.h"
#include "verify.h"

enum wrapping { WRAP_NONE, WRAP_IPIP, WRAP_GENEVE, WRAP_OPTION };

/*
 * What a frame without tags is wrapped in. `inner`: the frame without that, as sound or unsound as it is; `service`: the address that was translated,
 * of Geneve and of an option. An option stays in the frame: `inner` is what it was without.
 */
enum wrapping wrap_read(const uint8_t *frame, uint32_t length, struct input *inner, struct endpoint *service);

/* Wraps the packet of `in`, which has no tag, in a header of its own. `service`: of Geneve. */
void wrap_ipip(struct input *in, const struct endpoint *from, const struct endpoint *to);
void wrap_geneve(struct input *in, const struct endpoint *from, const struct endpoint *to, const struct endpoint *service);
/* Puts the option into the packet, which has none. */
void wrap_option(struct input *in, const struct endpoint *service);

#endif
