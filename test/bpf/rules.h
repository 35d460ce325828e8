/* SPDX-License-Identifier: Apache-2.0 */
/* What the checks of the data path share: real sockets, and two services with backends that run in this process. */
#ifndef DATAPATH_RULES_H
#define DATAPATH_RULES_H

#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

extern int failures;
extern const char *rule;

#define CHECK(condition, format, ...)                                                                           \
	do {                                                                                                    \
		if (!(condition)) {                                                                             \
			if (failures++ < 50)                                                                    \
				printf("  FAILED %s, line %d: %s: " format "\n", rule, __LINE__, #condition, ##__VA_ARGS__); \
		}                                                                                               \
	} while (0)

#define BACKENDS 3
#define PATIENCE_MS 10000 /* only when something is missing */

/* A service of each protocol and family, whose backends listen and echo in this process. */
struct world {
	struct fixture f;
	struct endpoint vip4, vip6, backend4[BACKENDS], backend6[BACKENDS];
	int tcp4[BACKENDS], tcp6[BACKENDS], udp4[BACKENDS], udp6[BACKENDS];
	struct service service[2][2]; /* [is tcp][is IPv6] */
};

/* family: of the socket (AF_INET, AF_INET6); IPv4 endpoints become mapped addresses on AF_INET6 sockets. */
int open_socket(int family, int type);
int open_connected(int family, int type, struct endpoint to);
int connect_to(int fd, struct endpoint to);
struct endpoint peer_of(int fd);
struct endpoint local_of(int fd);
/* Sends one datagram; 0 or an errno. With `to` NULL: to the peer. */
int send_to(int fd, const struct endpoint *to);
/* Has one of them something to read, now or within PATIENCE_MS? */
bool arrives(const int *fds, int count);
/* Answers all that came to these sockets, once `expected` datagrams have; returns how many they were. */
int answer_each(const int *fds, int count, int expected);
/* The same for every backend. */
int echo(struct world *w, int expected);
/* The source of the next answer; family 0: there is none. */
struct endpoint source_of_answer(int fd);
/* Accepts one connection on any of the backends' listeners; the index, -1 if there is none. */
int accept_any(const int *listeners);
/* Those that are there. */
void accept_rest(const int *listeners);
/* Ways in use in both arrays of peers. */
int ways_in_use(struct world *w);
int refusal(struct world *w, int with_retval);
uint64_t namespace_cookie(struct world *w);
int kernel_version(void); /* 6.1 is 601 */
struct lb_record record_of(struct world *w, int fd);

void rules_connect(struct world *w);
void rules_choice(struct world *w);
void rules_datagrams(struct world *w);
void rules_attachments(struct world *w);
void rules_around(struct world *w);

#endif
