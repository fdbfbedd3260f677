// SPDX-License-Identifier: Apache-2.0
// Ports and buffers in memory. A LoopPort hands out bursts from a ring of buffers, as many as it is asked for, and stamps the
// two MACs of each frame, as a NIC would write a frame: that is the I/O floor of what is measured with it. What is sent
// through it goes nowhere.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/port.h"
#include "dataplane/wire.h"

namespace vx::bench {

inline constexpr unsigned kRing = 512;            // buffers in use, as a mempool's cache would keep them
inline constexpr unsigned kBufferBytes = 2048;
inline constexpr unsigned kStride = kBufferBytes + kHeadroomBytes + 64;  // not a power of two: no cache-set collisions

// `kRing` buffers of kStride bytes; frames begin at a cache line, as in an mbuf.
class Buffers {
 public:
  Buffers() : lines_(std::size_t{kRing} * kStride / sizeof(Line)) {}
  [[nodiscard]] std::uint8_t* frame(unsigned i) noexcept {
    return lines_[std::size_t{i} * kStride / sizeof(Line)].bytes.data() + kHeadroomBytes;
  }

 private:
  struct alignas(64) Line {
    std::array<std::uint8_t, 64> bytes{};
  };
  static_assert(kStride % sizeof(Line) == 0 && kHeadroomBytes % sizeof(Line) == 0);
  std::vector<Line> lines_;
};

// What is stamped into a frame.
struct MacPair {
  MacPair(MacAddress destination, MacAddress source) {
    std::copy(destination.bytes.begin(), destination.bytes.end(), ethernet.begin());
    std::copy(source.bytes.begin(), source.bytes.end(), ethernet.begin() + 6);
    ethernet[12] = 8;
    ethernet[14] = 0x45;
  }
  // Destination, source, the IPv4 ethertype and the first two bytes of the IPv4 header.
  std::array<std::uint8_t, 16> ethernet{};
  std::uint16_t udp_checksum = 0;  // of an encapsulated frame: the outer one, raw
};

// What the frames of a queue are.
struct Load {
  std::vector<std::uint8_t> frame;
  std::vector<MacPair> pairs;         // in turn
  std::uint32_t mac_offset = 0;       // where the MacPair goes
  std::uint32_t ports_offset = 0;     // where the inner ports are: another flow for each buffer of the ring
  std::uint32_t checksum_offset = 0;  // of the outer UDP checksum; 0: none
};

// Buffers for copies (flooding, segments); counts what comes back.
class RingPool : public BufferPool {
 public:
  unsigned allocate(Packet* out, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) {
      std::uint8_t* data = buffers_.frame(next_);
      next_ = (next_ + 1) % kRing;
      out[i] = Packet{};
      out[i].data = data;
      out[i].buffer = data;
      out[i].headroom = kHeadroomBytes;
      out[i].tailroom = kBufferBytes;
    }
    return count;
  }
  unsigned allocate_large(Packet*, unsigned) noexcept override { return 0; }
  void free(Packet* const*, unsigned count) noexcept override { freed += count; }
  std::uint64_t freed = 0;

 private:
  Buffers buffers_;
  unsigned next_ = 0;
};

class LoopPort : public Port {
 public:
  explicit LoopPort(std::string name, std::uint16_t queues = 1) : Port(std::move(name)), queues_(queues) {}

  // Frames for `queue` from now on; before it is polled.
  void load(const Load& load, std::uint16_t queue = 0) {
    Queue& q = queues_[queue];
    for (unsigned i = 0; i < kRing; ++i) {
      std::uint8_t* data = q.buffers.frame(i);
      std::copy(load.frame.begin(), load.frame.end(), data);
      std::uint8_t* ports = data + load.ports_offset;
      ports[0] = static_cast<std::uint8_t>(i >> 8);
      ports[1] = static_cast<std::uint8_t>(i);
      // Its complement beside it: frames differ in flow and not in checksum.
      ports[2] = static_cast<std::uint8_t>(~ports[0]);
      ports[3] = static_cast<std::uint8_t>(~ports[1]);
    }
    q.length = static_cast<std::uint32_t>(load.frame.size());
    q.pairs = load.pairs;
    q.mac_offset = load.mac_offset;
    q.checksum_offset = load.checksum_offset;
  }
  // No more than `frames` from now on. Any thread, while the queue is polled too.
  void limit(std::uint64_t frames, std::uint16_t queue = 0) noexcept { queues_[queue].left.store(frames, std::memory_order_release); }
  [[nodiscard]] std::uint64_t bytes_sent(std::uint16_t queue = 0) const noexcept { return queues_[queue].bytes_sent; }

  unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Queue& q = queues_[queue];
    if (q.length == 0) return 0;
    if (const auto left = q.left.load(std::memory_order_acquire); left != UINT64_MAX) [[unlikely]] {
      count = left < count ? static_cast<unsigned>(left) : count;
      if (count == 0 || !q.take(left, count)) return 0;
    }
    for (unsigned i = 0; i < count; ++i) {
      std::uint8_t* data = q.buffers.frame(q.next_buffer);
      q.next_buffer = (q.next_buffer + 1) % kRing;
      const MacPair& pair = q.pairs[q.next_pair];
      q.next_pair = q.next_pair + 1 == q.pairs.size() ? 0 : q.next_pair + 1;
      // One store, as wide as the loads that will follow: no stall that a NIC's frames would not have.
      std::memcpy(data + q.mac_offset, pair.ethernet.data(), 16);
      if (q.checksum_offset != 0) std::memcpy(data + q.checksum_offset, &pair.udp_checksum, 2);
      out[i] = Packet{};
      out[i].data = data;
      out[i].buffer = data;
      out[i].length = q.length;
      out[i].headroom = kHeadroomBytes;
      out[i].tailroom = kBufferBytes - q.length;
    }
    return count;
  }
  unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) queues_[queue].bytes_sent += packets[i]->length;
    return count;
  }
  std::uint16_t rx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  std::uint16_t tx_queues() const noexcept override { return static_cast<std::uint16_t>(queues_.size()); }
  int rx_fd(std::uint16_t) const noexcept override { return -1; }

 private:
  struct alignas(64) Queue {
    Buffers buffers;
    std::vector<MacPair> pairs;
    // False: limit() was called meanwhile.
    [[nodiscard]] bool take(std::uint64_t seen, unsigned count) noexcept { return left.compare_exchange_strong(seen, seen - count); }
    std::uint64_t bytes_sent = 0;
    std::atomic<std::uint64_t> left{UINT64_MAX};
    std::uint32_t length = 0, mac_offset = 0, checksum_offset = 0;
    unsigned next_buffer = 0;
    std::size_t next_pair = 0;
  };
  std::vector<Queue> queues_;
};

}  // namespace vx::bench
