// SPDX-License-Identifier: Apache-2.0
#include "balancer.h"

#include <bpf/bpf.h>
#include <time.h>

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "commit.h"
#include "netns.h"

#ifndef BPF_FS_MAGIC
#define BPF_FS_MAGIC 0xcafe4a11
#endif

namespace lb {
namespace {

constexpr size_t kUnreported = 16;
constexpr auto kLockPoll = std::chrono::milliseconds(10);

bool on_bpffs(const std::string& path) {
  struct statfs fs;
  return statfs(path.c_str(), &fs) == 0 && static_cast<uint64_t>(fs.f_type) == BPF_FS_MAGIC;
}

// Makes what is missing of `path`, which must lie in a bpffs: nothing is made anywhere else.
Status make_directory(const std::string& path) {
  std::string there = path;
  while (access(there.c_str(), F_OK) && there.find('/', 1) != std::string::npos) there.erase(there.rfind('/'));
  if (!on_bpffs(there))
    return make_error("ERR_NOT_BPFFS", "open", path, "is not in a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf");
  for (size_t at = there.size(); at < path.size();) {
    at = std::min(path.find('/', at + 1), path.size());
    const std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), 0700) && errno != EEXIST)
      return kernel_error("open", part, errno, errno == EPERM ? "a name in a bpffs may not contain a dot" : "");
  }
  return ok();
}

// Is this still the directory of that name? close() with detach removes it.
bool is_at(const UniqueFd& fd, const std::string& path) {
  struct stat held, now;
  return fstat(fd.get(), &held) == 0 && stat(path.c_str(), &now) == 0 && held.st_dev == now.st_dev && held.st_ino == now.st_ino;
}

// One writer: a lock on the directory itself, which the kernel drops however its holder ends.
Result<UniqueFd> lock_directory(const std::string& path, uint32_t timeout_ms) {
  UniqueFd fd;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    if (!fd || !is_at(fd, path)) {
      LB_TRY(make_directory(path));
      fd = UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!fd && errno == ENOENT) continue;  // removed in between
      if (!fd) return kernel_error("open", path, errno);
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      if (is_at(fd, path)) return fd;
      continue;
    }
    if (errno != EWOULDBLOCK && errno != EINTR) return kernel_error("open", path, errno, "flock");
    if (std::chrono::steady_clock::now() >= deadline) {
      Error e = make_error("ERR_LOCKED", "open", path, "another process writes here; end it, wait longer with lockTimeoutMs, or open read-only");
      auto maps = Maps::present(path) ? Maps::find(path, true) : Result<Maps>(make_error("", "", "", ""));
      if (maps) e.details["pid"] = static_cast<double>(maps->control->owner);
      return e;
    }
    std::this_thread::sleep_for(kLockPoll);
  }
}

}  // namespace

#if LB_STOP_POINTS
// EBPF_LB_STOP_AFTER=N: the N-th write of a commit is this process's last.
void stop_point() {
  static const char* setting = getenv("EBPF_LB_STOP_AFTER");
  static std::atomic<long> left{setting ? atol(setting) : -1};
  if (left.load() < 0) return;
  if (left.fetch_sub(1) == 1) raise(SIGKILL);
}
#endif

Balancer::Balancer(const OpenOptions& options, Maps maps, std::unique_ptr<Indices> indices)
    : options_(options), maps_(std::move(maps)), frontends_(maps_), port_users_(65536 * LB_PORT_USES, 0), indices_(std::move(indices)) {
  indices_->on_rested([this](const Rested& r) {
    if (r.kind == IndexKind::backend) retire_counters(r.index, lb_backend_service(maps_.backends[r.index].word));
    if (r.kind == IndexKind::range_set) ranges_.remove(r.index);
    if (r.kind == IndexKind::service) maps_.failures[r.index] = maps_.failures[maps_.slot_count() + r.index] = 0;
    if (r.kind == IndexKind::service && maps_.refused) maps_.refused[r.index] = 0;
  });
  indices_->on_failure([this](const Error& e) {
    Error told = e;
    told.message += "; indices are not reused until the kernel grants one: see dmesg";
    report(told);
  });
}

Balancer::~Balancer() = default;

