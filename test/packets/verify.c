/* SPDX-License-Identifier: Apache-2.0 */
#include "verify.h"

#include <arpa/inet.h>
#include <string.h>

#define ICMPV6 58

static uint16_t read16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void write16(uint8_t *p, uint16_t value)
{
	p[0] = value >> 8;
	p[1] = value;
}

static uint64_t add(uint64_t sum, const uint8_t *p, uint32_t length)
{
	for (; length > 1; p += 2, length -= 2)
		sum += read16(p);
	return length ? sum + (p[0] << 8) : sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* One's complement has two zeros. */
static uint16_t error_of(uint64_t sum) { return fold(sum) == 0xffff ? 0 : fold(sum) + 1; }

static uint32_t crc32c(const uint8_t *p, uint32_t length)
{
	static uint32_t table[256];
	uint32_t crc = 0xffffffff;

	if (!table[1])
		for (uint32_t i = 0; i < 256; i++) {
			table[i] = i;
			for (int bit = 0; bit < 8; bit++)
				table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0x82f63b78 : 0);
		}
	for (uint32_t i = 0; i < length; i++) /* the checksum itself counts as 0 */
		crc = crc >> 8 ^ table[(crc ^ (i >= 8 && i < 12 ? 0 : p[i])) & 255];
	return ~crc;
}

/* Where the two addresses of the pseudo header are: a routing header has the one where the packet ends. */
static uint64_t pseudo(const uint8_t *frame, const struct view *v, uint32_t length)
{
	uint64_t sum = add(0, frame + v->network + (v->family == LB_IPV4 ? 12 : 8), v->family == LB_IPV4 ? 8 : 32);

	return sum + v->protocol + length;
}

static bool is_routed(const uint8_t *p) { return p[3] > 0; }

static bool read_ports(const uint8_t *frame, struct view *v)
{
	const uint8_t *p = frame + v->transport;
	uint32_t length = v->end - v->transport;
	static const uint8_t minimum[256] = { [IPPROTO_TCP] = 20, [IPPROTO_UDP] = 8, [IPPROTO_SCTP] = 12, [IPPROTO_ICMP] = 8, [ICMPV6] = 8 };

	if (!minimum[v->protocol] || v->later)
		return true;
	if (length < minimum[v->protocol])
		return false;
	if (v->protocol == IPPROTO_ICMP || v->protocol == ICMPV6)
		return true;
	memcpy(&v->source.port, p, 2);
	memcpy(&v->destination.port, p + 2, 2);
	if (v->protocol == IPPROTO_TCP)
		return p[12] >> 4 >= 5 && (v->fragment || (p[12] >> 4) * 4u <= length);
	if (v->protocol == IPPROTO_UDP)
		return read16(p + 4) >= 8 && (v->fragment || read16(p + 4) <= length); /* less: a trailer */
	return true;
}

static void read_error(const uint8_t *frame, struct view *v)
{
	const uint8_t *p = frame + v->transport;
	uint32_t length = v->end - v->transport;

	if (v->fragment)
		return;
	switch (v->protocol) {
	case IPPROTO_UDP:
		length = read16(p + 4);
		v->no_checksum = !read16(p + 6);
		if (v->no_checksum) {
			v->transport_error = v->family == LB_IPV6;
			return;
		}
		/* fallthrough */
	case IPPROTO_TCP:
	case ICMPV6:
		v->transport_error = error_of(add(pseudo(frame, v, length), p, length));
		return;
	case IPPROTO_ICMP:
		v->transport_error = error_of(add(0, p, length));
		return;
	case IPPROTO_SCTP:
		v->transport_error = crc32c(p, length) != (uint32_t)(p[8] | p[9] << 8 | p[10] << 16 | (uint32_t)p[11] << 24);
	}
}

static bool read4(const uint8_t *frame, uint32_t length, struct view *v, bool quoted)
{
	const uint8_t *ip = frame + v->network;
	uint32_t header, total;

	if (length < v->network + 20)
		return false;
	header = (ip[0] & 15) * 4;
	total = read16(ip + 2);
	if (ip[0] >> 4 != 4 || header < 20 || (!quoted && total < header) || length < v->network + header || (!quoted && length < v->network + total))
		return false;
	v->end = quoted ? length : v->network + total; /* what is quoted is cut anywhere, and goes as far as the error does */
	v->transport = v->network + header;
	v->protocol = ip[9];
	v->hops = ip[8];
	v->later = read16(ip + 6) & 0x1fff;
	v->fragment = v->later || ip[6] & 0x20;
	memcpy(v->source.address, ip + 12, 4);
	memcpy(v->destination.address, ip + 16, 4);
	v->network_error = error_of(add(0, ip, header));
	return true;
}

