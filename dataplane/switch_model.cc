// SPDX-License-Identifier: Apache-2.0
#include "dataplane/switch_model.h"

#include <algorithm>
#include <set>

namespace vx {
namespace {

constexpr unsigned kUnderlayWeight = 4;

unsigned weight_of(const PortEntry& entry) { return entry.is_underlay() ? kUnderlayWeight : 1; }

volatile vxp_beat* heartbeat_of(const PortEntry& entry, std::uint16_t queue) {
  if (entry.made.steering) return entry.made.steering->heartbeat(queue);
  return queue < entry.made.heartbeats.size() ? entry.made.heartbeats[queue] : nullptr;
}

Vtep build_vtep(const protocol::VtepConfig& config, const protocol::OverlayConfig& overlay,
                const SwitchModel& model) {
  const protocol::UnderlayConfig& underlay = model.underlay;
  Vtep vtep;
  OuterHeaderFields fields;
  fields.source_mac = underlay.mac;
  fields.next_hop = config.next_hop;
  fields.vlan = underlay.vlan;
  fields.source = overlay.local;
  fields.destination = config.address;
  fields.ttl = overlay.ttl;
  fields.tos = overlay.tos_inherit != 0 ? std::uint8_t{0} : overlay.tos;
  fields.udp_port = overlay.udp_port;
  fields.vni = overlay.vni;
  vtep.exists = true;
  vtep.address = config.address;
  vtep.flood = config.flood != 0;
  // Unresolved frames are counted as such: that is also what a missing local address or underlay
  // MAC comes to.
  vtep.resolved = config.resolved != 0 && !overlay.local.is_unspecified() &&
                  (!underlay.mac.is_zero() || model.is_underlay_routed());
  vtep.outer_mtu = config.mtu != 0 && underlay.mtu != 0 ? std::min(config.mtu, underlay.mtu)
                                                        : std::max(config.mtu, underlay.mtu);
  vtep.source_port_min = config.source_port_min;
  vtep.source_port_span =
      static_cast<std::uint32_t>(config.source_port_max - config.source_port_min) + 1;
  build_outer_header(fields, vtep);
  return vtep;
}

// Null where no overlay shares this one's ports. Of two that carry a VLAN the first has it.
std::shared_ptr<const OverlayByVid> build_by_vid(const SwitchModel& model, OverlayIndex home) {
  std::shared_ptr<OverlayByVid> by_vid;
  for (const auto& entry : model.overlays) {
    if (!entry || entry->config.home != home) continue;
    if (!by_vid) {
      by_vid = std::make_shared<OverlayByVid>();
      by_vid->fill(home);
    }
    for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid)
      if (entry->tunnel_vlans->members.contains(vid) && (*by_vid)[vid] == home) (*by_vid)[vid] = entry->config.index;
  }
  return by_vid;
}

OverlayState build_overlay(const SwitchModel& model, const OverlayEntry& entry) {
  const protocol::OverlayConfig& config = entry.config;
  OverlayState state;
  state.exists = true;
  state.vni = config.vni;
  state.local = config.local;
  state.udp_port = config.udp_port;
  state.mtu = config.mtu;
  state.tos = config.tos;
  state.tos_inherit = config.tos_inherit != 0;
  state.udp_csum = config.udp_csum != 0;
  state.learning = config.learning != 0;
  state.accept_unknown_vteps = config.vtep_learning != protocol::VtepLearning::kNo;
  state.tunnel_flags = config.tunnel_flags;
  state.mss_clamp = config.mss_clamp != 0;
  state.own_mac = config.own_mac;
  state.fdb = entry.fdb->table();
  state.tunnel_vlans = entry.tunnel_vlans;
  if (const auto* uplink = model.find_port(protocol::text_of(config.uplink_port)))
    state.uplink = uplink->index;
  std::vector<Vtep> vteps(entry.vteps.size());
  for (std::size_t i = 0; i < vteps.size(); ++i)
    if (entry.vteps[i]) vteps[i] = build_vtep(*entry.vteps[i], config, model);
  state.vteps = VtepTable(std::move(vteps));
  for (const auto& port : model.ports)
    if (port && !port->is_underlay() && port->config.overlay == home_of(config))
      state.ports.push_back(port->index);
  state.home = config.home;
  state.by_vid = build_by_vid(model, config.index);
  return state;
}

UnderlayState build_underlay(const SwitchModel& model) {
  UnderlayState state;
  if (const auto* port = model.underlay_port()) state.port = port->index;
  state.vlan = model.underlay.vlan;
  state.mtu = model.underlay.mtu;
  state.own_address = model.underlay.own_address != 0;
  state.mac = model.underlay.mac;
  state.local.assign(model.underlay.local.begin(),
                     model.underlay.local.begin() + model.underlay.local_count);
  return state;
}

}  // namespace

PortEntry* SwitchModel::find_port(std::string_view name) const noexcept {
  if (name.empty()) return nullptr;
  for (const auto& port : ports)
    if (port && protocol::text_of(port->config.name) == name) return port.get();
  return nullptr;
}

PortEntry* SwitchModel::underlay_port() const noexcept {
  PortEntry* port = find_port(protocol::text_of(underlay.port));
  return port != nullptr && port->is_underlay() ? port : nullptr;
}

