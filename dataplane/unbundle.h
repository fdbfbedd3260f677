// SPDX-License-Identifier: Apache-2.0
// A bundle: several datagrams of one outer flow that the kernel joined on receive (UDP_GRO), behind one rebuilt outer
// header. All but the last payload have OffloadMeta::segment_size bytes (VXLAN header and inner frame), the last 1 to
// that many. Made by the held socket of a udp underlay (port_held_socket.cc); taken apart here, so that decap remains
// one code path. Steps: pure; any thread.
#pragma once

#include "dataplane/packet.h"

namespace vx {

// Makes `packet`, an outer frame with a rebuilt header of IPv4 without options or IPv6 without extensions, a bundle:
// sets its metadata. `udp`: offset of the outer UDP header. `segment_size` >= 1.
inline void mark_bundle(Packet& packet, std::uint16_t udp, std::uint16_t segment_size) noexcept {
  packet.offload = {};
  packet.offload.flags = OffloadMeta::kChecksumVerified;
  packet.offload.gso_type = OffloadMeta::kGsoUdp;
  packet.offload.segment_size = segment_size;
  packet.offload.checksum_start = udp;
  packet.offload.header_length = static_cast<std::uint16_t>(udp + 8);
}

// Datagrams in it; 0 when its metadata contradicts its length.
[[nodiscard]] unsigned unbundle_count(const Packet& bundle) noexcept;

// Datagram `i` (< unbundle_count()) as it lies in the bundle, without an outer header.
struct Datagram {
  const std::uint8_t* data = nullptr;  // the VXLAN header
  std::uint32_t length = 0;
};
[[nodiscard]] Datagram datagram_of(const Packet& bundle, unsigned i) noexcept;

// Makes `out`, an empty buffer, the outer frame of datagram `i` alone: lengths and IPv4 checksum right, no UDP checksum
// but kChecksumVerified. False, `out` as it was: the buffer is too small for it.
[[nodiscard]] bool fill_from_bundle(const Packet& bundle, unsigned i, Packet& out) noexcept;

}  // namespace vx
