// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Destroys the connected UDP sockets of the reader's network namespace whose backend serves them no more: the application
 * gets an error and connects again. An object of its own, as only kernels from 6.5 on have bpf_sock_destroy.
 */
#include "abi.h"
#include "config.h"
#include "kernel.h"
#include "maps.h"
#include "stale.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("iter/udp")
int lb_destroy(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	struct lb_socket *socket;

	if (!udp)
		return 0;
	socket = bpf_sk_storage_get(&lb_sockets, udp, NULL, 0);
	if (!socket || !lb_record_stale(&socket->record) || !lb_record_is_peers(&socket->record, &udp->inet.sk))
		return 0;
#if !LB_LEGACY
	bpf_sock_destroy((struct sock_common *)udp);
#endif
	return 0;
}
