// SPDX-License-Identifier: Apache-2.0
// NativeBalancer and PendingCommit of lib/native/binding.ts.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "convert.h"

namespace lb::binding {

class BalancerObject : public Napi::ObjectWrap<BalancerObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Balancer> balancer);
  explicit BalancerObject(const Napi::CallbackInfo& info);

 private:
  using Info = const Napi::CallbackInfo&;
  Napi::Value commit(Info info);
  Napi::Value commit_async(Info info);
  Napi::Value capacity(Info info);
  Napi::Value moved_share(Info info);
  Napi::Value snapshot(Info info);
  Napi::Value number(Info info);
  Napi::Value settled(Info info);
  Napi::Value set_packets(Info info);
  Napi::Value attach(Info info);
  Napi::Value detach(Info info);
  Napi::Value attachments(Info info);
  Napi::Value explain(Info info);
  Napi::Value counters(Info info);
  Napi::Value service_stats(Info info);
  Napi::Value affinities(Info info);
  Napi::Value connections(Info info);
  Napi::Value maps(Info info);
  Napi::Value verify(Info info);
  Napi::Value problems(Info info);
  Napi::Value owner(Info info);
  Napi::Value on_failure(Info info);
  Napi::Value close(Info info);

  std::shared_ptr<Balancer> balancer_;
};

// A commit on a thread of its own, so that wait() can never starve behind other work.
class CommitThread {
 public:
  CommitThread(std::shared_ptr<Balancer> balancer, CommitInput input);
  ~CommitThread();
  const Status& wait();

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  std::optional<Status> outcome_;
  std::thread thread_;
};

}  // namespace lb::binding
