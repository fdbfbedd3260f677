// SPDX-License-Identifier: Apache-2.0
// Why a packet was dropped. Names are the contract of design section 3 (CLI, JSON, README): append only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vx {

// kNone means "not dropped": the packet goes on to the next step.
enum class DropReason : std::uint8_t {
  kOuterTruncated,
  kOuterBadChecksum,
  kOuterNotForUs,
  kOuterOwnSource,
  kOuterFragment,
  kVxlanBadFlags,
  kVxlanUnknownVni,
  kVxlanUnknownVtep,
  kInnerTruncated,
  kGuestTruncated,
  kEcnNotEct,
  kSmacInvalid,
  kSmacMovedStatic,
  kLinkLocal,
  kVlanNotMember,
  kEgressSamePort,
  kNoFloodTarget,
  kMtuExceeded,
  kUnderlayMtuExceeded,
  kUnderlayUnresolved,
  kNoHeadroom,
  kNoBuffer,
  kTxFull,
  kPortDown,
  kStormLimit,
  kFdbBlackhole,
  kGuestBadOffload,
  kPortIsolated,
  kStalled,
  kCount,
  kNone = 0xff,
};

inline constexpr std::size_t kDropReasonCount = static_cast<std::size_t>(DropReason::kCount);

struct DropReasonText {
  std::string_view name;      // as in `vxctl drops`
  std::string_view sentence;  // what an operator is told
};

inline constexpr std::array<DropReasonText, kDropReasonCount> kDropReasonTexts{{
    {"outer_truncated", "the outer Ethernet, IP or UDP header is cut short or its length is wrong"},
    {"outer_bad_checksum", "the outer IPv4 header or UDP checksum is wrong"},
    {"outer_not_for_us", "an underlay frame that is not VXLAN for our VTEP address and port"},
    {"outer_own_source", "an underlay frame that carries our own VTEP address as its source"},
    {"outer_fragment", "a fragment of an outer datagram that cannot be reassembled here"},
    {"vxlan_bad_flags", "the VXLAN I flag is clear or a reserved bit is set"},
    {"vxlan_unknown_vni", "no overlay has this VNI"},
    {"vxlan_unknown_vtep", "the source is not a known VTEP and vtep-learning is no"},
    {"inner_truncated", "the inner frame is shorter than an Ethernet header"},
    {"guest_truncated", "a guest's frame is shorter than its headers or longer than a buffer"},
    {"ecn_not_ect", "outer CE on an inner packet that is not ECN-capable (RFC 6040)"},
    {"smac_invalid", "the source MAC is a group address or all zero"},
    {"smac_moved_static", "a static or sticky MAC appeared in the wrong place"},
    {"link_local", "a link-local control frame (01:80:C2:00:00:0X) that bridges do not forward"},
    {"vlan_not_member", "the ingress or egress port is not a member of the frame's VLAN"},
    {"egress_same_port", "the destination lies where the frame came from"},
    {"no_flood_target", "nothing to flood to: no other member port and no VTEP"},
    {"mtu_exceeded", "the layer-3 length exceeds the overlay MTU"},
    {"underlay_mtu_exceeded", "the encapsulated packet exceeds the underlay or path MTU"},
    {"underlay_unresolved", "the VTEP's next hop has no known MAC address"},
    {"no_headroom", "no room in front of the frame for the outer header"},
    {"no_buffer", "the buffer pool is empty"},
    {"tx_full", "the egress port did not accept the frame"},
    {"port_down", "the egress port is down or going away"},
    {"storm_limit", "the port floods more than its storm-pps"},
    {"fdb_blackhole", "the destination MAC is a blackhole entry"},
    {"guest_bad_offload", "a guest's checksum or segmentation request contradicts its frame"},
    {"port_isolated", "the destination lies behind an isolated port, as the source does"},
    {"stalled", "taken before a stall in which the kernel forwarded: too late to be sent"},
}};

[[nodiscard]] constexpr std::string_view name(DropReason reason) noexcept {
  return reason == DropReason::kNone ? "none" : kDropReasonTexts[static_cast<std::size_t>(reason)].name;
}

}  // namespace vx
