// SPDX-License-Identifier: Apache-2.0
// The way into the tunnel: the VTEP's prebuilt outer header (vtep_table.h) in front of the inner frame, then what
// depends on the packet: source port, lengths, DSCP/ECN, checksums. RFC 7348 section 5, RFC 6040 section 4.1.
#pragma once

#include "dataplane/checksum.h"
#include "dataplane/flow_hash.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/layer3.h"
#include "dataplane/packet.h"
#include "dataplane/vtep_table.h"

namespace vx {

struct EncapSettings {
  std::uint16_t underlay_mtu = 0;  // outer IP packet at most, where the VTEP has no ceiling of its own
  std::uint8_t tos = 0;            // DSCP bits when not inherited
  bool tos_inherit = false;
  bool udp_csum = true;            // on IPv4; IPv6 always (RFC 8200 section 8.1)
};

// Copies `vtep`'s header to just in front of the frame. Constant sizes: a few vector moves each.
inline void copy_outer_header(std::uint8_t* to, const Vtep& vtep) noexcept {
  const std::uint8_t* from = vtep.bytes.data();
  switch (vtep.header_length) {
    case 50: std::memcpy(to, from, 50); break;
    case 54: std::memcpy(to, from, 54); break;
    case 70: std::memcpy(to, from, 70); break;
    default: std::memcpy(to, from, vtep.header_length); break;
  }
}

// RFC 6040 normal mode: the inner ECN field is copied, CE too. `inner`: TOS or traffic class, 0 when not IP.
[[nodiscard]] constexpr std::uint8_t outer_tos(std::uint8_t inner, const EncapSettings& settings) noexcept {
  if (settings.tos_inherit) return inner;
  return static_cast<std::uint8_t>((settings.tos & ~kEcnMask) | (inner & kEcnMask));
}

// Outer IP packet to `vtep` at most, bytes.
[[nodiscard]] inline std::uint16_t outer_ceiling(const Vtep& vtep, const EncapSettings& settings) noexcept {
  return vtep.outer_mtu != 0 ? vtep.outer_mtu : settings.underlay_mtu;
}

// Whether a frame of `inner_length` bytes may go to `vtep`. DF is set: an outer packet above the MTU is never sent and
// never fragmented (RFC 7348 section 4.3).
[[nodiscard]] inline DropReason may_encap(const Vtep& vtep, const EncapSettings& settings, std::uint32_t inner_length,
                                          std::uint16_t headroom) noexcept {
  if (!vtep.resolved) [[unlikely]] return DropReason::kUnderlayUnresolved;
  const std::uint32_t ip_length = vtep.header_length - vtep.ip_offset + inner_length;
  if (ip_length > outer_ceiling(vtep, settings)) [[unlikely]] return DropReason::kUnderlayMtuExceeded;
  if (headroom < vtep.header_length) [[unlikely]] return DropReason::kNoHeadroom;
  return DropReason::kNone;
}

// What is left to do of an outer header: the UDP checksum.
struct OuterUdp {
  UdpHeader* header = nullptr;
  std::uint32_t seed = 0;      // sum of all that the checksum covers but the inner frame; below 2^19
  bool wants_checksum = false; // else it is 0: none
  // `sum`: checksum_partial's over the inner frame, `seed` included.
  void complete(std::uint32_t sum) const noexcept {
    const auto checksum = static_cast<std::uint16_t>(~checksum_fold(sum));
    header->checksum = Be16::from_raw(checksum != 0 ? checksum : 0xffff);  // RFC 768: zero means none
  }
};

// Puts `vtep`'s outer header in front of the frame, for which may_encap() is kNone, all but the UDP checksum.
// `inner_length`: what the lengths are to say; packet.length, or a segment's.
[[nodiscard]] inline OuterUdp push_outer_header(Packet& packet, const Vtep& vtep, const EncapSettings& settings,
                                                const InnerFlow& flow, std::uint32_t inner_length) noexcept {
  const std::uint32_t ip_length = vtep.header_length - vtep.ip_offset + inner_length;
  const std::uint8_t tos = outer_tos(flow.tos, settings);
  // The hash scaled to the span instead of a remainder: one multiplication.
  const auto port = static_cast<std::uint16_t>(
      vtep.source_port_min + (std::uint64_t{flow.hash} * vtep.source_port_span >> 32));
  const Be16 source_port{port};

  packet.push_front(vtep.header_length);
  copy_outer_header(packet.data, vtep);
  std::uint8_t* ip = packet.data + vtep.ip_offset;
  std::uint8_t* after_ip;
  std::uint16_t udp_bytes;
  if (vtep.is_v4) [[likely]] {
    auto* header = view<Ipv4Header>(ip);
    const Be16 total{static_cast<std::uint16_t>(ip_length)};
    const std::uint32_t tos_word = std::uint32_t{tos} << 8;  // the second byte of its word, in memory order
    header->tos = tos;
    header->total_length = total;
    header->checksum = Be16::from_raw(static_cast<std::uint16_t>(
        ~checksum_fold(vtep.ip_checksum + tos_word + total.raw())));
    after_ip = ip + sizeof(Ipv4Header);
    udp_bytes = static_cast<std::uint16_t>(ip_length - sizeof(Ipv4Header));
  } else {
    set_ipv6_traffic_class(ip, tos);
    udp_bytes = static_cast<std::uint16_t>(ip_length - sizeof(Ipv6Header));
    view<Ipv6Header>(ip)->payload_length = Be16(udp_bytes);
    after_ip = ip + sizeof(Ipv6Header);
  }
  auto* udp = view<UdpHeader>(after_ip);
  const Be16 udp_length{udp_bytes};
  udp->source_port = source_port;
  udp->length = udp_length;
  // The length counts twice: in the pseudo header and in the UDP header.
  return {udp, vtep.pseudo_sum + 2u * udp_length.raw() + source_port.raw(), settings.udp_csum || !vtep.is_v4};
}

// On kNone the packet is the outer frame. The frame is as the tunnel carries it (egress_tag.h), 14 bytes at least, its
// checksums complete.
[[nodiscard]] inline DropReason encap(Packet& packet, const Vtep& vtep, const EncapSettings& settings) noexcept {
  const DropReason reason = may_encap(vtep, settings, packet.length, packet.headroom);
  if (reason != DropReason::kNone) [[unlikely]] return reason;
  const std::uint8_t* inner = packet.data;
  const std::uint32_t inner_length = packet.length;
  const OuterUdp udp = push_outer_header(packet, vtep, settings, inner_flow(inner, inner_length), inner_length);
  if (udp.wants_checksum) udp.complete(checksum_partial(inner, inner_length, udp.seed));
  return DropReason::kNone;
}

}  // namespace vx
