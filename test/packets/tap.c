/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel as a partner of packets: a TAP device in a network namespace of its own, with an echo server for UDP and TCP on port 7.
 *   tap ADDRESS4/N ADDRESS6/N PEER4 PEER6 PEER_MAC
 * A frame in hex on a line of standard input goes to the kernel; what the kernel sends goes to standard output.
 * The kernel computes every checksum itself: a TAP device offloads none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKETS 64

static void die(const char *what)
{
	fprintf(stderr, "tap: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void shell(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof command, format, args);
	va_end(args);
	if (system(command)) {
		fprintf(stderr, "tap: failed: %s\n", command);
		exit(2);
	}
}

static int open_tap(void)
{
	struct ifreq device = { .ifr_name = "t0", .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, TUNSETIFF, &device))
		die("/dev/net/tun");
	return fd;
}

static void print_mac(int tap)
{
	struct ifreq device = {};
	unsigned char *mac = (unsigned char *)device.ifr_hwaddr.sa_data;

	if (ioctl(tap, SIOCGIFHWADDR, &device))
		die("MAC address");
	printf("%02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static int serve(int type)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(7) };
	int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&any, sizeof any) || (type == SOCK_STREAM && listen(fd, 8)))
		die("port 7");
	return fd;
}

static void print_frame(int tap)
{
	unsigned char frame[65536];
	ssize_t n = read(tap, frame, sizeof frame);

	for (ssize_t i = 0; i < n; i++)
		printf("%02x", frame[i]);
	if (n > 0)
		puts("");
}

static int inject_line(int tap)
{
	static char line[140000];
	unsigned char frame[65536];
	size_t n = 0;

	if (!fgets(line, sizeof line, stdin))
		return 0;
	while (n < sizeof frame && sscanf(line + 2 * n, "%2hhx", &frame[n]) == 1)
		n++;
	if (n && write(tap, frame, n) != (ssize_t)n)
		die("write to the device");
	return 1;
}

static void echo_datagram(int fd)
{
	static char data[65536];
	struct sockaddr_in6 peer;
	socklen_t length = sizeof peer;
	ssize_t n = recvfrom(fd, data, sizeof data, 0, (void *)&peer, &length);

	if (n >= 0)
		sendto(fd, data, n, 0, (void *)&peer, length);
}

/* Returns false at the end of the connection. */
static int echo_stream(int fd)
{
	char data[4096];
	ssize_t n = read(fd, data, sizeof data);

	return n > 0 && write(fd, data, n) == n;
}

int main(int argc, char **argv)
{
	struct pollfd at[SOCKETS];
	int count = 4;

	if (argc != 6)
		return 1;
	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	at[0] = (struct pollfd){ .fd = 0, .events = POLLIN };
	at[1] = (struct pollfd){ .fd = open_tap(), .events = POLLIN };
	shell("ip link set lo up && ip link set t0 mtu 1500 && ip addr add %s dev t0 && ip -6 addr add %s dev t0 nodad && ip link set t0 up", argv[1], argv[2]);
	shell("ip neigh add %s lladdr %s dev t0 nud permanent && ip -6 neigh add %s lladdr %s dev t0 nud permanent", argv[3], argv[5], argv[4], argv[5]);
	shell("ip route add default via %s dev t0 && ip -6 route add default via %s dev t0", argv[3], argv[4]);
	at[2] = (struct pollfd){ .fd = serve(SOCK_DGRAM), .events = POLLIN };
	at[3] = (struct pollfd){ .fd = serve(SOCK_STREAM), .events = POLLIN };
	print_mac(at[1].fd);
	for (;;) {
		if (poll(at, count, -1) < 0)
			die("poll");
		if (at[1].revents)
			print_frame(at[1].fd);
		if (at[0].revents && !inject_line(at[1].fd))
			return 0;
		if (at[2].revents)
			echo_datagram(at[2].fd);
		if (at[3].revents && count < SOCKETS)
			at[count++] = (struct pollfd){ .fd = accept4(at[3].fd, NULL, NULL, SOCK_CLOEXEC), .events = POLLIN };
		for (int i = 4; i < count; i++)
			if (at[i].revents && !echo_stream(at[i].fd)) {
				close(at[i].fd);
				at[i--] = at[--count];
			}
	}
}
