// SPDX-License-Identifier: Apache-2.0
#include "control/installer.h"

#include <algorithm>
#include <tuple>

namespace vx::control {

using protocol::MessageType;
using protocol::OverlayConfig;
using protocol::UnderlayConfig;
using protocol::VtepConfig;

bool is_equal(const UnderlayConfig& a, const UnderlayConfig& b) {
  const auto fields = [](const UnderlayConfig& c) {
    return std::tie(c.port, c.vlan, c.mtu, c.own_address, c.hold_port, c.local_count, c.mac, c.takeover, c.local);
  };
  return fields(a) == fields(b);
}

bool is_equal(const OverlayConfig& a, const OverlayConfig& b) {
  const auto fields = [](const OverlayConfig& c) {
    return std::tie(c.index, c.udp_port, c.vni, c.name, c.local, c.mtu, c.ttl, c.tos, c.tos_inherit, c.udp_csum,
                    c.learning, c.vtep_learning, c.mss_clamp, c.uplink_port, c.fdb_capacity, c.tunnel_flags, c.own_mac, c.home, c.tunnel_vlans);
  };
  return fields(a) == fields(b);
}

bool is_equal(const VtepConfig& a, const VtepConfig& b) {
  const auto fields = [](const VtepConfig& c) {
    return std::tie(c.overlay, c.index, c.address, c.flood, c.resolved, c.next_hop, c.mtu, c.source_port_min,
                    c.source_port_max);
  };
  return fields(a) == fields(b);
}

namespace {

// A dump that may take several messages: asks from the last one's index + 1 on until a reply has none.
template <typename Record, typename From, typename NextOf>
bool dump_all(DataplaneClient& client, MessageType type, From from, NextOf set_next, std::vector<Record>& out) {
  out.clear();
  for (;;) {
    const auto reply = client.request(type, from);
    if (!reply) return false;
    const auto records = DataplaneClient::records_of<Record>(*reply);
    if (records.empty()) return true;
    out.insert(out.end(), records.begin(), records.end());
    set_next(from, records.back());
  }
}

}  // namespace

bool Installer::check(bool is_done) {
  complaint_ = is_done ? "" : client_.error();
  return is_done;
}

bool Installer::read_back() {
  overlays_.clear();
  vteps_.clear();
  underlay_ = {};
  const auto after_port = [](protocol::DumpFrom& from, const protocol::PortInfo& last) {
    from.first = static_cast<std::uint16_t>(last.index + 1);
  };
  if (!check(dump_all(client_, MessageType::kPortDump, protocol::DumpFrom{}, after_port, ports_))) return false;
  const auto underlay = client_.request(MessageType::kUnderlayGet);
  if (!check(underlay.has_value())) return false;
  underlay_ = underlay->record<UnderlayConfig>().value_or(UnderlayConfig{});
  std::vector<OverlayConfig> overlays;
  const auto after_overlay = [](protocol::DumpFrom& from, const OverlayConfig& last) {
    from.first = static_cast<std::uint16_t>(last.index + 1);
  };
  if (!check(dump_all(client_, MessageType::kOverlayDump, protocol::DumpFrom{}, after_overlay, overlays))) return false;
  for (const auto& overlay : overlays) {
    overlays_[overlay.index] = overlay;
    std::vector<VtepConfig> vteps;
    const auto after_vtep = [](protocol::VtepRef& from, const VtepConfig& last) {
      from.index = static_cast<VtepIndex>(last.index + 1);
    };
    if (!check(dump_all(client_, MessageType::kVtepDump, protocol::VtepRef{overlay.index, 0}, after_vtep, vteps)))
      return false;
    for (const auto& vtep : vteps) vteps_[overlay.index][vtep.index] = vtep;
  }
  return true;
}

bool Installer::set_underlay(const UnderlayConfig& config) {
  if (is_equal(config, underlay_)) return true;
  if (!check(client_.request(MessageType::kUnderlaySet, config).has_value())) return false;
  underlay_ = config;
  return true;
}

bool Installer::set_overlay(const OverlayConfig& config) {
  const auto told = overlays_.find(config.index);
  if (told != overlays_.end() && is_equal(config, told->second)) return true;
  if (!check(client_.request(MessageType::kOverlaySet, config).has_value())) return false;
  overlays_[config.index] = config;
  return true;
}

bool Installer::delete_overlay(OverlayIndex index) {
  if (!check(client_.request(MessageType::kOverlayDelete, protocol::OverlayRef{index}).has_value())) return false;
  overlays_.erase(index);
  vteps_.erase(index);
  return true;
}

const VtepConfig* Installer::vtep(OverlayIndex overlay, VtepIndex index) const {
  const auto of_overlay = vteps_.find(overlay);
  if (of_overlay == vteps_.end()) return nullptr;
  const auto at = of_overlay->second.find(index);
  return at == of_overlay->second.end() ? nullptr : &at->second;
}

std::vector<VtepConfig> Installer::vteps(OverlayIndex overlay) const {
  std::vector<VtepConfig> all;
  if (const auto at = vteps_.find(overlay); at != vteps_.end())
    for (const auto& [index, vtep] : at->second) all.push_back(vtep);
  return all;
}

bool Installer::set_vteps(OverlayIndex overlay, const std::vector<VtepConfig>& wanted) {
  auto& told = vteps_[overlay];
  // Gone ones first: an address may come back under another index.
  for (auto at = told.begin(); at != told.end();) {
    const bool stays = std::any_of(wanted.begin(), wanted.end(), [&](const VtepConfig& vtep) {
      return vtep.index == at->first && vtep.address == at->second.address;
    });
    if (stays) {
      ++at;
      continue;
    }
    if (!check(client_.request(MessageType::kVtepDelete, protocol::VtepRef{overlay, at->first}).has_value()))
      return false;
    at = told.erase(at);
  }
  std::vector<VtepConfig> changed;
  for (const auto& vtep : wanted) {
    const auto at = told.find(vtep.index);
    if (at == told.end() || !is_equal(vtep, at->second)) changed.push_back(vtep);
  }
  constexpr std::size_t kBatch = kRecordsPerMessage<VtepConfig>;
  for (std::size_t i = 0; i < changed.size(); i += kBatch) {
    const std::span batch(changed.data() + i, std::min(kBatch, changed.size() - i));
    if (!check(client_.request(MessageType::kVtepSet, std::span<const VtepConfig>(batch)).has_value())) return false;
    for (const auto& vtep : batch) told[vtep.index] = vtep;
  }
  return true;
}

Installer::PutResult Installer::put(std::span<const protocol::FdbRecord> records) {
  constexpr std::size_t kBatch = kRecordsPerMessage<protocol::FdbRecord>;
  PutResult result;
  for (; !records.empty(); records = records.subspan(std::min(kBatch, records.size()))) {
    const auto reply = client_.request(MessageType::kFdbPut, records.first(std::min(kBatch, records.size())));
    if (!check(reply.has_value())) return result;
    if (const auto counts = reply->record<protocol::FdbPutReply>()) result.full += counts->full;
  }
  result.is_sent = true;
  return result;
}

bool Installer::remove(std::span<const protocol::FdbDelete> records, std::vector<std::uint8_t>* results) {
  constexpr std::size_t kBatch = kRecordsPerMessage<protocol::FdbDelete>;
  for (; !records.empty(); records = records.subspan(std::min(kBatch, records.size()))) {
    const auto reply = client_.request(MessageType::kFdbDelete, records.first(std::min(kBatch, records.size())));
    if (!check(reply.has_value())) return false;
    if (results == nullptr) continue;
    for (const auto& record : DataplaneClient::records_of<protocol::FdbDeleteReply>(*reply))
      results->push_back(record.result);
  }
  return true;
}

bool Installer::dump(OverlayIndex overlay, std::uint16_t idle_s, std::uint64_t& cursor, unsigned messages,
                     const std::function<void(std::span<const protocol::FdbRecord>)>& visit) {
  for (unsigned i = 0; i < messages; ++i) {
    protocol::FdbDumpRequest request;
    request.overlay = overlay;
    request.idle_s = idle_s;
    request.cursor = cursor;
    const auto reply = client_.request(MessageType::kFdbDump, request);
    if (!check(reply.has_value())) return false;
    const auto summary = reply->record<protocol::FdbDumpReply>();
    if (!summary) return false;
    const auto records =
        DataplaneClient::records_of<protocol::FdbRecord>(*reply, sizeof(protocol::FdbDumpReply));
    if (!records.empty()) visit(records);
    cursor = summary->cursor;
    if (cursor == 0) return true;
  }
  return true;
}

}  // namespace vx::control
