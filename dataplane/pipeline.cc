// SPDX-License-Identifier: Apache-2.0
#include "dataplane/pipeline.h"

#include <algorithm>
#include <cstring>

#include "dataplane/bridge.h"
#include "dataplane/classify.h"
#include "dataplane/egress_tag.h"
#include "dataplane/flood.h"
#include "dataplane/mtu.h"
#include "dataplane/own_address.h"

namespace vx {

Pipeline::Pipeline(const PipelineLimits& limits, BufferPool& pool, SpscQueue<protocol::LearnEvent>& learn,
                   SpscQueue<PuntedFrame>& punts)
    : pool_(pool),
      punts_(punts),
      reporter_(learn, limits.learn_events_per_second, limits.learn_queue_capacity),
      tx_(std::make_unique<TxList[]>(kMaxPorts)),
      egress_(std::make_unique<Egress[]>(kMaxPorts)),
      side_(std::make_unique<Packet[]>(kSideDescriptors)),
      storm_(std::make_unique<TokenBucket[]>(kMaxPorts)) {}

void Pipeline::use(const ForwardingState* state, const Assignment* assignment) noexcept {
  state_ = state;
  assignment_ = assignment;
  decap_cache_ = {};
  for (PortIndex i = 0; i < kMaxPorts; ++i) {
    egress_[i] = {};
    if (state == nullptr || assignment == nullptr || i >= state->ports.size()) continue;
    const PortState& port = state->ports[i];
    const bool has_queue = i < assignment->tx.size() && assignment->tx[i].port != nullptr;
    egress_[i] = {port.vlans.get(), port.overlay, port.port != nullptr && port.is_up && has_queue};
  }
}

// ---- the batch driver ----

template <typename Step>
void Pipeline::for_each_packet(Batch& batch, Step&& step) noexcept {
  unsigned kept = 0;
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet& packet = *batch.packets[i];
    const DropReason reason = step(packet);
    if (reason != DropReason::kNone) [[unlikely]] {
      drop_received(packet, reason);
      continue;
    }
    batch.packets[kept++] = &packet;
  }
  batch.count = kept;
}

void Pipeline::process(Packet* burst, unsigned count, PortIndex ingress, Moment now) noexcept {
  now_ = now;
  burst_ = burst;
  Batch batch;
  batch.count = count;
  std::uint64_t bytes = 0;
  for (unsigned i = 0; i < count; ++i) {
    __builtin_prefetch(burst[i].data);
    burst[i].ingress_port = ingress;
    bytes += burst[i].length;
    batch.packets[i] = &burst[i];
  }
  PortCounters& port = counters_.ports[ingress];
  port.rx_packets += count;
  port.rx_bytes += bytes;
  counters_.packets += count;

  if (state_ == nullptr || assignment_ == nullptr || ingress >= state_->ports.size()) [[unlikely]]
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
  else if (state_->ports[ingress].is_underlay)
    process_underlay(batch);
  else
    process_guest(batch, ingress);
  recycle();
}

// ---- one packet on its way out ----

[[gnu::always_inline]] inline void Pipeline::enqueue(Packet& packet, PortIndex port) noexcept {
  TxList& list = tx_[port];
  if (list.count == 0) active_[active_count_++] = port;
  list.bytes += packet.length;
  list.packets[list.count++] = &packet;
  if (list.count == list.packets.size()) [[unlikely]] flush_port(port);
}

[[gnu::always_inline]] inline void Pipeline::send_to_port(Packet& packet, PortIndex port) noexcept {
  if (port >= kMaxPorts || !egress_[port].can_send) [[unlikely]]
    return drop_outgoing(packet, DropReason::kPortDown, port);
  enqueue(packet, port);
}

[[gnu::always_inline]] inline void Pipeline::send_to_vtep(Packet& packet, VtepIndex vtep, const Domain& domain) noexcept {
  const VtepTable& vteps = domain.overlay.vteps;
  if (vtep >= vteps.size() || !vteps[vtep].exists || domain.tunnel_vlans == nullptr) [[unlikely]]
    return drop_outgoing(packet, DropReason::kUnderlayUnresolved, domain.underlay);
  DropReason reason = apply_egress_tag(packet, *domain.tunnel_vlans);
  if (reason == DropReason::kNone) [[likely]] reason = encap(packet, vteps[vtep], domain.encap);
  if (reason != DropReason::kNone) [[unlikely]] return drop_outgoing(packet, reason, domain.underlay);
  send_to_port(packet, domain.underlay);
}

