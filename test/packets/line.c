/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "line.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *line_word(const char *what)
{
	char *word = strtok(NULL, " \n");

	if (!word) {
		errno = EINVAL;
		die("a line without %s", what);
	}
	return word;
}

int line_number(const char *what)
{
	return strtol(line_word(what), NULL, 0);
}

struct endpoint line_endpoint(const char *text, int *rest)
{
	char address[64];
	size_t length = strcspn(text, "@/");

	snprintf(address, sizeof address, "%.*s", (int)length, text);
	*rest = text[length] ? atoi(text + length + 1) : 0;
	return strchr(address, ':') ? at6(address, *rest) : at4(address, *rest);
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

uint32_t line_frame(const char *hex, uint8_t *frame, uint32_t capacity)
{
	uint32_t n = 0;

	while (n < capacity && digit(hex[2 * n]) >= 0 && digit(hex[2 * n + 1]) >= 0) {
		frame[n] = digit(hex[2 * n]) << 4 | digit(hex[2 * n + 1]);
		n++;
	}
	return n;
}

void line_print_frame(const uint8_t *frame, uint32_t length)
{
	static const char digits[] = "0123456789abcdef";

	for (uint32_t i = 0; i < length; i++) {
		putchar_unlocked(digits[frame[i] >> 4]);
		putchar_unlocked(digits[frame[i] & 15]);
	}
}

int line_hook(const char *name)
{
	for (int i = 0; i < HOOKS; i++)
		if (!strcmp(name, hook_names[i]))
			return i;
	errno = EINVAL;
	die("hook %s", name);
}

int line_device(const char *name)
{
	int index = if_nametoindex(name);

	if (!index)
		die("device %s", name);
	return index;
}

static int protocol_of(const char *name)
{
	return !strcmp(name, "tcp") ? IPPROTO_TCP : !strcmp(name, "udp") ? IPPROTO_UDP : IPPROTO_SCTP;
}

void line_service(struct world *w)
{
	struct definition d = { .protocol = protocol_of(line_word("protocol")) };
	struct service_options options = {};
	char *word;
	int port;

	d.at = line_endpoint(line_word("address"), &port);
	options.algorithm = line_number("algorithm");
	d.flags = line_number("flags");
	d.policy = line_number("policy");
	options.affinity = line_number("affinity");
	while ((word = strtok(NULL, " \n")) && d.count < 8) {
		char *via = strstr(word, "/via=");

		if (strstr(word, "/local"))
			d.local |= 1u << d.count;
		if (via)
			d.via[d.count] = line_endpoint(via + 5, &port);
		d.backend[d.count++] = line_endpoint(word, &port);
	}
	world_define(w, &d, options);
}