Result<std::unique_ptr<Balancer>> Balancer::open(const OpenOptions& options) {
  kernel_abilities();
  auto netns = open_netns("open", options.netns);
  if (!netns) return netns.error();
  if (!options.readonly) remove_dead_filters(netns->get());
  UniqueFd lock;
  const std::string& path = options.pin_path;
  if (!path.empty() && !options.readonly) {
    auto locked = lock_directory(path, options.lock_timeout_ms);
    if (!locked) return locked.error();
    lock = std::move(*locked);
  }
  if (options.readonly && !Maps::present(path)) {
    if (access(path.c_str(), F_OK) == 0 && !on_bpffs(path))
      return make_error("ERR_NOT_BPFFS", "open", path, "is not in a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf");
    return make_error("ERR_NOT_FOUND", "open", path, "no balancer is pinned there; open it for writing first");
  }
  bool existing = !path.empty() && Maps::present(path);
  if (existing) {
    auto maps = Maps::find(path, options.readonly);
    if (!maps) return maps.error();
    if (maps->control->leaving) {
      if (options.readonly) return make_error("ERR_NOT_FOUND", "open", path, "the balancer that is pinned there is being closed with detach; open it for writing first");
      LB_TRY(end_leaving(path, *maps, netns->get()));
      existing = false;
    }
  }
  if (existing || path.empty()) return open_locked(options, std::move(lock), std::move(*netns), existing);
  Maps::remove_pins(path);
  UniqueFd still_locked(fcntl(lock.get(), F_DUPFD_CLOEXEC, 0));
  auto opened = open_locked(options, std::move(lock), std::move(*netns), false);
  if (!opened) Maps::remove_pins(path);
  return opened;
}

// Ends a close() with detach that was cut off.
Status Balancer::end_leaving(const std::string& path, Maps& maps, int netns) {
  remove_stray_filters({maps, path, netns}, {});
  for (uint32_t id = 1; id < kAttachments; id++) Attachment::remove_pins(id, path);
  if (auto log = Log::open(path, maps, true)) {
    const LogContent content = log->read();
    for (const auto& [id, record] : content.attachments) Attachment::remove({maps, path, netns}, record);
    const PortSet reserved = parse_ports(content.reserved);
    if (!reserved.empty()) LB_TRY(reserve_ports(netns, {}, reserved));
  }
  Maps::remove_pins(path);
  return ok();
}

Result<std::unique_ptr<Balancer>> Balancer::open_locked(const OpenOptions& options, UniqueFd lock, UniqueFd netns, bool existing) {
  const std::string& path = options.pin_path;
  auto maps = existing ? Maps::find(path, options.readonly) : Maps::create(options.capacity, path);
  if (!maps) return maps.error();
  auto grace = GracePeriod::create();
  if (!grace) return grace.error();
  std::unique_ptr<Balancer> b(new Balancer(options, std::move(*maps), std::make_unique<Indices>(std::move(*grace))));
  b->lock_ = std::move(lock);
  b->netns_ = std::move(netns);
  if (options.readonly) return b;

  if (!path.empty()) {
    // A log missing beside a complete set of maps: creation died between the two, and nothing was ever committed.
    const bool has_log = access((path + "/log" + (b->maps_.control->log & 1 ? "1" : "0")).c_str(), F_OK) == 0;
    auto log = has_log || b->maps_.control->number ? Log::open(path, b->maps_, false) : Log::create(path, b->maps_);
    if (!log) return log.error();
    b->log_ = std::make_unique<Log>(std::move(*log));
  }
  b->maps_.control->owner = static_cast<__u64>(getpid());
  const auto cookie = netns_cookie(b->netns_.get());
  if (cookie) b->maps_.control->host_netns = *cookie;
  LB_TRY(b->recover());
  auto sweeper = SocketSweeper::create(b->maps_);
  if (!sweeper) return sweeper.error();
  Balancer* self = b.get();
  b->sweeps_ = std::make_unique<SweepThread>(std::move(*sweeper), [self](const Error& e) {
    Error told = e;
    told.message += "; UDP sockets of removed backends may be stuck: their programs must connect again";
    self->report(told);
  });
  auto tend_grace = GracePeriod::create();
  if (!tend_grace) return tend_grace.error();
  b->tend_grace_ = std::make_unique<GracePeriod>(std::move(*tend_grace));
  b->tends_ = std::make_unique<TendThread>([self] { return self->tend(); });
  b->tends_->wake();
  if (existing) {
    LB_TRY(b->resume_attachments());
    LB_TRY(b->drop_canary());
    b->sweeps_->request();
    b->sweeps_->request_ways();
    b->resume_resets();
  }
  return b;
}

void Balancer::on_failure(std::function<void(const Error&)> callback) {
  std::lock_guard lock(report_mutex_);
  on_failure_ = std::move(callback);
  if (!on_failure_) return;
  for (const auto& e : unreported_) on_failure_(e);
  unreported_.clear();
}

