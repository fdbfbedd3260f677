// SPDX-License-Identifier: Apache-2.0
// The underlay through kernel UDP sockets: what XDP does not reach (wireguard, bridges, loopback, any route). Sends
// only; what comes for the VTEP's port comes through the held socket (port_held_socket.cc).
//
// A frame comes with outer headers as for any underlay. Taken from them: addresses, ports, TOS, TTL, and from the
// checksum field whether there is to be one. The kernel makes its own of all that, so MAC addresses, VLAN tag, lengths
// and sums are not looked at. Frames of a burst with one way and one length become one datagram train by UDP_SEGMENT: one
// system call, one route look-up and one walk through the kernel for up to 64. A train needs a checksum (the kernel
// refuses it with SO_NO_CHECK). Encapsulated super-frames are cut into such trains here, in one pass.
#include <netinet/in.h>
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

#include "dataplane/datagram_train.h"
#include "dataplane/layer3.h"
#include "dataplane/netdev.h"
#include "dataplane/outer_udp.h"
#include "dataplane/port_drivers.h"
#include "dataplane/tally.h"
#include "dataplane/udp_sockets.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

namespace vx {
namespace {

constexpr unsigned kFramesWithoutTrain = 16'384;  // sent singly after a refused train, before the next is tried
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(std::uint16_t)) + CMSG_SPACE(sizeof(int));

// Where in an outer frame is what the kernel is told.
struct Way {
  const std::uint8_t* addresses = nullptr;  // source, then destination
  const UdpHeader* udp = nullptr;
  std::uint16_t payload = 0;  // offset of the VXLAN header
  std::uint8_t tos = 0, ttl = 0;
  bool is_v4 = true;
  bool checksum = true;

  [[nodiscard]] IpAddress local() const noexcept {
    return is_v4 ? IpAddress::from_v4_bytes(addresses) : IpAddress::from_v6_bytes(addresses);
  }
  [[nodiscard]] unsigned slot() const noexcept { return UdpSockets::slot_of(udp->source_port.host()); }
  // The same socket in the same state.
  [[nodiscard]] bool shares_socket(const Way& other) const noexcept {
    return is_v4 == other.is_v4 && ttl == other.ttl && checksum == other.checksum && slot() == other.slot() &&
           std::memcmp(addresses, other.addresses, is_v4 ? 4 : 16) == 0;
  }
  // And the same destination and TOS: one train, for frames that share a socket.
  [[nodiscard]] bool shares_train(const Way& other) const noexcept {
    const std::size_t bytes = is_v4 ? 4 : 16;
    return tos == other.tos && udp->destination_port == other.udp->destination_port &&
           std::memcmp(addresses + bytes, other.addresses + bytes, bytes) == 0;
  }
};

// False: nothing that encap built.
bool find_way(const Packet& packet, Way& way) noexcept {
  const auto outer = find_outer_udp(packet);
  if (!outer) return false;
  const std::uint8_t* ip = packet.data + outer->layer3;
  way.is_v4 = outer->is_v4;
  if (outer->is_v4) {
    const auto* header = view<Ipv4Header>(ip);
    way.addresses = header->source.data();
    way.tos = header->tos;
    way.ttl = header->ttl;
  } else {
    const auto* header = view<Ipv6Header>(ip);
    way.addresses = header->source.data();
    way.tos = ipv6_traffic_class(ip);
    way.ttl = header->hop_limit;
  }
  way.udp = view<UdpHeader>(packet.data + outer->udp);
  way.checksum = !way.is_v4 || way.udp->checksum.raw() != 0;
  way.payload = static_cast<std::uint16_t>(outer->udp + sizeof(UdpHeader));
  return true;
}

// Of a datagram or train that the kernel refused; kNone: there is no room now.
DropReason refusal(int error) noexcept {
  switch (error) {
    case EAGAIN:
    case EINTR:
    case ENOBUFS:
    case ENOMEM: return DropReason::kNone;
    case EMSGSIZE: return DropReason::kUnderlayMtuExceeded;
    // No route, or one that leads nowhere (EACCES: prohibit, EINVAL: blackhole, or our address is gone).
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EACCES:
    case EINVAL:
    case EADDRNOTAVAIL: return DropReason::kUnderlayUnresolved;
    default: return DropReason::kPortDown;  // EPERM: a firewall's; ENETDOWN
  }
}

// Errors that may be an earlier datagram's, told by ICMP: reported once, and nothing is sent by the call that reports
// them.
bool may_be_of_an_earlier_one(int error) noexcept {
  return error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH || error == EPROTO ||
         error == ENOPROTOOPT;
}

// Errors by which the kernel refuses a train where it would take single datagrams: a device without checksum offload
// below it (before Linux 6.11), IPsec, a kernel without UDP_SEGMENT.
bool may_be_of_the_train(int error) noexcept { return error == EIO || error == EINVAL || error == EOPNOTSUPP; }

// Messages for one sendmmsg on one socket.
struct Train {
  sockaddr_in6 destination;
  alignas(cmsghdr) std::array<char, kControlBytes> control;
  std::uint16_t segment_size = 0;
  unsigned frames = 0;
  std::uint32_t bytes = 0;
};

class UdpPort final : public Port {
 public:
  UdpPort(const std::string& name, std::uint16_t queues, BufferPool& pool) : Port(name), pool_(pool) {
    for (std::uint16_t i = 0; i < queues; ++i) queues_.push_back(std::make_unique<Queue>());
  }

