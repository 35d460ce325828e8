// SPDX-License-Identifier: Apache-2.0
#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "attachment.h"
#include "indices.h"
#include "netns.h"
#include "objects.h"
#include "unique_fd.h"

namespace lb {
namespace {

// libbpf: 1 yes, 0 no, negative: could not tell.
std::string three(int answer) { return answer > 0 ? "supported" : answer == 0 ? "unsupported" : "unknown"; }

}  // namespace

Probe probe_kernel() {
  Probe probe;
  utsname name;
  uname(&name);
  probe.kernel = name.release;
  const bool allowed = geteuid() == 0;
  const auto test = [&](bool works) { return allowed ? works ? "supported" : "unsupported" : "unknown"; };
  auto add = [&](const char* feature, const std::string& support, const char* kernel, const char* needed, const char* fallback = "") {
    probe.features.push_back({feature, support, kernel, needed, fallback});
    if (support == "unsupported" && !*fallback) probe.missing.push_back(std::string(feature) + ": " + needed + " (kernel " + kernel + ")");
  };
  const KernelAbilities abilities = allowed ? kernel_abilities() : KernelAbilities{};
  add("cgroup-sock-addr", allowed ? three(libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, nullptr)) : "unknown", "5.10", "translation at connect(), sendmsg() and recvmsg()");
  add("socket-storage", allowed ? three(libbpf_probe_bpf_map_type(BPF_MAP_TYPE_SK_STORAGE, nullptr)) : "unknown", "5.10", "remembering what a socket was connected to");
  add("map-in-map", allowed ? three(libbpf_probe_bpf_map_type(BPF_MAP_TYPE_ARRAY_OF_MAPS, nullptr)) : "unknown", "4.12", "grace periods");
  add("btf", test(access("/sys/kernel/btf/vmlinux", R_OK) == 0), "5.4", "finding sockets of removed backends");
  add("cgroup-v2", test(static_cast<bool>(cgroup_root())), "4.15", "attachCgroup");
  add("atomic-fetch", test(abilities.variant == Variant::current), "5.12", "one round-robin position for all CPUs", "a position for each CPU");
  add("set-retval", test(abilities.set_retval), "6.1", "ECONNREFUSED and EHOSTUNREACH for refused connects", "both are EPERM");
  add("inline-cookie", test(abilities.cast_context), "6.12", "the cheapest record of a TCP socket", "bpf_get_socket_cookie");
  add("sock-destroy", test(abilities.destroy), "6.5", "destroying UDP sockets of removed backends", "SOCK_DIAG destroy");
  add("tcx", test(abilities.tcx), "6.6", "links of tc programs, which go with the process", "clsact filters");
  // The option itself: netns_cookie() would fall back.
  UniqueFd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  uint64_t cookie;
  socklen_t length = sizeof cookie;
  const bool option = any && getsockopt(any.get(), SOL_SOCKET, 71 /* SO_NETNS_COOKIE */, &cookie, &length) == 0;
  add("netns-cookie", option ? "supported" : "unsupported", "5.14", "explain and attachments for chosen namespaces", "a program in a throw-away cgroup");
  probe.usable = true;
  for (const auto& f : probe.features)
    if (f.support == "unsupported" && f.fallback.empty()) probe.usable = false;
  if (!allowed) {
    probe.usable = false;
    probe.missing.push_back("privileges: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN");
  }
  return probe;
}

}  // namespace lb
