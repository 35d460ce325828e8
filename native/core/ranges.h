// SPDX-License-Identifier: Apache-2.0
// Range sets: who may use a frontend, who is a workload ... by an id that programs look up with an address. The contents of an id never change.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "maps.h"
#include "model.h"
#include "result.h"

namespace lb {

// "10.0.0.0/8", in canonical text.
bool parse_range(const std::string& text, Range& out);
bool contains(const std::vector<Range>& ranges, const Address& address);

// Keeps what the ids mean, and lb_ranges4/6 accordingly from when they are there. Thread-safe.
class RangeTable {
 public:
  // `text` names the set in an error.
  Status add(uint32_t id, const std::vector<Range>& ranges, const std::string& text);
  // When nobody can look it up any more.
  void remove(uint32_t id);
  // The maps have been made: they get all that is known.
  Status fill(const Maps& maps);
  // The maps were found: what they say of the `known` ids is believed, sets that nobody knows are deleted, and those that are known written anew.
  Status adopt(const Maps& maps, const std::set<uint32_t>& known);
  std::vector<Range> contents(uint32_t id);
  // Of the sets against the maps: ranges that are missing there, or too many. 0: those whose set is not known.
  std::map<uint32_t, size_t> differences();

 private:
  Status write(uint32_t id, const std::vector<Range>& ranges, const std::string& text);
  std::unordered_map<uint32_t, std::vector<Range>> read();
  void erase(uint32_t id, const std::vector<Range>& ranges);

  std::mutex mutex_;
  int fd4_ = -1, fd6_ = -1;
  std::unordered_map<uint32_t, std::vector<Range>> sets_;
};

}  // namespace lb
