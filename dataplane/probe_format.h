// SPDX-License-Identifier: Apache-2.0
// The path probe of two vxplane nodes on the wire: an Ethernet frame inside the tunnel that no guest can send and none sees.
//
//   inner Ethernet   destination 01:80:C2:00:00:01, source probe_source_mac(our VTEP address), type 0x88B5, never tagged
//   ProbeMessage     then zeros up to the size that is measured
//
// No bridge forwards that destination (IEEE 802.1Q table 8-1): vxplane does not, and the Linux bridge drops this one of the sixteen
// before it learns the source and whatever its group_fwd_mask says (..:0E, LLDP, it would forward if told to). A peer that does not
// know probes drops them (vxplane counts link_local). 0x88B5 is for local experiments (IEEE 802 section 9.2.3).
#pragma once

#include <cstdint>

#include "dataplane/wire.h"

namespace vx {

inline constexpr MacAddress kProbeDestination{{0x01, 0x80, 0xc2, 0x00, 0x00, 0x01}};
inline constexpr Be16 kProbeEtherType{0x88b5};
inline constexpr std::uint32_t kProbeMagic = 0x56585050;  // "VXPP"
inline constexpr std::uint8_t kProbeVersion = 1;          // others are not answered

enum class ProbeKind : std::uint8_t {
  kNone = 0,     // not a probe
  kRequest = 1,  // to be answered
  kReply = 2,    // the answer to one of ours: control's
};

struct ProbeMessage {
  Be32 magic;            // 0
  std::uint8_t version;  // 4
  std::uint8_t kind;     // 5: ProbeKind
  Be16 frame_bytes;      // 6: of the request, inner Ethernet header included; a frame of another length is no probe
  Be32 run;              // 8: random per measurement, chosen by the asker, returned
  Be32 sequence;         // 12: which of its requests, returned
};
static_assert(sizeof(ProbeMessage) == 16);

inline constexpr std::uint32_t kProbeReplyBytes = sizeof(EthernetHeader) + sizeof(ProbeMessage);  // the inner frame

// A locally administered unicast address that differs between VTEPs: a kernel peer's vxlan device learns it, and would log an
// address that wanders.
[[nodiscard]] constexpr MacAddress probe_source_mac(const IpAddress& vtep) noexcept {
  return MacAddress{{0x02, 0x56, vtep.bytes[12], vtep.bytes[13], vtep.bytes[14], vtep.bytes[15]}};
}

}  // namespace vx
