// SPDX-License-Identifier: Apache-2.0
// The kernel UDP socket on a VTEP's address and port: what XDP passed and the kernel reassembled comes in here.
// The headers the kernel took off are put back, so that decap is one code path.
#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "dataplane/checksum.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_drivers.h"

namespace vx {
namespace {

constexpr int kReceiveBufferBytes = 4 << 20;
constexpr std::uint8_t kTtl = 64;
constexpr MacAddress kKernelMac{{0x02, 'k', 'e', 'r', 'n', 'l'}};  // stands for the sender's, which the socket does not tell
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(int));

// Which SO_MEMINFO word counts datagrams that did not fit (linux/sock_diag.h).
constexpr std::size_t kMeminfoDrops = 8;
constexpr std::size_t kMeminfoWords = 9;

class HeldSocket final : public Port {
 public:
  HeldSocket(FileDescriptor&& fd, const IpAddress& local, std::uint16_t udp_port, std::uint16_t outer_vlan,
             const MacAddress& our_mac, BufferPool& pool)
      : Port("held socket"), fd_(std::move(fd)), local_(local), udp_port_(udp_port), outer_vlan_(outer_vlan), our_mac_(our_mac), stash_(pool) {}

  [[nodiscard]] unsigned rx(std::uint16_t, Packet* out, unsigned count) noexcept override {
    const unsigned n = stash_.fill(std::min(count, kMaxBurst));
    if (n == 0) return 0;
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<iovec, kMaxBurst> parts;
    std::array<sockaddr_in6, kMaxBurst> senders;
    alignas(cmsghdr) std::array<std::array<char, kControlBytes>, kMaxBurst> controls;
    for (unsigned i = 0; i < n; ++i) {
      const Packet& packet = stash_.peek(i);
      parts[i] = {packet.data, packet.tailroom};
      messages[i] = {};
      messages[i].msg_hdr.msg_name = &senders[i];
      messages[i].msg_hdr.msg_namelen = sizeof senders[i];
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
      messages[i].msg_hdr.msg_control = controls[i].data();
      messages[i].msg_hdr.msg_controllen = kControlBytes;
    }
    const int got = ::recvmmsg(fd_.get(), messages.data(), n, MSG_DONTWAIT, nullptr);
    if (got <= 0) return 0;
    unsigned received = 0, refusals = 0;
    std::array<Packet, kMaxBurst> refused;
    for (unsigned i = 0; i < static_cast<unsigned>(got); ++i) {
      const Packet& packet = stash_.peek(i);
      if ((messages[i].msg_hdr.msg_flags & MSG_TRUNC) != 0) {
        refused[refusals++] = packet;
        continue;
      }
      Packet& frame = out[received++];
      frame = packet;
      frame.length = messages[i].msg_len;
      frame.tailroom = packet.tailroom - frame.length;
      rebuild(frame, senders[i], tos_of(messages[i].msg_hdr));
    }
    stash_.drop_top(static_cast<unsigned>(got));
    for (unsigned i = 0; i < refusals; ++i) stash_.put_back(refused[i]);
    if (refusals != 0) missed_.store(missed_.load(std::memory_order_relaxed) + refusals, std::memory_order_relaxed);
    return received;
  }

