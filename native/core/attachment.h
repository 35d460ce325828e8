// SPDX-License-Identifier: Apache-2.0
// A place where programs of a balancer run: the sockets of a cgroup (cgroup_attachment.cc), or devices (device_attachment.cc).
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "maps.h"
#include "model.h"
#include "objects.h"
#include "result.h"
#include "route_watch.h"

namespace lb {

inline constexpr uint32_t kAttachments = 64;  // bits of lb_control.attachments

struct AttachmentInfo {
  uint32_t id = 0;
  AttachmentKind kind = AttachmentKind::cgroup;
  std::string target, mode, state, options;
};

// cgroup v2 root from the mount table; ERR_UNSUPPORTED when there is none.
Result<std::string> cgroup_root();

// What an attachment works with: the balancer's maps, its pins (empty: none), its own network namespace, and who watches routes (null:
// nobody yet).
struct AttachmentPlace {
  const Maps& maps;
  std::string directory;
  int netns;
  RouteWatch* routes;
};

class Attachment {
 public:
  // Loads the programs and puts them in place, all or none.
  static Result<std::unique_ptr<Attachment>> create(const AttachmentPlace& place, const AttachmentRecord& record);
  // Takes over what is pinned: newly loaded programs replace those that run, one atomic exchange for each hook.
  // What cannot be taken over is lost, for the reason that problems() says.
  static std::unique_ptr<Attachment> resume(const AttachmentPlace& place, const AttachmentRecord& record);
  // Takes it out, whoever holds it, without loading anything.
  static void remove(const AttachmentPlace& place, const AttachmentRecord& record);
  // For observers: what the pins say.
  static AttachmentInfo describe(const AttachmentPlace& place, const AttachmentRecord& record);
  // Detaches what is pinned, whoever holds it.
  static void remove_pins(uint32_t id, const std::string& directory);

  virtual ~Attachment() = default;
  // Other options: newly loaded programs replace those that run.
  virtual Status replace(const AttachmentRecord& record) = 0;
  virtual Status detach() = 0;
  virtual AttachmentInfo info() const = 0;
  // What is wrong with it.
  virtual std::vector<Problem> problems() const = 0;
  // Is every program where it was put, and this object's?
  virtual bool intact() const = 0;
  // Devices: a socket that tells when some come and go; -1: none.
  virtual int events() const { return -1; }
  // Devices have come or gone; `gone`: their numbers.
  virtual void follow(const std::set<int>& gone) { (void)gone; }
  const AttachmentRecord& record() const { return record_; }

 protected:
  Attachment(const AttachmentPlace& place, AttachmentRecord record) : place_(place), record_(std::move(record)) {}
  std::string pin(const std::string& hook) const;

  AttachmentPlace place_;
  AttachmentRecord record_;
  std::optional<Error> failure_;  // of what no caller waited for
};

// Before tcx: filters of programs with our maps in the balancer's own namespace, of attachments that are none of `known`, and the qdiscs that those
// have made; before their pins are removed.
void remove_stray_filters(const AttachmentPlace& place, const std::set<uint32_t>& known);
// Before tcx: filters in a namespace that a process without pins left when it died. They let everything pass.
void remove_dead_filters(int netns);

}  // namespace lb
