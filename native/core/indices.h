// SPDX-License-Identifier: Apache-2.0
// What programs reach by an index, given out and rested: slots, pending pairs, backends, services, range sets and regions of the table.
// Whatever is given back waits for a grace period that begins after it, on a thread of its own (DATAPATH 8).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "result.h"
#include "unique_fd.h"

namespace lb {

// First in, first out, so that an index rests as long as it can. Index 0 is never given out.
class IndexList {
 public:
  void reset(uint32_t count, const std::vector<bool>& used);
  uint32_t take();  // 0: none
  void give(uint32_t index) { free_.push_back(index); }
  size_t free() const { return free_.size(); }
  uint32_t count() const { return count_; }

 private:
  std::deque<uint32_t> free_;
  uint32_t count_ = 0;
};

// Buddies of 2^order lines. Line 0 is never given out (a region of 0 is no region).
class LineList {
 public:
  struct Block {
    uint32_t first, order;
  };
  static uint32_t order_for(uint32_t lines);
  void reset(uint32_t lines, std::vector<Block> used);
  bool take(uint32_t order, uint32_t& first);
  void give(uint32_t first, uint32_t order);
  uint32_t free() const { return free_lines_; }

 private:
  static constexpr uint32_t kOrders = 25;
  void add(uint32_t first, uint32_t order);
  std::deque<uint32_t> free_[kOrders];
  std::vector<uint8_t> order_at_;  // order + 1 of the free block that begins here, else 0: entries of free_ that disagree are stale
  uint32_t lines_ = 0, free_lines_ = 0;
};

enum class IndexKind { slot, pending, backend, service, region, range_set };
struct Rested {
  IndexKind kind;
  uint32_t index;
  uint32_t order = 0;  // regions
};

// A grace period of the kernel: one update of an array of maps waits until every running program has ended.
class GracePeriod {
 public:
  static Result<GracePeriod> create();
  Status wait() const;

 private:
  UniqueFd outer_, inner_;
};

class Indices {
 public:
  explicit Indices(GracePeriod grace);
  ~Indices();
  Indices(const Indices&) = delete;
  Indices& operator=(const Indices&) = delete;

  // Held while taking and giving.
  std::mutex mutex;
  IndexList slots, pending, backends, services, range_sets;
  LineList lines;

  // Gives all of these back after a grace period. The callback runs then, before they can be taken again, with the mutex held.
  void rest(std::vector<Rested> what);
  void on_rested(std::function<void(const Rested&)> callback) { on_rested_ = std::move(callback); }
  // Called on the thread, without the mutex, when grace periods begin to fail.
  void on_failure(std::function<void(const Error&)> callback) { on_failure_ = std::move(callback); }
  // Will something come free? Called with the mutex.
  bool rests() const { return busy_ || !resting_.empty(); }
  // Blocks until all that rests now is free again. Called without the mutex. False: the kernel grants no grace period.
  bool wait();
  // The first failure of a grace period, for status().
  std::string failure();
  bool idle();

 private:
  void give(const Rested& r);
  void run();

  GracePeriod grace_;
  std::function<void(const Rested&)> on_rested_;
  std::function<void(const Error&)> on_failure_;
  std::vector<Rested> resting_;
  uint64_t begun_ = 0, done_ = 0;
  bool busy_ = false, stop_ = false;
  std::string failure_;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace lb
