// SPDX-License-Identifier: Apache-2.0
// Where a broadcast, multicast or unknown frame goes: all member ports but the one it came from, and by head-end
// replication each VTEP of the flood list, except for what came out of the tunnel (split horizon), and but for ports
// whose flags keep it away. RFC 7348 section 4.2 with unicast replication.
#pragma once

#include "dataplane/bridge.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"
#include "dataplane/protocol.h"

namespace vx {

[[nodiscard]] inline bool is_flood_port(const PortState& port, std::uint16_t vid) noexcept {
  return port.port != nullptr && port.is_up && port.vlans != nullptr && port.vlans->members.contains(vid);
}

// The PortFlags that keep this frame from being flooded to a port that has one of them.
[[nodiscard]] inline std::uint8_t keeps_away(const Packet& packet, const OverlayState& overlay, const ForwardingState& state) noexcept {
  constexpr std::uint64_t kBroadcastMac = 0xffff'ffff'ffff, kGroupBit = std::uint64_t{1} << 40;
  std::uint8_t flags = protocol::kNoUnicastFlood;
  if ((packet.destination_key & kGroupBit) != 0)
    flags = (packet.destination_key & kBroadcastMac) == kBroadcastMac ? protocol::kNoBroadcastFlood : protocol::kNoMulticastFlood;
  return is_isolated(packet.source, overlay, state) ? flags | protocol::kIsolated : flags;
}

// Calls emit(Location) for each target, ports first, in the order of their lists; returns how many.
template <typename Emit>
unsigned for_each_flood_target(const Packet& packet, const OverlayState& overlay, const ForwardingState& state,
                               Emit&& emit) noexcept {
  unsigned targets = 0;
  const std::uint8_t avoided = keeps_away(packet, overlay, state);
  for (const PortIndex index : overlay.ports) {
    const Location target = Location::port(index);
    if (target == packet.source || index >= state.ports.size() || !is_flood_port(state.ports[index], packet.vid()) ||
        (state.ports[index].flags & avoided) != 0)
      continue;
    emit(target);
    ++targets;
  }
  const bool is_from_guest = packet.source.is_port();
  if (!is_from_guest || (overlay.tunnel_flags & avoided) != 0 || overlay.tunnel_vlans == nullptr || !overlay.tunnel_vlans->members.contains(packet.vid()))
    return targets;
  for (const VtepIndex index : overlay.vteps.flood_list()) {
    emit(Location::vtep(index));
    ++targets;
  }
  return targets;
}

}  // namespace vx
