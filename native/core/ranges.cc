// SPDX-License-Identifier: Apache-2.0
#include "ranges.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <cstdlib>

#include "stop_point.h"

namespace lb {
namespace {

constexpr uint32_t kSetBits = 32;

lb_range4 key4(uint32_t id, const Range& r) { return {kSetBits + r.prefix, id, r.address.words[0]}; }
lb_range6 key6(uint32_t id, const Range& r) {
  return {kSetBits + r.prefix, id, {r.address.words[0], r.address.words[1], r.address.words[2], r.address.words[3]}};
}

Range range_of(const lb_range4& k) { return {{LB_IPV4, {k.address, 0, 0, 0}}, static_cast<uint8_t>(k.prefix - kSetBits)}; }
Range range_of(const lb_range6& k) {
  return {{LB_IPV6, {k.address[0], k.address[1], k.address[2], k.address[3]}}, static_cast<uint8_t>(k.prefix - kSetBits)};
}

// All elements: those of sets in `known` are put into `found`, others deleted.
template <typename K>
void sort_out(int fd, const std::set<uint32_t>& known, std::unordered_map<uint32_t, std::vector<Range>>& found) {
  std::vector<K> strays;
  K at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    if (known.count(at.set))
      found[at.set].push_back(range_of(at));
    else
      strays.push_back(at);
  }
  for (const auto& key : strays) bpf_map_delete_elem(fd, &key);
}

}  // namespace

bool parse_range(const std::string& text, Range& out) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos || !Address::parse(text.substr(0, slash).c_str(), out.address)) return false;
  char* end = nullptr;
  const long prefix = strtol(text.c_str() + slash + 1, &end, 10);
  if (*end || prefix < 0 || prefix > (out.address.family == LB_IPV4 ? 32 : 128)) return false;
  out.prefix = static_cast<uint8_t>(prefix);
  return true;
}

bool contains(const std::vector<Range>& ranges, const Address& address) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& r) {
    if (r.address.family != address.family) return false;
    for (unsigned bit = 0; bit < r.prefix; bit += 32) {
      const uint32_t left = r.prefix - bit, mask = left >= 32 ? ~0u : ~(~0u >> left);
      if ((ntohl(r.address.words[bit / 32]) ^ ntohl(address.words[bit / 32])) & mask) return false;
    }
    return true;
  });
}

Status RangeTable::write(uint32_t id, const std::vector<Range>& ranges, const std::string& text) {
  if (fd4_ < 0) return ok();
  const uint32_t one = 1;
  for (const auto& r : ranges) {
    const bool v4 = r.address.family == LB_IPV4;
    const lb_range4 k4 = key4(id, r);
    const lb_range6 k6 = key6(id, r);
    if (bpf_map_update_elem(v4 ? fd4_ : fd6_, v4 ? static_cast<const void*>(&k4) : &k6, &one, BPF_ANY) == 0) {
      stop_point();
      continue;
    }
    if (errno != ENOSPC && errno != E2BIG) return kernel_error("commit", text + ", map of ranges", errno);
    return make_error("ERR_CAPACITY", "commit", text, "the maps have room for 65536 ranges of a family in all; give fewer or larger ranges");
  }
  return ok();
}

void RangeTable::erase(uint32_t id, const std::vector<Range>& ranges) {
  if (fd4_ < 0) return;
  for (const auto& r : ranges) {
    const bool v4 = r.address.family == LB_IPV4;
    const lb_range4 k4 = key4(id, r);
    const lb_range6 k6 = key6(id, r);
    bpf_map_delete_elem(v4 ? fd4_ : fd6_, v4 ? static_cast<const void*>(&k4) : &k6);
  }
}

Status RangeTable::add(uint32_t id, const std::vector<Range>& ranges, const std::string& text) {
  std::lock_guard lock(mutex_);
  sets_[id] = ranges;
  return write(id, ranges, text);
}

void RangeTable::remove(uint32_t id) {
  std::lock_guard lock(mutex_);
  const auto it = sets_.find(id);
  if (it == sets_.end()) return;
  erase(id, it->second);
  sets_.erase(it);
}

std::vector<Range> RangeTable::contents(uint32_t id) {
  std::lock_guard lock(mutex_);
  const auto it = sets_.find(id);
  return it == sets_.end() ? std::vector<Range>{} : it->second;
}

std::unordered_map<uint32_t, std::vector<Range>> RangeTable::read() {
  std::unordered_map<uint32_t, std::vector<Range>> found;
  if (fd4_ < 0) return found;
  auto all = [&]<typename K>(int fd, K at) {
    K next{};
    for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
      at = next;
      found[at.set].push_back(range_of(at));
    }
  };
  all(fd4_, lb_range4{});
  all(fd6_, lb_range6{});
  return found;
}

std::map<uint32_t, size_t> RangeTable::differences() {
  std::lock_guard lock(mutex_);
  std::map<uint32_t, size_t> wrong;
  auto there = read();
  auto missing_in = [](const std::vector<Range>& a, const std::vector<Range>& b) {
    return static_cast<size_t>(std::count_if(b.begin(), b.end(), [&](const Range& r) { return std::find(a.begin(), a.end(), r) == a.end(); }));
  };
  if (fd4_ >= 0)
    for (const auto& [id, ranges] : sets_)
      if (const size_t count = missing_in(there[id], ranges) + missing_in(ranges, there[id])) wrong[id] = count;
  for (const auto& [id, ranges] : there)
    if (!sets_.count(id)) wrong[0] += ranges.size();
  return wrong;
}

Status RangeTable::fill(const Maps& maps) {
  std::lock_guard lock(mutex_);
  fd4_ = maps.fd("lb_ranges4");
  fd6_ = maps.fd("lb_ranges6");
  for (const auto& [id, ranges] : sets_) LB_TRY(write(id, ranges, "attach"));
  return ok();
}

Status RangeTable::adopt(const Maps& maps, const std::set<uint32_t>& known) {
  {
    std::lock_guard lock(mutex_);
    std::unordered_map<uint32_t, std::vector<Range>> found;
    sort_out<lb_range4>(maps.fd("lb_ranges4"), known, found);
    sort_out<lb_range6>(maps.fd("lb_ranges6"), known, found);
    for (auto& [id, ranges] : found) sets_.try_emplace(id, std::move(ranges));
  }
  return fill(maps);
}

}  // namespace lb
