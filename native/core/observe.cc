// SPDX-License-Identifier: Apache-2.0
// The read side of a balancer: snapshots, explain, counters, affinities, map sizes. Changes nothing.
#include <bpf/bpf.h>
#include <time.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <thread>
#include <unordered_set>

#include "balancer.h"
#include "commit.h"
#include "maglev.h"
#include "netns.h"

namespace lb {
namespace {

constexpr int kTries = 100;  // of an observer, while a writer is at work

uint64_t boot_seconds() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec);
}

}  // namespace

Result<Snapshot> Balancer::snapshot() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("snapshot"));
  Snapshot snapshot;
  if (!options_.readonly) {
    snapshot.number = number();
    snapshot.settings = settings_;
    snapshot.has_settings = has_settings_;
    for (const auto& [name, s] : services_) snapshot.services.push_back(*s);
    return snapshot;
  }
  auto content = read_log();
  if (!content) return content.error();
  snapshot.number = content->number;
  snapshot.settings = content->settings;
  snapshot.has_settings = content->has_settings;
  services_.clear();
  by_id_.clear();
  for (auto& [id, service] : content->services) {
    auto s = std::make_unique<Service>(std::move(service));
    by_id_[id] = s.get();
    snapshot.services.push_back(*s);
    services_[s->name] = std::move(s);
  }
  return snapshot;
}

// Of an observer: the state as of one commit. Later commits do not matter, as the log only grows; a compaction in between does.
Result<LogContent> Balancer::read_log() {
  for (int attempt = 0; attempt < kTries; attempt++) {
    const __u64 segment = load_acquire(&maps_.control->log);
    auto log = Log::open(options_.pin_path, maps_, true);
    LogContent content;
    if (log) content = log->read();
    if (segment != load_acquire(&maps_.control->log)) continue;
    if (log || number() == 0) return content;
    return log.error();
  }
  return make_error("ERR_KERNEL", "snapshot", options_.pin_path, "the log was compacted with every try to read it; try again");
}

Needs Balancer::have() const { return {maps_.capacity.frontends, maps_.capacity.backends, maps_.capacity.cells}; }

void add_needs(const Service& service, Needs& total) {
  total.frontends += static_cast<uint32_t>(service.frontends.size());
  total.backends += static_cast<uint32_t>(service.backends.size());
  std::set<std::tuple<uint8_t, uint8_t, uint8_t, bool>> pools;
  std::vector<__u64> words;
  for (const auto& f : service.frontends) {
    if (!pools.insert({f.key.address.family, f.pool, f.ranges, is_apart(service, f)}).second) continue;
    build_region(service, f.key.address.family, f.pool, 0, words);
    total.cells += LB_LINE_WORDS << LineList::order_for(static_cast<uint32_t>((words.size() + LB_LINE_WORDS - 1) / LB_LINE_WORDS));
  }
}

Needs held(const Service& service) {
  Needs needs;
  if (service.name == kCanaryName) return needs;
  needs.frontends = static_cast<uint32_t>(service.frontends.size());
  needs.backends = static_cast<uint32_t>(service.backends.size());
  for (const auto& r : service.regions) needs.cells += LB_LINE_WORDS << r.order;
  return needs;
}

// Stages it as commit() would, and gives everything back. An observer cannot, and goes by the sums.
bool Balancer::fits(CommitInput input) {
  if (options_.readonly) {
    const Needs total = needs(input), all = have();
    return total.frontends <= all.frontends && total.backends <= all.backends && total.cells <= all.cells;
  }
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  if (closed_) return false;
  const CommitInput needed = input;
  Commit commit(*this);
  const Status staged = commit.stage(input);
  commit.abandon();
  return staged || staged.error().code != "ERR_CAPACITY" || (keeps_old() && fits_in_all(needed));
}

Needs Balancer::needs(const CommitInput& input) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  return needs_of(input);
}

bool Balancer::fits_in_all(const CommitInput& input) const {
  const Needs total = needs_of(input), all = have();
  return total.frontends <= all.frontends && total.backends <= all.backends && total.cells <= all.cells;
}

