// SPDX-License-Identifier: Apache-2.0
#include "device_watch.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <vector>

namespace lb {
namespace {

// Reads all that is there. True: a device has come, gone or changed.
bool read_events(int fd, std::set<int>& gone) {
  std::vector<char> buffer(1 << 15);
  bool any = false;
  for (;;) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    // Some were lost: which devices there are is looked up anyway.
    if (got < 0 && errno == ENOBUFS) {
      any = true;
      continue;
    }
    if (got <= 0) return any;
    auto left = static_cast<unsigned>(got);
    for (auto* m = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      if (m->nlmsg_type != RTM_NEWLINK && m->nlmsg_type != RTM_DELLINK) continue;
      const auto* link = static_cast<const ifinfomsg*>(NLMSG_DATA(m));
      // Bridges tell of their ports with messages of their own.
      if (link->ifi_family != AF_UNSPEC) continue;
      any = true;
      if (m->nlmsg_type == RTM_DELLINK) gone.insert(link->ifi_index);
    }
  }
}

}  // namespace

DeviceWatch::DeviceWatch(std::function<void(uint32_t, const std::set<int>&)> changed)
    : changed_(std::move(changed)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { run(); }) {}

DeviceWatch::~DeviceWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  thread_.join();
}

void DeviceWatch::wake() {
  const uint64_t one = 1;
  if (write(wake_.get(), &one, sizeof one) < 0) return;  // full: it is awake
}

void DeviceWatch::add(uint32_t id, int events) {
  if (events < 0) return;
  auto own = std::make_shared<UniqueFd>(fcntl(events, F_DUPFD_CLOEXEC, 0));
  {
    std::lock_guard lock(mutex_);
    sockets_[id] = std::move(own);
  }
  wake();
}

void DeviceWatch::remove(uint32_t id) {
  {
    std::lock_guard lock(mutex_);
    sockets_.erase(id);
  }
  wake();
}

void DeviceWatch::run() {
  for (;;) {
    std::vector<std::pair<uint32_t, std::shared_ptr<UniqueFd>>> watched;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      watched.assign(sockets_.begin(), sockets_.end());
    }
    std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}};
    for (const auto& [id, fd] : watched) polled.push_back({fd->get(), POLLIN, 0});
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    uint64_t count;
    if (polled[0].revents && read(wake_.get(), &count, sizeof count) < 0) continue;
    for (size_t i = 0; i < watched.size(); i++) {
      std::set<int> gone;
      if (polled[i + 1].revents && read_events(watched[i].second->get(), gone)) changed_(watched[i].first, gone);
    }
  }
}

}  // namespace lb
