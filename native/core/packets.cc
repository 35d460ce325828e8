// SPDX-License-Identifier: Apache-2.0
// What the packet hooks have beside the socket hooks' maps: made at the first attachment to a device, kept from then on.
#include <bpf/bpf.h>

#include "balancer.h"

namespace lb {
namespace {

// As lb_addresses has it: IPv4 as ::ffff:a.b.c.d.
lb_peer6 mapped(const Address& a) {
  if (a.family == LB_IPV4) return {{0, 0, htonl(0xffff), a.words[0]}};
  return {{a.words[0], a.words[1], a.words[2], a.words[3]}};
}

}  // namespace

Status Balancer::ensure_packets() {
  if (packets_filled_) return ok();
  LB_TRY(maps_.ensure_packets(options_.pin_path));
  LB_TRY(ranges_.fill(maps_));
  address_users_.clear();
  for (const auto& [key, slot] : keys_) count_address(key, true);
  LB_TRY(fill_addresses());
  packets_filled_ = true;
  return write_node();
}

// Returns whether the address has its first key, or has lost its last.
bool Balancer::count_address(const Key& key, bool on) {
  if (key.scope != LB_SCOPE_EXTERNAL) return false;
  const auto it = address_users_.try_emplace(key.address, 0).first;
  it->second += on ? 1 : -1;
  if (it->second) return on && it->second == 1;
  address_users_.erase(it);
  return true;
}

Status Balancer::use_address(const Key& key, bool on) {
  if (!packets_filled_ || !count_address(key, on)) return ok();
  const lb_peer6 address = mapped(key.address);
  const uint32_t one = 1;
  const int fd = maps_.fd("lb_addresses");
  if (on ? bpf_map_update_elem(fd, &address, &one, BPF_ANY) : bpf_map_delete_elem(fd, &address) && errno != ENOENT)
    return kernel_error("commit", "addresses map, " + key.address.text(), errno);
  return ok();
}

// Makes the map what is counted.
Status Balancer::fill_addresses() {
  const int fd = maps_.fd("lb_addresses");
  std::vector<lb_peer6> strays;
  lb_peer6 at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    Address a{LB_IPV6, {at.address[0], at.address[1], at.address[2], at.address[3]}};
    if (!at.address[0] && !at.address[1] && at.address[2] == htonl(0xffff)) a = {LB_IPV4, {at.address[3], 0, 0, 0}};
    if (!address_users_.count(a)) strays.push_back(at);
  }
  for (const auto& address : strays) bpf_map_delete_elem(fd, &address);
  const uint32_t one = 1;
  for (const auto& [address, users] : address_users_) {
    const lb_peer6 key = mapped(address);
    if (bpf_map_update_elem(fd, &key, &one, BPF_ANY)) return kernel_error("attach", "addresses map, " + address.text(), errno);
  }
  return ok();
}

Status Balancer::set_packets(const PacketSettings& settings) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("setNode"));
  packets_ = settings;
  return packets_filled_ ? write_node() : ok();
}

// Each field is read once and by itself. A set that has changed is another set: its id is stored when its contents are there.
Status Balancer::write_node() {
  lb_node* node = maps_.node;
  std::vector<Rested> retired;
  auto set_ranges = [&](__u32& field, const std::vector<Range>& ranges, const char* text) -> Status {
    const uint32_t before = field;
    if (before ? ranges_.contents(before) == ranges : ranges.empty()) return ok();
    uint32_t id = 0;
    if (!ranges.empty()) {
      std::lock_guard lock(indices_->mutex);
      id = indices_->range_sets.take();
      if (!id) return make_error("ERR_CAPACITY", "setNode", text, "there are too many lists of ranges; give fewer");
    }
    if (id) LB_TRY(ranges_.add(id, ranges, text));
    __atomic_store_n(&field, id, __ATOMIC_RELEASE);
    if (before) retired.push_back({IndexKind::range_set, before});
    return ok();
  };
  Status done = set_ranges(node->peers, packets_.peers, "peers");
  if (done) done = set_ranges(node->pods, packets_.pods, "podCIDRs");
  if (done) done = set_ranges(node->masquerade, packets_.masquerade, "masquerade");
  if (done) done = set_ranges(node->masquerade_exclude, packets_.masquerade_exclude, "masquerade exclude");
  auto store = [](auto& field, auto value) { __atomic_store_n(&field, static_cast<std::remove_reference_t<decltype(field)>>(value), __ATOMIC_RELEASE); };
  store(node->address4, packets_.address4.words[0]);
  for (int i = 0; i < 4; i++) store(node->address6[i], packets_.address6.words[i]);
  store(node->snat_low, packets_.snat_low);
  store(node->snat_high, packets_.snat_high);
  store(node->idle_tcp, packets_.idle_tcp);
  store(node->idle_udp, packets_.idle_udp);
  store(node->dispatch, packets_.dispatch);
  store(node->dsr, packets_.dsr);
  indices_->rest(std::move(retired));
  return done;
}

}  // namespace lb
