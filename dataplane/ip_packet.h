// SPDX-License-Identifier: Apache-2.0
// What the IP packet in a frame says of itself: how long it is, what it carries and where, behind IPv4 options or IPv6
// extension headers (RFC 791, RFC 8200 section 4). Pure; any thread.
#pragma once

#include <optional>

#include "dataplane/layer3.h"

namespace vx {

// Offsets in bytes. All headers up to layer 4 lie inside the packet and the packet inside the frame.
struct IpPacket {
  std::uint32_t layer3 = 0;        // the IP header, from the frame's first byte; behind at most two tags
  std::uint32_t layer4 = 0;        // first byte behind IP's own headers, from the frame's first byte; <= end
  std::uint32_t end = 0;           // the packet's end as its header says; <= the frame's length
  std::uint8_t protocol = 0;       // of what lies at layer4
  bool is_v4 = true;
  bool is_later_fragment = false;  // not the first: layer 4 has no header

  [[nodiscard]] constexpr std::uint32_t bytes() const noexcept { return end - layer3; }
};

namespace ip_packet_detail {

inline constexpr std::uint8_t kAuthentication = 51;  // RFC 4302: its length is counted in units of 4 bytes
inline constexpr unsigned kMostExtensionHeaders = 16;  // more make no sense and cost time

[[nodiscard]] inline bool parse_v4(const std::uint8_t* frame, std::uint32_t left, IpPacket& ip) noexcept {
  if (left < sizeof(Ipv4Header)) return false;
  const auto* header = view<Ipv4Header>(frame + ip.layer3);
  const std::uint32_t total = header->total_length.host(), own = header->header_length();
  if (header->version_ihl >> 4 != 4 || own < sizeof(Ipv4Header) || total < own || total > left) return false;
  ip.layer4 = ip.layer3 + own;
  ip.end = ip.layer3 + total;
  ip.protocol = header->protocol;
  ip.is_later_fragment = (header->flags_fragment.host() & kIpv4OffsetMask) != 0;
  return true;
}

[[nodiscard]] inline bool parse_v6(const std::uint8_t* frame, std::uint32_t left, IpPacket& ip) noexcept {
  if (left < sizeof(Ipv6Header)) return false;
  const auto* header = view<Ipv6Header>(frame + ip.layer3);
  const std::uint32_t payload = header->payload_length.host();
  if (frame[ip.layer3] >> 4 != 6 || payload > left - sizeof(Ipv6Header)) return false;
  ip.layer4 = ip.layer3 + static_cast<std::uint32_t>(sizeof(Ipv6Header));
  ip.end = ip.layer4 + payload;
  ip.protocol = header->next_header;
  for (unsigned headers = 0; headers < kMostExtensionHeaders; ++headers) {
    const bool is_fragment = ip.protocol == ip_protocol::kFragment, is_ah = ip.protocol == kAuthentication;
    if (!is_fragment && !is_ah && ip.protocol != ip_protocol::kHopByHop && ip.protocol != ip_protocol::kRouting &&
        ip.protocol != ip_protocol::kDestinationOptions)
      return true;
    if (ip.end - ip.layer4 < 8) return false;
    const std::uint8_t* extension = frame + ip.layer4;
    const std::uint32_t bytes = is_fragment ? 8u : is_ah ? (extension[1] + 2u) * 4 : (extension[1] + 1u) * 8;
    if (ip.end - ip.layer4 < bytes) return false;
    ip.protocol = extension[0];
    ip.layer4 += bytes;
    if (is_fragment && (view<Be16>(extension + 2)->host() & 0xfff8) != 0) {  // RFC 8200 section 4.5
      ip.is_later_fragment = true;
      return true;
    }
  }
  return false;
}

}  // namespace ip_packet_detail

// Any frame of `length` bytes. Empty: no IP behind at most two tags, or one that is cut short or contradicts itself.
[[nodiscard]] inline std::optional<IpPacket> parse_ip(const std::uint8_t* frame, std::uint32_t length) noexcept {
  if (length < sizeof(EthernetHeader)) return std::nullopt;
  const Layer3 at = layer3_of(frame, length);
  IpPacket ip;
  ip.layer3 = at.offset;
  ip.is_v4 = at.type == ether_type::kIpv4;
  if (!ip.is_v4 && at.type != ether_type::kIpv6) return std::nullopt;
  const bool is_whole = ip.is_v4 ? ip_packet_detail::parse_v4(frame, length - at.offset, ip)
                                 : ip_packet_detail::parse_v6(frame, length - at.offset, ip);
  if (!is_whole) return std::nullopt;
  return ip;
}

}  // namespace vx
