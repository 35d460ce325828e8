// SPDX-License-Identifier: Apache-2.0
// What becomes of anchors and bits with time, on a thread of its own: anchors move, regions that count no more and backends that linger are
// let go, and the bits of cells of which nothing is remembered are swept (DATAPATH 20 to 23).
#include <bpf/bpf.h>

#include <algorithm>

#include "../../bpf/include/hash.h"
#include "anchors.h"
#include "balancer.h"
#include "commit.h"
#include "connections.h"

namespace lb {
namespace {

constexpr uint32_t kMargin = 2;       // seconds for which a program may take an entry for alive that we do not
constexpr uint32_t kSweepShare = 64;  // of the idle time: how often bits are looked at
constexpr uint32_t kSweepMost = 30;

uint32_t idle_of(const lb_node& node, bool datagrams) { return datagrams ? node.idle_udp : node.idle_tcp; }

// In how many seconds.
uint32_t until(uint32_t due, uint32_t now) {
  return due == kNow ? TendThread::kNotDue : static_cast<uint32_t>(std::max(0, static_cast<int32_t>(due - now)));
}

uint32_t sweep_again(uint32_t idle) { return std::clamp(idle / kSweepShare, 1u, kSweepMost); }

}  // namespace

// A region whose bits are swept, as it was when that began.
struct AnchorSweep {
  uint32_t service;
  Lines lines;
  std::shared_ptr<Anchors> anchors;
  uint64_t version;
  uint32_t idle, length;
  lb_head head;
  std::vector<bool> kept;  // cells that a flow's entry leads away from
};

// By key without its scope, which entries do not know.
class AnchorSweeps {
 public:
  std::vector<AnchorSweep> all;

  void add_key(Key key, size_t sweep) {
    const uint8_t scope = key.scope;
    key.scope = 0;
    by_key_[key].push_back({sweep, scope});
  }

  // An entry keeps the bits of the cells that it may be of, unless its flow would go the same way without it.
  void keep(const Maps& maps, const lb_connection& c) {
    const Key key{{c.family, {c.service[0], c.service[1], c.service[2], c.service[3]}}, c.service_port, c.protocol, 0};
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) return;
    lb_flow flow{};
    std::memcpy(flow.address, c.service, sizeof flow.address);
    flow.port = c.service_port;
    flow.protocol = c.protocol;
    flow.family = c.family;
    lb_flow_set_client(&flow, c.client);
    flow.socket = c.client_port;
    for (const auto& [i, scope] : found->second) {
      AnchorSweep& sweep = all[i];
      flow.scope = scope;
      const uint32_t cell = lb_hash_scale(lb_hash_of(sweep.head.algorithm, sweep.head.affinity, &flow), sweep.length);
      const uint32_t current = lb_cell_current(maps.table[sweep.lines.first].word[LB_HEAD_WORDS + cell]);
      if (!goes_there(maps, c, current)) sweep.kept[cell] = true;
    }
  }

 private:
  static bool goes_there(const Maps& maps, const lb_connection& c, uint32_t index) {
    if (index >= maps.backend_count()) return false;
    const __u64 word = load_acquire(&maps.backends[index].word);
    if (c.backend_ref != lb_backend_ref(index, lb_backend_generation(word))) return false;
    return c.mode == (lb_backend_flags(word) & LB_BACKEND_LOCAL ? LB_MODE_LOCAL : LB_MODE_DSR);
  }

  std::unordered_map<Key, std::vector<std::pair<size_t, uint8_t>>, KeyHash> by_key_;
};

// After each change of the service.
void Balancer::tend_service(const Service& service) {
  const bool any = !service.lingering.empty() ||
                   std::any_of(service.regions.begin(), service.regions.end(), [](const Region& r) { return r.anchors != nullptr; });
  if (!any) {
    tended_.erase(service.id);
    return;
  }
  tended_.insert(service.id);
  if (tends_) tends_->wake();
}

// Every flow has an entry now that there may be flows without: what was forwarded otherwise until now goes on so.
void Balancer::remember_all_flows() {
  for (auto& [name, service] : services_) {
    for (auto& region : service->regions) remember_all(maps_.table, region);
    tend_service(*service);
  }
}

