// SPDX-License-Identifier: Apache-2.0
// Random histories of a service whose flows need no memory where its table has not changed (DATAPATH 17 to 24), against a model that knows
// only what is promised:  model HISTORIES STEPS SEED [VERBOSE]
//   - a flow that was never silent for the idle time goes to one backend, as long as that serves existing flows: TCP as long as it is, even
//   when it is
//     removed; datagrams as long as their connected sockets may stay;
//   - a new flow goes to a backend that takes new ones; one of datagrams, which cannot tell that it is new, for one idle time after a
//   change or after
//     the table was full, to one that serves existing ones;
//   - nothing is dropped but flows that are new when the table is full, or nobody takes them;
//   - in the end, when all flows are over, no cell has its bit and no removed backend lingers.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>

#include "world.h"

namespace model {
namespace {

constexpr uint32_t kIdleTcp = 120, kIdleUdp = 30;
constexpr uint32_t kSynIdle = 10;  // for which what saw nothing but a SYN is remembered
constexpr uint32_t kRounding = 2;  // seconds begin in between
constexpr uint32_t kMembers = 14, kClients = 30, kFlows = 400;

struct Flow {
  uint8_t family, protocol;
  uint32_t client;
  uint16_t port;
  uint32_t member, last;
  bool opened;    // TCP: more than a SYN
  bool promised;  // its backend has been serving it all the time
};

struct Totals {
  uint64_t packets, flows, commits, restarts, kills, dropped, checked, moved, forgotten, entries;
} totals;

bool verbose;

class History {
 public:
  History(uint64_t seed, Settings settings)
      : seed_(seed), random_(seed), settings_(settings), world_(settings), setup_{{}, LB_MAGLEV, false} {
    change();
  }

  void run(int steps) {
    for (step_ = 0; step_ < steps; step_++) {
      const uint32_t dice = below(1000);
      if (dice < 640)
        proceed();
      else if (dice < 850)
        begin();
      else if (dice < 880)
        end();
      else if (dice < 930)
        pass();
      else if (dice < 985)
        change();
      else if (dice < 996)
        world_.tend();
      else if (settings_.pinned)
        restart();
    }
    finish();
  }

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  uint32_t between(uint32_t low, uint32_t high) { return low + below(high - low + 1); }

  const Member* member(uint32_t number) const {
    const auto it = std::find_if(setup_.members.begin(), setup_.members.end(), [&](const Member& m) { return m.number == number; });
    return it == setup_.members.end() ? nullptr : &*it;
  }
  bool any_active() const {
    return std::any_of(setup_.members.begin(), setup_.members.end(), [](const Member& m) { return m.state == State::active; });
  }
  bool takes_new(uint32_t number) const {
    const Member* m = member(number);
    return m && (m->state == State::active || (m->state == State::terminating && !any_active()));
  }
  bool serves(const Flow& f) const {
    if (f.protocol == IPPROTO_TCP) return true;
    const Member* m = member(f.member);
    return m && m->state != State::maintenance;
  }
  bool any_candidate() const {
    return any_active() ||
           std::any_of(setup_.members.begin(), setup_.members.end(), [](const Member& m) { return m.state == State::terminating; });
  }

  [[noreturn]] void wrong(const Flow& f, const std::string& what) {
    printf(
        "{\"seed\":%llu,\"step\":%d,\"now\":%u,\"wrong\":\"%s\",\"protocol\":%d,\"family\":%d,\"client\":%u,\"port\":%u,\"member\":%u,"
        "\"idle\":%u,\"setup\":\"%s\"}\n",
        static_cast<unsigned long long>(seed_), step_, now_, what.c_str(), f.protocol, f.family, f.client, f.port, f.member, now_ - f.last,
        setup_.text().c_str());
    exit(1);
  }

  Sent send(const Flow& f, uint8_t flags) {
    totals.packets++;
    if (verbose) printf("%d %u:%u%s\n", step_, f.client, f.port, world_.describe(f.family, f.protocol, f.client, f.port).c_str());
    const Sent sent = world_.packet(f.family, f.protocol, f.client, f.port, flags, below(2));
    if (verbose)
      printf("%d now %u family %d protocol %d %u:%u flags %x -> %d member %u\n", step_, now_, f.family, f.protocol, f.client, f.port, flags,
             static_cast<int>(sent.outcome), sent.member);
    return sent;
  }

