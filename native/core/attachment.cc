// SPDX-License-Identifier: Apache-2.0
#include "attachment.h"

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

std::string Attachment::pin(const char* program) const {
  return directory_ + "/link_" + std::to_string(record_.id) + "_" + (program + 3);
}

Status Attachment::add_namespaces(const Maps& maps, const AttachmentRecord& record, std::vector<uint64_t>& cookies) {
  const int fd = maps.fd("lb_netns");
  for (const auto& path : record.netns) {
    if (path.empty() && maps.control->host_netns) {
      cookies.push_back(maps.control->host_netns);
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
void Attachment::drop_namespaces(const Maps& maps, const AttachmentRecord& record, const std::vector<uint64_t>& cookies) {
  const int fd = maps.fd("lb_netns");
  std::vector<lb_netns_key> stale;
  lb_netns_key at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    if (at.attachment == record.id && std::find(cookies.begin(), cookies.end(), at.cookie) == cookies.end()) stale.push_back(at);
  }
  for (const auto& key : stale) bpf_map_delete_elem(fd, &key);
}

Status Attachment::load(const Maps& maps) {
  auto object = Object::open("socket_lb");
  if (!object) return object.error();
  LB_TRY(maps.lend(*object));
  object->set_config("lb_attachment", record_.id);
  object->set_config("lb_all_namespaces", record_.netns.empty());
  LB_TRY(object->load("attachCgroup", record_.path));
  object_ = std::make_unique<Object>(std::move(*object));
  return ok();
}

Result<std::unique_ptr<Attachment>> Attachment::create(const Maps& maps, const AttachmentRecord& record, const std::string& directory) {
  std::unique_ptr<Attachment> a(new Attachment(record, directory));
  UniqueFd cgroup(open(record.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) {
    Error e = kernel_error("attachCgroup", record.path, errno, "give a directory of the cgroup v2 hierarchy");
    if (errno == ENOENT || errno == ENOTDIR) e.code = "ERR_NOT_FOUND";
    return e;
  }
  if (!on_cgroup2(record.path))
    return make_error("ERR_INVALID_ARGUMENT", "attachCgroup", record.path, "is not a cgroup v2 directory; find the hierarchy with: findmnt -t cgroup2");
  std::vector<uint64_t> cookies;
  LB_TRY(a->add_namespaces(maps, record, cookies));
  a->drop_namespaces(maps, record, cookies);
  LB_TRY(a->load(maps));
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
    if (directory.empty()) continue;
    unlink(a->pin(name.c_str()).c_str());
    if (bpf_obj_pin(fd, a->pin(name.c_str()).c_str())) {
      Error e = kernel_error("attachCgroup", a->pin(name.c_str()), errno);
      (void)a->detach();
      return e;
    }
  }
  return a;
}

Status Attachment::resume_hook(const std::string& name, UniqueFd& cgroup) {
  const std::string path = pin(name.c_str());
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

std::unique_ptr<Attachment> Attachment::resume(const Maps& maps, const AttachmentRecord& record, const std::string& directory) {
  std::unique_ptr<Attachment> a(new Attachment(record, directory));
  auto note = [&](const Status& done) {
    if (!done && !a->failure_) a->failure_ = done.error();
  };
  note(a->load(maps));
  UniqueFd cgroup;
  for (const auto& name : program_names()) note(a->resume_hook(name, cgroup));
  return a;
}

Status Attachment::replace(const Maps& maps, const AttachmentRecord& record) {
  Attachment next(record, directory_);
  std::vector<uint64_t> cookies;
  LB_TRY(next.add_namespaces(maps, record, cookies));
  LB_TRY(next.load(maps));
  for (const auto& [name, link] : links_)
    if (bpf_link_update(link.get(), bpf_program__fd(next.object_->program(name.c_str())), nullptr)) return kernel_error("attachCgroup", record.path + " " + name, errno);
  // The programs that ran until now needed them.
  next.drop_namespaces(maps, record, cookies);
  object_ = std::move(next.object_);
  record_ = record;
  return ok();
}

void Attachment::remove_pins(uint32_t id, const std::string& directory) {
  Attachment a(AttachmentRecord{id, {}, {}, {}}, directory);
  for (const auto& name : program_names())
    if (UniqueFd link(bpf_obj_get(a.pin(name.c_str()).c_str())); link) a.links_.emplace_back(name, std::move(link));
  (void)a.detach();
  for (const auto& name : program_names()) unlink(a.pin(name.c_str()).c_str());
}

// Those that forget go last: what one that remembers writes meanwhile is given back by the release hook.
Status Attachment::detach() {
  for (const auto& name : program_names()) {
    const auto link = std::find_if(links_.begin(), links_.end(), [&](const auto& l) { return l.first == name; });
    if (link == links_.end()) continue;
    // Detached for certain, even where another process still holds a descriptor of the link.
    if (bpf_link_detach(link->second.get()) && errno != ENOLINK && errno != EOPNOTSUPP && errno != ENOENT)
      return kernel_error("detach", record_.path + " " + name, errno);
    stop_point();
    if (!directory_.empty()) unlink(pin(name.c_str()).c_str());
    stop_point();
    links_.erase(link);
  }
  return ok();
}

std::vector<std::string> Attachment::lost() const {
  std::vector<std::string> names;
  for (const auto& name : program_names()) {
    const auto link = std::find_if(links_.begin(), links_.end(), [&](const auto& l) { return l.first == name; });
    if (link == links_.end() ? (!object_ || object_->program(name.c_str())) : !link_alive(link->second.get())) names.push_back(name);
  }
  return names;
}

AttachmentInfo Attachment::info() const {
  return {record_.id, record_.path, "cgroup", whole() ? "attached" : "lost", record_.options};
}

AttachmentInfo Attachment::describe(const AttachmentRecord& record, const std::string& directory) {
  Attachment a(record, directory);
  bool alive = true;
  for (const auto& name : program_names()) {
    UniqueFd link(bpf_obj_get(a.pin(name.c_str()).c_str()));
    alive = alive && link && link_alive(link.get());
  }
  return {record.id, record.path, "cgroup", alive ? "attached" : "lost", record.options};
}

}  // namespace lb
