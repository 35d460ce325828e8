// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <bpf/bpf.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "../../bpf/include/hash.h"
#include "../../native/core/anchors.h"

namespace lb {

// Friend of the balancer.
struct AnchorModel {
  static Status ensure_packets(Balancer& b) { return b.ensure_packets(); }
  static void stop_thread(Balancer& b) { b.tends_.reset(); }
  static uint32_t tend(Balancer& b) { return b.tend(); }
  static Service& service(Balancer& b) { return *b.services_.begin()->second; }

  static void pass(Balancer& b, uint32_t seconds) {
    std::lock_guard lock(b.mutex_);
    const Maps& maps = b.maps_;
    for (uint32_t set = 0; set < maps.flow_sets(); set++) {
      for (uint32_t way = 0; way < LB_FLOW_WAYS; way++) {
        lb_connection& c = maps.connections[set * LB_FLOW_WAYS + way];
        if (lb_owner_tag(maps.owners[set].way[way])) c.life -= static_cast<__u64>(seconds) << 32;
      }
    }
    for (auto& [name, service] : b.services_) {
      for (auto& region : service->regions) {
        // Where cells are near it is something else.
        lb_head& head = maps.table[region.first].head;
        if (head.flags & LB_REGION_ANCHORED) head.changed -= seconds;
        if (!region.anchors) continue;
        region.anchors->older_since -= seconds;
        for (auto& d : region.anchors->differing) d.since -= seconds;
      }
      __u64& refused = maps.refused[service->id];
      if (refused) refused = std::max(1u, static_cast<uint32_t>(refused) - seconds);
    }
  }
};

}  // namespace lb

namespace model {
namespace {

constexpr uint32_t kServiceNumber = 0x00630001, kClientNumber = 0x00c80000, kMemberNumber = 0x00010000;
constexpr uint16_t kServicePort = 80, kMemberPort = 8080;
constexpr char kName[] = "model";

void run(const std::string& command) {
  if (system(command.c_str())) fail(command);
}

lb::Address address_of(const Endpoint& e) {
  lb::Address a;
  a.family = e.family;
  std::memcpy(a.words, e.address.data(), e.family == LB_IPV4 ? 4 : 16);
  return a;
}

// As lib/compile.ts does: only a service without active backends uses those that terminate.
std::vector<lb::Backend> backends_of(const Setup& setup) {
  std::vector<lb::Backend> all;
  const bool has_active = std::any_of(setup.members.begin(), setup.members.end(), [](const Member& m) { return m.state == State::active; });
  for (const uint8_t family : {LB_IPV4, LB_IPV6}) {
    for (const auto& m : setup.members) {
      const Endpoint e = at(family, kMemberNumber + m.number, kMemberPort);
      uint8_t flags = 0;
      if (m.state != State::maintenance) flags |= LB_BACKEND_EXISTING;
      if (m.state == State::active || (m.state == State::terminating && !has_active)) flags |= LB_BACKEND_POOLS << LB_POOL_CLUSTER;
      all.push_back({address_of(e), htons(e.port), flags, m.weight, 0});
    }
  }
  return all;
}

lb::Service service_of(const Setup& setup) {
  lb::Service s;
  s.name = kName;
  s.owner = "default";
  s.record = setup.text();
  s.algorithm = setup.algorithm;
  s.affinity = setup.affinity ? 3600 : 0;
  s.forwarding = LB_REGION_DSR;
  s.backends = backends_of(setup);
  for (const uint8_t family : {LB_IPV4, LB_IPV6})
    for (const uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP})
      s.frontends.push_back(
          {{address_of(at(family, kServiceNumber, 0)), htons(kServicePort), protocol, LB_SCOPE_EXTERNAL}, LB_POOL_CLUSTER, 2, 0, 0, 0});
  return s;
}

lb::PacketSettings packets_of(const Settings& settings) {
  lb::PacketSettings p;
  lb::Address::parse("192.0.2.1", p.address4);
  lb::Address::parse("2001:db8::1", p.address6);
  p.idle_tcp = settings.idle_tcp;
  p.idle_udp = settings.idle_udp;
  p.dsr = LB_DSR_ON | LB_DSR_ALL | LB_DSR_TCP | LB_DSR_UDP;
  return p;
}

lb::OpenOptions options_of(const std::string& pin, uint32_t connections) {
  lb::OpenOptions o;
  o.pin_path = pin;
  o.capacity = {64, 64, 262144, connections, 1024};
  return o;
}

template <typename T>
T expect(lb::Result<T> result, const char* what) {
  if (!result) fail(std::string(what) + ": " + result.error().object + ": " + result.error().message);
  return std::move(*result);
}
void expect(const lb::Status& status, const char* what) {
  if (!status) fail(std::string(what) + ": " + status.error().object + ": " + status.error().message);
}

lb::CommitInput input_of(const Setup& setup) {
  lb::CommitInput input;
  input.put.push_back(service_of(setup));
  return input;
}

std::vector<uint8_t> frame_of(const Endpoint& from, const Endpoint& to, uint8_t protocol, uint8_t flags) {
  std::vector<uint8_t> frame(ETH_HLEN);
  auto add = [&](const void* data, size_t length) {
    frame.insert(frame.end(), static_cast<const uint8_t*>(data), static_cast<const uint8_t*>(data) + length);
  };
  frame[0] = frame[6] = 2;
  frame[12] = from.family == LB_IPV4 ? 0x08 : 0x86;
  frame[13] = from.family == LB_IPV4 ? 0x00 : 0xdd;
  tcphdr tcp{};
  tcp.th_sport = htons(from.port);
  tcp.th_dport = htons(to.port);
  tcp.th_off = 5;
  tcp.th_flags = flags;
  const udphdr udp{{{htons(from.port), htons(to.port), htons(sizeof(udphdr)), htons(1)}}};
  const size_t length = protocol == IPPROTO_TCP ? sizeof tcp : sizeof udp;
  if (from.family == LB_IPV4) {
    iphdr ip{};
    ip.version = 4;
    ip.ihl = 5;
    ip.tot_len = htons(static_cast<uint16_t>(sizeof ip + length));
    ip.ttl = 64;
    ip.protocol = protocol;
    std::memcpy(&ip.saddr, from.address.data(), 4);
    std::memcpy(&ip.daddr, to.address.data(), 4);
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof ip / 2; i++) sum += reinterpret_cast<const uint16_t*>(&ip)[i];
    sum = (sum & 0xffff) + (sum >> 16);
    ip.check = static_cast<uint16_t>(~((sum & 0xffff) + (sum >> 16)));
    add(&ip, sizeof ip);
  } else {
    ip6_hdr ip{};
    ip.ip6_vfc = 0x60;
    ip.ip6_plen = htons(static_cast<uint16_t>(length));
    ip.ip6_nxt = protocol;
    ip.ip6_hlim = 64;
    std::memcpy(&ip.ip6_src, from.address.data(), 16);
    std::memcpy(&ip.ip6_dst, to.address.data(), 16);
    add(&ip, sizeof ip);
  }
  add(protocol == IPPROTO_TCP ? static_cast<const void*>(&tcp) : &udp, length);
  frame.resize(std::max<size_t>(frame.size(), 64));
  return frame;
}