Needs Balancer::needs_of(const CommitInput& input) const {
  Needs total;
  std::set<std::string_view> changed(input.remove.begin(), input.remove.end());
  for (const auto& s : input.put) {
    changed.insert(s.name);
    add_needs(s, total);
  }
  for (const auto& [name, s] : services_)
    if (!changed.count(name)) add_needs(*s, total);
  return total;
}

double Balancer::moved_share(const Service& next) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  const auto it = services_.find(next.name);
  if (it == services_.end()) return 0;
  const Service& old = *it->second;
  // Cells by endpoint, not by index: new backends have none yet.
  auto endpoints = [](const Service& s, uint8_t family) {
    Service numbered = s;
    for (uint32_t i = 0; i < numbered.backends.size(); i++) numbered.backends[i].index = i + 1;
    std::vector<__u64> words;
    build_region(numbered, family, LB_POOL_CLUSTER, 0, words);
    lb_head head;
    std::memcpy(&head, words.data(), sizeof head);
    std::vector<uint64_t> cells;
    for (uint32_t i = 0; i < head.length; i++) {
      const Backend& b = numbered.backends[lb_cell_current(words[LB_HEAD_WORDS + i]) - 1];
      cells.push_back(endpoint_identity(b.address.words, b.port, b.address.family));
    }
    return cells;
  };
  double share = 0;
  int families = 0;
  for (const uint8_t family : {LB_IPV4, LB_IPV6}) {
    const auto before = endpoints(old, family), after = endpoints(next, family);
    if (before.empty() && after.empty()) continue;
    families++;
    if (before.empty() || after.empty()) {
      share += 1;
      continue;
    }
    const size_t points = std::max(before.size(), after.size());
    size_t moved = 0;
    for (size_t i = 0; i < points; i++) moved += before[i * before.size() / points] != after[i * after.size() / points];
    share += static_cast<double>(moved) / static_cast<double>(points);
  }
  return families ? share / families : 0;
}

Result<Decision> Balancer::explain(const Query& query) {
  for (int attempt = 0; attempt < kTries; attempt++) {
    if (options_.readonly) {
      auto fresh = snapshot();
      if (!fresh) return fresh.error();
    }
    std::shared_lock alive(life_);
    std::lock_guard lock(mutex_);
    LB_TRY(refuse_if_closed("explain"));
    Decision decision;
    LB_TRY(decide(query, decision.answer));
    if (name_parts(decision)) return decision;
  }
  return make_error("ERR_KERNEL", "explain", options_.pin_path, "the state changed with every try to read it; try again");
}

// Asks the program.
Status Balancer::decide(const Query& query, lb_answer& answer) {
  if (!decide_) {
    auto object = Object::open("decide");
    if (!object) return object.error();
    LB_TRY(maps_.lend(*object));
    LB_TRY(object->load("explain", "decide"));
    decide_ = std::make_unique<Object>(std::move(*object));
  }
  UniqueFd other;
  if (!query.netns.empty()) {
    auto opened = open_netns("explain", query.netns);
    if (!opened) return opened.error();
    other = std::move(*opened);
  }
  auto cookie = other ? netns_cookie(other.get()) : maps_.control->host_netns ? Result<uint64_t>(maps_.control->host_netns) : netns_cookie(netns_.get());
  if (!cookie) return cookie.error();

  lb_decision data{};
  std::memcpy(data.query.address, query.key.address.words, sizeof data.query.address);
  data.query.port = query.key.port;
  data.query.protocol = query.key.protocol;
  data.query.family = query.key.address.family;
  data.query.scope = query.key.scope;
  data.query.client = *cookie;
  static std::atomic<uint64_t> draws{static_cast<uint64_t>(time(nullptr))};
  data.query.socket = lb_mix64(draws.fetch_add(1)) | 1;
  std::memcpy(data.query.source, query.source.words, sizeof data.query.source);
  data.query.source_port = query.source_port;
  data.query.packet = query.source.family != 0;
  lb_decision out{};
  LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = &data, .data_out = &out, .data_size_in = sizeof data, .data_size_out = sizeof out, .repeat = 1);
  const int err = bpf_prog_test_run_opts(bpf_program__fd(decide_->program("lb_decide")), &opts);
  if (err) return kernel_error("explain", "decide", errno ? errno : -err);
  answer = out.answer;
  return ok();
}