void Balancer::report(const Error& error) {
  std::lock_guard lock(report_mutex_);
  if (on_failure_)
    on_failure_(error);
  else if (unreported_.size() < kUnreported)
    unreported_.push_back(error);
}

// Callers hold life_ shared, so that what was open stays so until they are done.
Status Balancer::refuse_if_closed(const char* operation) const {
  if (closed_) return make_error("ERR_CLOSED", operation, options_.pin_path, "the balancer is closed");
  if (writer_left()) return make_error("ERR_CLOSED", operation, options_.pin_path, "the writer closed the balancer with detach, its pins are gone; open again");
  return ok();
}

Status Balancer::commit(CommitInput input) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("commit"));
  if (options_.readonly) return make_error("ERR_READONLY", "commit", options_.pin_path, "the balancer was opened read-only");
  return commit_locked(std::move(input));
}

Status Balancer::commit_locked(CommitInput input) {
  // What is kept for old flows alone makes room for what is asked for now.
  std::optional<CommitInput> again;
  if (!tended_.empty()) again = input;
  Commit commit(*this);
  Status staged = commit.stage(input);
  const bool full = !staged && staged.error().code == "ERR_CAPACITY";
  if (staged) staged = commit.write();
  if (!staged) {
    commit.abandon();
    if (full && again && fits_in_all(*again) && let_go_of_old()) return commit_locked(std::move(*again));
    return staged;
  }
  if (commit.needs_sweep()) sweeps_->request();
  if (commit.ports_changed()) reserve_or_report();
  return ok();
}

