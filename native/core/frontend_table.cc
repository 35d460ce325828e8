// SPDX-License-Identifier: Apache-2.0
#include "frontend_table.h"

#include "stop_point.h"

namespace lb {

FrontendTable::FrontendTable(const Maps& maps) : maps_(maps), passed_(maps.frontend_lines(), 0) {}

void FrontendTable::name_slot(const Key& key, uint32_t slot) {
  if (key.six()) {
    __be32* address = maps_.keys6[slot / LB_KEYS6_PACKED].address[slot % LB_KEYS6_PACKED];
    for (int i = 0; i < 3; i++) __atomic_store_n(address + i, key.address.words[i], __ATOMIC_RELAXED);
  }
  store_release(&maps_.slots[slot].key, key.word());
}

Key FrontendTable::key_of(uint32_t slot) const {
  const __u64 word = maps_.slots[slot].key;
  const uint32_t rest = static_cast<uint32_t>(word >> 32);
  Key key;
  key.address.family = word & LB_KEY_IPV6 ? LB_IPV6 : LB_IPV4;
  if (key.six()) std::memcpy(key.address.words, maps_.keys6[slot / LB_KEYS6_PACKED].address[slot % LB_KEYS6_PACKED], 12);
  key.address.words[key.six() ? 3 : 0] = static_cast<uint32_t>(word);
  key.port = static_cast<uint16_t>(rest);
  key.protocol = static_cast<uint8_t>(rest >> 16);
  key.scope = static_cast<uint8_t>(rest >> 24 & 0x7f);
  return key;
}

bool FrontendTable::find(uint64_t hash, uint32_t slot, uint32_t& distance, uint32_t& way) const {
  for (distance = 0; distance < LB_FRONTEND_LINES; distance++) {
    const lb_frontends& line = maps_.frontends[line_of(hash, distance)];
    for (way = 0; way < LB_FRONTEND_WAYS; way++)
      if (line.way[way] == (lb_hash_way(hash) | slot)) return true;
  }
  return false;
}

// Of the keys that the line holds now. A sign of a key is there before its way, and goes after it.
void FrontendTable::write_signs(uint32_t line) {
  __u64 signs = passed_[line] ? LB_SIGN_MORE : 0;
  for (const uint32_t way : maps_.frontends[line].way)
    if (lb_way_slot(way) && lb_way_slot(way) < maps_.slot_count()) signs |= lb_hash_sign(key_of(lb_way_slot(way)).hash(seed()));
  if (maps_.frontends[line].signs != signs) store_release(&maps_.frontends[line].signs, signs);
}

bool FrontendTable::insert(const Key& key, uint32_t slot) {
  const uint64_t hash = key.hash(seed());
  for (uint32_t distance = 0; distance < LB_FRONTEND_LINES; distance++) {
    lb_frontends& line = maps_.frontends[line_of(hash, distance)];
    for (uint32_t& way : line.way) {
      if (way) continue;
      for (uint32_t before = 0; before < distance; before++) {
        const uint32_t full = line_of(hash, before);
        if (passed_[full]++ == 0) __atomic_fetch_or(&maps_.frontends[full].signs, LB_SIGN_MORE, __ATOMIC_RELEASE);
      }
      __atomic_fetch_or(&line.signs, lb_hash_sign(hash), __ATOMIC_RELEASE);
      stop_point();
      __atomic_store_n(&way, lb_hash_way(hash) | slot, __ATOMIC_RELEASE);
      stop_point();
      return true;
    }
  }
  return false;
}

void FrontendTable::remove(const Key& key, uint32_t slot) {
  const uint64_t hash = key.hash(seed());
  uint32_t distance, way;
  if (!find(hash, slot, distance, way)) return;
  __atomic_store_n(&maps_.frontends[line_of(hash, distance)].way[way], 0u, __ATOMIC_RELEASE);
  stop_point();
  write_signs(line_of(hash, distance));
  for (uint32_t before = 0; before < distance; before++) {
    const uint32_t full = line_of(hash, before);
    if (--passed_[full] == 0) write_signs(full);
  }
}

// Every step may be cut off and done again: a way that names no known key is cleared, one that is missing is written, and signs are only taken
// away when the ways are right.
void FrontendTable::repair(const std::unordered_map<Key, uint32_t, KeyHash>& keys) {
  std::vector<uint8_t> found(maps_.slot_count(), 0);
  std::vector<const Key*> of_slot(maps_.slot_count(), nullptr);
  for (const auto& [key, slot] : keys) of_slot[slot] = &key;
  std::fill(passed_.begin(), passed_.end(), 0);
  for (uint32_t i = 0; i <= mask(); i++) {
    for (uint32_t& way : maps_.frontends[i].way) {
      if (!way) continue;
      const uint32_t slot = lb_way_slot(way);
      const Key* key = slot < of_slot.size() ? of_slot[slot] : nullptr;
      const uint64_t hash = key ? key->hash(seed()) : 0;
      const uint32_t distance = (i - lb_hash_line(hash)) & mask();  // from the key's own line
      if (key && !found[slot] && way == (lb_hash_way(hash) | slot) && distance < LB_FRONTEND_LINES && key_of(slot) == *key) {
        found[slot] = 1;
        for (uint32_t before = 0; before < distance; before++) passed_[line_of(hash, before)]++;
        continue;
      }
      __atomic_store_n(&way, 0u, __ATOMIC_RELEASE);
      stop_point();
    }
  }
  for (const auto& [key, slot] : keys) {
    if (found[slot]) continue;
    name_slot(key, slot);
    insert(key, slot);
  }
  for (uint32_t i = 0; i <= mask(); i++) write_signs(i);
}

const char* FrontendTable::problem(const Key& key, uint32_t slot) const {
  const uint64_t hash = key.hash(seed());
  uint32_t distance, way;
  if (!find(hash, slot, distance, way)) return "the frontend is missing from the kernel's table";
  if (!(key_of(slot) == key)) return "the frontend's slot has another key";
  for (uint32_t before = 0; before < distance; before++)
    if (!(maps_.frontends[line_of(hash, before)].signs & LB_SIGN_MORE)) return "a line that it found full does not say so";
  if (!(maps_.frontends[line_of(hash, distance)].signs & lb_hash_sign(hash)) && distance == 0) return "the signs of its line hide it";
  return "";
}

size_t FrontendTable::count() const {
  size_t n = 0;
  for (uint32_t i = 0; i <= mask(); i++)
    for (const uint32_t way : maps_.frontends[i].way) n += way != 0;
  return n;
}

}  // namespace lb
