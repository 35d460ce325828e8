// SPDX-License-Identifier: Apache-2.0
#include "indices.h"

#include <bpf/bpf.h>

#include <algorithm>
#include <chrono>

namespace lb {

void IndexList::reset(uint32_t count, const std::vector<bool>& used) {
  count_ = count;
  free_.clear();
  for (uint32_t i = 1; i < count; i++)
    if (i >= used.size() || !used[i]) free_.push_back(i);
}

uint32_t IndexList::take() {
  if (free_.empty()) return 0;
  const uint32_t index = free_.front();
  free_.pop_front();
  return index;
}

uint32_t LineList::order_for(uint32_t lines) {
  uint32_t order = 0;
  while ((1u << order) < lines) order++;
  return order;
}

void LineList::reset(uint32_t lines, std::vector<Block> used) {
  for (auto& list : free_) list.clear();
  lines_ = lines;
  free_lines_ = 0;
  order_at_.assign(lines, 0);
  used.push_back({0, 0});
  std::sort(used.begin(), used.end(), [](const Block& a, const Block& b) { return a.first < b.first; });
  uint32_t at = 0;
  auto fill = [&](uint32_t end) {
    while (at < end) {
      uint32_t order = at == 0 ? kOrders - 1 : static_cast<uint32_t>(__builtin_ctz(at));
      order = std::min(order, kOrders - 1);
      while (at + (1u << order) > end) order--;
      add(at, order);
      free_lines_ += 1u << order;
      at += 1u << order;
    }
  };
  for (const auto& block : used) {
    fill(std::min(block.first, lines));
    at = std::max(at, block.first + (1u << block.order));
  }
  fill(lines);
}

void LineList::add(uint32_t first, uint32_t order) {
  order_at_[first] = static_cast<uint8_t>(order + 1);
  free_[order].push_back(first);
}

bool LineList::take(uint32_t order, uint32_t& first) {
  for (uint32_t from = order; from < kOrders; from++) {
    auto& list = free_[from];
    while (!list.empty()) {
      const uint32_t block = list.front();
      list.pop_front();
      if (order_at_[block] != from + 1) continue;
      order_at_[block] = 0;
      while (from > order) {
        from--;
        add(block + (1u << from), from);
      }
      free_lines_ -= 1u << order;
      first = block;
      return true;
    }
  }
  return false;
}

void LineList::give(uint32_t first, uint32_t order) {
  free_lines_ += 1u << order;
  while (order + 1 < kOrders) {
    const uint32_t buddy = first ^ (1u << order);
    if (buddy + (1u << order) > lines_ || order_at_[buddy] != order + 1) break;
    order_at_[buddy] = 0;
    first = std::min(first, buddy);
    order++;
  }
  add(first, order);
}

Result<GracePeriod> GracePeriod::create() {
  GracePeriod g;
  g.inner_ = UniqueFd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "lb_grace_in", 4, 8, 1, nullptr));
  if (!g.inner_) return kernel_error("open", "map lb_grace_in", errno);
  LIBBPF_OPTS(bpf_map_create_opts, opts, .inner_map_fd = static_cast<__u32>(g.inner_.get()));
  g.outer_ = UniqueFd(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "lb_grace", 4, 4, 1, &opts));
  if (!g.outer_) return kernel_error("open", "map lb_grace", errno);
  return g;
}

Status GracePeriod::wait() const {
  const uint32_t key = 0, value = static_cast<uint32_t>(inner_.get());
  if (bpf_map_update_elem(outer_.get(), &key, &value, BPF_ANY)) return kernel_error("grace period", "map lb_grace", errno);
  return ok();
}

Indices::Indices(GracePeriod grace) : grace_(std::move(grace)), thread_([this] { run(); }) {}

Indices::~Indices() {
  {
    std::lock_guard lock(mutex);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Indices::rest(std::vector<Rested> what) {
  if (what.empty()) return;
  {
    std::lock_guard lock(mutex);
    resting_.insert(resting_.end(), what.begin(), what.end());
  }
  changed_.notify_all();
}

bool Indices::wait() {
  std::unique_lock lock(mutex);
  if (!rests()) return true;
  // What rests now is done once a period that began from here on is.
  const uint64_t wanted = begun_ + (resting_.empty() ? 0 : 1);
  changed_.wait(lock, [&] { return done_ >= wanted || !failure_.empty(); });
  return done_ >= wanted;
}

bool Indices::idle() {
  std::lock_guard lock(mutex);
  return resting_.empty() && !busy_;
}

std::string Indices::failure() {
  std::lock_guard lock(mutex);
  return failure_;
}

void Indices::give(const Rested& r) {
  switch (r.kind) {
    case IndexKind::slot: slots.give(r.index); break;
    case IndexKind::pending: pending.give(r.index); break;
    case IndexKind::backend: backends.give(r.index); break;
    case IndexKind::service: services.give(r.index); break;
    case IndexKind::range_set: range_sets.give(r.index); break;
    case IndexKind::region: lines.give(r.index, r.order); break;
  }
}

void Indices::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !resting_.empty(); });
    if (stop_) return;
    busy_ = true;
    std::vector<Rested> batch;
    batch.swap(resting_);
    begun_++;
    lock.unlock();
    const Status waited = grace_.wait();
    lock.lock();
    if (waited) {
      failure_.clear();
      for (const auto& r : batch) {
        if (on_rested_) on_rested_(r);
        give(r);
      }
      done_ = begun_;
    } else {
      // Without a grace period nothing may be reused: it goes on resting, and the next try comes a little later.
      const bool news = failure_ != waited.error().message;
      failure_ = waited.error().message;
      if (news && on_failure_) {
        lock.unlock();
        on_failure_(waited.error());
        lock.lock();
      }
      resting_.insert(resting_.begin(), batch.begin(), batch.end());
      changed_.notify_all();
      changed_.wait_for(lock, std::chrono::seconds(1), [&] { return stop_; });
    }
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace lb
