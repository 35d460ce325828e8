// SPDX-License-Identifier: Apache-2.0
// The hash table of frontends (lb_frontends, and the keys in lb_slots and lb_keys6), written without a system call while programs read it:
// a key that lives never moves, and its slot rests before it is another key's.
#pragma once

#include <unordered_map>
#include <vector>

#include "maps.h"
#include "model.h"

namespace lb {

class FrontendTable {
 public:
  // Believes the table as it is; `repair` makes it hold exactly `keys`, for which `keys` must be what the slots are to say.
  explicit FrontendTable(const Maps& maps);

  // The slot's key: before insert(), while nothing names the slot.
  void name_slot(const Key& key, uint32_t slot);
  // False: every line that the key may lie in is full.
  bool insert(const Key& key, uint32_t slot);
  void remove(const Key& key, uint32_t slot);
  void repair(const std::unordered_map<Key, uint32_t, KeyHash>& keys);

  // Does a program find the key at this slot? Why not, or "".
  const char* problem(const Key& key, uint32_t slot) const;
  // Ways that are taken.
  size_t count() const;

 private:
  uint64_t seed() const { return maps_.control->instance; }
  uint32_t mask() const { return maps_.frontend_lines() - 1; }
  uint32_t line_of(uint64_t hash, uint32_t distance) const { return (lb_hash_line(hash) + distance) & mask(); }
  Key key_of(uint32_t slot) const;
  bool find(uint64_t hash, uint32_t slot, uint32_t& distance, uint32_t& way) const;
  void write_signs(uint32_t line);

  const Maps& maps_;
  std::vector<uint32_t> passed_;  // of each line: keys that found no room there
};

}  // namespace lb
