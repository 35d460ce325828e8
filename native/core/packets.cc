// SPDX-License-Identifier: Apache-2.0
// What the packet hooks have beside the socket hooks' maps: made at the first attachment to a device, kept from then on.
#include <bpf/bpf.h>

#include <algorithm>

#include "balancer.h"
#include "stop_point.h"

namespace lb {
namespace {

// As lb_addresses has it: IPv4 as ::ffff:a.b.c.d.
lb_peer6 mapped(const Address& a) {
  if (a.family == LB_IPV4) return {{0, 0, htonl(0xffff), a.words[0]}};
  return {{a.words[0], a.words[1], a.words[2], a.words[3]}};
}

}  // namespace

Status Balancer::ensure_packets() {
  LB_TRY(maps_.ensure_packets(options_.pin_path));
  if (!routes_) routes_ = std::make_unique<RouteWatch>(maps_.node);
  if (packets_filled_) return ok();
  // Nobody forwards anything yet.
  maps_.node->dsr = packets_.dsr;
  address_users_.clear();
  for (const auto& [key, slot] : keys_) count_address(key, true);
  LB_TRY(fill_addresses());
  LB_TRY(fill_locals());
  LB_TRY(fill_vias());
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
  stop_point();
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

Status Balancer::use_held(const Key& key, bool on) {
  if (service_ranges_.empty() || !contains(service_ranges_, key.address)) return ok();
  uint32_t& users = held_users_[key.address];
  users = on ? users + 1 : users - 1;
  const lb_peer6 address = mapped(key.address);
  const uint32_t one = 1;
  const int fd = maps_.fd("lb_held");
  if (on) {
    if (users == 1 && bpf_map_update_elem(fd, &address, &one, BPF_ANY)) return kernel_error("commit", "map of held addresses, " + key.address.text(), errno);
    return ok();
  }
  if (users) return ok();
  held_users_.erase(key.address);
  bpf_map_delete_elem(fd, &address);
  return ok();
}

// Makes the map what is counted of the keys in service_ranges_.
Status Balancer::fill_held() {
  const int fd = maps_.fd("lb_held");
  held_users_.clear();
  for (const auto& [key, slot] : keys_)
    if (contains(service_ranges_, key.address)) held_users_[key.address]++;
  const uint32_t one = 1;
  std::set<std::array<uint32_t, 4>> wanted;
  for (const auto& [address, users] : held_users_) {
    const lb_peer6 key = mapped(address);
    wanted.insert({key.address[0], key.address[1], key.address[2], key.address[3]});
    if (bpf_map_update_elem(fd, &key, &one, BPF_ANY)) return kernel_error("setNode", "map of held addresses, " + address.text(), errno);
  }
  std::vector<lb_peer6> strays;
  lb_peer6 at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    if (!wanted.count({at.address[0], at.address[1], at.address[2], at.address[3]})) strays.push_back(at);
  }
  for (const auto& address : strays) bpf_map_delete_elem(fd, &address);
  return ok();
}

// An address counts as held before the ranges with it count, and as long as they do.
Status Balancer::write_service_ranges() {
  const uint32_t before = static_cast<uint32_t>(maps_.control->service_ranges);
  if (before ? ranges_.contents(before) == packets_.services : packets_.services.empty()) return ok();
  uint32_t id = 0;
  if (!packets_.services.empty()) {
    std::lock_guard lock(indices_->mutex);
    id = indices_->range_sets.take();
    if (!id) return make_error("ERR_CAPACITY", "setNode", "serviceCIDRs", "there are too many lists of ranges; give fewer");
  }
  if (id) LB_TRY(ranges_.add(id, packets_.services, "serviceCIDRs"));
  service_ranges_.insert(service_ranges_.end(), packets_.services.begin(), packets_.services.end());
  LB_TRY(fill_held());
  stop_point();
  store_release(&maps_.control->service_ranges, id);
  stop_point();
  service_ranges_ = packets_.services;
  LB_TRY(fill_held());
  std::vector<Rested> retired;
  if (before) retired.push_back({IndexKind::range_set, before});
  indices_->rest(std::move(retired));
  return ok();
}

// The keys of lb_locals that a service has, and what they lead to: a backend for each address, and for each outer destination that only one has; and all
// of a family by numbers.
Locals Balancer::locals_of(const Service& service) {
  Locals locals;
  auto key_of = [&](uint32_t family, const Address& a) {
    const lb_peer6 m = mapped(a);
    return std::array<uint32_t, 6>{service.id, family, m.address[0], m.address[1], m.address[2], m.address[3]};
  };
  std::map<std::array<uint32_t, 6>, std::pair<uint32_t, uint32_t>> vias;  // how many have it, the last of them
  auto add = [&](const Backend& b) {
    if (!(b.flags & LB_BACKEND_LOCAL)) return;
    locals.try_emplace(key_of(b.address.family, b.address), b.index);
    uint32_t& count = locals[{service.id, static_cast<uint32_t>(b.address.family) | LB_LOCAL_NTH}];
    locals[{service.id, static_cast<uint32_t>(b.address.family) | LB_LOCAL_NTH, ++count}] = b.index;
    if (!b.via.family) return;
    auto& [users, last] = vias[key_of(b.address.family, b.via)];
    users++;
    last = b.index;
  };
  std::for_each(service.backends.begin(), service.backends.end(), add);
  std::for_each(service.lingering.begin(), service.lingering.end(), add);
  for (const auto& [key, found] : vias)
    if (found.first == 1) locals.try_emplace(key, found.second);
  return locals;
}

// Before the commit: what a key leads to is checked by who looks, so that the next backend in place of this one is only not found yet.
Status Balancer::put_locals(const Service& service) {
  if (!maps_.node) return ok();
  static_assert(sizeof(std::array<uint32_t, 6>) == sizeof(lb_local_key));
  for (const auto& [key, index] : locals_of(service)) {
    if (bpf_map_update_elem(maps_.fd("lb_locals"), key.data(), &index, BPF_ANY)) return kernel_error("commit", "map of local backends, " + service.name, errno);
    stop_point();
  }
  return ok();
}

// Those that the service has no more when it is `next`; null: all.
void Balancer::drop_locals(const Service& service, const Service* next) {
  if (!maps_.node) return;
  const Locals kept = next ? locals_of(*next) : Locals{};
  for (const auto& [key, index] : locals_of(service))
    if (!kept.count(key)) bpf_map_delete_elem(maps_.fd("lb_locals"), key.data());
}

Status Balancer::fill_locals() {
  Locals wanted;
  for (const auto& [name, service] : services_) wanted.merge(locals_of(*service));
  const int fd = maps_.fd("lb_locals");
  std::vector<std::array<uint32_t, 6>> strays;
  std::array<uint32_t, 6> at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : at.data(), next.data()) == 0; first = false) {
    at = next;
    if (!wanted.count(at)) strays.push_back(at);
  }
  for (const auto& key : strays) bpf_map_delete_elem(fd, key.data());
  for (const auto& [name, service] : services_) LB_TRY(put_locals(*service));
  return ok();
}

