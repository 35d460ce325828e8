/* SPDX-License-Identifier: Apache-2.0 */
/* What holds for every packet, whatever it was. */
#ifndef PACKETS_CHECK_H
#define PACKETS_CHECK_H

#include "mutate.h"

enum fate { FATE_PASSED, FATE_DROPPED, FATE_TO_BACKEND, FATE_TO_CLIENT, FATE_ANSWERED, FATE_ERROR, FATES };

/* NULL, and what became of the packet; or a sentence that says which promise is broken. */
const char *check(const struct world *w, const struct input *in, const struct result *out, enum fate *fate, bool *model_is_full);

#endif
