// SPDX-License-Identifier: Apache-2.0
// Finds and destroys connected UDP sockets whose backend takes no more flows, and TCP sockets of removed backends whose services end them, in every network namespace (DATAPATH 13).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "indices.h"
#include "maps.h"
#include "result.h"

namespace lb {

struct SweepReport {
  size_t found = 0, left = 0;  // stale sockets at first, and those that could not be destroyed
};

class SocketSweeper {
 public:
  static Result<SocketSweeper> create(const Maps& maps);
  // Blocks; finds stale sockets and destroys them until none is left or no try makes progress.
  Result<SweepReport> sweep();
  // Gives back the ways of TCP sockets that outlived their attachment. Blocks for two grace periods.
  Status free_ways();

 private:
  explicit SocketSweeper(const Maps& maps) : maps_(&maps) {}
  Result<std::vector<lb_stale>> stale();
  static Status destroy_by_diag(const std::vector<lb_stale>& sockets, uint8_t protocol);
  Status destroy_in(int netns_fd, const std::vector<lb_stale>& sockets);
  Result<uint32_t> each_set(const char* program);

  const Maps* maps_;
  std::unique_ptr<GracePeriod> grace_;
  std::unique_ptr<Object> sweep_, destroy_;
};

// Sweeps when asked to, and once more a second later: a socket may have been between choosing and recording (DATAPATH 13).
class SweepThread {
 public:
  using OnFailure = std::function<void(const Error&)>;
  // on_failure: called on the thread when something begins to fail.
  SweepThread(SocketSweeper sweeper, OnFailure on_failure);
  ~SweepThread();
  void request();
  // Once more after this time.
  void request_later(std::chrono::seconds time);
  // After an attachment went: its ways.
  void request_ways();
  bool busy();  // a sweep that was asked for is not done; the one a second later does not count
  std::string failure();

 private:
  void run();
  Status work(bool sockets, bool ways);

  SocketSweeper sweeper_;
  OnFailure on_failure_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::multiset<std::chrono::steady_clock::time_point> later_;
  bool wanted_ = false, again_ = false, ways_ = false, running_ = false, stop_ = false;
  std::string failure_;
  std::thread thread_;
};

// A descriptor of the namespace with this inode number: by a process in it, a name of it, or one of `tgid`'s sockets.
UniqueFd find_netns(uint32_t inode, uint32_t tgid);

}  // namespace lb
