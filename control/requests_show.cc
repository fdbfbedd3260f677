// SPDX-License-Identifier: Apache-2.0
// `vxctl vtep|port|vlan|stats|drops|status`.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "config/values.h"
#include "control/requests.h"
#include "control/text.h"
#include "dataplane/drop_reason.h"
#include "ebpf/shared.h"

namespace vx::control {

namespace {

constexpr std::array<const char*, VXP_EXIT_COUNT> kXdpExitNames{
    "redirected",    "own_address", "not_configured", "stale",       "other_vlan", "other_protocol", "other_address",
    "other_port",    "fragment",    "bad_flags",      "unknown_vni", "truncated",  "no_socket",      "taken",
    "bypass"};
static_assert(kXdpExitNames.back() != nullptr);

constexpr std::array<const char*, VXP_TAKE_COUNT> kTakeExitNames{"taken", "stale", "bypass", "other_gso", "unfollowed"};
static_assert(kTakeExitNames.back() != nullptr);

std::string driver_of(const protocol::PortConfig& config) {
  return config::driver_text(static_cast<config::Driver>(config.driver), std::string(protocol::text_of(config.devargs)));
}

std::string_view mode_text(config::Mode mode) {
  switch (mode) {
    case config::Mode::kNetdev: return "netdev";
    case config::Mode::kTakeover: return "takeover";
    case config::Mode::kBridge: break;
  }
  return "bridge";
}

bool is_reachable(Control& control, const Overlay& overlay, const RemoteVtep& vtep) {
  const auto* told = control.told_vtep(overlay, vtep);
  return told != nullptr && told->resolved != 0;
}

std::string_view state_text(const ManagedPort& port) {
  // A port whose netdev went waits for the next of that name like one that never came.
  return to_string(port.status == PortStatus::kLost ? PortStatus::kWaiting : port.status);
}

}  // namespace

Json Requests::vtep_show() {
  Json all = Json::array();
  for (const auto& overlay : control_.overlays()) {
    for (const auto& [address, vtep] : overlay->vteps.all()) {
      const auto* told = control_.told_vtep(*overlay, vtep);
      const bool is_resolved = told != nullptr && told->resolved != 0;
      Json object{{"dst", format_ip(address)}, {"flood", vtep.flood}, {"state", is_resolved ? "reachable" : "unresolved"}};
      if (is_resolved && !told->next_hop.is_zero()) object["mac"] = format_mac(told->next_hop);
      object["port"] = overlay->settings.vxlan.port;
      if (control_.overlays().size() > 1) object["ifname"] = overlay->name();
      if (const PathKnown* path = control_.prober().find(address)) {
        object["path_mtu"] = path->passes;
        object["path_mtu_age"] = (EventLoop::now() - path->at) / 1000;
      }
      all.push_back(std::move(object));
    }
  }
  return api::ok(std::move(all));
}

Json vlans_json(const VlanTable& vlans) {
  const auto flags_of = [&](std::uint16_t vid) {
    return (vid == vlans.pvid ? 1 : 0) | (vlans.untagged.contains(vid) ? 2 : 0);
  };
  Json out = Json::array();
  for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid) {
    if (!vlans.members.contains(vid)) continue;
    const int flags = flags_of(vid);
    std::uint16_t last = vid;
    while (last < kMaxVid && (flags & 1) == 0 && vlans.members.contains(static_cast<std::uint16_t>(last + 1)) &&
           flags_of(static_cast<std::uint16_t>(last + 1)) == flags)
      ++last;
    Json range{{"vlan", vid}};
    if (last != vid) range["vlanEnd"] = last;
    Json names = Json::array();
    if ((flags & 1) != 0) names.push_back("PVID");
    if ((flags & 2) != 0) names.push_back("Egress Untagged");
    if (!names.empty()) range["flags"] = std::move(names);
    out.push_back(std::move(range));
    vid = last;
  }
  return out;
}

Json Requests::vlan_show() {
  Json all = Json::array();
  for (const auto& overlay : control_.overlays()) {
    const auto tunnel = uplink_port(overlay->settings);
    all.push_back(Json{{"ifname", overlay->name()}, {"vlans", vlans_json(tunnel.vlans)}});
    for (const auto& [name, port] : control_.ports().ports()) {
      if (overlay_of_port(name) != overlay.get() || is_uplink(overlay->settings, name)) continue;
      all.push_back(Json{{"ifname", name}, {"vlans", vlans_json(port.wanted.config.vlans)}});
    }
  }
  return api::ok(std::move(all));
}

namespace {

struct Stats {
  protocol::StatsReply head;
  std::vector<protocol::PortStats> ports;
  std::vector<protocol::WorkerStats> workers;

