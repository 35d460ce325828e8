/* SPDX-License-Identifier: Apache-2.0 */
/* Who talks to whom, as the packets that came out tell: what a later packet may become follows from it. */
#ifndef PACKETS_MODEL_H
#define PACKETS_MODEL_H

#include "world.h"

struct flow {
	struct endpoint client, service, backend, source; /* source: as the backend sees the client */
	uint8_t protocol;
	bool local, dsr; /* dsr: its answers do not come by */
	bool doubted; /* a peer may have said where it goes, or not */
	uint64_t seen, lost; /* when a packet of it came through last, and when a request was dropped: by model_clock */
};

extern uint64_t model_clock;

void model_clear(void);
/* The flow to which a backend's packet belongs: the last that was seen with this pair. NULL: none. */
const struct flow *model_by_backend(uint8_t protocol, const struct endpoint *backend, const struct endpoint *source);
const struct flow *model_by_client(uint8_t protocol, const struct endpoint *client, const struct endpoint *service);
/* False when the model is full. */
bool model_learn(const struct flow *f);
/* A request came to nothing; the connection that was made for it is not known. */
bool model_ask(uint8_t protocol, const struct endpoint *client, const struct endpoint *service);
/* It cannot be told whether this began a connection, and to which backend. */
bool model_doubt(uint8_t protocol, const struct endpoint *client, const struct endpoint *service);
/* Any flow; NULL when there is none. */
const struct flow *model_pick(uint32_t random);

#endif
