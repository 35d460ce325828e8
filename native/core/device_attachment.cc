// SPDX-License-Identifier: Apache-2.0
#include "device_attachment.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "netns.h"
#include "stop_point.h"

namespace lb {
namespace {

constexpr uint32_t kHandle = 0x6c620000;  // of filters: "lb", and the attachment's id
constexpr uint32_t kHandleMask = 0xffff0000;
constexpr uint32_t kMadeQdisc = 0x8000;  // of a filter of a balancer without pins, that came with the qdisc
constexpr const char* kQdiscMark = "qdisc";
constexpr const char* kHookNames[] = {"tc_egress", "tc_ingress", "xdp"};

// A link whose device is gone, or that was detached, says device 0. tcx has the number in the same place as XDP.
uint32_t linked_device(int link) {
  bpf_link_info info{};
  __u32 length = sizeof info;
  return bpf_obj_get_info_by_fd(link, &info, &length) == 0 ? info.xdp.ifindex : 0;
}

// What is pinned under link_ID_NUMBER_HOOK.
struct DevicePin {
  int number;
  std::string hook, path;
};

std::vector<DevicePin> device_pins(uint32_t id, const std::string& directory) {
  std::vector<DevicePin> pins;
  if (directory.empty()) return pins;
  const std::string prefix = "link_" + std::to_string(id) + "_";
  DIR* dir = opendir(directory.c_str());
  if (!dir) return pins;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.rfind(prefix, 0) != 0) continue;
    const size_t end = name.find('_', prefix.size());
    if (end == std::string::npos) continue;
    pins.push_back({atoi(name.c_str() + prefix.size()), name.substr(end + 1), directory + "/" + name});
  }
  closedir(dir);
  return pins;
}

std::set<uint32_t> ids_of(const Maps& maps) {
  std::set<uint32_t> ids;
  for (const auto& [name, fd] : maps.all()) {
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0) ids.insert(info.id);
  }
  return ids;
}

// Takes away the qdiscs that attachments of this directory have made, those of `known` aside.
void remove_marked_qdiscs(const std::string& directory, const std::set<uint32_t>& known) {
  for (uint32_t id = 1; id < kAttachments; id++) {
    if (known.count(id)) continue;
    for (const auto& pinned : device_pins(id, directory)) {
      if (pinned.hook != kQdiscMark) continue;
      remove_qdisc_if_unused(pinned.number);
      rmdir(pinned.path.c_str());
    }
  }
}

// Tells of devices of the calling thread's namespace.
Result<UniqueFd> link_events(const char* operation) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl group{};
  group.nl_family = AF_NETLINK;
  group.nl_groups = RTMGRP_LINK;
  if (!fd || bind(fd.get(), reinterpret_cast<sockaddr*>(&group), sizeof group)) return kernel_error(operation, "netlink", errno);
  return fd;
}

// Does the device of the calling thread's namespace drop what an XDP program sends back, unless its peer has one, too? veth does.
bool drops_sent_back(const std::string& device) {
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ethtool_drvinfo driver{};
  driver.cmd = ETHTOOL_GDRVINFO;
  ifreq request{};
  std::snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device.c_str());
  request.ifr_data = reinterpret_cast<char*>(&driver);
  return fd && ioctl(fd.get(), SIOCETHTOOL, &request) == 0 && std::strcmp(driver.driver, "veth") == 0;
}

// A process that was killed lets go of a link that it had not pinned yet, but the kernel takes its time.
constexpr int kReleaseTries = 200;
bool has_our_xdp(int device, const Maps& maps) {
  LIBBPF_OPTS(bpf_xdp_query_opts, opts);
  return bpf_xdp_query(device, 0, &opts) == 0 && program_uses(opts.prog_id, ids_of(maps));
}

// XDP_ATTACHED_* of a device; the kernel's link says it not.
const char* xdp_mode_of(int device) {
  LIBBPF_OPTS(bpf_xdp_query_opts, opts);
  if (bpf_xdp_query(device, 0, &opts)) return "";
  return opts.attach_mode == XDP_ATTACHED_SKB ? "generic" : "native";
}

}  // namespace

