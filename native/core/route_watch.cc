// SPDX-License-Identifier: Apache-2.0
#include "route_watch.h"

#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>

#include "netns.h"

namespace lb {
namespace {

constexpr int kRenewMs = 3000;
constexpr uint32_t kPromisedSeconds = 10;  // for so long a way by destination is believed in after this process has died
constexpr int kTogetherMs = 10;            // changes that come together are told together
constexpr time_t kScanAgainSeconds = 30;   // of whole tables, at most so often: they may be long
constexpr timeval kPatience{5, 0};

time_t now_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec;
}

template <typename Each>
void each_attribute(const rtattr* first, int length, Each each) {
  for (auto* a = first; RTA_OK(a, length); a = RTA_NEXT(a, length)) each(a->rta_type & NLA_TYPE_MASK, a);
}

// Those that select by nothing but where a packet goes, the device it came by and its TOS, or by what is the same for all packets that
// programs ask about.
bool is_rule_by_destination(int attribute) {
  constexpr int kDscp = 24, kDscpMask = 28;
  switch (attribute) {
    case FRA_DST:
    case FRA_IIFNAME:
    case FRA_OIFNAME:
    case FRA_GOTO:
    case FRA_PRIORITY:
    case FRA_FWMARK:
    case FRA_FWMASK:
    case FRA_FLOW:
    case FRA_TUN_ID:
    case FRA_SUPPRESS_IFGROUP:
    case FRA_SUPPRESS_PREFIXLEN:
    case FRA_TABLE:
    case FRA_PAD:
    case FRA_L3MDEV:
    case FRA_UID_RANGE:
    case FRA_PROTOCOL:
    case kDscp:
    case kDscpMask:
      return true;
    default:
      return false;
  }
}

// Does what the message tells of make ways depend on the source or the flow?
bool is_by_flow(const nlmsghdr* m) {
  bool by_flow = false;
  if (m->nlmsg_type == RTM_NEWRULE) {
    const auto* rule = static_cast<const fib_rule_hdr*>(NLMSG_DATA(m));
    if (rule->family != AF_INET && rule->family != AF_INET6) return false;
    by_flow = rule->src_len != 0;
    const auto* first = reinterpret_cast<const rtattr*>(reinterpret_cast<const char*>(rule) + NLMSG_ALIGN(sizeof *rule));
    each_attribute(first, static_cast<int>(NLMSG_PAYLOAD(m, sizeof *rule)),
                   [&](int type, const rtattr*) { by_flow = by_flow || !is_rule_by_destination(type); });
  } else if (m->nlmsg_type == RTM_NEWROUTE) {
    const auto* route = static_cast<const rtmsg*>(NLMSG_DATA(m));
    if (route->rtm_family != AF_INET && route->rtm_family != AF_INET6) return false;
    by_flow = route->rtm_src_len != 0;
    each_attribute(RTM_RTA(route), static_cast<int>(RTM_PAYLOAD(m)),
                   [&](int type, const rtattr*) { by_flow = by_flow || type == RTA_MULTIPATH; });
  } else if (m->nlmsg_type == RTM_NEWNEXTHOP) {
    const auto* hop = static_cast<const nhmsg*>(NLMSG_DATA(m));
    const auto* first = reinterpret_cast<const rtattr*>(reinterpret_cast<const char*>(hop) + NLMSG_ALIGN(sizeof *hop));
    each_attribute(first, static_cast<int>(NLMSG_PAYLOAD(m, sizeof *hop)),
                   [&](int type, const rtattr*) { by_flow = by_flow || type == NHA_GROUP; });
  }
  return by_flow;
}

bool is_of_tables(const nlmsghdr* m) {
  switch (m->nlmsg_type) {
    case RTM_NEWRULE:
    case RTM_DELRULE:
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
    case RTM_NEWNEXTHOP:
    case RTM_DELNEXTHOP:
      return true;
    default:
      return false;
  }
}

Result<UniqueFd> netlink_socket(int flags) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | flags, NETLINK_ROUTE));
  if (!fd) return kernel_error("attach", "netlink", errno);
  return fd;
}

Result<UniqueFd> subscribed() {
  auto fd = netlink_socket(SOCK_NONBLOCK);
  if (!fd) return fd.error();
  sockaddr_nl own{};
  own.nl_family = AF_NETLINK;
  own.nl_groups =
      RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_RULE;
  if (bind(fd->get(), reinterpret_cast<sockaddr*>(&own), sizeof own)) return kernel_error("attach", "netlink", errno);
  for (const int group : {RTNLGRP_IPV6_RULE, RTNLGRP_NEXTHOP})
    if (setsockopt(fd->get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
      return kernel_error("attach", "netlink group " + std::to_string(group), errno);
  return fd;
}

// Calls `each` with every message of a table. False: it could not be read to its end, or has changed meanwhile.
template <typename Head, typename Each>
bool dump(int fd, uint32_t sequence, uint16_t type, uint8_t family, Each each) {
  struct {
    nlmsghdr head;
    Head body;
  } request{};
  request.head.nlmsg_len = NLMSG_LENGTH(sizeof(Head));
  request.head.nlmsg_type = type;
  request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.head.nlmsg_seq = sequence;
  *reinterpret_cast<uint8_t*>(&request.body) = family;  // every head begins with it
  if (send(fd, &request, request.head.nlmsg_len, 0) < 0) return false;
  std::vector<char> buffer(1 << 16);
  for (;;) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    auto left = static_cast<unsigned>(got);
    for (auto* m = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      if (m->nlmsg_seq != request.head.nlmsg_seq) continue;  // of a dump that was given up
      if (m->nlmsg_type == NLMSG_DONE) return true;
      if (m->nlmsg_type == NLMSG_ERROR || m->nlmsg_flags & NLM_F_DUMP_INTR) return false;
      each(m);
    }
  }
}

}  // namespace

