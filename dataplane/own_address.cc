// SPDX-License-Identifier: Apache-2.0
#include "dataplane/own_address.h"

#include <algorithm>

#include "dataplane/checksum.h"
#include "dataplane/layer3.h"
#include "dataplane/probe_format.h"
#include "dataplane/ip_checksum.h"

namespace vx {
namespace {

constexpr std::uint8_t kEchoRequest4 = 8, kEchoReply4 = 0;        // RFC 792
constexpr std::uint8_t kEchoRequest6 = 128, kEchoReply6 = 129;    // RFC 4443 section 4
constexpr std::uint8_t kSolicit = 135, kAdvertise = 136;          // RFC 4861 section 4
constexpr std::uint32_t kNeighborBytes = 24;                      // ICMPv6, reserved/flags, target
constexpr std::uint32_t kLinkOptionBytes = 8;                     // RFC 4861 section 4.6.1
constexpr std::uint32_t kEchoHeaderBytes = 8;                     // RFC 792: type, code, checksum, identifier, sequence
constexpr std::uint8_t kReplyTtl = 64;

bool is_local(const UnderlayState& underlay, const IpAddress& address) noexcept {
  return std::find(underlay.local.begin(), underlay.local.end(), address) != underlay.local.end();
}

// ff02::1:ffXX:XXXX (RFC 4291 section 2.7.1).
bool is_solicited_node(const std::array<std::uint8_t, 16>& address) noexcept {
  constexpr std::uint8_t prefix[13] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
  return std::memcmp(address.data(), prefix, sizeof prefix) == 0;
}

OwnVerdict judge_arp(const std::uint8_t* bytes, std::uint32_t left, const UnderlayState& underlay) noexcept {
  if (left < sizeof(ArpIpv4)) return {};
  const auto* arp = view<ArpIpv4>(bytes);
  if (arp->hardware_type != Be16(1) || arp->protocol_type != ether_type::kIpv4 || arp->hardware_length != 6 ||
      arp->protocol_length != 4 || arp->sender_mac.is_group() || arp->sender_mac == underlay.mac)
    return {};
  const IpAddress sender = IpAddress::from_v4_bytes(arp->sender_ip.data());
  const IpAddress target = IpAddress::from_v4_bytes(arp->target_ip.data());
  const bool names_sender = !sender.is_unspecified();  // a probe (RFC 5227) does not
  if (arp->operation == Be16(1) && is_local(underlay, target)) return {OwnKind::kArpRequest, names_sender};
  const bool is_reply_to_us = arp->operation == Be16(2) && is_local(underlay, target);
  if (names_sender && (is_reply_to_us || sender == target)) return {OwnKind::kArpNews, true};
  return {};
}

// An echo reply's data is the request's: ours begin with a ProbeMessage. `icmp`: `length` bytes are there.
bool is_probe_echo(const std::uint8_t* icmp, std::uint32_t length) noexcept {
  if (length < kEchoHeaderBytes + sizeof(ProbeMessage)) return false;
  return view<ProbeMessage>(icmp + kEchoHeaderBytes)->magic.host() == kProbeMagic;
}

OwnVerdict judge_ipv4(const std::uint8_t* bytes, std::uint32_t left, const UnderlayState& underlay) noexcept {
  if (left < sizeof(Ipv4Header)) return {};
  const auto* ip = view<Ipv4Header>(bytes);
  const unsigned header = ip->header_length(), total = ip->total_length.host();
  if (ip->version_ihl >> 4 != 4 || header < sizeof(Ipv4Header) || total > left || total < header + 8 ||
      ip->protocol != ip_protocol::kIcmp ||
      (ip->flags_fragment.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0)
    return {};
  const bool is_unicast_source = (ip->source[0] & 0xf0) != 0xe0 && ip->source[0] != 0xff && ip->source[0] != 0;
  const auto* icmp = view<IcmpHeader>(bytes + header);
  if (icmp->code != 0 || !is_unicast_source || !is_local(underlay, IpAddress::from_v4_bytes(ip->destination.data())))
    return {};
  if (icmp->type == kEchoReply4 && is_probe_echo(bytes + header, total - header) &&
      checksum_fold(checksum_partial(bytes + header, total - header)) == 0xffff)
    return {OwnKind::kProbeEcho, true};
  // One that came in fragments may be too long for an answer.
  return icmp->type == kEchoRequest4 && total <= underlay.mtu ? OwnVerdict{OwnKind::kEcho4, false} : OwnVerdict{};
}

OwnVerdict judge_ipv6(const std::uint8_t* bytes, std::uint32_t left, const UnderlayState& underlay) noexcept {
  if (left < sizeof(Ipv6Header) + 8) return {};
  const auto* ip = view<Ipv6Header>(bytes);
  const std::uint32_t length = ip->payload_length.host();
  const std::uint8_t* icmp = bytes + sizeof(Ipv6Header);
  if (bytes[0] >> 4 != 6 || ip->next_header != ip_protocol::kIcmpv6 || length < 8 || length > left - sizeof(Ipv6Header) ||
      icmp[1] != 0 || checksum_fold(icmpv6_sum(bytes, icmp, length)) != 0xffff)
    return {};
  const IpAddress destination = IpAddress::from_v6_bytes(ip->destination.data());
  const bool is_to_us = is_local(underlay, destination);
  if (icmp[0] == kEchoReply6 && is_to_us && is_probe_echo(icmp, length)) return {OwnKind::kProbeEcho, true};
  if (icmp[0] == kEchoRequest6) {
    const bool is_unicast_source = ip->source[0] != 0xff && !IpAddress::from_v6_bytes(ip->source.data()).is_unspecified();
    const bool fits = sizeof(Ipv6Header) + length <= underlay.mtu;
    return is_to_us && is_unicast_source && fits ? OwnVerdict{OwnKind::kEcho6, false} : OwnVerdict{};
  }
  // RFC 4861 sections 7.1.1 and 7.1.2: hop limit 255 proves that no router has forwarded it.
  if (length < kNeighborBytes || ip->hop_limit != 255) return {};
  const IpAddress target = IpAddress::from_v6_bytes(icmp + 8);
  if (icmp[0] == kAdvertise) return (is_to_us || ip->destination[0] == 0xff) && !is_local(underlay, target)
                                        ? OwnVerdict{OwnKind::kNeighborNews, true}
                                        : OwnVerdict{};
  if (icmp[0] != kSolicit || !is_local(underlay, target) || !(is_to_us || is_solicited_node(ip->destination))) return {};
  return {OwnKind::kSolicitation, !IpAddress::from_v6_bytes(ip->source.data()).is_unspecified()};
}

void answer_arp(std::uint8_t* bytes, const UnderlayState& underlay) noexcept {
  auto* arp = view<ArpIpv4>(bytes);
  arp->operation = Be16(2);
  arp->target_mac = arp->sender_mac;
  arp->sender_mac = underlay.mac;
  std::swap(arp->sender_ip, arp->target_ip);
}

void answer_echo4(std::uint8_t* bytes) noexcept {
  auto* ip = view<Ipv4Header>(bytes);
  std::swap(ip->source, ip->destination);
  ip->ttl = kReplyTtl;
  set_ipv4_checksum(bytes);
  std::uint8_t* icmp = bytes + ip->header_length();
  const auto before = load<std::uint16_t>(icmp);
  icmp[0] = kEchoReply4;
  auto* header = view<IcmpHeader>(icmp);
  header->checksum = Be16::from_raw(checksum_update(header->checksum.raw(), before, load<std::uint16_t>(icmp)));
}

void answer_echo6(std::uint8_t* bytes) noexcept {
  auto* ip = view<Ipv6Header>(bytes);
  std::swap(ip->source, ip->destination);
  ip->hop_limit = kReplyTtl;
  std::uint8_t* icmp = bytes + sizeof(Ipv6Header);
  const auto before = load<std::uint16_t>(icmp);
  icmp[0] = kEchoReply6;
  auto* header = view<IcmpHeader>(icmp);
  header->checksum = Be16::from_raw(checksum_update(header->checksum.raw(), before, load<std::uint16_t>(icmp)));
}

// RFC 4861 section 7.2.4. The bytes behind the target are there (the caller made room).
void answer_solicitation(std::uint8_t* frame, std::uint8_t* bytes, const UnderlayState& underlay) noexcept {
  auto* ip = view<Ipv6Header>(bytes);
  std::uint8_t* icmp = bytes + sizeof(Ipv6Header);
  const bool is_probe = IpAddress::from_v6_bytes(ip->source.data()).is_unspecified();  // DAD: to all nodes
  if (is_probe) {
    ip->destination = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    view<EthernetHeader>(frame)->destination = MacAddress{{0x33, 0x33, 0, 0, 0, 1}};
  } else {
    ip->destination = ip->source;
  }
  std::memcpy(ip->source.data(), icmp + 8, 16);
  ip->payload_length = Be16(kNeighborBytes + kLinkOptionBytes);
  icmp[0] = kAdvertise;
  icmp[2] = icmp[3] = 0;
  icmp[4] = is_probe ? 0x20 : 0x60;  // override; solicited
  icmp[5] = icmp[6] = icmp[7] = 0;
  icmp[kNeighborBytes] = 2;  // target link-layer address, one unit of 8 bytes
  icmp[kNeighborBytes + 1] = 1;
  std::memcpy(icmp + kNeighborBytes + 2, underlay.mac.bytes.data(), 6);
  view<IcmpHeader>(icmp)->checksum = checksum_of(icmpv6_sum(bytes, icmp, kNeighborBytes + kLinkOptionBytes));
}

}  // namespace

OwnVerdict judge_own_address(const Packet& packet, const UnderlayState& underlay) noexcept {
  if (packet.length < sizeof(EthernetHeader)) return {};
  const auto* ethernet = view<EthernetHeader>(packet.data);
  const bool is_unicast = ethernet->destination == underlay.mac;
  if ((!is_unicast && !ethernet->destination.is_group()) || ethernet->source.is_group()) return {};
  std::uint32_t layer3 = sizeof(EthernetHeader);
  Be16 type = ethernet->type;
  if (type == ether_type::kVlan) {
    if (packet.length < layer3 + sizeof(VlanTag)) return {};
    const auto* tag = view<VlanTag>(packet.data + layer3);
    if ((tag->tci.host() & kVidMask) != underlay.vlan) return {};
    type = tag->type;
    layer3 += sizeof(VlanTag);
  } else if (underlay.vlan != 0) {
    return {};
  }
  const std::uint8_t* bytes = packet.data + layer3;
  const std::uint32_t left = packet.length - layer3;
  OwnVerdict verdict;
  if (type == ether_type::kArp) verdict = judge_arp(bytes, left, underlay);
  if (type == ether_type::kIpv4 && is_unicast) verdict = judge_ipv4(bytes, left, underlay);
  if (type == ether_type::kIpv6) verdict = judge_ipv6(bytes, left, underlay);
  if ((verdict.kind == OwnKind::kEcho6 || verdict.kind == OwnKind::kProbeEcho) && !is_unicast) return {};
  verdict.layer3 = layer3;
  return verdict;
}

DropReason answer_own_address(Packet& packet, const UnderlayState& underlay, OwnVerdict verdict) noexcept {
  std::uint8_t* bytes = packet.data + verdict.layer3;
  if (verdict.kind == OwnKind::kSolicitation) {
    const std::uint32_t length = verdict.layer3 + sizeof(Ipv6Header) + kNeighborBytes + kLinkOptionBytes;
    if (length > packet.length + packet.tailroom) return DropReason::kNoHeadroom;
    packet.tailroom = packet.tailroom + packet.length - length;
    packet.length = length;
  }
  auto* ethernet = view<EthernetHeader>(packet.data);
  ethernet->destination = ethernet->source;
  ethernet->source = underlay.mac;
  switch (verdict.kind) {
    case OwnKind::kArpRequest: answer_arp(bytes, underlay); break;
    case OwnKind::kEcho4: answer_echo4(bytes); break;
    case OwnKind::kEcho6: answer_echo6(bytes); break;
    case OwnKind::kSolicitation: answer_solicitation(packet.data, bytes, underlay); break;
    default: break;
  }
  return DropReason::kNone;
}

}  // namespace vx