bool DeviceAttachment::is_pattern(const std::string& name) { return name.find_first_of("*?") != std::string::npos; }

bool DeviceAttachment::matches(const std::string& pattern, const std::string& name) {
  size_t p = 0, n = 0, star = std::string::npos, from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      p++;
      n++;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') p++;
  return p == pattern.size();
}

std::vector<DeviceAttachment::Hook> DeviceAttachment::hooks() const {
  // What translates answers comes before what makes them necessary.
  std::vector<Hook> all = {Hook::egress, Hook::ingress};
  if (record_.kind == AttachmentKind::xdp) all.push_back(Hook::xdp);
  return all;
}

uint32_t DeviceAttachment::handle() const { return kHandle | record_.id; }

std::string DeviceAttachment::pin_of(const Device& device, const char* what) const { return pin(std::to_string(device.number) + "_" + what); }

Status DeviceAttachment::enter() {
  const std::string path = record_.netns.empty() ? "" : record_.netns.front();
  if (path.empty()) {
    netns_ = UniqueFd(fcntl(place_.netns, F_DUPFD_CLOEXEC, 0));
    if (!netns_) return kernel_error(operation(), "network namespace", errno);
  } else {
    auto opened = open_netns(operation(), path);
    if (!opened) return opened.error();
    netns_ = std::move(*opened);
  }
  return in_netns(netns_.get(), [&]() -> Status {
    auto events = link_events(operation());
    if (!events) return events.error();
    events_ = std::move(*events);
    return ok();
  });
}

Status DeviceAttachment::load() {
  // One set of programs serves all devices of a pattern, those that are yet to come, too.
  bool can_send_back = !is_pattern(record_.path);
  LB_TRY(in_netns(netns_.get(), [&]() -> Status {
    can_send_back = can_send_back && !drops_sent_back(record_.path);
    return ok();
  }));
  auto load_one = [&](const char* name, std::unique_ptr<Object>& into) -> Status {
    auto object = Object::open(name);
    if (!object) return object.error();
    LB_TRY(place_.maps.lend(*object));
    object->set_config("lb_attachment", record_.id);
    object->set_config("lb_role", record_.role);
    object->set_config("lb_can_send_back", can_send_back);
    for (const char* gate : {"lb_tc_ingress_gate", "lb_tc_egress_gate"})
      if (bpf_program* p = object->program(gate)) bpf_program__set_autoload(p, gated());
    LB_TRY(object->load(operation(), record_.path));
    into = std::make_unique<Object>(std::move(*object));
    return ok();
  };
  LB_TRY(load_one("tc_lb", tc_));
  if (gated()) {
    const int map = bpf_map__fd(tc_->map("lb_gate"));
    for (const auto& [key, name] : {std::pair{LB_GATE_INGRESS, "lb_tc_ingress"}, {LB_GATE_EGRESS, "lb_tc_egress"}}) {
      const __u32 at = key;
      const int fd = bpf_program__fd(tc_->program(name));
      if (bpf_map_update_elem(map, &at, &fd, BPF_ANY)) return kernel_error(operation(), std::string("gate of ") + name, errno);
    }
  }
  return record_.kind == AttachmentKind::xdp ? load_one("xdp_lb", xdp_) : ok();
}

int DeviceAttachment::program(Hook hook) const {
  if (hook == Hook::xdp) return bpf_program__fd(xdp_->program("lb_xdp"));
  if (gated()) return bpf_program__fd(tc_->program(hook == Hook::egress ? "lb_tc_egress_gate" : "lb_tc_ingress_gate"));
  return bpf_program__fd(tc_->program(hook == Hook::egress ? "lb_tc_egress" : "lb_tc_ingress"));
}

