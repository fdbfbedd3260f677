// SPDX-License-Identifier: Apache-2.0
// Second step: is the source where the FDB has it, and where does the destination live. Sets egress or flood.
// Correctness never depends on control (design section 3): a source seen in a new place stops the old entry's
// use at once, and its frames flood until control has installed the new place.
#pragma once

#include "dataplane/fdb.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/packet.h"
#include "dataplane/protocol.h"

namespace vx {

// What the source check found; everything but kKnown is worth a learn event.
enum class SourceVerdict : std::uint8_t {
  kKnown,
  kNew,        // not in the FDB
  kMovedNow,   // was elsewhere; this very frame stopped the old entry's use
  kMoving,     // as kMovedNow, but an earlier frame did it and control has not answered yet
  kViolation,  // static, sticky or blackhole, and not here: the frame is dropped
};

[[nodiscard]] inline SourceVerdict check_source(const Packet& packet, Fdb& fdb, std::uint16_t now_s) noexcept {
  const Fdb::Hit hit = fdb.find(packet.source_key);
  if (!hit) [[unlikely]] return SourceVerdict::kNew;
  const bool unsettled = (hit.value.flags() & (FdbValue::kMoved | FdbValue::kBlackhole)) != 0;
  if (hit.value.location() == packet.source && !unsettled) [[likely]] {
    Fdb::note_updated(hit, now_s);
    return SourceVerdict::kKnown;
  }
  if ((hit.value.flags() & (FdbValue::kStatic | FdbValue::kSticky | FdbValue::kBlackhole)) != 0)
    return SourceVerdict::kViolation;
  return Fdb::mark_moved(hit) ? SourceVerdict::kMovedNow : SourceVerdict::kMoving;
}

[[nodiscard]] inline bool is_from_tunnel(const Packet& packet) noexcept { return !packet.source.is_port(); }

// Sets packet.egress, or packet.flood for group, unknown and moving destinations.
[[nodiscard]] inline DropReason find_egress(Packet& packet, Fdb& fdb, std::uint16_t now_s) noexcept {
  constexpr std::uint64_t kGroupBit = std::uint64_t{1} << 40;
  packet.flood = true;
  if ((packet.destination_key & kGroupBit) != 0) return DropReason::kNone;
  const Fdb::Hit hit = fdb.find(packet.destination_key);
  if (!hit || hit.value.has(FdbValue::kMoved)) [[unlikely]] return DropReason::kNone;
  packet.set_egress(hit.value.location());
  if (hit.value.has(FdbValue::kBlackhole)) [[unlikely]] return DropReason::kFdbBlackhole;
  // What came out of the tunnel never returns to it, to whichever VTEP.
  const bool back_to_tunnel = packet.egress.is_vtep() && is_from_tunnel(packet);
  if (packet.egress == packet.source || back_to_tunnel) [[unlikely]] return DropReason::kEgressSamePort;
  Fdb::note_used(hit, now_s);
  return DropReason::kNone;
}

// Whether the bridge's port there is isolated; the tunnel is one port, with VTEPs known or not.
[[nodiscard]] inline bool is_isolated(Location location, const OverlayState& overlay, const ForwardingState& state) noexcept {
  std::uint8_t flags = overlay.tunnel_flags;
  if (location.is_port()) flags = location.index() < state.ports.size() ? state.ports[location.index()].flags : 0;
  return (flags & protocol::kIsolated) != 0;
}

// What most entries of a burst look like: checked by one comparison each, everything else takes the full way. Frames in a row from and
// to the same MACs need no lookup: they are as if they had come at once.
// Valid for one FDB, one source (or any VTEPs as sources), one second and one burst.
class BridgeShortcut {
 public:
  // True: the source is known, here, and already noted this second.
  [[nodiscard]] bool is_known_source(const Packet& packet, const Fdb& fdb, std::uint16_t now_s) noexcept {
    if (packet.source != source_) [[unlikely]] {
      if (packet.source == Location()) return false;
      source_ = packet.source;
      source_bits_ = fdb.live_bits(source_) | std::uint64_t{now_s} << 32;
    } else if (packet.source_key == source_key_) {
      return true;
    }
    constexpr std::uint64_t kMask = Fdb::kLiveMask | std::uint64_t{0xffff} << 32;
    const bool is_known = ((fdb.peek(packet.source_key) ^ source_bits_) & kMask) == 0;
    source_key_ = is_known ? packet.source_key : kNothing;
    return is_known;
  }
  // True: the destination lies where the last one did and is noted this second; egress is set.
  [[nodiscard]] bool is_usual_egress(Packet& packet, const Fdb& fdb) noexcept {
    constexpr std::uint64_t kMask = Fdb::kLiveMask | std::uint64_t{0xffff} << 48;
    if (packet.destination_key != destination_key_) {
      if (((fdb.peek(packet.destination_key) ^ egress_bits_) & kMask) != 0) return false;
      destination_key_ = packet.destination_key;
    }
    packet.set_egress(egress_);
    return true;
  }
  // After find_egress() has found `egress`.
  void remember(Location egress, const Fdb& fdb, std::uint16_t now_s) noexcept {
    egress_ = egress;
    egress_bits_ = fdb.live_bits(egress) | std::uint64_t{now_s} << 48;
    destination_key_ = kNothing;
  }
  // The next packet is looked up whatever the last one was.
  void forget() noexcept { source_key_ = destination_key_ = kNothing; }

 private:
  // Matches nothing: no entry is static, blackhole and moved at once, and a miss is 0; no key has the upper bits.
  static constexpr std::uint64_t kNothing = ~std::uint64_t{0};
  Location source_, egress_;  // an unknown VTEP's source is Location() too: it keeps kNothing and takes the full way
  std::uint64_t source_bits_ = kNothing;
  std::uint64_t egress_bits_ = kNothing;
  std::uint64_t source_key_ = kNothing, destination_key_ = kNothing;  // of the last packet that was usual
};

}  // namespace vx
