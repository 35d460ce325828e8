// SPDX-License-Identifier: Apache-2.0
#include "attachment.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <unistd.h>

#include <algorithm>

#include "cgroup_attachment.h"
#include "device_attachment.h"
#include "stop_point.h"

namespace lb {
namespace {

bool is_device(const AttachmentRecord& record) { return record.kind != AttachmentKind::cgroup; }

}  // namespace

Result<std::unique_ptr<Attachment>> Attachment::create(const AttachmentPlace& place, const AttachmentRecord& record) {
  return is_device(record) ? DeviceAttachment::create(place, record) : CgroupAttachment::create(place, record);
}

std::unique_ptr<Attachment> Attachment::resume(const AttachmentPlace& place, const AttachmentRecord& record) {
  return is_device(record) ? DeviceAttachment::resume(place, record) : CgroupAttachment::resume(place, record);
}

AttachmentInfo Attachment::describe(const AttachmentPlace& place, const AttachmentRecord& record) {
  return is_device(record) ? DeviceAttachment::describe(place, record) : CgroupAttachment::describe(place, record);
}

// link_ID_HOOK; of devices link_ID_NUMBER_HOOK.
std::string Attachment::pin(const std::string& hook) const { return place_.directory + "/link_" + std::to_string(record_.id) + "_" + hook; }

void Attachment::remove_pins(uint32_t id, const std::string& directory) {
  const std::string prefix = "link_" + std::to_string(id) + "_";
  std::vector<std::string> names;
  DIR* dir = opendir(directory.c_str());
  if (!dir) return;
  while (const dirent* entry = readdir(dir))
    if (std::string_view(entry->d_name).substr(0, prefix.size()) == prefix) names.emplace_back(entry->d_name);
  closedir(dir);
  // The release hook of sockets goes last: what one that remembers writes meanwhile is given back by it.
  std::stable_partition(names.begin(), names.end(), [](const std::string& n) { return n.find("_sock_release") == std::string::npos; });
  for (const auto& name : names) {
    const std::string path = directory + "/" + name;
    if (UniqueFd link(bpf_obj_get(path.c_str())); link) bpf_link_detach(link.get());
    stop_point();
    if (unlink(path.c_str())) rmdir(path.c_str());  // a mark that a qdisc is ours is a directory
  }
}

}  // namespace lb
