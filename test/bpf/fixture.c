/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fixture.h"

#include <bpf/btf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static pid_t owner;
static const char *objects_directory;
static char root[256], before[512], directories[MAX_ATTACHMENTS][600];

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(errno));
	exit(2);
}

/* ---- objects and maps ------------------------------------------------------------------------------------------------ */

void fixture_config(struct bpf_object *o, const char *variable, uint64_t value)
{
	const struct btf *types = bpf_object__btf(o);
	int section = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
	const struct btf_type *t;
	struct bpf_map *m;

	if (section < 0)
		return;
	t = btf__type_by_id(types, section);
	for (int i = 0; i < btf_vlen(t); i++) {
		const struct btf_var_secinfo *info = btf_var_secinfos(t) + i;

		if (strcmp(btf__name_by_offset(types, btf__type_by_id(types, info->type)->name_off), variable))
			continue;
		bpf_object__for_each_map(m, o)
			if (strstr(bpf_map__name(m), ".rodata"))
				memcpy((char *)bpf_map__initial_value(m, &(size_t){ 0 }) + info->offset, &value, info->size);
	}
}

static struct bpf_map *find_map(const struct fixture *f, const char *name)
{
	struct bpf_map *m = bpf_object__find_map_by_name(f->decide, name);

	return m || !f->packets ? m : bpf_object__find_map_by_name(f->packets, name);
}

int fixture_map(const struct fixture *f, const char *name)
{
	struct bpf_map *m = find_map(f, name);

	return m ? bpf_map__fd(m) : -1;
}

void *fixture_mapped(const struct fixture *f, const char *name)
{
	struct bpf_map *m = find_map(f, name);
	size_t length = ((size_t)bpf_map__value_size(m) * bpf_map__max_entries(m) + 4095) / 4096 * 4096;
	void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(m), 0);

	if (p == MAP_FAILED)
		die("mmap %s", name);
	return p;
}

struct bpf_object *fixture_open_object(const struct fixture *f, const char *name)
{
	const struct variant *v = &f->variant;
	struct bpf_object *o;
	struct bpf_map *m;
	char path[512];

	snprintf(path, sizeof path, "%s/%s_%s.bpf.o", objects_directory, name, v->legacy ? "legacy" : "current");
	o = bpf_object__open_file(path, NULL);
	if (!o)
		die("open %s", path);
	bpf_object__for_each_map(m, o)
		if (f->decide && !strncmp(bpf_map__name(m), "lb_", 3) && fixture_map(f, bpf_map__name(m)) >= 0 && bpf_map__reuse_fd(m, fixture_map(f, bpf_map__name(m))))
			die("map %s", bpf_map__name(m));
	fixture_config(o, "lb_can_cast", v->cast);
	fixture_config(o, "lb_can_set_retval", v->retval);
	if (v->peer_mask) {
		fixture_config(o, "lb_peer4_mask", v->peer_mask - 1);
		fixture_config(o, "lb_peer6_mask", v->peer_mask - 1);
	}
	return o;
}

static struct bpf_object *load(struct fixture *f, const char *name, int id, bool all_namespaces)
{
	struct bpf_object *o = fixture_open_object(f, name);

	fixture_config(o, "lb_attachment", id);
	fixture_config(o, "lb_all_namespaces", all_namespaces);
	if (bpf_object__load(o))
		die("load %s", name);
	return o;
}

static bool move_to(const char *directory)
{
	char path[700];
	bool moved;
	int fd;

	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	moved = fd >= 0 && dprintf(fd, "%d\n", getpid()) > 0;
	close(fd);
	return moved;
}

/* Also when a check dies: no cgroup is left behind. */
static void leave(void)
{
	if (getpid() != owner)
		return;
	move_to(before);
	for (int i = MAX_ATTACHMENTS - 1; i >= 0; i--)
		rmdir(directories[i]);
}

static void leave_on(int signal)
{
	_exit((leave(), 128 + signal));
}

static void prepare_machine(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char line[1024];
	FILE *mounts;

	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 65536, 65536 });
	if (ioctl(fd, SIOCSIFFLAGS, &lo))
		die("lo up");
	close(fd);
	mounts = fopen("/proc/self/mountinfo", "r");
	while (fgets(line, sizeof line, mounts))
		if (strstr(line, " - cgroup2 "))
			sscanf(line, "%*s %*s %*s %*s %255s", root);
	fclose(mounts);
	if (!*root)
		die("no cgroup v2");
	snprintf(before, sizeof before, "%s", root);
	mounts = fopen("/proc/self/cgroup", "r");
	while (fgets(line, sizeof line, mounts))
		if (!strncmp(line, "0::", 3))
			snprintf(before, sizeof before, "%s%.*s", root, (int)strcspn(line + 3, "\n"), line + 3);
	fclose(mounts);
	owner = getpid();
	atexit(leave);
	signal(SIGINT, leave_on);
	signal(SIGTERM, leave_on);
	snprintf(directories[0], sizeof directories[0], "%s/datapath-%d", root, getpid());
	snprintf(directories[1], sizeof directories[1], "%.*s/inner", 500, directories[0]);
}

