// SPDX-License-Identifier: Apache-2.0
// Fragments of outer UDP datagrams and ICMP messages made whole again, on underlays where no kernel does it: `dpdk:` ports,
// and af_xdp with vtep-address = own. RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722 (overlaps). By librte_ip_frag.
//
// Memory and time are bounded: kMostDatagrams under way, of each kMostFragments fragments for kTimeout_ns.
// Threads: one object per receive queue, used by the worker that polls it; counters() by anybody. NICs spread fragments
// by addresses alone, so all of a datagram come through one queue.
#pragma once

#include <cstdint>
#include <memory>

#include "dataplane/layer3.h"
#include "dataplane/packet.h"

namespace vx {

class MbufPool;

class IpReassembly {
 public:
  static constexpr unsigned kMostDatagrams = 256;  // when full, fragments of further ones are refused
  static constexpr unsigned kMostFragments = 8;    // librte_ip_frag's own limit as Debian builds it
  static constexpr std::uint64_t kTimeout_ns = 1'000'000'000;

  // Throws std::runtime_error. `pool` outlives this.
  explicit IpReassembly(MbufPool& pool);
  ~IpReassembly();  // what is under way goes back to the pool
  IpReassembly(const IpReassembly&) = delete;
  IpReassembly& operator=(const IpReassembly&) = delete;

  // Whether a received frame, untagged or behind one 802.1Q tag, is a fragment that take() is for: of what ends in a VTEP, UDP or ICMP
  // (pings, and answers to path probes) over IPv4, or over IPv6 with the fragment header first. Cheap: for every frame.
  [[nodiscard]] static bool is_fragment(const Packet& packet) noexcept;

  // `packet` is_fragment() and lies in an ordinary buffer of the pool. False: the fragment was kept or refused, and its
  // buffer is no longer the caller's. True: `packet` is now the whole datagram in one buffer, ordinary or large, with
  // the first fragment's Ethernet header and tag, and an IP header that says so: total length, no fragment fields or
  // header, right header checksum. Its UDP or ICMP checksum has not been looked at. ECN as in RFC 3168 section 5.3.
  // Refused, with all of its datagram that is here: overlaps and duplicates, holes, lengths that cannot be, a datagram
  // longer than 65,535 bytes, Neighbour Discovery (RFC 6980), and what no buffer can be had for. Times are CLOCK_MONOTONIC.
  [[nodiscard]] bool take(Packet& packet, std::uint64_t now_ns) noexcept;

  // Gives back what has been waiting for longer than kTimeout_ns; to be called now and then while holds() is true.
  void expire(std::uint64_t now_ns) noexcept;
  [[nodiscard]] bool holds() const noexcept;

  // Cumulative. Every fragment taken is in one place: taken = joined + refused + expired + held().
  struct Counters {
    std::uint64_t taken = 0;        // fragments given to take()
    std::uint64_t reassembled = 0;  // whole datagrams it gave back
    std::uint64_t joined = 0;       // fragments that those consist of
    std::uint64_t refused = 0, expired = 0;  // fragments
    [[nodiscard]] constexpr std::uint64_t held() const noexcept { return taken - joined - refused - expired; }
  };
  [[nodiscard]] Counters counters() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

inline bool IpReassembly::is_fragment(const Packet& packet) noexcept {
  constexpr std::uint32_t kLeast = sizeof(EthernetHeader) + sizeof(Ipv4Header);
  if (packet.length < kLeast) [[unlikely]] return false;
  Be16 type = view<EthernetHeader>(packet.data)->type;
  const std::uint8_t* at = packet.data + sizeof(EthernetHeader);
  std::uint32_t left = packet.length - static_cast<std::uint32_t>(sizeof(EthernetHeader));
  if (type == ether_type::kVlan) {
    type = view<VlanTag>(at)->type;
    at += sizeof(VlanTag);
    left -= static_cast<std::uint32_t>(sizeof(VlanTag));
  }
  if (type == ether_type::kIpv4) {
    const auto* ip = view<Ipv4Header>(at);
    constexpr Be16 kBits(kIpv4MoreFragments | kIpv4OffsetMask);
    return left >= sizeof(Ipv4Header) && (ip->flags_fragment.raw() & kBits.raw()) != 0 &&
           (ip->protocol == ip_protocol::kUdp || ip->protocol == ip_protocol::kIcmp);
  }
  if (type != ether_type::kIpv6 || left < sizeof(Ipv6Header) + 8 || view<Ipv6Header>(at)->next_header != ip_protocol::kFragment)
    return false;
  const std::uint8_t protocol = at[sizeof(Ipv6Header)];
  return protocol == ip_protocol::kUdp || protocol == ip_protocol::kIcmpv6;
}

}  // namespace vx
