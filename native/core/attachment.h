// SPDX-License-Identifier: Apache-2.0
// The socket programs on one cgroup: loaded for it, linked, and pinned when the balancer is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "maps.h"
#include "model.h"
#include "objects.h"
#include "result.h"

namespace lb {

struct AttachmentInfo {
  uint32_t id = 0;
  std::string target, mode, state, options;
};

// cgroup v2 root from the mount table; ERR_UNSUPPORTED when there is none.
Result<std::string> cgroup_root();

class Attachment {
 public:
  // directory: of the pins, or empty. Loads the programs and links them, all or none.
  static Result<std::unique_ptr<Attachment>> create(const Maps& maps, const AttachmentRecord& record, const std::string& directory);
  // Takes over pinned links: newly loaded programs replace those that run, one atomic exchange for each hook.
  // What cannot be taken over is lost, for the reason that failure() says.
  static std::unique_ptr<Attachment> resume(const Maps& maps, const AttachmentRecord& record, const std::string& directory);
  // For observers: what the pins say.
  static AttachmentInfo describe(const AttachmentRecord& record, const std::string& directory);
  // Detaches what is pinned, whoever holds it.
  static void remove_pins(uint32_t id, const std::string& directory);

  // Other options: newly loaded programs replace those that run.
  Status replace(const Maps& maps, const AttachmentRecord& record);
  Status detach();
  AttachmentInfo info() const;
  const AttachmentRecord& record() const { return record_; }
  // Hooks whose link is no longer on the cgroup.
  std::vector<std::string> lost() const;
  const std::optional<Error>& failure() const { return failure_; }
  // Every hook is attached and runs this object's programs.
  bool whole() const { return !failure_ && lost().empty(); }

 private:
  explicit Attachment(AttachmentRecord record, std::string directory) : record_(std::move(record)), directory_(std::move(directory)) {}
  Status load(const Maps& maps);
  Status resume_hook(const std::string& name, UniqueFd& cgroup);
  // Says which namespaces the programs serve: `cookies` are those of the record.
  Status add_namespaces(const Maps& maps, const AttachmentRecord& record, std::vector<uint64_t>& cookies);
  void drop_namespaces(const Maps& maps, const AttachmentRecord& record, const std::vector<uint64_t>& cookies);
  std::string pin(const char* program) const;

  AttachmentRecord record_;
  std::string directory_;
  std::unique_ptr<Object> object_;
  std::vector<std::pair<std::string, UniqueFd>> links_;
  std::optional<Error> failure_;
};

}  // namespace lb