// Of a wrapped packet: whose the outer destination is.
bool find_member(uint8_t family, const std::vector<uint8_t>& out, uint32_t& member) {
  const size_t at = ETH_HLEN + (family == LB_IPV4 ? 16 : 24);
  const uint8_t protocol = out[ETH_HLEN + (family == LB_IPV4 ? 9 : 6)];
  if (protocol != (family == LB_IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6)) return false;
  const uint8_t* low = out.data() + at + (family == LB_IPV4 ? 0 : 12);
  member = (static_cast<uint32_t>(low[1]) << 16 | static_cast<uint32_t>(low[2]) << 8 | low[3]) - kMemberNumber;
  return true;
}

}  // namespace

void fail(const std::string& what) {
  fprintf(stderr, "anchors: %s\n", what.c_str());
  exit(2);
}

Endpoint at(uint8_t family, uint32_t number, uint16_t port) {
  Endpoint e{family, {}, port};
  e.address[0] = family == LB_IPV4 ? 10 : 0xfd;
  for (int i = 0; i < 3; i++) e.address[(family == LB_IPV4 ? 1 : 13) + i] = static_cast<uint8_t>(number >> 8 * (2 - i));
  return e;
}

std::string Setup::text() const {
  std::ostringstream out;
  out << int{algorithm} << ' ' << affinity;
  for (const auto& m : members) out << ' ' << m.number << ':' << static_cast<int>(m.state) << ':' << m.weight;
  return out.str();
}

Setup Setup::parse(const std::string& text) {
  std::istringstream in(text);
  Setup s{};
  int algorithm, state;
  char colon;
  in >> algorithm >> s.affinity;
  s.algorithm = static_cast<uint8_t>(algorithm);
  for (Member m{}; in >> m.number >> colon >> state >> colon >> m.weight;) {
    m.state = static_cast<State>(state);
    s.members.push_back(m);
  }
  return s;
}

