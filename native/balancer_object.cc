// SPDX-License-Identifier: Apache-2.0
#include "balancer_object.h"

#include <algorithm>

#include "async.h"

namespace lb::binding {
namespace {

constexpr napi_type_tag kBalancerTag = {0x65627066206c6220ull, 0x62616c616e636572ull};

struct VerifyOutcome {
  std::vector<Problem> problems;
  struct Canary {
    std::string hook, target;
    bool ok;
    double took_ms;
  };
  std::vector<Canary> canaries;
};

Napi::Value from_verify(Napi::Env env, VerifyOutcome& outcome) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("problems", from_problems(env, outcome.problems));
  Napi::Array canaries = Napi::Array::New(env, outcome.canaries.size());
  for (uint32_t i = 0; i < outcome.canaries.size(); i++) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("hook", outcome.canaries[i].hook);
    row.Set("target", outcome.canaries[i].target);
    row.Set("ok", Napi::Boolean::New(env, outcome.canaries[i].ok));
    row.Set("tookMs", outcome.canaries[i].took_ms);
    canaries.Set(i, row);
  }
  o.Set("canaries", canaries);
  return o;
}

}  // namespace

CommitThread::CommitThread(std::shared_ptr<Balancer> balancer, CommitInput input)
    : thread_([this, balancer = std::move(balancer), input = std::move(input)]() mutable {
        Status outcome = balancer->commit(std::move(input));
        std::lock_guard lock(mutex_);
        outcome_.emplace(std::move(outcome));
        done_.notify_all();
      }) {}

CommitThread::~CommitThread() { thread_.join(); }

const Status& CommitThread::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return outcome_.has_value(); });
  return *outcome_;
}

Napi::Function BalancerObject::define(Napi::Env env) {
  using B = BalancerObject;
  return DefineClass(env, "NativeBalancer",
                     {B::InstanceMethod("commit", &B::commit), B::InstanceMethod("commitAsync", &B::commit_async),
                      B::InstanceMethod("capacity", &B::capacity), B::InstanceMethod("movedShare", &B::moved_share),
                      B::InstanceMethod("snapshot", &B::snapshot), B::InstanceMethod("number", &B::number),
                      B::InstanceMethod("settled", &B::settled), B::InstanceMethod("setPackets", &B::set_packets), B::InstanceMethod("attach", &B::attach),
                      B::InstanceMethod("detach", &B::detach), B::InstanceMethod("attachments", &B::attachments),
                      B::InstanceMethod("explain", &B::explain), B::InstanceMethod("counters", &B::counters),
                      B::InstanceMethod("serviceStats", &B::service_stats), B::InstanceMethod("affinities", &B::affinities),
                      B::InstanceMethod("connections", &B::connections), B::InstanceMethod("maps", &B::maps), B::InstanceMethod("verify", &B::verify),
                      B::InstanceMethod("problems", &B::problems), B::InstanceMethod("owner", &B::owner),
                      B::InstanceMethod("onFailure", &B::on_failure), B::InstanceMethod("close", &B::close)});
}

BalancerObject::BalancerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BalancerObject>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use open()");
  balancer_ = *info[0].As<Napi::External<std::shared_ptr<Balancer>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kBalancerTag);
}

Napi::Object BalancerObject::wrap(Napi::Env env, std::shared_ptr<Balancer> balancer) {
  auto* constructor = env.GetInstanceData<Napi::FunctionReference>();
  return constructor->New({Napi::External<std::shared_ptr<Balancer>>::New(env, &balancer)});
}

Napi::Value BalancerObject::commit(Info info) {
  unwrap_status(info.Env(), balancer_->commit(to_commit(info[0].As<Napi::Object>())));
  return info.Env().Undefined();
}

Napi::Value BalancerObject::commit_async(Info info) {
  const Napi::Env env = info.Env();
  auto thread = std::make_shared<CommitThread>(balancer_, to_commit(info[0].As<Napi::Object>()));
  Napi::Object pending = Napi::Object::New(env);
  pending.Set("promise", Task<Nothing>::run(env, [thread]() -> Result<Nothing> { return thread->wait(); }, undefined));
  pending.Set("wait", Napi::Function::New(env, [thread](Info call) { unwrap_status(call.Env(), thread->wait()); }));
  return pending;
}

Napi::Value BalancerObject::capacity(Info info) {
  const Napi::Env env = info.Env();
  Napi::Object o = Napi::Object::New(env);
  CommitInput input = to_commit(info[0].As<Napi::Object>());
  o.Set("needs", from_needs(env, balancer_->needs(input)));
  o.Set("fits", Napi::Boolean::New(env, balancer_->fits(std::move(input))));
  return o;
}

Napi::Value BalancerObject::moved_share(Info info) {
  return Napi::Number::New(info.Env(), balancer_->moved_share(to_service(info[0].As<Napi::Object>())));
}

Napi::Value BalancerObject::snapshot(Info info) { return from_snapshot(info.Env(), unwrap(info.Env(), balancer_->snapshot())); }

Napi::Value BalancerObject::number(Info info) { return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(balancer_->number())); }

Napi::Value BalancerObject::settled(Info info) {
  return Task<Nothing>::run(
      info.Env(),
      [b = balancer_]() -> Result<Nothing> {
        b->settle();
        return Nothing{};
      },
      undefined);
}

