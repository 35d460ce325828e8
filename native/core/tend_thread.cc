// SPDX-License-Identifier: Apache-2.0
#include "tend_thread.h"

#include <chrono>

namespace lb {

TendThread::TendThread(std::function<uint32_t()> tend) : tend_(std::move(tend)), thread_([this] { run(); }) {}

TendThread::~TendThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void TendThread::wake() {
  {
    std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_all();
}

bool TendThread::busy() {
  std::lock_guard lock(mutex_);
  return wanted_ || running_;
}

void TendThread::run() {
  std::unique_lock lock(mutex_);
  uint32_t due = kNotDue;
  for (;;) {
    const auto asked = [&] { return stop_ || wanted_; };
    if (due == kNotDue)
      changed_.wait(lock, asked);
    else
      changed_.wait_for(lock, std::chrono::seconds(due), asked);
    if (stop_) return;
    wanted_ = false;
    running_ = true;
    lock.unlock();
    due = tend_();
    lock.lock();
    running_ = false;
  }
}

}  // namespace lb
