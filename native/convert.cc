// SPDX-License-Identifier: Apache-2.0
#include "convert.h"

namespace lb::binding {
namespace {

std::string text(const Napi::Object& o, const char* name) {
  const Napi::Value v = o.Get(name);
  return v.IsString() ? v.As<Napi::String>().Utf8Value() : std::string();
}
uint32_t number(const Napi::Object& o, const char* name) {
  const Napi::Value v = o.Get(name);
  return v.IsNumber() ? v.As<Napi::Number>().Uint32Value() : 0;
}
uint32_t number(const Napi::Array& a, uint32_t i) { return a.Get(i).As<Napi::Number>().Uint32Value(); }

Address address(Napi::Env env, const Napi::Value& value) {
  char buffer[64];
  size_t length = 0;
  Address a;
  if (napi_get_value_string_utf8(env, value, buffer, sizeof buffer, &length) != napi_ok || !Address::parse(buffer, a))
    throw Napi::TypeError::New(env, "not an IP address");
  return a;
}

Napi::Object endpoint(Napi::Env env, const Address& a, uint16_t port_be) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("address", a.text());
  o.Set("port", ntohs(port_be));
  return o;
}

Napi::BigInt big(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }

// Flags cross as BackendFlag of binding.ts: existing, then one bit for each pool, then local.
uint8_t backend_flags(uint32_t flags) {
  return static_cast<uint8_t>((flags & 1 ? LB_BACKEND_EXISTING : 0) | (flags >> 1 & 7) * LB_BACKEND_POOLS | (flags & 16 ? LB_BACKEND_LOCAL : 0));
}

std::vector<Range> ranges(Napi::Env env, const Napi::Value& value) {
  std::vector<Range> list;
  if (!value.IsArray()) return list;
  const auto texts = value.As<Napi::Array>();
  for (uint32_t i = 0; i < texts.Length(); i++) {
    Range r;
    if (!parse_range(texts.Get(i).As<Napi::String>().Utf8Value(), r)) throw Napi::TypeError::New(env, "not a range of IP addresses");
    list.push_back(r);
  }
  return list;
}

}  // namespace

Napi::Error to_failure(Napi::Env env, const Error& error) {
  Napi::Error failure = Napi::Error::New(env, error.message);
  failure.Set("code", Napi::String::New(env, error.code));
  failure.Set("operation", Napi::String::New(env, error.operation));
  if (!error.object.empty()) failure.Set("object", Napi::String::New(env, error.object));
  if (error.errno_value) failure.Set("errno", Napi::Number::New(env, -error.errno_value));
  if (error.details.empty()) return failure;
  Napi::Object details = Napi::Object::New(env);
  for (const auto& [name, value] : error.details) {
    if (value.index() == 0)
      details.Set(name, std::get<double>(value));
    else
      details.Set(name, std::get<std::string>(value));
  }
  failure.Set("details", details);
  return failure;
}

Service to_service(const Napi::Object& value) {
  const Napi::Env env = value.Env();
  Service s;
  s.name = text(value, "name");
  s.owner = text(value, "owner");
  s.record = text(value, "record");
  s.algorithm = static_cast<uint8_t>(number(value, "algorithm"));
  s.affinity = number(value, "affinity");
  s.drop = value.Get("drop").ToBoolean();
  s.local_pools = static_cast<uint8_t>(number(value, "localPools"));
  const auto frontends = value.Get("frontends").As<Napi::Array>();
  const uint32_t numbers = frontends.Length();
  s.frontends.reserve(numbers / 7);
  for (uint32_t i = 0; i + 6 < numbers; i += 7) {
    Frontend f;
    f.key.address = address(env, frontends.Get(i));
    f.key.port = htons(static_cast<uint16_t>(number(frontends, i + 1)));
    f.key.protocol = static_cast<uint8_t>(number(frontends, i + 2));
    f.key.scope = static_cast<uint8_t>(number(frontends, i + 3));
    f.pool = static_cast<uint8_t>(number(frontends, i + 4));
    f.kind = static_cast<uint8_t>(number(frontends, i + 5));
    f.ranges = static_cast<uint8_t>(number(frontends, i + 6));
    s.frontends.push_back(f);
  }
  s.reset_after = value.Get("resetAfter").As<Napi::Number>().Int32Value();
  const uint32_t forwarding = number(value, "forwarding");
  s.forwarding = forwarding == 1 ? LB_REGION_SNAT : forwarding == 2 ? LB_REGION_DSR : 0;
  const auto sets = value.Get("ranges").As<Napi::Array>();
  for (uint32_t i = 0; i < sets.Length(); i++) s.range_sets.push_back({ranges(env, sets.Get(i)), 0});
  for (const auto& f : s.frontends)
    if (f.ranges > s.range_sets.size()) throw Napi::TypeError::New(env, "no such range set");
  const auto backends = value.Get("backends").As<Napi::Array>();
  const uint32_t count = backends.Length();
  s.backends.reserve(count / 4);
  for (uint32_t i = 0; i + 3 < count; i += 4) {
    Napi::HandleScope scope(env);
    Backend b;
    b.address = address(env, backends.Get(i));
    b.port = htons(static_cast<uint16_t>(number(backends, i + 1)));
    b.weight = number(backends, i + 2);
    b.flags = backend_flags(number(backends, i + 3));
    s.backends.push_back(b);
  }
  const auto vias = value.Get("vias").As<Napi::Array>();
  for (uint32_t i = 0; i + 1 < vias.Length(); i += 2) {
    const uint32_t at = number(vias, i);
    if (at >= s.backends.size()) throw Napi::TypeError::New(env, "no such backend");
    s.backends[at].via = address(env, vias.Get(i + 1));
    s.backends[at].flags |= LB_BACKEND_VIA;
  }
  return s;
}