void prepare_namespace() {
  if (unshare(CLONE_NEWNET)) fail("unshare");
  run("ip link add ext address 02:00:00:00:01:01 type veth peer name peer && ip link set ext up && ip link set peer up && ip link set lo "
      "up");
  run("ip addr add 192.0.2.1/24 dev ext && ip addr add 2001:db8::1/64 dev ext nodad");
  run("ip neigh add 192.0.2.254 lladdr 02:00:00:00:01:fe dev ext nud permanent && ip neigh add 2001:db8::fe lladdr 02:00:00:00:01:fe dev "
      "ext nud permanent");
  run("ip route add default via 192.0.2.254 && ip route add default via 2001:db8::fe dev ext");
  run("echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
}

World::World(const Settings& settings) : settings_(settings) {
  static int count;
  if (settings.pinned) pin_ = "/sys/fs/bpf/lb-model-" + std::to_string(getpid()) + "-" + std::to_string(count++);
  device_ = static_cast<int>(if_nametoindex("ext"));
  open();
  expect(lb::AnchorModel::ensure_packets(*balancer_), "packet maps");
  for (const char* name : {"tc_lb", "xdp_lb"}) {
    auto object = expect(lb::Object::open(name), name);
    expect(balancer_->maps().lend(object), name);
    expect(object.load("test", name), name);
    objects_.push_back(std::move(object));
  }
  tc_ = bpf_program__fd(objects_[0].program("lb_tc_ingress"));
  xdp_ = bpf_program__fd(objects_[1].program("lb_xdp"));
}

World::~World() { (void)balancer_->close(true); }

void World::open() {
  balancer_ = expect(lb::Balancer::open(options_of(pin_, settings_.connections)), "open");
  lb::AnchorModel::stop_thread(*balancer_);
  expect(balancer_->set_packets(packets_of(settings_)), "settings");
}

void World::commit(const Setup& setup) { expect(balancer_->commit(input_of(setup)), "commit"); }

Sent World::packet(uint8_t family, uint8_t protocol, uint32_t client, uint16_t port, uint8_t flags, bool driver) {
  const auto frame = frame_of(at(family, kClientNumber + client, port), at(family, kServiceNumber, kServicePort), protocol, flags);
  std::vector<uint8_t> out(512);
  auto test = [&](int program, void* context, uint32_t size) {
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame.data(), .data_out = out.data(),
                .data_size_in = static_cast<uint32_t>(frame.size()), .data_size_out = static_cast<uint32_t>(out.size()), .ctx_in = context,
                .ctx_size_in = size);
    if (bpf_prog_test_run_opts(program, &run)) fail("test run");
    return run.retval;
  };
  Sent sent{Outcome::dropped, 0, ""};
  if (driver) {
    xdp_md context{};
    context.data_end = static_cast<uint32_t>(frame.size());
    context.ingress_ifindex = static_cast<uint32_t>(device_);
    const uint32_t verdict = test(xdp_, &context, sizeof context);
    if (verdict == XDP_TX || verdict == XDP_REDIRECT) {
      if (!find_member(family, out, sent.member)) fail("XDP sent something else");
      sent.outcome = Outcome::sent;
      return sent;
    }
    if (verdict != XDP_PASS) fail("XDP dropped it");
  }
  __sk_buff context{};
  context.ifindex = static_cast<uint32_t>(device_);
  const int verdict = static_cast<int>(test(tc_, &context, sizeof context));
  if (verdict == 7) sent.outcome = find_member(family, out, sent.member) ? Outcome::sent : Outcome::refused;
  sent.why = std::to_string(verdict);
  return sent;
}

void World::pass(uint32_t seconds) { lb::AnchorModel::pass(*balancer_, seconds); }

void World::tend() {
  for (int i = 0; i < 4 && lb::AnchorModel::tend(*balancer_) == 0; i++) {
  }
}

void World::restart() {
  expect(balancer_->close(false), "close");
  open();
}

