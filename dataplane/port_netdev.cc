// SPDX-License-Identifier: Apache-2.0
// A netdev whose other end is another process's or namespace's (QEMU's tap, a veth), through packet sockets.
// The only file that includes if_packet.
//
// recvmmsg straight into the pool's buffers rather than a mapped ring: a ring would be one copy more, as its
// frames lie outside the pool. PACKET_VNET_HDR tells of partial checksums, completed here, and of super-frames,
// which are dropped as guest_truncated when larger than a buffer. One socket a queue, joined by PACKET_FANOUT.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "dataplane/checksum.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_drivers.h"
#include "dataplane/tc_take.h"
#include "dataplane/vnet_header.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

namespace vx {
namespace {

constexpr int kReceiveBufferBytes = 8 << 20;
constexpr unsigned kAddressesBytes = 12;  // the tag stands behind the two MAC addresses
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(tpacket_auxdata));

// Fills in the checksum that the sender left to its NIC. False: the header points outside the frame.
bool complete_checksum(Packet& packet) noexcept {
  const OffloadMeta meta = packet.offload;
  packet.offload = {};
  if (!meta.needs_checksum()) return true;
  const std::uint32_t field = std::uint32_t{meta.checksum_start} + meta.checksum_offset;
  if (field + 2 > packet.length) return false;
  std::uint8_t* start = packet.data + meta.checksum_start;
  std::uint16_t sum = static_cast<std::uint16_t>(
      ~checksum_fold(checksum_partial(start, packet.length - meta.checksum_start)));
  if (sum == 0 && meta.checksum_offset == offsetof(UdpHeader, checksum)) sum = 0xffff;  // RFC 768: 0 means none
  std::memcpy(packet.data + field, &sum, sizeof sum);
  return true;
}

// Puts the tag back that the kernel took out of the bytes on its way in.
void push_tag(Packet& packet, std::uint16_t tpid, std::uint16_t tci) noexcept {
  packet.push_front(sizeof(VlanTag));
  std::memmove(packet.data, packet.data + sizeof(VlanTag), kAddressesBytes);
  const Be16 words[2] = {Be16(tpid), Be16(tci)};
  std::memcpy(packet.data + kAddressesBytes, words, sizeof words);
}

class NetdevPort final : public Port {
 public:
  NetdevPort(const std::string& name, std::uint32_t ifindex, std::uint16_t queues, BufferPool& pool)
      : Port(name), pool_(pool), ifindex_(ifindex) {
    for (std::uint16_t i = 0; i < queues; ++i) queues_.push_back(std::make_unique<Queue>(open_socket(), pool));
    if (queues > 1) join_queues();
  }

  [[nodiscard]] unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    const unsigned n = q.stash.fill(std::min(count, kMaxBurst));
    if (n == 0) return 0;
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<std::array<iovec, 2>, kMaxBurst> parts;
    std::array<VnetHeader, kMaxBurst> headers;
    alignas(cmsghdr) std::array<std::array<char, kControlBytes>, kMaxBurst> controls;
    for (unsigned i = 0; i < n; ++i) {
      const Packet& packet = q.stash.peek(i);
      parts[i] = {{{&headers[i], sizeof(VnetHeader)}, {packet.data, packet.tailroom}}};
      messages[i] = {};
      messages[i].msg_hdr.msg_iov = parts[i].data();
      messages[i].msg_hdr.msg_iovlen = 2;
      messages[i].msg_hdr.msg_control = controls[i].data();
      messages[i].msg_hdr.msg_controllen = kControlBytes;
    }
    const int got = ::recvmmsg(q.fd.get(), messages.data(), n, MSG_DONTWAIT, nullptr);
    if (got <= 0) return 0;
    unsigned received = 0;
    std::array<Packet, kMaxBurst> refused;
    unsigned refusals = 0;
    for (unsigned i = 0; i < static_cast<unsigned>(got); ++i) {
      const Packet& packet = q.stash.peek(i);
      Packet& target = out[received];
      target = packet;
      if (accept(messages[i], headers[i], target)) ++received;
      else refused[refusals++] = packet;
    }
    q.stash.drop_top(static_cast<unsigned>(got));
    for (unsigned i = 0; i < refusals; ++i) q.stash.put_back(refused[i]);
    if (refusals != 0) add(q.missed, refusals);
    return received;
  }

