// SPDX-License-Identifier: Apache-2.0
// The kernel UDP socket on a VTEP's address and port: with af_xdp what XDP passed and the kernel reassembled comes in
// here, with a udp underlay everything, several datagrams of one flow at a time (UDP_GRO: a bundle, unbundle.h). The
// headers the kernel took off are put back, so that decap is one code path.
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include <fmt/format.h>

#include "dataplane/file_descriptor.h"
#include "dataplane/ip_checksum.h"
#include "dataplane/netdev.h"
#include "dataplane/port_drivers.h"
#include "dataplane/tally.h"
#include "dataplane/unbundle.h"
#include "dataplane/vxlan_netdev.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace vx {
namespace {

constexpr int kReceiveBufferBytes = 4 << 20;       // for stray fragments
constexpr int kBulkReceiveBufferBytes = 16 << 20;  // for all that the tunnel carries
constexpr std::uint8_t kTtl = 64;
constexpr unsigned kFewMessages = 8;               // of stray frames at once: each is to be prepared, mostly in vain
constexpr MacAddress kKernelMac{
    {0x02, 'k', 'e', 'r', 'n', 'l'}};  // stands for the sender's, which the socket does not tell
constexpr std::size_t kControlBytes = 2 * CMSG_SPACE(sizeof(int));

// Which SO_MEMINFO word counts datagrams that did not fit (linux/sock_diag.h).
constexpr std::size_t kMeminfoDrops = 8;
constexpr std::size_t kMeminfoWords = 9;

// Large buffers for one call of rx(): what is not used goes back at its end, as there are few and every port borrows of
// them. No more than the processor's cache takes of bundles at once.
class LargeLoan {
 public:
  static constexpr unsigned kMost = 8;
  explicit LargeLoan(BufferPool& pool) noexcept : pool_(pool) {}
  ~LargeLoan() { give_back(); }
  LargeLoan(const LargeLoan&) = delete;
  LargeLoan& operator=(const LargeLoan&) = delete;
  [[nodiscard]] unsigned fill() noexcept {
    if (count_ < kMost) count_ += pool_.allocate_large(&packets_[count_], kMost - count_);
    return count_;
  }
  [[nodiscard]] Packet& operator[](unsigned i) noexcept { return packets_[i]; }
  // The i-th was handed on; the last takes its place.
  void take(unsigned i) noexcept { packets_[i] = packets_[--count_]; }
  void give_back() noexcept {
    std::array<Packet*, kMost> list;
    for (unsigned i = 0; i < count_; ++i) list[i] = &packets_[i];
    if (count_ != 0) pool_.free(list.data(), count_);
    count_ = 0;
  }

 private:
  BufferPool& pool_;
  unsigned count_ = 0;
  std::array<Packet, kMost> packets_;
};

class HeldSocket final : public Port {
 public:
  HeldSocket(std::vector<FileDescriptor>&& sockets, const IpAddress& local, std::uint16_t udp_port,
             std::uint16_t outer_vlan, const MacAddress& our_mac, BufferPool& pool, bool takes_bundles)
      : Port("held socket"),
        local_(local),
        udp_port_(udp_port),
        outer_vlan_(outer_vlan),
        our_mac_(our_mac),
        takes_bundles_(takes_bundles) {
    for (auto& fd : sockets) queues_.push_back(std::make_unique<Queue>(std::move(fd), pool));
    if (!takes_bundles) return;
    for (auto& q : queues_)
      if (pool.allocate_large(&q->reserve, 1) != 1)
        throw std::runtime_error("held socket: no large buffer; give more with --memory");
  }

  [[nodiscard]] unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    bool goes_on = false;
    if (!takes_bundles_) return receive(q, out, std::min(count, kFewMessages), goes_on);
    if (q.next < q.datagrams) [[unlikely]]
      return hand_out(q, out, count);
    // One message first, so that a poll in vain borrows nothing; then a few at a time, as each needs a large buffer.
    unsigned received = receive_first(q, out, count, goes_on);
    while (goes_on && received < count)
      received += receive(q, out + received, std::min(count - received, kMaxBurst), goes_on);
    q.large.give_back();
    return received;
  }

