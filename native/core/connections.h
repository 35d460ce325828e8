// SPDX-License-Identifier: Apache-2.0
// The table of connections, read from mapped memory beside the programs that write it.
#pragma once

#include "maps.h"

namespace lb {

// First way of a set that is one: before kernel 5.12 the first word is a lock.
uint32_t first_flow_way();
// Whose the ways of a set are. Before 5.12 there is a lock in each set, and then the kernel maps none of them into memory.
bool read_owners(const Maps& maps, uint32_t set, lb_owners& out);
// Reads an entry between two looks at its owner. `before`: of the way's set. False: nobody has the way, or it changes hands all the time.
bool read_connection(const Maps& maps, uint32_t set, uint32_t way, lb_owners before, lb_connection& out);
// For how many seconds it may be silent.
uint32_t idle_allowed(const lb_node& node, const lb_connection& c);

}  // namespace lb
