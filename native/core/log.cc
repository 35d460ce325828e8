// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <algorithm>

#include "balancer.h"

namespace lb {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kSmallest = 1 << 20;
constexpr size_t kFirst = 64;  // offset of the first record: after the segment's head

// First words of a segment. `extent` is raised before anything is written, so that what a death left behind can be wiped.
struct SegmentHead {
  uint64_t extent;
};

struct RecordHead {
  uint32_t size;  // of head and payload, a multiple of 8; stored last
  uint32_t check;
  uint64_t number;
  uint32_t type, subject;
};

uint32_t checksum(std::string_view text) {
  uint64_t h = text.size() * 0x9e3779b97f4a7c15ull;
  for (; text.size() >= 8; text.remove_prefix(8)) {
    uint64_t word;
    std::memcpy(&word, text.data(), 8);
    h = (h ^ word) * 0xd6e8feb86659fd93ull;
    h ^= h >> 29;
  }
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return static_cast<uint32_t>(h ^ h >> 32);
}

struct Writer {
  std::string out;
  template <typename T>
  void value(const T& v) { out.append(reinterpret_cast<const char*>(&v), sizeof v); }
  void text(const std::string& s) {
    value(static_cast<uint32_t>(s.size()));
    out += s;
  }
};

struct Reader {
  std::string_view in;
  bool good = true;
  template <typename T>
  T value() {
    T v{};
    if (in.size() < sizeof v) {
      good = false;
      return v;
    }
    std::memcpy(&v, in.data(), sizeof v);
    in.remove_prefix(sizeof v);
    return v;
  }
  std::string text() {
    const auto size = value<uint32_t>();
    if (in.size() < size) {
      good = false;
      return {};
    }
    std::string s(in.substr(0, size));
    in.remove_prefix(size);
    return s;
  }
};

// Endpoints as they lie in the log.
struct FrontendRow {
  uint32_t address[4], slot;
  uint16_t port;
  uint8_t family, protocol, scope, pool, kind, ranges;
};
struct BackendRow {
  uint32_t address[4], index, weight;
  uint16_t port;
  uint8_t family, flags;
};
struct RangeRow {
  uint32_t address[4];
  uint8_t family, prefix;
  uint16_t reserved;
};
struct ViaRow {
  uint32_t address[4], backend, family;
};
static_assert(sizeof(ViaRow) == 24 && sizeof(RangeRow) == 20 && sizeof(FrontendRow) == 28 && sizeof(BackendRow) == 28);

}  // namespace

std::string encode_service(const Service& s) {
  Writer w;
  w.out.reserve(64 + s.name.size() + s.owner.size() + s.record.size() + 28 * (s.frontends.size() + s.backends.size()));
  w.value(s.algorithm);
  w.value(s.drop);
  w.value(s.local_pools);
  w.value(s.affinity);
  w.text(s.name);
  w.text(s.owner);
  w.text(s.record);
  w.value(static_cast<uint32_t>(s.frontends.size()));
  for (const auto& f : s.frontends) {
    FrontendRow row{{}, f.slot, f.key.port, f.key.address.family, f.key.protocol, f.key.scope, f.pool, f.kind, f.ranges};
    std::memcpy(row.address, f.key.address.words, sizeof row.address);
    w.value(row);
  }
  w.value(static_cast<uint32_t>(s.backends.size()));
  for (const auto& b : s.backends) {
    BackendRow row{{}, b.index, b.weight, b.port, b.address.family, b.flags};
    std::memcpy(row.address, b.address.words, sizeof row.address);
    w.value(row);
  }
  w.value(static_cast<uint32_t>(s.range_sets.size()));
  for (const auto& set : s.range_sets) {
    w.value(set.id);
    w.value(static_cast<uint32_t>(set.ranges.size()));
    for (const auto& r : set.ranges) {
      RangeRow row{{}, r.address.family, r.prefix, 0};
      std::memcpy(row.address, r.address.words, sizeof row.address);
      w.value(row);
    }
  }
  w.value(s.forwarding);
  w.value(s.reset_after);
  w.value(static_cast<uint32_t>(std::count_if(s.backends.begin(), s.backends.end(), [](const Backend& b) { return b.via.family != 0; })));
  for (uint32_t i = 0; i < s.backends.size(); i++) {
    const Address& via = s.backends[i].via;
    if (!via.family) continue;
    ViaRow row{{}, i, via.family};
    std::memcpy(row.address, via.words, sizeof row.address);
    w.value(row);
  }
  return std::move(w.out);
}

