// SPDX-License-Identifier: Apache-2.0
#include "dataplane/pipeline.h"

#include <algorithm>
#include <cstring>

#include "dataplane/bridge.h"
#include "dataplane/classify.h"
#include "dataplane/egress_tag.h"
#include "dataplane/flood.h"
#include "dataplane/mss_clamp.h"
#include "dataplane/mtu.h"
#include "dataplane/own_address.h"
#include "dataplane/packet_too_big.h"
#include "dataplane/probe.h"
#include "dataplane/unbundle.h"

namespace vx {

Pipeline::Pipeline(const PipelineLimits& limits, BufferPool& pool, SpscQueue<protocol::LearnEvent>& learn,
                   SpscQueue<PuntedFrame>& punts)
    : punts_(punts),
      reporter_(learn, limits.learn_events_per_second, limits.learn_queue_capacity),
      sender_(pool, counters_),
      unbundled_(std::make_unique<Packet[]>(kMaxBurst)),
      storm_(std::make_unique<TokenBucket[]>(kMaxPorts)),
      too_big_(std::make_unique<TokenBucket[]>(kMaxPorts)) {}

void Pipeline::use(const ForwardingState* state, const Assignment* assignment) noexcept {
  state_ = state;
  assignment_ = assignment;
  decap_cache_ = {};
  sender_.use(state, assignment);
}

// ---- the batch driver ----

template <typename Step>
void Pipeline::for_each_packet(Batch& batch, Step&& step) noexcept {
  unsigned kept = 0;
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet& packet = *batch.packets[i];
    const DropReason reason = step(packet);
    if (reason != DropReason::kNone) [[unlikely]] {
      refuse(packet, reason);
      continue;
    }
    batch.packets[kept++] = &packet;
  }
  batch.count = kept;
}

void Pipeline::process(Packet* burst, unsigned count, PortIndex ingress, Moment now) noexcept {
  now_ = now;
  burst_ = burst;
  sender_.begin_burst(now.ns);
  Batch batch;
  batch.count = count;
  std::uint64_t bytes = 0;
  unsigned super_frames = 0;
  const bool is_guest = state_ != nullptr && ingress < state_->ports.size() && !state_->ports[ingress].is_underlay;
  const Location source = is_guest ? Location::port(ingress) : Location();
  for (unsigned i = 0; i < count; ++i) {
    __builtin_prefetch(burst[i].data);
    if (is_guest) __builtin_prefetch(burst[i].data - 50, 1);  // the outer header will be written there
    burst[i].set_origin(ingress, source);
    bytes += burst[i].length;
    super_frames |= burst[i].offload.gso_type;
    batch.packets[i] = &burst[i];
  }
  PortCounters& port = counters_.ports[ingress];
  port.rx_packets += count;
  port.rx_bytes += bytes;
  counters_.packets += count;

  if (state_ == nullptr || assignment_ == nullptr || ingress >= state_->ports.size()) [[unlikely]]
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
  else if (state_->ports[ingress].is_underlay)
    super_frames == 0 ? process_underlay(batch) : process_bundles(burst, count);
  else
    process_guest(batch, ingress);
  sender_.end_burst();
}

[[gnu::cold]] void Pipeline::discard(Packet* burst, unsigned count, PortIndex ingress, DropReason reason) noexcept {
  PortCounters& port = counters_.ports[ingress];
  port.rx_packets += count;
  counters_.packets += count;
  for (unsigned i = 0; i < count; ++i) {
    burst[i].ingress_port = ingress;
    port.rx_bytes += burst[i].length;
    sender_.drop_received(burst[i], reason);
  }
  sender_.end_burst();
}

// Of a batch of several overlays, as overlay_of_ says: those of one at a time.
template <typename Forward>
void Pipeline::for_each_overlay(Batch& batch, Forward&& forward) noexcept {
  while (batch.count > 0) {
    const OverlayIndex overlay = overlay_of_[place_of(batch.packets[0])];
    Batch same;
    take_same(batch, overlay, same);
    forward(same, overlay);
  }
}

