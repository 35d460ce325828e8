// SPDX-License-Identifier: Apache-2.0
// One commit: staged whole against what the balancer believes, then written in the order of DATAPATH 5.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "balancer.h"

namespace lb {

// The words of a region: head (serial 0), cells, and the members of a service with affinity. policy: id of a range set. Near cells have no room for
// what names the region before.
void build_region(const Service& service, uint8_t family, uint8_t pool, uint32_t policy, std::vector<__u64>& words, bool may_be_near = true);
const Region* find_region(const Service& service, const Frontend& frontend);
// Has the frontend a region for datagrams alone? How long flows are remembered differs.
bool is_apart(const Service& service, const Frontend& frontend);

// Frontends, backends and cells (whole lines, as the table gives them out) of one service.
void add_needs(const Service& service, Needs& total);
// The same of one that has its regions. The canary takes nobody's room.
Needs held(const Service& service);

uint8_t port_bit(const Key& key);       // enum lb_port_use
bool protects_port(uint8_t kind);       // FrontendKindCode

class Commit {
 public:
  explicit Commit(Balancer& balancer) : b_(balancer) {}
  // Takes indices; ERR_CAPACITY, ERR_FRONTEND_IN_USE, ERR_SERVICE_NOT_FOUND with nothing written.
  Status stage(CommitInput& input);
  // Fails only before anything took effect, and then everything is taken back.
  Status write();
  // Gives back what stage() took.
  void abandon();
  bool needs_sweep() const { return needs_sweep_; }
  bool ports_changed() const { return ports_changed_; }
  // Services whose anchors are to be looked after.
  bool has_anchors() const { return has_anchors_; }

 private:
  struct SlotChange {
    uint32_t slot, pending;
    __u64 before, after;
  };
  struct KeySlot {
    Key key;
    uint32_t slot;
    uint8_t kind;
  };
  struct RegionWrite {
    uint32_t first;
    std::vector<__u64> words;
  };
  // A region that is to be there, and the one that its frontends have now.
  struct RegionPlan {
    Region region;
    const Region* before;
    std::vector<Frontend*> frontends;
  };
  struct BackendWrite {
    uint32_t index;
    __u64 word;
    const Backend* backend;  // a new one: its address; null: only the word
  };

  Status stage_put(Service input);
  Status stage_backends(Service& next, const Service* old);
  Status stage_ranges(Service& next, const Service* old);
  Status stage_regions(Service& next, const Service* old);
  std::vector<RegionPlan> plan_regions(Service& next, const Service* old) const;
  void stage_gone(Service& next);
  Status stage_slots(Service& next);
  Status stage_removal(const std::string& name);
  Status claim_frontends(Service& next, const Service* old);
  void drop_unclaimed();
  Status take(IndexKind kind, uint32_t& index, const char* option, uint32_t order = 0);
  Error full(const char* option) const;
  Needs total_needs() const;
  Status check_capacity();

  Status write_log();
  Status insert_all();
  Status insert_keys();
  void give_back_keys();
  void delete_keys(const std::vector<KeySlot>& keys);
  void use_ports(const std::vector<Frontend>& frontends, bool on);
  int32_t reset_after_of(uint32_t backend) const;
  void publish();
  void stamp();
  void believe();

  Balancer& b_;
  CommitInput* input_ = nullptr;
  std::vector<std::unique_ptr<Service>> next_;
  std::vector<Service*> removed_;
  std::unordered_map<Key, KeySlot, KeyHash> released_;  // keys of services that this commit changes, until claimed
  std::vector<KeySlot> inserts_, deletes_;
  std::vector<SlotChange> slots_;
  std::vector<RegionWrite> regions_;
  std::vector<std::pair<const Service*, const RangeSet*>> new_ranges_;
  std::vector<BackendWrite> new_backends_, changed_backends_;
  std::vector<Backend> gone_;  // of the service that is being staged: no more in it, or lingering
  std::vector<Rested> taken_, retired_;
  std::vector<LogRecord> records_;
  Needs used_;  // by all services when this is done
  const Service* staging_ = nullptr;
  size_t staged_ = 0, first_insert_ = 0, inserted_ = 0;
  bool needs_sweep_ = false, ports_changed_ = false, has_anchors_ = false;
};

}  // namespace lb
