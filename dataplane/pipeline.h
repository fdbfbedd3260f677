// SPDX-License-Identifier: Apache-2.0
// The packet's way: the order of the steps for one received burst, and the one batch driver that owns loops,
// prefetch, counting and compaction; the way out is sender.h. The steps themselves (classify.h, bridge.h, flood.h, mtu.h,
// egress_tag.h, encap.h, decap.h, own_address.h...) decide on one packet and know nothing of all this.
//
//   guest port  rx -> classify -> bridge -> mtu -> egress: port tx, or encap -> underlay tx
//   underlay    rx -> decap -> classify -> bridge -> mtu -> egress: port tx      (flood: replicate before egress)
//
// Threads: one worker's. Nothing allocates after construction. When process() returns, every packet of
// the burst has been sent, dropped, consumed, coalesced or is held, and counters() balances.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/bridge.h"
#include "dataplane/counters.h"
#include "dataplane/decap.h"
#include "dataplane/encap.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/learn_queue.h"
#include "dataplane/learn_reporter.h"
#include "dataplane/protocol.h"
#include "dataplane/queues.h"
#include "dataplane/sender.h"
#include "dataplane/token_bucket.h"

namespace vx {

// The moment a burst was received: time is a parameter.
struct Moment {
  std::uint64_t ns = 0;       // CLOCK_MONOTONIC
  std::uint16_t seconds = 0;  // the same, as FDB times have it (modulo 65536)
  static constexpr Moment at(std::uint64_t monotonic_ns) noexcept {
    return {monotonic_ns, static_cast<std::uint16_t>(monotonic_ns / 1'000'000'000)};
  }
};

// Packet-too-big messages to each port (design section 3).
inline constexpr std::uint64_t kTooBigPerSecond = 100;

struct PipelineLimits {
  std::uint64_t learn_events_per_second = 1'000'000;
  std::size_t learn_queue_capacity = 16384;
};

class Pipeline {
 public:
  // `pool`, `learn` and `punts` outlive the pipeline. It is the one producer of both rings.
  Pipeline(const PipelineLimits& limits, BufferPool& pool, SpscQueue<protocol::LearnEvent>& learn,
           SpscQueue<PuntedFrame>& punts);

  // What process() works from until the next call; both must stay valid meanwhile. Either may be null: then
  // everything received is dropped as port_down.
  void use(const ForwardingState* state, const Assignment* assignment) noexcept;

  // Takes `count` (<= kMaxBurst) packets received on port `ingress` all the way.
  void process(Packet* burst, unsigned count, PortIndex ingress, Moment now) noexcept;

  // Drops what was received on port `ingress`, counted.
  void discard(Packet* burst, unsigned count, PortIndex ingress, DropReason reason) noexcept;

  // While something is held (sender.h): to be called every loop, with the time. UINT64_MAX: all of it.
  [[nodiscard]] bool is_holding() const noexcept { return sender_.is_holding(); }
  void send_held(std::uint64_t now_ns) noexcept { sender_.send_held(now_ns); }

  // Sends `frame` out of `port` as it is, the outer VLAN tag pushed on the underlay; counted `generated`.
  void generate(PortIndex port, std::span<const std::uint8_t> frame) noexcept;

  [[nodiscard]] WorkerCounters& counters() noexcept { return counters_; }
  // True if learn events or punts were queued since the last call.
  [[nodiscard]] bool take_news() noexcept {
    const bool news = has_news_;
    has_news_ = false;
    return news;
  }

 private:
  // Packets on their way through the steps, in order; a step that drops one closes the gap.
  struct Batch {
    unsigned count = 0;
    std::array<Packet*, kMaxBurst> packets;
  };
  // The overlay whose packets are in hand, and what sending needs of it.
  struct Domain {
    const OverlayState& overlay;
    const VlanTable* tunnel_vlans;
    OverlayIndex home;  // whose ports it sends to
    PortIndex underlay;
    EncapSettings encap;
  };
  template <typename Step>
  void for_each_packet(Batch& batch, Step&& step) noexcept;

  template <typename Forward>
  void for_each_overlay(Batch& batch, Forward&& forward) noexcept;
  // By position in the burst in hand.
  [[nodiscard]] std::size_t place_of(const Packet* packet) const noexcept { return static_cast<std::size_t>(packet - burst_); }

  void process_guest(Batch& batch, PortIndex ingress) noexcept;
  void process_underlay(Batch& batch) noexcept;
  void forward_from_tunnel(Batch& batch, OverlayIndex overlay_index) noexcept;
  void take_same(Batch& batch, OverlayIndex overlay, Batch& same) noexcept;
  void process_bundles(Packet* burst, unsigned count) noexcept;
  void process_bundle(Packet& bundle) noexcept;
  [[nodiscard]] bool take_probe(Packet& packet, const Domain& domain) noexcept;
  [[nodiscard]] OverlayIndex decap_all(Batch& batch) noexcept;
  void take_own_address(Packet& packet) noexcept;
  void forward(Batch& batch, OverlayIndex overlay_index, const VlanTable& vlans, bool learns) noexcept;
  void classify_all(Batch& batch, const Fdb& fdb, const VlanTable& vlans) noexcept;
  void bridge_all(Batch& batch, const OverlayState& overlay, OverlayIndex overlay_index, bool learns) noexcept;
  [[nodiscard]] DropReason report_source(const Packet& packet, OverlayIndex overlay, SourceVerdict verdict) noexcept;
  void report(const protocol::LearnEvent& event, bool urgent) noexcept;
  void refuse(Packet& packet, DropReason reason) noexcept;
  void refuse_outgoing(Packet& packet, DropReason reason, VtepIndex vtep, const Domain& domain) noexcept;
  [[nodiscard]] std::uint16_t mtu_towards(Location egress, const Packet& packet, const Domain& domain) const noexcept;
  void tell_too_big(const Packet& packet, Location egress, const Domain& domain) noexcept;
  using Packets = std::span<Packet* const>;
  [[nodiscard]] DropReason send_one_to_vtep(Packet& packet, const Vtep& vtep, const Domain& domain) noexcept;
  void send_to_vtep(Packets packets, VtepIndex vtep, const Domain& domain) noexcept;
  void send_to_port(Packets packets, PortIndex index, const Domain& domain) noexcept;
  void send_to(Packets packets, Location target, const Domain& domain) noexcept;
  void send_to(Packet& packet, Location target, const Domain& domain) noexcept;
  void flood(Packet& packet, const Domain& domain) noexcept;
  void send_copy(const Packet& packet, Location target, const Domain& domain) noexcept;
  [[nodiscard]] bool is_storm(const Packet& packet) noexcept;
  void punt(const Packet& packet, std::uint32_t layer3) noexcept;

  SpscQueue<PuntedFrame>& punts_;
  LearnReporter reporter_;
  WorkerCounters counters_;
  Sender sender_;
  const ForwardingState* state_ = nullptr;
  const Assignment* assignment_ = nullptr;
  Moment now_;
  const Domain* domain_ = nullptr;  // of the batch in hand
  bool has_news_ = false;

  // Of the burst in hand, by position in it.
  Packet* burst_ = nullptr;
  std::array<OverlayIndex, kMaxBurst> overlay_of_;  // where they are of more than one
  std::array<IpAddress, kMaxBurst> unknown_source_;
  DecapCache decap_cache_;
  std::unique_ptr<Packet[]> unbundled_;  // kMaxBurst of them

  // By port, where the port has no bucket shared by all workers.
  std::unique_ptr<TokenBucket[]> storm_, too_big_;
};

}  // namespace vx