// Inlined into forward()'s loop: one egress a packet, most often the underlay.
[[gnu::always_inline]] inline void Pipeline::send_to(Packet& packet, Location target, const Domain& domain) noexcept {
  if (target.is_vtep()) return send_to_vtep(packet, target.index(), domain);
  const PortIndex index = target.raw();
  if (index >= kMaxPorts || egress_[index].overlay != domain.index || egress_[index].vlans == nullptr) [[unlikely]]
    return drop_outgoing(packet, DropReason::kPortDown, index);
  if (const auto reason = apply_egress_tag(packet, *egress_[index].vlans); reason != DropReason::kNone) [[unlikely]]
    return drop_outgoing(packet, reason, index);
  send_to_port(packet, index);
}

// ---- the order of the steps ----

void Pipeline::process_guest(Batch& batch, PortIndex ingress) noexcept {
  const PortState& port = state_->ports[ingress];
  if (port.overlay >= state_->overlays.size() || port.vlans == nullptr || !port.is_up) [[unlikely]] {
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
    return;
  }
  for (unsigned i = 0; i < batch.count; ++i) {
    __builtin_prefetch(batch.packets[i]->data - 50, 1);  // the outer header will be written there
    batch.packets[i]->source = Location::port(ingress);
  }
  forward(batch, port.overlay, *port.vlans, port.learning);
}

void Pipeline::process_underlay(Batch& batch) noexcept {
  decap_all(batch);
  // One overlay a round; nearly always there is one only.
  while (batch.count > 0) {
    const OverlayIndex overlay_index = overlay_of_[static_cast<std::size_t>(batch.packets[0] - burst_)];
    Batch same;
    unsigned others = 0;
    for (unsigned i = 0; i < batch.count; ++i) {
      Packet* packet = batch.packets[i];
      if (overlay_of_[static_cast<std::size_t>(packet - burst_)] == overlay_index) [[likely]]
        same.packets[same.count++] = packet;
      else
        batch.packets[others++] = packet;
    }
    batch.count = others;
    const OverlayState& overlay = state_->overlays[overlay_index];
    if (overlay.tunnel_vlans == nullptr) [[unlikely]]
      for_each_packet(same, [](Packet&) { return DropReason::kVlanNotMember; });
    else
      forward(same, overlay_index, *overlay.tunnel_vlans, overlay.learning);
  }
}

void Pipeline::forward(Batch& batch, OverlayIndex overlay_index, const VlanTable& vlans, bool learns) noexcept {
  const OverlayState& overlay = state_->overlays[overlay_index];
  if (overlay.fdb == nullptr) [[unlikely]] {
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
    return;
  }
  classify_all(batch, *overlay.fdb, vlans);
  bridge_all(batch, overlay, overlay_index, learns);
  const Domain domain{overlay, overlay.tunnel_vlans.get(), overlay_index, state_->underlay.port,
                      {state_->underlay.mtu, overlay.tos, overlay.tos_inherit, overlay.udp_csum}};
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet& packet = *batch.packets[i];
    if (packet.flood) [[unlikely]]
      flood(packet, domain);
    else
      send_to(packet, packet.egress, domain);
  }
}

// Both lookups of every packet are under way before the first is made.
void Pipeline::classify_all(Batch& batch, const Fdb& fdb, const VlanTable& vlans) noexcept {
  if (batch.count == 0) return;
  const DropReason truncated = is_from_tunnel(*batch.packets[0]) ? DropReason::kInnerTruncated : DropReason::kGuestTruncated;
  for_each_packet(batch, [&](Packet& packet) {
    const DropReason reason = classify(packet, vlans, truncated);
    fdb.prefetch(packet.source_key);
    fdb.prefetch(packet.destination_key);
    return reason;
  });
}

void Pipeline::bridge_all(Batch& batch, const OverlayState& overlay, OverlayIndex overlay_index, bool learns) noexcept {
  if (batch.count == 0) return;
  Fdb& fdb = *overlay.fdb;
  const std::uint16_t seconds = now_.seconds, mtu = overlay.mtu;
  // Netdev mode: what comes out of the tunnel goes up, with no lookup.
  const bool to_uplink = is_from_tunnel(*batch.packets[0]) && overlay.uplink != kNoIndex;
  BridgeShortcut shortcut;
  for_each_packet(batch, [&](Packet& packet) {
    DropReason reason = DropReason::kNone;
    if (learns && !shortcut.is_known_source(packet, fdb, seconds)) [[unlikely]] {
      const SourceVerdict verdict = check_source(packet, fdb, seconds);
      if (verdict != SourceVerdict::kKnown) [[unlikely]] reason = report_source(packet, overlay_index, verdict);
    }
    if (to_uplink) [[unlikely]] {
      packet.flood = false;
      packet.egress = Location::port(overlay.uplink);
    } else if (reason == DropReason::kNone && !shortcut.is_usual_egress(packet, fdb)) [[unlikely]] {
      reason = find_egress(packet, fdb, seconds);
      if (reason == DropReason::kNone && !packet.flood) shortcut.remember(packet.egress, fdb, seconds);
    }
    return reason == DropReason::kNone ? check_overlay_mtu(packet, mtu) : reason;
  });
}

