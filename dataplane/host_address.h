// SPDX-License-Identifier: Apache-2.0
// A frame that the host behind a kernel's bridge takes as its own although it has not the bridge's address.
#pragma once

#include <cstring>

#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"

namespace vx {

// That host answers to the bridge's address and, on each port, to that port's own: the port's netdev has found such a frame
// to be its host's before the bridge passes it up. What is delivered to port `host` is looked at as the bridge's frame, so it
// gets the bridge's address.
[[gnu::cold]] inline void address_to_host(Packet& packet, PortIndex host, const OverlayState& overlay, const ForwardingState& state) noexcept {
  constexpr std::uint64_t kMacBits = 0xffff'ffff'ffff;
  const MacAddress& own = packet.source.is_port() ? state.ports[packet.source.index()].own_mac : overlay.own_mac;
  const MacAddress& bridge = state.ports[host].own_mac;
  if ((packet.destination_key & kMacBits) != own.to_u48() || bridge.is_zero()) return;
  std::memcpy(packet.data, bridge.bytes.data(), bridge.bytes.size());
}

}  // namespace vx