// Of the backends that the map of backends has at this moment.
Vias Balancer::vias_of(const Service& service) const {
  static_assert(sizeof(Vias::mapped_type) == sizeof(lb_via));
  Vias vias;
  for (const auto* list : {&service.backends, &service.lingering}) {
    for (const auto& b : *list) {
      if (!b.via.family) continue;
      const uint32_t ref = lb_backend_ref(b.index, lb_backend_generation(maps_.backends[b.index].word));
      const uint32_t* w = b.via.words;
      vias[b.index] = {ref, w[0], w[1], w[2], w[3], b.via.family, ref};
    }
  }
  return vias;
}

Status Balancer::put_vias(const Service& service) {
  if (!maps_.node) return ok();
  for (const auto& [index, via] : vias_of(service))
    if (bpf_map_update_elem(maps_.fd("lb_vias"), &index, via.data(), BPF_ANY)) return kernel_error("commit", "map of outer destinations, " + service.name, errno);
  return ok();
}

// Those of backends that have none when the service is `next`; null: all.
void Balancer::drop_vias(const Service& service, const Service* next) {
  if (!maps_.node) return;
  const Vias kept = next ? vias_of(*next) : Vias{};
  for (const auto& b : service.backends)
    if (b.via.family && !kept.count(b.index)) bpf_map_delete_elem(maps_.fd("lb_vias"), &b.index);
}

Status Balancer::fill_vias() {
  Vias wanted;
  for (const auto& [name, service] : services_) wanted.merge(vias_of(*service));
  const int fd = maps_.fd("lb_vias");
  std::vector<uint32_t> strays;
  uint32_t at = 0, next = 0;
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    if (!wanted.count(at)) strays.push_back(at);
  }
  for (const uint32_t index : strays) bpf_map_delete_elem(fd, &index);
  for (const auto& [name, service] : services_) LB_TRY(put_vias(*service));
  return ok();
}

Status Balancer::set_packets(const PacketSettings& settings) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("setNode"));
  packets_ = settings;
  LB_TRY(write_service_ranges());
  if (!packets_filled_) return ok();
  LB_TRY(write_node());
  reserve_or_report();
  return ok();
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
    stop_point();
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
  stop_point();
  store(node->snat_low, packets_.snat_low);
  store(node->snat_high, packets_.snat_high);
  store(node->idle_tcp, packets_.idle_tcp);
  store(node->idle_udp, packets_.idle_udp);
  store(node->flags, packets_.flags);
  store(node->dispatch, packets_.dispatch);
  if (node->dsr != packets_.dsr && packets_.dsr & LB_DSR_ON) remember_all_flows();
  store(node->dsr, packets_.dsr);
  __atomic_add_fetch(&node->routes, 1, __ATOMIC_RELEASE);  // the source of outer headers may be another
  stop_point();
  indices_->rest(std::move(retired));
  return done;
}

}  // namespace lb
