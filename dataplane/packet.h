// SPDX-License-Identifier: Apache-2.0
// One frame on its way, as the steps see it: a view of bytes plus what earlier steps found out.
// No DPDK here: `buffer` is the owner's handle (an rte_mbuf*, a test's heap block), opaque to every step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dataplane/drop_reason.h"

namespace vx {

using PortIndex = std::uint16_t;     // dense, given by the dataplane; 0..kMaxPorts-1
using VtepIndex = std::uint16_t;     // dense per overlay, given by control; 0..kMaxVteps-1
using OverlayIndex = std::uint16_t;  // dense, one per VNI; 0..kMaxOverlays-1
inline constexpr std::uint16_t kMaxPorts = 1024;
inline constexpr std::uint16_t kMaxVteps = 4096;
inline constexpr std::uint16_t kMaxOverlays = 64;
inline constexpr std::uint16_t kNoIndex = 0xffff;

// A place a MAC lives at: a local port or a remote VTEP, in the 16 bits that an FDB value spends on it.
class Location {
 public:
  constexpr Location() noexcept = default;
  static constexpr Location port(PortIndex i) noexcept { return Location(i); }
  static constexpr Location vtep(VtepIndex i) noexcept { return Location(static_cast<std::uint16_t>(i | kTunnelBit)); }
  static constexpr Location from_raw(std::uint16_t raw) noexcept { return Location(raw); }
  [[nodiscard]] constexpr bool is_vtep() const noexcept { return (raw_ & kTunnelBit) != 0 && raw_ != kNoIndex; }
  [[nodiscard]] constexpr bool is_port() const noexcept { return (raw_ & kTunnelBit) == 0; }
  [[nodiscard]] constexpr std::uint16_t index() const noexcept { return raw_ & static_cast<std::uint16_t>(~kTunnelBit); }
  [[nodiscard]] constexpr std::uint16_t raw() const noexcept { return raw_; }
  friend constexpr bool operator==(Location, Location) = default;

 private:
  static constexpr std::uint16_t kTunnelBit = 0x8000;
  explicit constexpr Location(std::uint16_t raw) noexcept : raw_(raw) {}
  std::uint16_t raw_ = kNoIndex;  // "nowhere"
};

// Checksum and segmentation metadata of a frame, as struct virtio_net_hdr has it (virtio 1.2 section 5.1.6).
// All zero: a plain frame whose checksums are complete. Guests write it: nothing in it is believed before
// parse_super_frame() (super_frame.h) has compared it with the bytes.
struct OffloadMeta {
  // flags
  static constexpr std::uint8_t kNeedsChecksum = 1;     // to be completed: from checksum_start, into + checksum_offset
  static constexpr std::uint8_t kChecksumVerified = 2;  // the receiver's kernel has verified the (outer) L4 checksum
  // gso_type; kGsoEcn is or-ed to a TCP type: the first segment has CWR, the others must not (RFC 3168 section 6.1.2)
  static constexpr std::uint8_t kGsoNone = 0, kGsoTcp4 = 1, kGsoTcp6 = 4, kGsoUdp = 5, kGsoEcn = 0x80;

  std::uint8_t flags = 0;
  std::uint8_t gso_type = kGsoNone;
  std::uint16_t header_length = 0;    // a hint: bytes up to the payload
  std::uint16_t segment_size = 0;     // payload bytes of each segment but the last; 0 when gso_type is kGsoNone
  std::uint16_t checksum_start = 0;   // offset of the TCP or UDP header from the frame's first byte
  std::uint16_t checksum_offset = 0;  // of the checksum field in that header

