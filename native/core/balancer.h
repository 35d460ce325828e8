// SPDX-License-Identifier: Apache-2.0
// One balancer: its maps, its log, what it believes, and every change of it as a numbered commit. Thread-safe: one lock, held for a whole commit.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "attachment.h"
#include "device_watch.h"
#include "frontend_table.h"
#include "indices.h"
#include "log.h"
#include "maps.h"
#include "model.h"
#include "node_ports.h"
#include "packet_settings.h"
#include "ranges.h"
#include "result.h"
#include "sockets.h"
#include "tend_thread.h"
#include "stop_point.h"

namespace lb {

struct OpenOptions {
  std::string pin_path;  // empty: nothing outlives the process
  bool readonly = false;
  std::string netns;  // path; empty: the caller's
  Capacity capacity;
  uint32_t lock_timeout_ms = 0;
};

struct Snapshot {
  uint64_t number = 0;
  std::vector<Service> services;
  std::string settings;
  bool has_settings = false;
};

struct Needs {
  uint32_t frontends = 0, backends = 0, cells = 0;
  Needs& operator+=(const Needs& o) {
    frontends += o.frontends, backends += o.backends, cells += o.cells;
    return *this;
  }
  Needs& operator-=(const Needs& o) {
    frontends -= o.frontends, backends -= o.backends, cells -= o.cells;
    return *this;
  }
};

struct Query {
  Key key;
  std::string netns;  // of the client; empty: the balancer's own
  Address source;     // of a packet; family 0: a socket hook is asked about
  uint16_t source_port = 0;  // network order
};
struct Decision {
  lb_answer answer{};
  std::string service;
  std::optional<Frontend> frontend;
  std::vector<Backend> candidates;
};

struct BackendUsage {
  Address address;
  uint16_t port;
  uint64_t connections;
};
struct ServiceUsage {
  uint64_t failures = 0, retired = 0;
  std::vector<BackendUsage> backends;
};
struct AffinityRow {
  uint64_t client;
  std::string service;
  Address address;
  uint16_t port;
  uint8_t family;
  uint64_t expires_ms;
};
struct ConnectionRow {
  lb_connection connection;
  std::string service;
  const char* state;
  uint64_t age_ms, idle_ms;
};
struct MapRow {
  std::string name;
  uint64_t entries, capacity, bytes;
};

// Keys of lb_locals, and what they lead to.
using Locals = std::map<std::array<uint32_t, 6>, uint32_t>;
// Keys and values of lb_vias.
using Vias = std::map<uint32_t, std::array<uint32_t, 7>>;

// Range sets at one time, of services and of the settings.
inline constexpr uint32_t kRangeSets = 65536;

inline constexpr char kCanaryName[] = "\x01" "canary";  // no service of a user may begin with a control character

struct AnchorSweep;
class AnchorSweeps;

class Balancer {
 public:
  static Result<std::unique_ptr<Balancer>> open(const OpenOptions& options);
  ~Balancer();

  Status commit(CommitInput input);
  // What the state after `input` needs in all; nothing is written.
  Needs needs(const CommitInput& input);
  Needs have() const;
  // Would commit() find room for it now, beside what it replaces?
  bool fits(CommitInput input);
  double moved_share(const Service& next);

  Result<Snapshot> snapshot();
  // Of an observer whose writer detached everything: one that no commit has.
  uint64_t number() const { return closed_ ? 0 : writer_left() ? ~0ull : load_acquire(&maps_.control->number); }
  // Of the node and of forwarding, for the packet hooks. Not kept: the caller has them in its settings.
  Status set_packets(const PacketSettings& settings);
  // Blocks until sockets are swept and indices are free again.
  void settle();

  // record: without an id.
  Result<AttachmentInfo> attach(AttachmentRecord record);
  Status detach(uint32_t id);
  std::vector<AttachmentInfo> attachments();

  Result<Decision> explain(const Query& query);
  Result<ServiceUsage> usage(const std::string& service);
  uint64_t total_connections() const;
  const Maps& maps() const { return maps_; }
  std::vector<AffinityRow> affinities();
  std::vector<ConnectionRow> connections();
  std::vector<MapRow> map_rows();
  std::vector<Problem> check();     // what is believed against what is in the kernel
  std::vector<Problem> problems();  // known without looking
  // Of one attachment.
  Result<double> canary(uint32_t attachment, const std::string& hook);
  // Called on any thread when something fails that no caller waits for. Set once, before close().
  void on_failure(std::function<void(const Error&)> callback);
  uint32_t owner() const;

  Status close(bool detach);