// Of one service: what is due by the clock. Returns the seconds until there is more.
uint32_t Balancer::move_service(Service& service, std::vector<Rested>& rested) {
  const uint32_t now = monotonic_seconds(), refused = static_cast<uint32_t>(maps_.refused[service.id]);
  uint32_t wait = TendThread::kNotDue;
  Indices32 serving, named;
  for (const auto& b : service.backends)
    if (b.flags & LB_BACKEND_EXISTING) serving.insert(b.index);
  std::vector<Lines> dropped;
  for (auto& region : service.regions) {
    if (!region.anchors) continue;
    const uint32_t idle = idle_of(*maps_.node, region.datagrams);
    const bool held = refused && !is_past(refused, idle, now);
    const uint32_t due = move_anchors(maps_.table, region, idle, held, region.datagrams ? &serving : nullptr, now);
    if (due != kNow) wait = std::min(wait, until(held ? refused + idle + 1 : due, now));
    if (region.anchors->older.first) {
      if (held || !is_past(region.anchors->older_since, idle, now)) {
        wait = std::min(wait, until((held ? refused : region.anchors->older_since) + idle + 1, now));
      } else {
        dropped.push_back(region.anchors->older);
        drop_older(region);
      }
    }
    if (!region.anchors->remembered && !region.anchors->older.first) region.anchors = nullptr;
  }
  for (const auto& lines : dropped) {
    const bool is_named = std::any_of(service.regions.begin(), service.regions.end(),
                                      [&](const Region& r) { return r.anchors && r.anchors->older.first == lines.first; });
    const bool is_known =
        std::any_of(rested.begin(), rested.end(), [&](const Rested& r) { return r.kind == IndexKind::region && r.index == lines.first; });
    if (!is_named && !is_known) rested.push_back({IndexKind::region, lines.first, lines.order});
  }
  let_go_lingering(service, rested);
  return wait;
}

// From here on the region's own cells say all.
void Balancer::drop_older(Region& region) {
  lb_head& head = maps_.table[region.first].head;
  const auto less = static_cast<uint8_t>(LB_REGION_SUCCEEDS | (cells_last(head) ? 0 : LB_REGION_ANCHORED));
  __atomic_store_n(&head.flags, static_cast<uint8_t>(head.flags & ~less), __ATOMIC_RELEASE);
  region.anchors->older = {};
  region.anchors->version++;
}

// Removed backends that no anchor names any more.
void Balancer::let_go_lingering(Service& service, std::vector<Rested>& rested) {
  if (service.lingering.empty()) return;
  Indices32 named;
  for (const auto& region : service.regions) add_anchored(maps_.table, region, named);
  const Locals before = locals_of(service);
  const Vias vias = vias_of(service);
  std::erase_if(service.lingering, [&](const Backend& b) {
    if (named.count(b.index)) return false;
    retire_backend(&maps_.backends[b.index].word);
    rested.push_back({IndexKind::backend, b.index});
    return true;
  });
  const Locals after = locals_of(service);
  for (const auto& [key, index] : before)
    if (!after.count(key)) bpf_map_delete_elem(maps_.fd("lb_locals"), key.data());
  // What leads to one backend of several by number changes, too.
  (void)put_locals(service);
  const Vias kept = vias_of(service);
  for (const auto& [index, via] : vias)
    if (!kept.count(index)) bpf_map_delete_elem(maps_.fd("lb_vias"), &index);
}

// Is anything kept for old flows alone?
bool Balancer::keeps_old() const {
  return std::any_of(tended_.begin(), tended_.end(), [&](uint32_t id) {
    const Service& s = *by_id_.at(id);
    return !s.lingering.empty() || std::any_of(s.regions.begin(), s.regions.end(), [](const Region& r) { return r.anchors && r.anchors->older.first; });
  });
}

// There is no room for anything else: flows that nothing is remembered of, and whose backend is removed or whose table is another, are given up.
bool Balancer::let_go_of_old() {
  if (!keeps_old()) return false;
  std::vector<Rested> rested;
  for (const uint32_t id : tended_) {
    Service& service = *by_id_.at(id);
    Indices32 there;
    std::set<uint32_t> dropped;
    for (const auto& b : service.backends) there.insert(b.index);
    for (auto& region : service.regions) {
      if (!region.anchors) continue;
      move_anchors(maps_.table, region, 0, true, &there, 0);
      const Lines older = region.anchors->older;
      if (!older.first) continue;
      drop_older(region);
      if (dropped.insert(older.first).second) rested.push_back({IndexKind::region, older.first, older.order});
    }
    let_go_lingering(service, rested);
  }
  indices_->rest(std::move(rested));
  return true;
}

