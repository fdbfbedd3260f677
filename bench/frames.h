// SPDX-License-Identifier: Apache-2.0
// The frames that are forwarded, and the addresses in them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench/loop_port.h"
#include "dataplane/encap.h"

namespace vx::bench {

inline constexpr IpAddress kHere = IpAddress::v4(172, 18, 1, 1), kThere = IpAddress::v4(172, 18, 1, 2);
inline constexpr std::uint32_t kVni = 1000;
inline constexpr std::uint32_t kInnerPorts = 34, kOuter = 50, kOuterChecksum = 40;  // offsets; IPv4, untagged

// UDP over IPv4 in Ethernet, `bytes` in all; the MACs are zero.
inline std::vector<std::uint8_t> guest_frame(std::size_t bytes) {
  std::vector<std::uint8_t> frame(bytes, 0x5a);
  auto* ip = view<Ipv4Header>(frame.data() + 14);
  view<EthernetHeader>(frame.data())->type = ether_type::kIpv4;
  *ip = Ipv4Header{};
  ip->version_ihl = 0x45;
  ip->total_length = Be16(static_cast<std::uint16_t>(bytes - 14));
  ip->ttl = 64;
  ip->protocol = ip_protocol::kUdp;
  ip->source = {10, 0, 0, 1};
  ip->destination = {10, 0, 0, 2};
  return frame;
}

inline Vtep make_vtep() {
  OuterHeaderFields fields{};
  fields.source_mac = MacAddress::from_u48(0x020000000001);
  fields.next_hop = MacAddress::from_u48(0x020000000002);
  fields.source = kHere;
  fields.destination = kThere;
  fields.vni = kVni;
  Vtep vtep;
  build_outer_header(fields, vtep);
  vtep.exists = vtep.resolved = vtep.flood = true;
  vtep.outer_mtu = 1500;
  vtep.address = kThere;
  return vtep;
}

// `inner` encapsulated by the peer, without an outer checksum.
inline std::vector<std::uint8_t> outer_frame(const std::vector<std::uint8_t>& inner) {
  std::vector<std::uint8_t> memory(kHeadroomBytes + inner.size());
  std::copy(inner.begin(), inner.end(), memory.begin() + kHeadroomBytes);
  Packet packet;
  packet.data = memory.data() + kHeadroomBytes;
  packet.length = static_cast<std::uint32_t>(inner.size());
  packet.headroom = kHeadroomBytes;
  EncapSettings settings;
  settings.udp_csum = false;
  if (encap(packet, make_vtep(), settings) != DropReason::kNone) std::abort();
  std::vector<std::uint8_t> frame(packet.data, packet.data + packet.length);
  auto* ip = view<Ipv4Header>(frame.data() + 14);
  std::swap(ip->source, ip->destination);
  return frame;
}

inline Load guest_load(std::size_t bytes, std::vector<MacPair> pairs) {
  return {guest_frame(bytes), std::move(pairs), 0, kInnerPorts, 0};
}

// The same frames out of the tunnel.
inline Load tunnel_load(std::size_t inner_bytes, std::vector<MacPair> pairs, bool udp_csum) {
  auto outer = outer_frame(guest_frame(inner_bytes));
  // As LoopPort writes them: the sum does not depend on the flow.
  std::fill_n(outer.begin() + kOuter + kInnerPorts, 2, std::uint8_t{0});
  std::fill_n(outer.begin() + kOuter + kInnerPorts + 2, 2, std::uint8_t{0xff});
  if (udp_csum)
    for (auto& pair : pairs) {
      std::memcpy(&outer[kOuter], pair.ethernet.data(), 16);
      outer[kOuterChecksum] = outer[kOuterChecksum + 1] = 0;
      const std::uint8_t words[4] = {0, ip_protocol::kUdp, outer[38], outer[39]};
      const auto pseudo = checksum_partial(words, 4, checksum_partial(&outer[26], 8));
      pair.udp_checksum = static_cast<std::uint16_t>(~checksum_fold(checksum_partial(&outer[34], outer.size() - 34, pseudo)));
    }
  return {std::move(outer), std::move(pairs), kOuter, kOuter + kInnerPorts, udp_csum ? kOuterChecksum : 0};
}

// `count` addresses that differ, of guests here (`there` false) or behind the VTEP, in random order.
inline std::vector<MacAddress> make_macs(std::size_t count, bool there, std::uint64_t seed = 42) {
  std::mt19937_64 random(seed + there);
  std::vector<MacAddress> macs(count);
  for (std::size_t i = 0; i < count; ++i)
    macs[i] = MacAddress::from_u48(0x020000000000 | (random() & 0x7fff) << 24 | std::uint64_t{there} << 39 | i);
  std::shuffle(macs.begin(), macs.end(), random);
  return macs;
}

inline std::vector<MacPair> make_pairs(const std::vector<MacAddress>& to, const std::vector<MacAddress>& from) {
  std::vector<MacPair> pairs;
  for (std::size_t i = 0; i < to.size(); ++i) pairs.emplace_back(to[i], from[i]);
  return pairs;
}

}  // namespace vx::bench