void Balancer::settle() {
  std::shared_lock alive(life_);
  if (!indices_) return;
  while (!indices_->idle() || (sweeps_ && sweeps_->busy()) || (tends_ && tends_->busy())) {
    if (!indices_->failure().empty()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Runs after a grace period: no program adds to these any more.
void Balancer::retire_counters(uint32_t backend, uint32_t service) {
  auto each = [&](auto visit) {
    for (uint32_t s = 0; s < maps_.stripes; s++) visit(maps_.usage[static_cast<size_t>(s) * maps_.backend_count() + backend]);
  };
  __u64 sum = 0;
  each([&](__u64& word) { sum += word; });
  if (!sum) return;
  __u64* turn = &maps_.control->retiring;
  __atomic_store_n(turn, *turn | 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  // Added first: a death in between counts them twice, which a sum that never goes down can bear.
  __atomic_fetch_add(&maps_.control->retired_connections, sum, __ATOMIC_RELAXED);
  if (service && service < maps_.slot_count())
    __atomic_fetch_add(&maps_.failures[maps_.slot_count() + service], sum, __ATOMIC_RELAXED);
  each([](__u64& word) { __atomic_store_n(&word, 0, __ATOMIC_RELAXED); });
  store_release(turn, *turn + 1);
}

// Of a backend that is about to be removed. Where this cannot be noted its connections go on, as they do by default.
void Balancer::note_reset(uint32_t backend, int32_t after) {
  if (after < 0) return;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint32_t seconds = static_cast<uint32_t>(now.tv_sec) + static_cast<uint32_t>(after);
  const __u64 word = lb_reset_word(lb_backend_ref(backend, lb_backend_generation(maps_.backends[backend].word)), seconds);
  if (bpf_map_update_elem(maps_.fd("lb_resets"), &backend, &word, BPF_ANY)) {
    report(kernel_error("commit", "map of resets", errno, "connections of removed backends go on"));
    return;
  }
  if (after > 0 && sweeps_) sweeps_->request_later(std::chrono::seconds(after));
}

// After open(): what is due later than now.
void Balancer::resume_resets() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint32_t at = 0, next = 0;
  const int fd = maps_.fd("lb_resets");
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    __u64 word = 0;
    if (bpf_map_lookup_elem(fd, &at, &word)) continue;
    const auto left = static_cast<int32_t>(lb_reset_seconds(word) - static_cast<uint32_t>(now.tv_sec));
    if (left > 0) sweeps_->request_later(std::chrono::seconds(left));
  }
}

void Balancer::count_ports(const Service& service, int by) {
  for (const auto& f : service.frontends)
    if (protects_port(f.kind)) port_users_[ntohs(f.key.port) * static_cast<size_t>(LB_PORT_USES) + static_cast<unsigned>(__builtin_ctz(port_bit(f.key)))] += static_cast<uint16_t>(by);
}

PortSet Balancer::protected_ports() const {
  PortSet ports;
  for (uint32_t i = 0; i < port_users_.size(); i++)
    if (port_users_[i]) ports.insert(static_cast<uint16_t>(i / LB_PORT_USES));
  return ports;
}

// What sockets of the node should not be given: node ports, and of packets the ports that translated sources get.
PortSet Balancer::kept_ports() const {
  PortSet ports = protected_ports();
  const auto is_device = [](const auto& a) { return a.second->record().kind != AttachmentKind::cgroup; };
  const bool translates = std::any_of(attachments_.begin(), attachments_.end(), is_device);
  if (!packets_filled_ || !translates || !maps_.node->snat_high) return ports;
  for (uint32_t port = maps_.node->snat_low; port <= maps_.node->snat_high; port++) ports.insert(static_cast<uint16_t>(port));
  return ports;
}

// Of a pinned balancer that is attached: ip_local_reserved_ports holds all of them that are in the local range. What is to be added is logged before it is
// written and what was removed after, so that the log never knows less than the kernel.
Status Balancer::reserve_kept_ports() {
  if (!log_ || !netns_) return ok();
  const PortSet wanted = attachments_.empty() ? PortSet{} : kept_ports();
  auto add = unreserved_ports(netns_.get(), wanted);
  if (!add) return add.error();
  PortSet remove, all = *add;
  for (const uint16_t port : reserved_ports_) (wanted.count(port) ? all : remove).insert(port);
  if (add->empty() && remove.empty()) return ok();
  auto record = [&](const PortSet& ports) {
    CommitInput input;
    input.has_reserved = true;
    input.reserved = format_ports(ports);
    reserved_ports_ = ports;
    return commit_locked(std::move(input));
  };
  PortSet known = all;
  known.insert(remove.begin(), remove.end());
  if (!add->empty()) LB_TRY(record(known));
  LB_TRY(reserve_ports(netns_.get(), *add, remove));
  return remove.empty() ? ok() : record(all);
}

// What asked for it has happened; that sockets may be given these ports is a problem of its own.
void Balancer::reserve_or_report() {
  const Status reserved = reserve_kept_ports();
  if (!reserved) report(reserved.error());
}

std::vector<LogRecord> Balancer::live_records() const {
  std::vector<LogRecord> records;
  if (!reserved_ports_.empty()) records.push_back({RecordType::reserved, 0, encode_text(format_ports(reserved_ports_))});
  if (has_settings_) records.push_back({RecordType::settings, 0, encode_text(settings_)});
  for (const auto& [id, a] : attachments_) records.push_back({RecordType::attach, id, encode_attachment(a->record())});
  for (const auto& [name, s] : services_) records.push_back({RecordType::put, s->id, encode_service(*s)});
  return records;
}

uint32_t Balancer::owner() const { return closed_ ? 0 : static_cast<uint32_t>(maps_.control->owner); }

// Waits for what other threads do with this object, then lets go of everything; the object stays as an empty shell.
Status Balancer::close(bool detach) {
  std::unique_ptr<TendThread> tends;
  {
    // Its thread may be waiting for life_.
    std::unique_ptr<DeviceWatch> watch;
    std::lock_guard lock(watching_);
    watch = std::move(watch_);
    tends = std::move(tends_);
  }
  tends.reset();
  std::unique_lock alone(life_);
  if (closed_) return ok();
  if (!options_.readonly) {
    // From here on it cannot be taken back: whoever opens next, after a death in between, goes on.
    if (detach && !options_.pin_path.empty()) store_release(&maps_.control->leaving, 1);
    stop_point();
    if (detach || options_.pin_path.empty())
      for (auto& [id, a] : attachments_) LB_TRY(a->detach());
    maps_.control->owner = 0;
    if (detach && !options_.pin_path.empty()) {
      if (!reserved_ports_.empty()) LB_TRY(reserve_ports(netns_.get(), {}, reserved_ports_));
      Maps::remove_pins(options_.pin_path);
      rmdir(options_.pin_path.c_str());
    }
  }
  closed_ = true;
  tend_grace_.reset();
  sweeps_.reset();
  indices_.reset();
  attachments_.clear();
  routes_.reset();
  decide_.reset();
  log_.reset();
  by_id_.clear();
  services_.clear();
  keys_.clear();
  maps_ = Maps{};
  lock_.reset();
  netns_.reset();
  on_failure(nullptr);
  return ok();
}

}  // namespace lb
