// SPDX-License-Identifier: Apache-2.0
// The switchboard's FDB requests: which places exist, and the overlay's table behind each record.
#include "dataplane/switchboard.h"

namespace vx {

bool Switchboard::is_place(const OverlayEntry& overlay, Location location) const noexcept {
  if (location.is_vtep())
    return location.index() < overlay.vteps.size() && overlay.vteps[location.index()].has_value();
  if (!location.is_port() || location.index() >= model_.ports.size()) return false;
  const auto& port = model_.ports[location.index()];
  return port && !port->is_underlay() && port->config.overlay == home_of(overlay.config);
}

protocol::FdbPutReply Switchboard::put_fdb(std::span<const protocol::FdbRecord> records,
                                           std::uint16_t now) {
  protocol::FdbPutReply reply;
  for (const auto& record : records) {
    OverlayEntry* overlay = model_.find_overlay(record.overlay);
    const MacAddress mac = fdb_key_mac(record.key);
    const bool is_key = record.key >> 60 == 0 && fdb_key_vid(record.key) <= kMaxVid &&
                        !mac.is_zero() && !mac.is_group();
    const bool has_place =
        (record.flags & FdbValue::kBlackhole) != 0 ||
        (overlay != nullptr && is_place(*overlay, Location::from_raw(record.location)));
    if (overlay == nullptr || !is_key || !has_place) {
      ++reply.refused;
      continue;
    }
    switch (overlay->fdb->put(record, now)) {
      case FdbResult::kAdded: ++reply.added; break;
      case FdbResult::kFull: ++reply.full; break;
      default: ++reply.replaced; break;
    }
  }
  return reply;
}

FdbResult Switchboard::delete_fdb(const protocol::FdbDelete& request, std::uint16_t now) {
  OverlayEntry* overlay = model_.find_overlay(request.overlay);
  return overlay != nullptr && request.key >> 60 == 0 ? overlay->fdb->remove(request, now)
                                                      : FdbResult::kNotFound;
}

void Switchboard::flush_fdb(const protocol::FdbFlush& request) {
  OverlayEntry& overlay = overlay_or_throw(request.overlay);
  if (request.location == kNoIndex)
    overlay.fdb->flush_all();
  else
    overlay.fdb->flush(Location::from_raw(request.location));
}

std::uint64_t Switchboard::dump_fdb(const protocol::FdbDumpRequest& request, std::uint16_t now,
                                    std::size_t room, std::vector<protocol::FdbRecord>& out) const {
  return overlay_or_throw(request.overlay).fdb->dump(request, now, room, out);
}

bool Switchboard::is_current(const protocol::LearnEvent& event) const noexcept {
  const OverlayEntry* overlay = model_.find_overlay(event.overlay);
  if (overlay == nullptr) return false;
  return event.location == kNoIndex || is_place(*overlay, Location::from_raw(event.location));
}

}  // namespace vx
