// SPDX-License-Identifier: Apache-2.0
// Work off the JavaScript thread whose outcome settles a promise.
#pragma once

#include <functional>
#include <memory>

#include "convert.h"

namespace lb::binding {

template <typename T>
class Task : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result<T>()>;
  using Convert = std::function<Napi::Value(Napi::Env, T&)>;

  static Napi::Promise run(Napi::Env env, Work work, Convert convert) {
    auto* task = new Task(env, std::move(work), std::move(convert));  // deletes itself
    task->Queue();
    return task->deferred_.Promise();
  }

 private:
  Task(Napi::Env env, Work work, Convert convert)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), convert_(std::move(convert)) {}
  void Execute() override { result_.emplace(work_()); }
  // What was thrown, which native/core does not do: bad_alloc, system_error of a thread.
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (*result_)
      deferred_.Resolve(convert_(Env(), **result_));
    else
      deferred_.Reject(to_failure(Env(), result_->error()).Value());
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Convert convert_;
  std::optional<Result<T>> result_;
};

inline Napi::Value undefined(Napi::Env env, Nothing&) { return env.Undefined(); }

}  // namespace lb::binding