Setup World::kill(const Setup& setup, int writes) {
  expect(balancer_->close(false), "close");
  const pid_t pid = fork();
  if (pid == 0) {
    setenv("EBPF_LB_STOP_AFTER", std::to_string(writes).c_str(), 1);
    execl("/proc/self/exe", "model", "child", pin_.c_str(), setup.text().c_str(), nullptr);
    _exit(3);
  }
  int status;
  waitpid(pid, &status, 0);
  if (!(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) fail("child");
  open();
  return Setup::parse(expect(balancer_->snapshot(), "snapshot").services.front().record);
}

int child(const std::string& pin, const std::string& setup) {
  auto balancer = lb::Balancer::open(options_of(pin, 0));
  if (!balancer) fail("child: " + balancer.error().message);
  lb::AnchorModel::stop_thread(**balancer);
  expect((*balancer)->commit(input_of(Setup::parse(setup))), "child");
  lb::AnchorModel::tend(**balancer);
  return (*balancer)->close(false) ? 0 : 1;
}

std::vector<std::string> World::problems() {
  std::vector<std::string> found;
  for (const auto& p : balancer_->check()) found.push_back(p.object + ": " + p.message);
  return found;
}

uint32_t World::since_refused() const {
  const __u64 refused = balancer_->maps().refused[lb::AnchorModel::service(*balancer_).id];
  return refused ? lb::monotonic_seconds() - static_cast<uint32_t>(refused) : UINT32_MAX;
}

uint32_t World::entries() const {
  const lb::Maps& maps = balancer_->maps();
  uint32_t count = 0;
  for (uint32_t set = 0; set < maps.flow_sets(); set++)
    for (const __u64 owner : maps.owners[set].way) count += lb_owner_tag(owner) != 0;
  return count;
}

uint32_t World::bits() const {
  uint32_t count = 0;
  for (const auto& region : lb::AnchorModel::service(*balancer_).regions) {
    const lb_line& line = balancer_->maps().table[region.first];
    for (uint32_t i = 0; lb::cells_last(line.head) && i < line.head.length; i++)
      count += (line.word[LB_HEAD_WORDS + i] & LB_CELL_REMEMBERED) != 0;
  }
  return count;
}

std::string World::describe(uint8_t family, uint8_t protocol, uint32_t client, uint16_t port) const {
  const lb::Maps& maps = balancer_->maps();
  const lb::Service& service = lb::AnchorModel::service(*balancer_);
  const lb::Address source = address_of(at(family, kClientNumber + client, 0)), destination = address_of(at(family, kServiceNumber, 0));
  lb_flow flow{};
  std::memcpy(flow.address, destination.words, sizeof flow.address);
  flow.port = htons(kServicePort);
  flow.protocol = protocol;
  flow.family = family;
  flow.scope = LB_SCOPE_EXTERNAL;
  lb_flow_set_client(&flow, source.words);
  flow.socket = htons(port);
  std::ostringstream out;
  auto number = [&](uint32_t index) {
    const auto* a = reinterpret_cast<const uint8_t*>(maps.backends[index].address) + (family == LB_IPV4 ? 0 : 12);
    const uint32_t flags = lb_backend_flags(maps.backends[index].word);
    out << (static_cast<uint32_t>(a[1]) << 16 | static_cast<uint32_t>(a[2]) << 8 | a[3]) - kMemberNumber << '(' << flags << ')';
  };
  auto cell_of = [&](uint32_t first) {
    const lb_head& head = maps.table[first].head;
    out << " region " << first << " flags " << int{head.flags} << " algorithm " << int{head.algorithm} << " length " << head.length;
    if (!head.length || !lb::cells_last(head)) return;
    const __u64 word = maps.table[first].word[LB_HEAD_WORDS + lb_hash_scale(lb_hash_of(head.algorithm, head.affinity, &flow), head.length)];
    out << " cell ";
    number(lb_cell_current(word));
    out << " anchor ";
    number(lb_cell_anchor(word));
    out << (word & LB_CELL_REMEMBERED ? " remembered" : "");
  };
  for (const auto& f : service.frontends) {
    if (f.key.protocol != protocol || f.key.address.family != family) continue;
    cell_of(f.region);
    const lb_head& head = maps.table[f.region].head;
    if (head.flags & LB_REGION_SUCCEEDS)
      cell_of(static_cast<uint32_t>(maps.table[f.region].word[LB_HEAD_WORDS + head.length + head.members]));
  }
  for (uint32_t set = 0; set < maps.flow_sets(); set++) {
    for (uint32_t way = 0; way < LB_FLOW_WAYS; way++) {
      const lb_connection& c = maps.connections[set * LB_FLOW_WAYS + way];
      if (!lb_owner_tag(maps.owners[set].way[way]) || c.protocol != protocol || c.family != family || c.client_port != htons(port) ||
          std::memcmp(c.client, source.words, family == LB_IPV4 ? 4 : 16))
        continue;
      out << " entry ";
      number(lb_ref_index(c.backend_ref));
    }
  }
  return out.str();
}

uint32_t World::lingering() const { return static_cast<uint32_t>(lb::AnchorModel::service(*balancer_).lingering.size()); }

}  // namespace model