  // Nothing leaves here: the underlay port sends.
  [[nodiscard]] unsigned tx(std::uint16_t, Packet* const*, unsigned) noexcept override { return 0; }
  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return 0; }
  [[nodiscard]] bool asks_kernel() const noexcept override { return true; }
  [[nodiscard]] int rx_fd(std::uint16_t queue) const noexcept override { return queues_[queue]->fd.get(); }
  [[nodiscard]] LostFrames lost() const noexcept override {
    LostFrames sum;
    for (const auto& q : queues_) {
      std::array<std::uint32_t, kMeminfoWords> words{};
      socklen_t length = sizeof words;
      (void)::getsockopt(q->fd.get(), SOL_SOCKET, SO_MEMINFO, words.data(), &length);
      sum.rx_missed += q->missed.get() + words[kMeminfoDrops];
    }
    return sum;
  }

 private:
  struct alignas(64) Queue {
    Queue(FileDescriptor&& socket, BufferPool& buffers)
        : fd(std::move(socket)), stash(buffers), large(buffers), pool(buffers) {}
    FileDescriptor fd;
    BufferStash stash;
    LargeLoan large;
    ~Queue() {
      Packet* packet = &reserve;
      if (packet->buffer != nullptr) pool.free(&packet, 1);
    }
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
    BufferPool& pool;
    Tally missed;  // written by the worker
    // Always one large buffer at hand; and the bundle in it, when it had to stay, of which datagrams `next` and on are
    // still to be handed on.
    Packet reserve, bundle;
    unsigned next = 0, datagrams = 0;
    // Of the call being made; here for their size.
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<std::array<iovec, 2>, kMaxBurst> parts;
    std::array<sockaddr_in6, kMaxBurst> senders;
    alignas(cmsghdr) std::array<std::array<char, kControlBytes>, kMaxBurst> controls;
  };

  // One recvmmsg. An ordinary buffer for each message, and behind it, where bundles come, the back part of a large one,
  // whose front has room for what went into the ordinary one. `goes_on`: there may be more, and no bundle came that is
  // work enough for now.
  unsigned receive(Queue& q, Packet* out, unsigned count, bool& goes_on) noexcept {
    goes_on = false;
    const unsigned n = std::min(q.stash.fill(count), takes_bundles_ ? q.large.fill() : kMaxBurst);
    if (n == 0) return 0;
    for (unsigned i = 0; i < n; ++i) load(q, i, takes_bundles_ ? &q.large[i] : nullptr);
    const int result = ::recvmmsg(q.fd.get(), q.messages.data(), n, MSG_DONTWAIT, nullptr);
    if (result <= 0) return 0;
    const auto got = static_cast<unsigned>(result);
    goes_on = got == n && takes_bundles_;
    std::array<Packet, kMaxBurst> unused;
    unsigned received = 0, unused_count = 0, missed = 0;
    // Backwards, so that taking a large buffer moves only such as are dealt with; then put in order again.
    for (unsigned i = got; i-- > 0;) {
      const Packet& ordinary = q.stash.peek(i);
      const mmsghdr& message = q.messages[i];
      const bool is_whole = (message.msg_hdr.msg_flags & MSG_TRUNC) == 0;
      const bool is_large = is_whole && message.msg_len > ordinary.tailroom;
      if (!is_whole || is_large) unused[unused_count++] = ordinary;
      if (!is_whole) {
        ++missed;
        continue;
      }
      Packet& frame = out[received++];
      frame = ordinary;
      if (is_large) {
        frame = q.large[i];
        std::memcpy(frame.data, ordinary.data, ordinary.tailroom);
        q.large.take(i);
        goes_on = false;
      }
      accept(frame, message, q.senders[i]);
    }
    std::reverse(out, out + received);
    q.stash.drop_top(got);
    for (unsigned i = 0; i < unused_count; ++i) q.stash.put_back(unused[i]);
    q.missed.add(missed);
    return received;
  }

  // One message, into the reserve if it is large. A bundle is handed on when the pool gives another buffer for it, else
  // it is taken apart here.
  unsigned receive_first(Queue& q, Packet* out, unsigned count, bool& goes_on) noexcept {
    if (q.stash.fill(1) == 0) return 0;
    const Packet& ordinary = q.stash.peek(0);
    load(q, 0, &q.reserve);
    const mmsghdr& message = q.messages[0];
    if (::recvmmsg(q.fd.get(), q.messages.data(), 1, MSG_DONTWAIT, nullptr) != 1) return 0;
    goes_on = true;
    if (message.msg_len <= ordinary.tailroom) {
      out[0] = ordinary;
      accept(out[0], message, q.senders[0]);
      q.stash.drop_top(1);
      return 1;
    }
    q.bundle = q.reserve;
    std::memcpy(q.bundle.data, ordinary.data, ordinary.tailroom);
    accept(q.bundle, message, q.senders[0]);
    Packet fresh;
    if (q.pool.allocate_large(&fresh, 1) == 1) [[likely]] {
      out[0] = q.bundle;
      q.reserve = fresh;
      return 1;
    }
    q.next = 0;
    q.datagrams = unbundle_count(q.bundle);
    if (q.datagrams == 0) q.missed.add(1);  // one datagram, too large for an ordinary buffer
    return hand_out(q, out, count);
  }
  unsigned hand_out(Queue& q, Packet* out, unsigned count) noexcept {
    unsigned done = 0;
    for (; q.next < q.datagrams && done < count && q.stash.fill(1) == 1; ++q.next) {
      out[done] = q.stash.peek(0);
      if (fill_from_bundle(q.bundle, q.next, out[done])) {
        q.stash.drop_top(1);
        ++done;
      } else {
        q.missed.add(1);
      }
    }
    return done;
  }

  // `large`: where what an ordinary buffer cannot hold goes on; null: nowhere.
  static void load(Queue& q, unsigned i, const Packet* large) noexcept {
    const Packet& packet = q.stash.peek(i);
    q.parts[i][0] = {packet.data, packet.tailroom};
    if (large != nullptr) q.parts[i][1] = {large->data + packet.tailroom, large->tailroom - packet.tailroom};
    msghdr& header = q.messages[i].msg_hdr;
    header = {};
    header.msg_name = &q.senders[i];
    header.msg_namelen = sizeof q.senders[i];
    header.msg_iov = q.parts[i].data();
    header.msg_iovlen = large != nullptr ? 2 : 1;
    header.msg_control = q.controls[i].data();
    header.msg_controllen = kControlBytes;
  }

  // Length, headers and metadata of what was received into `frame`'s buffer.
  void accept(Packet& frame, const mmsghdr& message, const sockaddr_in6& sender) const noexcept {
    frame.length = message.msg_len;
    frame.tailroom -= frame.length;
    const Told told = told_by(message.msg_hdr);
    const std::uint8_t* payload = frame.data;
    rebuild(frame, sender, told.tos);
    frame.offload.flags = OffloadMeta::kChecksumVerified;
    if (told.segment_size != 0 && told.segment_size < message.msg_len)
      mark_bundle(frame, static_cast<std::uint16_t>(payload - sizeof(UdpHeader) - frame.data), told.segment_size);
  }

  // What the kernel says beside the bytes: TOS or traffic class (decap needs its ECN bits, RFC 6040), and the datagram
  // size of a bundle.
  struct Told {
    std::uint8_t tos = 0;
    std::uint16_t segment_size = 0;
  };
  static Told told_by(const msghdr& message) noexcept {
    Told told;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c)) {
      int value = 0;
      if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
        told.tos = *CMSG_DATA(c);
      } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
        std::memcpy(&value, CMSG_DATA(c), sizeof value);
        told.tos = static_cast<std::uint8_t>(value);
      } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
        std::memcpy(&value, CMSG_DATA(c), sizeof value);
        told.segment_size = static_cast<std::uint16_t>(value);
      }
    }
    return told;
  }

  void rebuild(Packet& frame, const sockaddr_in6& sender, std::uint8_t tos) const noexcept {
    frame.push_front(sizeof(UdpHeader));
    auto* udp = view<UdpHeader>(frame.data);
    udp->source_port = Be16::from_raw(sender.sin6_port);  // at the same place in sockaddr_in
    udp->destination_port = Be16(udp_port_);
    udp->length = Be16(static_cast<std::uint16_t>(frame.length));
    udp->checksum = Be16(0);
    if (local_.is_v4())
      push_ipv4(frame, sender, tos);
    else
      push_ipv6(frame, sender, tos);
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
    set_ipv4_checksum(frame.data);
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

  std::vector<std::unique_ptr<Queue>> queues_;
  IpAddress local_;
  std::uint16_t udp_port_, outer_vlan_;
  MacAddress our_mac_;
  bool takes_bundles_;
};