static bool read6(const uint8_t *frame, uint32_t length, struct view *v, bool quoted)
{
	const uint8_t *ip = frame + v->network;
	uint32_t size;

	if (length < v->network + 40)
		return false;
	v->end = v->network + 40 + read16(ip + 4);
	if (ip[0] >> 4 != 6 || (!quoted && v->end > length))
		return false;
	if (quoted)
		v->end = length;
	v->hops = ip[7];
	memcpy(v->source.address, ip + 8, 16);
	memcpy(v->destination.address, ip + 24, 16);
	v->protocol = ip[6];
	v->transport = v->network + 40;
	for (;;) {
		const uint8_t *p = frame + v->transport;

		if (v->protocol != 0 && v->protocol != 43 && v->protocol != 44 && v->protocol != 60)
			return true;
		if (v->later)
			return true;
		if (v->end < v->transport + 8)
			return false;
		size = v->protocol == 44 ? 8 : (p[1] + 1) * 8u;
		if (v->end < v->transport + size || (v->protocol == 43 && is_routed(p)))
			return false;
		if (v->protocol == 44) {
			v->later = read16(p + 2) >> 3;
			v->fragment = v->later || p[3] & 1;
		}
		v->protocol = p[0];
		v->transport += size;
	}
}

static bool read_network(const uint8_t *frame, uint32_t length, uint16_t type, struct view *v, bool quoted)
{
	v->family = v->source.family = v->destination.family = type == 0x0800 ? LB_IPV4 : LB_IPV6;
	if (type == 0x0800 ? !read4(frame, length, v, quoted) : type != 0x86dd || !read6(frame, length, v, quoted))
		return false;
	return true;
}

bool view_read(const uint8_t *frame, uint32_t length, struct view *v)
{
	uint16_t type;

	memset(v, 0, sizeof *v);
	if (length < 14)
		return false;
	type = read16(frame + 12);
	v->network = 14;
	for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); tags++) {
		if (length < v->network + 4)
			return false;
		type = read16(frame + v->network + 2);
		v->network += 4;
	}
	if (!read_network(frame, length, type, v, false) || !read_ports(frame, v))
		return false;
	read_error(frame, v);
	return true;
}

bool view_is_error(const uint8_t *frame, const struct view *v)
{
	uint8_t type = frame[v->transport];

	if (v->fragment)
		return false;
	if (v->protocol == ICMPV6)
		return type < 128;
	return v->protocol == IPPROTO_ICMP && (type == 3 || type == 4 || type == 5 || type == 11 || type == 12);
}

bool view_read_quoted(const uint8_t *frame, const struct view *error, struct view *quoted)
{
	memset(quoted, 0, sizeof *quoted);
	quoted->network = error->transport + 8;
	if (!read_network(frame, error->end, error->family == LB_IPV4 ? 0x0800 : 0x86dd, quoted, true))
		return false;
	if (quoted->end < quoted->transport + 8 || quoted->later ||
	    (quoted->protocol != IPPROTO_TCP && quoted->protocol != IPPROTO_UDP && quoted->protocol != IPPROTO_SCTP))
		return false;
	memcpy(&quoted->source.port, frame + quoted->transport, 2);
	memcpy(&quoted->destination.port, frame + quoted->transport + 2, 2);
	return true;
}

static uint32_t checksum_at(const struct view *v)
{
	return v->transport + (v->protocol == IPPROTO_TCP ? 16 : v->protocol == IPPROTO_UDP ? 6 : 2);
}

void view_mend(uint8_t *frame, uint32_t length)
{
	struct view v;
	uint32_t size;
	uint16_t sum;

	if (!view_read(frame, length, &v))
		return;
	if (v.family == LB_IPV4) {
		write16(frame + v.network + 10, 0);
		write16(frame + v.network + 10, ~fold(add(0, frame + v.network, v.transport - v.network)));
	}
	if (v.fragment || v.no_checksum)
		return;
	size = v.protocol == IPPROTO_UDP ? read16(frame + v.transport + 4) : v.end - v.transport;
	if (v.protocol == IPPROTO_SCTP) {
		uint32_t crc = crc32c(frame + v.transport, size);

		for (int i = 0; i < 4; i++)
			frame[v.transport + 8 + i] = crc >> 8 * i;
	} else if (v.protocol == IPPROTO_TCP || v.protocol == IPPROTO_UDP || v.protocol == IPPROTO_ICMP || v.protocol == ICMPV6) {
		write16(frame + checksum_at(&v), 0);
		sum = ~fold(add(v.protocol == IPPROTO_ICMP ? 0 : pseudo(frame, &v, size), frame + v.transport, size));
		write16(frame + checksum_at(&v), sum || v.protocol != IPPROTO_UDP ? sum : 0xffff);
	}
}

void view_blank(uint8_t *frame, const struct view *v)
{
	memset(frame, 0, 12);
	if (v->family == LB_IPV4) {
		frame[v->network + 8] = 0;
		memset(frame + v->network + 10, 0, 10);
	} else {
		frame[v->network + 7] = 0;
		memset(frame + v->network + 8, 0, 32);
	}
	if (v->later)
		return;
	if (v->protocol == IPPROTO_TCP || v->protocol == IPPROTO_UDP || v->protocol == IPPROTO_SCTP)
		memset(frame + v->transport, 0, 4);
	if (v->protocol == IPPROTO_TCP || v->protocol == IPPROTO_UDP)
		memset(frame + checksum_at(v), 0, 2);
	if (v->protocol == IPPROTO_SCTP)
		memset(frame + v->transport + 8, 0, 4);
}
