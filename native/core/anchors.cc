// SPDX-License-Identifier: Apache-2.0
#include "anchors.h"

#include <time.h>

#include <algorithm>

#include "indices.h"
#include "maps.h"

namespace lb {
namespace {

bool serves(const Indices32* serving, uint32_t index) { return index && (!serving || serving->count(index)); }

// Has each flow the same cell in both?
bool correspond(const lb_head& a, const lb_head& b) {
  return cells_last(a) && cells_last(b) && a.length && a.length == b.length && a.algorithm == b.algorithm && a.family == b.family;
}

constexpr uint8_t kForwarding = LB_REGION_SNAT | LB_REGION_DSR;

// Cells take over anchors and bits of those at `was`. `differing`: of those.
void follow(std::vector<__u64>& words, const __u64* was, const std::vector<Differing>& differing, bool remember, const Indices32* serving,
            Anchors& anchors) {
  const uint32_t length = head_of(words.data()).length;
  auto known = differing.begin();
  for (uint32_t i = 0; i < length; i++) {
    __u64& word = words[LB_HEAD_WORDS + i];
    const __u64 before = was[i];
    if (before == word && !remember) continue;
    const uint32_t current = lb_cell_current(word);
    uint32_t anchor = lb_cell_anchor(before);
    // Where the anchor serves nobody, flows have been going to what was current.
    if (!serves(serving, anchor)) anchor = serves(serving, lb_cell_current(before)) ? lb_cell_current(before) : current;
    while (known != differing.end() && known->cell < i) ++known;
    if (anchor != current) {
      const bool went_on = known != differing.end() && known->cell == i && anchor == lb_cell_anchor(before);
      anchors.differing.push_back({i, went_on ? known->since : kNow});
    }
    // Entries that led where the cell did have not kept its bit: they lead elsewhere now.
    const bool remembered = remember || anchor != current || current != lb_cell_current(before) || before & LB_CELL_REMEMBERED;
    word = lb_cell(current, anchor) | (remembered ? LB_CELL_REMEMBERED : 0);
    anchors.remembered |= remembered;
  }
}

uint32_t order_of(const lb_head& head, bool succeeds) {
  const uint32_t words = LB_HEAD_WORDS + head.length + head.members + succeeds;
  return LineList::order_for((words + LB_LINE_WORDS - 1) / LB_LINE_WORDS);
}

__u64 masked(__u64 cell, bool lasts) { return lasts ? lb_cell_current(cell) : cell; }

}  // namespace

uint32_t monotonic_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint32_t>(now.tv_sec);
}

std::shared_ptr<Anchors> succeed(std::vector<__u64>& words, const Region& before, lb_line* table, const Indices32* served,
                                 const Indices32* serving) {
  static const Anchors kNone;
  if (before.anchors) move_anchors(table, before, 0, true, served, 0);
  auto anchors = std::make_shared<Anchors>();
  const Anchors& was = before.anchors ? *before.anchors : kNone;
  lb_head head = head_of(words.data());
  const lb_head old = head_of(table[before.first].word);
  const bool lasts = cells_last(head);
  const __u64* cells = table[before.first].word + LB_HEAD_WORDS;
  if (correspond(old, head)) {
    anchors->older = was.older;
    anchors->older_since = was.older_since;
    // What was forwarded otherwise has an entry, and so have flows of which the region before says more than this one.
    const bool remember = was.older.first || (old.flags ^ head.flags) & kForwarding;
    follow(words, cells, was.differing, remember, serving, *anchors);
  } else if (was.older.first && correspond(head_of(table[was.older.first].word), head)) {
    // Back to what there was: whoever is not where that has its anchors is remembered.
    follow(words, table[was.older.first].word + LB_HEAD_WORDS, {}, true, serving, *anchors);
  } else {
    const bool lasted = cells_last(old);
    if (was.older.first) {
      anchors->older = was.older;
      anchors->older_since = lasted ? kNow : was.older_since;
    } else if (lasted && old.length) {
      anchors->older = {before.first, before.order};
      anchors->older_since = kNow;
    }
    // All flows of a region without anchors are remembered.
    if (lasts)
      for (uint32_t i = 0; i < head.length; i++) words[LB_HEAD_WORDS + i] |= LB_CELL_REMEMBERED;
    anchors->remembered = lasts && head.length;
  }
  if (anchors->older.first) {
    head.flags |= LB_REGION_ANCHORED | LB_REGION_SUCCEEDS;
    std::memcpy(words.data(), &head, sizeof head);
    words.push_back(anchors->older.first);
  }
  return anchors->remembered || anchors->older.first ? anchors : nullptr;
}

