// SPDX-License-Identifier: Apache-2.0
// Proof that an attachment works: a process in a throw-away cgroup below it and in a namespace of its own connects to an address that only the
// programs can translate (192.0.0.8, RFC 7600, and 100::8, RFC 6666: never assigned), and looks at what it got.
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "balancer.h"
#include "netns.h"

namespace lb {
namespace {

constexpr char kAddress4[] = "192.0.0.8", kAddress6[] = "100::8";
constexpr uint16_t kDiscard = 9;
constexpr int kTimeoutMs = 5000;
constexpr char kCanaryCgroup[] = "ebpf-lb-canary-";  // and the pid

// The child between fork and exit: system calls only, no allocation.
[[noreturn]] void run_child(int cgroup_procs, int netns, const Key& key, int report) {
  const bool v6 = key.address.family == LB_IPV6;
  auto leave = [&](int code) {
    (void)!write(report, &code, sizeof code);
    _exit(0);
  };
  if (write(cgroup_procs, "0", 1) != 1) leave(errno);
  if (netns >= 0 ? setns(netns, CLONE_NEWNET) : unshare(CLONE_NEWNET)) leave(errno);
  const int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) leave(errno);
  if (netns < 0) {
    ifreq request{};
    request.ifr_name[0] = 'l';
    request.ifr_name[1] = 'o';
    request.ifr_flags = IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &request)) leave(errno);
  }
  sockaddr_in6 to6{}, seen{};
  sockaddr_in to4{};
  to4.sin_family = AF_INET;
  to4.sin_port = to6.sin6_port = key.port;
  to4.sin_addr.s_addr = key.address.words[0];
  to6.sin6_family = AF_INET6;
  std::memcpy(&to6.sin6_addr, key.address.words, sizeof to6.sin6_addr);
  const sockaddr* to = v6 ? reinterpret_cast<sockaddr*>(&to6) : reinterpret_cast<sockaddr*>(&to4);
  const socklen_t length = v6 ? sizeof to6 : sizeof to4;
  if (connect(fd, to, length)) leave(errno);
  socklen_t got = sizeof seen;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&seen), &got)) leave(errno);
  leave(std::memcmp(&seen, to, v6 ? 24 : 8) ? EADDRNOTAVAIL : 0);
  _exit(0);
}

}  // namespace

// Of verifications that were killed: cgroups of processes that are no more.
void Balancer::remove_stale_canaries(const std::string& cgroup) {
  DIR* dir = opendir(cgroup.c_str());
  if (!dir) return;
  const std::string prefix = kCanaryCgroup;
  std::vector<std::string> stale;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.rfind(prefix, 0) != 0) continue;
    const pid_t pid = atoi(name.c_str() + prefix.size());
    if (pid > 0 && kill(pid, 0) && errno == ESRCH) stale.push_back(name);
  }
  closedir(dir);
  for (const auto& name : stale) rmdir((cgroup + "/" + name).c_str());
}

// Milliseconds that the connects took; an error says what an application would meet.
Result<double> Balancer::canary(uint32_t attachment, const std::string& hook) {
  const bool v6 = hook == "connect6";
  std::string path;
  std::vector<std::string> netns_paths;
  Frontend f;
  std::shared_lock alive(life_);
  std::lock_guard one_at_a_time(canary_);
  {
    std::lock_guard lock(mutex_);
    LB_TRY(refuse_if_closed("verify"));
    if (options_.readonly) return make_error("ERR_READONLY", "verify", hook, "the balancer was opened read-only");
    const auto found = attachments_.find(attachment);
    if (found == attachments_.end()) return make_error("ERR_NOT_FOUND", "verify", hook, "was detached meanwhile");
    const auto& record = found->second->record();
    path = record.path;
    netns_paths = record.netns;
    Service s;
    s.name = kCanaryName;
    s.owner = kCanaryName;
    s.record = "null";
    Address::parse(v6 ? kAddress6 : kAddress4, f.key.address);
    f.key.protocol = IPPROTO_UDP;
    // A user may have a service there.
    uint16_t port = kDiscard;
    do f.key.port = htons(port++);
    while (keys_.count(f.key));
    s.frontends.push_back(f);
    Backend b;
    Address::parse(v6 ? "::1" : "127.0.0.1", b.address);
    b.port = htons(kDiscard);
    b.flags = LB_BACKEND_EXISTING | LB_BACKEND_POOLS;
    b.weight = 1;
    s.backends.push_back(b);
    CommitInput input;
    input.put.push_back(s);
    LB_TRY(commit_locked(std::move(input)));
  }
  remove_stale_canaries(path);
  const std::string cgroup = path + "/" + kCanaryCgroup + std::to_string(getpid());
  auto attempt = [&]() -> Result<double> {
    if (mkdir(cgroup.c_str(), 0700) && errno != EEXIST) return kernel_error("verify", cgroup, errno);
    stop_point();
    UniqueFd procs(::open((cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!procs) return kernel_error("verify", cgroup, errno);
    UniqueFd netns;
    if (!netns_paths.empty() && netns_paths.front().empty()) {
      netns = UniqueFd(fcntl(netns_.get(), F_DUPFD_CLOEXEC, 0));
    } else if (!netns_paths.empty()) {
      auto opened = open_netns("verify", netns_paths.front());
      if (!opened) return opened.error();
      netns = std::move(*opened);
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return kernel_error("verify", "pipe", errno);
    UniqueFd reader(ends[0]), writer(ends[1]);
    const auto begin = std::chrono::steady_clock::now();
    const pid_t child = fork();
    if (child < 0) return kernel_error("verify", "fork", errno);
    if (child == 0) run_child(procs.get(), netns ? netns.get() : -1, f.key, writer.get());
    writer.reset();
    pollfd ready{reader.get(), POLLIN, 0};
    int code = ETIMEDOUT;
    int polled;
    do polled = poll(&ready, 1, kTimeoutMs);
    while (polled < 0 && errno == EINTR);
    if (polled > 0 && read(reader.get(), &code, sizeof code) != sizeof code) code = EIO;
    if (code == ETIMEDOUT) kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    if (code) return kernel_error("verify", path + " " + hook, code, "a connection from this cgroup to a service address is not translated");
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  };
  auto outcome = attempt();
  rmdir(cgroup.c_str());
  std::lock_guard lock(mutex_);
  LB_TRY(drop_canary());
  return outcome;
}

// The canary's service: after the connect, or left behind by a verify() that was killed.
Status Balancer::drop_canary() {
  if (!services_.count(kCanaryName)) return ok();
  CommitInput input;
  input.remove.push_back(kCanaryName);
  return commit_locked(std::move(input));
}

}  // namespace lb
