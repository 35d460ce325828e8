// SPDX-License-Identifier: Apache-2.0
// The cookie of a network namespace: from a socket of it (SO_NETNS_COOKIE, 5.14), before that from a program that sees one being made.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attachment.h"
#include "netns.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace lb {
namespace {

constexpr bpf_insn insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  return bpf_insn{code, static_cast<uint8_t>(dst & 0xf), static_cast<uint8_t>(src & 0xf), off, imm};
}

// cgroup/sock_create: *cookie = bpf_get_netns_cookie(ctx)
UniqueFd load_teller(int map) {
  const bpf_insn program[] = {
      insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_netns_cookie),
      insn(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_VALUE, 0, map),
      insn(0, 0, 0, 0, 0),
      insn(BPF_STX | BPF_MEM | BPF_DW, 1, 0, 0, 0),
      insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),
      insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_CGROUP_INET_SOCK_CREATE);
  return UniqueFd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK, "lb_netns_cookie", "Dual BSD/GPL", program, std::size(program), &opts));
}

Result<uint64_t> cookie_by_program(int netns_fd) {
  const auto root = cgroup_root();
  if (!root) return root.error();
  const std::string cgroup = *root + "/ebpf-lb-cookie-" + std::to_string(gettid());
  LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
  UniqueFd map(bpf_map_create(BPF_MAP_TYPE_ARRAY, "lb_cookie", 4, 8, 1, &opts));
  UniqueFd program = map ? load_teller(map.get()) : UniqueFd();
  if (!program) return kernel_error("netns cookie", "program", errno);
  if (mkdir(cgroup.c_str(), 0700)) return kernel_error("netns cookie", cgroup, errno);
  auto ask = [&]() -> Result<uint64_t> {
    UniqueFd directory(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    UniqueFd procs(open((cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    UniqueFd link(bpf_link_create(program.get(), directory.get(), BPF_CGROUP_INET_SOCK_CREATE, nullptr));
    if (!link || !procs) return kernel_error("netns cookie", cgroup, errno);
    const pid_t child = fork();
    if (child < 0) return kernel_error("netns cookie", "fork", errno);
    // System calls only, up to _exit.
    if (child == 0) _exit(write(procs.get(), "0", 1) == 1 && setns(netns_fd, CLONE_NEWNET) == 0 && socket(AF_INET, SOCK_DGRAM, 0) >= 0 ? 0 : 1);
    int status = 0;
    waitpid(child, &status, 0);
    const uint32_t zero = 0;
    uint64_t cookie = 0;
    if (status || bpf_map_lookup_elem(map.get(), &zero, &cookie) || !cookie) return make_error("ERR_KERNEL", "netns cookie", cgroup, "no socket could be made in the namespace");
    return cookie;
  };
  auto answer = ask();
  rmdir(cgroup.c_str());
  return answer;
}

}  // namespace

Result<uint64_t> netns_cookie(int netns_fd) {
  uint64_t cookie = 0;
  bool unknown_option = false;
  const Status entered = in_netns(netns_fd, [&]() -> Status {
    UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd) return kernel_error("socket", "network namespace", errno);
    socklen_t length = sizeof cookie;
    if (getsockopt(socket_fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) == 0) return ok();
    unknown_option = errno == ENOPROTOOPT;
    return kernel_error("SO_NETNS_COOKIE", "socket", errno);
  });
  if (unknown_option) return cookie_by_program(netns_fd);
  if (!entered) return entered.error();
  return cookie;
}

}  // namespace lb
