// SPDX-License-Identifier: Apache-2.0
#include "maps.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "../../bpf/include/reasons.h"
#include "stop_point.h"

namespace lb {
namespace {

constexpr char kControl[] = "lb_control";
constexpr uint32_t kNextHopsInAll = 1 << 18;  // 16 MiB
constexpr char kNode[] = "lb_node";           // pinned last of the packet maps
// Of bpf/include/packet_maps.h; what else the packet programs declare is for each attachment by itself.
constexpr std::string_view kPacketMaps[] = {"lb_owners",    "lb_connections", "lb_replies", "lb_refused", "lb_next_hops", "lb_traffic",
                                             "lb_addresses", "lb_vias",        "lb_locals",  "lb_fragments", "lb_budgets", kNode};

bool is_packet_map(std::string_view name) { return std::find(std::begin(kPacketMaps), std::end(kPacketMaps), name) != std::end(kPacketMaps); }

// A pin is named for its map without our prefix; bpffs takes no dots.
std::string pin_of(const std::string& directory, const std::string& name) { return directory + "/" + name.substr(3); }

uint32_t power_of_two(uint32_t n) {
  uint32_t p = 1;
  while (p < n) p *= 2;
  return p;
}

// At least two: a connection has two sets that it may lie in.
uint32_t flow_set_count(const Capacity& c) { return power_of_two(std::max(2u, (c.connections + LB_FLOW_WAYS - 1) / LB_FLOW_WAYS)); }

uint32_t cpu_count() { return static_cast<uint32_t>(std::max(1, libbpf_num_possible_cpus())); }

// Next hops that each CPU remembers.
uint32_t next_hops() {
  uint32_t each = LB_NEXT_HOPS;
  while (each > 1 && each * cpu_count() > kNextHopsInAll) each /= 2;
  return each;
}

// Elements of each map whose size is a choice.
std::map<std::string, uint32_t> sizes(const Maps& maps) {
  const Capacity& c = maps.capacity;
  const uint32_t slots = maps.slot_count(), backends = maps.backend_count();
  return {{"lb_frontends", maps.frontend_lines()},
          {"lb_slots", slots},
          {"lb_keys6", slots / LB_KEYS6_PACKED + 1},
          {"lb_pending", slots},
          {"lb_table", maps.lines},
          {"lb_backends", backends},
          {"lb_cursors", slots},
          {"lb_cursors_cpu", slots},
          {"lb_failures", 2 * slots},  // failures, then connections of backends that are gone
          {"lb_usage", maps.stripes * backends},
          {"lb_affinities", c.affinities},
          {"lb_owners", flow_set_count(c)},
          {"lb_connections", flow_set_count(c) * LB_FLOW_WAYS},
          {"lb_replies", 2 * flow_set_count(c)},
          {"lb_refused", slots},
          {"lb_traffic", cpu_count()},
          {"lb_next_hops", next_hops() * cpu_count()},
          {"lb_addresses", slots - 1},
          {"lb_held", slots - 1},
          {"lb_resets", backends},
          {"lb_vias", backends},
          {"lb_locals", 4 * backends},
          {"lb_peers4", power_of_two(std::max(1u, c.connections / LB_WAYS))},
          {"lb_peers6", power_of_two(std::max(1u, c.connections / LB_WAYS / 2))}};
}

// The coarse clock moves once in a jiffy.
uint32_t jiffies_each_second() {
  timespec each{0, 4000000};
  clock_getres(CLOCK_MONOTONIC_COARSE, &each);
  return static_cast<uint32_t>(1000000000 / std::clamp(each.tv_nsec, 100000l, 100000000l));
}

// What a pin holds must be what this version writes.
Result<UniqueFd> get_pin(const std::string& directory, const bpf_map* wanted) {
  const std::string name = bpf_map__name(wanted);
  UniqueFd fd(bpf_obj_get(pin_of(directory, name).c_str()));
  if (!fd) {
    Error e = kernel_error("open", pin_of(directory, name), errno,
                           "the pins are of another version of the library or damaged; close them with the version that made them, or remove the directory");
    if (errno == ENOENT) e.code = "ERR_LAYOUT";
    return e;
  }
  bpf_map_info info{};
  __u32 length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length)) return kernel_error("open", name, errno);
  if (info.value_size != bpf_map__value_size(wanted) || info.key_size != bpf_map__key_size(wanted))
    return make_error("ERR_LAYOUT", "open", directory,
                      "map " + name + " has another layout; the pins were made by another version of the library: close({detach: true}) with that version first");
  return fd;
}

