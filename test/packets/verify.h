/* SPDX-License-Identifier: Apache-2.0 */
/* A second reader of packets, in C for the fuzzer's speed: shares nothing with parse.ts, nor with the programs. */
#ifndef PACKETS_VERIFY_H
#define PACKETS_VERIFY_H

#include "fixture.h"

struct view {
	uint8_t family; /* enum lb_family */
	uint8_t protocol;
	uint8_t hops;
	bool fragment, later; /* part of a datagram; one without its transport header */
	bool no_checksum;     /* UDP that has none */
	uint32_t network, transport, end; /* offsets */
	struct endpoint source, destination; /* ports 0 where there are none */
	/* What the checksums are off by: 0 is right. Translating a packet keeps them, also the wrong ones. */
	uint16_t network_error, transport_error;
};

/* False: not IP, or a packet that contradicts itself. */
bool view_read(const uint8_t *frame, uint32_t length, struct view *v);
/* The packet that an ICMP error quotes; offsets are into the frame. Its transport checksum is not looked at. */
bool view_read_quoted(const uint8_t *frame, const struct view *error, struct view *quoted);
bool view_is_error(const uint8_t *frame, const struct view *v);
/* Computes the checksums that the frame needs to be right. */
void view_mend(uint8_t *frame, uint32_t length);
/* Puts 0 where forwarding may change something: MACs, hops, addresses, ports, checksums. */
void view_blank(uint8_t *frame, const struct view *v);

#endif