// ---- in ----

void Pipeline::decap_all(Batch& batch) noexcept {
  unsigned kept = 0;
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet& packet = *batch.packets[i];
    const auto at = static_cast<std::size_t>(&packet - burst_);
    const DecapResult result = decap(packet, *state_, decap_cache_, unknown_source_[at]);
    if (result.reason == DropReason::kNone) [[likely]] {
      overlay_of_[at] = result.overlay;
      batch.packets[kept++] = &packet;
    } else if (result.reason == DropReason::kOuterNotForUs && state_->underlay.own_address) {
      take_own_address(packet);
    } else {
      drop_received(packet, result.reason);
    }
  }
  batch.count = kept;
}

void Pipeline::take_own_address(Packet& packet) noexcept {
  const UnderlayState& underlay = state_->underlay;
  const OwnVerdict verdict = judge_own_address(packet, underlay);
  if (verdict.kind == OwnKind::kNone) return drop_received(packet, DropReason::kOuterNotForUs);
  if (verdict.punt) punt(packet, verdict.layer3);
  if (!verdict.is_answered()) {
    ++counters_.consumed;
    return release(packet);
  }
  const DropReason reason = answer_own_address(packet, underlay, verdict);
  if (reason != DropReason::kNone) return drop_received(packet, reason);
  ++counters_.consumed;
  ++counters_.generated;
  send_to_port(packet, underlay.port);
}

void Pipeline::punt(const Packet& packet, std::uint32_t layer3) noexcept {
  PuntedFrame frame;
  frame.port = packet.ingress_port;
  const std::uint32_t tag_bytes = layer3 - sizeof(EthernetHeader);
  const std::uint32_t behind = std::min<std::uint32_t>(packet.length - layer3, frame.bytes.size() - sizeof(EthernetHeader));
  std::memcpy(frame.bytes.data(), packet.data, 12);
  std::memcpy(frame.bytes.data() + 12, packet.data + 12 + tag_bytes, 2);
  std::memcpy(frame.bytes.data() + sizeof(EthernetHeader), packet.data + layer3, behind);
  frame.length = static_cast<std::uint16_t>(sizeof(EthernetHeader) + behind);
  if (punts_.try_push(frame)) {
    ++counters_.punts;
    has_news_ = true;
  } else {
    ++counters_.punts_lost;
  }
}

// Returns why the frame is dropped for its source, if it is.
[[gnu::cold]] DropReason Pipeline::report_source(const Packet& packet, OverlayIndex overlay, SourceVerdict verdict) noexcept {
  protocol::LearnEvent event;
  event.key = packet.source_key;
  event.overlay = overlay;
  event.location = packet.source.raw();
  event.kind = verdict == SourceVerdict::kViolation ? protocol::LearnKind::kViolation : protocol::LearnKind::kMac;
  if (packet.source == Location()) {  // behind a VTEP that control has not installed yet
    event.address = unknown_source_[static_cast<std::size_t>(&packet - burst_)];
    protocol::LearnEvent vtep;
    vtep.overlay = overlay;
    vtep.location = kNoIndex;
    vtep.kind = protocol::LearnKind::kVtep;
    vtep.address = event.address;
    report(vtep, false);
  }
  report(event, verdict == SourceVerdict::kMovedNow);
  return verdict == SourceVerdict::kViolation ? DropReason::kSmacMovedStatic : DropReason::kNone;
}

void Pipeline::report(const protocol::LearnEvent& event, bool urgent) noexcept {
  switch (reporter_.report(event, now_.ns, urgent)) {
    case LearnReporter::Result::kTold:
      ++counters_.learn_events;
      has_news_ = true;
      break;
    case LearnReporter::Result::kLost: ++counters_.learn_events_lost; break;
    case LearnReporter::Result::kRepeated: break;
  }
}

// ---- out ----

bool Pipeline::is_storm(const Packet& packet) noexcept {
  if (!packet.source.is_port()) return false;
  const PortState& port = state_->ports[packet.ingress_port];
  if (port.storm_pps == 0) return false;
  // A tenth of a second's worth at once.
  const TokenRate rate = TokenRate::of(port.storm_pps, std::max(port.storm_pps / 10, 1u));
  if (port.storm != nullptr) return !port.storm->take(now_.ns, rate);
  return !storm_[packet.ingress_port].take(now_.ns, rate);
}

void Pipeline::flood(Packet& packet, const Domain& domain) noexcept {
  if (is_storm(packet)) return drop_received(packet, DropReason::kStormLimit);
  // Copies are made before the original changes: it goes to the last target.
  Location last;
  const unsigned targets = for_each_flood_target(packet, domain.overlay, *state_, [&](Location target) {
    if (last != Location()) send_copy(packet, last, domain);
    last = target;
  });
  if (targets == 0) return drop_received(packet, DropReason::kNoFloodTarget);
  send_to(packet, last, domain);
}

