/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs lookups.bpf.c without pause on the maps of a pinned balancer. Commands:
 *
 *   load OBJECT PINS SERVICE_BITS
 *   run LOOKUPS THREADS SECONDS     until so many, at most so long; answers with the sums and the time of a lookup
 */
#define _GNU_SOURCE
#include "common.h"
#include "lookups.h"

#include "../../bpf/include/abi.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define REPEAT 20000

static int program, counts;
static long wanted;
static uint64_t deadline;
static atomic_long done;

/* The balancer's maps are pinned under their names without the prefix. */
static void use_pinned(struct bpf_object *object, const char *pins)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
	{
		const char *name = bpf_map__name(map);
		char path[4096];
		int fd;

		if (strncmp(name, "lb_", 3))
			continue;
		snprintf(path, sizeof(path), "%s/%s", pins, name + 3);
		fd = bpf_obj_get(path);
		if (fd < 0 || bpf_map__reuse_fd(map, fd))
			die("%s", path);
		close(fd);
	}
}

static void set(struct bpf_object *object, const char *wanted_name, const void *value, size_t length)
{
	const struct btf *btf = bpf_object__btf(object);
	int section = btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC);
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	const struct btf_type *type;
	size_t size;
	char *values;

	if (section < 0 || !map)
		die(".rodata");
	type = btf__type_by_id(btf, section);
	values = bpf_map__initial_value(map, &size);
	for (int i = 0; i < btf_vlen(type); i++) {
		const struct btf_var_secinfo *variable = btf_var_secinfos(type) + i;
		const char *name = btf__name_by_offset(btf, btf__type_by_id(btf, variable->type)->name_off);

		if (!strcmp(name, wanted_name) && variable->size == length)
			memcpy(values + variable->offset, value, length);
	}
}

/* Where the balancer puts a key. */
static void set_hash(struct bpf_object *object)
{
	int control = bpf_object__find_map_fd_by_name(object, "lb_control"), lines = bpf_object__find_map_fd_by_name(object, "lb_frontends");
	struct bpf_map_info info = {0};
	__u32 length = sizeof(info), zero = 0, mask;
	struct lb_control settings;

	if (bpf_map_lookup_elem(control, &zero, &settings) || bpf_obj_get_info_by_fd(lines, &info, &length))
		die("lb_control");
	mask = info.max_entries - 1;
	set(object, "lb_frontend_mask", &mask, sizeof(mask));
	set(object, "lb_frontend_seed", &settings.instance, sizeof(settings.instance));
}

static void load(const char *file, const char *pins, uint32_t service_bits)
{
	struct bpf_object *object = bpf_object__open_file(file, NULL);

	if (!object)
		die("%s", file);
	use_pinned(object, pins);
	set(object, "service_bits", &service_bits, sizeof(service_bits));
	set_hash(object);
	if (bpf_object__load(object))
		die("load %s", file);
	program = bpf_program__fd(bpf_object__find_program_by_name(object, "check_lookup"));
	counts = bpf_object__find_map_fd_by_name(object, "lookups_counts");
	for (uint32_t thread = 0; thread < LOOKUPS_THREADS; thread++) {
		struct lookups_count start = {.random = 2463534242u + thread};

		if (bpf_map_update_elem(counts, &thread, &start, BPF_ANY))
			die("lookups_counts");
	}
}

static void *work(void *argument)
{
	uint32_t packet[16] = {(uint32_t)(uintptr_t)argument};
	uint64_t *spent = calloc(1, sizeof(*spent));
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof(packet), .repeat = REPEAT);

	while (atomic_fetch_add(&done, REPEAT) < wanted && now_ns() < deadline) {
		if (bpf_prog_test_run_opts(program, &options))
			die("test run");
		*spent += (uint64_t)options.duration * REPEAT;
	}
	return spent;
}

static void run(long lookups, int threads, long seconds)
{
	struct lookups_count before[LOOKUPS_THREADS], sum = {0};
	pthread_t ids[LOOKUPS_THREADS];
	uint64_t spent = 0;

	wanted = lookups;
	deadline = now_ns() + seconds * 1000000000ull;
	atomic_store(&done, 0);
	for (uint32_t t = 0; t < (uint32_t)threads; t++) {
		bpf_map_lookup_elem(counts, &t, &before[t]);
		if (pthread_create(&ids[t], NULL, work, (void *)(uintptr_t)t))
			die("pthread_create");
	}
	for (uint32_t t = 0; t < (uint32_t)threads; t++) {
		struct lookups_count after;
		uint64_t *of_thread;

		pthread_join(ids[t], (void **)&of_thread);
		spent += *of_thread;
		free(of_thread);
		bpf_map_lookup_elem(counts, &t, &after);
		sum.lookups += after.lookups - before[t].lookups;
		sum.missed += after.missed - before[t].missed;
		sum.foreign += after.foreign - before[t].foreign;
		sum.backwards += after.backwards - before[t].backwards;
	}
	printf("{\"lookups\":%llu,\"missed\":%llu,\"foreign\":%llu,\"backwards\":%llu,\"ns\":%.2f}\n", sum.lookups, sum.missed, sum.foreign,
	       sum.backwards, sum.lookups ? (double)spent / sum.lookups : 0);
}

int main(void)
{
	static char line[8192], file[4096], pins[4096];
	unsigned int bits;
	long lookups, seconds;
	int threads;

	end_with_parent();
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "load %4095s %4095s %u", file, pins, &bits) == 3) {
			load(file, pins, bits);
		} else if (sscanf(line, "run %ld %d %ld", &lookups, &threads, &seconds) == 3 && threads > 0 && threads <= LOOKUPS_THREADS) {
			run(lookups, threads, seconds);
		} else if (!common_command(line)) {
			errno = EINVAL;
			die("%s", line);
		}
		fflush(stdout);
	}
	return 0;
}