  void begin() {
    if (flows_.size() >= kFlows) end();
    Flow f{static_cast<uint8_t>(below(2) ? LB_IPV4 : LB_IPV6),
           static_cast<uint8_t>(below(3) ? IPPROTO_TCP : IPPROTO_UDP),
           below(kClients),
           0,
           0,
           now_,
           false,
           true};
    // Ports of connections are used again, those of datagrams are not.
    f.port = static_cast<uint16_t>(f.protocol == IPPROTO_TCP ? 1024 + below(300) : ++datagram_port_);
    if (std::any_of(flows_.begin(), flows_.end(), [&](const Flow& o) { return same(o, f); })) return;
    totals.flows++;
    const Sent sent = send(f, TH_SYN);
    switch (sent.outcome) {
      case Outcome::refused:
        if (any_candidate()) wrong(f, "a new flow is refused");
        return;
      case Outcome::dropped:
        totals.dropped++;
        // Answers have a limit of their own.
        if (any_candidate() && world_.since_refused() > kRounding && !is_unremembering())
          wrong(f, "a new flow is dropped (" + sent.why + ") while there is room");
        return;
      case Outcome::sent:
        break;
    }
    f.member = sent.member;
    const bool draining = f.protocol == IPPROTO_UDP && serves(f) &&
                          (now_ - changed_ <= kIdleUdp + kRounding || world_.since_refused() <= kIdleUdp + kRounding);
    if (!takes_new(f.member) && !draining) wrong(f, "a new flow goes to a backend that takes none");
    flows_.push_back(f);
    if (below(4)) packet(flows_.back());
  }

  // Services with affinity or a random choice forget nothing, and have no word that tells of it.
  bool is_unremembering() const { return setup_.affinity || setup_.algorithm == LB_RANDOM; }
  static bool same(const Flow& a, const Flow& b) {
    return a.family == b.family && a.protocol == b.protocol && a.client == b.client && a.port == b.port;
  }

  void proceed() {
    if (!flows_.empty()) packet(flows_[below(static_cast<uint32_t>(flows_.size()))]);
  }

  void packet(Flow& f) {
    const uint32_t idle = now_ - f.last, promise = f.protocol == IPPROTO_UDP ? kIdleUdp : f.opened ? kIdleTcp : kSynIdle;
    const bool checked = idle + kRounding <= promise && f.promised;
    const Sent sent = send(f, TH_ACK);
    if (checked) {
      totals.checked++;
      if (sent.outcome != Outcome::sent) wrong(f, "a flow is cut off (" + sent.why + ")");
      if (sent.member != f.member) wrong(f, "a flow goes to " + std::to_string(sent.member));
    }
    if (sent.outcome != Outcome::sent) {
      f.promised = false;
      return;
    }
    totals.moved += f.member != sent.member;
    totals.forgotten += !checked;
    f.member = sent.member;
    f.last = now_;
    f.opened = true;
    f.promised = serves(f);
  }

  // The client ends it, or is not heard of again.
  void end() {
    if (flows_.empty()) return;
    const size_t i = below(static_cast<uint32_t>(flows_.size()));
    if (flows_[i].protocol == IPPROTO_TCP && below(2)) send(flows_[i], below(2) ? TH_RST : TH_FIN | TH_ACK);
    flows_.erase(flows_.begin() + static_cast<ptrdiff_t>(i));
  }

  void pass() {
    const uint32_t dice = below(10);
    const uint32_t seconds = dice < 6 ? between(1, 5) : dice < 9 ? between(1, kIdleTcp / 3) : between(kIdleUdp, 2 * kIdleTcp);
    world_.pass(seconds);
    now_ += seconds;
    // Nobody may be there to do it.
    if (below(4)) world_.tend();
  }

  Setup draw() {
    Setup s = setup_;
    const uint32_t dice = below(10);
    if (dice < 2 && !before_.empty()) return before_[below(static_cast<uint32_t>(before_.size()))];
    if (dice < 6 && !s.members.empty()) {
      Member& m = s.members[below(static_cast<uint32_t>(s.members.size()))];
      m.state = static_cast<State>(below(4));
      if (below(2)) s.members.erase(s.members.begin() + below(static_cast<uint32_t>(s.members.size())));
    } else {
      const uint32_t count = below(12) == 0 ? below(3) : between(3, below(4) ? 9 : kMembers);
      s.members.clear();
      std::vector<uint32_t> numbers(kMembers);
      for (uint32_t i = 0; i < kMembers; i++) numbers[i] = i + 1;
      std::shuffle(numbers.begin(), numbers.end(), random_);
      for (uint32_t i = 0; i < count; i++)
        s.members.push_back({numbers[i], below(8) ? State::active : static_cast<State>(below(4)), below(4) ? 1 : between(1, 3)});
    }
    if (below(8) == 0) s.algorithm = below(4) == 0 ? LB_RANDOM : below(3) == 0 ? LB_SOURCE_HASH : LB_MAGLEV;
    if (below(12) == 0) s.affinity = !s.affinity && below(2);
    return s;
  }

