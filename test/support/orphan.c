// SPDX-License-Identifier: Apache-2.0
// Connected UDP sockets in a network namespace without a name that no process is in: made there, then the process goes back to where it was.
//   orphan ADDRESS PORT COUNT REUSEPORT    reads a line, then sends on each socket and prints the errno names' numbers
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_storage to = { 0 }, own = { 0 };
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&to;
	struct sockaddr_in *four = (struct sockaddr_in *)&to;
	int home = open("/proc/self/ns/net", O_RDONLY), count = atoi(argv[3]), one = 1, fds[64];
	int v6 = strchr(argv[1], ':') != NULL;
	socklen_t length = v6 ? sizeof *six : sizeof *four, got = sizeof own;
	char line[16];

	if (argc < 5 || unshare(CLONE_NEWNET) || system("ip link set lo up && ip route add local 10.1.0.0/16 dev lo && ip -6 route add local fd01::/96 dev lo"))
		return 1;
	to.ss_family = v6 ? AF_INET6 : AF_INET;
	if (v6)
		inet_pton(AF_INET6, argv[1], &six->sin6_addr), six->sin6_port = htons(atoi(argv[2]));
	else
		inet_pton(AF_INET, argv[1], &four->sin_addr), four->sin_port = htons(atoi(argv[2]));
	for (int i = 0; i < count && i < 64; i++) {
		fds[i] = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (atoi(argv[4])) {
			/* Twins: the same four numbers on each. */
			setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
			own.ss_family = to.ss_family;
			if (bind(fds[i], (struct sockaddr *)&own, length) || getsockname(fds[i], (struct sockaddr *)&own, &got))
				return 2;
		}
		if (connect(fds[i], (struct sockaddr *)&to, length))
			return 3;
	}
	if (setns(home, CLONE_NEWNET))
		return 4;
	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		return 5;
	for (int i = 0; i < count && i < 64; i++)
		printf("%d\n", send(fds[i], "x", 1, 0) < 0 ? errno : 0);
	return 0;
}
