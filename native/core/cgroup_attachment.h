// SPDX-License-Identifier: Apache-2.0
// The socket programs on one cgroup: loaded for it, linked, and pinned when the balancer is.
#pragma once

#include <utility>

#include "attachment.h"

namespace lb {

class CgroupAttachment : public Attachment {
 public:
  static Result<std::unique_ptr<Attachment>> create(const AttachmentPlace& place, const AttachmentRecord& record);
  static std::unique_ptr<Attachment> resume(const AttachmentPlace& place, const AttachmentRecord& record);
  static void remove_pins(uint32_t id, const std::string& directory);
  static AttachmentInfo describe(const AttachmentPlace& place, const AttachmentRecord& record);

  Status replace(const AttachmentRecord& record) override;
  Status detach() override;
  AttachmentInfo info() const override;
  std::vector<Problem> problems() const override;
  bool intact() const override { return !failure_ && lost().empty(); }

 private:
  using Attachment::Attachment;
  Status load();
  Status resume_hook(const std::string& name, UniqueFd& cgroup);
  // Says which namespaces the programs serve: `cookies` are those of the record.
  Status add_namespaces(const AttachmentRecord& record, std::vector<uint64_t>& cookies);
  void drop_namespaces(const AttachmentRecord& record, const std::vector<uint64_t>& cookies);
  // Hooks whose link is no longer on the cgroup.
  std::vector<std::string> lost() const;

  std::unique_ptr<Object> object_;
  std::vector<std::pair<std::string, UniqueFd>> links_;
};

}  // namespace lb
