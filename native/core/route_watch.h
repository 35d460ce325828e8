// SPDX-License-Identifier: Apache-2.0
// A thread that tells the packet programs when ways may have changed, and whether ways depend on more than where a packet goes: see
// bpf/include/next_hop.h.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "../../bpf/include/abi.h"
#include "result.h"
#include "unique_fd.h"

namespace lb {

class RouteWatch {
 public:
  // node: the settings of the packet hooks, mapped; outlives this.
  explicit RouteWatch(lb_node* node);
  // Nobody vouches for anything from then on.
  ~RouteWatch();
  RouteWatch(const RouteWatch&) = delete;
  RouteWatch& operator=(const RouteWatch&) = delete;

  // Before an attachment's programs run: watches the namespace that its devices are in.
  Status add(uint32_t attachment, int netns);
  void remove(uint32_t attachment);

 private:
  struct Namespace {
    std::pair<dev_t, ino_t> identity;
    std::set<uint32_t> users;
    UniqueFd events, requests;
    // Of the thread.
    bool by_flow = true;  // ways depend on the source, or on the flow
    bool to_scan = true;
    bool was_scanned = false;
    uint32_t sequence = 0;
  };

  void run();
  void wake();
  static bool read_events(Namespace& ns);
  static void scan(Namespace& ns);
  // Ends what programs remember, and what was promised of ways.
  void forget();

  lb_node* node_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  bool stop_ = false;
  UniqueFd wake_;
  std::thread thread_;
};

}  // namespace lb
