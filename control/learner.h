// SPDX-License-Identifier: Apache-2.0
// The truth about one overlay's FDB: which (VID, MAC) lives where, and why. Pure decisions: learn events,
// operator's commands and the dataplane's idle reports go in; puts and deletes for the dataplane come out.
//
// Ports are control's own slot numbers (port_manager.h), which outlive a restart of the dataplane; whoever
// sends the changes translates them. Activity times live in the dataplane, which sees the frames; ageing is
// therefore a dialogue: control asks what was idle long enough (choose_expired), the dataplane removes what
// still is, and says which (expire). One thread.
#pragma once

#include <array>
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

// Who says so. Control's alone: the dataplane is told location and flags only.
enum class FdbOrigin : std::uint8_t {
  kDynamic,   // learned, or the operator's by vxctl
  kKernel,    // takeover: a static or permanent entry of the kernel's bridge
  kExternal,  // takeover: an NTF_EXT_LEARNED one (zebra's, by EVPN); the dataplane has it as a learned one
};

struct FdbEntry {
  Location location;       // control's slot, or VTEP index; nowhere for a blackhole
  std::uint8_t flags = 0;  // FdbValue::kStatic | kSticky | kBlackhole; 0: learned or external
  FdbOrigin origin = FdbOrigin::kDynamic;
  bool is_held = false;    // learned, and sticky for as long as it is held because it flapped
  [[nodiscard]] bool is_learned() const noexcept { return origin == FdbOrigin::kDynamic && (flags == 0 || is_held); }
  [[nodiscard]] bool is_operators() const noexcept { return origin == FdbOrigin::kDynamic && !is_learned(); }
  [[nodiscard]] bool is_external() const noexcept { return origin == FdbOrigin::kExternal; }
  [[nodiscard]] bool is_static() const noexcept { return (flags & FdbValue::kStatic) != 0; }
  // The dataplane has the same for both.
  [[nodiscard]] bool looks_like(const FdbEntry& other) const noexcept {
    return location == other.location && flags == other.flags;
  }
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

enum class FdbEventKind : std::uint8_t {
  kLearned, kMoved, kExpired, kAdded, kDeleted, kRefused, kViolation, kHeld, kReleased
};
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
// kSame: an entry that says the same was there.
enum class [[nodiscard]] AddResult : std::uint8_t { kAdded, kReplacedLearned, kRefusedExists, kFull, kSame };
// kKernels: it is the kernel's (static or zebra's), whose table is the truth: to be removed there.
enum class [[nodiscard]] RemoveResult : std::uint8_t { kRemoved, kNotFound, kKernels };

class Learner {
 public:
  using Sink = std::function<void(const FdbEvent&)>;
  using OnChanged = std::function<void(std::uint64_t key)>;
  static constexpr std::size_t kMaxOperatorEntries = 16384;  // the kernel's static ones too: room in the dataplane's table
  // More moves than this within the window: the entry is held where it is then. A live migration makes two or three.
  static constexpr unsigned kMostMoves = 5;
  static constexpr std::uint64_t kMovesWindowMs = 10'000, kHoldMs = 30'000;

  // Limits may change at any time; what no longer fits is evicted.
  void set_limits(const LearnerLimits& limits);
  [[nodiscard]] const LearnerLimits& limits() const noexcept { return limits_; }
  // 0: no limit of its own.
  void set_port_limit(PortIndex slot, std::uint32_t max_learned);
  // Told of every event from then on (`fdb monitor`); empty: nobody.
  void set_sink(Sink sink) { sink_ = std::move(sink); }
  // Told of kHeld and kReleased only, for the log.
  void set_hold_sink(Sink sink) { hold_sink_ = std::move(sink); }
  // Told of every key whose entry came, went or changed, before or after the fact (fdb_export.h): must not call back.
  void set_on_changed(OnChanged on_changed) { on_changed_ = std::move(on_changed); }
  // Takeover: what the dataplane has as static or sticky and neither the state file nor the kernel knows was the
  // kernel's, or held: adopt() has it deleted.
  void set_follows_kernel(bool follows) { follows_kernel_ = follows; }
  // The time of what follows, in ms of any clock that does not go back: frees what was held long enough. Cheap.
  void tick(std::uint64_t now_ms);

