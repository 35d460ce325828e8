// SPDX-License-Identifier: Apache-2.0
#include "attachment.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <unistd.h>

#include "cgroup_attachment.h"
#include "device_attachment.h"

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

void Attachment::remove(const AttachmentPlace& place, const AttachmentRecord& record) {
  if (is_device(record)) DeviceAttachment::remove(place, record);
  remove_pins(record.id, place.directory);
}

// link_ID_HOOK; of devices link_ID_NUMBER_HOOK.
std::string Attachment::pin(const std::string& hook) const { return place_.directory + "/link_" + std::to_string(record_.id) + "_" + hook; }

void Attachment::remove_pins(uint32_t id, const std::string& directory) {
  CgroupAttachment::remove_pins(id, directory);
  const std::string prefix = "link_" + std::to_string(id) + "_";
  std::vector<std::string> names;
  DIR* dir = opendir(directory.c_str());
  if (!dir) return;
  while (const dirent* entry = readdir(dir))
    if (std::string_view(entry->d_name).substr(0, prefix.size()) == prefix) names.emplace_back(entry->d_name);
  closedir(dir);
  for (const auto& name : names) {
    const std::string path = directory + "/" + name;
    if (UniqueFd link(bpf_obj_get(path.c_str())); link) bpf_link_detach(link.get());
    if (unlink(path.c_str())) rmdir(path.c_str());  // a mark that a qdisc is ours is a directory
  }
}

}  // namespace lb
