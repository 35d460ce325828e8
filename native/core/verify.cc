// SPDX-License-Identifier: Apache-2.0
// What the balancer believes against what is in the kernel, word by word. Reads only.
#include <bpf/bpf.h>

#include <algorithm>
#include <array>
#include <map>
#include <unordered_set>

#include "anchors.h"
#include "balancer.h"
#include "commit.h"

namespace lb {
namespace {

std::string name_of(const Key& key) {
  std::string name = key.address.text();
  name += " port ";
  name += std::to_string(ntohs(key.port));
  name += key.protocol == IPPROTO_TCP ? "/tcp" : key.protocol == IPPROTO_UDP ? "/udp" : "/sctp";
  return name;
}

constexpr char kRemedy[] = "the maps were changed by something else; apply() the whole state again, or remove the pins and open anew";

class Checker {
 public:
  Checker(const Maps& maps, const FrontendTable& frontends, std::vector<Problem>& found) : maps_(maps), frontends_(frontends), found_(found) {}

  void service(const Service& s) {
    for (const auto& f : s.frontends) frontend(s, f);
    for (const auto& r : s.regions) region(s, r);
    for (const auto& b : s.backends) backend(s, b);
    for (const auto& b : s.lingering) backend(s, b);
  }

  size_t keys = 0;

 private:
  void wrong(const std::string& object, const std::string& message) { found_.push_back({"ERR_KERNEL", object, message, kRemedy}); }

  void frontend(const Service& s, const Frontend& f) {
    const std::string object = s.name + " " + name_of(f.key);
    keys++;
    const std::string problem = frontends_.problem(f.key, f.slot);
    if (!problem.empty()) return wrong(object, problem);
    if (!slots_.insert(f.slot).second) wrong(object, "slot " + std::to_string(f.slot) + " is in use twice");
    const Region* region = find_region(s, f);
    const __u64 slot = maps_.slots[f.slot].word;
    if (!region || lb_slot_kind(slot) != LB_SLOT_FINAL || lb_slot_region(slot) != region->first)
      wrong(object, "slot " + std::to_string(f.slot) + " does not name the region of its service");
  }

  void region(const Service& s, const Region& r) {
    for (uint32_t line = r.first; line < r.first + (1u << r.order); line++)
      if (!lines_.insert(line).second) return wrong(s.name, "line " + std::to_string(line) + " of the table is in use twice");
    std::vector<__u64> words;
    build_region(s, r.family, r.pool, r.policy, words, maps_.table[r.first].head.flags & LB_REGION_NEAR);
    if (!same_choices(maps_.table, r, words)) return wrong(s.name, "its cells differ from what its backends give");
    anchors(s, r);
  }

  // What a region says beyond its choices: every anchor is a backend of the service, whoever differs has its bit and is known, and so is the region before.
  void anchors(const Service& s, const Region& r) {
    static const Anchors kNone;
    const Anchors& known = r.anchors ? *r.anchors : kNone;
    const lb_head& head = maps_.table[r.first].head;
    const __u64* cells = maps_.table[r.first].word + LB_HEAD_WORDS;
    Indices32 indices;
    for (const auto* list : {&s.backends, &s.lingering})
      for (const auto& b : *list) indices.insert(b.index);
    size_t differing = 0;
    for (uint32_t i = 0; cells_last(head) && i < head.length; i++) {
      const bool differs = lb_cell_current(cells[i]) != lb_cell_anchor(cells[i]), remembered = cells[i] & LB_CELL_REMEMBERED;
      const std::string cell = "cell " + std::to_string(i);
      if (!indices.count(lb_cell_anchor(cells[i]))) return wrong(s.name, "the anchor of " + cell + " is no backend of it");
      if (differs && !remembered) return wrong(s.name, cell + " differs from its anchor, and flows of it are not remembered");
      if (remembered && !known.remembered) return wrong(s.name, "the bit of " + cell + " is never swept");
      if (!differs) continue;
      if (differing >= known.differing.size() || known.differing[differing].cell != i) return wrong(s.name, "nobody knows since when " + cell + " differs from its anchor");
      differing++;
    }
    if (differing != known.differing.size()) wrong(s.name, "fewer cells differ from their anchors than should");
    const bool succeeds = head.flags & LB_REGION_SUCCEEDS;
    if (succeeds != (known.older.first != 0) || (succeeds && cells[head.length + head.members] != known.older.first))
      return wrong(s.name, "the region before it, whose anchors count, is not the one that should be");
    if (!succeeds) return;
    Indices32 named;
    add_anchors_at(maps_.table, known.older.first, named);
    for (const uint32_t index : named)
      if (!indices.count(index)) return wrong(s.name, "an anchor of the region before it is no backend of it");
    if (!older_.insert(known.older.first).second) return;
    for (uint32_t line = known.older.first; line < known.older.first + (1u << known.older.order); line++)
      if (!lines_.insert(line).second) return wrong(s.name, "line " + std::to_string(line) + " of the table is in use twice");
  }

