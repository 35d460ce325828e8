// SPDX-License-Identifier: Apache-2.0
// A client of traffic_server whose sockets a test drives. Each line of standard input is a command, `ID OP ARGUMENT...`; each answer a line
// `ID {JSON}`. Commands of different sockets may be under way at once; none takes longer than its socket's patience.
//   tcp ADDRESS PORT PATIENCE_MS OWN OWN_PORT     connects ('-' and 0: any address, any port); {socket, own, peer} or {error}
//   sctp ...                                      likewise
//   udp ADDRESS PORT PATIENCE_MS OWN OWN_PORT     an unconnected socket whose datagrams go there
//   connected-udp ...                             likewise, and from there only
//   who SOCKET [ADDRESS PORT]                     {server, client, backend}, datagrams also {from}
//   move SOCKET DOWN UP                           bytes in both directions at once; {received, sent, intact, ms}
//   burst SOCKET COUNT SIZE                       datagrams; {sent, answered, intact}
//   close SOCKET
// traffic_client --sctp: ends with status 0 if this kernel has SCTP.
#define _GNU_SOURCE
#include "traffic.h"

#include <err.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <time.h>

enum { SOCKETS = 4096, IN_FLIGHT = 16 };

static struct sockaddr_in6 destinations[SOCKETS];
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

struct command {
	unsigned id;
	char text[LINE];
};

static void answer(unsigned id, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void answer(unsigned id, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	pthread_mutex_lock(&output);
	printf("%u ", id);
	vprintf(format, arguments);
	putchar('\n');
	fflush(stdout);
	pthread_mutex_unlock(&output);
	va_end(arguments);
}

static void fail(unsigned id, int error)
{
	bool late = error == EAGAIN || error == EINPROGRESS;

	answer(id, "{\"error\":\"%s\"}", strerrorname_np(late ? ETIMEDOUT : error));
}

/* IPv4 addresses as v4-mapped ones. */
static bool parse(const char *address, unsigned port, struct sockaddr_in6 *out)
{
	char mapped[INET6_ADDRSTRLEN + 8];

	*out = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
	if (strcmp(address, "-") == 0)
		return true;
	snprintf(mapped, sizeof(mapped), "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
	return inet_pton(AF_INET6, mapped, &out->sin6_addr) == 1;
}

static void open_socket(const struct command *command, int type, int protocol, bool connected, const char *arguments)
{
	char address[64], own_address[64];
	unsigned port, patience, own_port;
	struct sockaddr_in6 to, own;
	int fd, one = 1, zero = 0;
	struct name here, there;

	if (sscanf(arguments, "%63s %u %u %63s %u", address, &port, &patience, own_address, &own_port) != 5 || !parse(address, port, &to) ||
	    !parse(own_address, own_port, &own))
		return fail(command->id, EINVAL);
	fd = socket(AF_INET6, type | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		return fail(command->id, errno);
	if (fd >= SOCKETS) {
		close(fd);
		return fail(command->id, EMFILE);
	}
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	/* One port to several places; with it, any port may be one that another datagram socket has. */
	if (own_port)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	set_no_delay(fd);
	set_patience(fd, patience);
	if (type == SOCK_DGRAM) {
		/* Or ICMP errors would be lost on a socket that is not connected. */
		setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one));
	}
	destinations[fd] = to;
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0 ||
	    (connected && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)) {
		fail(command->id, errno);
		close(fd);
		return;
	}
	here = local_name(fd);
	there = name_of(&to);
	answer(command->id, "{\"socket\":%d,\"own\":{\"address\":\"%s\",\"port\":%u},\"peer\":{\"address\":\"%s\",\"port\":%u}}", fd,
	       here.address, here.port, there.address, there.port);
}

static bool is_datagram(int fd)
{
	int type = 0;
	socklen_t length = sizeof(type);

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length);
	return type == SOCK_DGRAM;
}

/* What the server said: NAME PEER PEER_PORT OWN OWN_PORT. */
static void answer_introduction(unsigned id, const char *text, const struct sockaddr_in6 *from)
{
	char server[64], client[64], backend[64], tail[128] = "";
	unsigned client_port, backend_port;
	struct name name;

	if (sscanf(text, "%63s %63s %u %63s %u", server, client, &client_port, backend, &backend_port) != 5)
		return fail(id, EPROTO);
	if (from) {
		name = name_of(from);
		snprintf(tail, sizeof(tail), ",\"from\":{\"address\":\"%s\",\"port\":%u}", name.address, name.port);
	}
	answer(id, "{\"server\":\"%s\",\"client\":{\"address\":\"%s\",\"port\":%u},\"backend\":{\"address\":\"%s\",\"port\":%u}%s}", server,
	       client, client_port, backend, backend_port, tail);
}

