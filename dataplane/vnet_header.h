// SPDX-License-Identifier: Apache-2.0
// struct virtio_net_hdr as tap and packet sockets put it in front of a frame (virtio 1.1 section 5.1.6; host byte
// order, the legacy layout of 10 bytes), and its two ways to and from Packet::offload.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "dataplane/packet.h"

namespace vx {

struct VnetHeader {
  std::uint8_t flags = 0;             // 0
  std::uint8_t gso_type = 0;          // 1
  std::uint16_t header_length = 0;    // 2
  std::uint16_t segment_size = 0;     // 4
  std::uint16_t checksum_start = 0;   // 6
  std::uint16_t checksum_offset = 0;  // 8
};
static_assert(sizeof(VnetHeader) == 10);
static_assert(kHeadroomBytes >= 74 + sizeof(VnetHeader), "outer header and vnet header fit in front of a frame");

[[nodiscard]] constexpr OffloadMeta to_offload(const VnetHeader& h) noexcept {
  return {static_cast<std::uint8_t>(h.flags & OffloadMeta::kNeedsChecksum),
          h.gso_type,
          h.header_length,
          h.segment_size,
          h.checksum_start,
          h.checksum_offset};
}
// Bytes that the kernel is asked to lay out in one piece at most; it pulls up more by itself where it needs more.
inline constexpr std::uint32_t kMostHeaderBytes = 256;
// For a frame of `length` bytes. The header length was a guest's hint; the kernel refuses one that exceeds the frame.
[[nodiscard]] constexpr VnetHeader to_vnet(const OffloadMeta& o, std::uint32_t length) noexcept {
  if (o.is_plain()) return {};
  return {static_cast<std::uint8_t>(o.flags & OffloadMeta::kNeedsChecksum),
          o.gso_type,
          static_cast<std::uint16_t>(std::min({std::uint32_t{o.header_length}, length, kMostHeaderBytes})),
          o.segment_size,
          o.checksum_start,
          o.checksum_offset};
}

}  // namespace vx
