// SPDX-License-Identifier: Apache-2.0
// The forwarding database of one overlay: (VID, MAC) to the place the MAC lives at. One per VNI.
//
// Layout: buckets of four entries, one 64-byte cache line each: four 64-bit keys, four 64-bit values. A key
// has two candidate buckets; a lookup touches the second only when the first has overflowed. The table is
// sized at construction to at most half full, so it reports kFull at `capacity` instead of degrading.
//
// Threads: one writer (the dataplane's management thread). Readers are wait-free, any number, any thread,
// and see an old or a new value, never a mixture. Readers may change two things, each by one
// compare-and-swap that loses against the writer: the activity times (at most once a second per entry) and
// the `moved` flag.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "dataplane/packet.h"
#include "dataplane/wire.h"

namespace vx {

// VID in bits 48-59, MAC in bits 0-47. Zero is "no key": a zero MAC is never learned nor added.
[[nodiscard]] constexpr std::uint64_t fdb_key(std::uint16_t vid, MacAddress mac) noexcept {
  return static_cast<std::uint64_t>(vid & kVidMask) << 48 | mac.to_u48();
}
[[nodiscard]] constexpr std::uint16_t fdb_key_vid(std::uint64_t key) noexcept {
  return static_cast<std::uint16_t>(key >> 48 & kVidMask);
}
[[nodiscard]] constexpr MacAddress fdb_key_mac(std::uint64_t key) noexcept { return MacAddress::from_u48(key); }

// What an entry says, in 64 bits:
//   bits 0-15  location      16-21 flags      22-31 generation      32-47 updated      48-63 used
// `updated` (last frame received from the MAC) and `used` (last frame sent to it) are seconds of the
// dataplane's clock modulo 65536.
class FdbValue {
 public:
  enum Flag : std::uint8_t {
    kValid = 1,      // the slot holds an entry
    kStatic = 2,     // neither ages nor moves; not subject to generations
    kSticky = 4,     // ages, does not move
    kBlackhole = 8,  // frames to it are dropped
    kMoved = 16,     // seen in another place since: a lookup as destination misses (flood)
  };
  static constexpr std::uint16_t kGenerationMask = 0x3ff;

  constexpr FdbValue() noexcept = default;
  explicit constexpr FdbValue(std::uint64_t raw) noexcept : raw_(raw) {}
  constexpr FdbValue(Location location, std::uint8_t flags, std::uint16_t generation, std::uint16_t updated,
                     std::uint16_t used) noexcept
      : raw_(location.raw() | static_cast<std::uint64_t>(flags & 0x3f) << 16 |
             static_cast<std::uint64_t>(generation & kGenerationMask) << 22 |
             static_cast<std::uint64_t>(updated) << 32 | static_cast<std::uint64_t>(used) << 48) {}

  [[nodiscard]] constexpr std::uint64_t raw() const noexcept { return raw_; }
  [[nodiscard]] constexpr Location location() const noexcept { return Location::from_raw(static_cast<std::uint16_t>(raw_)); }
  [[nodiscard]] constexpr std::uint8_t flags() const noexcept { return static_cast<std::uint8_t>(raw_ >> 16 & 0x3f); }
  [[nodiscard]] constexpr bool has(Flag flag) const noexcept { return (flags() & flag) != 0; }
  [[nodiscard]] constexpr std::uint16_t generation() const noexcept {
    return static_cast<std::uint16_t>(raw_ >> 22 & kGenerationMask);
  }
  [[nodiscard]] constexpr std::uint16_t updated() const noexcept { return static_cast<std::uint16_t>(raw_ >> 32); }
  [[nodiscard]] constexpr std::uint16_t used() const noexcept { return static_cast<std::uint16_t>(raw_ >> 48); }
  explicit constexpr operator bool() const noexcept { return has(kValid); }

 private:
  std::uint64_t raw_ = 0;
};
static_assert(sizeof(FdbValue) == 8);

enum class [[nodiscard]] FdbResult : std::uint8_t { kAdded, kReplaced, kFull, kRemoved, kNotFound, kRefreshed };

class Fdb {
 public:
  // What a reader found: the value and the slot it stands in, for note_* below. A null slot is a miss.
  struct Hit {
    FdbValue value;
    std::atomic<std::uint64_t>* slot = nullptr;
    explicit operator bool() const noexcept { return slot != nullptr; }
  };

  // `capacity`: entries at most, 1 to 16,777,216. Memory: 32 bytes an entry, rounded up to a power of two.
  explicit Fdb(std::size_t capacity);
  ~Fdb();
  Fdb(const Fdb&) = delete;
  Fdb& operator=(const Fdb&) = delete;

  // ---- readers: any thread, wait-free, no allocation ----
  [[nodiscard]] static std::uint64_t hash(std::uint64_t key) noexcept;
  void prefetch(std::uint64_t hash) const noexcept;
  // The live entry of `key`; entries of an older generation than their location's are a miss. Entries with
  // kMoved set are returned: what they mean depends on whether the MAC is source or destination.
  [[nodiscard]] Hit find(std::uint64_t key, std::uint64_t hash) noexcept;
  // Notes activity at second `now` (modulo 65536); writes only if that second is not yet noted.
  static void note_updated(const Hit& hit, std::uint16_t now) noexcept;
  static void note_used(const Hit& hit, std::uint16_t now) noexcept;
  // Stops the entry's use as a destination at once. True if this call set the flag (not if it was set).
  static bool mark_moved(const Hit& hit) noexcept;

  // ---- writer ----
  // Adds or replaces. The generation is filled in from the location.
  FdbResult put(std::uint64_t key, Location location, std::uint8_t flags, std::uint16_t updated, std::uint16_t used);
  FdbResult remove(std::uint64_t key);
  // Removes unless a reader noted `updated` at or after `idle_since` (modulo-65536 seconds, compared
  // by signed 16-bit distance): kRefreshed then, and the entry stays.
  FdbResult remove_if_idle(std::uint64_t key, std::uint16_t idle_since);
  // O(1): every non-static entry at `location` becomes a miss. Slots are reclaimed by sweep().
  void flush(Location location) noexcept;
  // O(1): every non-static entry becomes a miss.
  void flush_all() noexcept;
  // Reclaims stale slots and saturates old times in up to `buckets` buckets from `cursor`; returns the next
  // cursor, 0 when the table's end was reached.
  std::size_t sweep(std::size_t cursor, std::size_t buckets, std::uint16_t now);

  struct Entry {
    std::uint64_t key = 0;
    FdbValue value;
  };
  // Copies live entries into `out` (at most `max`, at least 4) starting at bucket `cursor`; sets `cursor` to
  // where to go on, 0 at the end. Returns how many. Writer's thread.
  std::size_t dump(std::size_t& cursor, Entry* out, std::size_t max) const;

  [[nodiscard]] std::size_t size() const noexcept;      // live entries, stale ones not yet swept included
  [[nodiscard]] std::size_t capacity() const noexcept;
  [[nodiscard]] std::size_t memory_bytes() const noexcept;

 private:
  struct Impl;  // replaced by inline members where find() needs them
  std::unique_ptr<Impl> impl_;
};

}  // namespace vx
