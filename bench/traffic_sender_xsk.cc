// SPDX-License-Identifier: Apache-2.0
// AF_XDP transmission in copy mode on queue 0 (Documentation/networking/af_xdp.rst); no XDP program is needed to send.
#include <linux/if_xdp.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "bench/traffic_sender.h"
#include "dataplane/clock.h"
#include "dataplane/file_descriptor.h"

namespace vx::traffic {
namespace {

constexpr unsigned kChunk = 2048, kChunks = 4096, kRing = 2048;
constexpr unsigned kMostUnderWay = 64;  // a stamp is to be fresh when the kernel takes the frame
constexpr std::uint64_t kDrainNs = 1'000'000'000;
constexpr unsigned kBindTries = 100;
static_assert(kMostBytes + kOverheadIpv4 <= kChunk);

[[noreturn]] void fail(const std::string& device, const char* what) {
  throw std::system_error(errno, std::system_category(), device + ": AF_XDP: " + what);
}

class Mapping {
 public:
  Mapping(std::size_t bytes, int flags, int fd, off_t offset)
      : memory_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, offset)), bytes_(bytes) {
    if (memory_ == MAP_FAILED) throw std::system_error(errno, std::system_category(), "AF_XDP: mmap");
  }
  ~Mapping() { ::munmap(memory_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  [[nodiscard]] std::uint8_t* at(std::uint64_t offset) const noexcept { return static_cast<std::uint8_t*>(memory_) + offset; }

 private:
  void* memory_;
  std::size_t bytes_;
};

// One ring of kRing or kChunks entries: indices run free, the size is a power of two.
template <typename Entry>
class Ring {
 public:
  Ring(int fd, const xdp_ring_offset& offset, unsigned size, off_t page_offset)
      : mapping_(offset.desc + size * sizeof(Entry), MAP_SHARED | MAP_POPULATE, fd, page_offset),
        producer_(reinterpret_cast<std::uint32_t*>(mapping_.at(offset.producer))),
        consumer_(reinterpret_cast<std::uint32_t*>(mapping_.at(offset.consumer))),
        entries_(reinterpret_cast<Entry*>(mapping_.at(offset.desc))),
        mask_(size - 1) {}
  [[nodiscard]] std::uint32_t produced() const noexcept { return std::atomic_ref(*producer_).load(std::memory_order_acquire); }
  [[nodiscard]] std::uint32_t consumed() const noexcept { return std::atomic_ref(*consumer_).load(std::memory_order_acquire); }
  void set_produced(std::uint32_t index) noexcept { std::atomic_ref(*producer_).store(index, std::memory_order_release); }
  void set_consumed(std::uint32_t index) noexcept { std::atomic_ref(*consumer_).store(index, std::memory_order_release); }
  [[nodiscard]] Entry& operator[](std::uint32_t index) noexcept { return entries_[index & mask_]; }

 private:
  Mapping mapping_;
  std::uint32_t *producer_, *consumer_;
  Entry* entries_;
  std::uint32_t mask_;
};

class AfXdpSender final : public RingSender {
 public:
  AfXdpSender(FrameMaker& frames, const std::string& device)
      : RingSender(frames), device_(device), socket_(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)),
        memory_(std::size_t{kChunk} * kChunks, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) {
    if (!socket_) fail(device, "socket");
    const xdp_umem_reg umem{reinterpret_cast<std::uintptr_t>(memory_.at(0)), std::uint64_t{kChunk} * kChunks, kChunk, 0, 0};
    set(XDP_UMEM_REG, umem, "XDP_UMEM_REG");
    set(XDP_UMEM_FILL_RING, int{64}, "fill ring");  // unused, but bind() wants one
    set(XDP_UMEM_COMPLETION_RING, int{kChunks}, "completion ring");
    set(XDP_TX_RING, int{kRing}, "transmit ring");
    enlarge_send_buffer(socket_.get());
    xdp_mmap_offsets offsets{};
    socklen_t length = sizeof offsets;
    if (::getsockopt(socket_.get(), SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) != 0) fail(device, "XDP_MMAP_OFFSETS");
    send_ring_ = std::make_unique<Ring<xdp_desc>>(socket_.get(), offsets.tx, kRing, XDP_PGOFF_TX_RING);
    done_ring_ = std::make_unique<Ring<std::uint64_t>>(socket_.get(), offsets.cr, kChunks, XDP_UMEM_PGOFF_COMPLETION_RING);
    sockaddr_xdp address{};
    address.sxdp_family = AF_XDP;
    address.sxdp_flags = XDP_COPY;
    address.sxdp_ifindex = ::if_nametoindex(device.c_str());
    // The queue of a run that has just ended is given back a little later.
    for (unsigned tries = 0; ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0; ++tries) {
      if (errno != EBUSY || tries == kBindTries) fail(device, "bind");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    for (unsigned i = 0; i < kChunks; ++i) {
      free_.push_back(std::uint64_t{i} * kChunk);
      frames_.prepare(memory_.at(free_.back()));
    }
  }

  unsigned offer(unsigned count, std::uint64_t now_ns) override {
    reclaim();
    const std::uint32_t under_way = produced_ - send_ring_->consumed();
    const auto room = under_way < kMostUnderWay ? kMostUnderWay - under_way : 0u;
    count = std::min({count, kBatch, room, static_cast<unsigned>(free_.size())});
    for (unsigned i = 0; i < count; ++i) {
      const std::uint64_t address = free_.back();
      free_.pop_back();
      frames_.write_next(memory_.at(address), now_ns);
      (*send_ring_)[produced_++] = {address, frames_.length(), 0};
    }
    send_ring_->set_produced(produced_);
    kick();
    return count;
  }

  void drain() override {
    const std::uint64_t start = monotonic_ns();
    while (send_ring_->consumed() != produced_) {
      if (monotonic_ns() - start > kDrainNs) throw std::runtime_error(device_ + ": AF_XDP: the kernel does not take the frames");
      kick();
    }
  }

 private:
  template <typename Value>
  void set(int option, const Value& value, const char* what) {
    if (::setsockopt(socket_.get(), SOL_XDP, option, &value, sizeof value) != 0) fail(device_, what);
  }
  void reclaim() {
    const std::uint32_t produced = done_ring_->produced();
    for (; done_ != produced; ++done_) free_.push_back((*done_ring_)[done_] / kChunk * kChunk);
    done_ring_->set_consumed(done_);
  }
  // The kernel takes at most 32 frames a call.
  void kick() {
    if (::sendto(socket_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0) < 0 && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS &&
        errno != EINTR)
      fail(device_, "send");
  }

  std::string device_;
  FileDescriptor socket_;
  Mapping memory_;
  std::unique_ptr<Ring<xdp_desc>> send_ring_;
  std::unique_ptr<Ring<std::uint64_t>> done_ring_;
  std::vector<std::uint64_t> free_;
  std::uint32_t produced_ = 0, done_ = 0;
};

}  // namespace

std::unique_ptr<Sender> make_af_xdp_sender(FrameMaker& frames, const std::string& device) {
  return std::make_unique<AfXdpSender>(frames, device);
}

}  // namespace vx::traffic
