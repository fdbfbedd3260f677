// SPDX-License-Identifier: Apache-2.0
#include "dataplane/learn_reporter.h"

#include <algorithm>

namespace vx {
namespace {

std::uint64_t mix(std::uint64_t h, std::uint64_t value) noexcept {
  h = (h ^ value) * 0x9e3779b97f4a7c15u;
  return h ^ h >> 29;
}

std::uint64_t half(const IpAddress& address, std::size_t offset) noexcept {
  std::uint64_t value;
  std::memcpy(&value, address.bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace

LearnReporter::LearnReporter(SpscQueue<protocol::LearnEvent>& queue, std::uint64_t events_per_second,
                             std::size_t queue_capacity)
    : queue_(queue),
      // A quarter of the ring at once: the rest is for moves, and for what control is late to fetch.
      rate_(TokenRate::of(std::max<std::uint64_t>(events_per_second, 1), std::max<std::size_t>(queue_capacity / 4, 1))),
      told_(std::make_unique<std::array<Told, kSlots>>()) {}

LearnReporter::Result LearnReporter::report(const protocol::LearnEvent& event, std::uint64_t now_ns,
                                            bool urgent) noexcept {
  // The slot is the MAC's (or VTEP's): a new place replaces the old one there and is news at once.
  const auto overlay_and_kind = static_cast<std::uint64_t>(event.overlay) << 8 | static_cast<std::uint64_t>(event.kind);
  const bool is_vtep = event.kind == protocol::LearnKind::kVtep;
  const std::uint64_t subject = mix(is_vtep ? mix(half(event.address, 0), half(event.address, 8)) : event.key, overlay_and_kind);
  const std::uint64_t fact = mix(subject, static_cast<std::uint64_t>(event.location) << 32 | half(event.address, 8) >> 32) | 1;
  Told& told = (*told_)[subject >> 40 & (kSlots - 1)];
  const std::uint64_t now_ms = now_ns / 1'000'000;
  if (!urgent) {
    if (told.key == fact && now_ms - told.at_ms < kRepeatAfterMs) return Result::kRepeated;
    if (!bucket_.take(now_ns, rate_)) return Result::kLost;
  }
  if (!queue_.try_push(event)) return Result::kLost;
  told = {fact, now_ms};
  return Result::kTold;
}

}  // namespace vx
