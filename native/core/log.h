// SPDX-License-Identifier: Apache-2.0
// Names, labels and specs, append-only in a pinned and mapped array (DATAPATH 7). A record counts once its number is reached.
// Two segments take turns: a full one is compacted into the other, and one word of the control map, which counts, says which lives by its last bit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "maps.h"
#include "model.h"
#include "result.h"

namespace lb {

enum class RecordType : uint32_t { put = 1, remove = 2, settings = 3, attach = 4, detach = 5, reserved = 6 };

std::string encode_service(const Service& service);
bool decode_service(std::string_view payload, Service& service);
std::string encode_attachment(const AttachmentRecord& attachment);
bool decode_attachment(std::string_view payload, AttachmentRecord& attachment);
std::string encode_text(const std::string& text);

struct LogRecord {
  RecordType type;
  uint32_t subject;  // service or attachment id
  std::string payload;
};

// The whole content of a log, the last word on each subject.
struct LogContent {
  uint64_t number = 0;  // the commit that this is of
  std::unordered_map<uint32_t, Service> services;
  std::unordered_map<uint32_t, AttachmentRecord> attachments;
  std::string settings;
  bool has_settings = false;
  std::string reserved;  // ports that were put into ip_local_reserved_ports
  size_t damaged = 0;  // records that could not be read
};

class Log {
 public:
  static Result<Log> create(const std::string& directory, Maps& maps);
  static Result<Log> open(const std::string& directory, Maps& maps, bool readonly);

  LogContent read() const;
  // What lies behind the last committed record is dropped.
  void cut();
  bool fits(size_t bytes) const;
  static size_t size_of(const LogRecord& record);
  // Needs fits(). The records count when `number` is reached.
  void append(uint64_t number, const std::vector<LogRecord>& records);
  // Writes `live`, which says all that `read` would, into a new segment with room for `more` bytes, and switches to it.
  Status compact(const std::vector<LogRecord>& live, size_t more);
  size_t bytes() const { return mapping_.length(); }
  size_t used() const { return tail_; }

 private:
  Log(std::string directory, Maps& maps) : directory_(std::move(directory)), maps_(&maps) {}
  static std::string pin(const std::string& directory, uint64_t segment);
  Result<Mapping> make_segment(uint64_t segment, size_t bytes);
  Status map_segment(bool readonly);
  size_t find_tail(uint64_t committed, const std::function<void(RecordType, uint32_t, std::string_view)>& each) const;

  std::string directory_;
  Maps* maps_;
  Mapping mapping_;
  size_t tail_ = 0;
};

}  // namespace lb
