/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which backend an unconnected UDP socket sends to for each service, and whose answers bear which service's address. All of
 * it runs under the socket's lock: sendmsg and recvmsg take it around their hooks, so threads of one socket queue here.
 */
#ifndef LB_PINS_H
#define LB_PINS_H

#include "abi.h"
#include "context.h"
#include "flow.h"
#include "frontend.h"
#include "maps.h"
#include "select.h"
#include "sockets.h"

/* The backend that a pin names, if it may go on serving it. */
LB_INLINE bool lb_choice_keep(struct lb_choice *choice, __u32 ref)
{
	const __u32 serves = LB_BACKEND_LIVE | LB_BACKEND_EXISTING;

	return lb_choice_set(choice, lb_ref_index(ref)) == LB_REASON_FORWARDED &&
	       lb_backend_generation(choice->word) == lb_ref_generation(ref) &&
	       (lb_backend_flags(choice->word) & serves) == serves;
}

/* Did another attachment's program choose this address for the datagram, in this very call? See sockets.h. */
LB_INLINE bool lb_sent_by_other(const struct lb_socket *socket, const struct lb_flow *f)
{
	struct lb_choice sent;

	return lb_attachment_is_other(socket->sender - 1) &&
	       lb_choice_set(&sent, lb_ref_index(socket->sent_ref)) == LB_REASON_FORWARDED &&
	       lb_backend_generation(sent.word) == lb_ref_generation(socket->sent_ref) && lb_backend_port(sent.word) == f->port && lb_address_equal(sent.address, f->address, f->family);
}

LB_INLINE void lb_sent_mark(struct lb_socket *socket, const struct lb_choice *choice)
{
	socket->sent_ref = lb_backend_ref(choice->index, lb_backend_generation(choice->word));
	socket->sender = lb_attachment + 1;
}

/* ---- one row of pins, of the socket or of the overflow: the index of one, -1 if none --------------------------------- */

LB_INLINE int lb_row_slot(const struct lb_pin *row, const int length, __u32 slot_ref)
{
	for (int i = 0; i < length; i++)
		if (lb_pin_slot_ref(row[i].word) == slot_ref)
			return i;
	return -1;
}

LB_INLINE int lb_row_free(const struct lb_pin *row, const int length)
{
	for (int i = 0; i < length; i++)
		if (!row[i].word)
			return i;
	return -1;
}

/* A pin whose frontend is gone. One in the middle of a commit is left alone. */
LB_INLINE int lb_row_stale(const struct lb_pin *row, const int length)
{
	for (int i = 0; i < length; i++) {
		__u32 ref = lb_pin_slot_ref(row[i].word), slot = lb_ref_index(ref);
		__u64 *word = bpf_map_lookup_elem(&lb_slots, &slot);
		__u64 now = word ? lb_read_once(*word) : 0;

		if (lb_slot_kind(now) == LB_SLOT_ABSENT ||
		    (lb_slot_kind(now) == LB_SLOT_FINAL && lb_slot_generation(now) != lb_ref_generation(ref)))
			return i;
	}
	return -1;
}

/* Backend ref of a pin of the same service and family, 0 if none serves: one socket has one backend of a service. */
LB_INLINE __u32 lb_row_service(const struct lb_pin *row, const int length, __u32 service, __u8 family)
{
	for (int i = 0; i < length; i++) {
		__u32 ref = lb_pin_backend_ref(row[i].word);
		struct lb_choice choice;

		if (row[i].family == family && lb_choice_keep(&choice, ref) && lb_backend_service(choice.word) == service)
			return ref;
	}
	return 0;
}

/* The pin whose backend has this address. */
LB_INLINE int lb_row_source(const struct lb_pin *row, const int length, const struct lb_flow *source)
{
	for (int i = 0; i < length; i++) {
		__u32 ref = lb_pin_backend_ref(row[i].word);
		struct lb_choice choice;

		if (row[i].family == source->family && lb_choice_set(&choice, lb_ref_index(ref)) == LB_REASON_FORWARDED &&
		    lb_backend_port(choice.word) == source->port &&
		    lb_backend_generation(choice.word) == lb_ref_generation(ref) &&
		    lb_address_equal(choice.address, source->address, source->family))
			return i;
	}
	return -1;
}

/*
 * ---- all pins of the context's socket: 0 to LB_PINS - 1 are the socket's own, the others the overflow's --------------------
 * Global functions, which take nothing but numbers and the context (5.10 allows no more): the verifier looks at their loops
 * once, and not again for each way in which a hook comes to them.
 */
enum { LB_NO_PIN = -1, LB_NO_MEMORY_FOR_PIN = -2 };

