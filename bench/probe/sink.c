/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts datagrams where they arrive: sink OBJECT. Commands:
 *
 *   attach DEVICE   from now on what comes in by the device is counted, and dropped; answers {}
 *   pass DEVICE     puts a program there that lets everything pass; answers {}
 *   count           answers {"packets":}: so far
 */
#define _GNU_SOURCE
#include "common.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>

static struct bpf_object *object;

static void attach(const char *name, const char *device)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	if (!program || !bpf_program__attach_xdp(program, if_nametoindex(device)))
		die("attach to %s", device);
	puts("{}");
}

static void count_packets(void)
{
	uint64_t values[1024] = { 0 }, sum = 0;
	__u32 kind = 0;
	int cpus = libbpf_num_possible_cpus();

	if (cpus < 1 || cpus > 1024 || bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, "counts"), &kind, values))
		die("counts");
	for (int i = 0; i < cpus; i++)
		sum += values[i];
	printf("{\"packets\":%llu}\n", (unsigned long long)sum);
}

int main(int count, char **arguments)
{
	static char line[256];
	char device[IFNAMSIZ];

	end_with_parent();
	if (count != 2)
		return 2;
	object = bpf_object__open_file(arguments[1], NULL);
	if (!object || bpf_object__load(object))
		die("%s", arguments[1]);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (common_command(line))
			continue;
		if (sscanf(line, "attach %15s", device) == 1)
			attach("sink", device);
		else if (sscanf(line, "pass %15s", device) == 1)
			attach("pass", device);
		else if (!strcmp(line, "count"))
			count_packets();
		else {
			errno = EINVAL;
			die("%s", line);
		}
		fflush(stdout);
	}
	return 0;
}
