// SPDX-License-Identifier: Apache-2.0
// The addon's exports: NativeModule of lib/native/binding.ts.
#include <napi.h>

#include "async.h"
#include "balancer_object.h"
#include "core/attachment.h"
#include "core/probe.h"

namespace lb::binding {
namespace {

Napi::Value open(const Napi::CallbackInfo& info) {
  using Shared = std::shared_ptr<Balancer>;
  return Task<Shared>::run(
      info.Env(),
      [options = to_open_options(info[0].As<Napi::Object>())]() -> Result<Shared> {
        auto balancer = Balancer::open(options);
        if (!balancer) return balancer.error();
        return Shared(std::move(*balancer));
      },
      [](Napi::Env env, Shared& balancer) { return BalancerObject::wrap(env, balancer); });
}

Napi::Value probe(const Napi::CallbackInfo& info) { return from_probe(info.Env(), probe_kernel()); }

Napi::Value find_cgroup_root(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), unwrap(info.Env(), cgroup_root())); }

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Napi::FunctionReference(Napi::Persistent(BalancerObject::define(env))));
  exports.Set("open", Napi::Function::New(env, open));
  exports.Set("probe", Napi::Function::New(env, probe));
  exports.Set("cgroupRoot", Napi::Function::New(env, find_cgroup_root));
  return exports;
}

}  // namespace
}  // namespace lb::binding

static Napi::Object lb_init(Napi::Env env, Napi::Object exports) { return lb::binding::init(env, exports); }
NODE_API_MODULE(ebpf_lb, lb_init)
