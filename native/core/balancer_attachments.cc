// SPDX-License-Identifier: Apache-2.0
// Where a balancer's programs run: attaching, detaching, taking over, following devices.
#include <sys/stat.h>

#include <algorithm>

#include "balancer.h"
#include "netns.h"

namespace lb {
namespace {

bool is_device(const AttachmentRecord& record) { return record.kind != AttachmentKind::cgroup; }

const char* operation_of(AttachmentKind kind) {
  switch (kind) {
    case AttachmentKind::cgroup: return "attachCgroup";
    case AttachmentKind::tc: return "attachTc";
    case AttachmentKind::xdp: return "attachXdp";
  }
  return "attach";
}

}  // namespace

void Balancer::mark_attached(uint32_t id, bool on) {
  const __u64 bit = 1ull << id;
  store_release(&maps_.control->attachments, on ? maps_.control->attachments | bit : maps_.control->attachments & ~bit);
}

// Paths may differ and mean the same namespace.
bool Balancer::same_netns(const AttachmentRecord& a, const AttachmentRecord& b) const {
  auto identity = [&](const AttachmentRecord& r) -> std::pair<dev_t, ino_t> {
    struct stat st {};
    const std::string path = r.netns.empty() ? "" : r.netns.front();
    if (path.empty() ? fstat(netns_.get(), &st) : stat(path.c_str(), &st)) return {0, 0};
    return {st.st_dev, st.st_ino};
  };
  return a.netns == b.netns || identity(a) == identity(b);
}

// The id of the attachment that is there already, or a new one.
Result<uint32_t> Balancer::find_attachment(const char* operation, const AttachmentRecord& record, bool& known) {
  for (const auto& [id, a] : attachments_) {
    if (a->record().kind != record.kind || a->record().path != record.path) continue;
    if (is_device(record) && !same_netns(a->record(), record)) continue;
    known = true;
    return id;
  }
  known = false;
  // First in, first out: what a socket remembers of an attachment that is gone should not meet its successor.
  for (uint32_t n = 1; n < kAttachments; n++)
    if (const uint32_t id = (last_attachment_ + n - 1) % (kAttachments - 1) + 1; !attachments_.count(id)) return last_attachment_ = id;
  Error e = make_error("ERR_CAPACITY", operation, record.path, "needs " + std::to_string(kAttachments) + " attachments, has room for " + std::to_string(kAttachments - 1) + "; detach one");
  e.details["need"] = static_cast<double>(kAttachments);
  e.details["have"] = static_cast<double>(kAttachments - 1);
  e.details["option"] = std::string("attachments");
  return e;
}

Result<AttachmentInfo> Balancer::attach(AttachmentRecord record) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  const char* operation = operation_of(record.kind);
  LB_TRY(refuse_if_closed(operation));
  if (options_.readonly) return make_error("ERR_READONLY", operation, record.path, "the balancer was opened read-only");
  if (!is_device(record))
    while (record.path.size() > 1 && record.path.back() == '/') record.path.pop_back();  // one cgroup is one attachment
  auto attached = attach_locked(operation, std::move(record));
  if (!attached && attached.error().operation != "commit") attached.error().operation = operation;
  return attached;
}

Result<AttachmentInfo> Balancer::attach_locked(const char* operation, AttachmentRecord record) {
  if (is_device(record)) LB_TRY(ensure_packets());
  bool known = false;
  const auto id = find_attachment(operation, record, known);
  if (!id) return id.error();
  record.id = *id;
  Attachment* same = known ? attachments_[*id].get() : nullptr;

  std::unique_ptr<Attachment> made;
  if (same && same->intact()) {
    const AttachmentRecord& before = same->record();
    if (before.netns == record.netns && before.options == record.options && before.role == record.role && before.mode == record.mode) return same->info();
    LB_TRY(same->replace(record));
  } else {
    if (same) {
      std::lock_guard watching(watching_);
      if (watch_) watch_->remove(record.id);
      LB_TRY(same->detach());
    }
    // Before the first connection can be translated twice: see "nested" in bpf/include/sockets.h.
    if (!is_device(record)) mark_attached(record.id, true);
    auto created = Attachment::create(place(), record);
    if (!created) {
      if (routes_) routes_->remove(record.id);
      mark_attached(record.id, false);
      return created.error();
    }
    made = std::move(*created);
  }
  CommitInput input;
  input.attach.push_back(record);
  const Status logged = commit_locked(std::move(input));
  if (!logged) {
    if (made) (void)made->detach();
    if (made && routes_) routes_->remove(record.id);
    if (made) mark_attached(record.id, false);
    return logged.error();
  }
  if (made) {
    watch(*made);
    attachments_[record.id] = std::move(made);
  }
  reserve_or_report();
  return attachments_[record.id]->info();
}

Status Balancer::detach(uint32_t id) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("detach"));
  const auto it = attachments_.find(id);
  if (it == attachments_.end()) return ok();
  // The log first: a death behind it leaves pins that no record names, which the next open removes.
  CommitInput input;
  input.detach.push_back(id);
  LB_TRY(commit_locked(std::move(input)));
  {
    std::lock_guard watching(watching_);
    if (watch_) watch_->remove(id);
  }
  LB_TRY(it->second->detach());
  if (routes_) routes_->remove(id);
  const bool had_sockets = it->second->record().kind == AttachmentKind::cgroup;
  mark_attached(id, false);
  attachments_.erase(it);
  if (had_sockets) sweeps_->request_ways();
  reserve_or_report();
  return ok();
}

std::vector<AttachmentInfo> Balancer::attachments() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  std::vector<AttachmentInfo> rows;
  if (closed_) return rows;
  if (options_.readonly) {
    auto content = read_log();
    if (!content) return rows;
    for (const auto& [id, record] : content->attachments) rows.push_back(Attachment::describe(place(), record));
  } else {
    for (const auto& [id, a] : attachments_) rows.push_back(a->info());
  }
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return rows;
}

Status Balancer::resume_attachments() {
  attachments_.clear();
  __u64 live = 0;
  std::set<uint32_t> known;
  LogContent content = log_->read();
  for (const auto& [id, record] : content.attachments) {
    if (is_device(record)) LB_TRY(ensure_packets());
    attachments_[id] = Attachment::resume(place(), record);
    watch(*attachments_[id]);
    known.insert(id);
    if (is_device(record)) continue;
    remove_stale_canaries(record.path);
    live |= 1ull << id;
  }
  // Links of an attachment that no committed record names.
  if (maps_.has_packets()) remove_stray_filters(place(), known);
  for (uint32_t id = 1; id < kAttachments; id++)
    if (!content.attachments.count(id)) Attachment::remove_pins(id, options_.pin_path);
  store_release(&maps_.control->attachments, live);
  reserve_or_report();
  return ok();
}

void Balancer::watch(const Attachment& attachment) {
  if (attachment.events() < 0) return;
  std::lock_guard lock(watching_);
  if (!watch_) watch_ = std::make_unique<DeviceWatch>([this](uint32_t id, const std::set<int>& gone) { devices_changed(id, gone); });
  watch_->add(attachment.record().id, attachment.events());
}

void Balancer::devices_changed(uint32_t id, const std::set<int>& gone) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  if (closed_) return;
  const auto it = attachments_.find(id);
  if (it != attachments_.end()) it->second->follow(gone);
}

}  // namespace lb
