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

#include <smmintrin.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

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
  // `seed` varies the hash so that a guest cannot choose MACs that collide; tests fix it.
  explicit Fdb(std::size_t capacity, std::uint64_t seed = random_seed());
  ~Fdb();
  Fdb(const Fdb&) = delete;
  Fdb& operator=(const Fdb&) = delete;

  // ---- readers: any thread, wait-free, no allocation ----
  // Always inline: gcc 12 takes an outlined function that only prefetches for one without effect and drops the call.
  [[gnu::always_inline]] void prefetch(std::uint64_t key) const noexcept { __builtin_prefetch(&first_bucket(hash(key))); }
  // The live entry of `key`; entries of an older generation than their location's are a miss. Entries with
  // kMoved set are returned: what they mean depends on whether the MAC is source or destination.
  [[nodiscard]] Hit find(std::uint64_t key) noexcept;
  // The raw value in the first bucket of `key`, 0 when it is not there: not checked for liveness, for comparison
  // with live_bits() only. One line touched; find() tells the rest.
  [[nodiscard]] std::uint64_t peek(std::uint64_t key) const noexcept {
    const Bucket& bucket = first_bucket(hash(key));
    const unsigned found = match(bucket, key);
    if (found == 0) [[unlikely]]
      return 0;
    const auto way = static_cast<unsigned>(__builtin_ctz(found));
    const std::uint64_t value = bucket.values[way].load(std::memory_order_acquire);
    return (bucket.keys[way].load(std::memory_order_relaxed) & kKeyMask) == key ? value : 0;
  }
  // What a live, settled, learned entry at `location` has in the bits of kLiveMask: valid, not static, moved or
  // blackhole, of the location's generation. One comparison instead of all those questions.
  static constexpr std::uint64_t kLiveMask =
      0xffff | std::uint64_t{FdbValue::kValid | FdbValue::kStatic | FdbValue::kBlackhole | FdbValue::kMoved} << 16 |
      std::uint64_t{FdbValue::kGenerationMask} << 22;
  [[nodiscard]] std::uint64_t live_bits(Location location) const noexcept {
    return location.raw() | std::uint64_t{FdbValue::kValid} << 16 |
           std::uint64_t{generations_[generation_index(location)].load(std::memory_order_relaxed)} << 22;
  }
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
  // Every non-static entry at `location` becomes a miss, in O(1). sweep() reclaims the slots.
  void flush(Location location) noexcept;
  // Every non-static entry becomes a miss; one store per possible location, none per entry.
  void flush_all() noexcept;
  // Reclaims stale slots and saturates times older than kMaxAgeSeconds in up to `buckets` buckets from
  // `cursor`; returns the next cursor, 0 when the table's end was reached. A full round is due after every
  // flush and at least every 10,000 seconds, so that neither generations nor times are mistaken after they wrap.
  std::size_t sweep(std::size_t cursor, std::size_t buckets, std::uint16_t now) noexcept;
  static constexpr std::uint16_t kMaxAgeSeconds = 45000;

  struct Entry {
    std::uint64_t key = 0;
    FdbValue value;
  };
  // Copies live entries into `out` (at most `max`, at least 4) starting at bucket `cursor`; sets `cursor` to
  // where to go on, 0 at the end. Returns how many.
  std::size_t dump(std::size_t& cursor, Entry* out, std::size_t max) const noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return size_; }  // stale entries not yet swept included
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return (bucket_mask_ + 1) * sizeof(Bucket); }

 private:
  static constexpr unsigned kWays = 4;
  // The top four bits of keys[0] count the keys whose first bucket this is but which stand in their second
  // (15: some, uncounted): zero spares a miss the second line.
  static constexpr std::uint64_t kKeyMask = (std::uint64_t{1} << 60) - 1;
  static constexpr unsigned kOverflowShift = 60;
  static constexpr std::uint64_t kOverflowMax = 15;

  struct alignas(64) Bucket {
    std::array<std::atomic<std::uint64_t>, kWays> keys;
    std::array<std::atomic<std::uint64_t>, kWays> values;
  };
  static_assert(sizeof(Bucket) == 64);
  struct Place {
    Bucket* bucket = nullptr;
    unsigned way = 0;
  };

  static std::uint64_t random_seed();
  // Both halves of the 128-bit product, folded: one multiplication, cheaper to repeat than to keep.
  [[nodiscard]] std::uint64_t hash(std::uint64_t key) const noexcept {
    const auto product = static_cast<unsigned __int128>(key ^ seed_) * 0x9e3779b97f4a7c15u;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }
  [[nodiscard]] Bucket& first_bucket(std::uint64_t hash) const noexcept { return buckets_[hash & bucket_mask_]; }
  // Never the first one, unless there is only one.
  [[nodiscard]] Bucket& second_bucket(std::uint64_t hash) const noexcept {
    return buckets_[((hash & bucket_mask_) ^ (hash >> 32 | 1)) & bucket_mask_];
  }
  [[nodiscard]] static unsigned generation_index(Location location) noexcept {
    return (location.raw() & 0x0fffu) + (location.raw() >> 15) * kMaxPorts;
  }
  [[nodiscard]] bool is_live(FdbValue value) const noexcept {
    return value.has(FdbValue::kValid) &&
           (value.has(FdbValue::kStatic) ||
            value.generation() == generations_[generation_index(value.location())].load(std::memory_order_relaxed));
  }
  [[nodiscard]] static unsigned match(const Bucket& bucket, std::uint64_t key) noexcept;
  [[nodiscard]] Hit find_in(Bucket& bucket, std::uint64_t key) const noexcept;

  [[nodiscard]] Place find_slot(std::uint64_t key, std::uint64_t hash) const noexcept;
  [[nodiscard]] Place free_slot(Bucket& bucket) noexcept;
  [[nodiscard]] Place make_room(Bucket& bucket, unsigned depth) noexcept;
  void store(Place place, std::uint64_t key, std::uint64_t hash, FdbValue value) noexcept;
  void clear(Place place) noexcept;
  void reclaim_stale(Bucket& bucket) noexcept;
  void reclaim_before_wrap() noexcept;
  static void start_generation(std::atomic<std::uint16_t>& generation) noexcept;
  void count_overflow(Bucket& first, int change) noexcept;

  // Read for every packet by every worker: no line of these is written while entries come and go.
  alignas(64) std::uint64_t seed_;
  std::size_t bucket_mask_ = 0;
  Bucket* buckets_ = nullptr;
  std::size_t capacity_;
  alignas(64) std::array<std::atomic<std::uint16_t>, kMaxPorts + kMaxVteps> generations_{};
  // The writer's.
  alignas(64) std::size_t size_ = 0;
  unsigned flushes_since_sweep_ = 0;
};

