// SPDX-License-Identifier: Apache-2.0
// A thread that listens for devices that come and go, for all attachments that want to know.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "unique_fd.h"

namespace lb {

class DeviceWatch {
 public:
  // changed: of an attachment, with the numbers of the devices that are gone. Called on the watch's own thread, with no lock of the watch held.
  explicit DeviceWatch(std::function<void(uint32_t, const std::set<int>&)> changed);
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  // events: a netlink socket that tells of links; the watch works on a duplicate.
  void add(uint32_t id, int events);
  void remove(uint32_t id);

 private:
  void run();
  void wake();

  std::function<void(uint32_t, const std::set<int>&)> changed_;
  std::mutex mutex_;
  std::map<uint32_t, std::shared_ptr<UniqueFd>> sockets_;
  bool stop_ = false;
  UniqueFd wake_;
  std::thread thread_;
};

}  // namespace lb