// What is due of all services; called by the thread. Returns in how many seconds more will be.
uint32_t Balancer::tend() {
  std::shared_lock alive(life_);
  AnchorSweeps sweeps;
  uint32_t wait = TendThread::kNotDue;
  {
    std::lock_guard lock(mutex_);
    if (closed_ || !maps_.has_packets()) return wait;
    std::vector<Rested> rested;
    for (const uint32_t id : std::vector<uint32_t>(tended_.begin(), tended_.end())) {
      Service& service = *by_id_.at(id);
      wait = std::min(wait, move_service(service, rested));
      begin_sweeps(service, sweeps);
      const bool any = !service.lingering.empty() ||
                       std::any_of(service.regions.begin(), service.regions.end(), [](const Region& r) { return r.anchors != nullptr; });
      if (!any) tended_.erase(id);
    }
    indices_->rest(std::move(rested));
  }
  return sweeps.all.empty() ? wait : std::min(wait, sweep_bits(sweeps));
}

void Balancer::begin_sweeps(const Service& service, AnchorSweeps& sweeps) {
  for (const auto& region : service.regions) {
    if (!region.anchors || !region.anchors->remembered || region.anchors->older.first) continue;
    const lb_head& head = maps_.table[region.first].head;
    if (region.anchors->differing.size() == head.length) continue;
    sweeps.all.push_back({service.id,
                          {region.first, region.order},
                          region.anchors,
                          region.anchors->version,
                          idle_of(*maps_.node, region.datagrams),
                          head.length,
                          head,
                          std::vector<bool>(head.length)});
    for (const auto& f : service.frontends)
      if (f.region == region.first) sweeps.add_key(f.key, sweeps.all.size() - 1);
  }
}

// Programs that saw a cell differ may be making an entry yet: first a grace period, then the entries, then the bits.
uint32_t Balancer::sweep_bits(AnchorSweeps& sweeps) {
  if (!tend_grace_->wait()) return 1;
  lb_connection c;
  for (uint32_t set = 0; set < maps_.flow_sets(); set++) {
    lb_owners owners;
    if (!read_owners(maps_, set, owners)) continue;
    for (uint32_t way = first_flow_way(); way < LB_FLOW_WAYS; way++) {
      if (!read_connection(maps_, set, way, owners, c)) continue;
      if (!is_past(static_cast<uint32_t>(c.life >> 32), idle_allowed(*maps_.node, c) + kMargin, monotonic_seconds())) sweeps.keep(maps_, c);
    }
  }
  std::lock_guard lock(mutex_);
  uint32_t wait = TendThread::kNotDue;
  for (const auto& sweep : sweeps.all) {
    const auto service = by_id_.find(sweep.service);
    if (service == by_id_.end()) continue;
    auto& regions = service->second->regions;
    const auto region = std::find_if(regions.begin(), regions.end(),
                                     [&](const Region& r) { return r.first == sweep.lines.first && r.anchors == sweep.anchors; });
    if (region == regions.end()) continue;  // it has been changed, and that has asked for another sweep
    if (sweep.anchors->version != sweep.version) {
      wait = std::min(wait, 1u);
      continue;
    }
    if (clear_bits(sweep)) wait = std::min(wait, sweep_again(sweep.idle));
    if (!sweep.anchors->remembered) region->anchors = nullptr;
  }
  return wait;
}

// Returns whether there is more to sweep.
bool Balancer::clear_bits(const AnchorSweep& sweep) {
  __u64* cells = maps_.table[sweep.lines.first].word + LB_HEAD_WORDS;
  bool more = false, remembered = false;
  for (uint32_t i = 0; i < sweep.length; i++) {
    __u64 cell = cells[i];
    if (!(cell & LB_CELL_REMEMBERED)) continue;
    const bool differs = lb_cell_current(cell) != lb_cell_anchor(cell);
    if (!differs && !sweep.kept[i] &&
        __atomic_compare_exchange_n(&cells[i], &cell, cell & ~LB_CELL_REMEMBERED, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
      continue;
    remembered = true;
    more |= !differs;
  }
  sweep.anchors->remembered = remembered;
  return more;
}

}  // namespace lb