Napi::Value BalancerObject::set_packets(Info info) {
  unwrap_status(info.Env(), balancer_->set_packets(to_packet_settings(info[0].As<Napi::Object>())));
  return info.Env().Undefined();
}

Napi::Value BalancerObject::attach(Info info) {
  return Task<AttachmentInfo>::run(
      info.Env(), [b = balancer_, record = to_attachment(info[0].As<Napi::Object>())] { return b->attach(record); },
      [](Napi::Env env, AttachmentInfo& a) { return from_attachment(env, a); });
}

Napi::Value BalancerObject::detach(Info info) {
  return Task<Nothing>::run(info.Env(), [b = balancer_, id = info[0].As<Napi::Number>().Uint32Value()] { return b->detach(id); }, undefined);
}

Napi::Value BalancerObject::attachments(Info info) {
  const auto rows = balancer_->attachments();
  Napi::Array list = Napi::Array::New(info.Env(), rows.size());
  for (uint32_t i = 0; i < rows.size(); i++) list.Set(i, from_attachment(info.Env(), rows[i]));
  return list;
}

Napi::Value BalancerObject::explain(Info info) {
  return from_decision(info.Env(), unwrap(info.Env(), balancer_->explain(to_query(info[0].As<Napi::Object>()))));
}

Napi::Value BalancerObject::counters(Info info) { return from_counters(info.Env(), *balancer_); }

Napi::Value BalancerObject::service_stats(Info info) {
  return from_usage(info.Env(), unwrap(info.Env(), balancer_->usage(info[0].As<Napi::String>().Utf8Value())));
}

Napi::Value BalancerObject::affinities(Info info) { return from_affinities(info.Env(), balancer_->affinities()); }
Napi::Value BalancerObject::connections(Info info) { return from_connections(info.Env(), balancer_->connections()); }
Napi::Value BalancerObject::maps(Info info) { return from_maps(info.Env(), balancer_->map_rows()); }
Napi::Value BalancerObject::problems(Info info) { return from_problems(info.Env(), balancer_->problems()); }
Napi::Value BalancerObject::owner(Info info) { return Napi::Number::New(info.Env(), balancer_->owner()); }

namespace {

// Calls a JavaScript function from any thread, until the environment or the last holder goes. Keeps no process alive.
class FailureChannel {
 public:
  static std::shared_ptr<FailureChannel> create(Napi::Env env, const Napi::Function& function) {
    auto channel = std::make_shared<FailureChannel>();
    // The finalizer runs when the environment ends, too; from then on the function is not touched.
    auto* held = new std::shared_ptr<FailureChannel>(channel);
    channel->function_ = Napi::ThreadSafeFunction::New(
        env, function, "ebpf-lb failures", 0, 1,
        [](Napi::Env, std::shared_ptr<FailureChannel>* h) {
          (*h)->end();
          delete h;
        },
        held);
    channel->function_.Unref(env);
    return channel;
  }

  void tell(const Error& error) {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    auto* told = new Error(error);
    const auto call = [](Napi::Env env, Napi::Function function, Error* e) {
      std::unique_ptr<Error> owned(e);
      if (env) function.Call({to_failure(env, *owned).Value()});
    };
    if (function_.NonBlockingCall(told, call) != napi_ok) delete told;
  }

  // Of the last one who tells.
  void release() {
    std::lock_guard lock(mutex_);
    if (ended_ || released_) return;
    released_ = true;
    function_.Release();
  }

 private:
  void end() {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }

  std::mutex mutex_;
  bool ended_ = false, released_ = false;
  Napi::ThreadSafeFunction function_;
};

}  // namespace

Napi::Value BalancerObject::on_failure(Info info) {
  // Whoever holds the callback last, which close() drops, lets go of the function.
  const std::shared_ptr<FailureChannel> channel(FailureChannel::create(info.Env(), info[0].As<Napi::Function>()));
  const std::shared_ptr<void> releases(nullptr, [channel](void*) { channel->release(); });
  balancer_->on_failure([channel, releases](const Error& error) { channel->tell(error); });
  return info.Env().Undefined();
}

Napi::Value BalancerObject::verify(Info info) {
  return Task<VerifyOutcome>::run(
      info.Env(),
      [b = balancer_]() -> Result<VerifyOutcome> {
        VerifyOutcome outcome;
        outcome.problems = b->check();
        for (const auto& attachment : b->attachments()) {
          if (attachment.kind != AttachmentKind::cgroup || attachment.state != "attached") continue;  // a problem already
          for (const char* hook : {"connect4", "connect6"}) {
            auto took = b->canary(attachment.id, hook);
            if (!took && (took.error().code == "ERR_READONLY" || took.error().code == "ERR_NOT_FOUND")) continue;
            outcome.canaries.push_back({hook, attachment.target, static_cast<bool>(took), took ? *took : 0});
            if (!took) outcome.problems.push_back({took.error().code, took.error().object, took.error().message, "attachCgroup() again; see bpftool cgroup tree"});
          }
        }
        return outcome;
      },
      from_verify);
}

Napi::Value BalancerObject::close(Info info) {
  return Task<Nothing>::run(info.Env(), [b = balancer_, detach = info[0].ToBoolean().Value()] { return b->close(detach); }, undefined);
}

}  // namespace lb::binding