  // Nothing leaves here: the underlay port sends.
  [[nodiscard]] unsigned tx(std::uint16_t, Packet* const*, unsigned) noexcept override { return 0; }
  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return 1; }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return 0; }
  [[nodiscard]] int rx_fd(std::uint16_t) const noexcept override { return fd_.get(); }
  [[nodiscard]] LostFrames lost() const noexcept override {
    std::array<std::uint32_t, kMeminfoWords> words{};
    socklen_t length = sizeof words;
    (void)::getsockopt(fd_.get(), SOL_SOCKET, SO_MEMINFO, words.data(), &length);
    return {missed_.load(std::memory_order_relaxed) + words[kMeminfoDrops], 0};
  }

 private:
  // TOS or traffic class: decap needs its ECN bits (RFC 6040).
  static std::uint8_t tos_of(const msghdr& message) noexcept {
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c)) {
      if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) return *CMSG_DATA(c);
      if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
        int value = 0;
        std::memcpy(&value, CMSG_DATA(c), sizeof value);
        return static_cast<std::uint8_t>(value);
      }
    }
    return 0;
  }

  void rebuild(Packet& frame, const sockaddr_in6& sender, std::uint8_t tos) const noexcept {
    frame.offload.flags = OffloadMeta::kChecksumVerified;
    frame.push_front(sizeof(UdpHeader));
    auto* udp = view<UdpHeader>(frame.data);
    udp->source_port = Be16::from_raw(sender.sin6_port);  // at the same place in sockaddr_in
    udp->destination_port = Be16(udp_port_);
    udp->length = Be16(static_cast<std::uint16_t>(frame.length));
    udp->checksum = Be16(0);
    if (local_.is_v4()) push_ipv4(frame, sender, tos);
    else push_ipv6(frame, sender, tos);
    Be16 type = local_.is_v4() ? ether_type::kIpv4 : ether_type::kIpv6;
    if (outer_vlan_ != 0) {
      frame.push_front(sizeof(VlanTag));
      *view<VlanTag>(frame.data) = {Be16(outer_vlan_), type};
      type = ether_type::kVlan;
    }
    frame.push_front(sizeof(EthernetHeader));
    *view<EthernetHeader>(frame.data) = {our_mac_, kKernelMac, type};
  }
  void push_ipv4(Packet& frame, const sockaddr_in6& sender, std::uint8_t tos) const noexcept {
    frame.push_front(sizeof(Ipv4Header));
    auto* ip = view<Ipv4Header>(frame.data);
    *ip = {};
    ip->version_ihl = 0x45;
    ip->tos = tos;
    ip->total_length = Be16(static_cast<std::uint16_t>(frame.length));
    ip->flags_fragment = Be16(kIpv4DontFragment);
    ip->ttl = kTtl;
    ip->protocol = ip_protocol::kUdp;
    sockaddr_in from;
    std::memcpy(&from, &sender, sizeof from);
    std::memcpy(ip->source.data(), &from.sin_addr, ip->source.size());
    std::memcpy(ip->destination.data(), local_.v4_bytes(), ip->destination.size());
    ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(checksum_partial(frame.data, sizeof *ip))));
  }
  void push_ipv6(Packet& frame, const sockaddr_in6& sender, std::uint8_t tos) const noexcept {
    const auto payload = static_cast<std::uint16_t>(frame.length);
    frame.push_front(sizeof(Ipv6Header));
    auto* ip = view<Ipv6Header>(frame.data);
    ip->version_class_flow = Be32(0x60000000u | std::uint32_t{tos} << 20);
    ip->payload_length = Be16(payload);
    ip->next_header = ip_protocol::kUdp;
    ip->hop_limit = kTtl;
    std::memcpy(ip->source.data(), &sender.sin6_addr, ip->source.size());
    ip->destination = local_.bytes;
  }

  FileDescriptor fd_;
  IpAddress local_;
  std::uint16_t udp_port_, outer_vlan_;
  MacAddress our_mac_;
  BufferStash stash_;
  std::atomic<std::uint64_t> missed_{0};  // written by the worker
};

void set(const FileDescriptor& fd, int level, int option, int value) {
  if (::setsockopt(fd.get(), level, option, &value, sizeof value) != 0) throw_errno("held socket", "cannot set option " + std::to_string(option));
}

}  // namespace

std::shared_ptr<Port> make_held_socket(const IpAddress& local, std::uint16_t udp_port, std::uint16_t outer_vlan,
                                       const MacAddress& our_mac, BufferPool& pool, std::string& reason) {
  const bool v4 = local.is_v4();
  FileDescriptor fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("held socket", "cannot open it");
  sockaddr_in6 address{};
  socklen_t length = sizeof address;
  if (v4) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = Be16(udp_port).raw();
    std::memcpy(&in.sin_addr, local.v4_bytes(), sizeof in.sin_addr);
    std::memcpy(&address, &in, sizeof in);
    length = sizeof in;
    set(fd, IPPROTO_IP, IP_RECVTOS, 1);
    set(fd, IPPROTO_IP, IP_FREEBIND, 1);  // the address may come later
  } else {
    address.sin6_family = AF_INET6;
    address.sin6_port = Be16(udp_port).raw();
    std::memcpy(&address.sin6_addr, local.bytes.data(), sizeof address.sin6_addr);
    set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
  }
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes, sizeof kReceiveBufferBytes);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != EADDRINUSE) throw_errno("held socket", fmt::format("cannot bind UDP port {}", udp_port));
    reason = fmt::format("UDP port {} is held by somebody else (a kernel vxlan device?), which keeps what XDP passes", udp_port);
    return nullptr;
  }
  return std::make_shared<HeldSocket>(std::move(fd), local, udp_port, outer_vlan, our_mac, pool);
}

}  // namespace vx
