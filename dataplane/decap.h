// SPDX-License-Identifier: Apache-2.0
// The way out of the tunnel: every validation of the outer headers (RFC 7348 section 5, design section 3), then
// the inner frame is what remains. ECN by RFC 6040 section 4.2. In wire order, one guard a reason.
#pragma once

#include "dataplane/checksum.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/layer3.h"
#include "dataplane/packet.h"

namespace vx {

struct DecapResult {
  DropReason reason = DropReason::kNone;
  OverlayIndex overlay = kNoIndex;
};

// What the last packet needed and the next one most likely needs too. Valid for one ForwardingState.
struct DecapCache {
  OverlayIndex overlay = kNoIndex;
  VtepIndex vtep = kNoIndex;
  // The outer headers that were accepted from that VTEP, as they lie in memory: a packet with the same ones needs
  // no lookup (decap_as_last). IPv4 without options only.
  std::uint32_t layer3 = 0;                // offset of the IPv4 header: 14 or 18
  std::uint32_t least_length = UINT32_MAX; // of a frame with all that is compared; UINT32_MAX: none remembered
  std::uint32_t tag = 0, tag_mask = 0;     // of the bytes at 12: the VLAN tag's type and VID
  std::uint64_t addresses = 0;             // source and destination
  std::uint64_t vxlan = 0;                 // flags and VNI
  std::uint16_t udp_port = 0;              // raw
  std::uint32_t pseudo_sum = 0;            // of the pseudo header without the length
  bool has_checksum = false;               // UDP's
};

// On kNone the packet is the inner frame, 14 bytes at least, its source is the VTEP (or Location() for an unknown one that
// vtep-learning accepts: `unknown_source` then holds its address). A dropped packet is unchanged.
// kOuterNotForUs may still be ARP, ND or echo for us: own_address.h.
[[nodiscard]] DecapResult decap(Packet& packet, const ForwardingState& state, DecapCache& cache,
                                IpAddress& unknown_source) noexcept;

// What decap() does first, for callers with many packets: takes one that is as the last was and asks nothing of its inner frame
// by one look at each header word. False: the packet is unchanged and decap()'s to judge.
[[nodiscard]] inline bool decap_as_last(Packet& packet, const DecapCache& cache) noexcept {
  constexpr std::uint32_t kUdpAt = 20, kVxlanAt = 28, kHeaders = 36, kLeastInner = 14;  // from the IP header; bytes
  if (packet.length < cache.least_length) [[unlikely]] return false;
  const std::uint8_t* ip = packet.data + cache.layer3;
  const auto first = load<std::uint64_t>(ip), second = load<std::uint64_t>(ip + 8), udp = load<std::uint64_t>(ip + kUdpAt);
  const auto destination = load<std::uint32_t>(ip + 16);
  // Version, header length, ECN that may change the inner frame (the low bit: ECT(1), CE), fragment fields; then the protocol.
  constexpr std::uint64_t kFirst = 0x45, kFirstMask = 0xff'3f'00'00'00'00'01'ff, kProtocol = ip_protocol::kUdp;
  const std::uint64_t differs = ((first ^ kFirst) & kFirstMask) | ((second >> 8 & 0xff) ^ kProtocol) |
                                ((second >> 32 | std::uint64_t{destination} << 32) ^ cache.addresses) |
                                (load<std::uint64_t>(ip + kVxlanAt) ^ cache.vxlan) |
                                static_cast<std::uint16_t>(udp >> 16 ^ cache.udp_port) |
                                static_cast<std::uint16_t>(load<std::uint16_t>(ip - 2) ^ ether_type::kIpv4.raw()) |
                                ((load<std::uint32_t>(packet.data + 12) ^ cache.tag) & cache.tag_mask);
  const std::uint32_t total = __builtin_bswap16(static_cast<std::uint16_t>(first >> 16));
  const std::uint32_t udp_length = __builtin_bswap16(static_cast<std::uint16_t>(udp >> 32));
  std::uint64_t sum = (first & 0xffffffff) + (first >> 32) + (second & 0xffffffff) + (second >> 32) + destination;
  sum = (sum & 0xffffffff) + (sum >> 32);
  if (differs != 0 || total > packet.length - cache.layer3 || udp_length + kUdpAt > total ||
      udp_length < kHeaders - kUdpAt + kLeastInner || checksum_fold(static_cast<std::uint32_t>(sum)) != 0xffff) [[unlikely]]
    return false;
  const bool is_sum_due = udp >> 48 != 0 && (packet.offload.flags & OffloadMeta::kChecksumVerified) == 0;
  if (is_sum_due && checksum_fold(checksum_partial(ip + kUdpAt, udp_length, cache.pseudo_sum + static_cast<std::uint16_t>(udp >> 32))) != 0xffff)
      [[unlikely]]
    return false;
  const std::uint32_t front = cache.layer3 + kHeaders, inner_length = udp_length - (kHeaders - kUdpAt);
  packet.tailroom += packet.length - front - inner_length;
  packet.pull_front(static_cast<std::uint16_t>(front));
  packet.length = inner_length;
  if (!packet.offload.is_none()) [[unlikely]] packet.offload = {};  // spoke of the outer packet
  packet.set_origin(packet.ingress_port, Location::vtep(cache.vtep));
  return true;
}

// RFC 6040 figure 4, normal mode: the inner ECN field changed as `outer` demands, with the inner IPv4 header
// checksum kept right. Frames that are not IP pass as they are. `length` >= 14.
[[nodiscard]] DropReason decap_ecn(std::uint8_t* frame, std::uint32_t length, std::uint8_t outer) noexcept;

}  // namespace vx