  void adopt(const Setup& next) {
    before_.push_back(next);
    if (before_.size() > 6) before_.pop_front();
    setup_ = next;
    changed_ = now_;
    for (auto& f : flows_) f.promised = f.promised && serves(f);
    if (verbose) printf("%d now %u setup %s\n", step_, now_, setup_.text().c_str());
  }

  void change() {
    const Setup next = draw();
    world_.commit(next);
    totals.commits++;
    adopt(next);
    if (below(16) == 0) check();
  }

  void check() {
    for (const auto& p : world_.problems()) {
      printf("{\"seed\":%llu,\"step\":%d,\"wrong\":\"%s\"}\n", static_cast<unsigned long long>(seed_), step_, p.c_str());
      exit(1);
    }
  }

  void restart() {
    if (below(3)) {
      totals.restarts++;
      world_.restart();
    } else {
      const Setup next = draw();
      totals.kills++;
      const Setup now = world_.kill(next, static_cast<int>(between(1, 40)));
      if (now.text() != setup_.text() && now.text() != next.text()) fail("a death leaves neither what was nor what was to be");
      if (now.text() == next.text()) adopt(next);
      // What the dead one began may have been in force for a moment.
      changed_ = now_;
    }
    check();
  }

  void finish() {
    totals.entries += world_.entries();
    flows_.clear();
    for (int i = 0; i < 3; i++) {
      world_.pass(2 * kIdleTcp);
      now_ += 2 * kIdleTcp;
      world_.tend();
    }
    check();
    if (world_.bits() || world_.lingering()) {
      printf("{\"seed\":%llu,\"wrong\":\"%u bits and %u backends are left when all is over\"}\n", static_cast<unsigned long long>(seed_),
             world_.bits(), world_.lingering());
      exit(1);
    }
  }

  uint64_t seed_;
  std::mt19937_64 random_;
  Settings settings_;
  World world_;
  Setup setup_;
  std::deque<Setup> before_;
  std::vector<Flow> flows_;
  uint32_t now_ = 0, changed_ = 0;
  uint16_t datagram_port_ = 2000;
  int step_ = 0;
};

}  // namespace
}  // namespace model

int main(int argc, char** argv) {
  if (argc == 4 && !std::strcmp(argv[1], "child")) return model::child(argv[2], argv[3]);
  if (argc < 4) {
    fprintf(stderr, "usage: model HISTORIES STEPS SEED [VERBOSE]\n");
    return 2;
  }
  setvbuf(stdout, nullptr, _IOLBF, 0);
  model::prepare_namespace();
  model::verbose = argc > 4;
  const uint64_t seed = strtoull(argv[3], nullptr, 0);
  for (int i = 0; i < atoi(argv[1]); i++) {
    // Tables that are nearly always full, sometimes, and never.
    const uint32_t connections[] = {1, 64, 4096};
    model::History(seed + static_cast<uint64_t>(i), {connections[(seed + i) % 3], model::kIdleTcp, model::kIdleUdp, (seed + i) % 2 == 0})
        .run(atoi(argv[2]));
  }
  const auto& t = model::totals;
  printf(
      "{\"packets\":%llu,\"flows\":%llu,\"checked\":%llu,\"commits\":%llu,\"restarts\":%llu,\"kills\":%llu,\"dropped\":%llu,\"moved\":%llu,"
      "\"forgotten\":%llu,\"entries\":%llu}\n",
      (unsigned long long)t.packets, (unsigned long long)t.flows, (unsigned long long)t.checked, (unsigned long long)t.commits,
      (unsigned long long)t.restarts, (unsigned long long)t.kills, (unsigned long long)t.dropped, (unsigned long long)t.moved,
      (unsigned long long)t.forgotten, (unsigned long long)t.entries);
  return 0;
}
