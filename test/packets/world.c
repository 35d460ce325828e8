/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>

#define ZEROED_ELEMENTS 65536

const char *const hook_names[HOOKS] = { "ingress", "egress", "workload-ingress", "workload-egress", "xdp" };

static int program_of(struct bpf_object *o, const char *name)
{
	struct bpf_program *p = bpf_object__find_program_by_name(o, name);

	if (!p)
		die("program %s", name);
	return bpf_program__fd(p);
}

static void resize(struct bpf_object *o, const char *name, uint32_t entries)
{
	if (bpf_map__set_max_entries(bpf_object__find_map_by_name(o, name), entries))
		die("size of %s", name);
}

static struct bpf_object *load(struct world *w, const char *name, enum lb_role role, uint32_t sets)
{
	struct bpf_object *o = fixture_open_object(&w->f, name);

	if (sets) {
		fixture_config(o, "lb_owner_mask", sets - 1);
		fixture_config(o, "lb_reply_mask", 2 * sets - 1);
	}
	if (sets && !w->f.packets) {
		resize(o, "lb_owners", sets);
		resize(o, "lb_connections", sets * LB_FLOW_WAYS);
		resize(o, "lb_replies", 2 * sets);
	}

	fixture_config(o, "lb_role", role);
	fixture_config(o, "lb_flow_seed", 0x9e3779b97f4a7c15ull);
	if (bpf_object__load(o))
		die("load %s", name);
	return o;
}

/* Not through mapped memory: before 5.12 there is a lock in each element, and then the kernel maps none of it. */
static void zero(struct world *w, const char *name)
{
	struct bpf_map *m = bpf_object__find_map_by_name(w->f.packets, name);
	static uint32_t *keys;
	static void *zeros;
	__u32 count = bpf_map__max_entries(m);

	if (!keys) {
		keys = calloc(ZEROED_ELEMENTS, sizeof *keys);
		zeros = calloc(ZEROED_ELEMENTS, sizeof(struct lb_owners));
		for (uint32_t i = 0; i < ZEROED_ELEMENTS; i++)
			keys[i] = i;
	}
	if (count > ZEROED_ELEMENTS || bpf_map__value_size(m) > sizeof(struct lb_owners)) {
		errno = E2BIG;
		die("%s has grown", name);
	}
	if (bpf_map_update_batch(bpf_map__fd(m), keys, zeros, &count, NULL))
		die("%s", name);
}

/* Before 5.15 a test run of XDP has no context and comes in by lo. */
static bool takes_xdp_device(const struct world *w)
{
	uint8_t frame[64] = {}, out[256];
	struct xdp_md context = { .data_end = sizeof frame, .ingress_ifindex = 1 };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = sizeof frame, .data_out = out, .data_size_out = sizeof out,
		    .ctx_in = &context, .ctx_size_in = sizeof context);

	return !bpf_prog_test_run_opts(w->program[HOOK_XDP], &run);
}

void world_open(struct world *w, const char *objects, bool legacy, uint32_t sets)
{
	struct variant variant = { .name = legacy ? "legacy" : "current", .legacy = legacy };
	struct bpf_object *workload, *xdp;

	memset(w, 0, sizeof *w);
	fixture_open_maps(&w->f, objects, &variant);
	w->f.packets = load(w, "tc_lb", LB_ROLE_EXTERNAL, sets);
	workload = load(w, "tc_lb", LB_ROLE_WORKLOAD, sets);
	xdp = load(w, "xdp_lb", LB_ROLE_EXTERNAL, sets);
	w->program[HOOK_INGRESS] = program_of(w->f.packets, "lb_tc_ingress");
	w->program[HOOK_EGRESS] = program_of(w->f.packets, "lb_tc_egress");
	w->program[HOOK_WORKLOAD_INGRESS] = program_of(workload, "lb_tc_ingress");
	w->program[HOOK_WORKLOAD_EGRESS] = program_of(workload, "lb_tc_egress");
	w->program[HOOK_XDP] = program_of(xdp, "lb_xdp");
	w->node = fixture_mapped(&w->f, "lb_node");
	w->node->routes_until = INT32_MAX;
	w->traffic = fixture_mapped(&w->f, "lb_traffic");
	w->cpus = bpf_map__max_entries(bpf_object__find_map_by_name(w->f.packets, "lb_traffic"));
	w->has_xdp_device = takes_xdp_device(w);
}

/* IPv4 as ::ffff:a.b.c.d. */
static void mapped_address(const struct endpoint *e, __be32 *out)
{
	out[0] = e->family == LB_IPV6 ? e->address[0] : 0;
	out[1] = e->family == LB_IPV6 ? e->address[1] : 0;
	out[2] = e->family == LB_IPV6 ? e->address[2] : htonl(0xffff);
	out[3] = e->family == LB_IPV6 ? e->address[3] : e->address[0];
}

static void note_address(struct world *w, struct endpoint at)
{
	__be32 key[4];
	__u32 keys = 1;

	mapped_address(&at, key);
	if (bpf_map_update_elem(fixture_map(&w->f, "lb_addresses"), key, &keys, BPF_ANY))
		die("lb_addresses");
}

