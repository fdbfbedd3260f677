// SPDX-License-Identifier: Apache-2.0
#include "dataplane/overlay_fdb.h"

#include <algorithm>
#include <array>
#include <limits>

namespace vx {
namespace {

constexpr std::size_t kIdleSlice =
    1024;  // buckets a slice: a million entries' table within a minute
constexpr std::size_t kReclaimSlice = 32768;  // 2 MiB of table, well under a millisecond
constexpr std::size_t kDumpChunk = 256;
constexpr std::size_t kDumpLooksAt =
    65536;  // entries one request may look at: the management thread stays responsive
constexpr std::uint16_t kOldest =
    std::numeric_limits<std::int16_t>::max();  // times compare over half the circle

std::uint16_t time_of_age(std::uint16_t now, std::uint16_t age) {
  return static_cast<std::uint16_t>(now - std::min(age, kOldest));
}

// A worker's second may be ahead of ours by one: then the age is 0.
std::uint16_t age_of_time(std::uint16_t now, std::uint16_t then) {
  return static_cast<std::uint16_t>(std::max<int>(static_cast<std::int16_t>(now - then), 0));
}

}  // namespace

FdbResult OverlayFdb::put(const protocol::FdbRecord& record, std::uint16_t now) {
  constexpr std::uint8_t kSettable = FdbValue::kStatic | FdbValue::kSticky | FdbValue::kBlackhole;
  const auto flags = static_cast<std::uint8_t>(record.flags & kSettable);
  const Location location = Location::from_raw(record.location);
  const auto store = [&] {
    return table_->put(record.key, location, flags, time_of_age(now, record.updated_age_s),
                       time_of_age(now, record.used_age_s));
  };
  FdbResult result = store();
  if (result == FdbResult::kFull && rounds_to_reclaim_ > 0) {
    // Flushed entries still take room: reclaim them here and now.
    for (std::size_t cursor = 0; (cursor = table_->sweep(cursor, kReclaimSlice, now)) != 0;) {
    }
    rounds_to_reclaim_ = 0;
    result = store();
  }
  if (result != FdbResult::kFull) {
    if ((flags & FdbValue::kStatic) != 0)
      statics_.insert_or_assign(record.key, location);
    else
      statics_.erase(record.key);
  }
  return result;
}

FdbResult OverlayFdb::remove(const protocol::FdbDelete& request, std::uint16_t now) {
  if (request.only_if_idle != 0) {
    // Idle for exactly idle_s is idle, as dump() has it; remove_if_idle() wants the first second
    // that is not.
    const auto idle = std::min(request.idle_s, kOldest);
    return table_->remove_if_idle(request.key, static_cast<std::uint16_t>(now - idle + 1));
  }
  statics_.erase(request.key);
  return table_->remove(request.key);
}

void OverlayFdb::flush(Location location) noexcept {
  table_->flush(location);
  rounds_to_reclaim_ = 2;
}

void OverlayFdb::flush_all() noexcept {
  table_->flush_all();
  rounds_to_reclaim_ = 2;
}

void OverlayFdb::forget(Location location) {
  for (auto entry = statics_.begin(); entry != statics_.end();) {
    if (entry->second != location) {
      ++entry;
      continue;
    }
    (void)table_->remove(entry->first);
    entry = statics_.erase(entry);
  }
  flush(location);
}

std::uint64_t OverlayFdb::dump(const protocol::FdbDumpRequest& request, std::uint16_t now,
                               std::size_t room, std::vector<protocol::FdbRecord>& out) const {
  std::array<Fdb::Entry, kDumpChunk> chunk;
  auto cursor = static_cast<std::size_t>(request.cursor);
  std::size_t looked_at = 0;
  const std::size_t limit = out.size() + room;
  while (limit - out.size() >= 4 && looked_at < kDumpLooksAt) {
    const std::size_t found =
        table_->dump(cursor, chunk.data(), std::min(chunk.size(), limit - out.size()));
    looked_at += found;
    for (std::size_t i = 0; i < found; ++i) {
      const FdbValue value = chunk[i].value;
      const auto age = age_of_time(now, value.updated());
      if (age < std::min(request.idle_s, kOldest)) continue;
      out.push_back({chunk[i].key,
                     request.overlay,
                     value.location().raw(),
                     value.flags(),
                     0,
                     age,
                     age_of_time(now, value.used()),
                     {}});
    }
    if (cursor == 0) break;
  }
  return cursor;
}

void OverlayFdb::sweep_slice(std::uint16_t now) noexcept {
  cursor_ = table_->sweep(cursor_, rounds_to_reclaim_ > 0 ? kReclaimSlice : kIdleSlice, now);
  if (cursor_ == 0 && rounds_to_reclaim_ > 0) --rounds_to_reclaim_;
}

}  // namespace vx
