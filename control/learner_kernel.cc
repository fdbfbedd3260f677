// SPDX-License-Identifier: Apache-2.0
// What takeover adds to the learner: the kernel bridge's own entries, zebra's, and the hold of those that flap.
#include "control/learner.h"

#include <algorithm>

namespace vx::control {

AddResult Learner::set_kernel(std::uint64_t key, const FdbEntry& entry) {
  FdbEntry wanted = entry;
  wanted.flags |= FdbValue::kStatic;
  wanted.origin = FdbOrigin::kKernel;
  wanted.is_held = false;
  const auto at = entries_.find(key);
  if (at == entries_.end()) {
    if (fixed_now_ >= kMaxOperatorEntries) return AddResult::kFull;
    entries_.emplace(key, wanted);
    count_in(wanted);
    changed(key);
    tell(FdbEventKind::kAdded, key, wanted);
    return AddResult::kAdded;
  }
  const FdbEntry known = at->second;
  if (known == wanted || (known.is_operators() && known.looks_like(wanted))) return AddResult::kSame;
  if (known.is_operators()) return AddResult::kRefusedExists;
  const bool was_kernels = known.origin == FdbOrigin::kKernel;
  if (!was_kernels && fixed_now_ >= kMaxOperatorEntries) return AddResult::kFull;
  if (known.is_learned()) ++totals_.evicted;
  replace(at, wanted);
  tell(was_kernels ? FdbEventKind::kMoved : FdbEventKind::kAdded, key, wanted);
  return was_kernels ? AddResult::kAdded : AddResult::kReplacedLearned;
}

bool Learner::remove_kernel(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end() || at->second.origin != FdbOrigin::kKernel) return false;
  erase(at, FdbEventKind::kDeleted);
  return true;
}

AddResult Learner::set_external(std::uint64_t key, Location location) {
  const FdbEntry wanted{location, 0, FdbOrigin::kExternal};
  const auto at = entries_.find(key);
  const bool is_full = external_now_ >= limits_.max_learned;
  if (at == entries_.end()) {
    if (is_full) {
      ++totals_.refused;
      tell(FdbEventKind::kRefused, key, wanted);
      return AddResult::kFull;
    }
    entries_.emplace(key, wanted);
    count_in(wanted);
    changed(key);
    tell(FdbEventKind::kAdded, key, wanted);
    return AddResult::kAdded;
  }
  if (at->second == wanted) return AddResult::kSame;
  if (!at->second.is_learned() && !at->second.is_external()) return AddResult::kRefusedExists;
  if (at->second.is_learned() && is_full) return AddResult::kFull;
  if (at->second.is_held) {
    holds_[key].external = location;
  } else {
    take_external(at, location);
  }
  return AddResult::kReplacedLearned;
}

// A learned or external entry becomes an external one at `location`.
void Learner::take_external(Entries::iterator at, Location location) {
  const FdbEntry before = at->second;
  // Its moves are still remembered: a MAC that flaps between here and EVPN flaps as well.
  const auto moves = moves_.find(at->first);
  const Moves kept = moves != moves_.end() ? moves->second : Moves{};
  replace(at, {location, 0, FdbOrigin::kExternal});
  if (before.location == location) return;
  if (kept.count > 0) moves_[at->first] = kept;
  ++totals_.moved;
  tell(FdbEventKind::kMoved, at->first, at->second);
  note_move(at);
}

bool Learner::remove_external(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return false;
  if (at->second.is_held) {
    const auto hold = holds_.find(key);
    const bool was_waiting = hold->second.external.has_value();
    hold->second.external.reset();
    return was_waiting;
  }
  if (!at->second.is_external()) return false;
  erase(at, FdbEventKind::kDeleted);
  return true;
}

// ---- those that flap ----

// It has just moved. The one move too many is done, and is the last for a while; an external one cannot be held: EVPN
// has its own damping, and the next frame at a port counts on.
void Learner::note_move(Entries::iterator at) {
  const std::uint64_t key = at->first;
  Moves& moves = moves_[key];
  const std::uint64_t oldest = moves.at[moves.next];
  const bool is_flapping = moves.count == kMostMoves && now_ms_ - oldest < kMovesWindowMs;
  moves.at[moves.next] = now_ms_;
  moves.next = static_cast<std::uint8_t>((moves.next + 1) % kMostMoves);
  moves.count = static_cast<std::uint8_t>(std::min<unsigned>(moves.count + 1, kMostMoves));
  if (!is_flapping || !at->second.is_learned()) return;
  moves_.erase(key);
  at->second.is_held = true;
  at->second.flags = FdbValue::kSticky;
  holds_[key] = {now_ms_ + kHoldMs, std::nullopt};
  dirty_.push_back(key);
  tell(FdbEventKind::kHeld, key, at->second);
}

void Learner::release(std::uint64_t key, const Hold& hold) {
  const auto at = entries_.find(key);
  at->second.is_held = false;
  at->second.flags = 0;
  changed(key);
  tell(FdbEventKind::kReleased, key, at->second);
  if (hold.external && external_now_ < limits_.max_learned) take_external(at, *hold.external);
}

void Learner::forget_history(std::uint64_t key) {
  if (!moves_.empty()) moves_.erase(key);
  if (!holds_.empty()) holds_.erase(key);
}

void Learner::tick(std::uint64_t now_ms) {
  constexpr std::uint64_t kTidyEveryMs = 1000;
  now_ms_ = now_ms;
  if ((moves_.empty() && holds_.empty()) || now_ms < tidy_due_ms_) return;
  tidy_due_ms_ = now_ms + kTidyEveryMs;
  std::erase_if(moves_, [&](const auto& moved) {
    const Moves& moves = moved.second;
    return now_ms - moves.at[(moves.next + kMostMoves - 1) % kMostMoves] >= kMovesWindowMs;
  });
  std::vector<std::pair<std::uint64_t, Hold>> over;
  for (const auto& [key, hold] : holds_)
    if (now_ms >= hold.until) over.emplace_back(key, hold);
  for (const auto& [key, hold] : over) {
    holds_.erase(key);
    release(key, hold);
  }
}

std::vector<std::uint64_t> Learner::held_now() const {
  std::vector<std::uint64_t> keys;
  keys.reserve(holds_.size());
  for (const auto& [key, hold] : holds_) keys.push_back(key);
  return keys;
}

}  // namespace vx::control
