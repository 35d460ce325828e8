// SPDX-License-Identifier: Apache-2.0
#include "cgroup_attachment.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "netns.h"
#include "stop_point.h"

namespace lb {
namespace {

bool on_cgroup2(const std::string& path) {
  struct statfs fs;
  return statfs(path.c_str(), &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

std::vector<std::string> program_names() {
  return {"lb_connect4", "lb_connect6", "lb_sendmsg4", "lb_sendmsg6", "lb_recvmsg4", "lb_recvmsg6",
          "lb_getpeername4", "lb_getpeername6", "lb_bind4", "lb_bind6", "lb_sock_release"};
}

Error link_error(const char* operation, const std::string& object, int err) {
  Error e = kernel_error(operation, object, err, err == EPERM ? "another program holds this hook without BPF_F_ALLOW_MULTI; see: bpftool cgroup show" : "");
  if (err == EPERM) e.code = "ERR_HOOK_BUSY";
  return e;
}

// A cgroup link whose cgroup is gone says cgroup id 0.
bool link_alive(int fd) {
  bpf_link_info info{};
  __u32 length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 && info.cgroup.cgroup_id != 0;
}

}  // namespace

Result<std::string> cgroup_root() {
  std::ifstream mounts("/proc/self/mountinfo");
  std::string line;
  while (std::getline(mounts, line)) {
    const size_t dash = line.find(" - cgroup2 ");
    if (dash == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    return point;
  }
  return make_error("ERR_UNSUPPORTED", "attachCgroup", "", "no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup");
}

Status CgroupAttachment::add_namespaces(const AttachmentRecord& record, std::vector<uint64_t>& cookies) {
  const int fd = place_.maps.fd("lb_netns");
  for (const auto& path : record.netns) {
    if (path.empty() && place_.maps.control->host_netns) {
      cookies.push_back(place_.maps.control->host_netns);
      continue;
    }
    auto netns = open_netns("attachCgroup", path);
    if (!netns) return netns.error();
    auto cookie = netns_cookie(netns->get());
    if (!cookie) return cookie.error();
    cookies.push_back(*cookie);
  }
  for (const uint64_t cookie : cookies) {
    const lb_netns_key key{cookie, record.id, 0};
    const uint8_t one = 1;
    if (bpf_map_update_elem(fd, &key, &one, BPF_ANY)) return kernel_error("attachCgroup", "map lb_netns", errno);
  }
  return ok();
}

// Others of this id are of earlier options, or of an attachment that had the id before.
void CgroupAttachment::drop_namespaces(const AttachmentRecord& record, const std::vector<uint64_t>& cookies) {
  const int fd = place_.maps.fd("lb_netns");
  std::vector<lb_netns_key> stale;
  lb_netns_key at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    if (at.attachment == record.id && std::find(cookies.begin(), cookies.end(), at.cookie) == cookies.end()) stale.push_back(at);
  }
  for (const auto& key : stale) bpf_map_delete_elem(fd, &key);
}

Status CgroupAttachment::load() {
  auto object = Object::open("socket_lb");
  if (!object) return object.error();
  LB_TRY(place_.maps.lend(*object));
  object->set_config("lb_attachment", record_.id);
  object->set_config("lb_all_namespaces", record_.netns.empty());
  LB_TRY(object->load("attachCgroup", record_.path));
  object_ = std::make_unique<Object>(std::move(*object));
  return ok();
}

Result<std::unique_ptr<Attachment>> CgroupAttachment::create(const AttachmentPlace& place, const AttachmentRecord& record) {
  std::unique_ptr<CgroupAttachment> a(new CgroupAttachment(place, record));
  UniqueFd cgroup(open(record.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) {
    Error e = kernel_error("attachCgroup", record.path, errno, "give a directory of the cgroup v2 hierarchy");
    if (errno == ENOENT || errno == ENOTDIR) e.code = "ERR_NOT_FOUND";
    return e;
  }
  if (!on_cgroup2(record.path))
    return make_error("ERR_INVALID_ARGUMENT", "attachCgroup", record.path, "is not a cgroup v2 directory; find the hierarchy with: findmnt -t cgroup2");
  std::vector<uint64_t> cookies;
  LB_TRY(a->add_namespaces(record, cookies));
  a->drop_namespaces(record, cookies);
  LB_TRY(a->load());
  // Programs that forget come before those that remember, so that no record is left behind by an attachment that fails half-way.
  std::vector<std::string> names = program_names();
  std::rotate(names.rbegin(), names.rbegin() + 1, names.rend());
  for (const auto& name : names) {
    bpf_program* program = a->object_->program(name.c_str());
    if (!program) continue;
    const int fd = bpf_link_create(bpf_program__fd(program), cgroup.get(), bpf_program__expected_attach_type(program), nullptr);
    if (fd < 0) {
      Error e = link_error("attachCgroup", record.path + " " + name, errno);
      (void)a->detach();
      return e;
    }
    a->links_.emplace_back(name, UniqueFd(fd));
    if (place.directory.empty()) continue;
    unlink(a->pin(name.substr(3)).c_str());
    if (bpf_obj_pin(fd, a->pin(name.substr(3)).c_str())) {
      Error e = kernel_error("attachCgroup", a->pin(name.substr(3)), errno);
      (void)a->detach();
      return e;
    }
  }
  return std::unique_ptr<Attachment>(std::move(a));
}

Status CgroupAttachment::resume_hook(const std::string& name, UniqueFd& cgroup) {
  const std::string path = pin(name.substr(3));
  bpf_program* program = object_ ? object_->program(name.c_str()) : nullptr;
  UniqueFd link(bpf_obj_get(path.c_str()));
  if (link && link_alive(link.get())) {
    const int err = program && bpf_link_update(link.get(), bpf_program__fd(program), nullptr) ? errno : 0;
    links_.emplace_back(name, std::move(link));
    return err ? Status(kernel_error("open", path, err)) : ok();
  }
  if (!program) return ok();
  if (!cgroup) cgroup = UniqueFd(::open(record_.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup || !on_cgroup2(record_.path)) return ok();  // reported as lost
  // A death between the links of one attachment: the missing ones are made now.
  UniqueFd made(bpf_link_create(bpf_program__fd(program), cgroup.get(), bpf_program__expected_attach_type(program), nullptr));
  if (!made) return link_error("open", record_.path + " " + name, errno);
  unlink(path.c_str());
  if (bpf_obj_pin(made.get(), path.c_str())) return kernel_error("open", path, errno);
  links_.emplace_back(name, std::move(made));
  return ok();
}

std::unique_ptr<Attachment> CgroupAttachment::resume(const AttachmentPlace& place, const AttachmentRecord& record) {
  std::unique_ptr<CgroupAttachment> a(new CgroupAttachment(place, record));
  auto note = [&](const Status& done) {
    if (!done && !a->failure_) a->failure_ = done.error();
  };
  note(a->load());
  UniqueFd cgroup;
  for (const auto& name : program_names()) note(a->resume_hook(name, cgroup));
  return a;
}

Status CgroupAttachment::replace(const AttachmentRecord& record) {
  CgroupAttachment next(place_, record);
  std::vector<uint64_t> cookies;
  LB_TRY(next.add_namespaces(record, cookies));
  LB_TRY(next.load());
  for (const auto& [name, link] : links_)
    if (bpf_link_update(link.get(), bpf_program__fd(next.object_->program(name.c_str())), nullptr)) return kernel_error("attachCgroup", record.path + " " + name, errno);
  // The programs that ran until now needed them.
  next.drop_namespaces(record, cookies);
  object_ = std::move(next.object_);
  record_ = record;
  return ok();
}

void CgroupAttachment::remove_pins(uint32_t id, const std::string& directory) {
  const Maps none;
  CgroupAttachment a({none, directory, -1}, AttachmentRecord{id, {}, {}, {}});
  for (const auto& name : program_names())
    if (UniqueFd link(bpf_obj_get(a.pin(name.substr(3)).c_str())); link) a.links_.emplace_back(name, std::move(link));
  (void)a.detach();
  for (const auto& name : program_names()) unlink(a.pin(name.substr(3)).c_str());
}

// Those that forget go last: what one that remembers writes meanwhile is given back by the release hook.
Status CgroupAttachment::detach() {
  for (const auto& name : program_names()) {
    const auto link = std::find_if(links_.begin(), links_.end(), [&](const auto& l) { return l.first == name; });
    if (link == links_.end()) continue;
    // Detached for certain, even where another process still holds a descriptor of the link.
    if (bpf_link_detach(link->second.get()) && errno != ENOLINK && errno != EOPNOTSUPP && errno != ENOENT)
      return kernel_error("detach", record_.path + " " + name, errno);
    stop_point();
    if (!place_.directory.empty()) unlink(pin(name.substr(3)).c_str());
    stop_point();
    links_.erase(link);
  }
  return ok();
}

std::vector<std::string> CgroupAttachment::lost() const {
  std::vector<std::string> names;
  for (const auto& name : program_names()) {
    const auto link = std::find_if(links_.begin(), links_.end(), [&](const auto& l) { return l.first == name; });
    if (link == links_.end() ? (!object_ || object_->program(name.c_str())) : !link_alive(link->second.get())) names.push_back(name);
  }
  return names;
}

std::vector<Problem> CgroupAttachment::problems() const {
  std::vector<Problem> found;
  if (failure_) found.push_back({failure_->code, record_.path, "could not be taken over: " + failure_->object + ": " + failure_->message, "attachCgroup() again, when the cause is gone"});
  for (const auto& hook : lost())
    found.push_back({"ERR_NOT_FOUND", record_.path, hook + " is no longer attached: the cgroup is gone, or something detached it", "attachCgroup() again"});
  return found;
}

AttachmentInfo CgroupAttachment::info() const {
  return {record_.id, AttachmentKind::cgroup, record_.path, "cgroup", intact() ? "attached" : "lost", record_.options};
}

AttachmentInfo CgroupAttachment::describe(const AttachmentPlace& place, const AttachmentRecord& record) {
  CgroupAttachment a(place, record);
  bool alive = true;
  for (const auto& name : program_names()) {
    UniqueFd link(bpf_obj_get(a.pin(name.substr(3)).c_str()));
    alive = alive && link && link_alive(link.get());
  }
  return {record.id, AttachmentKind::cgroup, record.path, "cgroup", alive ? "attached" : "lost", record.options};
}

}  // namespace lb