// ---- the order of the steps ----

void Pipeline::process_guest(Batch& batch, PortIndex ingress) noexcept {
  const PortState& port = state_->ports[ingress];
  if (port.overlay >= state_->overlays.size() || port.vlans == nullptr || !port.is_up) [[unlikely]] {
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
    return;
  }
  const auto& by_vid = state_->overlays[port.overlay].by_vid;
  if (by_vid == nullptr) [[likely]] return forward(batch, port.overlay, *port.vlans, port.learning);
  for (unsigned i = 0; i < batch.count; ++i)
    overlay_of_[place_of(batch.packets[i])] = (*by_vid)[peek_vid(*batch.packets[i], *port.vlans)];
  for_each_overlay(batch, [&](Batch& same, OverlayIndex overlay_index) { forward(same, overlay_index, *port.vlans, port.learning); });
}

void Pipeline::process_underlay(Batch& batch) noexcept {
  const OverlayIndex common = decap_all(batch);
  if (common != kNoIndex) [[likely]] return forward_from_tunnel(batch, common);
  for_each_overlay(batch, [&](Batch& same, OverlayIndex overlay_index) { forward_from_tunnel(same, overlay_index); });
}

void Pipeline::forward_from_tunnel(Batch& batch, OverlayIndex overlay_index) noexcept {
  const OverlayState& overlay = state_->overlays[overlay_index];
  if (overlay.tunnel_vlans == nullptr) [[unlikely]]
    for_each_packet(batch, [](Packet&) { return DropReason::kVlanNotMember; });
  else
    forward(batch, overlay_index, *overlay.tunnel_vlans, overlay.learning);
}

// Moves the packets of that overlay from `batch` to `same`.
[[gnu::cold]] void Pipeline::take_same(Batch& batch, OverlayIndex overlay, Batch& same) noexcept {
  unsigned others = 0;
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet* packet = batch.packets[i];
    if (overlay_of_[place_of(packet)] == overlay) same.packets[same.count++] = packet;
    else batch.packets[others++] = packet;
  }
  batch.count = others;
}

// A bundle is counted as the datagrams in it. In order: what came before it has left, or is in its list, when it is taken apart.
[[gnu::cold]] void Pipeline::process_bundles(Packet* burst, unsigned count) noexcept {
  for (unsigned i = 0; i < count; ++i) {
    if (burst[i].offload.is_super_frame()) {
      process_bundle(burst[i]);
      continue;
    }
    Batch one;
    one.count = 1;
    one.packets[0] = &burst[i];
    burst_ = burst;
    process_underlay(one);
  }
}

void Pipeline::process_bundle(Packet& bundle) noexcept {
  const unsigned datagrams = unbundle_count(bundle);
  if (datagrams == 0) return sender_.drop_received(bundle, DropReason::kOuterTruncated);
  PortCounters& port = counters_.ports[bundle.ingress_port];
  port.rx_packets += datagrams - 1;
  port.rx_bytes += std::uint64_t{datagrams - 1} * bundle.offload.header_length;
  counters_.packets += datagrams - 1;
  burst_ = unbundled_.get();
  for (unsigned done = 0; done < datagrams;) {
    const unsigned wanted = std::min(datagrams - done, kMaxBurst);
    const unsigned got = sender_.take_buffers(unbundled_.get(), wanted);
    Batch batch;
    for (unsigned i = 0; i < got; ++i) {
      Packet& packet = unbundled_[i];
      packet.ingress_port = bundle.ingress_port;
      if (fill_from_bundle(bundle, done + i, packet)) batch.packets[batch.count++] = &packet;
      else sender_.drop_received(packet, DropReason::kNoBuffer);
    }
    process_underlay(batch);
    sender_.end_burst();
    done += got;
    if (got == wanted) continue;
    counters_.drops[static_cast<std::size_t>(DropReason::kNoBuffer)] += datagrams - done;
    port.rx_dropped += datagrams - done;
    break;
  }
  sender_.release(bundle);
}

