// SPDX-License-Identifier: Apache-2.0
// The writing half of a commit: log, new things, PENDING words, the number, final words (DATAPATH 5). A death between any two stores leaves
// what recovery finishes or takes back.
#include <bpf/bpf.h>

#include "commit.h"

namespace lb {
namespace {

constexpr size_t kBatch = 16;             // from here on one system call inserts many keys
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

// The kernel takes no BPF_NOEXIST here; that the keys are new is known. 0 or an errno.
template <typename K>
int insert_batch(int fd, const std::vector<K>& keys, const std::vector<__u64>& values) {
  __u32 count = static_cast<__u32>(keys.size());
  return bpf_map_update_batch(fd, keys.data(), values.data(), &count, nullptr) ? errno : 0;
}

}  // namespace

uint8_t port_bit(const Key& key) {
  const bool v6 = key.address.family == LB_IPV6;
  if (key.protocol == IPPROTO_TCP) return v6 ? LB_PORT_TCP6 : LB_PORT_TCP4;
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
    b_.filter_key(k.key, true);
    inserted_++;
    LB_TRY(b_.use_address(k.key, true));
  }
  for (const auto& next : next_) LB_TRY(b_.put_locals(*next));
  return insert_keys();
}

// What got in of those that were to be inserted; the others are not there. Range sets rest, as nobody may know that they were seen by none.
void Commit::give_back_keys() {
  delete_keys(inserts_);
  for (size_t i = 0; i < inserted_; i++) {
    b_.filter_key(inserts_[i].key, false);
    (void)b_.use_address(inserts_[i].key, false);
  }
  for (const auto& next : next_) {
    const auto old = b_.services_.find(next->name);
    b_.drop_locals(*next, nullptr);
    if (old != b_.services_.end()) (void)b_.put_locals(*old->second);
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
  const Maps& maps = b_.maps_;
  for (const auto& k : inserts_) {
    store_release(&maps.slots[k.slot], lb_slot_absent(lb_slot_generation(maps.slots[k.slot]) + 1));
    stop_point();
  }
  auto failed = [&](const std::string& what, int err) {
    return kernel_error("commit", "frontends map, " + what, err, err == E2BIG ? "open with a larger capacity.frontends" : "");
  };
  if (inserts_.size() < kBatch) {
    for (const auto& k : inserts_) {
      const __u64 value = lb_frontend_word(k.key.tag(), k.slot);
      const lb_key4 key4 = k.key.key4();
      const lb_key6 key6 = k.key.key6();
      const bool v4 = k.key.address.family == LB_IPV4;
      if (bpf_map_update_elem(maps.fd(v4 ? "lb_frontends4" : "lb_frontends6"), v4 ? static_cast<const void*>(&key4) : &key6, &value, BPF_NOEXIST))
        return failed(k.key.address.text() + " port " + std::to_string(ntohs(k.key.port)), errno);
      stop_point();
    }
    return ok();
  }
  std::vector<lb_key4> keys4;
  std::vector<lb_key6> keys6;
  std::vector<__u64> values4, values6;
  for (const auto& k : inserts_) {
    const __u64 value = lb_frontend_word(k.key.tag(), k.slot);
    if (k.key.address.family == LB_IPV4) {
      keys4.push_back(k.key.key4());
      values4.push_back(value);
    } else {
      keys6.push_back(k.key.key6());
      values6.push_back(value);
    }
  }
  if (!keys4.empty()) {
    if (const int err = insert_batch(maps.fd("lb_frontends4"), keys4, values4)) return failed("IPv4", err);
    stop_point();
  }
  if (!keys6.empty()) {
    if (const int err = insert_batch(maps.fd("lb_frontends6"), keys6, values6)) return failed("IPv6", err);
    stop_point();
  }
  return ok();
}

void Commit::delete_keys(const std::vector<KeySlot>& keys) {
  for (const auto& k : keys) {
    const lb_key4 key4 = k.key.key4();
    const lb_key6 key6 = k.key.key6();
    const bool v4 = k.key.address.family == LB_IPV4;
    bpf_map_delete_elem(b_.maps_.fd(v4 ? "lb_frontends4" : "lb_frontends6"), v4 ? static_cast<const void*>(&key4) : &key6);
    stop_point();
  }
}

// Bits of the ports of `frontends`: set before the commit that brings them, cleared after the one that takes them.
void Commit::use_ports(const std::vector<Frontend>& frontends, bool on) {
  for (const auto& f : frontends) {
    if (!protects_port(f.kind)) continue;
    const uint16_t port = ntohs(f.key.port);
    const uint8_t bit = port_bit(f.key);
    uint16_t& users = b_.port_users_[port * 4u + static_cast<unsigned>(__builtin_ctz(bit))];
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

void Commit::publish() {
  const Maps& maps = b_.maps_;
  const __u64 number = (maps.control->number + 1) & LB_NUMBER_MASK;
  for (const auto& c : slots_) {
    // The before of a fresh slot is what insert_keys stored.
    maps.pending[c.pending] = {c.before, c.after};
    store_release(&maps.slots[c.slot], lb_slot_pending(number, c.pending));
    stop_point();
  }
  store_release(&maps.control->number, number);
  stop_point();
  for (const auto& c : slots_) {
    store_release(&maps.slots[c.slot], c.after);
    stop_point();
    retired_.push_back({IndexKind::pending, c.pending});
  }
  for (const auto& w : changed_backends_) {
    store_release(&maps.backends[w.index].word, w.word);
    stop_point();
  }
  for (const auto& r : retired_) {
    if (r.kind != IndexKind::backend) continue;
    retire_backend(&maps.backends[r.index].word);
    stop_point();
  }
  delete_keys(deletes_);
  for (const auto& k : deletes_) {
    b_.filter_key(k.key, false);
    (void)b_.use_address(k.key, false);
  }
  for (const Service* s : removed_) {
    use_ports(s->frontends, false);
    b_.drop_locals(*s, nullptr);
  }
  for (const auto& next : next_) {
    const auto old = b_.services_.find(next->name);
    if (old == b_.services_.end()) continue;
    use_ports(old->second->frontends, false);
    b_.drop_locals(*old->second, next.get());
  }
}

// The kernel has it: now this object believes it.
void Commit::believe() {
  for (const auto& k : deletes_) b_.keys_.erase(k.key);
  for (const auto& k : inserts_) b_.keys_[k.key] = k.slot;
  for (const Service* s : removed_) {
    b_.by_id_.erase(s->id);
    b_.services_.erase(std::string(s->name));
  }
  for (auto& next : next_) {
    b_.by_id_[next->id] = next.get();
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
