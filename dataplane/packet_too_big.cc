// SPDX-License-Identifier: Apache-2.0
#include "dataplane/packet_too_big.h"

#include <algorithm>

#include "dataplane/checksum.h"
#include "dataplane/ip_packet.h"
#include "dataplane/ip_checksum.h"

namespace vx {
namespace {

constexpr std::uint8_t kUnreachable4 = 3, kFragmentationNeeded4 = 4;  // RFC 792
constexpr std::uint8_t kTooBig6 = 2;                                  // RFC 4443 section 3.2
constexpr std::uint8_t kRedirect6 = 137;                              // RFC 4861 section 4.5
constexpr std::uint8_t kFirstInformational6 = 128;                    // RFC 4443 section 2.1
constexpr std::uint32_t kMostBytes4 = 576, kMostBytes6 = 1280;        // of the reply's IP packet
constexpr std::uint32_t kIcmpBytes = 8;                               // type, code, checksum, 32 bits with the MTU
constexpr std::uint8_t kReplyTtl = 64;
constexpr std::uint8_t kInternetworkControl = 0xc0;  // precedence of ICMP errors: RFC 1812 section 4.3.2.5

// RFC 1122 section 3.2.1.3: neither "this network", loopback, multicast, class E nor limited broadcast.
bool is_one_host4(const std::array<std::uint8_t, 4>& a) noexcept { return a[0] != 0 && a[0] != 127 && a[0] < 224; }

// Neither multicast nor :: nor ::1.
bool is_one_host6(const std::array<std::uint8_t, 16>& a) noexcept {
  constexpr std::array<std::uint8_t, 15> zeros{};
  return a[0] != 0xff && (std::memcmp(a.data(), zeros.data(), zeros.size()) != 0 || a[15] > 1);
}

bool is_error4(std::uint8_t type) noexcept {  // RFC 1122 section 3.2.2: unreachable, quench, redirect, time, parameter
  return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}
bool is_error6(std::uint8_t type) noexcept { return type < kFirstInformational6 || type == kRedirect6; }

bool may_tell(const Packet& frame, const IpPacket& ip) noexcept {
  const auto* ethernet = view<EthernetHeader>(frame.data);
  if (ethernet->destination.is_group() || ethernet->source.is_group() || ethernet->source.is_zero()) return false;
  const std::uint8_t* header = frame.data + ip.layer3;
  if (ip.is_v4) {
    const auto* v4 = view<Ipv4Header>(header);
    if (!is_one_host4(v4->source) || !is_one_host4(v4->destination)) return false;
  } else {
    const auto* v6 = view<Ipv6Header>(header);
    if (!is_one_host6(v6->source) || !is_one_host6(v6->destination)) return false;
  }
  if (ip.is_later_fragment) return false;
  if (ip.protocol != (ip.is_v4 ? ip_protocol::kIcmp : ip_protocol::kIcmpv6)) return true;
  if (ip.layer4 == ip.end) return false;  // its type is not here to be seen
  const std::uint8_t type = frame.data[ip.layer4];
  return ip.is_v4 ? !is_error4(type) : !is_error6(type);
}

// Both fill in what lies from `at` on: IP header and ICMP header; `quoted` bytes of the packet are already behind them.
void finish4(const Ipv4Header& from, std::uint16_t mtu, std::uint32_t quoted, std::uint8_t* at) noexcept {
  auto* ip = view<Ipv4Header>(at);
  *ip = Ipv4Header{};
  ip->version_ihl = 0x45;
  ip->tos = kInternetworkControl;
  ip->total_length = Be16(static_cast<std::uint16_t>(sizeof(Ipv4Header) + kIcmpBytes + quoted));
  ip->flags_fragment = Be16(kIpv4DontFragment);  // atomic: an identification of 0 will do (RFC 6864 section 4.1)
  ip->ttl = kReplyTtl;
  ip->protocol = ip_protocol::kIcmp;
  ip->source = from.destination;
  ip->destination = from.source;
  set_ipv4_checksum(at);

  std::uint8_t* icmp = at + sizeof(Ipv4Header);
  *view<IcmpHeader>(icmp) = {kUnreachable4, kFragmentationNeeded4, Be16{}};
  store(icmp + 4, Be32(mtu));  // RFC 1191 section 4: 16 bits unused, 16 bits next-hop MTU
  view<IcmpHeader>(icmp)->checksum = checksum_of(checksum_partial(icmp, kIcmpBytes + quoted));
}

void finish6(const Ipv6Header& from, std::uint16_t mtu, std::uint32_t quoted, std::uint8_t* at) noexcept {
  const std::uint32_t length = kIcmpBytes + quoted;
  auto* ip = view<Ipv6Header>(at);
  ip->version_class_flow = Be32(0x60000000);
  ip->payload_length = Be16(static_cast<std::uint16_t>(length));
  ip->next_header = ip_protocol::kIcmpv6;
  ip->hop_limit = kReplyTtl;
  ip->source = from.destination;
  ip->destination = from.source;

  std::uint8_t* icmp = at + sizeof(Ipv6Header);
  *view<IcmpHeader>(icmp) = {kTooBig6, 0, Be16{}};
  store(icmp + 4, Be32(mtu));
  view<IcmpHeader>(icmp)->checksum = checksum_of(icmpv6_sum(at, icmp, length));
}

}  // namespace

bool make_packet_too_big(const Packet& frame, std::uint16_t mtu, Packet& reply) noexcept {
  const auto ip = parse_ip(frame.data, frame.length);
  if (!ip || !may_tell(frame, *ip)) return false;
  const std::uint16_t told = std::max(mtu, ip->is_v4 ? kLeastToldMtu4 : kLeastToldMtu6);
  if (ip->bytes() <= told) return false;

  const std::uint32_t headers = (ip->is_v4 ? sizeof(Ipv4Header) : sizeof(Ipv6Header)) + kIcmpBytes;
  const std::uint32_t quoted = std::min(ip->bytes(), (ip->is_v4 ? kMostBytes4 : kMostBytes6) - headers);
  const std::uint32_t length = ip->layer3 + headers + quoted;
  if (reply.tailroom < length) return false;

  // Ethertype and tags as they are, with the addresses changed over.
  std::memcpy(reply.data, frame.data, ip->layer3);
  const auto* ethernet = view<EthernetHeader>(frame.data);
  view<EthernetHeader>(reply.data)->destination = ethernet->source;
  view<EthernetHeader>(reply.data)->source = ethernet->destination;
  std::uint8_t* at = reply.data + ip->layer3;
  std::memcpy(at + headers, frame.data + ip->layer3, quoted);
  if (ip->is_v4)
    finish4(*view<Ipv4Header>(frame.data + ip->layer3), told, quoted, at);
  else
    finish6(*view<Ipv6Header>(frame.data + ip->layer3), told, quoted, at);

  reply.length = length;
  reply.tailroom -= length;
  reply.tci = frame.tci;
  reply.is_tagged = frame.is_tagged;
  reply.offload = {};
  return true;
}

}  // namespace vx
