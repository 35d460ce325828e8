/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs packets through the programs with BPF_PROG_TEST_RUN, in a network namespace of its own:  run OBJECTS current|legacy [SETS]
 * SETS: of the table of connections, a power of two.
 * Commands are lines of standard input; the test in TypeScript holds all that is expected. A bad line ends the program.
 *   ip ARGUMENT...               ip(8) in the namespace
 *   sysctl PATH VALUE
 *   node ADDRESS4 ADDRESS6 LOW HIGH
 *   dispatch NUMBER              of services with LB_REGION_DSR (enum lb_dispatch)
 *   range SET ADDRESS/PREFIX
 *   peers SET PEER STRANGER      whose packets are unwrapped: an address in the set, and one that is not
 *   service PROTOCOL ADDRESS@PORT ALGORITHM FLAGS POLICY AFFINITY [BACKEND@PORT[/local][/via=ADDRESS]]...
 *   forget                       all that packets left behind
 *   packet HOOK DEVICE HEX       -> VERDICT HEX, or: error ERRNO
 *   counted HOOK REASON          -> how often (numbers of abi.h and reasons.h)
 *   seed HOOK DEVICE HEX         a packet that the fuzzer starts from
 *   fuzz HOOK|all PACKETS SEED   -> progress, then: done, or: failed
 *   tuples COUNT SEED            likewise
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "line.h"
#include "tuples.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char line[300000];
static struct world world;
static struct result result;

static void set_sysctl(void)
{
	char path[256], *name = line_word("name"), *value = line_word("value");
	int fd;

	snprintf(path, sizeof path, "/proc/sys/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		die("%s", path);
	close(fd);
}

static void set_node(void)
{
	int none;
	struct endpoint four = line_endpoint(line_word("IPv4 address"), &none), six = line_endpoint(line_word("IPv6 address"), &none);

	world.node->address4 = four.address[0];
	memcpy(world.node->address6, six.address, 16);
	world.node->snat_low = line_number("first port");
	world.node->snat_high = line_number("last port");
	world.node->idle_tcp = 8000;
	world.node->idle_udp = 60;
	world.node->dsr = LB_DSR_ON | LB_DSR_TCP | LB_DSR_UDP | LB_DSR_SCTP; /* services that say so */
}

static void set_range(void)
{
	uint32_t set = line_number("set");
	int prefix;
	struct endpoint network = line_endpoint(line_word("network"), &prefix);

	world_allow(&world, set, network, prefix);
}

static void set_peers(void)
{
	uint32_t set = line_number("set");
	int none;
	struct endpoint peer = line_endpoint(line_word("peer"), &none);

	world_trust(&world, set, peer, line_endpoint(line_word("stranger"), &none));
}

static void run_packet(void)
{
	static uint8_t frame[FRAME_MAX];
	int hook = line_hook(line_word("hook")), device = line_device(line_word("device"));
	uint32_t length = line_frame(line_word("packet"), frame, sizeof frame);
	int error = world_run(&world, hook, device, frame, length, &result);

	if (error) {
		printf("error %d\n", -error);
		return;
	}
	printf("%d ", result.verdict);
	line_print_frame(result.frame, result.length);
	puts("");
}

static void add_seed(void)
{
	int hook = line_hook(line_word("hook")), device = line_device(line_word("device"));

	fuzz_seed(hook, device, line_word("packet"));
}

static void run_fuzz(void)
{
	char *hook = line_word("hook");
	uint64_t packets = strtoull(line_word("number of packets"), NULL, 0);

	puts(fuzz_run(&world, strcmp(hook, "all") ? line_hook(hook) : -1, packets, line_number("seed")) ? "done" : "failed");
}

static void obey(char *command)
{
	char *word;

	if (!strncmp(command, "ip ", 3)) {
		if (system(command)) {
			errno = EINVAL;
			die("%s", command);
		}
		return;
	}
	word = strtok(command, " \n");
	if (!word)
		return;
	if (!strcmp(word, "sysctl"))
		set_sysctl();
	else if (!strcmp(word, "node"))
		set_node();
	else if (!strcmp(word, "dispatch"))
		world.node->dispatch = line_number("dispatch");
	else if (!strcmp(word, "range"))
		set_range();
	else if (!strcmp(word, "peers"))
		set_peers();
	else if (!strcmp(word, "service"))
		line_service(&world);
	else if (!strcmp(word, "forget"))
		world_forget(&world);
	else if (!strcmp(word, "packet"))
		run_packet();
	else if (!strcmp(word, "seed"))
		add_seed();
	else if (!strcmp(word, "fuzz"))
		run_fuzz();
	else if (!strcmp(word, "tuples")) {
		int count = line_number("number of tuples");

		puts(tuples_run(&world, count, line_number("seed")) ? "done" : "failed");
	} else if (!strcmp(word, "counted")) {
		int hook = line_number("hook");

		printf("%llu\n", (unsigned long long)world_counted(&world, hook, line_number("reason")));
	} else {
		errno = EINVAL;
		die("command %s", word);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: run OBJECTS current|legacy [SETS]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	world_open(&world, argv[1], !strcmp(argv[2], "legacy"), argc > 3 ? atoi(argv[3]) : 0);
	printf("ready %d\n", world.has_xdp_device);
	while (fgets(line, sizeof line, stdin))
		obey(line);
	return 0;
}
