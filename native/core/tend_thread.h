// SPDX-License-Identifier: Apache-2.0
// A thread that does something when it is woken, and again when that said that more will be due.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace lb {

class TendThread {
 public:
  static constexpr uint32_t kNotDue = UINT32_MAX;
  // tend: returns in how many seconds it wants to be called again. Called with no lock of this object held.
  explicit TendThread(std::function<uint32_t()> tend);
  ~TendThread();
  TendThread(const TendThread&) = delete;
  TendThread& operator=(const TendThread&) = delete;

  void wake();
  bool busy();  // it was woken and is not done

 private:
  void run();

  std::function<uint32_t()> tend_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, running_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace lb