  void backend(const Service& s, const Backend& b) {
    const lb_backend& actual = maps_.backends[b.index];
    const __u64 wanted = lb_backend_word(b.port, b.generation, s.id, b.flags | LB_BACKEND_LIVE);
    if (!backends_.insert(b.index).second) wrong(s.name, "backend index " + std::to_string(b.index) + " is in use twice");
    if (actual.word != wanted || std::memcmp(actual.address, b.address.words, sizeof actual.address))
      wrong(s.name, "backend " + b.address.text() + " port " + std::to_string(ntohs(b.port)) + " is not what the kernel's map says");
  }

  const Maps& maps_;
  const FrontendTable& frontends_;
  std::vector<Problem>& found_;
  std::unordered_set<uint32_t> slots_, lines_, backends_, older_;
};

// Has the hash exactly these elements?
template <typename K, typename V, typename Wrong>
void check_map(const Maps& maps, const char* name, const std::map<K, V>& wanted, const char* what, Wrong wrong) {
  const int fd = maps.fd(name);
  size_t other = 0, there = 0, strays = 0;
  K at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    const auto it = wanted.find(at);
    V value{};
    if (it == wanted.end())
      strays++;
    else if (bpf_map_lookup_elem(fd, &at, &value) == 0)
      value == it->second ? there++ : other++;
  }
  const size_t missing = wanted.size() - there - other;
  auto tell = [&](size_t count, const char* how) {
    if (count) wrong(what, std::to_string(count) + " of them " + how);
  };
  tell(missing, "are missing from the kernel's map");
  tell(other, "are not what the kernel's map says");
  tell(strays, "are in the kernel's map and should not be");
}

}  // namespace

std::vector<Problem> Balancer::check() {
  std::vector<Problem> found;
  if (options_.readonly) {
    auto fresh = snapshot();
    if (!fresh) found.push_back({fresh.error().code, fresh.error().object, fresh.error().message, "try again"});
    return found;
  }
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  if (closed_) return found;
  Checker checker(maps_, frontends_, found);
  for (const auto& [name, s] : services_) checker.service(*s);
  const size_t keys = frontends_.count();
  if (keys != checker.keys)
    found.push_back({"ERR_KERNEL", "frontends", "the kernel's table holds " + std::to_string(keys) + " frontends, should be " + std::to_string(checker.keys), kRemedy});
  for (uint32_t i = 0; i < maps_.slot_count(); i++)
    if (lb_slot_kind(maps_.slots[i].word) == LB_SLOT_PENDING)
      found.push_back({"ERR_KERNEL", "slot " + std::to_string(i), "a change of it was never finished", kRemedy});
  std::vector<uint8_t> use(65536, 0);
  for (uint32_t i = 0; i < port_users_.size(); i++)
    if (port_users_[i]) use[i / LB_PORT_USES] |= static_cast<uint8_t>(1u << i % LB_PORT_USES);
  for (uint32_t port = 0; port < 65536; port++)
    if (maps_.ports[port / 8].use[port % 8] != use[port]) found.push_back({"ERR_KERNEL", "port " + std::to_string(port), "its protection is not what the frontends say", kRemedy});
  check_packets(found);
  check_links(found);
  if (!attachments_.empty()) check_ports(found);
  return found;
}