bool decode_service(std::string_view payload, Service& s) {
  Reader r{payload};
  s.algorithm = r.value<uint8_t>();
  s.drop = r.value<uint8_t>();
  s.local_pools = r.value<uint8_t>();
  s.affinity = r.value<uint32_t>();
  s.name = r.text();
  s.owner = r.text();
  s.record = r.text();
  for (auto n = r.value<uint32_t>(); r.good && n > 0; n--) {
    const auto row = r.value<FrontendRow>();
    Frontend f;
    f.key = {{row.family, {row.address[0], row.address[1], row.address[2], row.address[3]}}, row.port, row.protocol, row.scope};
    f.pool = row.pool;
    f.kind = row.kind;
    f.ranges = row.ranges;
    f.slot = row.slot;
    s.frontends.push_back(f);
  }
  for (auto n = r.value<uint32_t>(); r.good && n > 0; n--) {
    const auto row = r.value<BackendRow>();
    s.backends.push_back({{row.family, {row.address[0], row.address[1], row.address[2], row.address[3]}}, row.port, row.flags, row.weight, row.index, {}});
  }
  if (!r.good) return false;
  for (auto n = r.value<uint32_t>(); r.good && n > 0; n--) {
    RangeSet set;
    set.id = r.value<uint32_t>();
    for (auto count = r.value<uint32_t>(); r.good && count > 0; count--) {
      const auto row = r.value<RangeRow>();
      set.ranges.push_back({{row.family, {row.address[0], row.address[1], row.address[2], row.address[3]}}, row.prefix});
    }
    s.range_sets.push_back(std::move(set));
  }
  s.forwarding = r.value<uint8_t>();
  s.reset_after = r.value<int32_t>();
  for (auto n = r.value<uint32_t>(); r.good && n > 0; n--) {
    const auto row = r.value<ViaRow>();
    r.good = r.good && row.backend < s.backends.size();
    if (r.good) s.backends[row.backend].via = {static_cast<uint8_t>(row.family), {row.address[0], row.address[1], row.address[2], row.address[3]}};
  }
  for (const auto& f : s.frontends) r.good = r.good && f.ranges <= s.range_sets.size();
  return r.good;
}

std::string encode_attachment(const AttachmentRecord& a) {
  Writer w;
  w.text(a.path);
  w.text(a.options);
  w.value(static_cast<uint32_t>(a.netns.size()));
  for (const auto& n : a.netns) w.text(n);
  w.value(a.kind);
  w.value(a.role);
  w.value(a.mode);
  return std::move(w.out);
}

bool decode_attachment(std::string_view payload, AttachmentRecord& a) {
  Reader r{payload};
  a.path = r.text();
  a.options = r.text();
  for (auto n = r.value<uint32_t>(); r.good && n > 0; n--) a.netns.push_back(r.text());
  if (!r.good) return false;
  // Records of before there were devices end here.
  if (r.in.size() < 3) return true;
  a.kind = r.value<AttachmentKind>();
  a.role = r.value<uint8_t>();
  a.mode = r.value<XdpMode>();
  return a.kind <= AttachmentKind::xdp && a.mode <= XdpMode::generic;
}

std::string encode_text(const std::string& text) {
  Writer w;
  w.text(text);
  return std::move(w.out);
}

std::string Log::pin(const std::string& directory, uint64_t segment) { return directory + "/log" + (segment & 1 ? "1" : "0"); }

Result<Mapping> Log::make_segment(uint64_t segment, size_t bytes) {
  bytes = (bytes + kBlock - 1) / kBlock * kBlock;
  LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
  UniqueFd fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "lb_log", 4, kBlock, static_cast<uint32_t>(bytes / kBlock), &opts));
  if (!fd) return kernel_error("log", "map of " + std::to_string(bytes) + " bytes", errno);
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return kernel_error("log", "mmap", errno);
  Mapping mapping(base, bytes);
  // A pin of that name is the segment before the one that lives: nobody needs it.
  const std::string path = pin(directory_, segment);
  unlink(path.c_str());
  if (bpf_obj_pin(fd.get(), path.c_str())) return kernel_error("log", path, errno);
  return mapping;
}

Result<Log> Log::create(const std::string& directory, Maps& maps) {
  Log log(directory, maps);
  auto segment = log.make_segment(0, kSmallest);
  if (!segment) return segment.error();
  log.mapping_ = std::move(*segment);
  log.tail_ = kFirst;
  return log;
}

Result<Log> Log::open(const std::string& directory, Maps& maps, bool readonly) {
  Log log(directory, maps);
  LB_TRY(log.map_segment(readonly));
  log.tail_ = log.find_tail(load_acquire(&maps.control->number), nullptr);
  return log;
}

Status Log::map_segment(bool readonly) {
  const std::string path = pin(directory_, load_acquire(&maps_->control->log));
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (!fd) {
    Error e = kernel_error("open", path, errno, "the log of services is gone; remove the directory to begin anew");
    if (errno == ENOENT) e.code = "ERR_LAYOUT";
    return e;
  }
  bpf_map_info info{};
  __u32 length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length)) return kernel_error("open", path, errno);
  const size_t bytes = static_cast<size_t>(info.value_size) * info.max_entries;
  void* base = mmap(nullptr, bytes, readonly ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return kernel_error("open", path, errno);
  mapping_ = Mapping(base, bytes);
  return ok();
}

