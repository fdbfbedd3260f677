// SPDX-License-Identifier: Apache-2.0
// Offsets are computed from the bytes in 32 bits and only then compared with what the metadata says, so that no
// number of a guest's is ever used to read with.
#include "dataplane/super_frame.h"

#include <cstddef>

#include "dataplane/checksum.h"
#include "dataplane/tcp_header.h"

namespace vx {
namespace {

// What an IP header says of itself; offsets from the frame's first byte.
struct IpEnd {
  std::uint32_t layer4 = 0;   // 0: not usable
  std::uint8_t protocol = 0;
};

// A super-frame's IP header: whole, no fragment, as long as the frame says.
IpEnd read_ipv4(const std::uint8_t* frame, std::uint32_t layer3, std::uint32_t length) noexcept {
  const std::uint32_t left = length - layer3;
  if (left < sizeof(Ipv4Header)) return {};
  const auto& ip = *view<Ipv4Header>(frame + layer3);
  const unsigned header = ip.header_length();
  if (ip.version_ihl >> 4 != 4 || header < sizeof(Ipv4Header) || header > left) return {};
  if (ip.total_length.host() != left) return {};
  if ((ip.flags_fragment.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0) return {};
  return {layer3 + header, ip.protocol};
}

// Behind the extension headers that may stand in front of TCP and UDP (RFC 8200 section 4): not a fragment header, and
// not an authentication header, which would cover the checksum.
IpEnd read_ipv6(const std::uint8_t* frame, std::uint32_t layer3, std::uint32_t length) noexcept {
  const std::uint32_t left = length - layer3;
  if (left < sizeof(Ipv6Header)) return {};
  const auto& ip = *view<Ipv6Header>(frame + layer3);
  if (frame[layer3] >> 4 != 6 || ip.payload_length.host() != left - sizeof(Ipv6Header)) return {};
  IpEnd end{layer3 + static_cast<std::uint32_t>(sizeof(Ipv6Header)), ip.next_header};
  while (end.protocol == ip_protocol::kHopByHop || end.protocol == ip_protocol::kRouting ||
         end.protocol == ip_protocol::kDestinationOptions) {
    if (length - end.layer4 < 8) return {};
    const std::uint32_t bytes = (frame[end.layer4 + 1] + 1u) * 8;
    if (bytes > length - end.layer4) return {};
    end.protocol = frame[end.layer4];
    end.layer4 += bytes;
  }
  return end;
}

// Bytes of the TCP or UDP header at `layer4`; 0 when it is not whole.
std::uint32_t layer4_header_bytes(const std::uint8_t* frame, std::uint32_t layer4, std::uint32_t length,
                                  bool is_tcp) noexcept {
  const std::uint32_t left = length - layer4;
  if (!is_tcp) return left < sizeof(UdpHeader) ? 0 : sizeof(UdpHeader);
  if (left < sizeof(TcpHeader)) return 0;
  const unsigned bytes = view<TcpHeader>(frame + layer4)->header_length();
  return bytes < sizeof(TcpHeader) || bytes > left ? 0 : bytes;
}

}  // namespace

DropReason parse_super_frame(const Packet& packet, SuperFrame& at) noexcept {
  constexpr DropReason kBad = DropReason::kGuestBadOffload;
  const OffloadMeta& meta = packet.offload;
  const std::uint8_t type = meta.gso_type & static_cast<std::uint8_t>(~OffloadMeta::kGsoEcn);
  const bool is_tcp = type != OffloadMeta::kGsoUdp;
  if (!meta.needs_checksum() || meta.segment_size == 0 || packet.length < sizeof(EthernetHeader)) return kBad;
  if (type != OffloadMeta::kGsoTcp4 && type != OffloadMeta::kGsoTcp6 && type != OffloadMeta::kGsoUdp) return kBad;
  if (!is_tcp && meta.gso_type != type) return kBad;

  const Layer3 layer3 = layer3_of(packet.data, packet.length);
  const bool is_v4 = layer3.type == ether_type::kIpv4;
  if (!is_v4 && layer3.type != ether_type::kIpv6) return kBad;
  if ((type == OffloadMeta::kGsoTcp4 && !is_v4) || (type == OffloadMeta::kGsoTcp6 && is_v4)) return kBad;
  const IpEnd ip = is_v4 ? read_ipv4(packet.data, layer3.offset, packet.length)
                         : read_ipv6(packet.data, layer3.offset, packet.length);
  if (ip.layer4 == 0 || ip.protocol != (is_tcp ? ip_protocol::kTcp : ip_protocol::kUdp)) return kBad;

  const std::uint32_t field = is_tcp ? offsetof(TcpHeader, checksum) : offsetof(UdpHeader, checksum);
  if (meta.checksum_start != ip.layer4 || meta.checksum_offset != field) return kBad;
  const std::uint32_t header = layer4_header_bytes(packet.data, ip.layer4, packet.length, is_tcp);
  const std::uint32_t payload = ip.layer4 + header;
  if (header == 0 || payload >= packet.length || payload > 0xffff) return kBad;

  at.layer3 = static_cast<std::uint16_t>(layer3.offset);
  at.layer4 = static_cast<std::uint16_t>(ip.layer4);
  at.payload = static_cast<std::uint16_t>(payload);
  at.segment_size = meta.segment_size;
  at.is_v4 = is_v4;
  at.is_tcp = is_tcp;
  return DropReason::kNone;
}

DropReason complete_checksum(Packet& packet) noexcept {
  const std::uint32_t start = packet.offload.checksum_start;
  const std::uint32_t field = start + packet.offload.checksum_offset;
  if (packet.length < sizeof(EthernetHeader) || field + sizeof(Be16) > packet.length ||
      start < layer3_of(packet.data, packet.length).offset)
    return DropReason::kGuestBadOffload;
  // The field holds the pseudo header's sum: it is part of what is summed.
  auto sum = static_cast<std::uint16_t>(~checksum_fold(checksum_partial(packet.data + start, packet.length - start)));
  if (sum == 0 && packet.offload.checksum_offset == offsetof(UdpHeader, checksum)) sum = 0xffff;
  store(packet.data + field, sum);
  packet.offload = {};
  return DropReason::kNone;
}

}  // namespace vx
