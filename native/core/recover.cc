// SPDX-License-Identifier: Apache-2.0
// The next open() of pinned maps: what a death left half done is finished or taken back, and everything is believed anew from the maps alone
// (DATAPATH 6). Every step may itself be cut off and done again.
#include <bpf/bpf.h>

#include <algorithm>

#include "anchors.h"
#include "balancer.h"
#include "commit.h"

namespace lb {

Status Balancer::recover() {
  std::vector<bool> slots(maps_.slot_count()), backends(maps_.backend_count()), ids(maps_.slot_count()), range_sets(kRangeSets);
  std::vector<LineList::Block> lines;
  if (log_) {
    repair_slots();
    LogContent content = log_->read();
    if (content.damaged)
      return make_error("ERR_LAYOUT", "open", options_.pin_path, std::to_string(content.damaged) + " records of the log cannot be read; remove the directory to begin anew");
    settings_ = content.settings;
    has_settings_ = content.has_settings;
    reserved_ports_ = parse_ports(content.reserved);
    for (auto& [id, service] : content.services) {
      auto s = std::make_unique<Service>(std::move(service));
      ids[id] = true;
      for (auto& f : s->frontends) {
        slots[f.slot] = true;
        keys_[f.key] = f.slot;
        const __u64 word = maps_.slots[f.slot].word;
        const uint32_t first = f.region = lb_slot_region(word);
        if (std::any_of(s->regions.begin(), s->regions.end(), [&](const Region& r) { return r.first == first; })) continue;
        const lb_head& head = maps_.table[first].head;
        const uint32_t words = LB_HEAD_WORDS + head.length + (head.flags & LB_REGION_NEAR ? 0 : head.members) + (head.flags & LB_REGION_SUCCEEDS ? 1 : 0);
        const uint32_t order = LineList::order_for((words + LB_LINE_WORDS - 1) / LB_LINE_WORDS);
        s->regions.push_back({f.key.address.family, f.pool, is_apart(*s, f), first, order, s->policy_of(f), nullptr});
        lines.push_back({first, order});
      }
      adopt_anchors(*s, backends, lines);
      for (auto& b : s->backends) {
        backends[b.index] = true;
        b.generation = lb_backend_generation(maps_.backends[b.index].word);
      }
      used_ += held(*s);
      for (const auto& set : s->range_sets) {
        if (set.id < range_sets.size()) range_sets[set.id] = true;
        LB_TRY(ranges_.add(set.id, set.ranges, s->name));
      }
      by_id_[id] = s.get();
      services_[s->name] = std::move(s);
    }
    frontends_.repair(keys_);
    log_->cut();
    repair_backends();
    for (uint32_t i = 1; i < maps_.slot_count(); i++)
      if (!slots[i] && lb_slot_kind(maps_.slots[i].word) != LB_SLOT_ABSENT) store_release(&maps_.slots[i].word, lb_slot_absent(lb_slot_generation(maps_.slots[i].word)));
    for (const auto& [name, s] : services_) count_ports(*s, 1);
    for (uint32_t port = 0; port < 65536; port++) {
      uint8_t use = 0;
      for (unsigned bit = 0; bit < LB_PORT_USES; bit++)
        if (port_users_[port * LB_PORT_USES + bit]) use |= static_cast<uint8_t>(1u << bit);
      uint8_t* word = &maps_.ports[port / 8].use[port % 8];
      if (*word != use) __atomic_store_n(word, use, __ATOMIC_RELEASE);
    }
  }
  // Nothing is given out before a grace period that begins after the repair: a program may hold what a dead commit wrote.
  if (log_) {
    auto grace = GracePeriod::create();
    if (!grace) return grace.error();
    LB_TRY(grace->wait());
    if (maps_.control->retiring & 1) store_release(&maps_.control->retiring, maps_.control->retiring + 1);
    for (uint32_t i = 1; i < maps_.backend_count(); i++)
      if (!backends[i]) retire_counters(i, lb_backend_service(maps_.backends[i].word));
    for (uint32_t i = 1; i < maps_.slot_count(); i++)
      if (!ids[i]) maps_.failures[i] = maps_.failures[maps_.slot_count() + i] = 0;
  }
  LB_TRY(recover_ranges(range_sets));
  if (maps_.has_packets()) LB_TRY(recover_packets());
  std::lock_guard lock(indices_->mutex);
  indices_->range_sets.reset(kRangeSets, range_sets);
  indices_->slots.reset(maps_.slot_count(), slots);
  indices_->services.reset(maps_.slot_count(), ids);
  indices_->backends.reset(maps_.backend_count(), backends);
  indices_->pending.reset(maps_.slot_count(), {});
  indices_->lines.reset(maps_.lines, lines);
  return ok();
}

// Anchors are in the regions; the backends that only they name are in the kernel's map alone.
void Balancer::adopt_anchors(Service& service, std::vector<bool>& backends, std::vector<LineList::Block>& lines) {
  const uint32_t now = monotonic_seconds();
  Indices32 known;
  for (const auto& b : service.backends) known.insert(b.index);
  for (auto& region : service.regions) {
    region.anchors = read_anchors(maps_.table, region.first, maps_.lines, now);
    if (!region.anchors) continue;
    __atomic_store_n(&maps_.table[region.first].head.changed, now, __ATOMIC_RELAXED);
    const Lines& older = region.anchors->older;
    if (older.first && std::none_of(lines.begin(), lines.end(), [&](const auto& l) { return l.first == older.first; })) lines.push_back({older.first, older.order});
    Indices32 named;
    add_anchored(maps_.table, region, named);
    for (const uint32_t index : named) {
      if (index >= backends.size() || !known.insert(index).second) continue;
      const lb_backend& held = maps_.backends[index];
      if (lb_backend_service(held.word) != service.id || !(lb_backend_flags(held.word) & LB_BACKEND_LIVE)) continue;
      Backend b;
      b.address.family = region.family;
      std::memcpy(b.address.words, held.address, sizeof b.address.words);
      b.port = lb_backend_port(held.word);
      b.flags = static_cast<uint8_t>(lb_backend_flags(held.word) & (LB_BACKEND_LOCAL | LB_BACKEND_VIA));
      b.index = index;
      b.generation = lb_backend_generation(held.word);
      lb_via via{};
      if (maps_.has_packets() && b.flags & LB_BACKEND_VIA && !bpf_map_lookup_elem(maps_.fd("lb_vias"), &index, &via))
        b.via = {static_cast<uint8_t>(via.family), {via.address[0], via.address[1], via.address[2], via.address[3]}};
      backends[index] = true;
      service.lingering.push_back(b);
    }
  }
  tend_service(service);
}

// After the grace period: a program may have been at work with a set that no record names any more.
Status Balancer::recover_ranges(std::vector<bool>& range_sets) {
  const uint32_t services = static_cast<uint32_t>(maps_.control->service_ranges);
  std::vector<uint32_t> settings = {services};
  if (const lb_node* node = maps_.node) settings.insert(settings.end(), {node->peers, node->pods, node->masquerade, node->masquerade_exclude});
  for (const uint32_t id : settings)
    if (id && id < range_sets.size()) range_sets[id] = true;
  std::set<uint32_t> known;
  for (uint32_t id = 1; id < range_sets.size(); id++)
    if (range_sets[id]) known.insert(id);
  LB_TRY(ranges_.adopt(maps_, known));
  service_ranges_ = ranges_.contents(services);
  return fill_held();
}

Status Balancer::recover_packets() {
  for (const auto& [key, slot] : keys_) count_address(key, true);
  LB_TRY(fill_addresses());
  LB_TRY(fill_locals());
  LB_TRY(fill_vias());
  // Settings stay as they are until the caller says otherwise: packets are balanced all the time.
  packets_filled_ = true;
  return ok();
}

// A PENDING slot whose number was reached is finished; any other is taken back.
void Balancer::repair_slots() {
  const __u64 committed = maps_.control->number;
  for (uint32_t i = 0; i < maps_.slot_count(); i++) {
    const __u64 word = maps_.slots[i].word;
    if (lb_slot_kind(word) != LB_SLOT_PENDING) continue;
    const lb_pending& pair = maps_.pending[lb_pending_index(word)];
    store_release(&maps_.slots[i].word, lb_number_reached(committed, lb_pending_number(word)) ? pair.after : pair.before);
    stop_point();
  }
}

// Indices that no committed service names lose what they say, and get a generation that no socket remembers.
void Balancer::repair_backends() {
  std::vector<__u64> wanted(maps_.backend_count(), 0);
  for (const auto& [name, s] : services_)
    for (const auto* list : {&s->backends, &s->lingering})
      for (const auto& b : *list) wanted[b.index] = lb_backend_word(b.port, lb_backend_generation(maps_.backends[b.index].word), s->id, b.flags | LB_BACKEND_LIVE);
  for (uint32_t i = 1; i < maps_.backend_count(); i++) {
    const __u64 word = maps_.backends[i].word;
    if (wanted[i] ? word == wanted[i] : !(lb_backend_flags(word) & LB_BACKEND_LIVE)) continue;
    if (wanted[i])
      store_release(&maps_.backends[i].word, wanted[i]);
    else
      retire_backend(&maps_.backends[i].word);
    stop_point();
  }
}

}  // namespace lb
