// SPDX-License-Identifier: Apache-2.0
// The seam between the packet's way and the world: buffers and ports, virtual at burst granularity.
// Back-end headers (rte_ethdev, if_tun, if_packet) stay behind it, one .cc each.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/packet.h"

namespace vx {

// Gives and takes frame buffers. In vxplane-dataplane one rte_mempool of mbufs (every port's Packet::buffer is
// an rte_mbuf* of it, so that a frame can leave through any port without a copy); heap blocks in tests.
// Threads: any worker; implementations keep per-worker caches.
class BufferPool {
 public:
  virtual ~BufferPool() = default;
  // Fills up to `count` descriptors with empty buffers: length 0, headroom >= kHeadroomBytes, tailroom = the rest.
  // Returns how many; fewer means exhausted.
  [[nodiscard]] virtual unsigned allocate(Packet* out, unsigned count) noexcept = 0;
  // The same with room for kMaxFrameBytes: super-frames. There are few, and they are for passing by only: a frame
  // that fits an ordinary buffer does not stay in one of these (AF_XDP takes ordinary ones only).
  [[nodiscard]] virtual unsigned allocate_large(Packet* out, unsigned count) noexcept = 0;
  // Of both kinds, mixed.
  virtual void free(Packet* const* packets, unsigned count) noexcept = 0;
};

// What a port's tx() takes as metadata (Packet::offload) instead of as bytes. What it does not take is completed
// or segmented before it gets there. Constant for the port's life.
struct TxOffloads {
  bool checksum = false;    // a TCP or UDP checksum to be completed
  bool tcp4 = false;        // super-frames of TCP over IPv4; with `checksum`
  bool tcp6 = false;        // over IPv6
  bool udp = false;         // of UDP (USO)
  bool tunnel = false;      // encapsulated super-frames of all three: an outer header with a UDP checksum in front of the inner super-frame,
                            // Packet::offload's offsets counted from the outer frame's first byte
  [[nodiscard]] constexpr bool carries(const OffloadMeta& meta) const noexcept {
    switch (meta.gso_type & ~OffloadMeta::kGsoEcn) {
      case OffloadMeta::kGsoNone: return checksum || !meta.needs_checksum();
      case OffloadMeta::kGsoTcp4: return tcp4;
      case OffloadMeta::kGsoTcp6: return tcp6;
      case OffloadMeta::kGsoUdp: return udp;
      default: return false;
    }
  }
};

// One port with one or more receive and transmit queues.
// Threads: a queue is used by one worker at a time; distinct queues concurrently. Construction acquires
// everything, destruction (management thread, after the workers let go) releases it. Constructors throw
// std::system_error or std::runtime_error whose text says what, on which port, and what to do.
class Port {
 public:
  virtual ~Port() = default;
  // Receives up to `count` (<= kMaxBurst) frames; fills data, buffer, length, headroom, tailroom, offload and resets the rest.
  // The caller then owns the buffers.
  [[nodiscard]] virtual unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept = 0;
  // Sends a prefix of `packets`; returns its length and owns exactly those buffers. The rest stays the caller's. The
  // first of the rest has a `reason` when that frame itself was refused (and the next may pass), kNone when the port is full.
  [[nodiscard]] virtual unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept = 0;

  [[nodiscard]] virtual TxOffloads tx_offloads() const noexcept { return {}; }
  [[nodiscard]] virtual std::uint16_t rx_queues() const noexcept = 0;
  [[nodiscard]] virtual std::uint16_t tx_queues() const noexcept = 0;  // fewer than workers: the worker locks
  // A descriptor that polls readable when `queue` has frames, or -1: an adaptive worker then has its interrupts, or naps instead.
  [[nodiscard]] virtual int rx_fd(std::uint16_t queue) const noexcept = 0;
  // True: rx() makes a system call even when nothing came, so that a worker with other work asks less often. Constant.
  [[nodiscard]] virtual bool asks_kernel() const noexcept { return false; }
  // Where rx_fd() is -1 and the device can interrupt for `queue`: a descriptor that turns readable with every interrupt, or -1. Nobody reads
  // it: it is to be watched edge-triggered. Constant for the port's life.
  [[nodiscard]] virtual int rx_interrupt_fd(std::uint16_t) const noexcept { return -1; }
  // Asks for an interrupt when `queue` gets frames, or for none from now on; the worker's thread, which then looks at the queue once
  // more before it sleeps. False: the device refuses, and the worker naps.
  [[nodiscard]] virtual bool ask_for_rx_interrupt(std::uint16_t /*queue*/, bool /*is_wanted*/) noexcept { return false; }
  // False once the netdev behind it is gone; the management thread asks about once a second.
  [[nodiscard]] virtual bool is_alive() const noexcept { return true; }
  // Frames the back end lost before rx() or after tx() (ring full, kernel refusal); cumulative.
  struct LostFrames {
    std::uint64_t rx_missed = 0, tx_errors = 0;
  };
  [[nodiscard]] virtual LostFrames lost() const noexcept { return {}; }
  // Fragments of outer datagrams that an underlay's back end reassembles by itself: rx() hands in whole datagrams and
  // counts those only. Cumulative; received - lost - what datagrams consist of are waiting.
  struct Fragments {
    std::uint64_t received = 0, lost = 0;  // fragments; lost: refused (overlap, too many...) or too late
    std::uint64_t reassembled = 0;         // datagrams
  };
  [[nodiscard]] virtual Fragments fragments() const noexcept { return {}; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 protected:
  explicit Port(std::string name) : name_(std::move(name)) {}

 private:
  std::string name_;
};

}  // namespace vx
