/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a change of SCTP's ports does to its checksum, a CRC32c over the whole packet (RFC 9260, 6.8). It is linear: the sum changes by that
 * of the changed words with zeros behind them, whatever the rest of the packet is.
 */
#ifndef LB_CRC32C_H
#define LB_CRC32C_H

#include "kernel.h"

#define LB_CRC_POLYNOMIAL  0x82f63b78 /* of Castagnoli; bits are reflected: the highest is that of x^0 */
#define LB_CRC_LENGTH_BITS 16

/* x^(8 * 2^i): what 2^i more bytes multiply by. */
static const __u32 lb_crc_powers[LB_CRC_LENGTH_BITS] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* Without branches, of which the verifier would walk each way. */
LB_INLINE __u32 lb_crc_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int bit = 31; bit >= 0; bit--) {
		__u32 taken = -(a >> bit & 1), over = -(b & 1);

		barrier_var(taken);
		barrier_var(over);
		product ^= b & taken;
		b = b >> 1 ^ (LB_CRC_POLYNOMIAL & over);
	}
	return product;
}

/* The change of a sum whose first four bytes change by `change`, of `length` bytes in all. */
__noinline __u32 lb_crc_change(__u32 change, __u32 length)
{
	for (int i = 0; i < LB_CRC_LENGTH_BITS; i++)
		if (length >> i & 1)
			change = lb_crc_multiply(change, lb_crc_powers[i]);
	return change;
}

#endif
