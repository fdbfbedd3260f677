// SPDX-License-Identifier: Apache-2.0
#include "dataplane/flow_hash.h"

namespace vx {
namespace {

std::uint32_t hash_macs(const std::uint8_t* frame, Be16 type) noexcept {
  const auto crc = _mm_crc32_u64(0, load<std::uint64_t>(frame));
  return flow_hash_finish(_mm_crc32_u64(crc, load<std::uint32_t>(frame + 8) | std::uint64_t{type.raw()} << 32));
}

}  // namespace

std::uint32_t flow_hash(const std::uint8_t* frame, std::uint32_t length) noexcept {
  if (length < sizeof(EthernetHeader)) return 0;
  std::uint32_t at = sizeof(EthernetHeader);
  Be16 type = view<EthernetHeader>(frame)->type;
  for (int tags = 0; tags < 2 && is_vlan_type(type); ++tags) {
    if (length < at + sizeof(VlanTag)) return hash_macs(frame, type);
    type = view<VlanTag>(frame + at)->type;
    at += sizeof(VlanTag);
  }

  if (type == ether_type::kIpv4 && length >= at + sizeof(Ipv4Header)) [[likely]] {
    const auto* ip = view<Ipv4Header>(frame + at);
    const bool is_fragment =
        (ip->flags_fragment.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0;  // first ones too
    const std::uint32_t ports = at + ip->header_length();
    const bool counts = has_ports(ip->protocol) && !is_fragment && length >= ports + 4;
    return flow_hash_ipv4(*ip, counts ? load<std::uint32_t>(frame + ports) : 0);
  }

  if (type == ether_type::kIpv6 && length >= at + sizeof(Ipv6Header)) {
    const auto* ip = view<Ipv6Header>(frame + at);
    std::uint64_t crc = 0;
    for (unsigned i = 0; i < 32; i += 8) crc = _mm_crc32_u64(crc, load<std::uint64_t>(ip->source.data() + i));
    std::uint8_t next = ip->next_header;
    at += sizeof(Ipv6Header);
    // RFC 8200 section 4: option-like headers carry their length in units of 8 bytes after the first 8.
    for (int headers = 0; headers < 4; ++headers) {
      if (next != ip_protocol::kHopByHop && next != ip_protocol::kRouting && next != ip_protocol::kDestinationOptions) break;
      if (length < at + 8) return flow_hash_finish(crc);
      next = frame[at];
      at += (frame[at + 1] + 1u) * 8;
    }
    // The first fragment has a fragment header too: what follows it is not hashed on any fragment.
    std::uint64_t rest = 0;
    if (has_ports(next) && length >= at + 4) rest = std::uint64_t{next} << 32 | load<std::uint32_t>(frame + at);
    return flow_hash_finish(_mm_crc32_u64(crc, rest));
  }
  return hash_macs(frame, type);
}

InnerFlow inner_flow_of_any(const std::uint8_t* frame, std::uint32_t length) noexcept {
  return {flow_hash(frame, length), inner_tos(frame, length)};
}

}  // namespace vx