// What packets, and connects to addresses that are no frontends, are looked up in. The next open() of the pins makes all of it what it should be.
void Balancer::check_packets(std::vector<Problem>& found) {
  auto wrong = [&](const std::string& object, const std::string& message) {
    found.push_back({"ERR_KERNEL", object, message, "the maps were changed by something else; close and open again, which writes them anew"});
  };
  const auto differences = ranges_.differences();
  auto check_set = [&](uint32_t id, const std::string& object) {
    const auto it = differences.find(id);
    if (id && it != differences.end()) wrong(object, std::to_string(it->second) + " ranges are missing from, or too many in the kernel's map");
  };
  check_set(static_cast<uint32_t>(maps_.control->service_ranges), "serviceCIDRs");
  for (const auto& [name, s] : services_)
    for (const auto& set : s->range_sets) check_set(set.id, s->name);
  if (differences.count(0)) wrong("ranges", std::to_string(differences.at(0)) + " ranges in the kernel's maps belong to nobody");
  std::map<std::array<uint32_t, 4>, uint32_t> held, addresses;
  auto address_of = [](const Address& a) {
    return a.family == LB_IPV4 ? std::array<uint32_t, 4>{0, 0, htonl(0xffff), a.words[0]} : std::array<uint32_t, 4>{a.words[0], a.words[1], a.words[2], a.words[3]};
  };
  for (const auto& [key, slot] : keys_) {
    if (contains(service_ranges_, key.address)) held[address_of(key.address)] = 1;
    if (key.scope == LB_SCOPE_EXTERNAL) addresses[address_of(key.address)] = 1;
  }
  check_map(maps_, "lb_held", held, "service addresses", wrong);
  if (!packets_filled_) return;
  const lb_node& node = *maps_.node;
  const std::pair<uint32_t, const char*> settings[] = {{node.peers, "peers"}, {node.pods, "podCIDRs"}, {node.masquerade, "masquerade"}, {node.masquerade_exclude, "masquerade exclude"}};
  for (const auto& [id, object] : settings) check_set(id, object);
  check_map(maps_, "lb_addresses", addresses, "external addresses", wrong);
  Locals locals;
  Vias vias;
  for (const auto& [name, s] : services_) {
    locals.merge(locals_of(*s));
    vias.merge(vias_of(*s));
  }
  check_map(maps_, "lb_locals", locals, "local backends", wrong);
  check_map(maps_, "lb_vias", vias, "outer destinations", wrong);
}

// Sockets that were there before a node port was: their programs go on receiving what is theirs on loopback only.
void Balancer::check_ports(std::vector<Problem>& found) {
  const auto bound = bound_ports(netns_.get());
  if (!bound) return;
  auto used = [&](const BoundPort& b, uint8_t family) {
    Frontend probe;
    probe.key = {{family, {}}, htons(b.port), static_cast<uint8_t>(b.tcp ? IPPROTO_TCP : IPPROTO_UDP), LB_SCOPE_INTERNAL};
    if (!port_users_[b.port * static_cast<size_t>(LB_PORT_USES) + static_cast<unsigned>(__builtin_ctz(port_bit(probe.key)))]) return false;
    if (b.address == Address{b.address.family, {}}) return true;
    probe.key.address = b.address;
    return keys_.count(probe.key) != 0;
  };
  for (const auto& b : *bound) {
    // A socket on [::] receives IPv4 too.
    const bool both = b.address == Address{LB_IPV6, {}};
    if (!used(b, b.address.family) && !(both && used(b, LB_IPV4))) continue;
    found.push_back({"PORT_BOUND", "port " + std::to_string(b.port) + (b.tcp ? "/tcp" : "/udp"), "a socket of this node was bound to it before it became a node port or host port",
                     "end the program that holds it (ss -lntup), or choose another port"});
  }
}

void Balancer::check_links(std::vector<Problem>& found) {
  for (const auto& [id, a] : attachments_) {
    const auto more = a->problems();
    found.insert(found.end(), more.begin(), more.end());
  }
}

std::vector<Problem> Balancer::problems() {
  std::vector<Problem> found;
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  if (closed_) return found;
  if (!options_.readonly) check_links(found);
  if (!options_.readonly && !attachments_.empty()) {
    const auto open = unreserved_ports(netns_.get(), kept_ports());
    if (open && !open->empty())
      found.push_back({"PORTS_OVERLAP", "ports " + format_ports(*open),
                       "sockets that ask for any port may be given these, which are node ports or in snatPortRange",
                       "put them into net.ipv4.ip_local_reserved_ports (a pinned balancer does), or move ip_local_port_range"});
  }
  const std::string grace = indices_->failure();
  if (!grace.empty()) found.push_back({"ERR_KERNEL", "grace period", grace, "indices are not reused until the kernel grants one; see dmesg"});
  const std::string sweep = sweeps_ ? sweeps_->failure() : "";
  if (!sweep.empty()) found.push_back({"ERR_KERNEL", "sweep", sweep, "UDP sockets of removed backends may be stuck; their programs must connect again"});
  return found;
}

}  // namespace lb