 private:
  friend class Commit;
  friend struct AnchorModel;  // test/anchors
  // Flows that nothing is remembered of are told by cells: only direct server return has such.
  bool keeps_anchors() const { return packets_filled_ && maps_.node->dsr & LB_DSR_ON; }
  void tend_service(const Service& service);
  void adopt_anchors(Service& service, std::vector<bool>& backends, std::vector<LineList::Block>& lines);
  void remember_all_flows();
  uint32_t move_service(Service& service, std::vector<Rested>& rested);
  void drop_older(Region& region);
  void let_go_lingering(Service& service, std::vector<Rested>& rested);
  uint32_t tend();
  bool keeps_old() const;
  bool let_go_of_old();
  Needs needs_of(const CommitInput& input) const;
  bool fits_in_all(const CommitInput& input) const;
  void begin_sweeps(const Service& service, AnchorSweeps& sweeps);
  uint32_t sweep_bits(AnchorSweeps& sweeps);
  bool clear_bits(const AnchorSweep& sweep);
  Balancer(const OpenOptions& options, Maps maps, std::unique_ptr<Indices> indices);
  Status recover();
  void repair_slots();
  void repair_backends();
  Status resume_attachments();
  Status ensure_packets();
  Status recover_ranges(std::vector<bool>& range_sets);
  Status recover_packets();
  Status write_node();
  Status use_address(const Key& key, bool on);
  static Locals locals_of(const Service& service);
  Status put_locals(const Service& service);
  void drop_locals(const Service& service, const Service* next);
  Status fill_locals();
  Vias vias_of(const Service& service) const;
  Status put_vias(const Service& service);
  void drop_vias(const Service& service, const Service* next);
  Status fill_vias();
  bool count_address(const Key& key, bool on);
  Status fill_addresses();
  Status use_held(const Key& key, bool on);
  Status fill_held();
  Status write_service_ranges();
  Result<AttachmentInfo> attach_locked(const char* operation, AttachmentRecord record);
  Result<uint32_t> find_attachment(const char* operation, const AttachmentRecord& record, bool& known);
  AttachmentPlace place() { return {maps_, options_.pin_path, netns_.get(), routes_.get()}; }
  bool same_netns(const AttachmentRecord& a, const AttachmentRecord& b) const;
  void watch(const Attachment& attachment);
  void devices_changed(uint32_t id, const std::set<int>& gone);
  Status commit_locked(CommitInput input);
  Status drop_canary();
  void mark_attached(uint32_t id, bool on);
  Result<LogContent> read_log();
  Status decide(const Query& query, lb_answer& answer);
  bool name_parts(Decision& decision) const;
  bool region_backends(const lb_answer& answer, std::set<uint32_t>& indices) const;
  void remember_keys(const Service& service);
  Status refuse_if_closed(const char* operation) const;
  void count_ports(const Service& service, int by);
  void note_reset(uint32_t backend, int32_t after);
  void resume_resets();
  std::vector<LogRecord> live_records() const;
  void retire_counters(uint32_t backend, uint32_t service);
  template <typename Sum>
  uint64_t whole_sum(Sum sum) const;
  uint64_t connections_of(uint32_t backend) const;
  uint64_t retired_of(const Service& service) const;
  PortSet protected_ports() const;
  PortSet kept_ports() const;
  Status reserve_kept_ports();
  void reserve_or_report();
  void report(const Error& error);
  bool writer_left() const { return options_.readonly && maps_.control && load_acquire(&maps_.control->leaving); }
  static Result<std::unique_ptr<Balancer>> open_locked(const OpenOptions& options, UniqueFd lock, UniqueFd netns, bool existing);
  static Status end_leaving(const std::string& path, Maps& maps, int netns);
  static void remove_stale_canaries(const std::string& cgroup);
  void check_ports(std::vector<Problem>& found);
  void check_links(std::vector<Problem>& found);
  void check_packets(std::vector<Problem>& found);

  OpenOptions options_;
  std::mutex report_mutex_;
  std::function<void(const Error&)> on_failure_;
  std::vector<Error> unreported_;  // until somebody listens
  UniqueFd lock_;
  UniqueFd netns_;
  Maps maps_;
  FrontendTable frontends_;
  std::unique_ptr<Log> log_;
  mutable std::shared_mutex life_;  // shared: in use; alone: closing. Taken before mutex_
  mutable std::mutex mutex_;
  std::mutex canary_;  // one at a time; taken between life_ and mutex_
  std::atomic<bool> closed_ = false;
  std::unordered_map<std::string, std::unique_ptr<Service>> services_;
  std::unordered_map<uint32_t, Service*> by_id_;
  std::unordered_set<uint32_t> tended_;  // ids of services that have anchors to be looked after
  std::unordered_map<Key, uint32_t, KeyHash> keys_;  // key -> slot
  Needs used_;                                       // of services_, without the canary
  PortSet reserved_ports_;                           // those that this balancer put into ip_local_reserved_ports
  std::vector<uint16_t> port_users_;                 // port * LB_PORT_USES + bit of enum lb_port_use
  std::string settings_;
  bool has_settings_ = false;
  std::unordered_map<uint32_t, std::unique_ptr<Attachment>> attachments_;
  uint32_t last_attachment_ = 0;
  RangeTable ranges_;
  PacketSettings packets_;
  struct AddressHash {
    size_t operator()(const Address& a) const { return KeyHash{}({a, 0, 0, 0}); }
  };
  std::unordered_map<Address, uint32_t, AddressHash> address_users_;  // of lb_addresses: keys that have it
  bool packets_filled_ = false;
  std::vector<Range> service_ranges_;
  std::unordered_map<Address, uint32_t, AddressHash> held_users_;  // of lb_held: keys that have it, in both scopes
  std::unique_ptr<RouteWatch> routes_;  // since there are maps of packets
  std::unique_ptr<Object> decide_;
  std::unique_ptr<SweepThread> sweeps_;
  std::mutex watching_;
  std::unique_ptr<DeviceWatch> watch_;  // its thread takes life_ and mutex_
  std::unique_ptr<GracePeriod> tend_grace_;
  std::unique_ptr<TendThread> tends_;  // its thread, too
  std::unique_ptr<Indices> indices_;  // last: its thread works on what is above
};

}  // namespace lb