// A copy that could not be made counts as made and dropped, so that every target has its trace.
void Pipeline::send_copy(const Packet& packet, Location target, const Domain& domain) noexcept {
  ++counters_.cloned;
  Packet* copy = make_copy(packet);
  if (copy != nullptr) return send_to(*copy, target, domain);
  counters_.count_drop(DropReason::kNoBuffer);
  const PortIndex port = target.is_vtep() ? state_->underlay.port : target.raw();
  if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
}

Packet* Pipeline::make_copy(const Packet& packet) noexcept {
  if (side_count_ == kSideDescriptors) recycle();
  Packet* copy = &side_[side_count_];
  if (pool_.allocate(copy, 1) != 1) return nullptr;
  ++side_count_;
  if (copy->tailroom < packet.length) {  // cannot be: all buffers are of one size; yet never write past one
    release(*copy);
    return nullptr;
  }
  std::memcpy(copy->data, packet.data, packet.length);
  copy->length = packet.length;
  copy->tailroom -= packet.length;
  copy->ingress_port = packet.ingress_port;
  copy->source = packet.source;
  copy->tci = packet.tci;
  copy->is_tagged = packet.is_tagged;
  copy->offload = packet.offload;
  return copy;
}

void Pipeline::generate(PortIndex port, std::span<const std::uint8_t> frame) noexcept {
  ++counters_.generated;
  Packet* packet = &side_[0];
  side_count_ = 1;
  if (frame.size() < sizeof(EthernetHeader) || pool_.allocate(packet, 1) != 1) {
    side_count_ = 0;
    counters_.count_drop(DropReason::kNoBuffer);
    if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
    return;
  }
  if (packet->tailroom < frame.size()) {
    drop_outgoing(*packet, DropReason::kNoBuffer, port);
    return recycle();
  }
  std::memcpy(packet->data, frame.data(), frame.size());
  packet->length = static_cast<std::uint32_t>(frame.size());
  packet->tailroom -= packet->length;
  if (state_ == nullptr || assignment_ == nullptr) {
    drop_outgoing(*packet, DropReason::kPortDown, port);
  } else {
    const bool is_underlay = port < state_->ports.size() && state_->ports[port].is_underlay;
    if (is_underlay && state_->underlay.vlan != 0) push_tag(*packet, state_->underlay.vlan);
    send_to_port(*packet, port);
  }
  recycle();
}

// Leaves the port in active_: an empty list there is skipped.
void Pipeline::flush_port(PortIndex port) noexcept {
  TxList& list = tx_[port];
  const TxQueueRef& queue = assignment_->tx[port];
  PortCounters& counters = counters_.ports[port];
  std::uint64_t bytes = list.bytes;
  if (queue.lock != nullptr)
    while (queue.lock->test_and_set(std::memory_order_acquire)) __builtin_ia32_pause();
  unsigned done = queue.port->tx(queue.queue, list.packets.data(), list.count);
  unsigned sent = done;
  while (done < list.count) [[unlikely]] {
    Packet& refused = *list.packets[done++];
    const bool is_full = refused.reason == DropReason::kNone;
    bytes -= refused.length;
    drop_outgoing(refused, is_full ? DropReason::kTxFull : refused.reason, port);
    if (is_full || done == list.count) continue;
    const unsigned more = queue.port->tx(queue.queue, list.packets.data() + done, list.count - done);
    done += more;
    sent += more;
  }
  if (queue.lock != nullptr) queue.lock->clear(std::memory_order_release);
  counters.tx_packets += sent;
  counters.tx_bytes += bytes;
  list.count = 0;
  list.bytes = 0;
}

void Pipeline::flush() noexcept {
  for (unsigned i = 0; i < active_count_; ++i)
    if (tx_[active_[i]].count != 0) flush_port(active_[i]);
  active_count_ = 0;
}

// Everything in hand leaves; all descriptors of copies are free again.
void Pipeline::recycle() noexcept {
  flush();
  free_released();
  side_count_ = 0;
}

void Pipeline::drop_received(Packet& packet, DropReason reason) noexcept {
  counters_.count_drop(reason);
  ++counters_.ports[packet.ingress_port].rx_dropped;
  release(packet);
}

void Pipeline::drop_outgoing(Packet& packet, DropReason reason, PortIndex port) noexcept {
  counters_.count_drop(reason);
  if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
  release(packet);
}

void Pipeline::release(Packet& packet) noexcept {
  released_[released_count_++] = &packet;
  if (released_count_ == released_.size()) free_released();
}

void Pipeline::free_released() noexcept {
  if (released_count_ != 0) pool_.free(released_.data(), released_count_);
  released_count_ = 0;
}

}  // namespace vx