RouteWatch::RouteWatch(lb_node* node) : node_(node), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { run(); }) {}

RouteWatch::~RouteWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  thread_.join();
  forget();
}

void RouteWatch::wake() {
  const uint64_t one = 1;
  if (write(wake_.get(), &one, sizeof one) < 0) return;  // full: it is awake
}

// In this order: a program reads `routes` first, so an entry that it makes by the old promise is an old one.
void RouteWatch::forget() {
  __atomic_store_n(&node_->routes_until, 0, __ATOMIC_SEQ_CST);
  __atomic_add_fetch(&node_->routes, 1, __ATOMIC_SEQ_CST);
}

// One that cannot be watched is there, too: nothing is promised then.
Status RouteWatch::add(uint32_t attachment, int netns) {
  struct stat st{};
  if (fstat(netns, &st)) return kernel_error("attach", "network namespace", errno);
  const std::pair<dev_t, ino_t> identity{st.st_dev, st.st_ino};
  std::lock_guard lock(mutex_);
  for (const auto& ns : namespaces_)
    if (ns->identity == identity) {
      ns->users.insert(attachment);
      return ok();
    }
  auto made = std::make_shared<Namespace>();
  made->identity = identity;
  made->users = {attachment};
  const Status opened = in_netns(netns, [&]() -> Status {
    auto events = subscribed();
    if (!events) return events.error();
    auto requests = netlink_socket(0);
    if (!requests) return requests.error();
    setsockopt(requests->get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    made->events = std::move(*events);
    made->requests = std::move(*requests);
    return ok();
  });
  made->to_scan = static_cast<bool>(opened);
  namespaces_.push_back(std::move(made));
  forget();
  wake();
  return opened;
}

void RouteWatch::remove(uint32_t attachment) {
  std::lock_guard lock(mutex_);
  for (auto& ns : namespaces_) ns->users.erase(attachment);
  std::erase_if(namespaces_, [](const auto& ns) { return ns->users.empty(); });
  wake();
}

// True: there were some.
bool RouteWatch::read_events(Namespace& ns) {
  std::vector<char> buffer(1 << 16);
  bool any = false;
  for (;;) {
    const ssize_t got = recv(ns.events.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == ENOBUFS) {
      any = ns.to_scan = ns.by_flow = true;
      continue;
    }
    if (got <= 0) return any;
    any = true;
    auto left = static_cast<unsigned>(got);
    for (auto* m = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
      if (is_by_flow(m)) ns.by_flow = ns.to_scan = true;
      // What goes may have been the last.
      if (ns.by_flow && is_of_tables(m)) ns.to_scan = true;
    }
  }
}

void RouteWatch::scan(Namespace& ns) {
  bool by_flow = false, whole = true;
  auto look = [&](const nlmsghdr* m) { by_flow = by_flow || is_by_flow(m); };
  const int fd = ns.requests.get();
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    whole = whole && dump<fib_rule_hdr>(fd, ++ns.sequence, RTM_GETRULE, family, look);
    if (!by_flow) whole = whole && dump<rtmsg>(fd, ++ns.sequence, RTM_GETROUTE, family, look);
  }
  if (!by_flow) whole = whole && dump<nhmsg>(fd, ++ns.sequence, RTM_GETNEXTHOP, AF_UNSPEC, look);
  ns.by_flow = by_flow || !whole;
  ns.to_scan = !whole;
  ns.was_scanned = true;
}

void RouteWatch::run() {
  time_t scanned_at = 0;
  for (;;) {
    std::vector<std::shared_ptr<Namespace>> watched;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      watched = namespaces_;
    }
    bool any = false, by_flow = watched.empty();
    for (const auto& ns : watched) {
      any |= read_events(*ns);
      if (ns->to_scan && (!ns->was_scanned || now_seconds() - scanned_at >= kScanAgainSeconds)) {
        scan(*ns);
        scanned_at = now_seconds();
      }
      by_flow |= ns->by_flow;
    }
    {
      std::lock_guard lock(mutex_);
      const bool vouched = !by_flow && namespaces_ == watched;
      __atomic_store_n(&node_->routes_until, vouched ? static_cast<__u32>(now_seconds() + kPromisedSeconds) : 0, __ATOMIC_SEQ_CST);
      if (any) __atomic_add_fetch(&node_->routes, 1, __ATOMIC_SEQ_CST);
    }
    std::vector<pollfd> polled{{wake_.get(), POLLIN, 0}};
    if (any) (void)poll(polled.data(), 1, kTogetherMs);
    for (const auto& ns : watched) polled.push_back({ns->events.get(), POLLIN, 0});
    (void)poll(polled.data(), polled.size(), kRenewMs);
    uint64_t count;
    if (polled[0].revents && read(wake_.get(), &count, sizeof count) < 0) continue;
  }
}

}  // namespace lb
