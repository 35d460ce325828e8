// SPDX-License-Identifier: Apache-2.0
#include "sockets.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <set>

#include "netns.h"

#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

namespace lb {
namespace {

constexpr int kRounds = 8;
constexpr uint32_t kSetsAtOnce = 1024;
constexpr auto kSecondSweep = std::chrono::seconds(1);

UniqueFd open_if(const std::string& path, uint32_t inode) {
  struct stat st;
  if (stat(path.c_str(), &st) || st.st_ino != inode) return {};
  return UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  DIR* dir = opendir(directory.c_str());
  if (!dir) return names;
  while (const dirent* entry = readdir(dir))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  closedir(dir);
  return names;
}

bool is_number(const std::string& name) { return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }); }

// Namespaces without a name or a process: only a socket leads there.
UniqueFd by_socket(uint32_t tgid, uint32_t inode) {
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, tgid, 0)));
  if (!process) return {};
  const std::string directory = "/proc/" + std::to_string(tgid) + "/fd";
  for (const auto& name : names_in(directory)) {
    struct stat st;
    if (stat((directory + "/" + name).c_str(), &st) || !S_ISSOCK(st.st_mode)) continue;
    UniqueFd socket_fd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), std::stoi(name), 0)));
    if (!socket_fd) continue;
    UniqueFd netns(ioctl(socket_fd.get(), SIOCGSKNS));
    if (netns && fstat(netns.get(), &st) == 0 && st.st_ino == inode) return netns;
  }
  return {};
}

struct DiagSocket {
  inet_diag_sockid id;
  uint8_t family;
};

// Sockets of this namespace; SOCK_DESTROY wants addresses and cookie both.
std::vector<DiagSocket> list_sockets(int netlink, uint8_t family, uint8_t protocol) {
  std::vector<DiagSocket> found;
  struct {
    nlmsghdr head;
    inet_diag_req_v2 request;
  } message{};
  message.head = {sizeof message, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0};
  message.request.sdiag_family = family;
  message.request.sdiag_protocol = protocol;
  message.request.idiag_states = ~0u;
  if (send(netlink, &message, sizeof message, 0) < 0) return found;
  std::vector<char> buffer(1 << 16);
  for (;;) {
    const ssize_t got = recv(netlink, buffer.data(), buffer.size(), 0);
    if (got <= 0) return found;
    size_t left = static_cast<size_t>(got);
    for (auto* head = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
      if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR) return found;
      const auto* m = static_cast<const inet_diag_msg*>(NLMSG_DATA(head));
      found.push_back({m->id, m->idiag_family});
    }
  }
}

int destroy_found(int netlink, const DiagSocket& socket, uint8_t protocol) {
  struct {
    nlmsghdr head;
    inet_diag_req_v2 request;
  } message{};
  message.head = {sizeof message, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 0, 0};
  message.request.sdiag_family = socket.family;
  message.request.sdiag_protocol = protocol;
  message.request.idiag_states = ~0u;
  message.request.id = socket.id;
  if (send(netlink, &message, sizeof message, 0) < 0) return errno;
  char answer[4096];
  const ssize_t got = recv(netlink, answer, sizeof answer, 0);
  if (got < static_cast<ssize_t>(sizeof(nlmsghdr) + sizeof(int))) return EIO;
  int error;
  std::memcpy(&error, answer + sizeof(nlmsghdr), sizeof error);
  return -error;
}

}  // namespace

UniqueFd find_netns(uint32_t inode, uint32_t tgid) {
  const std::string process = "/proc/" + std::to_string(tgid);
  if (UniqueFd fd = open_if(process + "/ns/net", inode)) return fd;
  if (UniqueFd fd = open_if("/proc/self/ns/net", inode)) return fd;
  for (const auto& name : names_in("/run/netns"))
    if (UniqueFd fd = open_if("/run/netns/" + name, inode)) return fd;
  for (const auto& name : names_in("/proc"))
    if (is_number(name))
      if (UniqueFd fd = open_if("/proc/" + name + "/ns/net", inode)) return fd;
  if (UniqueFd fd = by_socket(tgid, inode)) return fd;
  // The socket may have been handed to another process.
  for (const auto& name : names_in("/proc"))
    if (is_number(name))
      if (UniqueFd fd = by_socket(static_cast<uint32_t>(std::stoul(name)), inode)) return fd;
  return {};
}