static void set_via(struct world *w, __u32 backend, struct endpoint via)
{
	__u64 *word = &w->f.backends[backend].word;
	__u32 ref = lb_backend_ref(backend, lb_backend_generation(*word));
	struct lb_via value = { .ref = ref, .family = via.family, .ref_again = ref };

	memcpy(value.address, via.address, sizeof value.address);
	*word |= (__u64)LB_BACKEND_VIA << 48;
	if (bpf_map_update_elem(fixture_map(&w->f, "lb_vias"), &backend, &value, BPF_ANY))
		die("lb_vias");
}

static void put_local(struct world *w, const struct lb_local_key *key, __u32 value)
{
	if (bpf_map_update_elem(fixture_map(&w->f, "lb_locals"), key, &value, BPF_ANY))
		die("lb_locals");
}

/* Who gets what peers send for the service: by the backend's address, or by any address of the node. */
static void note_locals(struct world *w, const struct definition *d, struct service s)
{
	struct lb_local_key nth = { .service = s.service, .family = d->at.family | LB_LOCAL_NTH };
	__u32 count = 0;

	for (int i = 0; i < d->count; i++) {
		struct lb_local_key key = { .service = s.service, .family = d->at.family };

		if (!(d->local >> i & 1))
			continue;
		mapped_address(&d->backend[i], key.address);
		put_local(w, &key, s.backend[i]);
		nth.address[0] = ++count;
		put_local(w, &nth, s.backend[i]);
	}
	nth.address[0] = 0;
	put_local(w, &nth, count);
}

void world_trust(struct world *w, uint32_t set, struct endpoint peer, struct endpoint stranger)
{
	int six = peer.family == LB_IPV6;

	w->node->peers = set;
	w->peer[six] = peer;
	w->stranger[six] = stranger;
}

void world_define(struct world *w, const struct definition *d, struct service_options options)
{
	struct service s;

	if (w->count == MAX_DEFINED) {
		errno = E2BIG;
		die("more than %d services", MAX_DEFINED);
	}
	options.local = d->local;
	options.flags = d->flags;
	options.policy = d->policy;
	s = service_add(&w->f, d->at, d->protocol, d->backend, d->count, options);
	for (int i = 0; i < d->count; i++)
		if (d->via[i].family)
			set_via(w, s.backend[i], d->via[i]);
	note_locals(w, d, s);
	note_address(w, d->at);
	w->defined[w->count++] = *d;
}

void world_allow(struct world *w, uint32_t set, struct endpoint network, int prefix)
{
	__u32 allowed = 1;

	if (network.family == LB_IPV4) {
		struct lb_range4 key = { .prefix = 32 + prefix, .set = set, .address = network.address[0] };

		if (bpf_map_update_elem(fixture_map(&w->f, "lb_ranges4"), &key, &allowed, BPF_ANY))
			die("lb_ranges4");
	} else {
		struct lb_range6 key = { .prefix = 32 + prefix, .set = set };

		memcpy(key.address, network.address, sizeof key.address);
		if (bpf_map_update_elem(fixture_map(&w->f, "lb_ranges6"), &key, &allowed, BPF_ANY))
			die("lb_ranges6");
	}
}

static void empty(int map)
{
	uint8_t key[256];

	while (!bpf_map_get_next_key(map, NULL, key))
		if (bpf_map_delete_elem(map, key) && errno != ENOENT)
			die("delete");
}

void world_forget(struct world *w)
{
	struct lb_cursor start = {};

	zero(w, "lb_owners");
	zero(w, "lb_replies");
	empty(fixture_map(&w->f, "lb_fragments"));
	empty(fixture_map(&w->f, "lb_affinities"));
	for (uint32_t service = 1; service < w->f.next_service; service++)
		bpf_map_update_elem(fixture_map(&w->f, "lb_cursors"), &service, &start, BPF_ANY);
}

int world_run(const struct world *w, enum hook hook, int device, const uint8_t *frame, uint32_t length, struct result *result)
{
	struct __sk_buff skb = { .ifindex = device };
	struct xdp_md xdp = { .data_end = length, .ingress_ifindex = device };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = length, .data_out = result->frame,
		    .data_size_out = sizeof result->frame);
	int error;

	if (hook != HOOK_XDP) {
		run.ctx_in = &skb;
		run.ctx_size_in = sizeof skb;
	} else if (w->has_xdp_device) {
		run.ctx_in = &xdp;
		run.ctx_size_in = sizeof xdp;
	}
	error = bpf_prog_test_run_opts(w->program[hook], &run);
	result->verdict = (int)run.retval;
	result->length = run.data_size_out;
	return error;
}

uint64_t world_counted(const struct world *w, enum lb_hook hook, int reason)
{
	uint64_t sum = 0;

	for (int i = 0; i < LB_STRIPES; i++)
		sum += w->f.verdicts[i].count[hook][reason];
	for (uint32_t cpu = 0; hook != LB_HOOK_SOCKET && reason == LB_REASON_NOT_A_SERVICE && cpu < w->cpus; cpu++)
		sum += w->traffic[cpu].hook[hook - 1].passed;
	return sum;
}
