// SPDX-License-Identifier: Apache-2.0
// Third step: no frame whose layer-3 length exceeds the overlay MTU passes, port to port and through the tunnel,
// tagged or not (design section 3; the kernel lets 1333-1336 through at MTU 1332). RFC 7348 section 4.3.
#pragma once

#include "dataplane/layer3.h"
#include "dataplane/packet.h"
#include "dataplane/super_frame.h"

namespace vx {

// Layer 3 is what follows the Ethernet header and at most two tags; `mtu` in bytes. Of a super-frame: of the largest of
// the segments it stands for; kGuestBadOffload when its metadata is wrong.
[[nodiscard]] inline DropReason check_overlay_mtu(const Packet& packet, std::uint16_t mtu) noexcept {
  const std::uint32_t longest_untagged = sizeof(EthernetHeader) + std::uint32_t{mtu};
  if (packet.length <= longest_untagged) [[likely]] return DropReason::kNone;
  if (packet.offload.is_super_frame()) {
    SuperFrame at;
    const DropReason reason = parse_super_frame(packet, at);
    if (reason != DropReason::kNone) return reason;
    return at.segment_layer3_bytes() > mtu ? DropReason::kMtuExceeded : DropReason::kNone;
  }
  const std::uint32_t layer3_bytes = packet.length - layer3_of(packet.data, packet.length).offset;
  return layer3_bytes > mtu ? DropReason::kMtuExceeded : DropReason::kNone;
}

}  // namespace vx
