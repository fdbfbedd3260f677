// SPDX-License-Identifier: Apache-2.0
#include "control/path_probe_wire.h"

#include <cstring>

#include "dataplane/checksum.h"
#include "dataplane/probe_format.h"

namespace vx::control {

namespace {

constexpr std::uint8_t kEchoRequest4 = 8, kEchoReply4 = 0, kEchoRequest6 = 128, kEchoReply6 = 129;
constexpr std::size_t kEchoHeaderBytes = 8;  // type, code, checksum, identifier, sequence (RFC 792, RFC 4443 section 4)

std::uint32_t sum_of(std::span<const std::uint8_t> bytes, std::uint32_t sum = 0) {
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    const std::uint8_t pair[2] = {bytes[i], i + 1 < bytes.size() ? bytes[i + 1] : std::uint8_t{0}};
    std::uint16_t word;
    std::memcpy(&word, pair, sizeof word);
    sum += word;
  }
  return sum;
}
Be16 checksum_of(std::uint32_t sum) { return Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(sum))); }

std::uint32_t pseudo_sum(const ProbeEnds& ends, std::uint8_t protocol, std::size_t length) {
  const std::uint8_t tail[4] = {0, protocol, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  const auto address = [](const IpAddress& ip) {
    return ip.is_v4() ? std::span<const std::uint8_t>(ip.v4_bytes(), 4) : std::span<const std::uint8_t>(ip.bytes);
  };
  return sum_of(tail, sum_of(address(ends.remote), sum_of(address(ends.local))));
}

constexpr std::size_t ip_bytes(bool is_v4) { return is_v4 ? sizeof(Ipv4Header) : sizeof(Ipv6Header); }

// Ethernet and IP header of a packet of `size` bytes, then zeros up to its end.
Frame outer_frame(const ProbeEnds& ends, std::uint8_t protocol, std::uint16_t size) {
  const bool is_v4 = ends.local.is_v4();
  Frame frame(sizeof(EthernetHeader) + size);
  *view<EthernetHeader>(frame.data()) = {ends.next_hop, ends.source_mac, is_v4 ? ether_type::kIpv4 : ether_type::kIpv6};
  std::uint8_t* bytes = frame.data() + sizeof(EthernetHeader);
  if (is_v4) {
    auto* ip = view<Ipv4Header>(bytes);
    ip->version_ihl = 0x45;
    ip->total_length = Be16(size);
    ip->flags_fragment = Be16(kIpv4DontFragment);
    ip->ttl = ends.ttl;
    ip->protocol = protocol;
    std::memcpy(ip->source.data(), ends.local.v4_bytes(), 4);
    std::memcpy(ip->destination.data(), ends.remote.v4_bytes(), 4);
    ip->checksum = checksum_of(sum_of({bytes, sizeof *ip}));
  } else {
    auto* ip = view<Ipv6Header>(bytes);
    ip->version_class_flow = Be32(0x60000000);
    ip->payload_length = Be16(static_cast<std::uint16_t>(size - sizeof *ip));
    ip->next_header = protocol;
    ip->hop_limit = ends.ttl;
    ip->source = ends.local.bytes;
    ip->destination = ends.remote.bytes;
  }
  return frame;
}

ProbeMessage message_of(std::size_t bytes, ProbeId id) {
  ProbeMessage message{};
  message.magic = Be32(kProbeMagic);
  message.version = kProbeVersion;
  message.kind = static_cast<std::uint8_t>(ProbeKind::kRequest);
  message.frame_bytes = Be16(static_cast<std::uint16_t>(bytes));
  message.run = Be32(id.run);
  message.sequence = Be32(id.sequence);
  return message;
}

std::optional<ProbeId> id_of(std::span<const std::uint8_t> bytes, ProbeKind kind) {
  ProbeMessage message;
  if (bytes.size() < sizeof message) return std::nullopt;
  std::memcpy(static_cast<void*>(&message), bytes.data(), sizeof message);
  if (message.magic.host() != kProbeMagic || message.version != kProbeVersion ||
      message.kind != static_cast<std::uint8_t>(kind))
    return std::nullopt;
  return ProbeId{message.run.host(), message.sequence.host()};
}

}  // namespace

