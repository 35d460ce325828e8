/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times the XDP program of a device, or the first at its tcx ingress, packet by packet: packets OBJECT xdp|tc DEVICE-NUMBER PROGRAM-ID (of XDP). Commands:
 *
 *   run WHAT SERVICES FLOW-MASK FIRST-ADDRESS FLAGS REPEAT
 *       WHAT: nothing, grows (the floors) or program. Answers {"ns":,"verdict":,"length":}: ns for each packet, verdict and length of the last one
 */
#define _GNU_SOURCE
#include "common.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <sys/syscall.h>

static const char *object_path;
static int program, device;
static bool tc;

static int first_of_tcx(int number)
{
	enum { TCX_INGRESS = 46 };
	__u32 ids[8] = { 0 };
	struct {
		__u32 target, type, flags, attach_flags;
		__u64 ids;
		__u32 count, padding;
		__u64 reserved[4];
	} query = { .target = number, .type = TCX_INGRESS, .ids = (unsigned long)ids, .count = 8 };

	if (syscall(__NR_bpf, BPF_PROG_QUERY, &query, sizeof(query)) || !query.count)
		die("tcx programs of device %d", number);
	return ids[0];
}

static void *setting(struct bpf_object *object, const char *name)
{
	size_t size;
	char *data = NULL;
	const struct bpf_map *map;
	static const char *names[] = { "length", "services", "flow_mask", "first", "flags" };

	bpf_object__for_each_map(map, object)
		if (strstr(bpf_map__name(map), ".rodata"))
			data = bpf_map__initial_value((struct bpf_map *)map, &size);
	/* In the order of packets.bpf.c, 4 bytes each. */
	for (int i = 0; data && i < 5; i++)
		if (!strcmp(names[i], name))
			return data + 4 * i;
	errno = ENOENT;
	die("setting %s", name);
}

static void measure(char *line)
{
	unsigned char frame[60] = { 0 }, out[256];
	struct xdp_md context = { .data_end = sizeof(frame), .ingress_ifindex = device };
	struct __sk_buff skb = { .ifindex = device };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = sizeof(frame), .data_out = out, .data_size_out = sizeof(out),
		    .ctx_in = &context, .ctx_size_in = sizeof(context));
	unsigned int services, mask, first, flags, repeat;
	struct bpf_object *object;
	char what[16], named[20];
	__u32 zero = 0;
	int fd;

	if (sscanf(line, "run %15s %u %u %u %u %u", what, &services, &mask, &first, &flags, &repeat) != 6) {
		errno = EINVAL;
		die("%s", line);
	}
	object = bpf_object__open_file(object_path, NULL);
	if (!object)
		die("%s", object_path);
	*(__u32 *)setting(object, "services") = services;
	*(__u32 *)setting(object, "flow_mask") = mask;
	*(__u32 *)setting(object, "first") = first;
	*(__u32 *)setting(object, "flags") = flags;
	if (bpf_object__load(object))
		die("load %s", object_path);
	snprintf(named, sizeof(named), "%s%s", what, tc ? "_tc" : "");
	fd = strcmp(what, "program") ? bpf_program__fd(bpf_object__find_program_by_name(object, named)) : program;
	if (bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, tc ? "measured_tc" : "measured"), &zero, &fd, BPF_ANY))
		die("tail call of %s", what);
	run.repeat = repeat;
	if (tc) {
		run.ctx_in = &skb;
		run.ctx_size_in = sizeof(skb);
	}
	if (bpf_prog_test_run_opts(bpf_program__fd(bpf_object__find_program_by_name(object, tc ? "packets_tc" : "packets")), &run))
		die("test run");
	printf("{\"ns\":%u,\"verdict\":%u,\"length\":%u}\n", run.duration, run.retval, run.data_size_out);
	bpf_object__close(object);
}

int main(int count, char **arguments)
{
	static char line[256];

	end_with_parent();
	if (count < 4)
		return 2;
	object_path = arguments[1];
	tc = !strcmp(arguments[2], "tc");
	device = atoi(arguments[3]);
	program = bpf_prog_get_fd_by_id(tc || count < 5 ? first_of_tcx(device) : atoi(arguments[4]));
	if (program < 0)
		die("program of device %s", arguments[3]);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!common_command(line))
			measure(line);
		fflush(stdout);
	}
	return 0;
}
