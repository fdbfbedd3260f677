// SPDX-License-Identifier: Apache-2.0
#include "dataplane/learn_batch.h"

#include <algorithm>
#include <cstring>

namespace vx {
namespace {

// A MAC is one subject wherever it is seen; a VTEP is one by its address.
bool is_same_subject(const protocol::LearnEvent& a, const protocol::LearnEvent& b) noexcept {
  if (a.kind != b.kind || a.overlay != b.overlay) return false;
  return a.kind == protocol::LearnKind::kMac ? a.key == b.key : a.address == b.address;
}

std::size_t hash_of(const protocol::LearnEvent& event) noexcept {
  std::uint64_t value = event.key;
  if (event.kind != protocol::LearnKind::kMac) {
    std::uint64_t half;
    std::memcpy(&value, event.address.bytes.data(), sizeof value);
    std::memcpy(&half, event.address.bytes.data() + sizeof value, sizeof half);
    value ^= half * 0x9e3779b97f4a7c15;
  }
  value = (value ^ event.overlay) * 0x9e3779b97f4a7c15;
  return static_cast<std::size_t>(value >> 32);
}

}  // namespace

static_assert(LearnBatch::kCapacity < 8192 / 2);

LearnBatch::LearnBatch() : slots_(kSlots, 0) { events_.reserve(kCapacity); }

bool LearnBatch::add(const protocol::LearnEvent& event) noexcept {
  std::size_t slot = hash_of(event) % kSlots;
  for (; slots_[slot] != 0; slot = (slot + 1) % kSlots) {
    auto& known = events_[slots_[slot] - 1u];
    if (!is_same_subject(known, event)) continue;
    known = event;
    return true;
  }
  if (events_.size() == kCapacity) return false;
  events_.push_back(event);  // within the reserve: does not throw
  slots_[slot] = static_cast<std::uint16_t>(events_.size());
  return true;
}

std::vector<std::byte> LearnBatch::message() const {
  protocol::MessageBuilder builder(protocol::MessageType::kLearnEvents, 0);
  for (const auto& event : events_) builder.append(event);
  return builder.take();
}

void LearnBatch::clear() noexcept {
  events_.clear();
  std::fill(slots_.begin(), slots_.end(), std::uint16_t{0});
}

}  // namespace vx