static void who(const struct command *command, const char *arguments)
{
	struct sockaddr_in6 from = {0}, to;
	socklen_t length = sizeof(from);
	char address[64], text[LINE] = "";
	unsigned port;
	int fd, given = sscanf(arguments, "%d %63s %u", &fd, address, &port);
	ssize_t n;

	if (given < 1 || fd < 0 || fd >= SOCKETS)
		return fail(command->id, EINVAL);
	if (!is_datagram(fd)) {
		if (!write_all(fd, "who\n", 4) || !read_line(fd, text))
			return fail(command->id, errno);
		return answer_introduction(command->id, text, NULL);
	}
	to = destinations[fd];
	if (given == 3 && !parse(address, port, &to))
		return fail(command->id, EINVAL);
	if (sendto(fd, "who", 3, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		return fail(command->id, errno);
	n = recvfrom(fd, text, LINE - 1, 0, (struct sockaddr *)&from, &length);
	if (n < 0)
		return fail(command->id, errno);
	answer_introduction(command->id, text, &from);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static void move(const struct command *command, const char *arguments)
{
	unsigned long long down, up, arrived;
	char line[LINE], state[16] = "";
	uint64_t begin = now_ms(), seed;
	struct stream sent, received;
	pthread_t sender;
	int fd;

	if (sscanf(arguments, "%d %llu %llu", &fd, &down, &up) != 3)
		return fail(command->id, EINVAL);
	seed = begin << 20 ^ command->id;
	sent = (struct stream){.fd = fd, .length = up, .seed = ~seed};
	received = (struct stream){.fd = fd, .length = down, .seed = seed};
	if (!write_all(fd, line, snprintf(line, LINE, "move %llu %llu %llu\n", down, up, (unsigned long long)seed)))
		return fail(command->id, errno);
	if (pthread_create(&sender, NULL, send_stream, &sent) != 0)
		return fail(command->id, EAGAIN);
	receive_stream(&received);
	pthread_join(sender, NULL);
	if (received.error || sent.error)
		return fail(command->id, received.error ? received.error : sent.error);
	if (!read_line(fd, line))
		return fail(command->id, errno);
	if (sscanf(line, "%llu %15s", &arrived, state) != 2)
		return fail(command->id, EPROTO);
	answer(command->id, "{\"received\":%llu,\"sent\":%llu,\"intact\":%s,\"ms\":%llu}", (unsigned long long)received.done, arrived,
	       !received.broken && strcmp(state, "intact") == 0 ? "true" : "false", (unsigned long long)(now_ms() - begin));
}

/* Waits for answers until no more than `allowed` are missing; what the server sent back follows its introduction. */
static bool collect(int fd, unsigned sent, unsigned allowed, unsigned *answered, unsigned size, bool *intact)
{
	static __thread char text[DATAGRAM];
	static __thread uint8_t wanted[DATAGRAM];

	while (sent - *answered > allowed) {
		ssize_t n = recv(fd, text, sizeof(text), 0);
		uint32_t number;

		if (n < 0)
			return false;
		if (n < (ssize_t)size) {
			*intact = false;
			continue;
		}
		memcpy(&number, text + n - size, 4);
		fill(wanted, size, number, 0);
		memcpy(wanted, &number, 4);
		if (number >= sent || memcmp(wanted, text + n - size, size) != 0)
			*intact = false;
		++*answered;
	}
	return true;
}

static void burst(const struct command *command, const char *arguments)
{
	static __thread uint8_t data[DATAGRAM];
	unsigned count, size, sent = 0, answered = 0;
	bool intact = true;
	int fd;

	if (sscanf(arguments, "%d %u %u", &fd, &count, &size) != 3 || size < 4 || size > DATAGRAM - LINE || fd < 0 || fd >= SOCKETS)
		return fail(command->id, EINVAL);
	while (sent < count) {
		fill(data, size, sent, 0);
		memcpy(data, &sent, 4);
		if (sendto(fd, data, size, 0, (struct sockaddr *)&destinations[fd], sizeof(destinations[fd])) < 0)
			return fail(command->id, errno);
		sent++;
		if (!collect(fd, sent, IN_FLIGHT, &answered, size, &intact))
			break;
	}
	collect(fd, sent, 0, &answered, size, &intact);
	answer(command->id, "{\"sent\":%u,\"answered\":%u,\"intact\":%s}", sent, answered, intact ? "true" : "false");
}

static void *run(void *arg)
{
	struct command *command = arg;
	char op[16] = "";
	int skip = 0;
	const char *rest;

	sscanf(command->text, "%15s %n", op, &skip);
	rest = command->text + skip;
	if (strcmp(op, "tcp") == 0)
		open_socket(command, SOCK_STREAM, IPPROTO_TCP, true, rest);
	else if (strcmp(op, "sctp") == 0)
		open_socket(command, SOCK_STREAM, IPPROTO_SCTP, true, rest);
	else if (strcmp(op, "udp") == 0)
		open_socket(command, SOCK_DGRAM, IPPROTO_UDP, false, rest);
	else if (strcmp(op, "connected-udp") == 0)
		open_socket(command, SOCK_DGRAM, IPPROTO_UDP, true, rest);
	else if (strcmp(op, "who") == 0)
		who(command, rest);
	else if (strcmp(op, "move") == 0)
		move(command, rest);
	else if (strcmp(op, "burst") == 0)
		burst(command, rest);
	else if (strcmp(op, "close") == 0 && atoi(rest) > 2)
		answer(command->id, close(atoi(rest)) == 0 ? "{}" : "{\"error\":\"EBADF\"}");
	else
		fail(command->id, ENOSYS);
	free(command);
	return NULL;
}

int main(int argc, char **argv)
{
	struct rlimit files = {SOCKETS, SOCKETS};
	char line[LINE];

	if (argc > 1 && strcmp(argv[1], "--sctp") == 0)
		return socket(AF_INET6, SOCK_STREAM, IPPROTO_SCTP) < 0;
	setrlimit(RLIMIT_NOFILE, &files);
	while (fgets(line, sizeof(line), stdin)) {
		struct command *command = calloc(1, sizeof(*command));
		pthread_t thread;
		int skip = 0;

		if (!command || sscanf(line, "%u %n", &command->id, &skip) != 1)
			errx(2, "not a command: %s", line);
		strncpy(command->text, line + skip, LINE - 1);
		if (pthread_create(&thread, NULL, run, command) != 0)
			errx(1, "no thread");
		pthread_detach(thread);
	}
	return 0;
}
