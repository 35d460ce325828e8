// SPDX-License-Identifier: Apache-2.0
// The table of connections, read from mapped memory beside the programs that write it: the owner's word, the entry, the owner's word again.
#include <bpf/bpf.h>
#include <time.h>

#include "balancer.h"

namespace lb {
namespace {

constexpr int kTries = 4;  // of an entry that changes hands meanwhile; then it is left out
constexpr uint32_t kClosed = LB_LIFE_FIN_CLIENT | LB_LIFE_FIN_BACKEND;

uint64_t now_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

const char* state_of(uint8_t protocol, uint32_t life) {
  if (protocol == IPPROTO_UDP) return life & (LB_LIFE_ANSWERED | LB_LIFE_OPENED) ? "established" : "opening";
  if (life & LB_LIFE_RESET) return "reset";
  if ((life & kClosed) == kClosed) return "closed";
  if (life & kClosed) return "closing";
  return life & LB_LIFE_OPENED ? "established" : "opening";
}

// Whose the ways of a set are. Before 5.12 there is a lock in each set, and then the kernel maps none of them into memory.
bool read_owners(const Maps& maps, uint32_t set, lb_owners& out) {
  if (!maps.owners) return bpf_map_lookup_elem(maps.fd("lb_owners"), &set, &out) == 0;
  for (uint32_t way = 0; way < LB_FLOW_WAYS; way++) out.way[way] = load_acquire(&maps.owners[set].way[way]);
  return true;
}

// `before`: of the way's set. False: nobody has the way, or it changes hands all the time.
bool read_entry(const Maps& maps, uint32_t set, uint32_t way, lb_owners before, lb_connection& out) {
  const lb_connection* entry = &maps.connections[static_cast<size_t>(set) * LB_FLOW_WAYS + way];
  for (int attempt = 0; attempt < kTries; attempt++) {
    const __u64 owner = before.way[way];
    if (!lb_owner_tag(owner)) return false;
    if (!(owner & LB_OWNER_BUSY)) std::memcpy(&out, entry, sizeof out);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!read_owners(maps, set, before)) return false;
    if (!(owner & LB_OWNER_BUSY) && before.way[way] == owner) return true;
  }
  return false;
}

}  // namespace

std::vector<ConnectionRow> Balancer::connections() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  std::vector<ConnectionRow> rows;
  if (closed_ || !maps_.has_packets()) return rows;
  const uint64_t now = now_ms();
  // Before 5.12 the first word of a set is a lock.
  const uint32_t first = kernel_abilities().variant == Variant::legacy ? 1 : 0;
  for (uint32_t set = 0; set < maps_.flow_sets(); set++) {
    lb_owners owners;
    if (!read_owners(maps_, set, owners)) continue;
    for (uint32_t way = first; way < LB_FLOW_WAYS; way++) {
      ConnectionRow row{};
      if (!read_entry(maps_, set, way, owners, row.connection)) continue;
      const lb_connection& c = row.connection;
      const auto life = static_cast<uint32_t>(c.life);
      const uint64_t seen = (c.life >> 32) * 1000, made = static_cast<uint64_t>(c.created) * 1000;
      row.idle_ms = now > seen ? now - seen : 0;
      row.age_ms = now > made ? now - made : 0;
      const bool over = life & LB_LIFE_RESET || (life & kClosed) == kClosed;
      const uint64_t allowed = over ? LB_CLOSED_SECONDS : c.protocol == IPPROTO_UDP ? maps_.node->idle_udp : maps_.node->idle_tcp;
      // What has had its time is there until somebody needs the place.
      if (row.idle_ms > allowed * 1000) continue;
      const auto service = by_id_.find(c.service_id);
      if (service == by_id_.end()) continue;
      row.service = service->second->name;
      row.state = state_of(c.protocol, life);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace lb