CommitInput to_commit(const Napi::Object& value) {
  const Napi::Env env = value.Env();
  CommitInput input;
  const auto put = value.Get("put").As<Napi::Array>();
  input.put.reserve(put.Length());
  for (uint32_t i = 0; i < put.Length(); i++) {
    Napi::HandleScope scope(env);
    input.put.push_back(to_service(put.Get(i).As<Napi::Object>()));
  }
  const auto remove = value.Get("remove").As<Napi::Array>();
  for (uint32_t i = 0; i < remove.Length(); i++) input.remove.push_back(remove.Get(i).As<Napi::String>().Utf8Value());
  const Napi::Value settings = value.Get("settings");
  if (settings.IsString()) {
    input.has_settings = true;
    input.settings = settings.As<Napi::String>().Utf8Value();
  }
  return input;
}

OpenOptions to_open_options(const Napi::Object& value) {
  OpenOptions options;
  options.pin_path = text(value, "pinPath");
  options.readonly = value.Get("readonly").ToBoolean();
  options.netns = text(value, "netns");
  options.lock_timeout_ms = number(value, "lockTimeoutMs");
  const auto capacity = value.Get("capacity").As<Napi::Object>();
  options.capacity = {number(capacity, "frontends"), number(capacity, "backends"), number(capacity, "cells"), number(capacity, "connections"),
                      number(capacity, "affinities")};
  return options;
}

AttachmentRecord to_attachment(const Napi::Object& value) {
  AttachmentRecord record;
  record.path = text(value, "target");
  record.options = text(value, "options");
  const std::string kind = text(value, "kind"), mode = text(value, "mode");
  record.kind = kind == "xdp" ? AttachmentKind::xdp : kind == "tc" ? AttachmentKind::tc : AttachmentKind::cgroup;
  record.role = text(value, "role") == "workload" ? LB_ROLE_WORKLOAD : LB_ROLE_EXTERNAL;
  record.mode = mode == "native" ? XdpMode::native : mode == "generic" ? XdpMode::generic : XdpMode::any;
  const auto netns = value.Get("netns").As<Napi::Array>();
  for (uint32_t i = 0; i < netns.Length(); i++) record.netns.push_back(netns.Get(i).As<Napi::String>().Utf8Value());
  return record;
}

PacketSettings to_packet_settings(const Napi::Object& value) {
  const Napi::Env env = value.Env();
  PacketSettings settings;
  if (value.Get("address4").IsString()) settings.address4 = address(env, value.Get("address4"));
  if (value.Get("address6").IsString()) settings.address6 = address(env, value.Get("address6"));
  settings.snat_low = static_cast<uint16_t>(number(value, "snatLow"));
  settings.snat_high = static_cast<uint16_t>(number(value, "snatHigh"));
  settings.idle_tcp = number(value, "idleTcp");
  settings.idle_udp = number(value, "idleUdp");
  settings.flags = value.Get("masqueradeAll").ToBoolean() ? LB_NODE_MASQUERADE_ALL : 0;
  settings.dsr = static_cast<uint16_t>(number(value, "dsr"));
  settings.dispatch = static_cast<uint16_t>(number(value, "dispatch"));
  settings.peers = ranges(env, value.Get("peers"));
  settings.pods = ranges(env, value.Get("pods"));
  settings.masquerade = ranges(env, value.Get("masquerade"));
  settings.masquerade_exclude = ranges(env, value.Get("masqueradeExclude"));
  settings.services = ranges(env, value.Get("services"));
  return settings;
}

