// SPDX-License-Identifier: Apache-2.0
// Puts an XDP program on devices that lets everything pass, by system calls alone; without one at its other end a veth device loses what is
// sent from it with XDP_TX (veth_xdp_flush in drivers/net/veth.c).
//   xdp_pass DEVICE...      says "ready", and keeps it until standard input ends
#include <err.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct bpf_insn pass[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_PASS}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
	union bpf_attr attr;
	int program;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_XDP;
	attr.insns = (uintptr_t)pass;
	attr.insn_cnt = 2;
	attr.license = (uintptr_t)"Dual BSD/GPL";
	program = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (program < 0)
		err(1, "load");
	for (int i = 1; i < argc; i++) {
		memset(&attr, 0, sizeof(attr));
		attr.link_create.prog_fd = program;
		attr.link_create.target_ifindex = if_nametoindex(argv[i]);
		attr.link_create.attach_type = BPF_XDP;
		attr.link_create.flags = 1U << 2; /* XDP_FLAGS_DRV_MODE */
		if (syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr)) < 0)
			err(1, "attach to %s", argv[i]);
	}
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