void Pipeline::forward(Batch& batch, OverlayIndex overlay_index, const VlanTable& vlans, bool learns) noexcept {
  const OverlayState& overlay = state_->overlays[overlay_index];
  if (overlay.fdb == nullptr) [[unlikely]] {
    for_each_packet(batch, [](Packet&) { return DropReason::kPortDown; });
    return;
  }
  const OverlayIndex home = overlay.home == kNoIndex ? overlay_index : overlay.home;
  const Domain domain{overlay, overlay.tunnel_vlans.get(), home, state_->underlay.port,
                      {state_->underlay.mtu, overlay.tos, overlay.tos_inherit, overlay.udp_csum}};
  domain_ = &domain;
  classify_all(batch, *overlay.fdb, vlans);
  if (overlay.mss_clamp) [[unlikely]]
    for (unsigned i = 0; i < batch.count; ++i) clamp_mss(*batch.packets[i], overlay.mtu);
  bridge_all(batch, overlay, overlay_index, learns);
  for (unsigned i = 0; i < batch.count;) {
    Packet& packet = *batch.packets[i];
    unsigned end = i + 1;
    if (packet.flood) [[unlikely]] {
      flood(packet, domain);
    } else {
      const std::uint32_t egress = packet.egress_word();
      while (end < batch.count && batch.packets[end]->egress_word() == egress) ++end;
      send_to({&batch.packets[i], end - i}, packet.egress, domain);
    }
    i = end;
  }
  domain_ = nullptr;
}

