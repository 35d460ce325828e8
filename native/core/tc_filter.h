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
// Behind all that are there. `made_qdisc`: there was no clsact, now there is.
Result<TcFilter> add_filter(int device, bool egress, int program, uint32_t handle, bool& made_qdisc);
// Another program in the place of the one that runs, in one exchange.
Status replace_filter(int device, bool egress, const TcFilter& filter, int program);
Status remove_filter(int device, bool egress, const TcFilter& filter);
// Takes the qdisc away, unless somebody has a filter on it.
void remove_qdisc_if_unused(int device);
// Does the program use one of these maps?
bool program_uses(uint32_t program, const std::set<uint32_t>& maps);

}  // namespace lb
