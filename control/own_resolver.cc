// SPDX-License-Identifier: Apache-2.0
#include "control/own_resolver.h"

#include <algorithm>
#include <cstring>

namespace vx::control {

namespace {

constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
constexpr std::uint8_t kNeighbourSolicitation = 135, kNeighbourAdvertisement = 136;  // RFC 4861 section 4.3, 4.4
constexpr std::uint8_t kSourceLinkLayer = 1, kTargetLinkLayer = 2;                   // RFC 4861 section 4.6.1
constexpr std::uint32_t kOverride = 0x20000000;

struct ArpPacket {  // RFC 826, for IPv4 over Ethernet
  Be16 hardware{1};
  Be16 protocol{0x0800};
  std::uint8_t hardware_length = 6, protocol_length = 4;
  Be16 operation;
  MacAddress sender_mac;
  std::array<std::uint8_t, 4> sender_ip{};
  MacAddress target_mac;
  std::array<std::uint8_t, 4> target_ip{};
};
static_assert(sizeof(ArpPacket) == 28);

struct NdPacket {  // RFC 4861 sections 4.3, 4.4 with one link-layer option
  std::uint8_t type = 0, code = 0;
  Be16 checksum;
  Be32 flags;
  std::array<std::uint8_t, 16> target{};
  std::uint8_t option = 0, option_length = 1;
  MacAddress mac;
};
static_assert(sizeof(NdPacket) == 32);
constexpr std::size_t kNdFixed = 24;  // without options

template <typename T>
T read_at(std::span<const std::uint8_t> frame, std::size_t offset) {
  T value;
  std::memcpy(static_cast<void*>(&value), frame.data() + offset, sizeof value);
  return value;
}

template <typename... Parts>
Frame frame_of(const Parts&... parts) {
  Frame frame;
  const auto append = [&](const auto& part) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&part);
    frame.insert(frame.end(), bytes, bytes + sizeof part);
  };
  (append(parts), ...);
  if (frame.size() < 60) frame.resize(60);  // the least Ethernet carries
  return frame;
}

Frame arp_frame(std::uint16_t operation, const MacAddress& to, const MacAddress& from, const IpAddress& sender,
                const MacAddress& target_mac, const IpAddress& target) {
  ArpPacket arp;
  arp.operation = Be16(operation);
  arp.sender_mac = from;
  std::memcpy(arp.sender_ip.data(), sender.v4_bytes(), 4);
  arp.target_mac = target_mac;
  std::memcpy(arp.target_ip.data(), target.v4_bytes(), 4);
  return frame_of(EthernetHeader{to, from, ether_type::kArp}, arp);
}

// RFC 1071 over pseudo header (RFC 8200 section 8.1) and message.
Be16 icmpv6_checksum(const Ipv6Header& ip, const NdPacket& message) {
  std::uint32_t sum = sizeof message + ip_protocol::kIcmpv6;
  const auto add = [&](const void* data, std::size_t length) {
    const auto* bytes = static_cast<const std::uint8_t*>(data);
    for (std::size_t i = 0; i + 1 < length; i += 2) sum += static_cast<std::uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  };
  add(ip.source.data(), 16);
  add(ip.destination.data(), 16);
  add(&message, sizeof message);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return Be16(static_cast<std::uint16_t>(~sum));
}

Frame nd_frame(NdPacket message, const MacAddress& to, const MacAddress& from, const IpAddress& source,
               const IpAddress& destination) {
  Ipv6Header ip{};
  ip.version_class_flow = Be32(0x60000000);
  ip.payload_length = Be16(sizeof message);
  ip.next_header = ip_protocol::kIcmpv6;
  ip.hop_limit = 255;
  ip.source = source.bytes;
  ip.destination = destination.bytes;
  message.checksum = icmpv6_checksum(ip, message);
  return frame_of(EthernetHeader{to, from, ether_type::kIpv6}, ip, message);
}

// RFC 4291 section 2.7.1, and its Ethernet address (RFC 2464 section 7).
IpAddress solicited_node(const IpAddress& target) {
  IpAddress group{{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}};
  std::copy_n(&target.bytes[13], 3, &group.bytes[13]);
  return group;
}
MacAddress multicast_mac(const IpAddress& group) {
  MacAddress mac{{0x33, 0x33}};
  std::copy_n(&group.bytes[12], 4, &mac.bytes[2]);
  return mac;
}

}  // namespace

void OwnResolver::set_local(const MacAddress& mac, const std::vector<IpAddress>& addresses) {
  if (mac == mac_ && addresses == local_) return;
  mac_ = mac;
  local_ = addresses;
  announcements_left_ = kAnnouncements;
  announced_at_ = 0;
  for (auto& [address, peer] : peers_) peer.was_asked = false;
}

void OwnResolver::watch(const std::vector<IpAddress>& remotes) {
  std::erase_if(peers_, [&](const auto& peer) {
    return std::find(remotes.begin(), remotes.end(), peer.first) == remotes.end();
  });
  for (const auto& remote : remotes) peers_.try_emplace(remote);
}

void OwnResolver::assume(const IpAddress& remote, const MacAddress& mac) {
  const auto at = peers_.find(remote);
  if (at != peers_.end() && !at->second.mac) at->second.mac = mac;
}

void OwnResolver::heard(const IpAddress& address, const MacAddress& mac, Milliseconds now) {
  const auto at = peers_.find(address);
  if (at == peers_.end() || mac.is_group() || mac.is_zero() || mac == mac_) return;
  Peer& peer = at->second;
  peer.heard_at = now;
  peer.tries = 0;
  if (peer.mac == mac) return;
  peer.mac = mac;
  is_changed_ = true;
}

