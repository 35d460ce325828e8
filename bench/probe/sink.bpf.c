/* SPDX-License-Identifier: GPL-2.0-only */
/* Counts what comes in by a device and drops it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* 0: minimum-size UDP, which is what the senders send; 1: anything else, as ARP, which goes on. */
SEC("xdp")
int sink(struct xdp_md *xdp)
{
	const __u8 *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	__u32 kind = !(data + 34 <= end && data[12] == 8 && data[13] == 0 && data[23] == 17);
	__u64 *count = bpf_map_lookup_elem(&counts, &kind);

	if (count)
		++*count;
	return kind ? XDP_PASS : XDP_DROP;
}

/* For the other ends of devices that packets are redirected to: veth takes them only if there is one. */
SEC("xdp")
int pass(struct xdp_md *xdp)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
