// SPDX-License-Identifier: Apache-2.0
// tc programs where the kernel has no tcx (before 6.6): filters in direct-action mode on the clsact qdisc of a device. Everything here works on the
// network namespace of the calling thread. Nobody else's filter is ever touched: ours are told by the maps of their program.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "result.h"

namespace lb {

struct TcFilter {
  uint32_t priority = 0, handle = 0;
};

struct TcFilterRow {
  TcFilter filter;
  uint32_t program = 0;  // id; 0: no program
};

// All filters of a device in one direction.
Result<std::vector<TcFilterRow>> list_filters(int device, bool egress);
bool has_clsact(int device);
// Behind all that are there, on a clsact that is made if there is none. `had_qdisc`: there is one that somebody else made.
Result<TcFilter> add_filter(int device, bool egress, int program, uint32_t handle, bool& had_qdisc);
// Another program in the place of the one that runs, in one exchange.
Status replace_filter(int device, bool egress, const TcFilter& filter, int program);
Status remove_filter(int device, bool egress, const TcFilter& filter);
// Takes the qdisc away, unless somebody has a filter on it.
void remove_qdisc_if_unused(int device);
// Takes away the filters of gates (tc_lb.bpf.c) whose process is gone: their handles are `handle` under the mask, and those with `made_qdisc` came with a clsact.
void remove_dead_gates(uint32_t handle_mask, uint32_t handle, uint32_t made_qdisc);
// Does the program use one of these maps?
bool program_uses(uint32_t program, const std::set<uint32_t>& maps);

}  // namespace lb