// What the answer's numbers mean: service, frontend, candidates. False when a writer has changed it meanwhile.
bool Balancer::name_parts(Decision& decision) const {
  const lb_answer& answer = decision.answer;
  if (!answer.service) return true;
  const auto service = by_id_.find(answer.service);
  if (service == by_id_.end()) return false;
  const Service& s = *service->second;
  decision.service = s.name;
  for (const auto& f : s.frontends)
    if (f.slot == answer.slot) decision.frontend = f;
  std::set<uint32_t> indices;
  if (!decision.frontend || !region_backends(answer, indices)) return false;
  if (!options_.readonly) {
    for (const auto& b : s.backends)
      if (indices.count(b.index)) decision.candidates.push_back(b);
    return true;
  }
  // What was read of the log may be older than the region; as long as the slot names the region, the map has its backends.
  for (const uint32_t index : indices) {
    if (index >= maps_.backend_count()) return false;
    Backend b;
    b.address.family = decision.frontend->key.address.family;
    std::memcpy(b.address.words, maps_.backends[index].address, sizeof b.address.words);
    b.port = lb_backend_port(load_acquire(&maps_.backends[index].word));
    decision.candidates.push_back(b);
  }
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  const __u64 slot = load_acquire(&maps_.slots[answer.slot].word);
  return lb_slot_kind(slot) == LB_SLOT_FINAL && lb_slot_region(slot) == answer.region;
}

// Those of the region that the program read. To an observer its lines may be another's by now (DATAPATH 9): then the serial is another, or the head is none.
bool Balancer::region_backends(const lb_answer& answer, std::set<uint32_t>& indices) const {
  const lb_line* line = maps_.table + answer.region;
  const __u64 first = load_acquire(&line->word[0]);
  const uint32_t length = __atomic_load_n(&line->head.length, __ATOMIC_RELAXED);
  if (length > (static_cast<__u64>(maps_.lines) - answer.region) * LB_LINE_WORDS - LB_HEAD_WORDS) return false;
  for (uint32_t i = 0; i < length; i++) indices.insert(lb_cell_current(__atomic_load_n(&line->word[LB_HEAD_WORDS + i], __ATOMIC_RELAXED)));
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return load_acquire(&line->word[0]) == first;
}

// A sum over counters none of which moves from one to another meanwhile. An observer whose writer died in the middle takes what it gets.
template <typename Sum>
uint64_t Balancer::whole_sum(Sum sum) const {
  for (int attempt = 0;; attempt++) {
    const __u64 before = load_acquire(&maps_.control->retiring);
    const uint64_t total = sum();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((!(before & 1) && __atomic_load_n(&maps_.control->retiring, __ATOMIC_RELAXED) == before) || attempt == kTries) return total;
    if (attempt) std::this_thread::yield();
  }
}

uint64_t Balancer::total_connections() const {
  if (closed_) return 0;
  const size_t count = static_cast<size_t>(maps_.stripes) * maps_.backend_count();
  return whole_sum([&] {
    uint64_t sum = maps_.control->retired_connections;
    for (size_t i = 0; i < count; i++) sum += maps_.usage[i];
    return sum;
  });
}

uint64_t Balancer::connections_of(uint32_t backend) const {
  uint64_t sum = 0;
  for (uint32_t stripe = 0; stripe < maps_.stripes; stripe++) sum += maps_.usage[static_cast<size_t>(stripe) * maps_.backend_count() + backend];
  return sum;
}

