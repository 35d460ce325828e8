// SPDX-License-Identifier: Apache-2.0
#include "tc_filter.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "objects.h"
#include "stop_point.h"
#include "unique_fd.h"

namespace lb {
namespace {

constexpr uint32_t kFirstPriority = 0xc000;  // as the kernel begins, which goes downwards from here
constexpr uint32_t kLastPriority = 0xffff;
constexpr std::string_view kGates[] = {"lb_tc_ingress_g", "lb_tc_egress_ga"};  // the kernel keeps 15 characters

uint32_t parent_of(bool egress) { return TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS); }

bpf_tc_hook hook_of(int device, bool egress) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = device;
  hook.attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS;
  return hook;
}

// Attributes of a message or of another attribute.
template <typename Each>
void each_attribute(const void* first, int length, Each each) {
  for (auto* a = static_cast<const rtattr*>(first); RTA_OK(a, length); a = RTA_NEXT(a, length)) each(a->rta_type & NLA_TYPE_MASK, a);
}

void read_filter(const nlmsghdr* message, uint32_t parent, std::vector<TcFilterRow>& rows) {
  const auto* tc = static_cast<const tcmsg*>(NLMSG_DATA(message));
  if (tc->tcm_parent != parent) return;
  TcFilterRow row{{TC_H_MAJ(tc->tcm_info) >> 16, tc->tcm_handle}, 0};
  if (row.filter.handle == 0) return;  // the head of a priority, which comes before its filters
  each_attribute(TCA_RTA(tc), static_cast<int>(TCA_PAYLOAD(message)), [&](int type, const rtattr* a) {
    if (type != TCA_OPTIONS) return;
    each_attribute(RTA_DATA(a), static_cast<int>(RTA_PAYLOAD(a)), [&](int option, const rtattr* o) {
      if (option == TCA_BPF_ID && RTA_PAYLOAD(o) == sizeof row.program) std::memcpy(&row.program, RTA_DATA(o), sizeof row.program);
    });
  });
  rows.push_back(row);
}

Error failed(const std::string& what, int device, int err) {
  Error e = kernel_error("attach", what + " of device " + std::to_string(device), err);
  if (err == ENODEV) e.code = "ERR_NOT_FOUND";
  return e;
}

Result<TcFilter> attach_filter(int device, bool egress, int program, const TcFilter& filter, bool replace) {
  const bpf_tc_hook hook = hook_of(device, egress);
  LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = program, .flags = replace ? static_cast<__u32>(BPF_TC_F_REPLACE) : 0u, .handle = filter.handle, .priority = filter.priority);
  const int err = bpf_tc_attach(&hook, &opts);
  take_libbpf_log();
  if (err) return failed("tc filter", device, -err);
  return TcFilter{opts.priority, opts.handle};
}

// Each answer of a dump; false: there is no such thing to dump.
template <typename Each>
Result<bool> dump(int device, uint16_t type, uint32_t parent, Each each) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return failed("tc filters", device, errno);
  struct {
    nlmsghdr head;
    tcmsg tc;
  } request{};
  request.head.nlmsg_len = sizeof request;
  request.head.nlmsg_type = type;
  request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.tc.tcm_family = AF_UNSPEC;
  request.tc.tcm_ifindex = device;
  request.tc.tcm_parent = parent;
  if (send(fd.get(), &request, sizeof request, 0) < 0) return failed("tc filters", device, errno);
  std::vector<char> buffer(1 << 16);
  for (;;) {
    const ssize_t got = recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return failed("tc filters", device, got ? errno : EPIPE);
    auto left = static_cast<unsigned>(got);
    for (auto* m = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      if (m->nlmsg_type == NLMSG_DONE) return true;
      if (m->nlmsg_type == NLMSG_ERROR) {
        const int err = -static_cast<const nlmsgerr*>(NLMSG_DATA(m))->error;
        // No such qdisc: no filters.
        if (err == EINVAL || err == ENOENT || err == EOPNOTSUPP) return false;
        return failed("tc filters", device, err);
      }
      each(m);
    }
  }
}

}  // namespace

Result<std::vector<TcFilterRow>> list_filters(int device, bool egress) {
  std::vector<TcFilterRow> rows;
  const uint32_t parent = parent_of(egress);
  const auto done = dump(device, RTM_GETTFILTER, parent, [&](const nlmsghdr* m) {
    if (m->nlmsg_type == RTM_NEWTFILTER) read_filter(m, parent, rows);
  });
  if (!done) return done.error();
  return rows;
}

