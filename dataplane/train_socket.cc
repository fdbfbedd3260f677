// SPDX-License-Identifier: Apache-2.0
#include "dataplane/train_socket.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "dataplane/checksum.h"
#include "dataplane/layer3.h"
#include "dataplane/netdev.h"
#include "dataplane/ip_checksum.h"
#include "dataplane/vnet_header.h"
#include "dataplane/vtep_table.h"

namespace vx {
namespace {

constexpr int kSendBufferBytes = 4 << 20;

sockaddr_ll address_of(std::uint32_t ifindex) noexcept {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(ifindex);
  return address;
}

// `frame`: outer headers up to UDP's end. The first packet's IPv4 ID; lengths for `payload` bytes; the UDP checksum field is what
// a partial one begins with, the sum of the pseudo header.
void set_lengths(std::uint8_t* frame, const OuterOffsets& at, std::uint32_t payload, std::uint16_t id) noexcept {
  std::uint8_t* ip = frame + at.layer3;
  const Be16 udp_bytes{static_cast<std::uint16_t>(sizeof(UdpHeader) + payload)};
  const std::uint32_t sum = pseudo_header_sum(ip, at.is_v4, ip_protocol::kUdp, udp_bytes.host());
  if (at.is_v4) {
    auto* header = view<Ipv4Header>(ip);
    header->total_length = Be16(static_cast<std::uint16_t>(at.udp - at.layer3 + udp_bytes.host()));
    header->identification = Be16(id);
    set_ipv4_checksum(ip);
  } else {
    view<Ipv6Header>(ip)->payload_length = udp_bytes;
  }
  auto* header = view<UdpHeader>(frame + at.udp);
  header->length = udp_bytes;
  header->checksum = Be16::from_raw(checksum_fold(sum));
}

DropReason refusal(int error) noexcept {
  switch (error) {
    case EAGAIN: case EINTR: case ENOBUFS: case ENOMEM: return DropReason::kNone;
    case EMSGSIZE: return DropReason::kUnderlayMtuExceeded;
    default: return DropReason::kPortDown;
  }
}

bool is_kernel_6_2() noexcept {
  utsname name{};
  int major = 0, minor = 0;
  return ::uname(&name) == 0 && std::sscanf(name.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 2));
}

}  // namespace

bool takes_udp_trains() noexcept {
  struct {
    VnetHeader vnet{OffloadMeta::kNeedsChecksum, OffloadMeta::kGsoUdp, 42, 8, 34, offsetof(UdpHeader, checksum)};
    EthernetHeader ethernet{MacAddress::from_u48(0x020000000001), MacAddress::from_u48(0x020000000002), ether_type::kIpv4};
    Ipv4Header ip{};
    UdpHeader udp{};
    std::array<std::uint8_t, 16> payload{};
  } frame;
  static_assert(sizeof frame == 10 + 14 + 20 + 8 + 16);
  frame.ip.version_ihl = 0x45;
  frame.ip.total_length = Be16(sizeof frame.ip + sizeof frame.udp + sizeof frame.payload);
  frame.ip.protocol = ip_protocol::kUdp;
  FileDescriptor fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  const int one = 1;
  const sockaddr_ll address = address_of(netdev::index("lo"));
  if (!fd || ::setsockopt(fd.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0) return false;
  if (::sendto(fd.get(), &frame, sizeof frame, MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&address), sizeof address) > 0)
    return true;
  return errno == ENETDOWN && is_kernel_6_2();  // `lo` is down in this namespace
}

TrainSocket::TrainSocket(const std::string& netdev, std::uint32_t ifindex)
    : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)),
      bytes_(std::make_unique<std::array<std::uint8_t, kMaxTrainBytes>>()) {
  // Protocol 0: it receives nothing.
  if (!fd_) throw_errno(netdev, "cannot open a packet socket");
  const int one = 1;
  const sockaddr_ll address = address_of(ifindex);
  (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSendBufferBytes, sizeof kSendBufferBytes);
  if (::setsockopt(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0 ||
      ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw_errno(netdev, "cannot set up a packet socket");
}

bool TrainSocket::send(Packet& packet) noexcept {
  packet.reason = DropReason::kPortDown;
  const auto outer = find_outer_udp(packet);
  if (!outer) return false;
  const DatagramTrain train(packet, static_cast<std::uint16_t>(outer->udp + sizeof(UdpHeader)));
  packet.reason = train.reason();
  if (train.reason() != DropReason::kNone) return false;
  const unsigned at_once = train.at_once();
  if (at_once == 0) {
    packet.reason = DropReason::kUnderlayMtuExceeded;
    return false;
  }
  for (unsigned made = 0; made < train.count();) {
    const unsigned count = std::min(at_once, train.count() - made);
    const std::uint32_t bytes = train.write(made, count, bytes_->data());
    const int error = send_train(packet, *outer, bytes, train.longest());
    if (error == 0) {
      made += count;
      next_id_ = static_cast<std::uint16_t>(next_id_ + count);
      continue;
    }
    packet.reason = refusal(error);
    const unsigned lost = made == 0 && packet.reason == DropReason::kNone ? 0 : train.count() - made;
    errors_.add(lost);
    return made != 0;
  }
  return true;
}

// 0 or errno.
int TrainSocket::send_train(const Packet& packet, const OuterOffsets& outer, std::uint32_t bytes, std::uint32_t segment) noexcept {
  const std::size_t header_bytes = outer.udp + sizeof(UdpHeader);
  std::array<std::uint8_t, kMaxOuterHeader + sizeof(Ipv4Header) * 2> header;  // IPv4 with options fits too
  std::memcpy(header.data(), packet.data, header_bytes);
  set_lengths(header.data(), outer, bytes, next_id_);
  VnetHeader vnet{OffloadMeta::kNeedsChecksum, OffloadMeta::kGsoNone, 0, 0, outer.udp, offsetof(UdpHeader, checksum)};
  if (bytes > segment) {
    vnet.gso_type = OffloadMeta::kGsoUdp;
    vnet.header_length = static_cast<std::uint16_t>(header_bytes);
    vnet.segment_size = static_cast<std::uint16_t>(segment);
  }
  std::array<iovec, 3> parts{{{&vnet, sizeof vnet}, {header.data(), header_bytes}, {bytes_->data(), bytes}}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ::sendmsg(fd_.get(), &message, MSG_DONTWAIT) >= 0 ? 0 : errno;
}

}  // namespace vx
