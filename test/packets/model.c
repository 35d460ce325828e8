/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <string.h>

#define FLOWS (1u << 14)
#define SLOTS (1u << 16)

uint64_t model_clock;
static struct flow flows[FLOWS];
static uint32_t flow_count, by_backend[SLOTS], by_client[SLOTS]; /* number of the flow, from 1 */

static uint32_t hash(uint8_t protocol, const struct endpoint *a, const struct endpoint *b)
{
	uint64_t h = 0x9e3779b97f4a7c15ull * (protocol + 256u * a->family);

	for (int i = 0; i < 4; i++)
		h = (h ^ a->address[i] ^ (uint64_t)b->address[i] << 32) * 0xff51afd7ed558ccdull, h ^= h >> 33;
	h = (h ^ a->port ^ (uint64_t)b->port << 16) * 0xc4ceb9fe1a85ec53ull;
	return (h ^ h >> 29) & (SLOTS - 1);
}

static bool is_backends(const struct flow *f, uint8_t protocol, const struct endpoint *backend, const struct endpoint *source)
{
	return f->protocol == protocol && same(f->backend, *backend) && same(f->source, *source);
}

static bool is_clients(const struct flow *f, uint8_t protocol, const struct endpoint *client, const struct endpoint *service)
{
	return f->protocol == protocol && same(f->client, *client) && same(f->service, *service);
}

void model_clear(void)
{
	flow_count = 0;
	memset(by_backend, 0, sizeof by_backend);
	memset(by_client, 0, sizeof by_client);
}

static uint32_t *find(uint32_t *table, bool (*is)(const struct flow *, uint8_t, const struct endpoint *, const struct endpoint *),
		      uint8_t protocol, const struct endpoint *a, const struct endpoint *b)
{
	uint32_t i = hash(protocol, a, b);

	while (table[i] && !is(&flows[table[i] - 1], protocol, a, b))
		i = (i + 1) & (SLOTS - 1);
	return &table[i];
}

const struct flow *model_by_backend(uint8_t protocol, const struct endpoint *backend, const struct endpoint *source)
{
	uint32_t n = *find(by_backend, is_backends, protocol, backend, source);

	return n ? &flows[n - 1] : NULL;
}

const struct flow *model_by_client(uint8_t protocol, const struct endpoint *client, const struct endpoint *service)
{
	uint32_t n = *find(by_client, is_clients, protocol, client, service);

	return n ? &flows[n - 1] : NULL;
}

bool model_learn(const struct flow *f)
{
	uint32_t *backend = find(by_backend, is_backends, f->protocol, &f->backend, &f->source);
	uint32_t *client = find(by_client, is_clients, f->protocol, &f->client, &f->service);

	/* Answers that do not come by are known by nothing. */
	if (f->dsr)
		backend = client;
	/* Flows are added and not edited: both tables lead to the last one that had their pair. */
	if (*backend && *backend == *client && same(flows[*client - 1].backend, f->backend) && flows[*client - 1].dsr == f->dsr) {
		flows[*backend - 1].seen = model_clock;
		return true;
	}
	if (flow_count == FLOWS)
		return false;
	flows[flow_count] = *f;
	flows[flow_count++].seen = model_clock;
	*backend = *client = flow_count;
	return true;
}

bool model_ask(uint8_t protocol, const struct endpoint *client, const struct endpoint *service)
{
	uint32_t *n = find(by_client, is_clients, protocol, client, service);

	if (!*n) {
		if (flow_count == FLOWS)
			return false;
		flows[flow_count++] = (struct flow){ .client = *client, .service = *service, .protocol = protocol };
		*n = flow_count;
	}
	flows[*n - 1].lost = model_clock;
	return true;
}

bool model_doubt(uint8_t protocol, const struct endpoint *client, const struct endpoint *service)
{
	if (!model_ask(protocol, client, service))
		return false;
	flows[*find(by_client, is_clients, protocol, client, service) - 1].doubted = true;
	return true;
}

const struct flow *model_pick(uint32_t random)
{
	const struct flow *f = flow_count ? &flows[random % flow_count] : NULL;

	return f && f->backend.family ? f : NULL;
}
