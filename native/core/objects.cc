// SPDX-License-Identifier: Apache-2.0
#include "objects.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <mutex>
#include <vector>

#include "decide_current.skel.h"
#include "decide_legacy.skel.h"
#include "destroy_current.skel.h"
#include "destroy_legacy.skel.h"
#include "socket_lb_current.skel.h"
#include "socket_lb_legacy.skel.h"
#include "sweep_current.skel.h"
#include "sweep_legacy.skel.h"
#include "tc_lb_current.skel.h"
#include "tc_lb_legacy.skel.h"
#include "unique_fd.h"
#include "xdp_lb_current.skel.h"
#include "xdp_lb_legacy.skel.h"

namespace lb {
namespace {

constexpr size_t kLogKept = 4096;
thread_local std::string log_tail;

int keep_log(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG) return 0;
  char line[2048];
  vsnprintf(line, sizeof line, format, args);
  log_tail += line;
  if (log_tail.size() > 2 * kLogKept) log_tail.erase(0, log_tail.size() - kLogKept);
  return 0;
}

// ALU/JMP/ST instructions as the kernel's own samples write them.
constexpr bpf_insn insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  return bpf_insn{code, static_cast<uint8_t>(dst & 0xf), static_cast<uint8_t>(src & 0xf), off, imm};
}

bool loads(bpf_prog_type type, bpf_attach_type attach, const std::vector<bpf_insn>& insns) {
  LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = attach);
  UniqueFd fd(bpf_prog_load(type, "lb_probe", "Dual BSD/GPL", insns.data(), insns.size(), &opts));
  return static_cast<bool>(fd);
}

bool has_fetch() {
  return loads(BPF_PROG_TYPE_SOCKET_FILTER, bpf_attach_type{},
               {insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),            //
                insn(BPF_STX | BPF_MEM | BPF_DW, 10, 0, -8, 0),           //
                insn(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 0, -8, BPF_ADD | BPF_FETCH),
                insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
}

bool has_set_retval() {
  return loads(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT,
               {insn(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, -ECONNREFUSED),  //
                insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_set_retval),
                insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),  //
                insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
}

// A link of tcx to a device that cannot be: kernels that know tcx look for the device first.
bool has_tcx() {
#if LB_STOP_POINTS
  if (getenv("EBPF_LB_NO_TCX")) return false;
#endif
  const bpf_insn insns[] = {insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "lb_probe", "Dual BSD/GPL", insns, std::size(insns), nullptr));
  if (!program) return false;
  UniqueFd link(bpf_link_create(program.get(), INT32_MAX, kTcxIngress, nullptr));
  return !link && errno == ENODEV;
}

// Loads one program of an object, with nothing attached, to see whether the kernel takes it.
bool program_loads(std::string_view name, Variant variant, const char* wanted, const char* setting) {
  auto object = Object::open(name, variant);
  if (!object) return false;
  bpf_program* p;
  bpf_object__for_each_program(p, object->get()) bpf_program__set_autoload(p, std::string_view(bpf_program__name(p)) == wanted);
  bpf_map* m;
  bpf_object__for_each_map(m, object->get())
    if (bpf_map__max_entries(m) > 64) bpf_map__set_max_entries(m, 64);
  if (setting) object->set_config(setting, 1);
  return bpf_object__load(object->get()) == 0;
}

}  // namespace

std::span<const std::byte> embedded_object(std::string_view name, Variant variant) {
  const bool legacy = variant == Variant::legacy;
  size_t size = 0;
  const void* bytes = nullptr;
  if (name == "decide") bytes = legacy ? decide_legacy__elf_bytes(&size) : decide_current__elf_bytes(&size);
  if (name == "socket_lb") bytes = legacy ? socket_lb_legacy__elf_bytes(&size) : socket_lb_current__elf_bytes(&size);
  if (name == "sweep") bytes = legacy ? sweep_legacy__elf_bytes(&size) : sweep_current__elf_bytes(&size);
  if (name == "destroy") bytes = legacy ? destroy_legacy__elf_bytes(&size) : destroy_current__elf_bytes(&size);
  if (name == "tc_lb") bytes = legacy ? tc_lb_legacy__elf_bytes(&size) : tc_lb_current__elf_bytes(&size);
  if (name == "xdp_lb") bytes = legacy ? xdp_lb_legacy__elf_bytes(&size) : xdp_lb_current__elf_bytes(&size);
  return {static_cast<const std::byte*>(bytes), size};
}

const KernelAbilities& kernel_abilities() {
  static const KernelAbilities abilities = [] {
    libbpf_set_print(keep_log);
    libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
    KernelAbilities a{};
    a.variant = has_fetch() ? Variant::current : Variant::legacy;
    a.set_retval = has_set_retval();
    a.cast_context = a.variant == Variant::current && program_loads("socket_lb", a.variant, "lb_connect4", "lb_can_cast");
    a.destroy = a.variant == Variant::current && program_loads("destroy", a.variant, "lb_destroy", nullptr);
    a.tcx = has_tcx();
    take_libbpf_log();
    return a;
  }();
  return abilities;
}

Result<Object> Object::open(std::string_view name, Variant variant) {
  const auto bytes = embedded_object(name, variant);
  const std::string label(name);
  LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = label.c_str());
  bpf_object* object = bpf_object__open_mem(bytes.data(), bytes.size(), &opts);
  if (!object) return kernel_error("open", "object " + label, errno, take_libbpf_log());
  return Object(object);
}

void Object::set_config(const char* variable, uint64_t value) {
  const btf* types = bpf_object__btf(get());
  const int section = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
  if (section < 0) return;
  const btf_type* t = btf__type_by_id(types, section);
  const btf_var_secinfo* info = btf_var_secinfos(t);
  for (int i = 0; i < btf_vlen(t); i++, info++) {
    if (std::string_view(btf__name_by_offset(types, btf__type_by_id(types, info->type)->name_off)) != variable) continue;
    bpf_map* m;
    bpf_object__for_each_map(m, get()) {
      const std::string_view map_name = bpf_map__name(m);
      if (map_name.size() < 7 || map_name.substr(map_name.size() - 7) != ".rodata") continue;
      size_t size = 0;
      auto* data = static_cast<char*>(const_cast<void*>(bpf_map__initial_value(m, &size)));
      if (data && info->offset + info->size <= size) std::memcpy(data + info->offset, &value, std::min<size_t>(info->size, sizeof value));
    }
  }
}

Status Object::load(const std::string& operation, const std::string& object) {
  take_libbpf_log();
  const int err = bpf_object__load(get());
  if (err == 0) return ok();
  const std::string log = take_libbpf_log();
  // The verifier says EACCES or EPERM too, but not without a word of its own.
  const bool verifier = log.find("BEGIN PROG LOAD LOG") != std::string::npos;
  Error e = kernel_error(operation, object, -err, verifier ? "the kernel refused to load a program; details.log has its reason" : "");
  if (verifier) e.code = "ERR_KERNEL";
  e.details["program"] = std::string(bpf_object__name(get()));
  e.details["log"] = log;
  return e;
}

std::string take_libbpf_log() {
  std::string taken;
  taken.swap(log_tail);
  if (taken.size() > kLogKept) taken.erase(0, taken.size() - kLogKept);
  return taken;
}

}  // namespace lb