  [[nodiscard]] const protocol::PortStats* port(std::string_view name) const {
    const auto at = std::find_if(ports.begin(), ports.end(), [&](const auto& p) { return protocol::text_of(p.name) == name; });
    return at == ports.end() ? nullptr : &*at;
  }
};

std::optional<Stats> ask_stats(DataplaneClient& client) {
  Stats stats;
  protocol::DumpFrom from;
  for (;;) {
    const auto reply = client.request(protocol::MessageType::kStatsGet, from);
    const auto head = reply ? reply->record<protocol::StatsReply>() : std::nullopt;
    if (!head) return std::nullopt;
    stats.head = *head;
    std::size_t offset = sizeof(protocol::StatsReply);
    for (std::uint32_t i = 0; i < head->ports; ++i, offset += sizeof(protocol::PortStats))
      if (const auto port = reply->record<protocol::PortStats>(0, offset)) stats.ports.push_back(*port);
    if (stats.workers.empty())
      for (std::uint32_t i = 0; i < head->workers; ++i, offset += sizeof(protocol::WorkerStats))
        if (const auto worker = reply->record<protocol::WorkerStats>(0, offset)) stats.workers.push_back(*worker);
    // The first question takes all ports of nearly every machine.
    if (head->ports == 0 || stats.ports.size() < 64) return stats;
    from.first = static_cast<std::uint16_t>(stats.ports.size());
  }
}

Json drops_json(const protocol::StatsReply& head) {
  Json drops = Json::object();
  for (std::size_t i = 0; i < kDropReasonCount; ++i) drops[std::string(kDropReasonTexts[i].name)] = head.drops[i];
  return drops;
}

}  // namespace

Json Requests::port_show() {
  Json all = Json::array();
  const auto stats = control_.client().is_connected() ? ask_stats(control_.client()) : std::nullopt;
  for (const auto& [name, port] : control_.ports().ports()) {
    const auto& config = port.wanted.config;
    const bool is_underlay = config.role == protocol::PortRole::kUnderlay;
    Json object{{"name", name}, {"role", is_underlay ? "underlay" : "guest"}, {"driver", driver_of(config)},
                {"state", state_text(port)}};
    if (port.info) {
      if (!port.info->mac.is_zero()) object["mac"] = format_mac(port.info->mac);
      if (is_underlay) object["mtu"] = control_.underlay_settings().mtu;
      else if (config.mtu != 0) object["mtu"] = config.mtu;
      object["rx_queues"] = port.info->rx_queues;
      object["tx_queues"] = port.info->tx_queues;
      const auto* seen = stats ? stats->port(name) : nullptr;
      if (seen != nullptr) {  // what the kernel or the device lost outside of us: rings full, frames refused
        object["rx_missed"] = seen->rx_missed;
        object["tx_errors"] = seen->tx_errors;
      }
    }
    if (const Overlay* overlay = overlay_of_port(name)) {
      object["learned"] = overlay->learner.learned_at(Location::port(port.slot));
      if (port.wanted.fdb_max_learned != 0) object["limit"] = port.wanted.fdb_max_learned;
      if (config.storm_pps != 0) object["storm_pps"] = config.storm_pps;
      object["ifname"] = overlay->name();
    }
    if (!port.text.empty()) object["text"] = port.text;
    all.push_back(std::move(object));
  }
  return api::ok(std::move(all));
}

Json Requests::stats_show(bool drops_only) {
  const auto stats = ask_stats(control_.client());
  if (!stats) return api::error("dataplane: " + control_.client().error());
  if (drops_only) return api::ok(drops_json(stats->head));
  Json ports = Json::object(), xdp = Json::object(), workers = Json::array();
  for (const auto& port : stats->ports) {
    const auto& c = port.counters;
    ports[std::string(protocol::text_of(port.name))] =
        Json{{"rx_packets", c.rx_packets}, {"rx_bytes", c.rx_bytes},     {"tx_packets", c.tx_packets},
             {"tx_bytes", c.tx_bytes},     {"rx_dropped", c.rx_dropped}, {"tx_dropped", c.tx_dropped}};
  }
  const std::size_t exits = std::min<std::size_t>(stats->head.xdp_exits, kXdpExitNames.size());
  for (std::size_t i = 0; i < exits; ++i) xdp[kXdpExitNames[i]] = stats->head.xdp[i];
  Json take = Json::object();
  const std::size_t take_exits = std::min<std::size_t>(stats->head.take_exits, kTakeExitNames.size());
  for (std::size_t i = 0; i < take_exits; ++i) take[kTakeExitNames[i]] = stats->head.take[i];
  for (const auto& worker : stats->workers)
    workers.push_back(Json{{"lcore", worker.lcore}, {"polls", worker.polls}, {"busy_polls", worker.busy_polls},
                           {"packets", worker.packets}});
  const auto& t = stats->head.totals;
  Json totals{{"received", t.received}, {"cloned", t.cloned},     {"generated", t.generated},
              {"segmented", t.segmented}, {"sent", t.sent},       {"dropped", t.dropped},
              {"consumed", t.consumed}, {"coalesced", t.coalesced}, {"held", t.held}};
  Json too_big{{"told", stats->head.too_big_told}, {"limited", stats->head.too_big_limited}};
  Json fragments{{"received", stats->head.fragments_received}, {"reassembled", stats->head.fragments_reassembled},
                 {"lost", stats->head.fragments_lost}};
  Json reply = api::ok(Json{{"ports", std::move(ports)}, {"drops", drops_json(stats->head)}, {"xdp", std::move(xdp)}, {"take", std::move(take)},
                            {"totals", std::move(totals)}, {"workers", std::move(workers)},
                            {"too_big", std::move(too_big)}, {"fragments", std::move(fragments)}});
  if (stats->head.complete == 0) reply["notes"] = Json::array({"a worker did not answer in time: its figures are missing"});
  return reply;
}

