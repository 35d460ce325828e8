// SPDX-License-Identifier: Apache-2.0
// The compiled BPF objects inside the addon, and loading them with the settings and maps of one balancer.
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "result.h"

namespace lb {

// legacy: for kernels before 5.12, which refuse atomic instructions that fetch, even in dead code.
enum class Variant { current, legacy };

// What this kernel can do, found out by loading (once for each process).
struct KernelAbilities {
  Variant variant;
  bool set_retval;    // bpf_set_retval in sock_addr programs, 6.1
  bool cast_context;  // bpf_cast_to_kern_ctx in sock_addr programs
  bool destroy;       // bpf_sock_destroy in iter/udp, 6.5
  bool tcx;           // links of tc programs, 6.6
};

// Attach types that <linux/bpf.h> may be too old to know.
inline constexpr bpf_attach_type kTcxIngress = static_cast<bpf_attach_type>(46), kTcxEgress = static_cast<bpf_attach_type>(47);
const KernelAbilities& kernel_abilities();

// name: of the file in bpf/, without .bpf.c
std::span<const std::byte> embedded_object(std::string_view name, Variant variant);

class Object {
 public:
  static Result<Object> open(std::string_view name, Variant variant = kernel_abilities().variant);

  // Before load(). A name that the object has not is ignored: a compiler may have dropped it.
  void set_config(const char* variable, uint64_t value);
  // `operation`, `object`: of the error.
  Status load(const std::string& operation, const std::string& object);

  bpf_object* get() const { return object_.get(); }
  bpf_program* program(const char* name) const { return bpf_object__find_program_by_name(object_.get(), name); }
  bpf_map* map(const char* name) const { return bpf_object__find_map_by_name(object_.get(), name); }

 private:
  struct Close {
    void operator()(bpf_object* o) const { bpf_object__close(o); }
  };
  explicit Object(bpf_object* object) : object_(object) {}
  std::unique_ptr<bpf_object, Close> object_;
};

// The end of what libbpf said on this thread since the last call: the verifier's reason.
std::string take_libbpf_log();

}  // namespace lb
