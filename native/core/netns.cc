// SPDX-License-Identifier: Apache-2.0
#include "netns.h"

#include <fcntl.h>
#include <sched.h>

#include <thread>

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

}  // namespace lb
