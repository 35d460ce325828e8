// SPDX-License-Identifier: Apache-2.0
// The packet programs on a device, or on all devices that a pattern names, as they come and go: tc, and for XDP both.
#pragma once

#include <optional>

#include "attachment.h"
#include "tc_filter.h"

namespace lb {

class DeviceAttachment : public Attachment {
 public:
  static Result<std::unique_ptr<Attachment>> create(const AttachmentPlace& place, const AttachmentRecord& record);
  static std::unique_ptr<Attachment> resume(const AttachmentPlace& place, const AttachmentRecord& record);
  static void remove(const AttachmentPlace& place, const AttachmentRecord& record);
  static AttachmentInfo describe(const AttachmentPlace& place, const AttachmentRecord& record);
  static bool is_pattern(const std::string& name);
  static bool matches(const std::string& pattern, const std::string& name);

  Status replace(const AttachmentRecord& record) override;
  Status detach() override;
  AttachmentInfo info() const override;
  std::vector<Problem> problems() const override;
  bool intact() const override;
  int events() const override { return events_.get(); }
  void follow(const std::set<int>& gone) override;

 private:
  enum class Hook { egress, ingress, xdp };  // in the order in which they are put in place
  struct Placed {
    Hook hook;
    UniqueFd link;                   // tcx and XDP
    std::optional<TcFilter> filter;  // before tcx
  };
  struct Device {
    int number = 0;
    std::string name;
    std::vector<Placed> placed;
    std::string mode;  // of XDP
    std::optional<Error> failure;
  };
  using Names = std::vector<std::pair<int, std::string>>;

  using Attachment::Attachment;
  const char* operation() const { return record_.kind == AttachmentKind::xdp ? "attachXdp" : "attachTc"; }
  std::vector<Hook> hooks() const;
  std::string pin_of(const Device& device, const char* what) const;
  Status enter();
  // To be called before programs run.
  Status watch_routes() { return place_.routes->add(record_.id, netns_.get()); }
  Status load();
  int program(Hook hook) const;
  // These run on a thread in the devices' namespace.
  Names present() const;
  Status sync(const std::set<int>& gone, bool strict);
  Status put(Device& device, Hook hook);
  Status put_link(Device& device, Hook hook, Placed& placed);
  Status put_xdp(Device& device, Placed& placed);
  Status put_filter(Device& device, Hook hook, Placed& placed);
  Status release(Device& device);
  void adopt();
  void adopt_filters(Device& device);
  Status swap_programs();
  bool alive(const Device& device, const Placed& placed) const;
  bool whole(const Device& device) const;
  // Has it left, and its events are still on their way?
  static bool has_gone(const Device& device);
  uint32_t handle() const;
  // Filters stay when their process dies; those of a balancer without pins must let everything pass then.
  bool gated() const { return !kernel_abilities().tcx && place_.directory.empty(); }
  void release_qdisc(int device);
  void find_problems(std::vector<Problem>& found) const;
  void check_forwarding(const Device& device, std::vector<Problem>& found) const;

  UniqueFd netns_, events_;
  std::unique_ptr<Object> tc_, xdp_;
  std::vector<Device> devices_;
  std::set<int> made_qdiscs_;  // of a balancer without pins
};

}  // namespace lb
