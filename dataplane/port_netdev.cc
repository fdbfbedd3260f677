// SPDX-License-Identifier: Apache-2.0
// A netdev whose other end is another process's or namespace's (QEMU's tap, a veth), through packet sockets.
//
// Frames come through a mapped ring (packet_ring.h), super-frames by recvmmsg straight into the pool's buffers.
// PACKET_VNET_HDR carries partial checksums and super-frames as metadata, both ways.
// One socket a queue, joined by PACKET_FANOUT without rollover: that would tear flows apart when a socket fills up.
//
// Sent frames take the kernel's usual way through the qdisc. PACKET_QDISC_BYPASS is no faster on veth (measured) and drops
// super-frames that the device cannot segment itself; the usual way segments them, and keeps the order of all.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/packet_ring.h"
#include "dataplane/port_drivers.h"
#include "dataplane/super_frame.h"
#include "dataplane/tally.h"
#include "dataplane/tc_take.h"
#include "dataplane/train_socket.h"
#include "dataplane/vnet_header.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

namespace vx {
namespace {

// Of the kernel's memory, which a super-frame takes a little more than its size of; the kernel doubles them.
constexpr int kReceiveBufferBytes = 8 << 20, kSendBufferBytes = 4 << 20;
constexpr unsigned kMessages = 32;  // super-frames of one system call
constexpr unsigned kPollsInVain = 1024;  // until the socket is asked for an error, which nothing else would clear
constexpr unsigned kAddressesBytes = 12;  // the tag stands behind the two MAC addresses
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(tpacket_auxdata));

// Puts the tag back that the kernel took out of the bytes on its way in.
void push_tag(Packet& packet, std::uint16_t tpid, std::uint16_t tci) noexcept {
  packet.push_front(sizeof(VlanTag));
  packet.offload.shift(sizeof(VlanTag));
  std::memmove(packet.data, packet.data + sizeof(VlanTag), kAddressesBytes);
  const Be16 words[2] = {Be16(tpid), Be16(tci)};
  std::memcpy(packet.data + kAddressesBytes, words, sizeof words);
}

class NetdevPort final : public Port {
 public:
  // Each queue's socket gets the frames that the filter of `take` accepts for it.
  NetdevPort(const std::string& name, std::uint32_t ifindex, std::uint16_t queues, bool is_underlay, const TcTake& take,
             BufferPool& pool)
      : Port(name), pool_(pool), ifindex_(ifindex), is_underlay_(is_underlay) {
    for (std::uint16_t i = 0; i < queues; ++i) queues_.push_back(make_queue(take.filter(i)));
    if (queues > 1) join_queues();
  }

  [[nodiscard]] unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    std::array<PacketRing::Frame, kMaxBurst> frames;
    const unsigned there = q.ring.peek(frames.data(), std::min(count, kMaxBurst));
    if (there == 0) {
      if (++q.in_vain % kPollsInVain == 0) clear_error(q);
      return 0;
    }
    const unsigned n = q.stash.fill(there);
    unsigned received = 0, done = 0;
    while (done < n) {
      if (frames[done].is_queued) [[unlikely]] {
        unsigned run = 1;
        while (done + run < n && run < kMessages && frames[done + run].is_queued) ++run;
        const unsigned got = receive(q, run, out, received);
        done += got;
        if (got < run) break;
      } else {
        if (accept(frames[done], q.stash.peek(0), out[received])) {
          ++received;
          q.stash.drop_top(1);
        } else {
          q.missed.add(1);
        }
        ++done;
      }
    }
    q.ring.release(done);
    return received;
  }

