// SPDX-License-Identifier: Apache-2.0
// What a balancer believes: services, their keys, backends and regions. Plain data.
#pragma once

#include <arpa/inet.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../../bpf/include/abi.h"

namespace lb {

struct Address {
  uint8_t family = 0;  // LB_IPV4, LB_IPV6
  uint32_t words[4] = {0, 0, 0, 0};  // network order, IPv4 in words[0]

  static bool parse(const char* text, Address& out) {
    out = Address{};
    if (inet_pton(AF_INET, text, out.words) == 1) {
      out.family = LB_IPV4;
      return true;
    }
    if (inet_pton(AF_INET6, text, out.words) != 1) return false;
    out.family = LB_IPV6;
    return true;
  }
  std::string text() const {
    char buffer[INET6_ADDRSTRLEN];
    return inet_ntop(family == LB_IPV4 ? AF_INET : AF_INET6, words, buffer, sizeof buffer) ? buffer : "?";
  }
  bool operator==(const Address& o) const { return family == o.family && std::memcmp(words, o.words, sizeof words) == 0; }
};

struct Key {
  Address address;
  uint16_t port = 0;  // network order
  uint8_t protocol = 0, scope = 0;
  bool operator==(const Key& o) const = default;
  bool six() const { return address.family == LB_IPV6; }
  uint64_t word() const { return lb_key_word(address.words[six() ? 3 : 0], port, protocol, scope, six()); }
  uint64_t hash(uint64_t seed) const { return lb_key_hash(word(), address.words, six(), seed); }
};

struct KeyHash {
  size_t operator()(const Key& k) const {
    uint64_t h = static_cast<uint64_t>(k.address.words[0]) << 32 | static_cast<uint64_t>(k.port) << 16 | k.protocol << 8 | k.scope;
    if (k.address.family == LB_IPV6)
      h ^= lb_mix64((static_cast<uint64_t>(k.address.words[1]) << 32 | k.address.words[2]) + k.address.words[3]);
    return lb_mix64(h);
  }
};

struct Range {
  Address address;
  uint8_t prefix = 0;
  bool operator==(const Range& o) const = default;
};

// Who may use frontends.
struct RangeSet {
  std::vector<Range> ranges;
  uint32_t id = 0;
};

struct Frontend {
  Key key;
  uint8_t pool = 0, kind = 0;
  uint8_t ranges = 0;  // 1 + index in the service's range sets; 0: everyone
  uint32_t slot = 0;
  uint32_t region = 0;  // its first line
};

struct Backend {
  Address address;
  uint16_t port = 0;  // network order
  uint8_t flags = 0;  // enum lb_backend_flag without LIVE
  uint32_t weight = 0;
  uint32_t index = 0, generation = 0;
  Address via;  // DSR: outer destination; family 0: the backend itself
  bool same_endpoint(const Backend& o) const { return port == o.port && address == o.address; }
};

// Second of CLOCK_MONOTONIC for what a commit begins: put in when it has happened.
inline constexpr uint32_t kNow = UINT32_MAX;

// Lines of the table.
struct Lines {
  uint32_t first = 0, order = 0;  // first 0: none
};

struct Differing {
  uint32_t cell, since;  // seconds
};

// What is known of a region's anchors beyond its words: see anchors.h.
struct Anchors {
  std::vector<Differing> differing;  // cells whose current backend is not their anchor, ascending
  Lines older;                       // the region whose anchors count
  uint32_t older_since = 0;
  bool remembered = false;  // a cell has its bit
  uint64_t version = 0;     // raised with each change in place
};

struct Region {
  uint8_t family = 0, pool = 0;
  bool datagrams = false;  // of UDP frontends alone; regions without anchors are for all
  uint32_t first = 0, order = 0;
  uint32_t policy = 0;  // id of a range set
  std::shared_ptr<Anchors> anchors;  // null: no cell differs or has its bit, and no region before this counts
};

struct Service {
  uint32_t id = 0;
  std::string name, owner, record;
  uint8_t algorithm = 0, drop = 0, local_pools = 0;
  uint8_t forwarding = 0;  // enum lb_region_flag: SNAT, DSR, or neither
  uint32_t affinity = 0;
  int32_t reset_after = -1;  // seconds from a backend's removal to the end of its TCP connections; -1: they go on
  std::vector<Frontend> frontends;
  std::vector<Backend> backends;
  std::vector<Backend> lingering;  // removed ones that anchors name yet: flags are LOCAL and VIA
  std::vector<Region> regions;
  std::vector<RangeSet> range_sets;
  uint32_t policy_of(const Frontend& f) const { return f.ranges ? range_sets[f.ranges - 1u].id : 0; }
};

enum class AttachmentKind : uint8_t { cgroup = 0, tc = 1, xdp = 2 };
enum class XdpMode : uint8_t { any = 0, native = 1, generic = 2 };

struct AttachmentRecord {
  uint32_t id = 0;
  std::string path, options;  // cgroup, device or pattern of devices
  std::vector<std::string> netns;  // of sockets, or where the device is; "": the balancer's own
  AttachmentKind kind = AttachmentKind::cgroup;
  uint8_t role = 0;  // devices: enum lb_role
  XdpMode mode = XdpMode::any;
};

struct Problem {
  std::string code, object, message, remedy;
};

struct CommitInput {
  std::vector<Service> put;  // without ids, slots, indices and regions
  std::vector<std::string> remove;
  bool has_settings = false;
  std::string settings;
  std::vector<AttachmentRecord> attach;
  std::vector<uint32_t> detach;
  bool has_reserved = false;
  std::string reserved;  // ports
};

}  // namespace lb
