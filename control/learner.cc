// SPDX-License-Identifier: Apache-2.0
#include "control/learner.h"

#include <algorithm>

namespace vx::control {

void Learner::tell(FdbEventKind kind, std::uint64_t key, const FdbEntry& entry) {
  if (sink_) sink_({kind, key, entry});
}

void Learner::count_in(const FdbEntry& entry) {
  if (entry.is_learned()) {
    ++learned_now_;
    ++learned_at_[entry.location.raw()];
  } else {
    ++operators_now_;
    if (entry.is_static()) ++static_now_;
  }
}

void Learner::count_out(const FdbEntry& entry) {
  if (entry.is_learned()) {
    --learned_now_;
    --learned_at_[entry.location.raw()];
  } else {
    --operators_now_;
    if (entry.is_static()) --static_now_;
  }
}

Learner::Entries::iterator Learner::erase(Entries::iterator at, FdbEventKind why) {
  tell(why, at->first, at->second);
  count_out(at->second);
  dirty_.push_back(at->first);
  return entries_.erase(at);
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

LearnResult Learner::learn(std::uint64_t key, Location location) {
  if (limits_.ageing_s == 0 || key == 0 || location == Location()) return LearnResult::kIgnored;
  const auto at = entries_.find(key);
  if (at == entries_.end()) {
    const FdbEntry entry{location, 0};
    if (learned_now_ >= limits_.max_learned || !has_room_at(location)) {
      ++totals_.refused;
      tell(FdbEventKind::kRefused, key, entry);
      return LearnResult::kRefused;
    }
    entries_.emplace(key, entry);
    count_in(entry);
    ++totals_.learned;
    dirty_.push_back(key);
    tell(FdbEventKind::kLearned, key, entry);
    return LearnResult::kLearned;
  }
  if (!at->second.is_learned()) {
    // The dataplane may have this event from before the operator's entry: say again what holds.
    dirty_.push_back(key);
    return LearnResult::kIgnored;
  }
  if (at->second.location == location) {
    dirty_.push_back(key);
    return LearnResult::kConfirmed;
  }
  if (!has_room_at(location)) {
    // It is no longer at the old place, and may not have the new one: frames to it flood.
    ++totals_.refused;
    erase(at, FdbEventKind::kRefused);
    return LearnResult::kRefused;
  }
  count_out(at->second);
  at->second.location = location;
  count_in(at->second);
  ++totals_.moved;
  dirty_.push_back(key);
  tell(FdbEventKind::kMoved, key, at->second);
  return LearnResult::kMoved;
}

void Learner::violation(std::uint64_t key, Location location) {
  tell(FdbEventKind::kViolation, key, {location, 0});
}

void Learner::adopt(std::uint64_t key, const FdbEntry& entry) {
  const auto [at, is_new] = entries_.try_emplace(key, entry);
  if (!is_new) {
    // The operator's entry of the state file holds; the dataplane is told if it has something else.
    if (!(at->second == entry)) dirty_.push_back(key);
    return;
  }
  count_in(entry);
}

AddResult Learner::add(std::uint64_t key, const FdbEntry& entry) {
  const auto at = entries_.find(key);
  if (at != entries_.end() && !at->second.is_learned()) return AddResult::kRefusedExists;
  if (operators_now_ >= kMaxOperatorEntries) return AddResult::kFull;
  auto result = AddResult::kAdded;
  if (at != entries_.end()) {
    count_out(at->second);
    at->second = entry;
    ++totals_.evicted;
    result = AddResult::kReplacedLearned;
  } else {
    entries_.emplace(key, entry);
  }
  count_in(entry);
  dirty_.push_back(key);
  tell(FdbEventKind::kAdded, key, entry);
  return result;
}

bool Learner::remove(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return false;
  erase(at, FdbEventKind::kDeleted);
  return true;
}

std::size_t Learner::flush(const std::function<bool(std::uint64_t, const FdbEntry&)>& matches) {
  std::size_t flushed = 0;
  for (auto at = entries_.begin(); at != entries_.end();) {
    if (matches(at->first, at->second)) {
      at = erase(at, FdbEventKind::kDeleted);
      ++flushed;
    } else {
      ++at;
    }
  }
  return flushed;
}

std::size_t Learner::forget(Location location, bool operators_too) {
  if (!operators_too && learned_at_[location.raw()] == 0) return 0;
  const std::size_t learned_before = learned_now_;
  const std::size_t gone = flush([&](std::uint64_t, const FdbEntry& entry) {
    return entry.location == location && (operators_too || entry.is_learned());
  });
  totals_.evicted += learned_before - learned_now_;
  return gone;
}

std::vector<std::uint64_t> Learner::choose_expired(std::span<const protocol::FdbRecord> idle,
                                                   std::uint16_t idle_s) const {
  std::vector<std::uint64_t> keys;
  for (const auto& record : idle) {
    if (record.updated_age_s < idle_s) continue;
    const auto at = entries_.find(record.key);
    if (at == entries_.end() || !at->second.is_static()) keys.push_back(record.key);
  }
  return keys;
}

void Learner::expire(std::uint64_t key) {
  const auto at = entries_.find(key);
  if (at == entries_.end() || at->second.is_static()) return;
  ++totals_.expired;
  tell(FdbEventKind::kExpired, key, at->second);
  count_out(at->second);
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
    if (at == there.end() || !(at->second == entry)) dirty_.push_back(key);
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