// Both lookups of every packet are under way before the first is made.
void Pipeline::classify_all(Batch& batch, const Fdb& fdb, const VlanTable& vlans) noexcept {
  if (batch.count == 0) return;
  const DropReason truncated = is_from_tunnel(*batch.packets[0]) ? DropReason::kInnerTruncated : DropReason::kGuestTruncated;
  ClassifyShortcut shortcut;
  for_each_packet(batch, [&](Packet& packet) {
    if (shortcut.is_as_last(packet)) return DropReason::kNone;
    const DropReason reason = classify(packet, vlans, truncated);
    if (reason == DropReason::kNone) [[likely]] shortcut.remember(packet);
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
  const bool from_isolated = is_isolated(batch.packets[0]->source, overlay, *state_);
  BridgeShortcut shortcut;
  for_each_packet(batch, [&](Packet& packet) {
    DropReason reason = DropReason::kNone;
    if (learns && !shortcut.is_known_source(packet, fdb, seconds)) [[unlikely]] {
      const SourceVerdict verdict = check_source(packet, fdb, seconds);
      if (verdict != SourceVerdict::kKnown) [[unlikely]] {
        reason = report_source(packet, overlay_index, verdict);
        shortcut.forget();  // it may have been the last one's destination that moved
      }
    }
    if (to_uplink) [[unlikely]] {
      packet.set_egress(Location::port(overlay.uplink));
    } else if (reason == DropReason::kNone && !shortcut.is_usual_egress(packet, fdb)) [[unlikely]] {
      reason = find_egress(packet, fdb, seconds);
      if (reason == DropReason::kNone && !packet.flood) {
        // The whole batch is of one port: what the shortcut remembers is allowed for all of it.
        if (from_isolated && is_isolated(packet.egress, overlay, *state_)) reason = DropReason::kPortIsolated;
        else shortcut.remember(packet.egress, fdb, seconds);
      }
    }
    return reason == DropReason::kNone ? check_overlay_mtu(packet, mtu) : reason;
  });
}

// ---- exits that tell somebody ----

[[gnu::cold]] void Pipeline::refuse(Packet& packet, DropReason reason) noexcept {
  if (reason == DropReason::kMtuExceeded && domain_ != nullptr) tell_too_big(packet, packet.egress, *domain_);
  if (reason == DropReason::kLinkLocal && domain_ != nullptr && take_probe(packet, *domain_)) return;
  sender_.drop_received(packet, reason);
}

[[gnu::cold]] void Pipeline::refuse_outgoing(Packet& packet, DropReason reason, VtepIndex vtep, const Domain& domain) noexcept {
  if (reason == DropReason::kUnderlayMtuExceeded) tell_too_big(packet, Location::vtep(vtep), domain);
  sender_.drop_outgoing(packet, reason, domain.underlay);
}

// False: it is none. The answer goes to the VTEP that asked, whatever the VLANs of the tunnel.
bool Pipeline::take_probe(Packet& packet, const Domain& domain) noexcept {
  if (!packet.source.is_vtep()) return false;
  const ProbeKind kind = judge_probe(packet);
  if (kind == ProbeKind::kNone) return false;
  ++counters_.consumed;
  if (kind == ProbeKind::kReply) {
    punt(packet, sizeof(EthernetHeader));
    sender_.release(packet);
    return true;
  }
  answer_probe(packet, domain.overlay.local);
  ++counters_.generated;
  const VtepIndex vtep = packet.source.index();
  const DropReason reason = encap(packet, domain.overlay.vteps[vtep], domain.encap);
  if (reason == DropReason::kNone) sender_.send(packet, domain.underlay);
  else sender_.drop_outgoing(packet, reason, domain.underlay);
  return true;
}

// What would have passed to `egress`: the overlay's MTU, or less where the underlay has no room for it and this frame's tags.
std::uint16_t Pipeline::mtu_towards(Location egress, const Packet& packet, const Domain& domain) const noexcept {
  const std::uint16_t mtu = domain.overlay.mtu;
  const VtepTable& vteps = domain.overlay.vteps;
  if (!egress.is_vtep() || egress.index() >= vteps.size() || domain.tunnel_vlans == nullptr) return mtu;
  const Vtep& vtep = vteps[egress.index()];
  const bool leaves_tagged = !domain.tunnel_vlans->untagged.contains(packet.vid());
  const std::uint32_t overhead = vtep.header_length - vtep.ip_offset + layer3_of(packet.data, packet.length).offset +
                                 (leaves_tagged ? kVlanTagBytes : 0) - (packet.is_tagged ? kVlanTagBytes : 0);
  const std::uint16_t outer = outer_ceiling(vtep, domain.encap);
  return outer <= overhead ? mtu : std::min(mtu, static_cast<std::uint16_t>(outer - overhead));
}

void Pipeline::tell_too_big(const Packet& packet, Location egress, const Domain& domain) noexcept {
  if (packet.source == Location()) return;
  Packet* message = sender_.make_empty();
  if (message == nullptr) return;
  if (!make_packet_too_big(packet, mtu_towards(egress, packet, domain), *message)) return sender_.release(*message);
  constexpr TokenRate kTold = TokenRate::of(kTooBigPerSecond, kTooBigPerSecond / 10);
  const PortState& port = state_->ports[packet.ingress_port];
  const bool may_tell = port.too_big != nullptr ? port.too_big->take(now_.ns, kTold) : too_big_[packet.ingress_port].take(now_.ns, kTold);
  if (!may_tell) {
    ++counters_.too_big_limited;
    return sender_.release(*message);
  }
  ++counters_.too_big_told;
  ++counters_.generated;
  send_to(*message, packet.source, domain);
}

// ---- in ----

// The overlay of the packets left; kNoIndex: none is left, or overlay_of_ says of each.
OverlayIndex Pipeline::decap_all(Batch& batch) noexcept {
  unsigned kept = 0;
  OverlayIndex common = kNoIndex;
  bool is_mixed = false;
  for (unsigned i = 0; i < batch.count; ++i) {
    Packet& packet = *batch.packets[i];
    if (decap_cache_.has_checksum && i + 1 < batch.count) prefetch_payload(*batch.packets[i + 1]);
    if (!decap_as_last(packet, decap_cache_)) [[unlikely]] {
      const DecapResult result = decap(packet, *state_, decap_cache_, unknown_source_[place_of(&packet)]);
      if (result.reason == DropReason::kOuterNotForUs && state_->underlay.own_address) {
        take_own_address(packet);
        continue;
      }
      if (result.reason != DropReason::kNone) {
        sender_.drop_received(packet, result.reason);
        continue;
      }
    }
    const OverlayIndex overlay = decap_cache_.overlay;  // whichever accepted it
    if (overlay != common) [[unlikely]] {
      is_mixed = kept != 0;
      if (is_mixed && common != kNoIndex)
        for (unsigned k = 0; k < kept; ++k) overlay_of_[place_of(batch.packets[k])] = common;
      common = is_mixed ? kNoIndex : overlay;
    }
    if (is_mixed) [[unlikely]] overlay_of_[place_of(&packet)] = overlay;
    batch.packets[kept++] = &packet;
  }
  batch.count = kept;
  return common;
}

void Pipeline::take_own_address(Packet& packet) noexcept {
  const UnderlayState& underlay = state_->underlay;
  const OwnVerdict verdict = judge_own_address(packet, underlay);
  if (verdict.kind == OwnKind::kNone) return sender_.drop_received(packet, DropReason::kOuterNotForUs);
  if (verdict.punt) punt(packet, verdict.layer3);
  if (!verdict.is_answered()) {
    ++counters_.consumed;
    return sender_.release(packet);
  }
  const DropReason reason = answer_own_address(packet, underlay, verdict);
  if (reason != DropReason::kNone) return sender_.drop_received(packet, reason);
  ++counters_.consumed;
  ++counters_.generated;
  sender_.send(packet, underlay.port);
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
    event.address = unknown_source_[place_of(&packet)];
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
  if (is_storm(packet)) return sender_.drop_received(packet, DropReason::kStormLimit);
  // Copies are made before the original changes: it goes to the last target.
  Location last;
  const unsigned targets = for_each_flood_target(packet, domain.overlay, *state_, [&](Location target) {
    if (last != Location()) send_copy(packet, last, domain);
    last = target;
  });
  if (targets == 0) return sender_.drop_received(packet, DropReason::kNoFloodTarget);
  send_to(packet, last, domain);
}

// A copy that could not be made counts as made and dropped, so that every target has its trace.
void Pipeline::send_copy(const Packet& packet, Location target, const Domain& domain) noexcept {
  ++counters_.cloned;
  Packet* copy = sender_.make_copy(packet);
  if (copy != nullptr) return send_to(*copy, target, domain);
  counters_.count_drop(DropReason::kNoBuffer);
  const PortIndex port = target.is_vtep() ? state_->underlay.port : target.raw();
  if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
}

void Pipeline::generate(PortIndex port, std::span<const std::uint8_t> frame) noexcept {
  ++counters_.generated;
  Packet* packet = frame.size() < sizeof(EthernetHeader) ? nullptr : sender_.make_empty();
  if (packet == nullptr) {
    counters_.count_drop(DropReason::kNoBuffer);
    if (port < kMaxPorts) ++counters_.ports[port].tx_dropped;
    return;
  }
  if (packet->tailroom < frame.size()) {
    sender_.drop_outgoing(*packet, DropReason::kNoBuffer, port);
    return sender_.end_burst();
  }
  std::memcpy(packet->data, frame.data(), frame.size());
  packet->length = static_cast<std::uint32_t>(frame.size());
  packet->tailroom -= packet->length;
  if (state_ == nullptr || assignment_ == nullptr) {
    sender_.drop_outgoing(*packet, DropReason::kPortDown, port);
  } else {
    const bool is_underlay = port < state_->ports.size() && state_->ports[port].is_underlay;
    if (is_underlay && state_->underlay.vlan != 0) push_tag(*packet, state_->underlay.vlan);
    sender_.send(*packet, port);
  }
  sender_.end_burst();
}

}  // namespace vx