void OwnResolver::on_arp(std::span<const std::uint8_t> frame, Milliseconds now) {
  if (frame.size() < sizeof(EthernetHeader) + sizeof(ArpPacket)) return;
  const auto arp = read_at<ArpPacket>(frame, sizeof(EthernetHeader));
  if (arp.hardware != Be16(1) || arp.protocol != ether_type::kIpv4 || arp.hardware_length != 6 ||
      arp.protocol_length != 4)
    return;
  // Request, reply or gratuitous: the sender tells of itself in each (RFC 826's merge).
  heard(IpAddress::from_v4_bytes(arp.sender_ip.data()), arp.sender_mac, now);
}

void OwnResolver::on_neighbour_discovery(std::span<const std::uint8_t> frame, Milliseconds now) {
  constexpr std::size_t kAt = sizeof(EthernetHeader) + sizeof(Ipv6Header);
  if (frame.size() < kAt + kNdFixed) return;
  const auto ip = read_at<Ipv6Header>(frame, sizeof(EthernetHeader));
  // RFC 4861 sections 7.1.1, 7.1.2: a hop limit below 255 means it came from off the link.
  if (ip.next_header != ip_protocol::kIcmpv6 || ip.hop_limit != 255 || frame[kAt + 1] != 0) return;
  const std::uint8_t type = frame[kAt];
  if (type != kNeighbourSolicitation && type != kNeighbourAdvertisement) return;
  const std::uint8_t wanted = type == kNeighbourSolicitation ? kSourceLinkLayer : kTargetLinkLayer;
  const IpAddress teller = type == kNeighbourSolicitation ? IpAddress::from_v6_bytes(ip.source.data())
                                                          : IpAddress::from_v6_bytes(frame.data() + kAt + 8);
  const std::size_t end = std::min(frame.size(), kAt + ip.payload_length.host());
  for (std::size_t option = kAt + kNdFixed; option + 8 <= end && frame[option + 1] != 0;
       option += frame[option + 1] * std::size_t{8}) {
    if (frame[option] == wanted) return heard(teller, read_at<MacAddress>(frame, option + 2), now);
  }
  // RFC 4861 section 4.4: the answer to a unicast question may leave the option out.
  if (type == kNeighbourAdvertisement) heard(teller, read_at<EthernetHeader>(frame, 0).source, now);
}

void OwnResolver::on_frame(std::span<const std::uint8_t> frame, Milliseconds now) {
  if (frame.size() < sizeof(EthernetHeader)) return;
  const auto type = read_at<EthernetHeader>(frame, 0).type;
  if (type == ether_type::kArp) on_arp(frame, now);
  if (type == ether_type::kIpv6) on_neighbour_discovery(frame, now);
}

std::optional<Frame> OwnResolver::ask(const IpAddress& remote, const Peer& peer) const {
  const auto local = std::find_if(local_.begin(), local_.end(),
                                  [&](const IpAddress& ip) { return ip.is_v4() == remote.is_v4(); });
  if (local == local_.end()) return std::nullopt;
  const bool is_unicast = peer.mac && peer.tries < kUnicastTries;
  if (remote.is_v4())
    return arp_frame(1, is_unicast ? *peer.mac : kBroadcast, mac_, *local, MacAddress{}, remote);
  NdPacket solicitation;
  solicitation.type = kNeighbourSolicitation;
  solicitation.target = remote.bytes;
  solicitation.option = kSourceLinkLayer;
  solicitation.mac = mac_;
  const IpAddress group = solicited_node(remote);
  return is_unicast ? nd_frame(solicitation, *peer.mac, mac_, *local, remote)
                    : nd_frame(solicitation, multicast_mac(group), mac_, *local, group);
}

Frame OwnResolver::announcement(const IpAddress& local) const {
  // RFC 5227 section 2.3: an ARP request for oneself; RFC 4861 section 7.2.6: an unsolicited advertisement.
  if (local.is_v4()) return arp_frame(1, kBroadcast, mac_, local, MacAddress{}, local);
  NdPacket advertisement;
  advertisement.type = kNeighbourAdvertisement;
  advertisement.flags = Be32(kOverride);
  advertisement.target = local.bytes;
  advertisement.option = kTargetLinkLayer;
  advertisement.mac = mac_;
  const IpAddress all_nodes{{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
  return nd_frame(advertisement, multicast_mac(all_nodes), mac_, local, all_nodes);
}

std::vector<Frame> OwnResolver::tick(Milliseconds now) {
  std::vector<Frame> frames;
  if (mac_.is_zero()) return frames;
  if (announcements_left_ > 0 && (announced_at_ == 0 || now - announced_at_ >= kRetryEvery)) {
    for (const auto& local : local_) frames.push_back(announcement(local));
    announced_at_ = now;
    --announcements_left_;
  }
  for (auto& [remote, peer] : peers_) {
    const Milliseconds pause = peer.mac && peer.tries == 0 ? kRefreshEvery : kRetryEvery;
    const Milliseconds since = now - std::max(peer.asked_at, peer.tries == 0 ? peer.heard_at : 0);
    if (peer.was_asked && since < pause) continue;
    if (peer.mac && peer.tries >= kTriesUntilUnresolved) {
      peer.mac.reset();
      is_changed_ = true;
    }
    if (auto frame = ask(remote, peer)) frames.push_back(std::move(*frame));
    peer.asked_at = now;
    peer.was_asked = true;
    ++peer.tries;
  }
  return frames;
}

std::optional<MacAddress> OwnResolver::mac_of(const IpAddress& remote) const {
  const auto at = peers_.find(remote);
  return at == peers_.end() ? std::nullopt : at->second.mac;
}

bool OwnResolver::take_changed() {
  const bool was = is_changed_;
  is_changed_ = false;
  return was;
}

}  // namespace vx::control