Query to_query(const Napi::Object& value) {
  Query query;
  query.key.address = address(value.Env(), value.Get("address"));
  query.key.port = htons(static_cast<uint16_t>(number(value, "port")));
  query.key.protocol = static_cast<uint8_t>(number(value, "protocol"));
  query.key.scope = static_cast<uint8_t>(number(value, "scope"));
  query.netns = text(value, "netns");
  if (value.Has("source")) {
    query.source = address(value.Env(), value.Get("source"));
    query.source_port = htons(static_cast<uint16_t>(number(value, "sourcePort")));
  }
  return query;
}

Napi::Object from_snapshot(Napi::Env env, const Snapshot& snapshot) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("number", big(env, snapshot.number));
  Napi::Array services = Napi::Array::New(env, snapshot.services.size());
  uint32_t n = 0;
  for (const auto& s : snapshot.services) {
    if (s.name == kCanaryName) continue;
    Napi::Object row = Napi::Object::New(env);
    row.Set("id", s.id);
    row.Set("name", s.name);
    row.Set("owner", s.owner);
    row.Set("record", s.record);
    services.Set(n++, row);
  }
  services.Set("length", n);
  o.Set("services", services);
  if (snapshot.has_settings) o.Set("settings", snapshot.settings);
  return o;
}

Napi::Object from_attachment(Napi::Env env, const AttachmentInfo& info) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("id", info.id);
  constexpr const char* kKinds[] = {"cgroup", "tc", "xdp"};
  o.Set("kind", kKinds[static_cast<int>(info.kind)]);
  o.Set("target", info.target);
  o.Set("mode", info.mode);
  o.Set("state", info.state);
  o.Set("options", info.options);
  return o;
}

Napi::Object from_decision(Napi::Env env, const Decision& decision) {
  Napi::Object o = Napi::Object::New(env);
  const lb_answer& a = decision.answer;
  o.Set("verdict", a.verdict);
  o.Set("reason", a.reason);
  o.Set("affinity", Napi::Boolean::New(env, a.flags & LB_ANSWER_AFFINITY));
  Napi::Array candidates = Napi::Array::New(env, decision.candidates.size());
  for (uint32_t i = 0; i < decision.candidates.size(); i++)
    candidates.Set(i, endpoint(env, decision.candidates[i].address, decision.candidates[i].port));
  o.Set("candidates", candidates);
  if (!decision.service.empty()) o.Set("service", decision.service);
  if (decision.frontend) {
    Napi::Object f = endpoint(env, decision.frontend->key.address, decision.frontend->key.port);
    f.Set("kind", decision.frontend->kind);
    o.Set("frontend", f);
  }
  if (a.backend) {
    Address address;
    address.family = decision.frontend ? decision.frontend->key.address.family : static_cast<uint8_t>(LB_IPV4);
    std::memcpy(address.words, a.address, sizeof a.address);
    o.Set("backend", endpoint(env, address, a.port));
  }
  return o;
}

Napi::Object from_usage(Napi::Env env, const ServiceUsage& usage) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("failures", big(env, usage.failures));
  o.Set("retired", big(env, usage.retired));
  Napi::Array backends = Napi::Array::New(env, usage.backends.size());
  for (uint32_t i = 0; i < usage.backends.size(); i++) {
    Napi::Object row = endpoint(env, usage.backends[i].address, usage.backends[i].port);
    row.Set("connections", big(env, usage.backends[i].connections));
    row.Set("failures", big(env, 0));
    backends.Set(i, row);
  }
  o.Set("backends", backends);
  return o;
}

Napi::Array from_affinities(Napi::Env env, const std::vector<AffinityRow>& rows) {
  Napi::Array list = Napi::Array::New(env, rows.size());
  for (uint32_t i = 0; i < rows.size(); i++) {
    Napi::Object o = endpoint(env, rows[i].address, rows[i].port);
    o.Set("clientNetns", big(env, rows[i].client));
    o.Set("service", rows[i].service);
    o.Set("expiresInMs", static_cast<double>(rows[i].expires_ms));
    o.Set("family", rows[i].family);
    list.Set(i, o);
  }
  return list;
}

