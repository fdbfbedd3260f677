// SPDX-License-Identifier: Apache-2.0
// A tap that the dataplane owns: a guest's port, or the netdev that stands for the vxlan device.
// The only file that includes if_tun.
//
// While it runs the netdev is persistent, so that a bridge keeps its port over a crash. One that we made
// carries the alias kAlias, so that a later run knows it may go at a clean stop.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_drivers.h"
#include "dataplane/tally.h"
#include "dataplane/tc_take.h"
#include "dataplane/vnet_header.h"

namespace vx {
namespace {

constexpr const char* kAlias = "made by vxplane";
constexpr std::uint16_t kMaxTapQueues = 64;
constexpr unsigned kOffloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
constexpr unsigned kUso = 0x20 | 0x40;  // TUN_F_USO4 and TUN_F_USO6, from Linux 6.2 on

class TapPort final : public Port {
 public:
  // `is_silent`: the host's stack sends nothing of its own into it.
  TapPort(const std::string& name, std::uint16_t queues, unsigned mtu, bool is_guest, bool is_silent, BufferPool& pool)
      : Port(name), pool_(pool), is_guest_(is_guest) {
    const std::uint32_t existing = netdev::index(name);
    ours_ = existing == 0 || netdev::alias(existing) == kAlias;
    open_queues(queues);
    ifindex_ = netdev::index(name);
    try {
      keep(true);
      if (ours_) (void)netdev::set_alias(ifindex_, kAlias);
      if (mtu != 0) netdev::set_mtu(name, mtu);
      if (is_silent) netdev::silence(name);
      netdev::set_up(name);
    } catch (...) {
      if (ours_) keep(false);
      throw;
    }
  }

  ~TapPort() override {
    if (ours_ && !queues_.empty()) keep(false);
  }

  [[nodiscard]] unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    unsigned received = 0;
    Packet large;
    bool has_large = false;
    while (received < count && q.stash.fill(1) == 1) {
      // Without a place for a super-frame nothing is read: the tap keeps it.
      if (!has_large && pool_.allocate_large(&large, 1) != 1) break;
      has_large = true;
      // The vnet header goes into the headroom, so that one read fills both.
      std::uint8_t* start = large.data - sizeof(VnetHeader);
      const ssize_t n = ::read(q.fd.get(), start, sizeof(VnetHeader) + large.tailroom);
      if (n < static_cast<ssize_t>(sizeof(VnetHeader))) break;
      VnetHeader header;
      std::memcpy(&header, start, sizeof header);
      const auto length = static_cast<std::uint32_t>(static_cast<std::size_t>(n) - sizeof(VnetHeader));
      if (place_frame(q.stash.peek(0), large, length, to_offload(header), out[received++])) has_large = false;
      else q.stash.drop_top(1);
    }
    if (has_large) {
      Packet* unused = &large;
      pool_.free(&unused, 1);
    }
    return received;
  }

  [[nodiscard]] unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    Queue& q = *queues_[queue];
    unsigned sent = 0;
    for (; sent < count; ++sent) {
      VnetHeader header = to_vnet(packets[sent]->offload, packets[sent]->length);
      iovec parts[2] = {{&header, sizeof header}, {packets[sent]->data, packets[sent]->length}};
      if (::writev(q.fd.get(), parts, 2) >= 0) continue;
      if (errno != EAGAIN && errno != EINTR) {  // EIO: the link is down; EINVAL: what the frame wants cannot be
        packets[sent]->reason = errno == EINVAL ? DropReason::kGuestBadOffload : DropReason::kPortDown;
        q.errors.add(1);
      }
      break;
    }
    pool_.free(packets, sent);
    return sent;
  }