Result<SocketSweeper> SocketSweeper::create(const Maps& maps) {
  SocketSweeper sweeper(maps);
  auto sweep = Object::open("sweep");
  if (!sweep) return sweep.error();
  LB_TRY(maps.lend(*sweep));
  LB_TRY(sweep->load("open", "sweep"));
  sweeper.sweep_ = std::make_unique<Object>(std::move(*sweep));
  auto grace = GracePeriod::create();
  if (!grace) return grace.error();
  sweeper.grace_ = std::make_unique<GracePeriod>(std::move(*grace));
  if (!kernel_abilities().destroy) return sweeper;
  auto destroy = Object::open("destroy");
  if (!destroy) return destroy.error();
  LB_TRY(maps.lend(*destroy));
  LB_TRY(destroy->load("open", "destroy"));
  sweeper.destroy_ = std::make_unique<Object>(std::move(*destroy));
  return sweeper;
}

Result<std::vector<lb_stale>> SocketSweeper::stale() {
  bpf_iter_link_info info{};
  info.map.map_fd = static_cast<__u32>(maps_->fd("lb_sockets"));
  LIBBPF_OPTS(bpf_link_create_opts, opts, .iter_info = &info, .iter_info_len = sizeof info);
  UniqueFd link(bpf_link_create(bpf_program__fd(sweep_->program("lb_sweep")), 0, BPF_TRACE_ITER, &opts));
  if (!link) return kernel_error("sweep", "sockets", errno);
  UniqueFd iterator(bpf_iter_create(link.get()));
  if (!iterator) return kernel_error("sweep", "sockets", errno);
  std::string bytes;
  char buffer[64 * sizeof(lb_stale)];
  for (;;) {
    const ssize_t got = read(iterator.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return kernel_error("sweep", "sockets", errno);
    if (got == 0) break;
    bytes.append(buffer, static_cast<size_t>(got));
  }
  std::vector<lb_stale> found(bytes.size() / sizeof(lb_stale));
  std::memcpy(found.data(), bytes.data(), found.size() * sizeof(lb_stale));
  return found;
}

// In the namespace of the calling thread.
Status SocketSweeper::destroy_by_diag(const std::vector<lb_stale>& sockets, uint8_t protocol) {
  std::set<uint64_t> wanted;
  for (const auto& s : sockets)
    if (s.record.protocol == protocol) wanted.insert(s.record.cookie);
  if (wanted.empty()) return ok();
  UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink) return kernel_error("sweep", "sock_diag", errno);
  for (const uint8_t family : {AF_INET, AF_INET6})
    for (const auto& found : list_sockets(netlink.get(), family, protocol))
      if (wanted.count(static_cast<uint64_t>(found.id.idiag_cookie[1]) << 32 | found.id.idiag_cookie[0])) destroy_found(netlink.get(), found, protocol);
  return ok();
}

Status SocketSweeper::destroy_in(int netns_fd, const std::vector<lb_stale>& sockets) {
  return in_netns(netns_fd, [&]() -> Status {
    LB_TRY(destroy_by_diag(sockets, IPPROTO_TCP));
    if (destroy_) {
      // Walks the UDP sockets of the namespace it is made in, and judges each anew.
      UniqueFd link(bpf_link_create(bpf_program__fd(destroy_->program("lb_destroy")), 0, BPF_TRACE_ITER, nullptr));
      if (!link) return kernel_error("sweep", "destroy", errno);
      UniqueFd iterator(bpf_iter_create(link.get()));
      if (!iterator) return kernel_error("sweep", "destroy", errno);
      char buffer[256];
      ssize_t got;
      while ((got = read(iterator.get(), buffer, sizeof buffer)) > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN))) {
      }
      return ok();
    }
    return destroy_by_diag(sockets, IPPROTO_UDP);
  });
}

Result<SweepReport> SocketSweeper::sweep() {
  SweepReport report;
  for (int round = 0; round < kRounds; round++) {
    auto found = stale();
    if (!found) return found.error();
    if (round == 0) report.found = found->size();
    // Of SO_REUSEPORT twins one goes only when the other is gone: again while there is progress.
    if (found->empty() || (round > 0 && found->size() >= report.left)) {
      report.left = found->size();
      return report;
    }
    report.left = found->size();
    std::map<uint32_t, std::vector<lb_stale>> by_netns;
    for (const auto& s : *found) by_netns[s.netns].push_back(s);
    for (const auto& [inode, sockets] : by_netns) {
      UniqueFd netns;
      for (size_t i = 0; i < sockets.size() && !netns; i++) netns = find_netns(inode, sockets[i].record.tgid);
      if (!netns) continue;  // gone meanwhile, or seen again in the next sweep
      LB_TRY(destroy_in(netns.get(), sockets));
    }
  }
  return report;
}

