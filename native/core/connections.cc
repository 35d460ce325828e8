// SPDX-License-Identifier: Apache-2.0
#include "connections.h"

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

}  // namespace

uint32_t first_flow_way() { return kernel_abilities().variant == Variant::legacy ? 1 : 0; }

uint32_t idle_allowed(const lb_node& node, const lb_connection& c) {
  const auto life = static_cast<uint32_t>(c.life);
  if (life & LB_LIFE_RESET || (life & kClosed) == kClosed) return LB_CLOSED_SECONDS;
  return c.protocol == IPPROTO_UDP ? node.idle_udp : node.idle_tcp;
}

bool read_owners(const Maps& maps, uint32_t set, lb_owners& out) {
  if (!maps.owners) return bpf_map_lookup_elem(maps.fd("lb_owners"), &set, &out) == 0;
  for (uint32_t way = 0; way < LB_FLOW_WAYS; way++) out.way[way] = load_acquire(&maps.owners[set].way[way]);
  return true;
}

bool read_connection(const Maps& maps, uint32_t set, uint32_t way, lb_owners before, lb_connection& out) {
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

std::vector<ConnectionRow> Balancer::connections() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  std::vector<ConnectionRow> rows;
  if (closed_ || !maps_.has_packets()) return rows;
  const uint64_t now = now_ms();
  const uint32_t first = first_flow_way();
  for (uint32_t set = 0; set < maps_.flow_sets(); set++) {
    lb_owners owners;
    if (!read_owners(maps_, set, owners)) continue;
    for (uint32_t way = first; way < LB_FLOW_WAYS; way++) {
      ConnectionRow row{};
      if (!read_connection(maps_, set, way, owners, row.connection)) continue;
      const lb_connection& c = row.connection;
      const auto life = static_cast<uint32_t>(c.life);
      const uint64_t seen = (c.life >> 32) * 1000, made = static_cast<uint64_t>(c.created) * 1000;
      row.idle_ms = now > seen ? now - seen : 0;
      row.age_ms = now > made ? now - made : 0;
      // What has had its time is there until somebody needs the place.
      if (row.idle_ms > uint64_t{idle_allowed(*maps_.node, c)} * 1000) continue;
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
