// SPDX-License-Identifier: Apache-2.0
// Third step: no frame whose layer-3 length exceeds the overlay MTU passes, port to port and through the tunnel,
// tagged or not (design section 3; the kernel lets 1333-1336 through at MTU 1332). RFC 7348 section 4.3.
#pragma once

#include "dataplane/layer3.h"
#include "dataplane/packet.h"

namespace vx {

// Layer 3 is what follows the Ethernet header and at most two tags; `mtu` in bytes.
[[nodiscard]] inline DropReason check_overlay_mtu(const Packet& packet, std::uint16_t mtu) noexcept {
  const std::uint32_t longest_untagged = sizeof(EthernetHeader) + std::uint32_t{mtu};
  if (packet.length <= longest_untagged) [[likely]] return DropReason::kNone;
  const std::uint32_t layer3_bytes = packet.length - layer3_of(packet.data, packet.length).offset;
  return layer3_bytes > mtu ? DropReason::kMtuExceeded : DropReason::kNone;
}

}  // namespace vx