Result<std::unique_ptr<Attachment>> DeviceAttachment::create(const AttachmentPlace& place, const AttachmentRecord& record) {
  std::unique_ptr<DeviceAttachment> a(new DeviceAttachment(place, record));
  LB_TRY(a->enter());
  const bool strict = !is_pattern(record.path);
  const Status there = in_netns(a->netns_.get(), [&]() -> Status {
    if (strict && a->present().empty()) {
      const std::string where = record.netns.empty() || record.netns.front().empty() ? "the balancer's network namespace" : record.netns.front();
      return make_error("ERR_NOT_FOUND", a->operation(), record.path,
                        "there is no such device in " + where + "; see: ip link; a pattern like '" + record.path + "*' waits for devices that come later");
    }
    return ok();
  });
  LB_TRY(there);
  if (!kernel_abilities().tcx) remove_dead_filters(a->netns_.get());
  LB_TRY(a->watch_routes());
  LB_TRY(a->load());
  const Status placed = in_netns(a->netns_.get(), [&] { return a->sync({}, strict); });
  if (!placed) {
    (void)a->detach();
    return placed.error();
  }
  return std::unique_ptr<Attachment>(std::move(a));
}

std::unique_ptr<Attachment> DeviceAttachment::resume(const AttachmentPlace& place, const AttachmentRecord& record) {
  std::unique_ptr<DeviceAttachment> a(new DeviceAttachment(place, record));
  // Without its namespace there are no devices, and nothing to take over.
  if (!a->enter()) return a;
  const Status watched = a->watch_routes();
  const Status loaded = watched ? a->load() : watched;
  const Status done = in_netns(a->netns_.get(), [&]() -> Status {
    a->adopt();
    LB_TRY(loaded);
    LB_TRY(a->swap_programs());
    return a->sync({}, false);
  });
  if (!done) a->failure_ = done.error();
  return a;
}

void DeviceAttachment::remove(const AttachmentPlace& place, const AttachmentRecord& record) {
  DeviceAttachment a(place, record);
  if (!a.enter()) return;
  (void)in_netns(a.netns_.get(), [&]() -> Status {
    a.adopt();
    return ok();
  });
  (void)a.detach();
}

void remove_stray_filters(const AttachmentPlace& place, const std::set<uint32_t>& known) {
  if (kernel_abilities().tcx) return;
  const auto maps = ids_of(place.maps);
  (void)in_netns(place.netns, [&]() -> Status {
    struct if_nameindex* all = if_nameindex();
    for (auto* i = all; i && i->if_index; i++) {
      const int device = static_cast<int>(i->if_index);
      for (const bool egress : {false, true}) {
        const auto rows = list_filters(device, egress);
        if (!rows) continue;
        for (const auto& row : *rows) {
          const uint32_t handle = row.filter.handle;
          if ((handle & kHandleMask) != kHandle || known.count(handle & ~kHandleMask) || !program_uses(row.program, maps)) continue;
          (void)remove_filter(device, egress, row.filter);
        }
      }
    }
    if (all) if_freenameindex(all);
    remove_marked_qdiscs(place.directory, known);
    return ok();
  });
}

void remove_dead_filters(int netns) {
  if (kernel_abilities().tcx) return;
  (void)in_netns(netns, []() -> Status {
    remove_dead_gates(kHandleMask, kHandle, kMadeQdisc);
    return ok();
  });
}

DeviceAttachment::Names DeviceAttachment::present() const {
  Names names;
  const bool pattern = is_pattern(record_.path);
  struct if_nameindex* all = if_nameindex();
  for (auto* i = all; i && i->if_index; i++) {
    // What the node says to itself never comes from outside nor from a workload.
    if (pattern ? matches(record_.path, i->if_name) && std::strcmp(i->if_name, "lo") != 0 : record_.path == i->if_name)
      names.emplace_back(static_cast<int>(i->if_index), i->if_name);
  }
  if (all) if_freenameindex(all);
  return names;
}