LB_INLINE struct lb_more_pins *lb_pins_more(struct bpf_sock_addr *ctx, const struct lb_socket *socket)
{
	return socket->record.more ? bpf_sk_storage_get(&lb_pins, ctx->sk, NULL, 0) : NULL;
}

__noinline int lb_more_find_slot(struct bpf_sock_addr *ctx, __u32 slot_ref)
{
	struct lb_more_pins *more = bpf_sk_storage_get(&lb_pins, ctx->sk, NULL, 0);
	int i = more ? lb_row_slot(more->pin, LB_MORE_PINS, slot_ref) : -1;

	return i < 0 ? LB_NO_PIN : LB_PINS + i;
}

__noinline __u32 lb_pin_find_service(struct bpf_sock_addr *ctx, __u32 service, __u32 family)
{
	struct lb_socket *socket = bpf_sk_storage_get(&lb_sockets, ctx->sk, NULL, 0);
	struct lb_more_pins *more;
	__u32 ref;

	if (!socket)
		return 0;
	ref = lb_row_service(socket->pin, LB_PINS, service, family);
	if (ref)
		return ref;
	more = lb_pins_more(ctx, socket);
	return more ? lb_row_service(more->pin, LB_MORE_PINS, service, family) : 0;
}

__noinline int lb_pin_find_source(struct bpf_sock_addr *ctx, __u64 high, __u64 low, __be16 port, __u32 family)
{
	struct lb_socket *socket = bpf_sk_storage_get(&lb_sockets, ctx->sk, NULL, 0);
	const struct lb_flow source = {
		.address = { high >> 32, (__u32)high, low >> 32, (__u32)low }, .port = port, .family = family
	};
	struct lb_more_pins *more;
	int i;

	if (!socket)
		return LB_NO_PIN;
	i = lb_row_source(socket->pin, LB_PINS, &source);
	if (i >= 0)
		return i;
	more = lb_pins_more(ctx, socket);
	i = more ? lb_row_source(more->pin, LB_MORE_PINS, &source) : -1;
	return i < 0 ? LB_NO_PIN : LB_PINS + i;
}

/* A pin for a frontend that has none yet: a free one, else one whose frontend is gone. */
__noinline int lb_pin_claim(struct bpf_sock_addr *ctx)
{
	struct lb_socket *socket = bpf_sk_storage_get(&lb_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	struct lb_more_pins *more;
	int i;

	if (!socket)
		return LB_NO_MEMORY_FOR_PIN;
	i = lb_row_free(socket->pin, LB_PINS);
	if (i < 0)
		i = lb_row_stale(socket->pin, LB_PINS);
	if (i >= 0)
		return i;
	more = bpf_sk_storage_get(&lb_pins, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!more)
		return LB_NO_MEMORY_FOR_PIN;
	socket->record.more = 1;
	i = lb_row_free(more->pin, LB_MORE_PINS);
	if (i < 0)
		i = lb_row_stale(more->pin, LB_MORE_PINS);
	return i < 0 ? LB_NO_PIN : LB_PINS + i;
}

/* The pin of an index. */
LB_INLINE struct lb_pin *lb_pin_at(struct bpf_sock_addr *ctx, struct lb_socket *socket, int i)
{
	struct lb_more_pins *more;

	if (i < 0)
		return NULL;
	if (i < LB_PINS)
		return &socket->pin[i];
	more = lb_pins_more(ctx, socket);
	i -= LB_PINS;
	if (!more || i >= LB_MORE_PINS)
		return NULL;
	barrier_var(more); /* or clang computes the address before the check */
	return &more->pin[i];
}

/* The pin of a frontend. */
LB_INLINE struct lb_pin *lb_pin_of_slot(struct bpf_sock_addr *ctx, struct lb_socket *socket, __u32 slot_ref)
{
	int i = lb_row_slot(socket->pin, LB_PINS, slot_ref);

	if (i < 0 && socket->record.more)
		i = lb_more_find_slot(ctx, slot_ref);
	return lb_pin_at(ctx, socket, i);
}

/* The pin that an answer belongs to. */
LB_INLINE struct lb_pin *lb_pin_of_source(struct bpf_sock_addr *ctx, struct lb_socket *socket, const struct lb_flow *f)
{
	__u64 high = (__u64)f->address[0] << 32 | f->address[1], low = (__u64)f->address[2] << 32 | f->address[3];

	return lb_pin_at(ctx, socket, lb_pin_find_source(ctx, high, low, f->port, f->family));
}

LB_INLINE void lb_pin_write(struct lb_pin *pin, const struct lb_flow *f, __u32 slot_ref, const struct lb_choice *choice)
{
	lb_address_copy(pin->address, f->address);
	pin->port = f->port;
	pin->family = f->family;
	pin->word = lb_pin_word(slot_ref, lb_backend_ref(choice->index, lb_backend_generation(choice->word)));
}

#endif