  [[nodiscard]] unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    std::array<mmsghdr, kMaxBurst> messages;
    std::array<iovec, kMaxBurst> parts;
    const unsigned n = std::min(count, kMaxBurst);
    for (unsigned i = 0; i < n; ++i) {
      // In the headroom: one piece.
      const VnetHeader header = to_vnet(packets[i]->offload, packets[i]->length);
      std::uint8_t* front = packets[i]->data - sizeof header;
      std::memcpy(front, &header, sizeof header);
      parts[i] = {front, sizeof header + packets[i]->length};
      messages[i] = {};
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
    }
    unsigned done = 0;
    while (done < n) {
      const int sent = ::sendmmsg(q.tx_fd.get(), &messages[done], n - done, MSG_DONTWAIT);
      if (sent <= 0) {
        packets[done]->reason = refusal(errno);
        if (packets[done]->reason != DropReason::kNone) q.errors.add(1);
        break;
      }
      done += static_cast<unsigned>(sent);
    }
    pool_.free(packets, done);
    return done;
  }

  [[nodiscard]] TxOffloads tx_offloads() const noexcept override {
    return {.checksum = true, .tcp4 = true, .tcp6 = true, .udp = takes_uso_};
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
        q->dropped.add(stats.tp_drops);
      sum.rx_missed += q->missed.get() + q->dropped.get();
      sum.tx_errors += q->errors.get();
    }
    return sum;
  }

 private:
  struct alignas(64) Queue {
    Queue(const std::string& netdev, FileDescriptor&& socket, FileDescriptor&& tx_socket, BufferPool& pool)
        : fd(std::move(socket)), tx_fd(std::move(tx_socket)), ring(netdev, fd.get()), stash(pool) {}
    FileDescriptor fd;
    FileDescriptor tx_fd;  // of its own: each frame that is done would look for whom epoll wakes on the other
    PacketRing ring;
    BufferStash stash;
    unsigned in_vain = 0;  // polls
    Tally missed;  // written by the worker that receives
    Tally errors;  // written by the worker that sends
    Tally dropped;  // the kernel's count, taken over by lost()
  };
  // Why the kernel refused one frame; kNone when it was the device's queue that is full.
  static DropReason refusal(int error) noexcept {
    switch (error) {
      case EAGAIN: case EINTR: case ENOBUFS: return DropReason::kNone;
      case EINVAL: return DropReason::kGuestBadOffload;  // what the frame wants cannot be
      case EMSGSIZE: return DropReason::kMtuExceeded;  // the netdev's MTU is smaller than the overlay's
      default: return DropReason::kPortDown;
    }
  }

  // A netdev that goes down leaves an error on the socket, and epoll says so until somebody reads it.
  [[gnu::cold]] static void clear_error(const Queue& q) noexcept {
    int error = 0;
    socklen_t length = sizeof error;
    (void)::getsockopt(q.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  }

  // A frame of the ring as a packet in `ordinary`; false: it is lost.
  bool accept(const PacketRing::Frame& frame, const Packet& ordinary, Packet& packet) const noexcept {
    if (!frame.is_whole || frame.length > ordinary.tailroom) return false;
    packet = ordinary;
    std::memcpy(packet.data, frame.data, frame.length);
    packet.length = frame.length;
    packet.tailroom -= frame.length;
    packet.offload = to_offload(frame.vnet);
    return finish(packet, frame.tpid, frame.tci);
  }

  // Checksum and tag, which the kernel leaves to us; `tpid` 0: no tag. False: the checksum cannot be.
  bool finish(Packet& packet, std::uint16_t tpid, std::uint16_t tci) const noexcept {
    // A peer on the other end of a veth leaves the inner packet's checksum, too: decap verifies the outer one over it.
    if (is_underlay_ && packet.offload.needs_checksum() && !packet.offload.is_super_frame() &&
        complete_checksum(packet) != DropReason::kNone)
      return false;
    if (tpid != 0 && packet.length >= kAddressesBytes) push_tag(packet, tpid, tci);
    return true;
  }

  // One call for the `wanted` frames that wait in the queue, appended to `out`. Returns how many of them are dealt with.
  unsigned receive(Queue& q, unsigned wanted, Packet* out, unsigned& received) noexcept {
    // Where no large buffer is to be had, nothing is read: the socket keeps it.
    std::array<Packet, kMessages> large;
    const unsigned n = pool_.allocate_large(large.data(), q.stash.fill(wanted));
    if (n == 0) return 0;
    std::array<mmsghdr, kMessages> messages;
    std::array<iovec, kMessages> parts;
    alignas(cmsghdr) std::array<std::array<char, kControlBytes>, kMessages> controls;
    for (unsigned i = 0; i < n; ++i) {
      // The vnet header goes into the headroom.
      parts[i] = {large[i].data - sizeof(VnetHeader), sizeof(VnetHeader) + large[i].tailroom};
      messages[i] = {};
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
      messages[i].msg_hdr.msg_control = controls[i].data();
      messages[i].msg_hdr.msg_controllen = kControlBytes;
    }
    const int result = ::recvmmsg(q.fd.get(), messages.data(), n, MSG_DONTWAIT, nullptr);
    const bool is_lost = result < 0 && (errno == EINVAL || errno == EAGAIN);  // not as its slot says: no other is to be waited for
    const unsigned got = result < 0 ? 0 : static_cast<unsigned>(result);
    std::array<Packet, kMessages> left;  // ordinary buffers of super-frames and of refused frames
    std::array<Packet*, kMessages> unused;
    unsigned n_left = 0, n_unused = 0;
    for (unsigned i = 0; i < n; ++i) {
      const Packet ordinary = q.stash.peek(i);
      Used used = Used::kNone;
      if (i < got) {
        used = accept(messages[i], ordinary, large[i], out[received]);
        if (used != Used::kNone) ++received;
        else q.missed.add(1);
        if (used != Used::kOrdinary) left[n_left++] = ordinary;
      }
      if (used != Used::kLarge) unused[n_unused++] = &large[i];
    }
    q.stash.drop_top(got);
    for (unsigned i = 0; i < n_left; ++i) q.stash.put_back(left[i]);
    pool_.free(unused.data(), n_unused);
    if (is_lost) q.missed.add(1);
    return got + is_lost;
  }

  // One received message as a packet, with its tag; says which of the buffers it lies in.
  enum class Used { kNone, kOrdinary, kLarge };
  Used accept(const mmsghdr& message, const Packet& ordinary, const Packet& large, Packet& packet) const noexcept {
    if (message.msg_len < sizeof(VnetHeader)) return Used::kNone;
    VnetHeader header;
    std::memcpy(&header, large.data - sizeof header, sizeof header);
    const bool is_cut = (message.msg_hdr.msg_flags & MSG_TRUNC) != 0;
    const std::uint32_t length = is_cut ? kMaxFrameBytes + 1 : message.msg_len - static_cast<std::uint32_t>(sizeof(VnetHeader));
    const Used used = place_frame(ordinary, large, length, to_offload(header), packet) ? Used::kLarge : Used::kOrdinary;
    std::uint16_t tpid = 0, tci = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message.msg_hdr); c != nullptr;
         c = CMSG_NXTHDR(const_cast<msghdr*>(&message.msg_hdr), c)) {
      if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
      tpacket_auxdata aux;
      std::memcpy(&aux, CMSG_DATA(c), sizeof aux);
      if ((aux.tp_status & TP_STATUS_VLAN_VALID) == 0) continue;
      tpid = (aux.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0 ? aux.tp_vlan_tpid : ETH_P_8021Q;
      tci = aux.tp_vlan_tci;
    }
    if (!finish(packet, tpid, tci)) return Used::kNone;
    return used;
  }

  [[nodiscard]] std::unique_ptr<Queue> make_queue(int filter) {
    auto queue = std::make_unique<Queue>(name(), open_socket(filter), open_tx_socket(), pool_);
    bind(queue->fd, ETH_P_ALL);
    bind(queue->tx_fd, 0);
    return queue;
  }
  // Protocol 0: nothing is received before bind() names protocol and device.
  [[nodiscard]] FileDescriptor open_packet_socket() const {
    FileDescriptor fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) throw_errno(name(), "cannot open a packet socket");
    set(fd, PACKET_VNET_HDR, 1);
    return fd;
  }
  // Bound to protocol 0 as well: it receives nothing.
  [[nodiscard]] FileDescriptor open_tx_socket() const {
    FileDescriptor fd = open_packet_socket();
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSendBufferBytes, sizeof kSendBufferBytes);
    return fd;
  }
  [[nodiscard]] FileDescriptor open_socket(int filter) const {
    FileDescriptor fd = open_packet_socket();
    set(fd, PACKET_AUXDATA, 1);
    set(fd, PACKET_IGNORE_OUTGOING, 1);
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_BPF, &filter, sizeof filter) != 0) throw_errno(name(), "cannot attach the filter");
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes, sizeof kReceiveBufferBytes);
    // Guests have other addresses than the netdev; ends by itself when the socket is closed.
    packet_mreq promiscuous{};
    promiscuous.mr_ifindex = static_cast<int>(ifindex_);
    promiscuous.mr_type = PACKET_MR_PROMISC;
    if (::setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) != 0)
      throw_errno(name(), "cannot make it promiscuous");
    return fd;
  }
  void bind(const FileDescriptor& fd, std::uint16_t protocol) const {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(protocol).raw();
    address.sll_ifindex = static_cast<int>(ifindex_);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      throw_errno(name(), "cannot bind a packet socket");
  }
  void set(const FileDescriptor& fd, int option, int value) const {
    if (::setsockopt(fd.get(), SOL_PACKET, option, &value, sizeof value) != 0)
      throw_errno(name(), "cannot set packet socket option " + std::to_string(option));
  }
  // Spreads frames over the queues by flow. The kernel chooses the group's number for the first.
  void join_queues() {
    const int type = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    set(queues_[0]->fd, PACKET_FANOUT, (type | PACKET_FANOUT_FLAG_UNIQUEID) << 16);
    int group = 0;
    socklen_t length = sizeof group;
    if (::getsockopt(queues_[0]->fd.get(), SOL_PACKET, PACKET_FANOUT, &group, &length) != 0)
      throw_errno(name(), "cannot read its fanout group");
    for (std::size_t i = 1; i < queues_.size(); ++i) set(queues_[i]->fd, PACKET_FANOUT, (group & 0xffff) | type << 16);
  }

  BufferPool& pool_;
  std::uint32_t ifindex_;
  bool is_underlay_;
  bool takes_uso_ = takes_udp_trains();
  std::vector<std::unique_ptr<Queue>> queues_;
};