// The ways whose key is `key`, as a bit set.
inline unsigned Fdb::match(const Bucket& bucket, std::uint64_t key) noexcept {
#if defined(__SANITIZE_THREAD__) || !defined(__SSE4_1__)
  unsigned found = 0;
  for (unsigned i = 0; i < kWays; ++i)
    found |= static_cast<unsigned>((bucket.keys[i].load(std::memory_order_acquire) & kKeyMask) == key) << i;
  return found;
#else
  // Aligned 16-byte loads: each 8-byte half is read at once on every x86-64, and loads are acquire there.
  const auto* at = reinterpret_cast<const __m128i*>(bucket.keys.data());
  const __m128i wanted = _mm_set1_epi64x(static_cast<long long>(key));
  const __m128i mask = _mm_set_epi64x(-1, static_cast<long long>(kKeyMask));  // of the first key only: kOverflowShift
  const __m128i low = _mm_cmpeq_epi64(_mm_and_si128(_mm_load_si128(at), mask), wanted);
  const __m128i high = _mm_cmpeq_epi64(_mm_load_si128(at + 1), wanted);
  const unsigned found = static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(_mm_packs_epi32(low, high))));
  std::atomic_signal_fence(std::memory_order_acquire);  // the value is read after the key
  return found;
#endif
}

inline Fdb::Hit Fdb::find_in(Bucket& bucket, std::uint64_t key) const noexcept {
  const unsigned found = match(bucket, key);
  if (found == 0) [[unlikely]]
    return {};
  const auto way = static_cast<unsigned>(__builtin_ctz(found));
  const FdbValue value(bucket.values[way].load(std::memory_order_acquire));
  // The writer reuses a slot by value = 0, key, value: the same key before and after means the value is its own.
  if ((bucket.keys[way].load(std::memory_order_relaxed) & kKeyMask) != key || !is_live(value)) [[unlikely]]
    return {};
  return {value, &bucket.values[way]};
}

inline Fdb::Hit Fdb::find(std::uint64_t key) noexcept {
  const std::uint64_t key_hash = hash(key);
  Bucket& first = first_bucket(key_hash);
  const Hit hit = find_in(first, key);
  if (hit || first.keys[0].load(std::memory_order_relaxed) >> kOverflowShift == 0) [[likely]]
    return hit;
  // Entries only ever move from first to second bucket, copy before clear: this order cannot miss one.
  return find_in(second_bucket(key_hash), key);
}

inline void Fdb::note_updated(const Hit& hit, std::uint16_t now) noexcept {
  if (hit.value.updated() == now) [[likely]]
    return;
  std::uint64_t old = hit.value.raw();
  const std::uint64_t fresh = (old & ~(std::uint64_t{0xffff} << 32)) | static_cast<std::uint64_t>(now) << 32;
  hit.slot->compare_exchange_strong(old, fresh, std::memory_order_relaxed);
}

inline void Fdb::note_used(const Hit& hit, std::uint16_t now) noexcept {
  if (hit.value.used() == now) [[likely]]
    return;
  std::uint64_t old = hit.value.raw();
  const std::uint64_t fresh = (old & ~(std::uint64_t{0xffff} << 48)) | static_cast<std::uint64_t>(now) << 48;
  hit.slot->compare_exchange_strong(old, fresh, std::memory_order_relaxed);
}

}  // namespace vx