size_t Log::find_tail(uint64_t committed, const std::function<void(RecordType, uint32_t, std::string_view)>& each) const {
  const char* base = mapping_.as<char>();
  size_t at = kFirst;
  while (at + sizeof(RecordHead) <= mapping_.length()) {
    RecordHead head;
    const uint32_t size = __atomic_load_n(reinterpret_cast<const uint32_t*>(base + at), __ATOMIC_ACQUIRE);
    std::memcpy(&head, base + at, sizeof head);
    if (size < sizeof head || size % 8 || at + size > mapping_.length() || !lb_number_reached(committed, head.number)) break;
    if (each) {
      const std::string_view payload(base + at + sizeof head, size - sizeof head);
      each(checksum(payload) == head.check ? static_cast<RecordType>(head.type) : RecordType{}, head.subject, payload);
    }
    at += size;
  }
  return at;
}

LogContent Log::read() const {
  LogContent content;
  content.number = load_acquire(&maps_->control->number);
  find_tail(content.number, [&](RecordType type, uint32_t subject, std::string_view payload) {
    switch (type) {
      case RecordType::put: {
        Service service;
        if (!decode_service(payload, service)) {
          content.damaged++;
          break;
        }
        service.id = subject;
        content.services[subject] = std::move(service);
        break;
      }
      case RecordType::remove: content.services.erase(subject); break;
      case RecordType::settings: {
        Reader r{payload};
        content.settings = r.text();
        content.has_settings = true;
        break;
      }
      case RecordType::attach: {
        AttachmentRecord a;
        if (decode_attachment(payload, a)) {
          a.id = subject;
          content.attachments[subject] = std::move(a);
        } else {
          content.damaged++;
        }
        break;
      }
      case RecordType::reserved: {
        Reader r{payload};
        content.reserved = r.text();
        break;
      }
      case RecordType::detach: content.attachments.erase(subject); break;
      default: content.damaged++;
    }
  });
  return content;
}

void Log::cut() {
  tail_ = find_tail(load_acquire(&maps_->control->number), nullptr);
  auto* head = mapping_.as<SegmentHead>();
  const size_t extent = std::min<size_t>(std::max<size_t>(head->extent, tail_ + sizeof(RecordHead)), mapping_.length());
  if (extent > tail_) std::memset(mapping_.as<char>() + tail_, 0, extent - tail_);
  head->extent = tail_;
}

size_t Log::size_of(const LogRecord& record) { return (sizeof(RecordHead) + record.payload.size() + 7) / 8 * 8; }

bool Log::fits(size_t bytes) const { return tail_ + bytes + sizeof(RecordHead) <= mapping_.length(); }

void Log::append(uint64_t number, const std::vector<LogRecord>& records) {
  char* base = mapping_.as<char>();
  size_t bytes = 0;
  for (const auto& r : records) bytes += size_of(r);
  __atomic_store_n(&mapping_.as<SegmentHead>()->extent, tail_ + bytes, __ATOMIC_RELEASE);
  for (const auto& r : records) {
    const size_t size = size_of(r);
    char* at = base + tail_;
    char* payload = at + sizeof(RecordHead);
    std::memcpy(payload, r.payload.data(), r.payload.size());
    std::memset(payload + r.payload.size(), 0, size - sizeof(RecordHead) - r.payload.size());
    RecordHead head{0, checksum({payload, size - sizeof(RecordHead)}), number & LB_NUMBER_MASK, static_cast<uint32_t>(r.type), r.subject};
    std::memcpy(at + sizeof head.size, reinterpret_cast<const char*>(&head) + sizeof head.size, sizeof head - sizeof head.size);
    __atomic_store_n(reinterpret_cast<uint32_t*>(at), static_cast<uint32_t>(size), __ATOMIC_RELEASE);
    tail_ += size;
  }
}

Status Log::compact(const std::vector<LogRecord>& live, size_t more) {
  size_t bytes = kFirst + more + sizeof(RecordHead);
  for (const auto& r : live) bytes += size_of(r);
  const uint64_t next = maps_->control->log + 1;
  // Twice what is needed, so that the next compaction is as far away as this one was long.
  auto segment = make_segment(next, std::max(kSmallest, 2 * bytes));
  if (!segment) return segment.error();
  std::swap(mapping_, *segment);
  tail_ = kFirst;
  stop_point();
  append(maps_->control->number, live);
  stop_point();
  store_release(&maps_->control->log, next);
  return ok();
}

}  // namespace lb