// The port and the programs that go with it, in this order: a frame that a socket has is dropped at tc ingress.
struct NetdevWithTake {
  NetdevWithTake(const std::string& name, std::uint32_t ifindex, std::uint16_t queues, const protocol::PortConfig& config,
                 const PortContext& context)
      : take(name, ifindex, queues, {.bypass = config.takeover != 0}, config.takeover != 0, context.bpf_directory,
             context.uses_tcx ? TcIngress::Kind::kBest : TcIngress::Kind::kClsact),
        port(name, ifindex, queues, config.role == protocol::PortRole::kUnderlay, take, *context.pool) {}
  TcTake take;
  NetdevPort port;
};

}  // namespace

MadePort make_netdev_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  MadePort made;
  made.ifindex = netdev::index(name);
  if (made.ifindex == 0) throw std::runtime_error(name + ": no such netdev");
  made.mac = netdev::mac(name);
  if (config.takeover == 0) {
    if (config.mtu != 0) netdev::set_mtu(name, config.mtu);
    netdev::set_up(name);
  }
  const std::uint16_t queues =
      std::clamp<std::uint16_t>(config.queues != 0 ? config.queues : context.workers, 1, VXP_MAX_QUEUES);
  auto both = std::make_shared<NetdevWithTake>(name, made.ifindex, queues, config, context);
  for (std::uint16_t q = 0; q < queues; ++q) made.heartbeats.push_back(both->take.heartbeat(q));
  made.take = std::shared_ptr<TakePrograms>(both, &both->take);
  NetdevPort* port = &both->port;
  made.port = std::shared_ptr<Port>(std::move(both), port);
  return made;
}

}  // namespace vx
