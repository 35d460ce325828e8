/* SPDX-License-Identifier: Apache-2.0 */
#include "wrap.h"

#include <arpa/inet.h>
#include <string.h>

#define GENEVE 6081
#define GENEVE_CLASS 0xffeb
#define OPTION4 0x9e
#define OPTION6 0x1e
#define LINK 14

static uint16_t read16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void put16(uint8_t *p, uint16_t value)
{
	p[0] = value >> 8;
	p[1] = value;
}

static void read_endpoint(struct endpoint *e, uint8_t family, const uint8_t *address, const uint8_t *port)
{
	memset(e, 0, sizeof *e);
	e->family = family;
	memcpy(e->address, address, family == LB_IPV4 ? 4 : 16);
	memcpy(&e->port, port, 2);
}

/* The frame without the `size` bytes at `at`. */
static void without(const uint8_t *frame, uint32_t length, uint32_t at, uint32_t size, struct input *inner)
{
	memcpy(inner->frame, frame, at);
	memcpy(inner->frame + at, frame + at + size, length - at - size);
	inner->length = length - size;
}

static enum wrapping read_geneve(const uint8_t *frame, uint32_t length, const struct view *v, struct input *inner, struct endpoint *service)
{
	const uint8_t *p = frame + v->transport + 8;
	uint32_t size;

	if (length < v->transport + 8 + 20 || read16(p + 8) != GENEVE_CLASS)
		return WRAP_NONE;
	size = 8 + (p[0] & 63) * 4;
	if ((p[10] != LB_IPV4 && p[10] != LB_IPV6) || size != (p[10] == LB_IPV4 ? 8 + 12 : 8 + 24) || length < v->transport + 8 + size)
		return WRAP_NONE;
	if (read16(p + 2) != (p[10] == LB_IPV4 ? 0x0800 : 0x86dd))
		return WRAP_NONE;
	/* The address, its port and two bytes of padding end the options. */
	read_endpoint(service, p[10], p + 12, p + 12 + (p[10] == LB_IPV4 ? 4 : 16));
	size = 12 + (p[10] == LB_IPV4 ? 8 : 20);
	without(frame, length, LINK, v->transport + 8 + size - LINK, inner);
	memcpy(inner->frame + 12, p + 2, 2);
	return WRAP_GENEVE;
}

static enum wrapping read_option(const uint8_t *frame, uint32_t length, const struct view *v, struct input *inner, struct endpoint *service)
{
	const uint8_t *ip = frame + LINK;

	if (v->family == LB_IPV4) {
		if ((ip[0] & 15) < 7 || ip[20] != OPTION4 || ip[21] != 8)
			return WRAP_NONE;
		read_endpoint(service, LB_IPV4, ip + 24, ip + 22);
		without(frame, length, LINK + 20, 8, inner);
		inner->frame[LINK] -= 2;
		put16(inner->frame + LINK + 2, read16(ip + 2) - 8);
		return WRAP_OPTION;
	}
	if (ip[6] != 60 || length < LINK + 64 || ip[41] != 2 || ip[42] != OPTION6 || ip[43] != 18)
		return WRAP_NONE;
	read_endpoint(service, LB_IPV6, ip + 44, ip + 60);
	without(frame, length, LINK + 40, 24, inner);
	inner->frame[LINK + 6] = ip[40];
	put16(inner->frame + LINK + 4, read16(ip + 4) - 24);
	return WRAP_OPTION;
}

enum wrapping wrap_read(const uint8_t *frame, uint32_t length, struct input *inner, struct endpoint *service)
{
	struct view v;