void set(const FileDescriptor& fd, int level, int option, int value) {
  if (::setsockopt(fd.get(), level, option, &value, sizeof value) != 0)
    throw_errno("held socket", "cannot set option " + std::to_string(option));
}

// Bound to the VTEP address and port; empty: somebody has it. FREEBIND: the address may come later.
FileDescriptor open_socket(const IpAddress& local, std::uint16_t udp_port, const HeldSocketOptions& options,
                           bool is_shared) {
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
    set(fd, IPPROTO_IP, IP_FREEBIND, 1);
  } else {
    address.sin6_family = AF_INET6;
    address.sin6_port = Be16(udp_port).raw();
    std::memcpy(&address.sin6_addr, local.bytes.data(), sizeof address.sin6_addr);
    set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
  }
  const int bytes = options.takes_bundles ? kBulkReceiveBufferBytes : kReceiveBufferBytes;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  const int on = 1;
  if (options.takes_bundles)
    (void)::setsockopt(fd.get(), SOL_UDP, UDP_GRO, &on, sizeof on);  // before Linux 5.0: one by one then
  if (is_shared) set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  if (errno != EADDRINUSE) throw_errno("held socket", fmt::format("cannot bind UDP port {}", udp_port));
  return {};
}

}  // namespace

std::shared_ptr<Port> make_held_socket(const IpAddress& local, std::uint16_t udp_port, std::uint16_t outer_vlan,
                                       const MacAddress& our_mac, BufferPool& pool, std::string& reason,
                                       const HeldSocketOptions& options) {
  std::vector<FileDescriptor> sockets;
  // Alone at first also when several shall share: sockets of another instance would share, too.
  sockets.push_back(open_socket(local, udp_port, options, false));
  if (options.queues > 1 && sockets.front()) {
    sockets.clear();
    for (std::uint16_t i = 0; i < options.queues; ++i) sockets.push_back(open_socket(local, udp_port, options, true));
  }
  if (!std::all_of(sockets.begin(), sockets.end(), [](const auto& fd) { return static_cast<bool>(fd); })) {
    const std::string holder = vxlan_netdev_on(udp_port);
    reason =
        fmt::format("UDP port {} is held by {}", udp_port,
                    holder.empty() ? "another program (ss -ulpn names it)" : "the kernel's vxlan device " + holder);
    return nullptr;
  }
  return std::make_shared<HeldSocket>(std::move(sockets), local, udp_port, outer_vlan, our_mac, pool,
                                      options.takes_bundles);
}

}  // namespace vx