  [[nodiscard]] TxOffloads tx_offloads() const noexcept override {
    return {.checksum = true, .tcp4 = true, .tcp6 = true, .udp = takes_uso_};
  }
  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return rx_queues(); }
  [[nodiscard]] bool asks_kernel() const noexcept override { return true; }
  [[nodiscard]] int rx_fd(std::uint16_t queue) const noexcept override { return queues_[queue]->fd.get(); }
  // By the descriptor: the netdev may have been moved to another namespace.
  [[nodiscard]] bool is_alive() const noexcept override {
    ifreq ifr{};
    return ::ioctl(queues_.front()->fd.get(), TUNGETIFF, &ifr) == 0;
  }
  [[nodiscard]] LostFrames lost() const noexcept override {
    LostFrames sum;
    for (const auto& q : queues_) {
      sum.tx_errors += q->errors.get();
    }
    return sum;
  }
  [[nodiscard]] std::uint32_t ifindex() const noexcept { return ifindex_; }

 private:
  struct alignas(64) Queue {
    Queue(FileDescriptor&& descriptor, BufferPool& pool) : fd(std::move(descriptor)), stash(pool) {}
    FileDescriptor fd;
    BufferStash stash;
    Tally errors;  // written by the worker that sends
  };
  // A tap made elsewhere may be single-queue: TUNSETIFF then refuses IFF_MULTI_QUEUE with EINVAL.
  void open_queues(std::uint16_t queues) {
    short multi_queue = IFF_MULTI_QUEUE;
    for (std::uint16_t i = 0; i < queues; ++i) {
      FileDescriptor fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
      if (!fd) throw_errno(name(), "cannot open /dev/net/tun");
      ifreq ifr{};
      if (name().size() >= sizeof ifr.ifr_name) throw std::runtime_error(name() + ": longer than a netdev's name may be");
      std::memcpy(ifr.ifr_name, name().c_str(), name().size() + 1);
      ifr.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | multi_queue);
      int result = ::ioctl(fd.get(), TUNSETIFF, &ifr);
      if (result != 0 && errno == EINVAL && i == 0 && netdev::index(name()) != 0) {
        multi_queue = 0;
        queues = 1;
        ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        result = ::ioctl(fd.get(), TUNSETIFF, &ifr);
      }
      if (result != 0 && errno == EBUSY) throw_errno(name(), "another process (a VM?) has this tap open; use driver=netdev for it");
      if (result != 0) throw_errno(name(), "cannot make or join the tap (is it a tap?)");
      int header_bytes = sizeof(VnetHeader);
      // The kernel may leave checksums and segmentation to us, but on an underlay, where decap wants finished frames. The
      // kernels that take USO here also take it in writes.
      takes_uso_ = is_guest_ && ::ioctl(fd.get(), TUNSETOFFLOAD, kOffloads | kUso) == 0;
      if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_bytes) != 0 ||
          (!takes_uso_ && ::ioctl(fd.get(), TUNSETOFFLOAD, is_guest_ ? kOffloads : 0) != 0))
        throw_errno(name(), "cannot set the tap's header and offloads");
      queues_.push_back(std::make_unique<Queue>(std::move(fd), pool_));
    }
  }
  void keep(bool persistent) noexcept { (void)::ioctl(queues_.front()->fd.get(), TUNSETPERSIST, persistent ? 1 : 0); }

  BufferPool& pool_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::uint32_t ifindex_ = 0;
  bool ours_ = false;
  bool is_guest_;
  bool takes_uso_ = false;
};

}  // namespace

MadePort make_tap_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  const std::uint16_t queues = std::clamp<std::uint16_t>(config.queues != 0 ? config.queues : context.workers, 1, kMaxTapQueues);
  auto port = std::make_shared<TapPort>(name, queues, config.mtu, config.role == protocol::PortRole::kGuest,
                                        config.deliver_ifindex != 0, *context.pool);
  MadePort made;
  made.ifindex = port->ifindex();
  made.mac = netdev::mac(name);
  if (config.deliver_ifindex != 0)
    made.deliver = attach_deliver(name, made.ifindex, config.deliver_ifindex, context.bpf_directory);
  made.port = std::move(port);
  return made;
}

}  // namespace vx