Json Requests::bypass_show() {
  if (!control_.has_takeover()) return api::error("bypass: there is no takeover: without vxplane nobody forwards");
  const bool is_connected = control_.client().is_connected();
  std::string reason = is_connected ? control_.bypass_reason() : "dataplane: " + control_.client().error();
  return api::ok(Json{{"bypass", !reason.empty()}, {"forwards", reason.empty() ? "vxplane" : "kernel"}, {"reason", reason}});
}

Json Requests::status_show() {
  auto& client = control_.client();
  const Milliseconds now = EventLoop::now();
  Json dataplane{{"state", client.is_connected() ? "connected" : "unreachable"}};
  if (const auto reply = client.request(protocol::MessageType::kHello)) {
    if (const auto hello = reply->record<protocol::HelloReply>()) {
      dataplane["pid"] = hello->pid;
      dataplane["uptime_s"] = hello->uptime_s;
      dataplane["workers"] = hello->workers;
      dataplane["hugepages"] = hello->hugepages != 0;
      dataplane["instance"] = fmt::format("{:016x}", hello->instance);
    }
  }
  const auto& settings = control_.underlay_settings();
  const ManagedPort* port = control_.ports().find(settings.device);
  Json underlay{{"device", settings.device}, {"driver", config::driver_text(settings.driver, settings.devargs)}};
  underlay["state"] = port != nullptr ? state_text(*port) : "waiting";
  if (settings.vlan != 0) underlay["vlan"] = settings.vlan;
  underlay["mtu"] = settings.mtu;
  if (const auto mac = control_.installer().underlay().mac; !mac.is_zero()) underlay["mac"] = format_mac(mac);
  underlay["vtep_address"] = settings.own_address ? "own" : "kernel";

  Json overlays = Json::array(), files = Json::array();
  for (const auto& overlay : control_.overlays()) {
    std::size_t ports = 0, ports_up = 0, reachable = 0;
    for (const auto& [name, one] : control_.ports().ports()) {
      if (overlay_of_port(name) != overlay.get()) continue;
      ++ports;
      if (one.status == PortStatus::kUp) ++ports_up;
    }
    for (const auto& [address, vtep] : overlay->vteps.all()) reachable += is_reachable(control_, *overlay, vtep) ? 1 : 0;
    Json object{{"name", overlay->name()}, {"vni", overlay->settings.vxlan.vni},
                {"mode", mode_text(overlay->settings.mode)}};
    if (overlay->local) object["local"] = format_ip(*overlay->local);
    object["port"] = overlay->settings.vxlan.port;
    object["mtu"] = overlay->settings.vxlan.mtu;
    if (!overlay->settings.bridge.name.empty()) object["master"] = overlay->settings.bridge.name;
    object["ports"] = ports;
    object["ports_up"] = ports_up;
    object["vteps"] = overlay->vteps.all().size();
    object["vteps_reachable"] = reachable;
    object["fdb"] = overlay->learner.size();
    object["fdb_limit"] = overlay->learner.limits().max_learned;
    object["config"] = overlay->settings.source;
    if (overlay->is_takeover()) object["forwards"] = control_.bypass_reason().empty() && client.is_connected() ? "vxplane" : "kernel";
    if (const auto held = overlay->learner.held_now(); !held.empty()) {
      Json macs = Json::array();
      for (const auto key : held) macs.push_back(fmt::format("{} vlan {}", format_mac(fdb_key_mac(key)), fdb_key_vid(key)));
      object["held"] = std::move(macs);
    }
    overlays.push_back(std::move(object));
  }
  return api::ok(Json{{"control", {{"version", VXPLANE_VERSION}, {"pid", getpid()},
                                   {"uptime_s", (now - control_.started_at()) / 1000}}},
                      {"dataplane", std::move(dataplane)}, {"underlay", std::move(underlay)},
                      {"overlays", std::move(overlays)}, {"problems", control_.problems()}});
}

}  // namespace vx::control
