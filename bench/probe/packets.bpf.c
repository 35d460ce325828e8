/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets for an XDP or tc program under BPF_PROG_TEST_RUN, which with `repeat` hands each run the buffer as the one before left it: this puts the packet back,
 * varies flow and service, and calls the program that is measured. The same around a program that does nothing is the floor.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 length = 60;
const volatile __u32 services = 1;   /* addresses in a row */
const volatile __u32 flow_mask = 0;  /* bits of the flow's number */
const volatile __u32 first = 0x0a600000;
const volatile __u32 flags = 0x10; /* of TCP */

static __u32 state = 2463534242u;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured SEC(".maps");

/* One array holds programs of one kind. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured_tc SEC(".maps");

struct frame {
	__u8 destination[6], source[6];
	__be16 type;
	__u8 version, tos;
	__be16 total, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 from, to;
	__be16 source_port, destination_port;
	__be32 sequence, acknowledged;
	__u8 words, flags;
	__be16 window, tcp_checksum, urgent;
} __attribute__((packed));

static __always_inline __u32 next(void)
{
	__u32 x = state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return state = x;
}

static __always_inline void fill(struct frame *f)
{
	__u32 flow = flow_mask ? next() & flow_mask : 0;

	__builtin_memcpy(f->destination, "\x02\x00\x00\x00\x00\x02", 6);
	__builtin_memcpy(f->source, "\x02\x00\x00\x00\x00\x01", 6);
	f->type = bpf_htons(0x0800);
	f->version = 0x45;
	f->tos = 0;
	f->total = bpf_htons((__u16)(length - 14));
	f->id = 0;
	f->fragment = 0;
	f->ttl = 64;
	f->protocol = 6;
	f->checksum = 0;
	f->from = bpf_htonl(0xc0a80000 | flow >> 8);
	f->to = bpf_htonl(first + flow % services);
	f->source_port = bpf_htons(1024 + (flow & 0xff));
	f->destination_port = bpf_htons(80);
	f->words = 0x50;
	f->flags = flags;
}

SEC("xdp")
int packets(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	long extra = end - data - (long)length;

	if (extra) {
		if (extra < 0 || extra > 128 || bpf_xdp_adjust_head(xdp, extra))
			return XDP_ABORTED;
		data = (void *)(long)xdp->data;
		end = (void *)(long)xdp->data_end;
	}
	if (data + sizeof(struct frame) > end)
		return XDP_ABORTED;
	fill(data);
	bpf_tail_call_static(xdp, &measured, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int nothing(struct xdp_md *xdp)
{
	return XDP_TX;
}

SEC("xdp")
int grows(struct xdp_md *xdp)
{
	return bpf_xdp_adjust_head(xdp, -20) ? XDP_ABORTED : XDP_TX;
}

SEC("tc")
int packets_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + sizeof(struct frame) > end)
		return TC_ACT_SHOT;
	fill(data);
	bpf_tail_call_static(skb, &measured_tc, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int nothing_tc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