void set_sizes(Object& object, const Maps& maps) {
  const auto wanted = sizes(maps);
  bpf_map* m;
  bpf_object__for_each_map(m, object.get()) {
    const auto it = wanted.find(bpf_map__name(m));
    if (it != wanted.end()) bpf_map__set_max_entries(m, it->second);
  }
}

}  // namespace

uint32_t Maps::room_of_indices(uint32_t capacity) {
  return std::min(capacity <= kDoubledUpTo ? capacity : kRoomOfLarge, LB_INDEX_MAX - capacity);
}

// With one key more than a power of two the table of frontends has twice the lines: of a large one, only what the rounding leaves.
uint32_t Maps::room_of_keys(uint32_t capacity) {
  const uint32_t room = room_of_indices(capacity);
  return capacity <= kDoubledUpTo ? room : std::min(room, power_of_two(capacity) - capacity);
}

// Half of the ways are taken when all slots are.
uint32_t Maps::frontend_lines() const { return power_of_two((slot_count() - 1 + LB_FRONTEND_WAYS / 2) / (LB_FRONTEND_WAYS / 2 + 1)); }

uint32_t Maps::flow_sets() const { return flow_set_count(capacity); }

void Maps::derive() {
  stripes = std::min<uint32_t>(LB_STRIPES, power_of_two(cpu_count()));
  const uint32_t wanted = (capacity.cells + LB_LINE_WORDS - 1) / LB_LINE_WORDS;
  // A region begins at a multiple of its size, and line 0 is never given out: of the three parts, two can hold a region as large as they are.
  lines = wanted <= kDoubledUpTo ? 3 * power_of_two(wanted) : std::min(wanted + kRoomOfLarge, 1u << LB_REGION_BITS);
}

Result<Maps> Maps::create(const Capacity& capacity, const std::string& directory) {
  Maps maps;
  maps.capacity = capacity;
  maps.derive();
  auto object = Object::open("decide");
  if (!object) return object.error();
  set_sizes(*object, maps);
  LB_TRY(object->load("open", directory.empty() ? "maps" : directory));
  LB_TRY(maps.take_fds(*object, false));
  LB_TRY(maps.map_memory(false));

  maps.control->layout = LB_LAYOUT;
  if (getrandom(&maps.control->instance, sizeof maps.control->instance, 0) < 0) return kernel_error("open", "getrandom", errno);
  const uint32_t kept[] = {capacity.frontends, capacity.backends, capacity.cells, capacity.connections, capacity.affinities};
  std::copy(std::begin(kept), std::end(kept), maps.control->capacity);
  if (directory.empty()) return maps;
  for (const auto& [name, fd] : maps.fds_)
    if (name != kControl && bpf_obj_pin(fd.get(), pin_of(directory, name).c_str())) return kernel_error("open", pin_of(directory, name), errno);
  // Last: its pin says that the set is complete.
  if (bpf_obj_pin(maps.fd(kControl), pin_of(directory, kControl).c_str())) return kernel_error("open", directory, errno);
  return maps;
}

// Those of the packet hooks, or the others, of a loaded object.
Status Maps::take_fds(Object& object, bool packets) {
  bpf_map* m;
  bpf_object__for_each_map(m, object.get()) {
    const std::string name = bpf_map__name(m);
    if (name.rfind("lb_", 0) != 0 || packets != is_packet_map(name)) continue;
    UniqueFd fd(fcntl(bpf_map__fd(m), F_DUPFD_CLOEXEC, 0));
    if (!fd) return kernel_error("open", name, errno);
    fds_[name] = std::move(fd);
  }
  return ok();
}

