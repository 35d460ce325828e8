// SPDX-License-Identifier: Apache-2.0
// Between JavaScript values and native/core. Shapes: lib/native/binding.ts.
#pragma once

#include <napi.h>

#include "core/balancer.h"
#include "core/probe.h"

namespace lb::binding {

// An Error object with code, operation, object, errno (negative) and details.
Napi::Error to_failure(Napi::Env env, const Error& error);

template <typename T>
T unwrap(Napi::Env env, Result<T> result) {
  if (!result) throw to_failure(env, result.error());
  return std::move(*result);
}
inline void unwrap_status(Napi::Env env, const Status& status) {
  if (!status) throw to_failure(env, status.error());
}

Service to_service(const Napi::Object& value);
CommitInput to_commit(const Napi::Object& value);
OpenOptions to_open_options(const Napi::Object& value);
AttachmentRecord to_attachment(const Napi::Object& value);
PacketSettings to_packet_settings(const Napi::Object& value);
Query to_query(const Napi::Object& value);

Napi::Object from_snapshot(Napi::Env env, const Snapshot& snapshot);
Napi::Object from_attachment(Napi::Env env, const AttachmentInfo& info);
Napi::Object from_decision(Napi::Env env, const Decision& decision);
Napi::Object from_usage(Napi::Env env, const ServiceUsage& usage);
Napi::Array from_affinities(Napi::Env env, const std::vector<AffinityRow>& rows);
Napi::Array from_connections(Napi::Env env, const std::vector<ConnectionRow>& rows);
Napi::Array from_maps(Napi::Env env, const std::vector<MapRow>& rows);
Napi::Array from_problems(Napi::Env env, const std::vector<Problem>& problems);
Napi::Object from_counters(Napi::Env env, const Balancer& balancer);
Napi::Object from_probe(Napi::Env env, const Probe& probe);
Napi::Object from_needs(Napi::Env env, const Needs& needs);

}  // namespace lb::binding