bool has_clsact(int device) {
  bool found = false;
  (void)dump(device, RTM_GETQDISC, 0, [&](const nlmsghdr* m) {
    const auto* tc = static_cast<const tcmsg*>(NLMSG_DATA(m));
    found = found || (m->nlmsg_type == RTM_NEWQDISC && tc->tcm_ifindex == device && tc->tcm_parent == TC_H_CLSACT);
  });
  return found;
}

Result<TcFilter> add_filter(int device, bool egress, int program, uint32_t handle, bool& had_qdisc) {
  bpf_tc_hook hook = hook_of(device, egress);
  const int err = bpf_tc_hook_create(&hook);
  take_libbpf_log();
  if (err && err != -EEXIST) return failed("clsact qdisc", device, -err);
  had_qdisc = err != 0;
  stop_point();
  auto rows = list_filters(device, egress);
  if (!rows) return rows.error();
  std::set<uint32_t> taken;
  for (const auto& r : *rows) taken.insert(r.filter.priority);
  uint32_t priority = std::max(kFirstPriority, taken.empty() ? 0 : *taken.rbegin() + 1);
  if (priority > kLastPriority)
    for (priority = kLastPriority; taken.count(priority);) priority--;
  return attach_filter(device, egress, program, {priority, handle}, false);
}

Status replace_filter(int device, bool egress, const TcFilter& filter, int program) {
  const auto replaced = attach_filter(device, egress, program, filter, true);
  if (!replaced) return replaced.error();
  return ok();
}

Status remove_filter(int device, bool egress, const TcFilter& filter) {
  const bpf_tc_hook hook = hook_of(device, egress);
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = filter.handle, .priority = filter.priority);
  const int err = bpf_tc_detach(&hook, &opts);
  take_libbpf_log();
  if (err && err != -ENOENT && err != -ENODEV && err != -EINVAL) return failed("tc filter", device, -err);
  return ok();
}

void remove_qdisc_if_unused(int device) {
  for (const bool egress : {false, true}) {
    const auto rows = list_filters(device, egress);
    if (!rows || !rows->empty()) return;
  }
  bpf_tc_hook hook = hook_of(device, false);
  hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
  bpf_tc_hook_destroy(&hook);
  take_libbpf_log();
}

namespace {

// Is the program a gate that leads nowhere any more? The kernel empties a map of programs when nobody holds it.
bool is_dead_gate(uint32_t program) {
  UniqueFd fd(bpf_prog_get_fd_by_id(program));
  if (!fd) return false;
  __u32 ids[4]{};
  bpf_prog_info info{};
  info.nr_map_ids = std::size(ids);
  info.map_ids = reinterpret_cast<__u64>(ids);
  __u32 length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) || std::find(std::begin(kGates), std::end(kGates), info.name) == std::end(kGates)) return false;
  for (__u32 i = 0; i < std::min<__u32>(info.nr_map_ids, std::size(ids)); i++) {
    UniqueFd map(bpf_map_get_fd_by_id(ids[i]));
    bpf_map_info about{};
    length = sizeof about;
    if (!map || bpf_obj_get_info_by_fd(map.get(), &about, &length) || about.type != BPF_MAP_TYPE_PROG_ARRAY) continue;
    for (__u32 key = 0, value; key < about.max_entries; key++)
      if (bpf_map_lookup_elem(map.get(), &key, &value) == 0) return false;
    return true;
  }
  return false;
}

}  // namespace

void remove_dead_gates(uint32_t handle_mask, uint32_t handle, uint32_t made_qdisc) {
  struct if_nameindex* all = if_nameindex();
  for (auto* i = all; i && i->if_index; i++) {
    const int device = static_cast<int>(i->if_index);
    bool owned = false;
    for (const bool egress : {false, true}) {
      const auto rows = list_filters(device, egress);
      if (!rows) continue;
      for (const auto& row : *rows) {
        if ((row.filter.handle & handle_mask) != handle || !is_dead_gate(row.program)) continue;
        (void)remove_filter(device, egress, row.filter);
        owned = owned || row.filter.handle & made_qdisc;
      }
    }
    if (owned) remove_qdisc_if_unused(device);
  }
  if (all) if_freenameindex(all);
}

bool program_uses(uint32_t program, const std::set<uint32_t>& maps) {
  if (!program) return false;
  UniqueFd fd(bpf_prog_get_fd_by_id(program));
  if (!fd) return false;
  std::vector<__u32> ids(128);
  bpf_prog_info info{};
  info.nr_map_ids = static_cast<__u32>(ids.size());
  info.map_ids = reinterpret_cast<__u64>(ids.data());
  __u32 length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length)) return false;
  ids.resize(std::min<size_t>(ids.size(), info.nr_map_ids));
  return std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return maps.count(id) != 0; });
}

}  // namespace lb
