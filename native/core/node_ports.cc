// SPDX-License-Identifier: Apache-2.0
#include "node_ports.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "netns.h"

namespace lb {
namespace {

constexpr char kReserved[] = "/proc/sys/net/ipv4/ip_local_reserved_ports";
constexpr char kRange[] = "/proc/sys/net/ipv4/ip_local_port_range";
constexpr unsigned kListening = 0x0a, kClosed = 0x07;  // states of /proc/net/tcp and /proc/net/udp

Result<std::string> read_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  if (!file) return kernel_error("read", path, errno);
  std::getline(file, line);
  return line;
}

// Addresses are printed as words of memory, so they come back as such.
void bound_in(const char* path, bool tcp, bool v6, std::vector<BoundPort>& found) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);  // headings
  while (std::getline(file, line)) {
    BoundPort bound{tcp, {}, 0};
    bound.address.family = v6 ? LB_IPV6 : LB_IPV4;
    uint32_t* w = bound.address.words;
    unsigned port, state;
    const int got = v6 ? sscanf(line.c_str(), " %*d: %8x%8x%8x%8x:%x %*[0-9A-Fa-f]:%*x %x", w, w + 1, w + 2, w + 3, &port, &state)
                       : sscanf(line.c_str(), " %*d: %8x:%x %*[0-9A-Fa-f]:%*x %x", w, &port, &state);
    if (got != (v6 ? 6 : 3) || state != (tcp ? kListening : kClosed)) continue;
    bound.port = static_cast<uint16_t>(port);
    found.push_back(bound);
  }
}

}  // namespace

std::string format_ports(const PortSet& ports) {
  std::string text;
  for (auto it = ports.begin(); it != ports.end();) {
    const uint16_t first = *it;
    uint16_t last = first;
    while (++it != ports.end() && *it == last + 1) last = *it;
    if (!text.empty()) text += ",";
    text += std::to_string(first);
    if (last != first) text += "-" + std::to_string(last);
  }
  return text;
}

PortSet parse_ports(const std::string& text) {
  PortSet ports;
  std::istringstream ranges(text);
  std::string range;
  while (std::getline(ranges, range, ',')) {
    unsigned first = 0, last = 0;
    const int got = sscanf(range.c_str(), "%u-%u", &first, &last);
    if (got < 1) continue;
    for (unsigned port = first; port <= (got == 2 ? last : first) && port < 65536; port++) ports.insert(static_cast<uint16_t>(port));
  }
  return ports;
}

Result<PortSet> unreserved_ports(int netns, const PortSet& ports) {
  PortSet open;
  const Status read = in_netns(netns, [&]() -> Status {
    const auto range = read_line(kRange), reserved = read_line(kReserved);
    if (!range) return range.error();
    if (!reserved) return reserved.error();
    unsigned first = 0, last = 0;
    sscanf(range->c_str(), "%u %u", &first, &last);
    const PortSet kept = parse_ports(*reserved);
    for (const uint16_t port : ports)
      if (port >= first && port <= last && !kept.count(port)) open.insert(port);
    return ok();
  });
  if (!read) return read.error();
  return open;
}

Status reserve_ports(int netns, const PortSet& add, const PortSet& remove) {
  return in_netns(netns, [&]() -> Status {
    const auto now = read_line(kReserved);
    if (!now) return now.error();
    PortSet ports = parse_ports(*now);
    for (const uint16_t port : remove) ports.erase(port);
    ports.insert(add.begin(), add.end());
    const std::string text = format_ports(ports) + "\n";
    FILE* file = fopen(kReserved, "we");
    if (!file) return kernel_error("write", kReserved, errno);
    const bool written = fwrite(text.data(), 1, text.size(), file) == text.size();
    if (fclose(file) || !written) return kernel_error("write", kReserved, errno);
    return ok();
  });
}

Result<std::vector<BoundPort>> bound_ports(int netns) {
  std::vector<BoundPort> found;
  const Status read = in_netns(netns, [&]() -> Status {
    bound_in("/proc/thread-self/net/tcp", true, false, found);
    bound_in("/proc/thread-self/net/tcp6", true, true, found);
    bound_in("/proc/thread-self/net/udp", false, false, found);
    bound_in("/proc/thread-self/net/udp6", false, true, found);
    return ok();
  });
  if (!read) return read.error();
  return found;
}

}  // namespace lb
