// SPDX-License-Identifier: Apache-2.0
// The truth about one overlay's FDB: which (VID, MAC) lives where, and why. Pure decisions: learn events,
// operator's commands and the dataplane's idle reports go in; puts and deletes for the dataplane come out.
//
// Ports are control's own slot numbers (port_manager.h), which outlive a restart of the dataplane; whoever
// sends the changes translates them. Activity times live in the dataplane, which sees the frames; ageing is
// therefore a dialogue: control asks what was idle long enough (choose_expired), the dataplane removes what
// still is, and says which (expire). One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dataplane/fdb.h"
#include "dataplane/protocol.h"

namespace vx::control {

struct FdbEntry {
  Location location;       // control's slot, or VTEP index; nowhere for a blackhole
  std::uint8_t flags = 0;  // FdbValue::kStatic | kSticky | kBlackhole; 0: learned
  [[nodiscard]] bool is_learned() const noexcept { return flags == 0; }
  [[nodiscard]] bool is_static() const noexcept { return (flags & FdbValue::kStatic) != 0; }
  friend bool operator==(const FdbEntry&, const FdbEntry&) = default;
};

// What `vxctl fdb count` shows. `current` holds the static ones too; the totals count since start.
struct FdbCounts {
  std::uint64_t current = 0, static_entries = 0, limit = 0;
  std::uint64_t learned = 0;  // new MACs taken in
  std::uint64_t expired = 0;  // idle for bridge-ageing
  std::uint64_t evicted = 0;  // learned ones that lost their place: port or VTEP gone, limit lowered, `fdb add`
  std::uint64_t moved = 0;
  std::uint64_t refused = 0;  // not learned: a limit was reached
};

// One step towards the mirror's state: present entry: put; absent: delete.
struct FdbChange {
  std::uint64_t key = 0;
  std::optional<FdbEntry> entry;
};

enum class FdbEventKind : std::uint8_t { kLearned, kMoved, kExpired, kAdded, kDeleted, kRefused, kViolation };
struct FdbEvent {
  FdbEventKind kind{};
  std::uint64_t key = 0;
  FdbEntry entry;
};

struct LearnerLimits {
  std::uint32_t ageing_s = 300;       // 0: nothing learned is kept
  std::uint32_t max_learned = 65536;  // of all ports and VTEPs together
};

enum class [[nodiscard]] LearnResult : std::uint8_t { kLearned, kMoved, kConfirmed, kRefused, kIgnored };
enum class [[nodiscard]] AddResult : std::uint8_t { kAdded, kReplacedLearned, kRefusedExists, kFull };

class Learner {
 public:
  using Sink = std::function<void(const FdbEvent&)>;
  static constexpr std::size_t kMaxOperatorEntries = 16384;  // room for them in the dataplane's table

  // Limits may change at any time; what no longer fits is evicted.
  void set_limits(const LearnerLimits& limits);
  [[nodiscard]] const LearnerLimits& limits() const noexcept { return limits_; }
  // 0: no limit of its own.
  void set_port_limit(PortIndex slot, std::uint32_t max_learned);
  // Told of every event from then on (`fdb monitor`); empty: nobody.
  void set_sink(Sink sink) { sink_ = std::move(sink); }

  // A frame from `key` was seen at `location`. The new place wins at once over a learned one; static and
  // sticky entries stay. A confirmed entry is put again: the dataplane may have marked it as moved.
  LearnResult learn(std::uint64_t key, Location location);
  // A static or sticky MAC was seen elsewhere and its frame dropped: for the monitor only.
  void violation(std::uint64_t key, Location location);
  // An entry the dataplane already has, read back after a restart of control.
  void adopt(std::uint64_t key, const FdbEntry& entry);

  // The operator's. Replaces a learned entry, refuses over one of the operator's own.
  AddResult add(std::uint64_t key, const FdbEntry& entry);
  bool remove(std::uint64_t key);
  // Removes those for which `matches` is true; returns how many.
  std::size_t flush(const std::function<bool(std::uint64_t, const FdbEntry&)>& matches);
  // The place went: learned entries there are evicted; with `operators_too` the rest as well.
  std::size_t forget(Location location, bool operators_too);

  // Of what the dataplane calls idle, the keys that were so for `idle_s` seconds and are to be removed with
  // only_if_idle; strays the mirror does not know too. Keeps the order.
  [[nodiscard]] std::vector<std::uint64_t> choose_expired(std::span<const protocol::FdbRecord> idle,
                                                          std::uint16_t idle_s) const;
  // The dataplane removed it as idle (or had already lost it).
  void expire(std::uint64_t key);
  // The dataplane's content, read back: what differs is put again, what the mirror does not know deleted.
  void reconcile(std::span<const std::pair<std::uint64_t, FdbEntry>> content);
  // Says it again: the dataplane could not take it.
  void mark_dirty_key(std::uint64_t key) { dirty_.push_back(key); }

  // Everything (at `location`) is to be put again: the dataplane lost it, or the port has come.
  void mark_dirty();
  void mark_dirty(Location location);
  [[nodiscard]] bool has_changes() const noexcept { return !dirty_.empty(); }
  // Up to `max` steps towards the mirror, oldest first; they count as done.
  [[nodiscard]] std::vector<FdbChange> take_changes(std::size_t max);

  [[nodiscard]] const FdbEntry* find(std::uint64_t key) const;
  void for_each(const std::function<void(std::uint64_t, const FdbEntry&)>& visit) const;
  [[nodiscard]] FdbCounts counts() const;
  [[nodiscard]] std::size_t learned_at(Location location) const noexcept { return learned_at_[location.raw()]; }
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

 private:
  struct KeyHash {
    std::size_t operator()(std::uint64_t key) const noexcept {
      key *= 0x9e3779b97f4a7c15u;
      return key ^ key >> 32;
    }
  };
  using Entries = std::unordered_map<std::uint64_t, FdbEntry, KeyHash>;

  [[nodiscard]] bool has_room_at(Location location) const noexcept;
  void count_in(const FdbEntry& entry);
  void count_out(const FdbEntry& entry);
  Entries::iterator erase(Entries::iterator at, FdbEventKind why);
  void tell(FdbEventKind kind, std::uint64_t key, const FdbEntry& entry);

  Entries entries_;
  LearnerLimits limits_;
  std::vector<std::uint32_t> learned_at_ = std::vector<std::uint32_t>(65536);  // by Location::raw()
  std::unordered_map<PortIndex, std::uint32_t> port_limits_;
  std::size_t learned_now_ = 0, static_now_ = 0, operators_now_ = 0;
  FdbCounts totals_;
  std::vector<std::uint64_t> dirty_;  // keys, repetitions allowed: what is sent is the mirror's state then
  std::size_t dirty_done_ = 0;         // of these, already taken
  Sink sink_;
};

}  // namespace vx::control