  [[nodiscard]] unsigned rx(std::uint16_t, Packet*, unsigned) noexcept override { return 0; }

  [[nodiscard]] unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    unsigned done = 0;
    while (done < count) {
      const unsigned n = std::min(count - done, kMaxBurst);
      const unsigned sent = send_grouped(q, packets + done, n);
      done += sent;
      if (sent < n) break;
    }
    pool_.free(packets, done);
    return done;
  }

  [[nodiscard]] TxOffloads tx_offloads() const noexcept override { return {.tunnel = true}; }
  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return 0; }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  [[nodiscard]] int rx_fd(std::uint16_t) const noexcept override { return -1; }
  [[nodiscard]] LostFrames lost() const noexcept override {
    LostFrames sum;
    for (const auto& q : queues_) sum.tx_errors += q->errors.get();
    return sum;
  }

 private:
  struct alignas(64) Queue {
    UdpSockets sockets;
    unsigned without_train = 0;            // frames still to be sent singly
    Tally errors;  // written by the worker that sends
    // Of the call being made; here for its size.
    std::array<Way, kMaxBurst> ways;
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<iovec, kMaxBurst> parts;
    std::array<Train, kMaxBurst> trains;
    std::array<std::uint8_t, kMaxTrainBytes> segments;
  };

  static unsigned refuse(Queue& q, Packet& packet, DropReason reason) noexcept {
    packet.reason = reason;
    if (reason != DropReason::kNone) q.errors.add(1);
    return 0;
  }

  // Sends up to kMaxBurst packets, those of one socket together, in their order. If not all: afterwards the sent ones are
  // the first in `packets` (the descriptors' content moves).
  unsigned send_grouped(Queue& q, Packet* const* packets, unsigned count) noexcept {
    std::array<Packet*, kMaxBurst> grouped;
    group(q, packets, count, grouped.data());
    unsigned done = 0;
    while (done < count) {
      const unsigned sent = grouped[done]->offload.is_super_frame() ? send_super_frame(q, *grouped[done], q.ways[done])
                                                                    : send_run(q, &grouped[done], &q.ways[done], count - done);
      if (sent == 0) [[unlikely]] {
        std::array<Packet, kMaxBurst> content;
        for (unsigned i = 0; i < count; ++i) content[i] = *grouped[i];
        for (unsigned i = 0; i < count; ++i) *packets[i] = content[i];
        break;
      }
      done += sent;
    }
    return done;
  }

  // By slot, each slot's in their order. `q.ways` become those of `grouped`; without `udp`: nothing that encap built.
  static void group(Queue& q, Packet* const* packets, unsigned count, Packet** grouped) noexcept {
    std::array<Way, kMaxBurst> ways;
    std::array<std::uint8_t, kMaxBurst> slots;
    std::array<std::uint8_t, UdpSockets::kSlots + 1> at{};
    for (unsigned i = 0; i < count; ++i) {
      ways[i] = {};
      slots[i] = find_way(*packets[i], ways[i]) ? static_cast<std::uint8_t>(ways[i].slot()) : std::uint8_t{0};
      ++at[slots[i] + 1u];
    }
    for (unsigned slot = 1; slot < at.size(); ++slot) at[slot] = static_cast<std::uint8_t>(at[slot] + at[slot - 1]);
    for (unsigned i = 0; i < count; ++i) {
      const unsigned place = at[slots[i]]++;
      grouped[place] = packets[i];
      q.ways[place] = ways[i];
    }
  }

  // Sends from the front what shares a socket; returns how many frames. 0: the first has its reason.
  unsigned send_run(Queue& q, Packet* const* packets, const Way* ways, unsigned count) noexcept {
    const Way& first = ways[0];
    if (first.udp == nullptr) return refuse(q, *packets[0], DropReason::kPortDown);
    int error = 0;
    UdpSocket* socket = q.sockets.find(first.local(), first.udp->source_port.host(), error);
    if (socket == nullptr) return refuse(q, *packets[0], refusal(error));
    socket->use(first.ttl, first.checksum);
    unsigned trains = load(q, packets, ways, count, first.checksum && q.without_train == 0);
    int sent = send_messages(q, *socket, 0, trains);
    if (sent <= 0 && q.trains[0].frames > 1 && may_be_of_the_train(errno)) {
      trains = load(q, packets, ways, count, false);
      sent = send_messages(q, *socket, 0, trains);
      if (sent > 0) q.without_train = kFramesWithoutTrain;
    }
    if (sent <= 0) return refuse(q, *packets[0], refusal(errno));
    unsigned frames = 0;
    for (int i = 0; i < sent; ++i) frames += q.trains[static_cast<unsigned>(i)].frames;
    q.without_train -= std::min(q.without_train, frames);
    return frames;
  }

  // Returns how many messages, -1 with errno as the first one's.
  static int send_messages(Queue& q, const UdpSocket& socket, unsigned first, unsigned count) noexcept {
    int sent = ::sendmmsg(socket.fd(), &q.messages[first], count, MSG_DONTWAIT);
    for (int again = 0; sent < 0 && again < 2 && may_be_of_an_earlier_one(errno); ++again)
      sent = ::sendmmsg(socket.fd(), &q.messages[first], count, MSG_DONTWAIT);
    return sent;
  }

  // 1: it is gone, or a part of it (what is not is counted); 0: nothing of it, and it has its reason.
  unsigned send_super_frame(Queue& q, Packet& packet, const Way& way) noexcept {
    if (way.udp == nullptr) return refuse(q, packet, DropReason::kPortDown);
    const DatagramTrain train(packet, way.payload);
    if (train.reason() != DropReason::kNone) return refuse(q, packet, train.reason());
    const unsigned at_once = train.at_once();
    if (at_once == 0) return refuse(q, packet, DropReason::kUnderlayMtuExceeded);
    int error = 0;
    UdpSocket* socket = q.sockets.find(way.local(), way.udp->source_port.host(), error);
    if (socket == nullptr) return refuse(q, packet, refusal(error));
    socket->use(way.ttl, way.checksum);

    for (unsigned made = 0; made < train.count();) {
      const unsigned n = std::min(at_once, train.count() - made);
      const std::uint32_t bytes = train.write(made, n, q.segments.data());
      const unsigned sent = send_segments(q, *socket, way, n, train.longest(), bytes);
      made += sent;
      if (sent == n) continue;
      const DropReason reason = refusal(errno);
      if (made == 0) return refuse(q, packet, reason);
      q.errors.add(train.count() - made);
      break;
    }
    return 1;
  }

  // Sends what train.write() made; how many datagrams went, errno if not all.
  static unsigned send_segments(Queue& q, const UdpSocket& socket, const Way& way, unsigned count,
                                std::uint32_t longest, std::uint32_t bytes) noexcept {
    bool is_refused = false;
    if (way.checksum && q.without_train == 0 && count > 1) {
      q.parts[0] = {q.segments.data(), bytes};
      start(q.trains[0], way, longest, q.messages[0].msg_hdr, &q.parts[0]);
      q.trains[0].frames = count;
      q.messages[0].msg_hdr.msg_iovlen = 1;
      finish(q.trains[0], q.messages[0].msg_hdr);
      if (send_messages(q, socket, 0, 1) == 1) return count;
      if (!may_be_of_the_train(errno)) return 0;
      is_refused = true;
    }
    for (unsigned i = 0; i < count; ++i) {
      q.parts[i] = {q.segments.data() + std::size_t{i} * longest, i + 1 < count ? longest : bytes - i * longest};
      start(q.trains[i], way, longest, q.messages[i].msg_hdr, &q.parts[i]);
      q.messages[i].msg_hdr.msg_iovlen = 1;
      q.trains[i].frames = 1;
      finish(q.trains[i], q.messages[i].msg_hdr);
    }
    unsigned sent = 0;
    while (sent < count) {
      const int now = send_messages(q, socket, sent, count - sent);
      if (now <= 0) break;
      sent += static_cast<unsigned>(now);
    }
    if (is_refused && sent != 0) q.without_train = kFramesWithoutTrain;
    q.without_train -= std::min(q.without_train, sent);
    return sent;
  }

  // One message for each train of frames; returns how many messages.
  static unsigned load(Queue& q, Packet* const* packets, const Way* ways, unsigned count, bool may_train) noexcept {
    unsigned trains = 0;
    bool is_open = false;  // the last train takes more frames
    for (unsigned i = 0; i < count; ++i) {
      const Packet& packet = *packets[i];
      const Way& way = ways[i];
      if (i != 0 && (packet.offload.is_super_frame() || way.udp == nullptr || !way.shares_socket(ways[0]))) break;
      const std::uint32_t bytes = packet.length - way.payload;
      q.parts[i] = {packet.data + way.payload, bytes};
      Train* train = trains == 0 ? nullptr : &q.trains[trains - 1];
      if (!is_open || bytes > train->segment_size || train->frames == kMaxTrainDatagrams ||
          train->bytes + bytes > kMaxTrainBytes || !way.shares_train(ways[i - 1])) {
        train = &q.trains[trains];
        start(*train, way, bytes, q.messages[trains].msg_hdr, &q.parts[i]);
        ++trains;
      }
      ++train->frames;
      train->bytes += bytes;
      q.messages[trains - 1].msg_hdr.msg_iovlen = train->frames;
      is_open = may_train && bytes == train->segment_size && bytes != 0;
    }
    for (unsigned i = 0; i < trains; ++i) finish(q.trains[i], q.messages[i].msg_hdr);
    return trains;
  }

  static void start(Train& train, const Way& way, std::uint32_t bytes, msghdr& message, iovec* part) noexcept {
    train.segment_size = static_cast<std::uint16_t>(bytes);
    train.frames = 0;
    train.bytes = 0;
    message = {};
    message.msg_name = &train.destination;
    message.msg_iov = part;
    message.msg_control = train.control.data();
    if (way.is_v4) {
      sockaddr_in in{};
      in.sin_family = AF_INET;
      in.sin_port = way.udp->destination_port.raw();
      std::memcpy(&in.sin_addr, way.addresses + 4, 4);
      std::memcpy(&train.destination, &in, sizeof in);
      message.msg_namelen = sizeof in;
    } else {
      train.destination = {};
      train.destination.sin6_family = AF_INET6;
      train.destination.sin6_port = way.udp->destination_port.raw();
      std::memcpy(&train.destination.sin6_addr, way.addresses + 16, 16);
      message.msg_namelen = sizeof train.destination;
    }
    if (way.tos != 0)
      add_control(message, way.is_v4 ? IPPROTO_IP : IPPROTO_IPV6, way.is_v4 ? IP_TOS : IPV6_TCLASS, int{way.tos});
  }
  static void finish(const Train& train, msghdr& message) noexcept {
    if (train.frames > 1) add_control(message, SOL_UDP, UDP_SEGMENT, train.segment_size);
    if (message.msg_controllen == 0) message.msg_control = nullptr;
  }
  template <typename Value>
  static void add_control(msghdr& message, int level, int type, Value value) noexcept {
    auto* control = reinterpret_cast<cmsghdr*>(static_cast<char*>(message.msg_control) + message.msg_controllen);
    control->cmsg_level = level;
    control->cmsg_type = type;
    control->cmsg_len = CMSG_LEN(sizeof value);
    std::memcpy(CMSG_DATA(control), &value, sizeof value);
    message.msg_controllen += CMSG_SPACE(sizeof value);
  }

  BufferPool& pool_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace

MadePort make_udp_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  if (config.role != protocol::PortRole::kUnderlay)
    throw std::runtime_error(name + ": driver=udp is for the underlay only");
  const std::uint16_t queues = std::max<std::uint16_t>(config.queues != 0 ? config.queues : context.workers, 1);
  MadePort made;
  made.ifindex = netdev::index(name);  // 0: the name is one for people only, the kernel routes
  made.port = std::make_shared<UdpPort>(name, queues, *context.pool);
  return made;
}

}  // namespace vx