// Makes what is attached what the devices are. strict: the first failure is an error, else it is remembered with its device.
Status DeviceAttachment::sync(const std::set<int>& gone, bool strict) {
  const Names now = present();
  auto found = [&](int number) { return std::find_if(now.begin(), now.end(), [&](const auto& n) { return n.first == number; }); };
  for (auto d = devices_.begin(); d != devices_.end();) {
    const bool was_deleted = gone.count(d->number) != 0;
    const auto still = found(d->number);
    // Links to devices that this thread cannot see are of another namespace: they stay.
    const bool elsewhere = still == now.end() && std::any_of(d->placed.begin(), d->placed.end(), [&](const Placed& p) { return p.link && linked_device(p.link.get()) != 0; });
    char name[IF_NAMESIZE];
    const bool renamed = still == now.end() && if_indextoname(static_cast<unsigned>(d->number), name);
    if (!was_deleted && (still != now.end() || (elsewhere && !renamed))) {
      if (still != now.end()) d->name = still->second;
      d++;
      continue;
    }
    LB_TRY(release(*d));
    d = devices_.erase(d);
  }
  for (const auto& [number, name] : now) {
    auto d = std::find_if(devices_.begin(), devices_.end(), [&](const Device& have) { return have.number == number; });
    if (d == devices_.end()) {
      Device made;
      made.number = number;
      made.name = name;
      devices_.push_back(std::move(made));
      d = devices_.end() - 1;
    }
    d->failure.reset();
    for (const Hook hook : hooks()) {
      if (std::any_of(d->placed.begin(), d->placed.end(), [&](const Placed& p) { return p.hook == hook; })) continue;
      const Status done = put(*d, hook);
      if (done) continue;
      if (strict) return done.error();
      d->failure = done.error();
      break;
    }
  }
  return ok();
}

Status DeviceAttachment::put(Device& device, Hook hook) {
  Placed placed{hook, {}, {}};
  const bool links = hook == Hook::xdp || kernel_abilities().tcx;
  LB_TRY(links ? put_link(device, hook, placed) : put_filter(device, hook, placed));
  stop_point();
  device.placed.push_back(std::move(placed));
  if (!links || place_.directory.empty()) return ok();
  const std::string path = pin_of(device, kHookNames[static_cast<int>(hook)]);
  unlink(path.c_str());
  if (bpf_obj_pin(device.placed.back().link.get(), path.c_str())) return kernel_error(operation(), path, errno);
  stop_point();
  return ok();
}

Status DeviceAttachment::put_link(Device& device, Hook hook, Placed& placed) {
  if (hook == Hook::xdp) return put_xdp(device, placed);
  // No flags: behind all programs that are there.
  placed.link = UniqueFd(bpf_link_create(program(hook), device.number, hook == Hook::egress ? kTcxEgress : kTcxIngress, nullptr));
  if (placed.link) return ok();
  Error e = kernel_error(operation(), device.name, errno);
  if (errno == ENODEV) e.code = "ERR_NOT_FOUND";
  return e;
}

