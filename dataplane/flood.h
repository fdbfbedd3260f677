// SPDX-License-Identifier: Apache-2.0
// Where a broadcast, multicast or unknown frame goes: all member ports but the one it came from, and by head-end
// replication each VTEP of the flood list, except for what came out of the tunnel (split horizon). RFC 7348
// section 4.2 with unicast replication.
#pragma once

#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"

namespace vx {

[[nodiscard]] inline bool is_flood_port(const PortState& port, std::uint16_t vid) noexcept {
  return port.port != nullptr && port.is_up && port.vlans != nullptr && port.vlans->members.contains(vid);
}

// Calls emit(Location) for each target, ports first, in the order of their lists; returns how many.
template <typename Emit>
unsigned for_each_flood_target(const Packet& packet, const OverlayState& overlay, const ForwardingState& state,
                               Emit&& emit) noexcept {
  unsigned targets = 0;
  for (const PortIndex index : overlay.ports) {
    const Location target = Location::port(index);
    if (target == packet.source || index >= state.ports.size() || !is_flood_port(state.ports[index], packet.vid()))
      continue;
    emit(target);
    ++targets;
  }
  const bool is_from_guest = packet.source.is_port();
  if (!is_from_guest || overlay.tunnel_vlans == nullptr || !overlay.tunnel_vlans->members.contains(packet.vid()))
    return targets;
  for (const VtepIndex index : overlay.vteps.flood_list()) {
    emit(Location::vtep(index));
    ++targets;
  }
  return targets;
}

}  // namespace vx
