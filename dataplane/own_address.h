// SPDX-License-Identifier: Apache-2.0
// vtep-address = own: the dataplane has the VTEP addresses to itself. It answers ARP requests (RFC 826), neighbour
// solicitations (RFC 4861 section 7.2.4) and echo requests for them in place, and hands what tells of neighbours to
// control, which resolves, and the answers to its path probes. Sees only what decap called kOuterNotForUs.
#pragma once

#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"

namespace vx {

enum class OwnKind : std::uint8_t {
  kNone,          // not for us
  kArpRequest,    // for a local address: answered
  kArpNews,       // a reply to us, or gratuitous: consumed
  kSolicitation,  // NS for a local address: answered
  kNeighborNews,  // NA: consumed
  kEcho4,         // answered
  kEcho6,         // answered
  kProbeEcho,     // the answer to an echo request of control's path probe: consumed
};

struct OwnVerdict {
  OwnKind kind = OwnKind::kNone;
  bool punt = false;              // control learns a neighbour, or that a probe has arrived, from it
  std::uint32_t layer3 = 0;       // offset of ARP or IP, bytes
  [[nodiscard]] bool is_answered() const noexcept {
    return kind == OwnKind::kArpRequest || kind == OwnKind::kSolicitation || kind == OwnKind::kEcho4 ||
           kind == OwnKind::kEcho6;
  }
};

[[nodiscard]] OwnVerdict judge_own_address(const Packet& packet, const UnderlayState& underlay) noexcept;

// Turns the judged request into its reply in place, outer tag kept. kNoHeadroom when the buffer has no room
// behind the frame for the longer reply; the packet is then unchanged.
[[nodiscard]] DropReason answer_own_address(Packet& packet, const UnderlayState& underlay, OwnVerdict verdict) noexcept;

}  // namespace vx