Status DeviceAttachment::put_xdp(Device& device, Placed& placed) {
  auto link = [&](uint32_t flags) {
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
    int err = 0;
    for (int left = kReleaseTries; left > 0; left--) {
      placed.link = UniqueFd(bpf_link_create(program(Hook::xdp), device.number, BPF_XDP, &opts));
      err = placed.link ? 0 : errno;
      if (err != EBUSY || !has_our_xdp(device.number, place_.maps)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return err;
  };
  int err = 0;
  if (record_.mode != XdpMode::generic) {
    err = link(XDP_FLAGS_DRV_MODE);
    device.mode = "native";
    const bool only_native = record_.mode == XdpMode::native || err == EBUSY || err == EEXIST || err == ENODEV || err == EPERM;
    if (err && !only_native) err = -1;
  }
  if (record_.mode == XdpMode::generic || err == -1) {
    err = link(XDP_FLAGS_SKB_MODE);
    device.mode = "generic";
  }
  if (!err) return ok();
  if (err == EBUSY || err == EEXIST) {
    Error e = kernel_error(operation(), device.name, err, "another XDP program is on the device, which takes only one; see: ip link show, bpftool net");
    e.code = "ERR_HOOK_BUSY";
    return e;
  }
  if (err == ENODEV) {
    Error e = kernel_error(operation(), device.name, err);
    e.code = "ERR_NOT_FOUND";
    return e;
  }
  if (err == EPERM || err == EACCES) return kernel_error(operation(), device.name, err);
  const bool native = device.mode == "native";
  Error e = kernel_error(operation(), device.name, err,
                         native ? err == EOPNOTSUPP ? "the driver has no native XDP; use mode 'generic'"
                                                    : "the driver refuses native XDP with the device's settings (often its MTU); change them, or use mode 'generic'"
                                : "the device takes no generic XDP; use attachTc");
  e.code = "ERR_UNSUPPORTED";
  e.details["feature"] = native ? "native XDP" : "generic XDP";
  return e;
}

Status DeviceAttachment::put_filter(Device& device, Hook hook, Placed& placed) {
  // Said before it is made, so that a death in between leaves none that nobody knows; by a directory, which is all that a bpffs has for words.
  const std::string mark = pin_of(device, kQdiscMark);
  const bool makes = !has_clsact(device.number);
  const bool marks = makes && (gated() ? made_qdiscs_.insert(device.number).second : mkdir(mark.c_str(), 0700) == 0);
  stop_point();
  bool had_qdisc = false;
  const uint32_t made = gated() && made_qdiscs_.count(device.number) ? kMadeQdisc : 0;
  auto filter = add_filter(device.number, hook == Hook::egress, program(hook), handle() | made, had_qdisc);
  if (marks && had_qdisc) {
    made_qdiscs_.erase(device.number);
    if (!gated()) rmdir(mark.c_str());
  }
  if (!filter) {
    Error e = filter.error();
    e.operation = operation();
    e.object = device.name;
    return e;
  }
  placed.filter = *filter;
  return ok();
}

// If it is ours, and nobody else has a filter there.
void DeviceAttachment::release_qdisc(int device) {
  const std::string mark = place_.directory + "/link_" + std::to_string(record_.id) + "_" + std::to_string(device) + "_" + kQdiscMark;
  const bool ours = gated() ? made_qdiscs_.erase(device) != 0 : access(mark.c_str(), F_OK) == 0;
  if (!ours) return;
  remove_qdisc_if_unused(device);
  stop_point();
  if (!gated()) rmdir(mark.c_str());
}

Status DeviceAttachment::release(Device& device) {
  bool filters = false;
  for (auto p = device.placed.rbegin(); p != device.placed.rend(); p++) {
    if (p->link) {
      if (!place_.directory.empty()) unlink(pin_of(device, kHookNames[static_cast<int>(p->hook)]).c_str());
      stop_point();
      // Detached for certain, even where another process still holds a descriptor of the link.
      if (bpf_link_detach(p->link.get()) && errno != ENOLINK && errno != EOPNOTSUPP && errno != ENOENT) return kernel_error("detach", device.name, errno);
    } else if (p->filter) {
      filters = true;
      LB_TRY(remove_filter(device.number, p->hook == Hook::egress, *p->filter));
    }
    stop_point();
  }
  device.placed.clear();
  if (filters) release_qdisc(device.number);
  return ok();
}

// What an earlier process has left in place, by pins and by filters of programs with our maps.
void DeviceAttachment::adopt() {
  for (const auto& pinned : device_pins(record_.id, place_.directory)) {
    const auto name = std::find(std::begin(kHookNames), std::end(kHookNames), pinned.hook);
    if (name == std::end(kHookNames)) continue;
    UniqueFd link(bpf_obj_get(pinned.path.c_str()));
    const uint32_t number = link ? linked_device(link.get()) : 0;
    if (!number) {
      unlink(pinned.path.c_str());
      continue;
    }
    auto d = std::find_if(devices_.begin(), devices_.end(), [&](const Device& have) { return have.number == pinned.number; });
    if (d == devices_.end()) {
      Device made;
      made.number = pinned.number;
      char text[IF_NAMESIZE];
      made.name = if_indextoname(number, text) ? text : "?";
      devices_.push_back(std::move(made));
      d = devices_.end() - 1;
    }
    const Hook hook = static_cast<Hook>(name - std::begin(kHookNames));
    if (hook == Hook::xdp) d->mode = xdp_mode_of(d->number);
    d->placed.push_back({hook, std::move(link), {}});
  }
  if (kernel_abilities().tcx) return;
  for (const auto& [number, name] : present()) {
    auto d = std::find_if(devices_.begin(), devices_.end(), [&](const Device& have) { return have.number == number; });
    Device made;
    made.number = number;
    made.name = name;
    adopt_filters(d == devices_.end() ? made : *d);
    if (d == devices_.end() && !made.placed.empty()) devices_.push_back(std::move(made));
  }
}

void DeviceAttachment::adopt_filters(Device& device) {
  const auto maps = ids_of(place_.maps);
  for (const Hook hook : {Hook::egress, Hook::ingress}) {
    const auto rows = list_filters(device.number, hook == Hook::egress);
    if (!rows) continue;
    for (const auto& row : *rows) {
      if (row.filter.handle != handle() || !program_uses(row.program, maps)) continue;
      device.placed.push_back({hook, {}, row.filter});
      break;
    }
  }
}

Status DeviceAttachment::swap_programs() {
  for (auto& device : devices_) {
    for (auto& p : device.placed) {
      if (p.filter) {
        LB_TRY(replace_filter(device.number, p.hook == Hook::egress, *p.filter, program(p.hook)));
      } else if (bpf_link_update(p.link.get(), program(p.hook), nullptr) && errno != ENOLINK) {
        return kernel_error(operation(), device.name, errno);
      }
      stop_point();
    }
  }
  return ok();
}

Status DeviceAttachment::replace(const AttachmentRecord& record) {
  const AttachmentRecord before = record_;
  auto tc = std::move(tc_);
  auto xdp = std::move(xdp_);
  record_ = record;
  Status done = load();
  if (done)
    done = in_netns(netns_.get(), [&]() -> Status {
      LB_TRY(swap_programs());
      if (record.kind != AttachmentKind::xdp || record.mode == before.mode) return ok();
      // A link keeps the mode that it was made with. Meanwhile the programs at tc do all of the work.
      for (auto& device : devices_) {
        const char* wanted = record.mode == XdpMode::native ? "native" : "generic";
        if (record.mode == XdpMode::any || device.mode == wanted) continue;
        for (auto p = device.placed.begin(); p != device.placed.end(); p++) {
          if (p->hook != Hook::xdp) continue;
          bpf_link_detach(p->link.get());
          stop_point();
          device.placed.erase(p);
          break;
        }
      }
      return sync({}, !is_pattern(record_.path));
    });
  if (done) return ok();
  // As it was.
  record_ = before;
  tc_ = std::move(tc);
  xdp_ = std::move(xdp);
  (void)in_netns(netns_.get(), [&]() -> Status {
    LB_TRY(swap_programs());
    return sync({}, false);
  });
  return done.error();
}

Status DeviceAttachment::detach() {
  if (!netns_) {
    remove_pins(record_.id, place_.directory);
    return ok();
  }
  LB_TRY(in_netns(netns_.get(), [&]() -> Status {
    for (auto& device : devices_) LB_TRY(release(device));
    // Of devices that a death has left with a qdisc only.
    for (const auto& pinned : device_pins(record_.id, place_.directory))
      if (pinned.hook == kQdiscMark) release_qdisc(pinned.number);
    return ok();
  }));
  devices_.clear();
  events_.reset();
  if (!place_.directory.empty()) remove_pins(record_.id, place_.directory);
  return ok();
}

void DeviceAttachment::follow(const std::set<int>& gone) {
  if (!netns_) return;
  if (!tc_) return;  // could not be taken over
  const Status done = in_netns(netns_.get(), [&] { return sync(gone, false); });
  if (!done) failure_ = done.error();
}

bool DeviceAttachment::alive(const Device& device, const Placed& placed) const {
  if (placed.link) return linked_device(placed.link.get()) == static_cast<uint32_t>(device.number);
  const auto rows = list_filters(device.number, placed.hook == Hook::egress);
  if (!rows) return false;
  return std::any_of(rows->begin(), rows->end(), [&](const TcFilterRow& r) {
    return r.filter.priority == placed.filter->priority && r.filter.handle == placed.filter->handle && r.program;
  });
}

bool DeviceAttachment::whole(const Device& device) const {
  return device.placed.size() == hooks().size() && std::all_of(device.placed.begin(), device.placed.end(), [&](const Placed& p) { return alive(device, p); });
}

bool DeviceAttachment::has_gone(const Device& device) {
  char name[IF_NAMESIZE];
  const bool linked = std::any_of(device.placed.begin(), device.placed.end(), [](const Placed& p) { return p.link && linked_device(p.link.get()); });
  return !linked && !if_indextoname(static_cast<unsigned>(device.number), name);
}

bool DeviceAttachment::intact() const {
  if (!netns_ || failure_) return false;
  bool all = true;
  (void)in_netns(netns_.get(), [&]() -> Status {
    all = std::all_of(devices_.begin(), devices_.end(), [&](const Device& d) { return has_gone(d) || whole(d); });
    return ok();
  });
  return all;
}

AttachmentInfo DeviceAttachment::info() const {
  AttachmentInfo info{record_.id, record_.kind, record_.path, "", "lost", record_.options};
  if (record_.kind == AttachmentKind::tc) {
    info.mode = kernel_abilities().tcx ? "tcx" : "clsact";
  } else {
    std::set<std::string> modes;
    for (const auto& d : devices_)
      if (!d.mode.empty()) modes.insert(d.mode);
    info.mode = modes.size() == 1 ? *modes.begin() : modes.size() > 1 ? "native and generic" : record_.mode == XdpMode::any ? "auto" : record_.mode == XdpMode::native ? "native" : "generic";
  }
  if (!netns_) return info;
  (void)in_netns(netns_.get(), [&]() -> Status {
    size_t here = 0, whole_ones = 0;
    for (const auto& d : devices_) {
      if (has_gone(d)) continue;
      here++;
      whole_ones += whole(d);
    }
    info.state = failure_ || whole_ones < here ? "lost" : here ? "attached" : "waiting";
    return ok();
  });
  return info;
}

AttachmentInfo DeviceAttachment::describe(const AttachmentPlace& place, const AttachmentRecord& record) {
  DeviceAttachment a(place, record);
  if (a.enter()) (void)in_netns(a.netns_.get(), [&]() -> Status {
    a.adopt();
    return ok();
  });
  return a.info();
}

std::vector<Problem> DeviceAttachment::problems() const {
  std::vector<Problem> found;
  if (!netns_) {
    found.push_back({"ERR_NOT_FOUND", record_.path, "its network namespace is gone", std::string(operation()) + "() again, or detach() it"});
    return found;
  }
  (void)in_netns(netns_.get(), [&]() -> Status {
    find_problems(found);
    return ok();
  });
  return found;
}

void DeviceAttachment::find_problems(std::vector<Problem>& found) const {
  const std::string again = std::string(operation()) + "() again";
  if (failure_) found.push_back({failure_->code, record_.path, failure_->message, again});
  for (const auto& device : devices_) {
    if (has_gone(device)) continue;
    if (device.failure) {
      found.push_back({device.failure->code, device.name, device.failure->message, again});
      continue;
    }
    for (const Hook hook : hooks()) {
      const auto p = std::find_if(device.placed.begin(), device.placed.end(), [&](const Placed& have) { return have.hook == hook; });
      if (p == device.placed.end() || !alive(device, *p))
        found.push_back({"ERR_NOT_FOUND", device.name, std::string("lb_") + kHookNames[static_cast<int>(hook)] + " is no longer attached: something detached it", again});
    }
    check_forwarding(device, found);
  }
}

// What is balanced to another place than this node's own sockets is forwarded, and the kernel's own routing table says no while that is off.
void DeviceAttachment::check_forwarding(const Device& device, std::vector<Problem>& found) const {
  const lb_node* node = place_.maps.node;
  if (!node) return;
  for (const bool v6 : {false, true}) {
    const bool has_address = v6 ? node->address6[0] || node->address6[1] || node->address6[2] || node->address6[3] : node->address4 != 0;
    if (!has_address) continue;
    const std::string setting = std::string("net/") + (v6 ? "ipv6" : "ipv4") + "/conf/" + device.name + "/forwarding";
    FILE* file = fopen(("/proc/sys/" + setting).c_str(), "re");
    if (!file) continue;
    const int value = fgetc(file);
    fclose(file);
    if (value != '0') continue;
    found.push_back({"FORWARDING_OFF", device.name, std::string(v6 ? "IPv6" : "IPv4") + " forwarding is off on this device, so packets for backends are dropped",
                     "sysctl -w " + setting + "=1"});
  }
}

}  // namespace lb
