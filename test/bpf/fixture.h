/* SPDX-License-Identifier: Apache-2.0 */
/* A balancer without the library: maps filled by hand, programs attached to throw-away cgroups, in a network namespace of its own. */
#ifndef DATAPATH_FIXTURE_H
#define DATAPATH_FIXTURE_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "reasons.h"

#define MAX_SERVICES 10400
#define MAX_ATTACHMENTS 2

/* How the objects are loaded. */
struct variant {
	const char *name;
	bool legacy, cast, retval;
	uint32_t peer_mask; /* 0: as many sets as the map has */
};

struct endpoint {
	uint8_t family; /* enum lb_family */
	uint32_t address[4];
	uint16_t port; /* network order */
};

struct fixture {
	struct variant variant;
	struct bpf_object *decide, *sweep, *destroy, *hooks[MAX_ATTACHMENTS];
	struct bpf_object *packets; /* has the maps of the packet hooks; NULL: they are not there */
	struct bpf_link *links[MAX_ATTACHMENTS][16];
	int cgroup[MAX_ATTACHMENTS]; /* the second is inside the first */
	struct lb_slot *slots;
	struct lb_frontends *frontends;
	struct lb_keys6 *keys6;
	uint64_t *usage, *failures;
	struct lb_pending *pending;
	struct lb_line *table;
	struct lb_backend *backends;
	struct lb_control *control;
	struct lb_verdicts *verdicts;
	struct lb_ports *ports;
	uint32_t next_slot, next_line, next_backend, next_service;
};

struct service_options {
	uint8_t algorithm, flags;
	uint32_t affinity;
	uint32_t service; /* of another frontend; 0: a new one */
	const uint32_t *indices; /* backends that exist already */
	uint32_t policy; /* range set */
	uint32_t local; /* bit i: backend i is on this node */
};

struct service {
	uint32_t slot, line, service, count;
	uint32_t backend[8];
};

void fixture_open(struct fixture *f, const char *objects, const struct variant *variant);
/* The maps and decide alone: no hooks, no cgroups. */
void fixture_open_maps(struct fixture *f, const char *objects, const struct variant *variant);
/* An object that shares the maps there are, set up for this kernel; to be configured further and loaded. */
struct bpf_object *fixture_open_object(const struct fixture *f, const char *name);
void fixture_config(struct bpf_object *o, const char *variable, uint64_t value);
void *fixture_mapped(const struct fixture *f, const char *name);
void fixture_load_hooks(struct fixture *f, int id, bool all_namespaces);
void fixture_attach(struct fixture *f, int id);
void fixture_detach(struct fixture *f, int id);
void fixture_close(struct fixture *f);
int fixture_map(const struct fixture *f, const char *name);

/* Which cgroup this process makes its sockets in: -1 outside, 0, or 1 inside 0. */
void fixture_enter(int cgroup);
/* Attaches programs that do nothing, as a floor: file descriptors of links. Returns how many. */
int fixture_attach_empty(struct fixture *f, int cgroup, int *links);

#define FRONTEND_LINES 8192 /* of the objects as they are built */
uint64_t fixture_key_hash(struct endpoint at, int protocol, int scope, uint64_t *key);
struct lb_frontends *fixture_line(struct fixture *f, uint64_t hash);
void fixture_frontend(struct fixture *f, struct endpoint at, int protocol, int scope, uint32_t slot);
struct service service_add(struct fixture *f, struct endpoint at, int protocol, const struct endpoint *backends, int count,
			   struct service_options options);
/* A region of its own for the same service; returns the line. */
uint32_t region_write(struct fixture *f, const struct service *s, uint8_t family, const uint32_t *backends, int count,
		      struct service_options options);
uint64_t used(const struct fixture *f, uint32_t backend);
uint64_t verdicts(const struct fixture *f, enum lb_reason reason);

struct endpoint at4(const char *address, int port);
struct endpoint at6(const char *address, int port);
bool same(struct endpoint a, struct endpoint b);
const char *text(struct endpoint e);

/* sockaddr of an endpoint; `mapped`: an IPv4 one as ::ffff:a.b.c.d. */
socklen_t to_sockaddr(struct endpoint e, bool mapped, struct sockaddr_storage *out);
/* An IPv4-mapped address becomes an IPv4 endpoint, and `mapped` says so. */
struct endpoint from_sockaddr(const struct sockaddr_storage *in, bool *mapped);

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