Napi::Array from_connections(Napi::Env env, const std::vector<ConnectionRow>& rows) {
  constexpr const char* kModes[] = {"local", "snat", "dsr"};
  Napi::Array list = Napi::Array::New(env, rows.size());
  for (uint32_t i = 0; i < rows.size(); i++) {
    Napi::HandleScope scope(env);
    const lb_connection& c = rows[i].connection;
    auto text_of = [&](const __be32* words) { return Address{c.family, {words[0], words[1], words[2], words[3]}}.text(); };
    Napi::Object o = Napi::Object::New(env);
    o.Set("protocol", c.protocol);
    o.Set("state", rows[i].state);
    o.Set("mode", kModes[c.mode < std::size(kModes) ? c.mode : 0]);
    o.Set("service", rows[i].service);
    o.Set("clientAddress", text_of(c.client));
    o.Set("clientPort", ntohs(c.client_port));
    o.Set("frontendAddress", text_of(c.service));
    o.Set("frontendPort", ntohs(c.service_port));
    o.Set("backendAddress", text_of(c.backend));
    o.Set("backendPort", ntohs(c.backend_port));
    o.Set("ageMs", static_cast<double>(rows[i].age_ms));
    o.Set("idleMs", static_cast<double>(rows[i].idle_ms));
    o.Set("packets", big(env, c.packets));
    o.Set("bytes", big(env, c.bytes));
    list.Set(i, o);
  }
  return list;
}

Napi::Array from_maps(Napi::Env env, const std::vector<MapRow>& rows) {
  Napi::Array list = Napi::Array::New(env, rows.size());
  for (uint32_t i = 0; i < rows.size(); i++) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", rows[i].name);
    o.Set("entries", static_cast<double>(rows[i].entries));
    o.Set("capacity", static_cast<double>(rows[i].capacity));
    o.Set("bytes", static_cast<double>(rows[i].bytes));
    list.Set(i, o);
  }
  return list;
}

Napi::Array from_problems(Napi::Env env, const std::vector<Problem>& problems) {
  Napi::Array list = Napi::Array::New(env, problems.size());
  for (uint32_t i = 0; i < problems.size(); i++) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("code", problems[i].code);
    o.Set("object", problems[i].object);
    o.Set("message", problems[i].message);
    o.Set("remedy", problems[i].remedy);
    list.Set(i, o);
  }
  return list;
}

Napi::Object from_counters(Napi::Env env, const Balancer& balancer) {
  const Maps& maps = balancer.maps();
  if (!maps.verdicts) throw to_failure(env, make_error("ERR_CLOSED", "stats", "", "the balancer is closed"));
  Napi::Array hooks = Napi::Array::New(env, LB_HOOK_COUNT);
  for (uint32_t hook = 0; hook < LB_HOOK_COUNT; hook++) {
    Napi::Array reasons = Napi::Array::New(env, LB_REASON_SPACE);
    for (uint32_t reason = 0; reason < LB_REASON_SPACE; reason++) reasons.Set(reason, big(env, maps.counted(hook, reason)));
    hooks.Set(hook, reasons);
  }
  Napi::Object o = Napi::Object::New(env);
  o.Set("hooks", hooks);
  o.Set("connections", big(env, balancer.total_connections()));
  return o;
}

Napi::Object from_probe(Napi::Env env, const Probe& probe) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("kernel", probe.kernel);
  o.Set("usable", Napi::Boolean::New(env, probe.usable));
  Napi::Array missing = Napi::Array::New(env, probe.missing.size());
  for (uint32_t i = 0; i < probe.missing.size(); i++) missing.Set(i, probe.missing[i]);
  o.Set("missing", missing);
  Napi::Object features = Napi::Object::New(env);
  for (const auto& f : probe.features) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("support", f.support);
    row.Set("minimumKernel", f.minimum_kernel);
    row.Set("neededFor", f.needed_for);
    if (!f.fallback.empty()) row.Set("fallback", f.fallback);
    features.Set(f.name, row);
  }
  o.Set("features", features);
  return o;
}

Napi::Object from_needs(Napi::Env env, const Needs& needs) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("frontends", needs.frontends);
  o.Set("backends", needs.backends);
  o.Set("cells", needs.cells);
  return o;
}

}  // namespace lb::binding