Status Maps::ensure_packets(const std::string& directory) {
  if (has_packets()) return ok();
  const Status made = make_packets(directory);
  if (made) return ok();
  for (const auto name : kPacketMaps) {
    fds_.erase(std::string(name));
    mappings_.erase(std::string(name));
    if (!directory.empty()) unlink(pin_of(directory, std::string(name)).c_str());
  }
  node = nullptr;
  owners = nullptr;
  connections = nullptr;
  traffic = nullptr;
  refused = nullptr;
  return made.error();
}

Status Maps::make_packets(const std::string& directory) {
  auto object = Object::open("tc_lb");
  if (!object) return object.error();
  set_sizes(*object, *this);
  LB_TRY(lend(*object));
  bpf_program* p;
  bpf_object__for_each_program(p, object->get()) bpf_program__set_autoload(p, false);
  LB_TRY(object->load("attach", directory.empty() ? "packet maps" : directory));
  LB_TRY(take_fds(*object, true));
  if (!directory.empty())
    for (const auto name : kPacketMaps) {
      const std::string pin = pin_of(directory, std::string(name));
      // Of a set that a death left incomplete: nothing is attached that could use it.
      unlink(pin.c_str());
      if (bpf_obj_pin(fd(std::string(name)), pin.c_str())) return kernel_error("attach", pin, errno);
      stop_point();
    }
  return map_packets(false);
}

Status Maps::find_packets(const std::string& directory, bool readonly) {
  if (access(pin_of(directory, kNode).c_str(), F_OK)) return ok();
  auto object = Object::open("tc_lb");
  if (!object) return object.error();
  for (const auto name : kPacketMaps) {
    auto fd = get_pin(directory, object->map(std::string(name).c_str()));
    if (!fd) return fd.error();
    fds_[std::string(name)] = std::move(*fd);
  }
  return map_packets(readonly);
}

bool Maps::present(const std::string& directory) { return access(pin_of(directory, kControl).c_str(), F_OK) == 0; }

void Maps::remove_pins(const std::string& directory) {
  DIR* dir = opendir(directory.c_str());
  if (!dir) return;
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir))
    if (entry->d_type != DT_DIR && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  closedir(dir);
  // The directory may hold pins of other programs.
  const auto object = Object::open("decide");
  std::erase_if(names, [&](const std::string& n) {
    return n != "log0" && n != "log1" && n.rfind("link_", 0) != 0 && !is_packet_map("lb_" + n) && !(object && object->map(("lb_" + n).c_str()));
  });
  // The control map's pin goes first: what is left is known to be incomplete.
  std::stable_partition(names.begin(), names.end(), [](const std::string& n) { return n == std::string(kControl + 3); });
  for (const auto& name : names) {
    unlink((directory + "/" + name).c_str());
    stop_point();
  }
}

Result<Maps> Maps::find(const std::string& directory, bool readonly) {
  Maps maps;
  auto object = Object::open("decide");
  if (!object) return object.error();
  bpf_map* m;
  bpf_object__for_each_map(m, object->get()) {
    const std::string name = bpf_map__name(m);
    if (name.rfind("lb_", 0) != 0) continue;
    auto fd = get_pin(directory, m);
    if (!fd) return fd.error();
    maps.fds_[name] = std::move(*fd);
  }
  LB_TRY(maps.map_memory(readonly));
  if (maps.control->layout != LB_LAYOUT)
    return make_error("ERR_LAYOUT", "open", directory,
                      "the pins have layout " + std::to_string(maps.control->layout) + ", this library writes layout " +
                          std::to_string(LB_LAYOUT) + "; close({detach: true}) with the version that made them first");
  LB_TRY(maps.find_packets(directory, readonly));
  return maps;
}

