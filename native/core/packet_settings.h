// SPDX-License-Identifier: Apache-2.0
// What the packet programs know of the node and of how to forward: lb_node. Kept by the caller (settings record); here only what the map says.
#pragma once

#include "model.h"

namespace lb {

struct PacketSettings {
  Address address4, address6;  // family 0: none
  uint16_t snat_low = 10000, snat_high = 29999;
  uint32_t idle_tcp = 8000, idle_udp = 60;
  uint32_t flags = 0;  // enum lb_node_flag
  uint16_t dsr = 0, dispatch = 0;  // enum lb_dsr_flag, enum lb_dispatch
  std::vector<Range> peers, pods, masquerade, masquerade_exclude;
  std::vector<Range> services;  // whose addresses are services' alone: of socket hooks, too
};

}  // namespace lb
