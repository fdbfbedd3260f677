// SPDX-License-Identifier: Apache-2.0
// Where the UDP header of an encapsulated frame is, for the back ends that give the kernel its datagram. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "dataplane/layer3.h"
#include "dataplane/packet.h"

namespace vx {

// Offsets in bytes from the frame's start.
struct OuterOffsets {
  std::uint16_t layer3 = 0;
  std::uint16_t udp = 0;  // the whole UDP header lies in the frame
  bool is_v4 = true;
};

// Empty: not UDP right behind an IP header, so nothing that encap built. Lengths and checksums are not looked at: around a
// super-frame they are still to be made.
[[nodiscard]] inline std::optional<OuterOffsets> find_outer_udp(const Packet& packet) noexcept {
  if (packet.length < sizeof(EthernetHeader)) return std::nullopt;
  const Layer3 at = layer3_of(packet.data, packet.length);
  const bool is_v4 = at.type == ether_type::kIpv4;
  const std::uint32_t least = is_v4 ? sizeof(Ipv4Header) : sizeof(Ipv6Header), left = packet.length - at.offset;
  if ((!is_v4 && at.type != ether_type::kIpv6) || left < least) return std::nullopt;
  const std::uint8_t* ip = packet.data + at.offset;
  const std::uint8_t protocol = is_v4 ? view<Ipv4Header>(ip)->protocol : view<Ipv6Header>(ip)->next_header;
  const std::uint32_t header = is_v4 ? view<Ipv4Header>(ip)->header_length() : least;
  if (protocol != ip_protocol::kUdp || left < header + sizeof(UdpHeader)) return std::nullopt;
  return OuterOffsets{static_cast<std::uint16_t>(at.offset), static_cast<std::uint16_t>(at.offset + header), is_v4};
}

}  // namespace vx
