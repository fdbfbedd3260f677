// SPDX-License-Identifier: Apache-2.0
#include "control/learner.h"

#include <algorithm>

namespace vx::control {

void Learner::tell(FdbEventKind kind, std::uint64_t key, const FdbEntry& entry) {
  if (sink_) sink_({kind, key, entry});
  if (hold_sink_ && (kind == FdbEventKind::kHeld || kind == FdbEventKind::kReleased)) hold_sink_({kind, key, entry});
}

std::size_t* Learner::tally_of(const FdbEntry& entry) {
  if (entry.is_learned()) return &learned_now_;
  return entry.is_external() ? &external_now_ : &fixed_now_;
}

void Learner::count_in(const FdbEntry& entry) {
  ++*tally_of(entry);
  if (entry.is_learned()) ++learned_at_[entry.location.raw()];
  if (entry.is_static()) ++static_now_;
}

void Learner::count_out(const FdbEntry& entry) {
  --*tally_of(entry);
  if (entry.is_learned()) --learned_at_[entry.location.raw()];
  if (entry.is_static()) --static_now_;
}

Learner::Entries::iterator Learner::erase(Entries::iterator at, FdbEventKind why) {
  tell(why, at->first, at->second);
  count_out(at->second);
  forget_history(at->first);
  changed(at->first);
  return entries_.erase(at);
}

void Learner::replace(Entries::iterator at, const FdbEntry& entry) {
  if (!entry.is_learned()) forget_history(at->first);
  count_out(at->second);
  at->second = entry;
  count_in(entry);
  changed(at->first);
}

bool Learner::has_room_at(Location location) const noexcept {
  if (!location.is_port() || port_limits_.empty()) return true;
  const auto limit = port_limits_.find(location.index());
  return limit == port_limits_.end() || learned_at_[location.raw()] < limit->second;
}

void Learner::set_limits(const LearnerLimits& limits) {
  limits_ = limits;
  const std::size_t allowed = limits.ageing_s == 0 ? 0 : limits.max_learned;
  for (auto at = entries_.begin(); learned_now_ > allowed && at != entries_.end();) {
    if (!at->second.is_learned()) {
      ++at;
      continue;
    }
    ++totals_.evicted;
    at = erase(at, FdbEventKind::kDeleted);
  }
}

void Learner::set_port_limit(PortIndex slot, std::uint32_t max_learned) {
  if (max_learned == 0) {
    port_limits_.erase(slot);
    return;
  }
  port_limits_[slot] = max_learned;
  const Location here = Location::port(slot);
  for (auto at = entries_.begin(); learned_at_[here.raw()] > max_learned && at != entries_.end();) {
    if (!at->second.is_learned() || at->second.location != here) {
      ++at;
      continue;
    }
    ++totals_.evicted;
    at = erase(at, FdbEventKind::kDeleted);
  }
}

LearnResult Learner::learn_new(std::uint64_t key, Location location) {
  const FdbEntry entry{location, 0};
  if (learned_now_ >= limits_.max_learned || !has_room_at(location)) {
    ++totals_.refused;
    tell(FdbEventKind::kRefused, key, entry);
    return LearnResult::kRefused;
  }
  entries_.emplace(key, entry);
  count_in(entry);
  ++totals_.learned;
  changed(key);
  tell(FdbEventKind::kLearned, key, entry);
  return LearnResult::kLearned;
}

LearnResult Learner::learn(std::uint64_t key, Location location) {
  if (limits_.ageing_s == 0 || key == 0 || location == Location()) return LearnResult::kIgnored;
  const auto at = entries_.find(key);
  if (at == entries_.end()) return learn_new(key, location);
  const FdbEntry& known = at->second;
  if (known.location == location && (known.is_learned() || known.is_external())) {
    dirty_.push_back(key);
    return LearnResult::kConfirmed;
  }
  const bool gives_way = known.is_external() ? location.is_port() : known.is_learned() && !known.is_held;
  if (!gives_way) {
    // The dataplane may have this event from before the entry that stays: say again what holds.
    dirty_.push_back(key);
    return LearnResult::kIgnored;
  }
  if (!has_room_at(location) || (known.is_external() && learned_now_ >= limits_.max_learned)) {
    // It is no longer at the old place, and may not have the new one: frames to it flood.
    ++totals_.refused;
    erase(at, FdbEventKind::kRefused);
    return LearnResult::kRefused;
  }
  replace(at, {location, 0});
  ++totals_.moved;
  tell(FdbEventKind::kMoved, key, at->second);
  note_move(at);
  return LearnResult::kMoved;
}

void Learner::violation(std::uint64_t key, Location location) {
  tell(FdbEventKind::kViolation, key, {location, 0});
}

void Learner::adopt(std::uint64_t key, const FdbEntry& entry) {
  const auto at = entries_.find(key);
  if (at != entries_.end()) {
    // The operator's entry of the state file holds, or the kernel's; the dataplane is told if it has something else.
    if (!at->second.looks_like(entry)) dirty_.push_back(key);
    return;
  }
  if (follows_kernel_ && !entry.is_learned()) return dirty_.push_back(key);
  entries_.emplace(key, entry);
  count_in(entry);
  if (on_changed_) on_changed_(key);
}

AddResult Learner::add(std::uint64_t key, const FdbEntry& entry) {
  const auto at = entries_.find(key);
  const bool is_there = at != entries_.end();
  if (is_there && !at->second.is_learned() && !at->second.is_external()) return AddResult::kRefusedExists;
  if (fixed_now_ >= kMaxOperatorEntries) return AddResult::kFull;
  if (is_there) {
    replace(at, entry);
    ++totals_.evicted;
  } else {
    entries_.emplace(key, entry);
    count_in(entry);
    changed(key);
  }
  tell(FdbEventKind::kAdded, key, entry);
  return is_there ? AddResult::kReplacedLearned : AddResult::kAdded;
}

RemoveResult Learner::remove(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return RemoveResult::kNotFound;
  if (at->second.origin != FdbOrigin::kDynamic) return RemoveResult::kKernels;
  erase(at, FdbEventKind::kDeleted);
  return RemoveResult::kRemoved;
}

std::size_t Learner::flush(const std::function<bool(std::uint64_t, const FdbEntry&)>& matches) {
  std::size_t flushed = 0;
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (at->second.origin == FdbOrigin::kDynamic && matches(at->first, at->second)) {
      at = erase(at, FdbEventKind::kDeleted);
      ++flushed;
    } else {
      ++at;
    }
  }
  return flushed;
}