	if (!view_read(frame, length, &v) || v.network != LINK || v.later)
		return WRAP_NONE;
	if (v.fragment)
		return read_option(frame, length, &v, inner, service);
	if (v.protocol == IPPROTO_IPIP || v.protocol == IPPROTO_IPV6) {
		without(frame, length, LINK, v.transport - LINK, inner);
		put16(inner->frame + 12, v.protocol == IPPROTO_IPIP ? 0x0800 : 0x86dd);
		return WRAP_IPIP;
	}
	if (v.protocol == IPPROTO_UDP && v.destination.port == htons(GENEVE))
		return read_geneve(frame, length, &v, inner, service);
	return read_option(frame, length, &v, inner, service);
}

/* ---- wrapping -------------------------------------------------------------------------------------------------------------- */

/* Makes room in front of what lies at `at`. */
static void make_room(struct input *in, uint32_t at, uint32_t size)
{
	memmove(in->frame + at + size, in->frame + at, in->length - at);
	memset(in->frame + at, 0, size);
	in->length += size;
}

static void write_outer(struct input *in, uint8_t protocol, uint32_t more, const struct endpoint *from, const struct endpoint *to)
{
	uint8_t *ip = in->frame + LINK;

	make_room(in, LINK, more + (from->family == LB_IPV4 ? 20 : 40));
	put16(in->frame + 12, from->family == LB_IPV4 ? 0x0800 : 0x86dd);
	if (from->family == LB_IPV4) {
		ip[0] = 0x45;
		put16(ip + 2, in->length - LINK);
		ip[8] = 64;
		ip[9] = protocol;
		memcpy(ip + 12, from->address, 4);
		memcpy(ip + 16, to->address, 4);
	} else {
		ip[0] = 0x60;
		put16(ip + 4, in->length - LINK - 40);
		ip[6] = protocol;
		ip[7] = 64;
		memcpy(ip + 8, from->address, 16);
		memcpy(ip + 24, to->address, 16);
	}
}

void wrap_ipip(struct input *in, const struct endpoint *from, const struct endpoint *to)
{
	write_outer(in, read16(in->frame + 12) == 0x0800 ? IPPROTO_IPIP : IPPROTO_IPV6, 0, from, to);
	view_mend(in->frame, in->length);
}

void wrap_geneve(struct input *in, const struct endpoint *from, const struct endpoint *to, const struct endpoint *service)
{
	uint32_t address = service->family == LB_IPV4 ? 4 : 16, size = 8 + 8 + 4 + address + 4;
	uint16_t type = read16(in->frame + 12);
	uint8_t *udp;

	write_outer(in, IPPROTO_UDP, size, from, to);
	udp = in->frame + LINK + (from->family == LB_IPV4 ? 20 : 40);
	put16(udp, 49152 + random_below(16384));
	put16(udp + 2, GENEVE);
	put16(udp + 4, in->length - (udp - in->frame));
	udp[8] = (4 + address + 4) / 4;
	put16(udp + 10, type);
	put16(udp + 16, GENEVE_CLASS);
	udp[18] = service->family;
	udp[19] = (address + 4) / 4;
	memcpy(udp + 20, service->address, address);
	memcpy(udp + 20 + address, &service->port, 2);
	view_mend(in->frame, in->length);
}

void wrap_option(struct input *in, const struct endpoint *service)
{
	uint8_t *ip = in->frame + LINK, next = ip[6];

	if (service->family == LB_IPV4) {
		make_room(in, LINK + 20, 8);
		ip[0] += 2;
		put16(ip + 2, read16(ip + 2) + 8);
		ip[20] = OPTION4;
		ip[21] = 8;
		memcpy(ip + 22, &service->port, 2);
		memcpy(ip + 24, service->address, 4);
	} else {
		make_room(in, LINK + 40, 24);
		ip[6] = 60;
		put16(ip + 4, read16(ip + 4) + 24);
		ip[40] = next;
		ip[41] = 2;
		ip[42] = OPTION6;
		ip[43] = 18;
		memcpy(ip + 44, service->address, 16);
		memcpy(ip + 60, &service->port, 2);
		ip[62] = 1;
	}
	view_mend(in->frame, in->length);
}