  [[nodiscard]] unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<std::array<iovec, 2>, kMaxBurst> parts;
    std::array<VnetHeader, kMaxBurst> headers;
    const unsigned n = std::min(count, kMaxBurst);
    for (unsigned i = 0; i < n; ++i) {
      headers[i] = to_vnet(packets[i]->offload);
      parts[i] = {{{&headers[i], sizeof(VnetHeader)}, {packets[i]->data, packets[i]->length}}};
      messages[i] = {};
      messages[i].msg_hdr.msg_iov = parts[i].data();
      messages[i].msg_hdr.msg_iovlen = 2;
    }
    unsigned done = 0;
    while (done < n) {
      const int sent = ::sendmmsg(q.fd.get(), &messages[done], n - done, MSG_DONTWAIT);
      if (sent <= 0) {
        packets[done]->reason = refusal(errno);
        if (packets[done]->reason != DropReason::kNone) add(q.errors, 1);
        break;
      }
      done += static_cast<unsigned>(sent);
    }
    pool_.free(packets, done);
    return done;
  }

  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return rx_queues(); }
  [[nodiscard]] int rx_fd(std::uint16_t queue) const noexcept override { return queues_[queue]->fd.get(); }
  [[nodiscard]] bool is_alive() const noexcept override { return netdev::index(name()) == ifindex_; }
  [[nodiscard]] LostFrames lost() const noexcept override {
    LostFrames sum;
    for (const auto& q : queues_) {
      tpacket_stats stats{};
      socklen_t length = sizeof stats;  // reading resets it
      if (::getsockopt(q->fd.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0)
        q->dropped.fetch_add(stats.tp_drops, std::memory_order_relaxed);
      sum.rx_missed += q->missed.load(std::memory_order_relaxed) + q->dropped.load(std::memory_order_relaxed);
      sum.tx_errors += q->errors.load(std::memory_order_relaxed);
    }
    return sum;
  }

 private:
  struct alignas(64) Queue {
    Queue(FileDescriptor&& socket, BufferPool& pool) : fd(std::move(socket)), stash(pool) {}
    FileDescriptor fd;
    BufferStash stash;
    std::atomic<std::uint64_t> missed{0};           // written by the worker that receives
    std::atomic<std::uint64_t> errors{0};           // written by the worker that sends
    mutable std::atomic<std::uint64_t> dropped{0};  // the kernel's count, taken over by lost()
  };
  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }

  // Why the kernel refused one frame; kNone when it was the device's queue that is full.
  static DropReason refusal(int error) noexcept {
    switch (error) {
      case EAGAIN: case EINTR: case ENOBUFS: return DropReason::kNone;
      case EMSGSIZE: return DropReason::kMtuExceeded;  // the netdev's MTU is smaller than the overlay's
      default: return DropReason::kPortDown;
    }
  }

  // Length, tag and checksum of one received message; false when the frame cannot be used. One that a buffer
  // cannot hold (a super-frame) gets length 0: guest_truncated.
  static bool accept(const mmsghdr& message, const VnetHeader& header, Packet& packet) noexcept {
    packet.length = 0;
    if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0) return true;
    if (message.msg_len < sizeof(VnetHeader)) return false;
    packet.length = message.msg_len - static_cast<std::uint32_t>(sizeof(VnetHeader));
    packet.tailroom -= packet.length;
    packet.offload = to_offload(header);
    if (!complete_checksum(packet)) return false;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message.msg_hdr); c != nullptr;
         c = CMSG_NXTHDR(const_cast<msghdr*>(&message.msg_hdr), c)) {
      if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
      tpacket_auxdata aux;
      std::memcpy(&aux, CMSG_DATA(c), sizeof aux);
      if ((aux.tp_status & TP_STATUS_VLAN_VALID) == 0 || packet.length < kAddressesBytes) continue;
      push_tag(packet, (aux.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0 ? aux.tp_vlan_tpid : ETH_P_8021Q, aux.tp_vlan_tci);
    }
    return true;
  }

  [[nodiscard]] FileDescriptor open_socket() const {
    // Protocol 0: nothing is received before everything is set and bind() names protocol and device.
    FileDescriptor fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) throw_errno(name(), "cannot open a packet socket");
    set(fd, PACKET_VNET_HDR, 1);
    set(fd, PACKET_AUXDATA, 1);
    set(fd, PACKET_IGNORE_OUTGOING, 1);
    set(fd, PACKET_QDISC_BYPASS, 1);
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes, sizeof kReceiveBufferBytes);
    // Guests have other addresses than the netdev; ends by itself when the socket is closed.
    packet_mreq promiscuous{};
    promiscuous.mr_ifindex = static_cast<int>(ifindex_);
    promiscuous.mr_type = PACKET_MR_PROMISC;
    if (::setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) != 0)
      throw_errno(name(), "cannot make it promiscuous");
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(ETH_P_ALL).raw();
    address.sll_ifindex = static_cast<int>(ifindex_);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw_errno(name(), "cannot bind a packet socket");
    return fd;
  }
  void set(const FileDescriptor& fd, int option, int value) const {
    if (::setsockopt(fd.get(), SOL_PACKET, option, &value, sizeof value) != 0)
      throw_errno(name(), "cannot set packet socket option " + std::to_string(option));
  }
  // Spreads frames over the queues by flow. The kernel chooses the group's number for the first.
  void join_queues() {
    const int type = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_ROLLOVER | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    set(queues_[0]->fd, PACKET_FANOUT, (type | PACKET_FANOUT_FLAG_UNIQUEID) << 16);
    int group = 0;
    socklen_t length = sizeof group;
    if (::getsockopt(queues_[0]->fd.get(), SOL_PACKET, PACKET_FANOUT, &group, &length) != 0)
      throw_errno(name(), "cannot read its fanout group");
    for (std::size_t i = 1; i < queues_.size(); ++i) set(queues_[i]->fd, PACKET_FANOUT, (group & 0xffff) | type << 16);
  }

  BufferPool& pool_;
  std::uint32_t ifindex_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

// The port and the tc program that goes with it, in this order: frames are dropped there only while somebody has them.
struct NetdevWithTake {
  NetdevWithTake(const std::string& name, std::uint32_t ifindex, std::uint16_t queues, const PortContext& context)
      : port(name, ifindex, queues, *context.pool), take(name, ifindex, queues, context.bpf_directory) {}
  NetdevPort port;
  TcTake take;
};

}  // namespace

MadePort make_netdev_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  MadePort made;
  made.ifindex = netdev::index(name);
  if (made.ifindex == 0) throw std::runtime_error(name + ": no such netdev");
  made.mac = netdev::mac(name);
  if (config.mtu != 0) netdev::set_mtu(name, config.mtu);
  netdev::set_up(name);
  const std::uint16_t queues =
      std::clamp<std::uint16_t>(config.queues != 0 ? config.queues : context.workers, 1, VXP_MAX_QUEUES);
  auto both = std::make_shared<NetdevWithTake>(name, made.ifindex, queues, context);
  for (std::uint16_t q = 0; q < queues; ++q) made.heartbeats.push_back(both->take.heartbeat(q));
  NetdevPort* port = &both->port;
  made.port = std::shared_ptr<Port>(std::move(both), port);
  return made;
}

}  // namespace vx