// Runs a program of the object once for each set of peers, and returns how many ways it changed.
Result<uint32_t> SocketSweeper::each_set(const char* program) {
  uint32_t changed = 0;
  for (const uint8_t family : {LB_IPV4, LB_IPV6}) {
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (bpf_obj_get_info_by_fd(maps_->fd(family == LB_IPV4 ? "lb_peers4" : "lb_peers6"), &info, &length)) return kernel_error("sweep", "peers", errno);
    lb_ways_task task{family, 0, 0, 0};
    while (task.set < info.max_entries) {
      LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = &task, .data_out = &task, .data_size_in = sizeof task, .data_size_out = sizeof task,
                  .repeat = static_cast<int>(std::min<uint32_t>(kSetsAtOnce, info.max_entries - task.set)));
      if (bpf_prog_test_run_opts(bpf_program__fd(sweep_->program(program)), &opts)) {
        if (errno == EINTR) continue;  // what was done is done again
        return kernel_error("sweep", program, errno);
      }
    }
    changed += task.changed;
  }
  return changed;
}

Status SocketSweeper::free_ways() {
  // Programs of the attachment that went may still be running.
  LB_TRY(grace_->wait());
  auto marked = each_set("lb_mark_ways");
  if (!marked) return marked.error();
  if (*marked == 0) return ok();
  LB_TRY(grace_->wait());
  auto freed = each_set("lb_free_ways");
  if (!freed) return freed.error();
  return ok();
}

SweepThread::SweepThread(SocketSweeper sweeper, OnFailure on_failure)
    : sweeper_(std::move(sweeper)), on_failure_(std::move(on_failure)), thread_([this] { run(); }) {}

SweepThread::~SweepThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SweepThread::request() {
  {
    std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_all();
}

void SweepThread::request_later(std::chrono::seconds time) {
  {
    std::lock_guard lock(mutex_);
    later_.insert(std::chrono::steady_clock::now() + time);
  }
  changed_.notify_all();
}

void SweepThread::request_ways() {
  {
    std::lock_guard lock(mutex_);
    ways_ = true;
  }
  changed_.notify_all();
}

bool SweepThread::busy() {
  std::lock_guard lock(mutex_);
  return wanted_ || ways_ || running_;
}

std::string SweepThread::failure() {
  std::lock_guard lock(mutex_);
  return failure_;
}

Status SweepThread::work(bool sockets, bool ways) {
  if (ways) LB_TRY(sweeper_.free_ways());
  if (!sockets) return ok();
  auto report = sweeper_.sweep();
  return report ? ok() : Status(report.error());
}

void SweepThread::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto first = later_.empty() ? std::chrono::steady_clock::time_point::max() : *later_.begin();
    const auto asked = [&] { return stop_ || wanted_ || ways_ || (!later_.empty() && *later_.begin() < first); };
    bool due = false;
    const auto until = again_ ? std::min(std::chrono::steady_clock::now() + kSecondSweep, first) : first;
    if (until == std::chrono::steady_clock::time_point::max())
      changed_.wait(lock, asked);
    else
      due = !changed_.wait_until(lock, until, asked);
    if (stop_) return;
    // A sweep of its time is followed by another one, as one that was asked for is.
    while (!later_.empty() && *later_.begin() <= std::chrono::steady_clock::now()) {
      later_.erase(later_.begin());
      wanted_ = true;
    }
    const bool sockets = wanted_ || due, ways = ways_;
    if (sockets) again_ = wanted_;
    wanted_ = ways_ = false;
    running_ = true;
    lock.unlock();
    const Status done = work(sockets, ways);
    lock.lock();
    running_ = false;
    const std::string failure = done ? "" : done.error().object + ": " + done.error().message;
    const bool news = !failure.empty() && failure != failure_;
    failure_ = failure;
    if (!news || !on_failure_) continue;
    lock.unlock();
    on_failure_(done.error());
    lock.lock();
  }
}

}  // namespace lb