  // A frame from `key` was seen at `location`. The new place wins at once over a learned one; static and
  // sticky entries stay, and so do held ones; an external one gives way to a port, never to a VTEP (EVPN decides).
  // A confirmed entry is put again: the dataplane may have marked it as moved.
  LearnResult learn(std::uint64_t key, Location location);
  // A static or sticky MAC was seen elsewhere and its frame dropped: for the monitor only.
  void violation(std::uint64_t key, Location location);
  // An entry the dataplane already has, read back after a restart of control.
  void adopt(std::uint64_t key, const FdbEntry& entry);

  // The operator's. Replaces a learned or external entry, refuses over one of the operator's own or the kernel's.
  AddResult add(std::uint64_t key, const FdbEntry& entry);
  RemoveResult remove(std::uint64_t key);
  // Removes those for which `matches` is true, the kernel's and external ones never; returns how many.
  std::size_t flush(const std::function<bool(std::uint64_t, const FdbEntry&)>& matches);
  // Removes all, whosever they are.
  void clear();

  // ---- takeover: what the kernel's bridge says (level-triggered: the same again changes nothing) ----
  // A static or permanent entry: static here whatever `entry` has as flags. Wins over learned and external ones;
  // kRefusedExists: the operator's own stays. kSame also when the operator's says the same.
  AddResult set_kernel(std::uint64_t key, const FdbEntry& entry);
  bool remove_kernel(std::uint64_t key);  // false: not the kernel's
  // An externally learned one. Moves a learned one (kMoved), refused over the operator's and the kernel's; does not
  // age. Over a held one it waits for the end of the hold. At most as many as may be learned.
  AddResult set_external(std::uint64_t key, Location location);
  // False when it is not external (any more): a port has taken it over.
  bool remove_external(std::uint64_t key);

  // The place went: learned entries there are evicted; with `operators_too` the rest, whosever, as well.
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
  // Keys that are held just now; any order.
  [[nodiscard]] std::vector<std::uint64_t> held_now() const;
  [[nodiscard]] std::size_t moves_remembered() const noexcept { return moves_.size(); }

 private:
  struct KeyHash {
    std::size_t operator()(std::uint64_t key) const noexcept {
      key *= 0x9e3779b97f4a7c15u;
      return key ^ key >> 32;
    }
  };
  using Entries = std::unordered_map<std::uint64_t, FdbEntry, KeyHash>;

  struct Moves {  // the last ones, oldest first from `next` on
    std::array<std::uint64_t, kMostMoves> at{};
    std::uint8_t next = 0, count = 0;
  };
  struct Hold {
    std::uint64_t until = 0;
    std::optional<Location> external;  // what EVPN has said meanwhile
  };

  [[nodiscard]] bool has_room_at(Location location) const noexcept;
  [[nodiscard]] std::size_t* tally_of(const FdbEntry& entry);
  // In place of what is at `at`, with everything that follows but the event.
  void replace(Entries::iterator at, const FdbEntry& entry);
  LearnResult learn_new(std::uint64_t key, Location location);
  void take_external(Entries::iterator at, Location location);
  void note_move(Entries::iterator at);
  void release(std::uint64_t key, const Hold& hold);
  void forget_history(std::uint64_t key);
  void changed(std::uint64_t key) {
    dirty_.push_back(key);
    if (on_changed_) on_changed_(key);
  }
  void count_in(const FdbEntry& entry);
  void count_out(const FdbEntry& entry);
  Entries::iterator erase(Entries::iterator at, FdbEventKind why);
  void tell(FdbEventKind kind, std::uint64_t key, const FdbEntry& entry);

  Entries entries_;
  LearnerLimits limits_;
  std::vector<std::uint32_t> learned_at_ = std::vector<std::uint32_t>(65536);  // by Location::raw()
  std::unordered_map<PortIndex, std::uint32_t> port_limits_;
  std::size_t learned_now_ = 0, static_now_ = 0, fixed_now_ = 0, external_now_ = 0;  // fixed: operator's and kernel's
  FdbCounts totals_;
  std::vector<std::uint64_t> dirty_;  // keys, repetitions allowed: what is sent is the mirror's state then
  std::size_t dirty_done_ = 0;         // of these, already taken
  std::unordered_map<std::uint64_t, Moves, KeyHash> moves_;  // of entries that moved within the window
  std::unordered_map<std::uint64_t, Hold, KeyHash> holds_;
  std::uint64_t now_ms_ = 0, tidy_due_ms_ = 0;
  bool follows_kernel_ = false;
  Sink sink_, hold_sink_;
  OnChanged on_changed_;
};

}  // namespace vx::control
