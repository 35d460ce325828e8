// SPDX-License-Identifier: Apache-2.0
// The maps of one balancer: created or found under its pins, mapped into memory where programs and controller share words.
#pragma once

#include <map>
#include <string>

#include "../../bpf/include/abi.h"
#include "objects.h"
#include "result.h"
#include "unique_fd.h"

namespace lb {

struct Capacity {
  uint32_t frontends = 65536, backends = 65536, cells = 524288, connections = 65536, affinities = 65536;
};

// Room beyond the capacity, which people do not see: what replaces something else is there beside it until the change is made. A small map has
// everything twice, a large one room for another service; the rest is told by plan().
inline constexpr uint32_t kDoubledUpTo = 4096, kRoomOfLarge = 256;

class Maps {
 public:
  // directory: of the pins, or empty for maps that go with the process.
  static Result<Maps> create(const Capacity& capacity, const std::string& directory);
  // Finds every map under its pin; ERR_LAYOUT when they are of another layout.
  static Result<Maps> find(const std::string& directory, bool readonly);
  // Is there a complete set? (The control map is pinned last.)
  static bool present(const std::string& directory);
  // The maps of the packet hooks: found where they are pinned, else made, and pinned last of all lb_node, which says that the set is complete.
  Status ensure_packets(const std::string& directory);
  bool has_packets() const { return node != nullptr; }
  // Removes what a creation that died left behind.
  static void remove_pins(const std::string& directory);

  int fd(const std::string& name) const { return fds_.at(name).get(); }
  // Makes an object that is opened and not yet loaded use these maps, and sets its sizes.
  Status lend(Object& object) const;
  const std::map<std::string, UniqueFd>& all() const { return fds_; }

  Capacity capacity;
  uint32_t lines = 0, stripes = 0;
  // Shared words. Sizes follow from capacity.
  lb_frontends* frontends = nullptr;
  lb_keys6* keys6 = nullptr;
  lb_slot* slots = nullptr;
  lb_pending* pending = nullptr;
  lb_line* table = nullptr;
  lb_backend* backends = nullptr;
  lb_control* control = nullptr;
  __u64* usage = nullptr;
  __u64* failures = nullptr;
  lb_verdicts* verdicts = nullptr;
  lb_ports* ports = nullptr;
  // Of the packet hooks; null until there are any.
  lb_node* node = nullptr;
  lb_owners* owners = nullptr;
  lb_connection* connections = nullptr;
  lb_traffic* traffic = nullptr;  // one for each CPU that may come
  __u64* refused = nullptr;

  uint32_t slot_count() const { return capacity.frontends + room_of_keys(capacity.frontends) + 1; }
  uint32_t frontend_lines() const;
  uint32_t backend_count() const { return capacity.backends + room_of_indices(capacity.backends) + 1; }

  static uint32_t room_of_indices(uint32_t capacity);
  static uint32_t room_of_keys(uint32_t capacity);
  uint32_t flow_sets() const;
  // Verdicts of a hook, enum lb_hook, by their reason.
  uint64_t counted(uint32_t hook, uint32_t reason) const;

 private:
  Status find_packets(const std::string& directory, bool readonly);
  Status make_packets(const std::string& directory);
  Status take_fds(Object& object, bool packets);
  Status map_memory(bool readonly);
  Status map_packets(bool readonly);
  template <typename T>
  Status map_one(const std::string& name, bool readonly, T*& pointer);
  void derive();
  std::map<std::string, UniqueFd> fds_;
  std::map<std::string, Mapping> mappings_;
};

// Words that programs read while they change: every load and store of them goes through these.
inline void store_release(__u64* word, __u64 value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
inline __u64 load_acquire(const __u64* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

// A backend that is gone gets another generation. Its port stays until the index has rested: a program that read the region before the commit connects
// there yet, and with a port of 0 it would be refused.
inline void retire_backend(__u64* word) {
  store_release(word, lb_backend_word(lb_backend_port(*word), lb_backend_generation(*word) + 1, lb_backend_service(*word), 0));
}

}  // namespace lb