void fixture_open_maps(struct fixture *f, const char *objects, const struct variant *variant)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	memset(f, 0, sizeof *f);
	f->variant = *variant;
	f->next_slot = f->next_line = f->next_backend = f->next_service = 1;
	objects_directory = objects;
	f->decide = load(f, "decide", 0, true);
	f->slots = fixture_mapped(f, "lb_slots");
	f->frontends = fixture_mapped(f, "lb_frontends");
	f->keys6 = fixture_mapped(f, "lb_keys6");
	f->usage = fixture_mapped(f, "lb_usage");
	f->failures = fixture_mapped(f, "lb_failures");
	f->pending = fixture_mapped(f, "lb_pending");
	f->table = fixture_mapped(f, "lb_table");
	f->backends = fixture_mapped(f, "lb_backends");
	f->control = fixture_mapped(f, "lb_control");
	f->verdicts = fixture_mapped(f, "lb_verdicts");
	f->ports = fixture_mapped(f, "lb_ports");
}

void fixture_open(struct fixture *f, const char *objects, const struct variant *variant)
{
	if (!*root)
		prepare_machine();
	fixture_open_maps(f, objects, variant);
	for (int i = 0; i < MAX_ATTACHMENTS; i++) {
		if (mkdir(directories[i], 0755) && errno != EEXIST)
			die("mkdir %s", directories[i]);
		f->cgroup[i] = open(directories[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		f->hooks[i] = load(f, "socket_lb", i, true);
	}
	f->sweep = load(f, "sweep", 0, true);
	if (variant->cast)
		f->destroy = load(f, "destroy", 0, true);
}

void fixture_load_hooks(struct fixture *f, int id, bool all_namespaces)
{
	bpf_object__close(f->hooks[id]);
	f->hooks[id] = load(f, "socket_lb", id, all_namespaces);
}

void fixture_attach(struct fixture *f, int id)
{
	struct bpf_program *p;
	int n = 0;

	bpf_object__for_each_program(p, f->hooks[id]) {
		f->links[id][n] = bpf_program__attach_cgroup(p, f->cgroup[id]);
		if (!f->links[id][n++])
			die("attach %s", bpf_program__name(p));
	}
	f->control->attachments |= 1ull << id;
}

void fixture_detach(struct fixture *f, int id)
{
	for (int i = 0; i < 16; i++) {
		bpf_link__destroy(f->links[id][i]);
		f->links[id][i] = NULL;
	}
	f->control->attachments &= ~(1ull << id);
}

void fixture_enter(int cgroup)
{
	const char *directory = cgroup < 0 ? before : directories[cgroup];

	if (!move_to(directory))
		die("%s", directory);
}

int fixture_attach_empty(struct fixture *f, int cgroup, int *links)
{
	struct bpf_insn go_on[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_program *p;
	int n = 0;

	bpf_object__for_each_program(p, f->hooks[0]) {
		enum bpf_attach_type type = bpf_program__expected_attach_type(p);
		LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = type);
		int fd = bpf_prog_load(bpf_program__type(p), "empty", "GPL", go_on, 2, &opts);

		if (fd < 0)
			die("load empty");
		links[n] = bpf_link_create(fd, f->cgroup[cgroup], type, NULL);
		if (links[n++] < 0)
			die("attach empty");
		close(fd);
	}
	return n;
}

void fixture_close(struct fixture *f)
{
	for (int i = MAX_ATTACHMENTS - 1; i >= 0; i--) {
		fixture_detach(f, i);
		bpf_object__close(f->hooks[i]);
		close(f->cgroup[i]);
	}
	fixture_enter(-1);
	for (int i = MAX_ATTACHMENTS - 1; i >= 0; i--)
		if (rmdir(directories[i]))
			die("rmdir %s", directories[i]);
	bpf_object__close(f->sweep);
	bpf_object__close(f->destroy);
	bpf_object__close(f->decide);
}

/* ---- services ---------------------------------------------------------------------------------------------------------- */

static void cells_near(struct fixture *f, struct lb_line *line, const uint32_t *backends)
{
	line->head.flags |= LB_REGION_NEAR;
	for (uint32_t i = 0; i < line->head.length; i++) {
		const struct lb_backend *b = &f->backends[backends[i]];

		line->cell[i] = lb_cell_near(backends[i], lb_backend_generation(b->word), b->address[0]);
		*(i & 2 ? &line->head.changed : &line->head.members) |= (uint32_t)lb_backend_port(b->word) << (i & 1) * 16;
	}
}

uint32_t region_write(struct fixture *f, const struct service *s, uint8_t family, const uint32_t *backends, int count,
		      struct service_options options)
{
	uint32_t line = f->next_line, words = LB_HEAD_WORDS + 2 * count;
	__u64 *word = f->table[line].word;

	f->next_line += (words + LB_LINE_WORDS - 1) / LB_LINE_WORDS;
	f->table[line].head = (struct lb_head){
		.service = s->service, .length = count, .members = options.affinity ? count : 0, .affinity = options.affinity,
		.algorithm = options.algorithm, .flags = options.flags, .family = family, .policy = options.policy,
	};
	for (int i = 0; i < count; i++)
		word[LB_HEAD_WORDS + i] = word[LB_HEAD_WORDS + count + i] = lb_cell(backends[i], backends[i]);
	if (family == LB_IPV4 && !options.affinity && options.algorithm <= LB_ROUND_ROBIN && count && count <= LB_NEAR_CELLS &&
	    !(options.flags & LB_REGION_ANCHORED))
		cells_near(f, &f->table[line], backends);
	return line;
}

/* The programs' default mask and seed. */
uint64_t fixture_key_hash(struct endpoint at, int protocol, int scope, uint64_t *key)
{
	int six = at.family == LB_IPV6;

	*key = lb_key_word(at.address[six ? 3 : 0], at.port, protocol, scope, six);
	return lb_key_hash(*key, at.address, six, 0);
}

struct lb_frontends *fixture_line(struct fixture *f, uint64_t hash)
{
	return &f->frontends[lb_hash_line(hash) & (FRONTEND_LINES - 1)];
}

void fixture_frontend(struct fixture *f, struct endpoint at, int protocol, int scope, uint32_t slot)
{
	uint64_t key, hash = fixture_key_hash(at, protocol, scope, &key);
	struct lb_frontends *line = fixture_line(f, hash);

	f->slots[slot].key = key;
	memcpy(f->keys6[slot / LB_KEYS6_PACKED].address[slot % LB_KEYS6_PACKED], at.address, 12);
	for (int i = 0; i < LB_FRONTEND_WAYS; i++) {
		if (line->way[i])
			continue;
		line->signs |= lb_hash_sign(hash);
		line->way[i] = lb_hash_way(hash) | slot;
		return;
	}
	die("frontend %s", text(at));
}

struct service service_add(struct fixture *f, struct endpoint at, int protocol, const struct endpoint *backends, int count,
			   struct service_options options)
{
	struct service s = { .slot = f->next_slot, .service = options.service ? options.service : f->next_service++, .count = count };

	f->next_slot += 2;
	for (int i = 0; i < count; i++) {
		s.backend[i] = options.indices ? options.indices[i] : f->next_backend++;
		if (options.indices)
			continue;
		memcpy(f->backends[s.backend[i]].address, backends[i].address, 16);
		f->backends[s.backend[i]].word = lb_backend_word(backends[i].port, 1, s.service,
								LB_BACKEND_LIVE | LB_BACKEND_EXISTING | LB_BACKEND_POOLS << LB_POOL_CLUSTER |
								(options.local >> i & 1 ? LB_BACKEND_LOCAL : 0));
	}
	s.line = region_write(f, &s, at.family, s.backend, count, options);
	for (int scope = 0; scope < 2; scope++) {
		f->slots[s.slot + scope].word = lb_slot_final(s.line, 1);
		fixture_frontend(f, at, protocol, scope, s.slot + scope);
	}
	return s;
}

uint64_t used(const struct fixture *f, uint32_t backend)
{
	uint64_t sum = 0;

	for (int i = 0; i < LB_STRIPES; i++)
		sum += f->usage[i * 65537 + backend];
	return sum;
}

uint64_t verdicts(const struct fixture *f, enum lb_reason reason)
{
	uint64_t sum = 0;

	for (int i = 0; i < LB_STRIPES; i++)
		sum += f->verdicts[i].count[LB_HOOK_SOCKET][reason];
	return sum;
}