Frame tunnel_probe(const ProbeEnds& ends, std::uint16_t size, ProbeId id) {
  const std::size_t headers = ip_bytes(ends.local.is_v4()), udp_length = size - headers;
  Frame frame = outer_frame(ends, ip_protocol::kUdp, size);
  std::uint8_t* at = frame.data() + sizeof(EthernetHeader) + headers;
  auto* udp = view<UdpHeader>(at);
  // RFC 7348 section 5: of the dynamic range.
  udp->source_port = Be16(static_cast<std::uint16_t>(0xc000 | (checksum_fold(pseudo_sum(ends, 0, 0)) & 0x3fff)));
  udp->destination_port = Be16(ends.udp_port);
  udp->length = Be16(static_cast<std::uint16_t>(udp_length));
  *view<VxlanHeader>(at + sizeof(UdpHeader)) = {Be32(kVxlanFlagI), Be32(ends.vni << 8)};
  std::uint8_t* inner = at + sizeof(UdpHeader) + sizeof(VxlanHeader);
  const auto inner_bytes = static_cast<std::size_t>(frame.data() + frame.size() - inner);
  *view<EthernetHeader>(inner) = {kProbeDestination, probe_source_mac(ends.local), kProbeEtherType};
  *view<ProbeMessage>(inner + sizeof(EthernetHeader)) = message_of(inner_bytes, id);
  const Be16 checksum = checksum_of(sum_of({at, udp_length}, pseudo_sum(ends, ip_protocol::kUdp, udp_length)));
  udp->checksum = checksum.raw() != 0 ? checksum : Be16(0xffff);  // RFC 768: zero means none
  return frame;
}

std::vector<std::uint8_t> echo_message(bool is_v6, std::uint16_t size, ProbeId id) {
  std::vector<std::uint8_t> message(size - ip_bytes(!is_v6));
  auto* icmp = view<IcmpHeader>(message.data());
  icmp->type = is_v6 ? kEchoRequest6 : kEchoRequest4;
  const Be16 identifier(static_cast<std::uint16_t>(id.run)), sequence(static_cast<std::uint16_t>(id.sequence));
  std::memcpy(message.data() + sizeof *icmp, &identifier, sizeof identifier);
  std::memcpy(message.data() + sizeof *icmp + sizeof identifier, &sequence, sizeof sequence);
  *view<ProbeMessage>(message.data() + kEchoHeaderBytes) = message_of(size, id);
  if (!is_v6) icmp->checksum = checksum_of(sum_of(message));
  return message;
}

Frame echo_probe(const ProbeEnds& ends, std::uint16_t size, ProbeId id) {
  const bool is_v4 = ends.local.is_v4();
  Frame frame = outer_frame(ends, is_v4 ? ip_protocol::kIcmp : ip_protocol::kIcmpv6, size);
  const auto message = echo_message(!is_v4, size, id);
  std::uint8_t* at = frame.data() + frame.size() - message.size();
  std::memcpy(at, message.data(), message.size());
  if (!is_v4)
    view<IcmpHeader>(at)->checksum = checksum_of(sum_of(message, pseudo_sum(ends, ip_protocol::kIcmpv6, message.size())));
  return frame;
}

std::optional<ProbeId> echo_answer(std::span<const std::uint8_t> message, bool is_v6) {
  if (message.size() < kEchoHeaderBytes || message[0] != (is_v6 ? kEchoReply6 : kEchoReply4) || message[1] != 0)
    return std::nullopt;
  return id_of(message.subspan(kEchoHeaderBytes), ProbeKind::kRequest);  // the data comes back as it went
}

std::optional<ProbeId> probe_answer(std::span<const std::uint8_t> frame) {
  if (frame.size() < sizeof(EthernetHeader)) return std::nullopt;
  const Be16 type = view<EthernetHeader>(frame.data())->type;
  const auto behind = frame.subspan(sizeof(EthernetHeader));
  if (type == kProbeEtherType) return id_of(behind, ProbeKind::kReply);
  if (type == ether_type::kIpv4 && behind.size() >= sizeof(Ipv4Header)) {
    const auto* ip = view<Ipv4Header>(behind.data());
    if (ip->protocol != ip_protocol::kIcmp || ip->header_length() > behind.size()) return std::nullopt;
    return echo_answer(behind.subspan(ip->header_length()), false);
  }
  if (type == ether_type::kIpv6 && behind.size() >= sizeof(Ipv6Header) &&
      view<Ipv6Header>(behind.data())->next_header == ip_protocol::kIcmpv6)
    return echo_answer(behind.subspan(sizeof(Ipv6Header)), true);
  return std::nullopt;
}

}  // namespace vx::control
