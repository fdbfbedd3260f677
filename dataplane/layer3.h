// SPDX-License-Identifier: Apache-2.0
// Small reads of frame bytes that several steps share: unaligned loads, and where layer 3 of a frame begins.
#pragma once

#include <cstdint>
#include <cstring>

#include "dataplane/wire.h"

namespace vx {

template <typename Unsigned>
[[nodiscard]] inline Unsigned load(const std::uint8_t* bytes) noexcept {
  Unsigned value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}
template <typename Unsigned>
inline void store(std::uint8_t* bytes, Unsigned value) noexcept {
  std::memcpy(bytes, &value, sizeof value);
}

[[nodiscard]] constexpr bool is_vlan_type(Be16 type) noexcept {
  return type == ether_type::kVlan || type == ether_type::kServiceVlan;
}

struct Layer3 {
  Be16 type;              // ethertype behind at most two tags
  std::uint32_t offset = 0;  // bytes from the frame's start; <= length
};

// `length` >= 14. At most two tags are skipped (design section 1 counts up to two); a frame that ends inside a
// tag reports the tag's own ethertype.
[[nodiscard]] inline Layer3 layer3_of(const std::uint8_t* frame, std::uint32_t length) noexcept {
  Layer3 at{view<EthernetHeader>(frame)->type, sizeof(EthernetHeader)};
  for (int tags = 0; tags < 2 && is_vlan_type(at.type) && length - at.offset >= sizeof(VlanTag); ++tags) {
    at.type = view<VlanTag>(frame + at.offset)->type;
    at.offset += sizeof(VlanTag);
  }
  return at;
}

inline constexpr std::uint8_t kEcnMask = 3;  // RFC 3168 section 5
inline constexpr std::uint8_t kNotEct = 0, kEct1 = 1, kEct0 = 2, kCe = 3;

// Traffic class of an IPv6 header whose first two bytes are there.
[[nodiscard]] inline std::uint8_t ipv6_traffic_class(const std::uint8_t* header) noexcept {
  return static_cast<std::uint8_t>(header[0] << 4 | header[1] >> 4);
}
inline void set_ipv6_traffic_class(std::uint8_t* header, std::uint8_t value) noexcept {
  header[0] = static_cast<std::uint8_t>((header[0] & 0xf0) | value >> 4);
  header[1] = static_cast<std::uint8_t>((header[1] & 0x0f) | value << 4);
}

// TOS or traffic class of the IP packet in the frame; 0 when there is none. `length` >= 14.
[[nodiscard]] inline std::uint8_t inner_tos(const std::uint8_t* frame, std::uint32_t length) noexcept {
  const Layer3 at = layer3_of(frame, length);
  if (length - at.offset < 2) return 0;
  if (at.type == ether_type::kIpv4) return frame[at.offset + 1];
  if (at.type == ether_type::kIpv6) return ipv6_traffic_class(frame + at.offset);
  return 0;
}

}  // namespace vx
