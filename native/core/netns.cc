// SPDX-License-Identifier: Apache-2.0
#include "netns.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>

#include <thread>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace lb {

Result<UniqueFd> open_netns(const std::string& operation, const std::string& path) {
  const std::string file = path.empty() ? "/proc/thread-self/ns/net" : path;
  UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd) return fd;
  Error e = kernel_error(operation, file, errno, "give the path of a network namespace, such as /run/netns/NAME or /proc/PID/ns/net");
  if (errno == ENOENT) e.code = "ERR_NOT_FOUND";
  return e;
}

Status in_netns(int netns_fd, const std::function<Status()>& work) {
  Status result = ok();
  std::thread thread([&] {
    if (setns(netns_fd, CLONE_NEWNET)) {
      result = kernel_error("setns", "network namespace", errno);
      return;
    }
    result = work();
  });
  thread.join();
  return result;
}

Result<uint64_t> netns_cookie(int netns_fd) {
  uint64_t cookie = 0;
  const Status entered = in_netns(netns_fd, [&]() -> Status {
    UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd) return kernel_error("socket", "network namespace", errno);
    socklen_t length = sizeof cookie;
    if (getsockopt(socket_fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length)) return kernel_error("SO_NETNS_COOKIE", "socket", errno, "needs kernel 5.14");
    return ok();
  });
  if (!entered) return entered.error();
  return cookie;
}

}  // namespace lb