// Of backends that the service no longer has: those that were counted out, and those that rest or linger.
uint64_t Balancer::retired_of(const Service& service) const {
  std::unordered_set<uint32_t> held;
  for (const auto& b : service.backends) held.insert(b.index);
  return whole_sum([&] {
    uint64_t sum = maps_.failures[maps_.slot_count() + service.id];
    if (!options_.readonly && indices_->idle() && service.lingering.empty()) return sum;
    for (uint32_t i = 1; i < maps_.backend_count(); i++) {
      const __u64 word = load_acquire(&maps_.backends[i].word);
      if (lb_backend_service(word) == service.id && !held.count(i)) sum += connections_of(i);
    }
    return sum;
  });
}

Result<ServiceUsage> Balancer::usage(const std::string& name) {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  LB_TRY(refuse_if_closed("stats"));
  const auto it = services_.find(name);
  if (it == services_.end()) return make_error("ERR_SERVICE_NOT_FOUND", "stats", name, "there is no service of that name");
  const Service& s = *it->second;
  ServiceUsage usage;
  usage.failures = maps_.failures[s.id];
  usage.retired = retired_of(s);
  for (const auto& b : s.backends) usage.backends.push_back({b.address, b.port, connections_of(b.index)});
  return usage;
}

std::vector<AffinityRow> Balancer::affinities() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  std::vector<AffinityRow> rows;
  if (closed_) return rows;
  const int fd = maps_.fd("lb_affinities");
  const uint64_t now = boot_seconds();
  lb_affinity_key at{}, next{};
  for (bool first = true; bpf_map_get_next_key(fd, first ? nullptr : &at, &next) == 0; first = false) {
    at = next;
    lb_affinity value{};
    if (bpf_map_lookup_elem(fd, &at, &value) || value.tag != value.tag_again || value.tag != lb_affinity_tag(&at)) continue;
    const auto service = by_id_.find(at.service);
    if (service == by_id_.end()) continue;
    const uint64_t age = now - std::min<uint64_t>(now, value.word >> 32), timeout = service->second->affinity;
    const uint32_t ref = static_cast<uint32_t>(value.word), index = lb_ref_index(ref);
    if (age > timeout || index >= maps_.backend_count() || lb_backend_generation(maps_.backends[index].word) != lb_ref_generation(ref)) continue;
    for (const auto& b : service->second->backends)
      if (b.index == index) rows.push_back({at.client[0], service->second->name, b.address, b.port, at.family, (timeout - age) * 1000});
  }
  return rows;
}

std::vector<MapRow> Balancer::map_rows() {
  std::shared_lock alive(life_);
  std::lock_guard lock(mutex_);
  std::vector<MapRow> rows;
  if (closed_) return rows;
  size_t keys6 = 0, backends = 0, cells = 0, slots = 0;
  for (const auto& [name, s] : services_) {
    for (const auto& f : s->frontends) keys6 += f.key.six();
    backends += s->backends.size();
    slots += s->frontends.size();
    for (const auto& r : s->regions) cells += static_cast<size_t>(LB_LINE_WORDS) << r.order;
  }
  const std::map<std::string, uint64_t> entries = {{"lb_frontends", slots}, {"lb_keys6", keys6}, {"lb_backends", backends},
                                                   {"lb_table", cells / LB_LINE_WORDS}, {"lb_slots", slots}};
  for (const auto& [name, fd] : maps_.all()) {
    MapRow row{name.substr(3), 0, 0, 0};
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd.get());
    if (FILE* file = fopen(path, "re")) {
      while (fgets(line, sizeof line, file)) {
        unsigned long long n;
        if (sscanf(line, "memlock: %llu", &n) == 1) row.bytes = n;
        if (sscanf(line, "max_entries: %llu", &n) == 1) row.capacity = n;
      }
      fclose(file);
    }
    const auto known = entries.find(name);
    if (known != entries.end()) row.entries = known->second;
    // Many of these lie in one element.
    if (name == "lb_frontends" || name == "lb_keys6") row.capacity = maps_.slot_count() - 1;
    rows.push_back(row);
  }
  if (log_) rows.push_back({"log", log_->used(), log_->bytes(), log_->bytes()});
  return rows;
}

}  // namespace lb
