// SPDX-License-Identifier: Apache-2.0
// The writing half of a commit: log, new things, PENDING words, the number, final words (DATAPATH 5). A death between any two stores leaves
// what recovery finishes or takes back.
#include "anchors.h"
#include "commit.h"

namespace lb {
namespace {

constexpr uint8_t kNodePort = 1, kHostPort = 4;  // FrontendKindCode of lib/native/binding.ts

void write_region(lb_line* table, uint32_t first, const std::vector<__u64>& words) {
  lb_line* line = table + first;
  const uint32_t serial = line->head.serial + 1;
  // All but the first word, which holds the serial: it says that the rest is there.
  __u64 head;
  std::memcpy(&head, words.data(), 8);
  __u64* to = line->word;
  for (size_t i = 1; i < words.size(); i++) __atomic_store_n(to + i, words[i], __ATOMIC_RELAXED);
  store_release(to, (head & 0xffffffff00000000ull) | serial);
}

}  // namespace

uint8_t port_bit(const Key& key) {
  const bool v6 = key.address.family == LB_IPV6;
  if (key.protocol == IPPROTO_TCP) return v6 ? LB_PORT_TCP6 : LB_PORT_TCP4;
  if (key.protocol == IPPROTO_SCTP) return v6 ? LB_PORT_SCTP6 : LB_PORT_SCTP4;
  return v6 ? LB_PORT_UDP6 : LB_PORT_UDP4;
}

bool protects_port(uint8_t kind) { return kind == kNodePort || kind == kHostPort; }

Status Commit::write() {
  LB_TRY(write_log());
  lb_backend* backends = b_.maps_.backends;
  for (const auto& w : new_backends_) {
    std::memcpy(backends[w.index].address, w.backend->address.words, sizeof backends[w.index].address);
    store_release(&backends[w.index].word, w.word);
    stop_point();
  }
  for (const auto& r : regions_) {
    write_region(b_.maps_.table, r.first, r.words);
    stop_point();
  }
  for (const auto& next : next_) use_ports(next->frontends, true);
  const Status inserted = insert_all();
  if (!inserted) {
    give_back_keys();
    if (b_.log_) b_.log_->cut();
    for (const auto& next : next_) use_ports(next->frontends, false);
    return inserted.error();
  }
  publish();
  believe();
  return ok();
}

Status Commit::insert_all() {
  for (const auto& [service, set] : new_ranges_) {
    LB_TRY(b_.ranges_.add(set->id, set->ranges, service->name));
    stop_point();
  }
  for (const auto& k : inserts_) {
    inserted_++;
    // Both are counted, whatever fails: both are given back.
    const Status address = b_.use_address(k.key, true), held = b_.use_held(k.key, true);
    LB_TRY(address);
    LB_TRY(held);
  }
  for (const auto& next : next_) {
    LB_TRY(b_.put_locals(*next));
    LB_TRY(b_.put_vias(*next));
  }
  return insert_keys();
}

// What got in of those that were to be inserted; the others are not there. Range sets rest, as nobody may know that they were seen by none.
void Commit::give_back_keys() {
  delete_keys(inserts_);
  for (size_t i = 0; i < inserted_; i++) {
    (void)b_.use_address(inserts_[i].key, false);
    (void)b_.use_held(inserts_[i].key, false);
  }
  for (const auto& next : next_) {
    const auto old = b_.services_.find(next->name);
    b_.drop_locals(*next, nullptr);
    b_.drop_vias(*next, nullptr);
    if (old == b_.services_.end()) continue;
    (void)b_.put_locals(*old->second);
    (void)b_.put_vias(*old->second);
  }
}

Status Commit::write_log() {
  if (!b_.log_) return ok();
  if (input_->has_settings) records_.push_back({RecordType::settings, 0, encode_text(input_->settings)});
  for (const auto& a : input_->attach) records_.push_back({RecordType::attach, a.id, encode_attachment(a)});
  for (const uint32_t id : input_->detach) records_.push_back({RecordType::detach, id, {}});
  if (input_->has_reserved) records_.push_back({RecordType::reserved, 0, encode_text(input_->reserved)});
  size_t bytes = 0;
  for (const auto& r : records_) bytes += Log::size_of(r);
  if (!b_.log_->fits(bytes)) LB_TRY(b_.log_->compact(b_.live_records(), bytes));
  stop_point();
  b_.log_->append(b_.maps_.control->number + 1, records_);
  stop_point();
  return ok();
}

Status Commit::insert_keys() {
  lb_slot* slots = b_.maps_.slots;
  for (const auto& k : inserts_) {
    store_release(&slots[k.slot].word, lb_slot_absent(lb_slot_generation(slots[k.slot].word) + 1));
    b_.frontends_.name_slot(k.key, k.slot);
    stop_point();
    if (b_.frontends_.insert(k.key, k.slot)) continue;
    Error full = make_error("ERR_CAPACITY", "commit", k.key.address.text() + " port " + std::to_string(ntohs(k.key.port)),
                            "the lines of the table of frontends where it may lie are full; open with a larger capacity.frontends");
    const uint32_t have = b_.have().frontends;
    full.details["need"] = static_cast<double>(have + 1);
    full.details["have"] = static_cast<double>(have);
    full.details["option"] = "capacity.frontends";
    return full;
  }
  return ok();
}

void Commit::delete_keys(const std::vector<KeySlot>& keys) {
  for (const auto& k : keys) b_.frontends_.remove(k.key, k.slot);
}

// Bits of the ports of `frontends`: set before the commit that brings them, cleared after the one that takes them.
void Commit::use_ports(const std::vector<Frontend>& frontends, bool on) {
  for (const auto& f : frontends) {
    if (!protects_port(f.kind)) continue;
    const uint16_t port = ntohs(f.key.port);
    const uint8_t bit = port_bit(f.key);
    uint16_t& users = b_.port_users_[port * static_cast<size_t>(LB_PORT_USES) + static_cast<unsigned>(__builtin_ctz(bit))];
    uint8_t* use = &b_.maps_.ports[port / 8].use[port % 8];
    if (on) {
      ports_changed_ |= users == 0;
      users++;
      __atomic_fetch_or(use, bit, __ATOMIC_RELEASE);
    } else if (users > 0 && --users == 0) {
      ports_changed_ = true;
      __atomic_fetch_and(use, static_cast<uint8_t>(~bit), __ATOMIC_RELEASE);
    }
    stop_point();
  }
}

// How the service that a removed backend was of ends its connections: as it says now, or said last.
int32_t Commit::reset_after_of(uint32_t backend) const {
  const auto service = b_.by_id_.find(lb_backend_service(b_.maps_.backends[backend].word));
  if (service == b_.by_id_.end()) return -1;
  for (const auto& next : next_)
    if (next->id == service->first) return next->reset_after;
  return service->second->reset_after;
}

void Commit::publish() {
  const Maps& maps = b_.maps_;
  const __u64 number = (maps.control->number + 1) & LB_NUMBER_MASK;
  for (const auto& c : slots_) {
    // The before of a fresh slot is what insert_keys stored.
    maps.pending[c.pending] = {c.before, c.after};
    store_release(&maps.slots[c.slot].word, lb_slot_pending(number, c.pending));
    stop_point();
  }
  store_release(&maps.control->number, number);
  stop_point();
  for (const auto& c : slots_) {
    store_release(&maps.slots[c.slot].word, c.after);
    stop_point();
    retired_.push_back({IndexKind::pending, c.pending});
  }
  stamp();
  for (const auto& w : changed_backends_) {
    store_release(&maps.backends[w.index].word, w.word);
    stop_point();
  }
  for (const auto& r : retired_) {
    if (r.kind != IndexKind::backend) continue;
    b_.note_reset(r.index, reset_after_of(r.index));
    retire_backend(&maps.backends[r.index].word);
    stop_point();
  }
  delete_keys(deletes_);
  for (const auto& k : deletes_) {
    (void)b_.use_address(k.key, false);
    (void)b_.use_held(k.key, false);
  }
  for (const Service* s : removed_) {
    use_ports(s->frontends, false);
    b_.drop_locals(*s, nullptr);
    b_.drop_vias(*s, nullptr);
  }
  for (const auto& next : next_) {
    const auto old = b_.services_.find(next->name);
    if (old == b_.services_.end()) continue;
    use_ports(old->second->frontends, false);
    b_.drop_locals(*old->second, next.get());
    b_.drop_vias(*old->second, next.get());
  }
}

// What this commit begins, begins now.
void Commit::stamp() {
  const uint32_t now = monotonic_seconds();
  for (const auto& w : regions_) {
    lb_head& head = b_.maps_.table[w.first].head;
    if (head.flags & LB_REGION_ANCHORED) __atomic_store_n(&head.changed, now, __ATOMIC_RELAXED);
  }
  for (const auto& next : next_)
    for (const auto& r : next->regions) {
      if (!r.anchors) continue;
      if (r.anchors->older_since == kNow) r.anchors->older_since = now;
      for (auto& d : r.anchors->differing)
        if (d.since == kNow) d.since = now;
    }
}

// The kernel has it: now this object believes it.
void Commit::believe() {
  for (const auto& k : deletes_) b_.keys_.erase(k.key);
  for (const auto& k : inserts_) b_.keys_[k.key] = k.slot;
  for (const Service* s : removed_) {
    b_.by_id_.erase(s->id);
    b_.tended_.erase(s->id);
    b_.services_.erase(std::string(s->name));
  }
  for (auto& next : next_) {
    b_.by_id_[next->id] = next.get();
    b_.tend_service(*next);
    auto& place = b_.services_[next->name];
    place = std::move(next);
  }
  b_.used_ = used_;
  if (input_->has_settings) {
    b_.settings_ = input_->settings;
    b_.has_settings_ = true;
  }
  taken_.clear();
  b_.indices_->rest(std::move(retired_));
}

}  // namespace lb
