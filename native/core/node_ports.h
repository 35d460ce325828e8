// SPDX-License-Identifier: Apache-2.0
// Node ports against the node's other sockets (DATAPATH 15): bind(0) and automatic binds never run a hook, so ports that overlap the local range are
// kept from them by ip_local_reserved_ports; ports that were bound before are told.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model.h"
#include "result.h"

namespace lb {

using PortSet = std::set<uint16_t>;

// "1,5-9", as the kernel writes and reads it.
std::string format_ports(const PortSet& ports);
PortSet parse_ports(const std::string& text);

// Of `ports`, those that automatic binds of the namespace could take: in ip_local_port_range and not reserved.
Result<PortSet> unreserved_ports(int netns, const PortSet& ports);
// ip_local_reserved_ports becomes (as it is) - remove + add.
Status reserve_ports(int netns, const PortSet& add, const PortSet& remove);

struct BoundPort {
  bool tcp;
  Address address;
  uint16_t port;
};
// Ports on which TCP listens or UDP is bound without a peer in the namespace.
Result<std::vector<BoundPort>> bound_ports(int netns);

}  // namespace lb
