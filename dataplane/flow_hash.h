// SPDX-License-Identifier: Apache-2.0
// A hash of an inner frame's flow, for the outer source port: RFC 7348 section 5 wants entropy there so that the
// underlay's ECMP and the receiver's RSS spread flows. Computed in software: software ports give no hash.
#pragma once

#include <nmmintrin.h>

#include <cstdint>

#include "dataplane/layer3.h"
#include "dataplane/wire.h"

namespace vx {

// Hash of the flow of the Ethernet frame `frame` (`length` bytes, any number, never read past). The same for every
// frame of a flow, tagged or not (up to two tags are skipped): addresses, protocol and, for TCP, UDP and SCTP, ports;
// without ports for all fragments of a datagram alike, first one included; the two MACs and the ethertype when
// it is not IP or cut short. Not for security. Pure; any thread.
[[nodiscard]] std::uint32_t flow_hash(const std::uint8_t* frame, std::uint32_t length) noexcept;

// What encap wants to know of the inner packet, from one look at its headers.
struct InnerFlow {
  std::uint32_t hash = 0;  // flow_hash()
  std::uint8_t tos = 0;    // inner_tos()
};

// CRC32C mixes well into its low bits; the multiplication carries that to the high ones, which pick the port.
[[nodiscard]] inline std::uint32_t flow_hash_finish(std::uint64_t crc) noexcept {
  return static_cast<std::uint32_t>((crc * 0x9e3779b97f4a7c15u) >> 32);
}
[[nodiscard]] constexpr bool has_ports(std::uint8_t protocol) noexcept {
  return protocol == ip_protocol::kTcp || protocol == ip_protocol::kUdp || protocol == ip_protocol::kSctp;
}
[[nodiscard]] inline std::uint32_t flow_hash_ipv4(const Ipv4Header& ip, std::uint32_t ports) noexcept {
  const std::uint64_t rest = std::uint64_t{ip.protocol} << 32 | ports;
  return flow_hash_finish(_mm_crc32_u64(_mm_crc32_u64(0, load<std::uint64_t>(ip.source.data())), rest));
}

// The same for any frame; out of line.
[[nodiscard]] InnerFlow inner_flow_of_any(const std::uint8_t* frame, std::uint32_t length) noexcept;

// flow_hash() and inner_tos() at once; inline for what most frames are: untagged IPv4 without options.
[[nodiscard]] inline InnerFlow inner_flow(const std::uint8_t* frame, std::uint32_t length) noexcept {
  constexpr std::uint32_t kPorts = sizeof(EthernetHeader) + sizeof(Ipv4Header);
  if (length >= kPorts + 4 && view<EthernetHeader>(frame)->type == ether_type::kIpv4 &&
      view<Ipv4Header>(frame + sizeof(EthernetHeader))->version_ihl == 0x45) [[likely]] {
    const auto& ip = *view<Ipv4Header>(frame + sizeof(EthernetHeader));
    constexpr Be16 kFragment{kIpv4MoreFragments | kIpv4OffsetMask};
    const bool ports = has_ports(ip.protocol) && (ip.flags_fragment.raw() & kFragment.raw()) == 0;
    return {flow_hash_ipv4(ip, ports ? load<std::uint32_t>(frame + kPorts) : 0), ip.tos};
  }
  return inner_flow_of_any(frame, length);
}

}  // namespace vx