bool SwitchModel::is_takeover(const PortEntry& entry) const noexcept {
  return entry.config.takeover != 0 || (underlay.takeover != 0 && &entry == underlay_port());
}

bool SwitchModel::is_underlay_routed() const noexcept {
  const PortEntry* port = underlay_port();
  return port != nullptr && port->config.driver == protocol::PortDriver::kUdp;
}

OverlayEntry* SwitchModel::find_overlay(OverlayIndex index) const noexcept {
  return index < overlays.size() ? overlays[index].get() : nullptr;
}

void assign_queues(const SwitchModel& model, PortEntry& entry) {
  std::vector<unsigned> load(model.workers, 0);
  for (const auto& port : model.ports)
    if (port && port.get() != &entry)
      for (const unsigned worker : port->rx_worker) load[worker] += weight_of(*port);
  entry.rx_worker.clear();
  for (unsigned queue = 0; queue < entry.made.port->rx_queues(); ++queue) {
    const auto least =
        static_cast<unsigned>(std::min_element(load.begin(), load.end()) - load.begin());
    entry.rx_worker.push_back(least);
    load[least] += weight_of(entry);
  }
  entry.tx_locks.clear();
  if (entry.made.port->tx_queues() < model.workers)
    for (unsigned queue = 0; queue < entry.made.port->tx_queues(); ++queue)
      entry.tx_locks.push_back(std::make_unique<std::atomic_flag>());
}

std::unique_ptr<ForwardingState> build_state(const SwitchModel& model, std::uint64_t version) {
  auto state = std::make_unique<ForwardingState>();
  state->version = version;
  state->underlay = build_underlay(model);
  state->ports.resize(model.ports.size());
  for (const auto& entry : model.ports) {
    if (!entry) continue;
    PortState& port = state->ports[entry->index];
    port.port = entry->made.port;
    port.overlay = entry->is_underlay() ? kNoIndex : entry->config.overlay;
    port.is_underlay = entry->is_underlay();
    port.learning = entry->config.learning != 0;
    port.flags = entry->config.flags;
    port.storm_pps = entry->config.storm_pps;
    port.storm = entry->storm;
    port.too_big = entry->too_big;
    port.vlans = entry->vlans;
    port.own_mac = entry->config.own_mac;
    port.delivers = entry->config.deliver_ifindex != 0;
  }
  state->overlays.resize(model.overlays.size());
  for (const auto& overlay : model.overlays)
    if (overlay) state->overlays[overlay->config.index] = build_overlay(model, *overlay);
  return state;
}

std::vector<std::unique_ptr<Assignment>> build_assignments(
    const SwitchModel& model, std::span<const std::shared_ptr<Port>> held) {
  std::vector<std::unique_ptr<Assignment>> assignments;
  for (unsigned worker = 0; worker < model.workers; ++worker) {
    auto assignment = std::make_unique<Assignment>();
    assignment->tx.resize(model.ports.size());
    assignment->too_late_ns = std::max(assignment->too_late_ns, std::uint64_t{model.fail_open.stale_after_ms} * 1'000'000);
    for (const auto& entry : model.ports) {
      if (!entry) continue;
      Port* port = entry->made.port.get();
      for (std::uint16_t queue = 0; queue < entry->rx_worker.size(); ++queue)
        if (entry->rx_worker[queue] == worker)
          assignment->rx.push_back({port, entry->index, queue, heartbeat_of(*entry, queue),
                                    model.is_takeover(*entry)});
      if (port->tx_queues() == 0) continue;
      const auto queue = static_cast<std::uint16_t>(worker % port->tx_queues());
      assignment->tx[entry->index] = {
          port, queue, entry->tx_locks.empty() ? nullptr : entry->tx_locks[queue].get()};
    }
    assignments.push_back(std::move(assignment));
  }
  if (const auto* underlay = model.underlay_port())
    for (const auto& socket : held)
      for (std::uint16_t queue = 0; queue < socket->rx_queues(); ++queue)
        assignments[queue % model.workers]->rx.push_back(
            {socket.get(), underlay->index, queue, nullptr, false});
  return assignments;
}

std::optional<XdpSteering::Target> steering_target(const SwitchModel& model) {
  std::set<IpAddress> locals;
  std::set<std::uint16_t> udp_ports;
  std::set<std::uint32_t> vnis;
  const auto& underlay = model.underlay;
  locals.insert(underlay.local.begin(), underlay.local.begin() + underlay.local_count);
  for (const auto& overlay : model.overlays) {
    if (!overlay) continue;
    if (!overlay->config.local.is_unspecified()) locals.insert(overlay->config.local);
    udp_ports.insert(overlay->config.udp_port);
    vnis.insert(overlay->config.vni);
  }
  const bool own_address = underlay.own_address != 0;
  if (locals.empty() || (vnis.empty() && !own_address)) return std::nullopt;
  return XdpSteering::Target{own_address,
                             underlay.vlan,
                             {locals.begin(), locals.end()},
                             {udp_ports.begin(), udp_ports.end()},
                             {vnis.begin(), vnis.end()}};
}

}  // namespace vx
