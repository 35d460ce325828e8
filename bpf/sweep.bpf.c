// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Finds the sockets whose backend serves them no more, in every network namespace. An iterator over lb_sockets: what is read
 * from it is one struct lb_stale after another.
 */
#include "abi.h"
#include "config.h"
#include "kernel.h"
#include "maps.h"
#include "stale.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("iter/bpf_sk_storage_map")
int lb_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct lb_stale stale = {};
	struct sock *sk = ctx->sk;
	const struct lb_socket *socket = ctx->value;

	if (!sk || !socket)
		return 0;
	/* A hook may be writing the record: it is whole if backend_ref, 0 meanwhile, is the same before and after. */
	stale.record.backend_ref = lb_read_once(socket->record.backend_ref);
	if (!stale.record.backend_ref)
		return 0;
	stale.record = socket->record;
	stale.reason = lb_record_stale(&stale.record);
	if (!stale.reason || !lb_record_is_peers(&stale.record, sk) ||
	    lb_read_once(socket->record.backend_ref) != stale.record.backend_ref)
		return 0;
	stale.netns = sk->__sk_common.skc_net.net->ns.inum;
	/* Without room the kernel asks again for this socket. */
	return bpf_seq_write(ctx->meta->seq, &stale, sizeof(stale)) ? 1 : 0;
}