void Learner::clear() {
  for (auto at = entries_.begin(); at != entries_.end();) at = erase(at, FdbEventKind::kDeleted);
}

std::size_t Learner::forget(Location location, bool operators_too) {
  if (!operators_too && learned_at_[location.raw()] == 0) return 0;
  std::size_t gone = 0;
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (at->second.location != location || !(operators_too || at->second.is_learned())) {
      ++at;
      continue;
    }
    if (at->second.is_learned()) ++totals_.evicted;
    at = erase(at, FdbEventKind::kDeleted);
    ++gone;
  }
  return gone;
}

std::vector<std::uint64_t> Learner::choose_expired(std::span<const protocol::FdbRecord> idle,
                                                   std::uint16_t idle_s) const {
  std::vector<std::uint64_t> keys;
  for (const auto& record : idle) {
    if (record.updated_age_s < idle_s) continue;
    const auto at = entries_.find(record.key);
    if (at == entries_.end() || !(at->second.is_static() || at->second.is_external())) keys.push_back(record.key);
  }
  return keys;
}

void Learner::expire(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return;
  if (at->second.is_static() || at->second.is_external()) return dirty_.push_back(key);  // became so since it was asked for
  ++totals_.expired;
  tell(FdbEventKind::kExpired, key, at->second);
  count_out(at->second);
  forget_history(key);
  if (on_changed_) on_changed_(key);
  entries_.erase(at);
}

void Learner::reconcile(std::span<const std::pair<std::uint64_t, FdbEntry>> content) {
  std::unordered_map<std::uint64_t, FdbEntry, KeyHash> there;
  there.reserve(content.size());
  for (const auto& [key, entry] : content) {
    there[key] = entry;
    if (!entries_.contains(key)) dirty_.push_back(key);
  }
  for (const auto& [key, entry] : entries_) {
    const auto at = there.find(key);
    if (at == there.end() || !at->second.looks_like(entry)) dirty_.push_back(key);
  }
}

void Learner::mark_dirty() {
  dirty_.reserve(dirty_.size() + entries_.size());
  for (const auto& [key, entry] : entries_) dirty_.push_back(key);
}

void Learner::mark_dirty(Location location) {
  for (const auto& [key, entry] : entries_)
    if (entry.location == location) dirty_.push_back(key);
}

std::vector<FdbChange> Learner::take_changes(std::size_t max) {
  const std::size_t end = dirty_done_ + std::min(max, dirty_.size() - dirty_done_);
  std::vector<FdbChange> changes;
  changes.reserve(end - dirty_done_);
  for (; dirty_done_ < end; ++dirty_done_) {
    const std::uint64_t key = dirty_[dirty_done_];
    const auto at = entries_.find(key);
    changes.push_back({key, at == entries_.end() ? std::nullopt : std::optional(at->second)});
  }
  if (dirty_done_ == dirty_.size()) {
    dirty_.clear();
    dirty_done_ = 0;
  }
  return changes;
}

const FdbEntry* Learner::find(std::uint64_t key) const {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

void Learner::for_each(const std::function<void(std::uint64_t, const FdbEntry&)>& visit) const {
  for (const auto& [key, entry] : entries_) visit(key, entry);
}

FdbCounts Learner::counts() const {
  FdbCounts counts = totals_;
  counts.current = entries_.size();
  counts.static_entries = static_now_;
  counts.limit = limits_.max_learned;
  return counts;
}

}  // namespace vx::control