  [[nodiscard]] constexpr bool needs_checksum() const noexcept { return (flags & kNeedsChecksum) != 0; }
  [[nodiscard]] constexpr bool is_super_frame() const noexcept { return gso_type != kGsoNone; }
  // Neither: the bytes are what goes on a wire.
  [[nodiscard]] constexpr bool is_plain() const noexcept {
    return ((flags & kNeedsChecksum) | gso_type) == 0;
  }
  // Says nothing at all: not even that a checksum was verified.
  [[nodiscard]] constexpr bool is_none() const noexcept { return (flags | gso_type) == 0; }
  // The frame's front moved by `bytes` (a tag or an outer header went in front: positive).
  constexpr void shift(int bytes) noexcept {
    if (is_plain()) return;
    checksum_start = static_cast<std::uint16_t>(checksum_start + bytes);
    header_length = static_cast<std::uint16_t>(header_length + bytes);
  }
};

// One cache line. Port::rx fills data, buffer, length, headroom, tailroom and offload; the pipeline ingress_port; steps the rest.
// Frames are contiguous: `length` bytes are readable at `data`.
// Small fields that a step writes together share four aligned bytes and are written at once: a store of less than that costs
// AMD's cores two and a half whole ones (they keep ECC for each four bytes).
struct alignas(64) Packet {
  std::uint8_t* data = nullptr;   // first byte of the frame
  void* buffer = nullptr;         // the owner's handle
  std::uint64_t source_key = 0;       // FDB key of (VID, source MAC)
  std::uint64_t destination_key = 0;  // FDB key of (VID, destination MAC)
  std::uint32_t length = 0;       // bytes
  std::uint32_t tailroom = 0;     // bytes writable behind data + length
  // set_origin()
  PortIndex ingress_port = kNoIndex;  // where it was received (the underlay's port for tunnel frames)
  Location source;                // where its source MAC now is: the guest port, or the VTEP it came from
  // set_vlan()
  std::uint16_t tci = 0;          // VID and PCP/DEI after classification; VID is the bridge's VLAN
  bool is_tagged = false;         // an 802.1Q tag stands in the bytes at data + 12
  DropReason reason = DropReason::kNone;  // why tx() refused it
  // set_egress()
  Location egress;                // set by bridge: one target; ignored when `flood`
  bool flood = false;             // set by bridge: to all members of the VLAN
  std::uint8_t unused = 0;

  std::uint16_t headroom = 0;     // bytes writable in front of data
  OffloadMeta offload;

  [[nodiscard]] std::uint16_t vid() const noexcept { return tci & 0x0fff; }
  void set_origin(PortIndex port, Location where) noexcept {
    set_word(offsetof(Packet, ingress_port), port | std::uint32_t{where.raw()} << 16);
  }
  // `reason` becomes kNone.
  void set_vlan(std::uint16_t new_tci, bool tagged) noexcept {
    set_word(offsetof(Packet, tci), vlan_word(new_tci, tagged));
  }
  // To one place.
  void set_egress(Location where) noexcept { set_word(offsetof(Packet, egress), where.raw()); }
  // Both fields of set_vlan() and set_egress() in one number, for comparison with another packet's.
  [[nodiscard]] std::uint32_t vlan_word() const noexcept { return word(offsetof(Packet, tci)); }
  [[nodiscard]] static constexpr std::uint32_t vlan_word(std::uint16_t tci, bool tagged) noexcept {
    return tci | std::uint32_t{tagged} << 16 | static_cast<std::uint32_t>(DropReason::kNone) << 24;
  }
  [[nodiscard]] std::uint32_t egress_word() const noexcept { return word(offsetof(Packet, egress)); }

  // Moves the front by `bytes`; the caller has checked headroom or length.
  void push_front(std::uint16_t bytes) noexcept {
    data -= bytes;
    headroom = static_cast<std::uint16_t>(headroom - bytes);
    length += bytes;
  }
  void pull_front(std::uint16_t bytes) noexcept {
    data += bytes;
    headroom = static_cast<std::uint16_t>(headroom + bytes);
    length -= bytes;
  }

 private:
  [[nodiscard]] std::uint32_t word(std::size_t offset) const noexcept {
    std::uint32_t value;
    std::memcpy(&value, reinterpret_cast<const unsigned char*>(this) + offset, sizeof value);
    return value;
  }
  void set_word(std::size_t offset, std::uint32_t value) noexcept {
    std::memcpy(reinterpret_cast<unsigned char*>(this) + offset, &value, sizeof value);
  }
};
static_assert(sizeof(Packet) == 64, "a packet descriptor is one cache line");
static_assert(offsetof(Packet, ingress_port) % 4 == 0 && offsetof(Packet, tci) % 4 == 0 && offsetof(Packet, egress) % 4 == 0);

inline constexpr unsigned kMaxBurst = 64;          // packets a port hands over at most in one rx
inline constexpr std::uint32_t kMaxFrameBytes = 65'535 + 22;  // a super-frame: the largest IP packet behind Ethernet and two tags
inline constexpr std::uint16_t kHeadroomBytes = 128;  // what a received frame has in front: outer header 74 + vnet header

// The beginning of a frame that the next checksum will go over: what follows it the CPU fetches by itself.
inline void prefetch_payload(const Packet& packet) noexcept {
  constexpr std::uint32_t kLine = 64, kEnd = 10 * kLine;
  const std::uint32_t end = packet.length < kEnd ? packet.length : kEnd;
  for (std::uint32_t at = kLine; at < end; at += kLine) __builtin_prefetch(packet.data + at);
}

}  // namespace vx
