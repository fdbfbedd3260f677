// SPDX-License-Identifier: Apache-2.0
// The way out of a worker: a list of packets per egress port, sent as one burst each; what a port does not take as metadata is
// completed or segmented before (super_frame.h, segment.h), what came out of the tunnel is coalesced for ports that take
// super-frames (coalesce.h). Owns the counting of what leaves, drops and is held, and gives every buffer back.
//
// Threads: one worker's. Nothing allocates after construction but buffers from the pool.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "dataplane/coalesce.h"
#include "dataplane/counters.h"
#include "dataplane/encap.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/port.h"
#include "dataplane/queues.h"
#include "dataplane/super_frame.h"

namespace vx {

// A super-frame of the tunnel is kept open for more segments at most this long after its first, and this long after its last one.
inline constexpr std::uint64_t kHoldNs = 50'000, kHoldGapNs = 10'000;

class Sender {
 public:
  // Both outlive the sender.
  Sender(BufferPool& pool, WorkerCounters& counters);

  // As Pipeline::use(). What is held is sent or dropped first.
  void use(const ForwardingState* state, const Assignment* assignment) noexcept;

  // Sends `packet` out of `port` as the port takes it. The descriptor stays valid until end_burst().
  void send(Packet& packet, PortIndex port) noexcept {
    if (port >= kMaxPorts || !egress_[port].can_send) [[unlikely]] return drop_outgoing(packet, DropReason::kPortDown, port);
    if (!packet.offload.is_plain()) [[unlikely]] return send_with_metadata(packet, port);
    if (egress_[port].coalesces && packet.source.is_vtep()) return send_coalescing(packet, port);
    enqueue(packet, port);
  }
  // The same for `count` (<= kMaxBurst) packets that are plain and not to be coalesced.
  void send_plain(Packet* const* packets, unsigned count, PortIndex port) noexcept {
    if (port >= kMaxPorts || !egress_[port].can_send) [[unlikely]] {
      for (unsigned i = 0; i < count; ++i) drop_outgoing(*packets[i], DropReason::kPortDown, port);
      return;
    }
    TxList& list = tx_[port];
    while (count != 0) {
      if (list.count == 0) active_[active_count_++] = port;
      const unsigned room = static_cast<unsigned>(list.packets.size()) - list.count, taken = count < room ? count : room;
      std::uint64_t bytes = 0;
      for (unsigned i = 0; i < taken; ++i) {
        list.packets[list.count + i] = packets[i];
        bytes += packets[i]->length;
      }
      list.bytes += bytes;
      list.count += taken;
      if (list.count == list.packets.size()) flush_port(port);
      packets += taken;
      count -= taken;
    }
  }
  // Encapsulates and sends a frame that is not plain and is as the tunnel carries it. kNone: done with; else nothing but
  // perhaps its checksum has changed.
  [[nodiscard]] DropReason send_encapsulated(Packet& packet, const Vtep& vtep, const EncapSettings& settings, PortIndex underlay) noexcept;

  // A copy of `packet` in a buffer of its own, all that the steps found out included; null when there is no buffer. Valid until end_burst().
  [[nodiscard]] Packet* make_copy(const Packet& packet) noexcept;
  // Empty ordinary buffers for descriptors of the caller's; returns how many.
  [[nodiscard]] unsigned take_buffers(Packet* out, unsigned count) noexcept { return pool_.allocate(out, count); }
  // An empty ordinary buffer with a descriptor that is valid until end_burst(); null when there is none.
  [[nodiscard]] Packet* make_empty() noexcept;

  void drop_received(Packet& packet, DropReason reason) noexcept;                  // before an egress was chosen
  void drop_outgoing(Packet& packet, DropReason reason, PortIndex port) noexcept;  // on the way out of `port`
  void release(Packet& packet) noexcept;                                           // counted elsewhere

