// SPDX-License-Identifier: Apache-2.0
// AF_PACKET transmission from a TPACKET_V2 ring, past the queueing discipline (packet(7)).
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "bench/traffic_sender.h"
#include "dataplane/clock.h"
#include "dataplane/file_descriptor.h"

namespace vx::traffic {
namespace {

constexpr unsigned kSlot = 2048, kBlock = 1 << 16, kSlots = 1024;
constexpr std::size_t kRingBytes = std::size_t{kSlot} * kSlots;
constexpr unsigned kDataAt = TPACKET2_HDRLEN - sizeof(sockaddr_ll);  // tpacket_parse_header() of the kernel
constexpr std::uint64_t kDrainNs = 1'000'000'000;
static_assert(kDataAt + kMostBytes + kOverheadIpv4 <= kSlot);

class AfPacketSender final : public RingSender {
 public:
  AfPacketSender(FrameMaker& frames, const std::string& device)
      : RingSender(frames), device_(device), socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)) {
    if (!socket_) fail("socket");
    set(PACKET_VERSION, int{TPACKET_V2}, "PACKET_VERSION");
    set(PACKET_QDISC_BYPASS, int{1}, "PACKET_QDISC_BYPASS");
    set(PACKET_TX_RING, tpacket_req{kBlock, static_cast<unsigned>(kRingBytes / kBlock), kSlot, kSlots}, "PACKET_TX_RING");
    enlarge_send_buffer(socket_.get());
    void* memory = ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket_.get(), 0);
    if (memory == MAP_FAILED) fail("mmap");
    ring_ = static_cast<std::uint8_t*>(memory);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fail("bind");
    for (unsigned i = 0; i < kSlots; ++i) frames_.prepare(ring_ + std::size_t{i} * kSlot + kDataAt);
  }
  ~AfPacketSender() override {
    if (ring_ != nullptr) ::munmap(ring_, kRingBytes);
  }

  unsigned offer(unsigned count, std::uint64_t now_ns) override {
    unsigned taken = 0;
    for (; taken < std::min(count, kBatch); ++taken) {
      tpacket2_hdr* header = slot(next_);
      if (status(header) != TP_STATUS_AVAILABLE) break;
      frames_.write_next(reinterpret_cast<std::uint8_t*>(header) + kDataAt, now_ns);
      header->tp_len = frames_.length();
      std::atomic_ref(header->tp_status).store(TP_STATUS_SEND_REQUEST, std::memory_order_release);
      next_ = (next_ + 1) % kSlots;
    }
    kick();
    return taken;
  }

  void drain() override {
    const std::uint64_t start = monotonic_ns();
    for (unsigned i = 0; i < kSlots; ++i)
      while (status(slot(i)) == TP_STATUS_SEND_REQUEST) {
        if (monotonic_ns() - start > kDrainNs) throw std::runtime_error(device_ + ": AF_PACKET: the kernel does not take the frames");
        kick();
      }
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw std::system_error(errno, std::system_category(), device_ + ": AF_PACKET: " + what);
  }
  template <typename Value>
  void set(int option, const Value& value, const char* what) {
    if (::setsockopt(socket_.get(), SOL_PACKET, option, &value, sizeof value) != 0) fail(what);
  }
  [[nodiscard]] tpacket2_hdr* slot(unsigned index) const noexcept {
    return reinterpret_cast<tpacket2_hdr*>(ring_ + std::size_t{index} * kSlot);
  }
  static std::uint32_t status(tpacket2_hdr* header) noexcept {
    return std::atomic_ref(header->tp_status).load(std::memory_order_acquire);
  }
  void kick() {
    if (::sendto(socket_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0) < 0 && errno != EAGAIN && errno != ENOBUFS && errno != EINTR)
      fail("send");
  }

  std::string device_;
  FileDescriptor socket_;
  std::uint8_t* ring_ = nullptr;
  unsigned next_ = 0;
};

}  // namespace

std::unique_ptr<Sender> make_af_packet_sender(FrameMaker& frames, const std::string& device) {
  return std::make_unique<AfPacketSender>(frames, device);
}

}  // namespace vx::traffic
