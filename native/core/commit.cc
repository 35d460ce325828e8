// SPDX-License-Identifier: Apache-2.0
#include "commit.h"

#include <algorithm>

#include "anchors.h"
#include "maglev.h"

namespace lb {
namespace {

constexpr uint8_t kStays = LB_BACKEND_LOCAL | LB_BACKEND_VIA;  // of a removed backend that flows still go to

uint32_t order_of(const std::vector<__u64>& words) {
  return LineList::order_for(static_cast<uint32_t>((words.size() + LB_LINE_WORDS - 1) / LB_LINE_WORDS));
}

__u64 near_cell(const Service& service, uint32_t index, uint32_t cell, lb_head& head) {
  const auto b = std::find_if(service.backends.begin(), service.backends.end(), [&](const Backend& each) { return each.index == index; });
  (cell & 2 ? head.changed : head.members) |= static_cast<__u32>(b->port) << (cell & 1) * 16;
  return lb_cell_near(index, b->generation, b->address.words[0]);
}

std::vector<uint32_t> slots_of(const Service& service) {
  std::vector<uint32_t> slots;
  slots.reserve(service.frontends.size());
  for (const auto& f : service.frontends) slots.push_back(f.slot);
  std::sort(slots.begin(), slots.end());
  return slots;
}

}  // namespace

void build_region(const Service& service, uint8_t family, uint8_t pool, uint32_t policy, std::vector<__u64>& words, bool may_be_near) {
  std::vector<WeightedBackend> chosen;
  const uint32_t wanted = LB_BACKEND_POOLS << pool;
  for (const auto& b : service.backends)
    if (b.address.family == family && (b.flags & wanted))
      chosen.push_back({b.index, std::max(1u, b.weight), endpoint_identity(b.address.words, b.port, family)});
  std::vector<uint32_t> cells;
  switch (service.algorithm) {
    case LB_RANDOM: cells = random_cells(chosen); break;
    case LB_ROUND_ROBIN: cells = round_robin_cells(chosen); break;
    default: cells = maglev_cells(chosen);
  }
  lb_head head{};
  head.service = service.id;
  head.length = static_cast<uint32_t>(cells.size());
  head.affinity = service.affinity;
  head.members = service.affinity ? static_cast<uint32_t>(chosen.size()) : 0;
  head.algorithm = service.algorithm;
  head.pool = pool;
  head.family = family;
  head.policy = policy;
  head.flags = service.forwarding;
  if (lb_cells_last(service.algorithm, service.affinity)) head.flags |= LB_REGION_ANCHORED;
  if (service.reset_after >= 0) head.flags |= LB_REGION_TRACK;
  if (service.drop) head.flags |= LB_REGION_DROP;
  if (service.local_pools & 1u << pool) head.flags |= LB_REGION_LOCAL_ONLY;
  const bool near = may_be_near && family == LB_IPV4 && !service.affinity && !lb_cells_last(service.algorithm, service.affinity) && !cells.empty() &&
                    cells.size() <= LB_NEAR_CELLS;
  words.resize(LB_HEAD_WORDS);
  for (uint32_t i = 0; i < cells.size(); i++) words.push_back(near ? near_cell(service, cells[i], i, head) : lb_cell(cells[i], cells[i]));
  if (near) head.flags |= LB_REGION_NEAR;
  std::memcpy(words.data(), &head, sizeof head);
  if (near) return;
  if (!head.members) return;
  std::sort(chosen.begin(), chosen.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
  for (const auto& c : chosen) words.push_back(c.index);
}

const Region* find_region(const Service& service, const Frontend& frontend) {
  for (const auto& r : service.regions)
    if (r.first == frontend.region) return &r;
  return nullptr;
}

bool is_apart(const Service& service, const Frontend& frontend) {
  return lb_cells_last(service.algorithm, service.affinity) && frontend.key.protocol == IPPROTO_UDP;
}

// Of the whole state that was asked for: what is staged, what is being staged, what is still to come, and what stays.
Needs Commit::total_needs() const {
  Needs total;
  std::unordered_set<std::string_view> changed;
  for (const Service* s : removed_) changed.insert(s->name);
  for (const auto& s : next_) {
    changed.insert(s->name);
    add_needs(*s, total);
  }
  if (staging_) {
    changed.insert(staging_->name);
    add_needs(*staging_, total);
  }
  for (size_t i = staged_ + 1; i < input_->put.size(); i++) {
    changed.insert(input_->put[i].name);
    add_needs(input_->put[i], total);
  }
  for (const auto& [name, s] : b_.services_)
    if (!changed.count(name)) add_needs(*s, total);
  return total;
}

Error Commit::full(const char* option) const {
  const Needs needs = total_needs(), have = b_.have();
  const std::string name = option;
  const uint32_t wanted = name == "backends" ? needs.backends : name == "cells" ? needs.cells : needs.frontends;
  const uint32_t limit = name == "backends" ? have.backends : name == "cells" ? have.cells : have.frontends;
  // What replaces something else is there beside it until the change is made.
  const uint32_t need = std::max(wanted, limit + 1);
  const std::string why = wanted > limit ? " in all" : ", as the old ones are in use until the change is made, or not in one piece";
  Error e = make_error("ERR_CAPACITY", "commit", staging_ ? staging_->name : "",
                       "needs " + std::to_string(need) + " " + name + why + ", has room for " + std::to_string(limit) + "; open with a larger capacity." + name);
  e.details["need"] = static_cast<double>(need);
  e.details["have"] = static_cast<double>(limit);
  e.details["option"] = "capacity." + name;
  return e;
}

Status Commit::take(IndexKind kind, uint32_t& index, const char* option, uint32_t order) {
  Indices& all = *b_.indices_;
  // What is free now, then what rests: a commit waits for a grace period only when that is all there is.
  for (bool rests = true; rests;) {
    {
      std::lock_guard lock(all.mutex);
      bool got = false;
      switch (kind) {
        case IndexKind::slot: got = (index = all.slots.take()) != 0; break;
        case IndexKind::pending: got = (index = all.pending.take()) != 0; break;
        case IndexKind::backend: got = (index = all.backends.take()) != 0; break;
        case IndexKind::service: got = (index = all.services.take()) != 0; break;
        case IndexKind::range_set: got = (index = all.range_sets.take()) != 0; break;
        case IndexKind::region: got = all.lines.take(order, index); break;
      }
      if (got) {
        taken_.push_back({kind, index, order});
        return ok();
      }
      // Asked under the same lock: what has come free since then is there to be taken.
      rests = all.rests();
    }
    if (rests && !all.wait()) return full(option);
  }
  return full(option);
}

Status Commit::stage(CommitInput& input) {
  input_ = &input;
  // Which keys come free: of every service that is put anew or removed.
  for (const auto& name : input.remove) LB_TRY(stage_removal(name));
  const bool several = input.put.size() + input.remove.size() > 1;
  if (several) {
    for (const auto& put : input.put) {
      const auto it = b_.services_.find(put.name);
      if (it == b_.services_.end()) continue;
      for (const auto& f : it->second->frontends) released_[f.key] = {f.key, f.slot, f.kind};
    }
  }
  for (staged_ = 0; staged_ < input.put.size(); staged_++) LB_TRY(stage_put(std::move(input.put[staged_])));
  LB_TRY(check_capacity());
  drop_unclaimed();
  for (auto& change : slots_) LB_TRY(take(IndexKind::pending, change.pending, "frontends"));
  return ok();
}

// The maps have some room more than the capacity, for what replaces something else.
Status Commit::check_capacity() {
  used_ = b_.used_;
  for (const Service* s : removed_) used_ -= held(*s);
  for (const auto& next : next_) {
    const auto old = b_.services_.find(next->name);
    if (old != b_.services_.end()) used_ -= held(*old->second);
    used_ += held(*next);
  }
  const Needs have = b_.have();
  if (used_.frontends > have.frontends && used_.frontends > b_.used_.frontends) return full("frontends");
  if (used_.backends > have.backends && used_.backends > b_.used_.backends) return full("backends");
  if (used_.cells > have.cells && used_.cells > b_.used_.cells) return full("cells");
  return ok();
}

Status Commit::stage_removal(const std::string& name) {
  const auto it = b_.services_.find(name);
  if (it == b_.services_.end()) return make_error("ERR_SERVICE_NOT_FOUND", "removeService", name, "there is no service of that name");
  Service* service = it->second.get();
  removed_.push_back(service);
  for (const auto& f : service->frontends) released_[f.key] = {f.key, f.slot, f.kind};
  for (const auto& b : service->backends) {
    retired_.push_back({IndexKind::backend, b.index});
    needs_sweep_ = true;
  }
  for (const auto& b : service->lingering) retired_.push_back({IndexKind::backend, b.index});
  std::set<uint32_t> older;
  for (const auto& r : service->regions) {
    retired_.push_back({IndexKind::region, r.first, r.order});
    if (r.anchors && r.anchors->older.first && older.insert(r.anchors->older.first).second)
      retired_.push_back({IndexKind::region, r.anchors->older.first, r.anchors->older.order});
  }
  for (const auto& set : service->range_sets) retired_.push_back({IndexKind::range_set, set.id});
  retired_.push_back({IndexKind::service, service->id});
  records_.push_back({RecordType::remove, service->id, {}});
  return ok();
}

Status Commit::stage_put(Service input) {
  auto next = std::make_unique<Service>(std::move(input));
  staging_ = next.get();
  const auto it = b_.services_.find(next->name);
  const Service* old = it == b_.services_.end() ? nullptr : it->second.get();
  if (old) {
    next->id = old->id;
  } else {
    LB_TRY(take(IndexKind::service, next->id, "frontends"));
  }
  LB_TRY(stage_backends(*next, old));
  LB_TRY(claim_frontends(*next, old));
  LB_TRY(stage_ranges(*next, old));
  LB_TRY(stage_regions(*next, old));
  stage_gone(*next);
  LB_TRY(stage_slots(*next));
  if (b_.log_) records_.push_back({RecordType::put, next->id, encode_service(*next)});
  next_.push_back(std::move(next));
  staging_ = nullptr;
  return ok();
}

Status Commit::stage_backends(Service& next, const Service* old) {
  static const std::vector<Backend> kNone;
  const auto& before = old ? old->backends : kNone;
  const auto& lingering = old ? old->lingering : kNone;
  gone_.clear();
  std::vector<bool> stays(before.size(), false);
  struct EndpointHash {
    size_t operator()(const Backend* b) const { return endpoint_identity(b->address.words, b->port, b->address.family); }
  };
  struct SameEndpoint {
    bool operator()(const Backend* a, const Backend* b) const { return a->same_endpoint(*b); }
  };
  std::unordered_map<const Backend*, size_t, EndpointHash, SameEndpoint> index;
  const bool many = before.size() > 16;
  if (many)
    for (size_t i = 0; i < before.size(); i++) index[&before[i]] = i;
  auto find = [&](const Backend& b) -> size_t {
    if (many) {
      const auto it = index.find(&b);
      return it == index.end() ? before.size() : it->second;
    }
    return static_cast<size_t>(std::find_if(before.begin(), before.end(), [&](const Backend& o) { return o.same_endpoint(b); }) - before.begin());
  };
  for (auto& b : next.backends) {
    const size_t at = find(b);
    if (at < before.size()) {
      stays[at] = true;
      b.index = before[at].index;
      b.generation = before[at].generation;
      if (b.flags != before[at].flags) {
        const __u64 word = b_.maps_.backends[b.index].word;
        changed_backends_.push_back({b.index, lb_backend_word(b.port, lb_backend_generation(word), next.id, b.flags | LB_BACKEND_LIVE), nullptr});
        if (!(b.flags & LB_BACKEND_EXISTING)) needs_sweep_ = true;
      }
      continue;
    }
    // Removed and there again before its flows were forgotten.
    const auto returns = std::find_if(lingering.begin(), lingering.end(), [&](const Backend& o) { return o.same_endpoint(b); });
    if (returns != lingering.end()) {
      b.index = returns->index;
      b.generation = lb_backend_generation(b_.maps_.backends[b.index].word);
      const __u64 word = b_.maps_.backends[b.index].word;
      changed_backends_.push_back({b.index, lb_backend_word(b.port, lb_backend_generation(word), next.id, b.flags | LB_BACKEND_LIVE), nullptr});
      continue;
    }
    LB_TRY(take(IndexKind::backend, b.index, "backends"));
    // Raised here too: such a late program remembers the generation of the retired word.
    b.generation = (lb_backend_generation(b_.maps_.backends[b.index].word) + 1) & LB_GENERATION_MASK;
    new_backends_.push_back({b.index, lb_backend_word(b.port, b.generation, next.id, b.flags | LB_BACKEND_LIVE), &b});
  }
  for (size_t i = 0; i < before.size(); i++) {
    if (stays[i]) continue;
    gone_.push_back(before[i]);
    needs_sweep_ = true;
  }
  for (const auto& b : lingering)
    if (std::none_of(next.backends.begin(), next.backends.end(), [&](const Backend& n) { return n.index == b.index; })) gone_.push_back(b);
  return ok();
}

// A removed backend that anchors name lingers: its TCP flows go on, and its index is not given to another.
void Commit::stage_gone(Service& next) {
  if (gone_.empty()) return;
  Indices32 named;
  for (const auto& r : next.regions) {
    if (!r.anchors) continue;
    // The newest are the last.
    const auto staged = std::find_if(regions_.rbegin(), regions_.rend(), [&](const RegionWrite& w) { return w.first == r.first; });
    if (staged == regions_.rend()) {
      add_anchored(b_.maps_.table, r, named);
      continue;
    }
    for (const auto& d : r.anchors->differing) named.insert(lb_cell_anchor(staged->words[LB_HEAD_WORDS + d.cell]));
    if (r.anchors->older.first) add_anchors_at(b_.maps_.table, r.anchors->older.first, named);
  }
  for (auto& b : gone_) {
    if (!named.count(b.index)) {
      retired_.push_back({IndexKind::backend, b.index});
      continue;
    }
    const __u64 word = b_.maps_.backends[b.index].word;
    b.flags &= kStays;
    changed_backends_.push_back({b.index, lb_backend_word(b.port, lb_backend_generation(word), next.id, b.flags | LB_BACKEND_LIVE), nullptr});
    next.lingering.push_back(b);
  }
}

// Those that connected UDP may stay with.
static Indices32 serving_datagrams(const Service& service) {
  Indices32 serving;
  for (const auto& b : service.backends)
    if (b.flags & LB_BACKEND_EXISTING) serving.insert(b.index);
  return serving;
}

// Finds or makes the slot of every key; keys may come from another service that this commit changes.
Status Commit::claim_frontends(Service& next, const Service* old) {
  first_insert_ = inserts_.size();
  const auto before = old ? slots_of(*old) : std::vector<uint32_t>{};
  for (auto& f : next.frontends) {
    const auto released = released_.find(f.key);
    if (released != released_.end()) {
      f.slot = released->second.slot;
      released_.erase(released);
      continue;
    }
    const auto held = b_.keys_.find(f.key);
    if (held != b_.keys_.end()) {
      if (!std::binary_search(before.begin(), before.end(), held->second))
        return make_error("ERR_FRONTEND_IN_USE", "commit", next.name,
                          f.key.address.text() + " port " + std::to_string(ntohs(f.key.port)) + " belongs to another service");
      f.slot = held->second;
      continue;
    }
    LB_TRY(take(IndexKind::slot, f.slot, "frontends"));
    inserts_.push_back({f.key, f.slot, f.kind});
  }
  if (!old || input_->put.size() + input_->remove.size() > 1) return ok();
  // One service alone: what it no longer names is free.
  const auto after = slots_of(next);
  for (const auto& o : old->frontends)
    if (!std::binary_search(after.begin(), after.end(), o.slot))
      released_[o.key] = {o.key, o.slot, o.kind};
  return ok();
}

void Commit::drop_unclaimed() {
  for (const auto& [key, gone] : released_) {
    deletes_.push_back(gone);
    const __u64 before = b_.maps_.slots[gone.slot].word;
    slots_.push_back({gone.slot, 0, before, lb_slot_absent(lb_slot_generation(before))});
    retired_.push_back({IndexKind::slot, gone.slot});
  }
}

// A set that has changed is another set; one that has not keeps its id.
Status Commit::stage_ranges(Service& next, const Service* old) {
  std::vector<const RangeSet*> before;
  if (old)
    for (const auto& set : old->range_sets) before.push_back(&set);
  for (auto& set : next.range_sets) {
    const auto same = std::find_if(before.begin(), before.end(), [&](const RangeSet* b) { return b->ranges == set.ranges; });
    if (same != before.end()) {
      set.id = (*same)->id;
      before.erase(same);
      continue;
    }
    LB_TRY(take(IndexKind::range_set, set.id, "frontends"));
    new_ranges_.emplace_back(&next, &set);
  }
  for (const RangeSet* b : before) retired_.push_back({IndexKind::range_set, b->id});
  return ok();
}

// Frontends share a region where they share what it says, and come from one region: cells correspond to those of one other at most.
std::vector<Commit::RegionPlan> Commit::plan_regions(Service& next, const Service* old) const {
  std::vector<RegionPlan> plans;
  auto region_of = [&](const Frontend& f) -> const Region* {
    const __u64 slot = b_.maps_.slots[f.slot].word;
    if (!old || lb_slot_kind(slot) != LB_SLOT_FINAL) return nullptr;
    const auto it = std::find_if(old->regions.begin(), old->regions.end(), [&](const Region& r) { return r.first == lb_slot_region(slot); });
    return it == old->regions.end() ? nullptr : &*it;
  };
  auto may_join = [](const Region* a, const Region* b) { return a == b || !a || !b || (!a->anchors && !b->anchors); };
  for (auto& f : next.frontends) {
    const Region wanted{f.key.address.family, f.pool, is_apart(next, f), 0, 0, next.policy_of(f), nullptr};
    const Region* before = region_of(f);
    const auto same = std::find_if(plans.begin(), plans.end(), [&](const RegionPlan& p) {
      return p.region.family == wanted.family && p.region.pool == wanted.pool && p.region.datagrams == wanted.datagrams &&
             p.region.policy == wanted.policy && may_join(p.before, before);
    });
    if (same == plans.end()) {
      plans.push_back({wanted, before, {&f}});
    } else {
      if (!same->before) same->before = before;
      same->frontends.push_back(&f);
    }
  }
  return plans;
}

Status Commit::stage_regions(Service& next, const Service* old) {
  std::vector<__u64> words;
  std::set<uint32_t> used;
  for (auto& plan : plan_regions(next, old)) {
    Region& region = plan.region;
    words.clear();
    build_region(next, region.family, region.pool, region.policy, words, !plan.before || !leaves_anchors(b_.maps_.table, *plan.before));
    if (plan.before && !used.count(plan.before->first) && plan.before->order == order_of(words) && same_choices(b_.maps_.table, *plan.before, words)) {
      region.first = plan.before->first;
      region.order = plan.before->order;
      region.anchors = plan.before->anchors;
    } else {
      if (plan.before && b_.keeps_anchors()) {
        const Indices32 served = plan.before->datagrams ? serving_datagrams(*old) : Indices32{};
        const Indices32 serving = region.datagrams ? serving_datagrams(next) : Indices32{};
        region.anchors = succeed(words, *plan.before, b_.maps_.table, plan.before->datagrams ? &served : nullptr, region.datagrams ? &serving : nullptr);
      }
      region.order = order_of(words);
      LB_TRY(take(IndexKind::region, region.first, "cells", region.order));
      regions_.push_back({region.first, words});
    }
    has_anchors_ |= region.anchors != nullptr;
    for (Frontend* f : plan.frontends) f->region = region.first;
    used.insert(region.first);
    if (region.anchors) used.insert(region.anchors->older.first);
    next.regions.push_back(region);
  }
  if (!old) return ok();
  auto retire = [&](const Lines& lines) {
    if (lines.first && used.insert(lines.first).second) retired_.push_back({IndexKind::region, lines.first, lines.order});
  };
  for (const auto& r : old->regions) {
    retire({r.first, r.order});
    if (r.anchors) retire(r.anchors->older);
  }
  return ok();
}

Status Commit::stage_slots(Service& next) {
  size_t insert = first_insert_;  // inserts are in the order of the frontends
  for (const auto& f : next.frontends) {
    const Region* region = find_region(next, f);
    __u64 before = b_.maps_.slots[f.slot].word;
    // A slot that is given out anew gets a new generation: what still names it by the old one is not of this key.
    if (insert < inserts_.size() && inserts_[insert].slot == f.slot) {
      before = lb_slot_absent(lb_slot_generation(before) + 1);
      insert++;
    }
    const __u64 after = lb_slot_final(region->first, lb_slot_generation(before));
    if (after != before) slots_.push_back({f.slot, 0, before, after});
  }
  return ok();
}

void Commit::abandon() {
  // Programs may have seen a key of it: everything rests.
  b_.indices_->rest(std::move(taken_));
  taken_.clear();
}

}  // namespace lb