  // The time of what is sent from now on, CLOCK_MONOTONIC.
  void begin_burst(std::uint64_t now_ns) noexcept { now_ns_ = now_ns; }
  // Everything in hand leaves but super-frames that may still grow; descriptors of copies are free again.
  void end_burst() noexcept;
  // Sends what was held long enough; to be called every loop while is_holding().
  void send_held(std::uint64_t now_ns) noexcept;
  [[nodiscard]] bool is_holding() const noexcept { return counters_.held != 0; }

  // What sending asks of every port, in one place.
  struct Egress {
    const VlanTable* vlans = nullptr;
    OverlayIndex overlay = kNoIndex;
    bool can_send = false;
    bool coalesces = false;  // TCP from the tunnel is joined for it
    bool delivers = false;
    TxOffloads offloads;
  };
  [[nodiscard]] const Egress& egress(PortIndex port) const noexcept { return egress_[port]; }

 private:
  struct TxList {
    unsigned count = 0;
    bool has_holes = false;          // a head went into a super-frame
    std::uint64_t bytes = 0;         // as on the wire
    std::uint64_t extra = 0;         // datagrams beyond `count` that the port makes of super-frames
    std::array<Packet*, kMaxBurst> packets;
  };
  // A flow from the tunnel whose next segment may be joined. Its only segment so far lies in its port's list at `slot`; once a
  // second has joined, the super-frame is `large`, in no list.
  struct Open {
    OpenFlow flow;
    std::uint64_t since_ns = 0, last_ns = 0;
    PortIndex port = kNoIndex;
    std::uint16_t slot = 0;
    Packet large;
    [[nodiscard]] bool is_free() const noexcept { return flow.head == nullptr; }
    [[nodiscard]] bool is_super() const noexcept { return flow.head == &large; }
  };
  static constexpr unsigned kSideDescriptors = 256;  // for copies and segments
  static constexpr unsigned kOpenFlows = 64;         // placed by hash; a power of two

  void enqueue(Packet& packet, PortIndex port) noexcept {
    TxList& list = tx_[port];
    if (list.count == 0) active_[active_count_++] = port;
    list.bytes += packet.length;
    list.packets[list.count++] = &packet;
    if (list.count == list.packets.size()) [[unlikely]] flush_port(port);
  }
  void send_with_metadata(Packet& packet, PortIndex port) noexcept;
  // `super` by value: its descriptor may be one that is used again meanwhile. `vtep` null: to a local port.
  void send_segments(Packet super, const SuperFrame& at, PortIndex port, const Vtep* vtep, const EncapSettings& settings) noexcept;
  void send_tunnel_super_frame(Packet& super, const SuperFrame& at, std::uint32_t longest, const Vtep& vtep,
                               const EncapSettings& settings, PortIndex underlay) noexcept;
  [[nodiscard]] bool start_super(Open& open, const Packet& packet, const TcpSegment& segment) noexcept;
  void send_coalescing(Packet& packet, PortIndex port) noexcept;
  [[nodiscard]] bool join_open(Open& open, Packet& packet, const TcpSegment& segment) noexcept;
  void close(Open& open) noexcept;
  void forget_heads(PortIndex port) noexcept;
  [[nodiscard]] Packet* side_descriptor() noexcept;
  void flush_port(PortIndex port) noexcept;
  void flush() noexcept;
  void recycle() noexcept;
  void free_at_once(Packet& packet) noexcept;
  void free_released() noexcept;

  BufferPool& pool_;
  WorkerCounters& counters_;
  const Assignment* assignment_ = nullptr;
  std::uint64_t now_ns_ = 0;

  std::unique_ptr<TxList[]> tx_;
  std::unique_ptr<Egress[]> egress_;
  unsigned active_count_ = 0;
  std::array<PortIndex, kMaxPorts> active_;
  unsigned released_count_ = 0;
  std::array<Packet*, kMaxBurst> released_;
  unsigned side_count_ = 0;
  std::unique_ptr<Packet[]> side_;
  unsigned open_count_ = 0;
  std::array<std::uint8_t, kOpenFlows> in_use_;  // the places in use of open_, in no order
  std::unique_ptr<Open[]> open_;
};

}  // namespace vx
