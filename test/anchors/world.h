// SPDX-License-Identifier: Apache-2.0
// The real balancer and the real programs, in a network namespace of their own, with a clock that the test moves: what is remembered with a
// time is made older instead, in the maps and in the balancer alike. The balancer's own thread does not run; the test calls what it would.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../../native/core/balancer.h"

namespace model {

struct Endpoint {
  uint8_t family;
  std::array<uint8_t, 16> address;  // IPv4: the first four
  uint16_t port;
  auto operator<=>(const Endpoint&) const = default;
};
Endpoint at(uint8_t family, uint32_t number, uint16_t port);  // 10.0.0.0 + number, fd00:: + number

enum class State { active, weightless, terminating, maintenance };
struct Member {
  uint32_t number;  // of its address
  State state;
  uint32_t weight;
};
struct Setup {
  std::vector<Member> members;
  uint8_t algorithm;
  bool affinity;
  std::string text() const;
  static Setup parse(const std::string& text);
};

struct Settings {
  uint32_t connections;  // capacity
  uint32_t idle_tcp, idle_udp;
  bool pinned;
};

enum class Outcome { sent, dropped, refused };
struct Sent {
  Outcome outcome;
  uint32_t member;  // sent: to which
  std::string why;  // dropped: the verdict
};

class World {
 public:
  explicit World(const Settings& settings);
  ~World();
  void commit(const Setup& setup);
  // A packet of a client to the service. flags: of TCP.
  Sent packet(uint8_t family, uint8_t protocol, uint32_t client, uint16_t port, uint8_t flags, bool driver);
  void pass(uint32_t seconds);
  void tend();
  void restart();
  // A child commits, and is killed at its n-th write. Returns what the service is then.
  Setup kill(const Setup& setup, int writes);
  std::vector<std::string> problems();
  uint32_t since_refused() const;  // seconds; UINT32_MAX: never
  uint32_t entries() const;
  uint32_t bits() const;  // cells that have theirs
  uint32_t lingering() const;
  // What cells and entries say of a flow, for people.
  std::string describe(uint8_t family, uint8_t protocol, uint32_t client, uint16_t port) const;

 private:
  void open();
  Settings settings_;
  std::string pin_;
  std::unique_ptr<lb::Balancer> balancer_;
  std::vector<lb::Object> objects_;
  int tc_ = -1, xdp_ = -1, device_ = 0;
};

// What the child of kill() does.
int child(const std::string& pin, const std::string& setup);

[[noreturn]] void fail(const std::string& what);
void prepare_namespace();

}  // namespace model
