// SPDX-License-Identifier: Apache-2.0
// What a guest's offload metadata says, compared with the frame's bytes: the one place where it becomes believable.
// Every later step works from SuperFrame. Pure; any thread.
#pragma once

#include "dataplane/layer3.h"
#include "dataplane/packet.h"

namespace vx {

// Where the headers of a TCP or UDP frame are; offsets in bytes from the frame's first byte.
struct SuperFrame {
  std::uint16_t layer3 = 0;        // IPv4 or IPv6 header; behind at most two tags
  std::uint16_t layer4 = 0;        // TCP or UDP header; behind IPv4 options or IPv6 extension headers
  std::uint16_t payload = 0;       // first payload byte
  std::uint16_t segment_size = 0;  // payload bytes of each segment but the last
  bool is_v4 = true;
  bool is_tcp = true;              // else UDP
  // Layer-3 bytes of the largest segment: what the MTU is compared with.
  [[nodiscard]] constexpr std::uint32_t segment_layer3_bytes() const noexcept {
    return std::uint32_t{payload} - layer3 + segment_size;
  }
};

// `packet` is any frame whose offload says is_super_frame(). kNone: `at` is filled, all headers lie inside the frame,
// the IP length agrees with the frame's (no padding), it is no fragment, protocol, gso_type and checksum fields agree,
// the checksum is to be completed, 1 <= segment_size, and there is payload. Else kGuestBadOffload.
[[nodiscard]] DropReason parse_super_frame(const Packet& packet, SuperFrame& at) noexcept;

// For a frame that needs_checksum() and is no super-frame: writes the L4 checksum and clears the metadata. A UDP
// checksum of zero becomes 0xffff (RFC 768). kGuestBadOffload, nothing changed, when the field lies outside the
// frame or its start before layer 3.
[[nodiscard]] DropReason complete_checksum(Packet& packet) noexcept;

}  // namespace vx
