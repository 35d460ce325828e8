// Programs of other people at the hooks of devices, and who is there, by system calls alone.
//   hooks list DEVICE            {"ingress":["NAME",...],"egress":[...]} of tcx, in their order
//   hooks hold tcx|xdp DEVICE    puts a program there that lets everything pass, says "held", and keeps it until standard input ends
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TCX_INGRESS 46
#define TCX_EGRESS 47

// The kernel's own, longer than an old header may know.
union attr {
	union bpf_attr known;
	struct { uint32_t target, attach_type, flags, attach_flags; uint64_t ids; uint32_t count, zero; uint64_t more[4]; } query;
	struct { uint32_t program, target, attach_type, flags; uint64_t more[4]; } link;
};

static long bpf(int command, union attr *a, unsigned size) { return syscall(SYS_bpf, command, a, size); }

static void list(unsigned device, int type, const char *what)
{
	uint32_t ids[64];
	union attr a;
	memset(&a, 0, sizeof a);
	a.query.target = device;
	a.query.attach_type = type;
	a.query.ids = (uint64_t)(uintptr_t)ids;
	a.query.count = 64;
	long err = bpf(BPF_PROG_QUERY, &a, 64);
	printf("\"%s\":[", what);
	for (uint32_t i = 0; !err && i < a.query.count; i++) {
		union attr get;
		struct bpf_prog_info info;
		memset(&get, 0, sizeof get);
		get.known.prog_id = ids[i];
		int fd = bpf(BPF_PROG_GET_FD_BY_ID, &get, sizeof get.known);
		memset(&info, 0, sizeof info);
		memset(&get, 0, sizeof get);
		get.known.info.bpf_fd = fd;
		get.known.info.info_len = sizeof info;
		get.known.info.info = (uint64_t)(uintptr_t)&info;
		bpf(BPF_OBJ_GET_INFO_BY_FD, &get, sizeof get.known);
		close(fd);
		printf("%s\"%s\"", i ? "," : "", info.name);
	}
	printf("]");
}

static int hold(int xdp, unsigned device)
{
	// r0 = XDP_PASS or TCX_NEXT
	struct bpf_insn insns[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, xdp ? 2 : -1}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
	union attr a;
	memset(&a, 0, sizeof a);
	a.known.prog_type = xdp ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS;
	a.known.insns = (uint64_t)(uintptr_t)insns;
	a.known.insn_cnt = 2;
	a.known.license = (uint64_t)(uintptr_t) "GPL";
	strcpy(a.known.prog_name, "other");
	int program = bpf(BPF_PROG_LOAD, &a, sizeof a.known);
	if (program < 0)
		return perror("load"), 1;
	for (int i = 0; i < (xdp ? 1 : 2); i++) {
		memset(&a, 0, sizeof a);
		a.link.program = program;
		a.link.target = device;
		a.link.attach_type = xdp ? BPF_XDP : i ? TCX_EGRESS : TCX_INGRESS;
		if (bpf(BPF_LINK_CREATE, &a, 48) < 0)
			return perror("link"), 1;
	}
	puts("held");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned device = argc > 2 ? if_nametoindex(argv[argc - 1]) : 0;
	if (!device)
		return fprintf(stderr, "no device\n"), 1;
	if (!strcmp(argv[1], "hold"))
		return hold(!strcmp(argv[2], "xdp"), device);
	printf("{");
	list(device, TCX_INGRESS, "ingress");
	printf(",");
	list(device, TCX_EGRESS, "egress");
	printf("}\n");
	return 0;
}
