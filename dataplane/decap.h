// SPDX-License-Identifier: Apache-2.0
// The way out of the tunnel: every validation of the outer headers (RFC 7348 section 5, design section 3), then
// the inner frame is what remains. ECN by RFC 6040 section 4.2. In wire order, one guard a reason.
#pragma once

#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"

namespace vx {

struct DecapResult {
  DropReason reason = DropReason::kNone;
  OverlayIndex overlay = kNoIndex;
};

// What the last packet needed and the next one most likely needs too. Valid for one ForwardingState.
struct DecapCache {
  OverlayIndex overlay = kNoIndex;
  VtepIndex vtep = kNoIndex;
  // The outer IPv4 headers that were accepted from that VTEP, as they lie in memory: a packet with the same ones
  // needs no lookup. layer3 == 0: none remembered.
  std::uint32_t layer3 = 0;      // offset of the IPv4 header: 14 or 18
  std::uint64_t addresses = 0;   // source and destination
  std::uint64_t vxlan = 0;       // flags and VNI
  Be16 udp_port;
};

// On kNone the packet is the inner frame, 14 bytes at least, its source is the VTEP (or Location() for an unknown one that
// vtep-learning accepts: `unknown_source` then holds its address). A dropped packet is unchanged.
// kOuterNotForUs may still be ARP, ND or echo for us: own_address.h.
[[nodiscard]] DecapResult decap(Packet& packet, const ForwardingState& state, DecapCache& cache,
                                IpAddress& unknown_source) noexcept;

// RFC 6040 figure 4, normal mode: the inner ECN field changed as `outer` demands, with the inner IPv4 header
// checksum kept right. Frames that are not IP pass as they are. `length` >= 14.
[[nodiscard]] DropReason decap_ecn(std::uint8_t* frame, std::uint32_t length, std::uint8_t outer) noexcept;

}  // namespace vx
