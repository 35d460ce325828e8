// SPDX-License-Identifier: Apache-2.0
// Anchors of cells: where flows belong of which nothing is remembered (DATAPATH 17 to 23). Here is what follows from words alone;
// balancer_anchors.cc moves them when their time has come. "Serving" sets hold the backends that serve existing flows; null: all do.
#pragma once

#include <unordered_set>

#include "model.h"

namespace lb {

using Indices32 = std::unordered_set<uint32_t>;

// Of CLOCK_MONOTONIC, as the programs count them.
uint32_t monotonic_seconds();
// Is `seconds` more than `idle` ago? Seconds wrap.
inline bool is_past(uint32_t since, uint32_t idle, uint32_t now) { return static_cast<int32_t>(now - since) > static_cast<int32_t>(idle); }

inline lb_head head_of(const __u64* words) {
  lb_head head;
  std::memcpy(&head, words, sizeof head);
  return head;
}
inline bool cells_last(const lb_head& head) { return lb_cells_last(head.algorithm, head.affinity); }

// Gives the words of a new region, whose anchors are its current backends, the anchors and bits that follow from the region before it. A word that
// names the region before is added behind them where cells do not correspond. Returns what is to be known of it, null where there is nothing.
// `served`: until now. Where an anchor does not serve, flows have been going to what is current: that is its anchor from now on.
std::shared_ptr<Anchors> succeed(std::vector<__u64>& words, const Region& before, lb_line* table, const Indices32* served,
                                 const Indices32* serving);

// Is there something that the region after this one would have to say of it, if its cells do not last?
bool leaves_anchors(const lb_line* table, const Region& region);

// Does the region in the table say the same of new flows as these words do?
bool same_choices(const lb_line* table, const Region& region, const std::vector<__u64>& words);

// What a region that a death left behind says of itself. Clocks start again.
std::shared_ptr<Anchors> read_anchors(const lb_line* table, uint32_t first, uint32_t lines, uint32_t now);

// Backends that the region's anchors name, apart from its current ones.
void add_anchored(const lb_line* table, const Region& region, Indices32& named);
// All anchors of the region in the table.
void add_anchors_at(const lb_line* table, uint32_t first, Indices32& named);

// Moves the anchors whose time has come, and those of backends that serve nobody. `held`: none moves by time. Returns when the next will be
// due; kNow: none.
uint32_t move_anchors(lb_line* table, const Region& region, uint32_t idle, bool held, const Indices32* serving, uint32_t now);

// Sets every bit.
void remember_all(lb_line* table, Region& region);

}  // namespace lb
