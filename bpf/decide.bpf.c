// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What explain() asks: a program that is never attached. The data of a test run is a struct lb_decision: the question comes
 * in, the answer goes out in its place. It chooses with the code of the hooks and changes nothing.
 */
#include "abi.h"
#include "config.h"
#include "counters.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"
#include "ranges.h"
#include "reasons.h"
#include "select.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

LB_INLINE enum lb_verdict lb_verdict_of(enum lb_reason reason)
{
	switch (reason) {
	case LB_REASON_FORWARDED:
		return LB_FORWARD;
	case LB_REASON_NOT_A_SERVICE:
		return LB_PASS;
	case LB_REASON_NO_BACKENDS:
	case LB_REASON_NO_SUCH_PORT:
		return LB_REJECT;
	default:
		return LB_DROP;
	}
}

LB_INLINE void lb_answer_region(struct lb_answer *answer, const struct lb_region *region)
{
	answer->slot = region->slot;
	answer->slot_generation = region->generation;
	answer->region = region->first;
	answer->service = region->line ? region->line->head.service : 0;
}

LB_INLINE void lb_answer_choice(struct lb_answer *answer, const struct lb_choice *choice)
{
	answer->backend = choice->index;
	answer->backend_generation = lb_backend_generation(choice->word);
	answer->cell = choice->cell;
	answer->port = lb_backend_port(choice->word);
	answer->affinity_left = choice->affinity_left;
	answer->flags = choice->affinity_left ? LB_ANSWER_AFFINITY : 0;
	lb_address_copy(answer->address, choice->address);
}

SEC("tc")
int lb_decide(struct __sk_buff *skb)
{
	struct lb_decision *decision = (void *)(long)skb->data;
	struct lb_region region = {};
	struct lb_choice choice = {};
	struct lb_answer answer = {};
	enum lb_reason reason;
	struct lb_flow flow;

	if ((void *)(decision + 1) > (void *)(long)skb->data_end)
		return -1;
	lb_address_copy(flow.address, decision->query.address);
	flow.port = decision->query.port;
	flow.protocol = decision->query.protocol;
	flow.family = decision->query.family;
	flow.scope = decision->query.scope;
	flow.client_kind = LB_CLIENT_NETNS;
	flow.client = decision->query.client;
	flow.client_low = 0;
	flow.socket = decision->query.socket;
	if (decision->query.packet) {
		lb_flow_set_client(&flow, decision->query.source);
		flow.socket = decision->query.source_port;
	}

	reason = lb_frontend_find(&flow, &region);
	if (region.slot)
		lb_answer_region(&answer, &region);
	if (reason == LB_REASON_NOT_A_SERVICE)
		reason = lb_outside_services(&flow);
	if (reason == LB_REASON_FORWARDED)
		reason = lb_select(&region, &flow, &choice, false);
	if (reason == LB_REASON_FORWARDED)
		lb_answer_choice(&answer, &choice);
	answer.reason = reason;
	answer.verdict = lb_verdict_of(reason);
	decision->answer = answer;
	return 0;
}