template <typename T>
Status Maps::map_one(const std::string& name, bool readonly, T*& pointer) {
  bpf_map_info info{};
  __u32 length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd(name), &info, &length)) return kernel_error("open", name, errno);
  const size_t element = (info.value_size + 7) / 8 * 8;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes = (element * info.max_entries + page - 1) / page * page;
  void* base = mmap(nullptr, bytes, readonly ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd(name), 0);
  if (base == MAP_FAILED) return kernel_error("mmap", name, errno);
  mappings_[name] = Mapping(base, bytes);
  pointer = static_cast<T*>(base);
  return ok();
}

Status Maps::map_packets(bool readonly) {
  // Before 5.12 there is a lock in each element, and then the kernel maps none of them.
  if (kernel_abilities().variant == Variant::current) LB_TRY(map_one("lb_owners", readonly, owners));
  LB_TRY(map_one("lb_connections", readonly, connections));
  LB_TRY(map_one("lb_traffic", readonly, traffic));
  LB_TRY(map_one("lb_refused", readonly, refused));
  return map_one(kNode, readonly, node);
}

Status Maps::map_memory(bool readonly) {
  auto map = [&](const std::string& name, auto*& pointer) { return map_one(name, readonly, pointer); };
  LB_TRY(map(kControl, control));
  LB_TRY(map("lb_frontends", frontends));
  LB_TRY(map("lb_keys6", keys6));
  LB_TRY(map("lb_slots", slots));
  LB_TRY(map("lb_pending", pending));
  LB_TRY(map("lb_table", table));
  LB_TRY(map("lb_backends", backends));
  LB_TRY(map("lb_usage", usage));
  LB_TRY(map("lb_failures", failures));
  LB_TRY(map("lb_verdicts", verdicts));
  LB_TRY(map("lb_ports", ports));
  if (control->capacity[0]) {
    const __u64* c = control->capacity;
    capacity = {static_cast<uint32_t>(c[0]), static_cast<uint32_t>(c[1]), static_cast<uint32_t>(c[2]), static_cast<uint32_t>(c[3]),
                static_cast<uint32_t>(c[4])};
    derive();
  }
  return ok();
}

uint64_t Maps::counted(uint32_t hook, uint32_t reason) const {
  uint64_t sum = 0;
  for (uint32_t s = 0; s < LB_STRIPES; s++) sum += verdicts[s].count[hook][reason];
  if (!traffic || hook == LB_HOOK_SOCKET) return sum;
  for (uint32_t cpu = 0; cpu < cpu_count(); cpu++) {
    const lb_traffic_counts& counts = traffic[cpu].hook[hook - 1];
    sum += reason == LB_COUNT_PACKETS          ? counts.packets
           : reason == LB_COUNT_BYTES          ? counts.bytes
           : reason == LB_REASON_NOT_A_SERVICE ? counts.passed
                                               : 0;
  }
  return sum;
}

Status Maps::lend(Object& object) const {
  bpf_map* m;
  bpf_object__for_each_map(m, object.get()) {
    const auto it = fds_.find(bpf_map__name(m));
    if (it == fds_.end()) continue;
    if (const int err = bpf_map__reuse_fd(m, it->second.get())) return kernel_error("open", it->first, -err);
  }
  const auto wanted = sizes(*this);
  object.set_config("lb_frontend_mask", frontend_lines() - 1);
  object.set_config("lb_frontend_seed", control->instance);
  object.set_config("lb_usage_stride", backend_count());
  object.set_config("lb_stripe_mask", stripes - 1);
  object.set_config("lb_owner_mask", flow_sets() - 1);
  object.set_config("lb_reply_mask", 2 * flow_sets() - 1);
  object.set_config("lb_flow_seed", control->instance);
  object.set_config("lb_peer4_mask", wanted.at("lb_peers4") - 1);
  object.set_config("lb_peer6_mask", wanted.at("lb_peers6") - 1);
  object.set_config("lb_next_hop_mask", next_hops() - 1);
  object.set_config("lb_next_hop_jiffies", std::max(1u, jiffies_each_second() / 4));
  object.set_config("lb_can_set_retval", kernel_abilities().set_retval);
  object.set_config("lb_can_cast", kernel_abilities().cast_context);
  return ok();
}

}  // namespace lb