bool leaves_anchors(const lb_line* table, const Region& region) {
  const lb_head& head = table[region.first].head;
  return (cells_last(head) && head.length) || (region.anchors && region.anchors->older.first);
}

bool same_choices(const lb_line* table, const Region& region, const std::vector<__u64>& words) {
  lb_head a = head_of(table[region.first].word), b = head_of(words.data());
  const bool lasts = cells_last(b);
  a.serial = b.serial = 0;
  // Where cells are near it is something else.
  if (!((a.flags | b.flags) & LB_REGION_NEAR)) a.changed = b.changed = 0;
  a.flags &= static_cast<uint8_t>(~(LB_REGION_SUCCEEDS | (lasts ? 0 : LB_REGION_ANCHORED)));
  if (std::memcmp(&a, &b, sizeof a)) return false;
  const __u64* cells = table[region.first].word + LB_HEAD_WORDS;
  const uint32_t count = b.length + (b.flags & LB_REGION_NEAR ? 0 : b.members);
  for (uint32_t i = 0; i < count; i++)
    if (masked(cells[i], lasts) != masked(words[LB_HEAD_WORDS + i], lasts)) return false;
  return true;
}

std::shared_ptr<Anchors> read_anchors(const lb_line* table, uint32_t first, uint32_t lines, uint32_t now) {
  const lb_head& head = table[first].head;
  if (!(head.flags & LB_REGION_ANCHORED)) return nullptr;
  auto anchors = std::make_shared<Anchors>();
  const __u64* cells = table[first].word + LB_HEAD_WORDS;
  if (cells_last(head)) {
    for (uint32_t i = 0; i < head.length; i++) {
      if (!(cells[i] & LB_CELL_REMEMBERED)) continue;
      anchors->remembered = true;
      if (lb_cell_current(cells[i]) != lb_cell_anchor(cells[i])) anchors->differing.push_back({i, now});
    }
  }
  if (head.flags & LB_REGION_SUCCEEDS) {
    const auto older = static_cast<uint32_t>(cells[head.length + head.members]);
    if (older && older < lines) anchors->older = {older, order_of(table[older].head, table[older].head.flags & LB_REGION_SUCCEEDS)};
    anchors->older_since = now;
  }
  return anchors->remembered || anchors->older.first ? anchors : nullptr;
}

void add_anchored(const lb_line* table, const Region& region, Indices32& named) {
  if (!region.anchors) return;
  const __u64* cells = table[region.first].word + LB_HEAD_WORDS;
  for (const auto& d : region.anchors->differing) named.insert(lb_cell_anchor(cells[d.cell]));
  if (region.anchors->older.first) add_anchors_at(table, region.anchors->older.first, named);
}

void add_anchors_at(const lb_line* table, uint32_t first, Indices32& named) {
  const __u64* cells = table[first].word + LB_HEAD_WORDS;
  for (uint32_t i = 0, last = 0; i < table[first].head.length; i++) {
    const uint32_t anchor = lb_cell_anchor(cells[i]);
    if (anchor != last) named.insert(last = anchor);
  }
}

uint32_t move_anchors(lb_line* table, const Region& region, uint32_t idle, bool held, const Indices32* serving, uint32_t now) {
  Anchors& anchors = *region.anchors;
  __u64* cells = table[region.first].word + LB_HEAD_WORDS;
  uint32_t due = kNow;
  std::erase_if(anchors.differing, [&](const Differing& d) {
    const __u64 cell = cells[d.cell];
    const bool moves = !serves(serving, lb_cell_anchor(cell)) || (!held && is_past(d.since, idle, now));
    if (moves) {
      store_release(&cells[d.cell], lb_cell(lb_cell_current(cell), lb_cell_current(cell)) | LB_CELL_REMEMBERED);
      anchors.version++;
    } else {
      due = std::min(due, d.since + idle + 1);
    }
    return moves;
  });
  return due;
}

void remember_all(lb_line* table, Region& region) {
  const lb_head& head = table[region.first].head;
  if (!cells_last(head) || !head.length) return;
  __u64* cells = table[region.first].word + LB_HEAD_WORDS;
  if (!region.anchors) region.anchors = std::make_shared<Anchors>();
  for (uint32_t i = 0; i < head.length; i++)
    if (!(cells[i] & LB_CELL_REMEMBERED)) store_release(&cells[i], cells[i] | LB_CELL_REMEMBERED);
  region.anchors->remembered = true;
  region.anchors->version++;
}

}  // namespace lb
