// SPDX-License-Identifier: Apache-2.0
// The FDB's writer side: placing, moving and reclaiming entries. The readers' side is inline in fdb.h.
//
// What readers rely on: a slot changes hands as value = 0, key, value; an entry that moves to its second bucket
// is copied there before its first place is cleared; nothing ever moves back.
#include "dataplane/fdb.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <random>
#include <system_error>

namespace vx {

std::uint64_t Fdb::random_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

Fdb::Fdb(std::size_t capacity, std::uint64_t seed) : seed_(seed), capacity_(capacity) {
  // At most half full: then make_room() at depth two practically never fails before `capacity`.
  const std::size_t buckets = std::bit_ceil(capacity < 2 ? std::size_t{2} : (capacity * 2 + kWays - 1) / kWays);
  bucket_mask_ = buckets - 1;
  void* memory = mmap(nullptr, buckets * sizeof(Bucket), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw std::system_error(errno, std::generic_category(), "FDB: no memory, choose a smaller fdb-max-learned");
  // Random access over megabytes: huge pages spare most TLB misses. Refusal costs speed only.
  (void)madvise(memory, buckets * sizeof(Bucket), MADV_HUGEPAGE);
  buckets_ = static_cast<Bucket*>(memory);  // zero pages are valid atomics of value 0
}

Fdb::~Fdb() { munmap(buckets_, memory_bytes()); }

bool Fdb::mark_moved(const Hit& hit) noexcept {
  std::uint64_t now = hit.slot->load(std::memory_order_relaxed);
  const auto moved = static_cast<std::uint64_t>(FdbValue::kMoved) << 16;
  // A lost race against an activity note is tried again; one against the writer means that it knows better.
  while (FdbValue(now).location() == hit.value.location() && FdbValue(now) && (now & moved) == 0)
    if (hit.slot->compare_exchange_weak(now, now | moved, std::memory_order_relaxed)) return true;
  return false;
}

Fdb::Place Fdb::find_slot(std::uint64_t key, std::uint64_t hash) const noexcept {
  for (Bucket* bucket : {&first_bucket(hash), &second_bucket(hash)})
    for (unsigned i = 0; i < kWays; ++i)
      if ((bucket->keys[i].load(std::memory_order_relaxed) & kKeyMask) == key &&
          FdbValue(bucket->values[i].load(std::memory_order_relaxed)))
        return {bucket, i};
  return {};
}

void Fdb::count_overflow(Bucket& first, int change) noexcept {
  const auto word = first.keys[0].load(std::memory_order_relaxed);
  auto count = word >> kOverflowShift;
  if (count == kOverflowMax) return;  // lost count: stays "some"
  count = change > 0 ? count + 1 : count - 1;
  first.keys[0].store((word & kKeyMask) | count << kOverflowShift, std::memory_order_release);
}

void Fdb::store(Place place, std::uint64_t key, std::uint64_t hash, FdbValue value) noexcept {
  Bucket& first = first_bucket(hash);
  if (place.bucket != &first) count_overflow(first, 1);  // before the key can be looked for there
  auto& slot = place.bucket->keys[place.way];
  slot.store((slot.load(std::memory_order_relaxed) & ~kKeyMask) | key, std::memory_order_release);
  place.bucket->values[place.way].store(value.raw(), std::memory_order_release);
  ++size_;
}

void Fdb::clear(Place place) noexcept {
  auto& slot = place.bucket->keys[place.way];
  const auto key = slot.load(std::memory_order_relaxed) & kKeyMask;
  place.bucket->values[place.way].store(0, std::memory_order_release);
  slot.store(slot.load(std::memory_order_relaxed) & ~kKeyMask, std::memory_order_release);
  Bucket& first = first_bucket(hash(key));
  if (place.bucket != &first) count_overflow(first, -1);
  --size_;
}

Fdb::Place Fdb::free_slot(Bucket& bucket) noexcept {
  for (unsigned i = 0; i < kWays; ++i) {
    const FdbValue value(bucket.values[i].load(std::memory_order_relaxed));
    if (!value) return {&bucket, i};
    if (!is_live(value)) {
      clear({&bucket, i});
      return {&bucket, i};
    }
  }
  return {};
}

// Frees a slot of a full bucket by moving one of its entries to that entry's second bucket.
Fdb::Place Fdb::make_room(Bucket& bucket, unsigned depth) noexcept {
  for (unsigned i = 0; i < kWays; ++i) {
    const auto key = bucket.keys[i].load(std::memory_order_relaxed) & kKeyMask;
    const auto key_hash = hash(key);
    if (&first_bucket(key_hash) != &bucket || &second_bucket(key_hash) == &bucket) continue;
    Place target = free_slot(second_bucket(key_hash));
    if (target.bucket == nullptr && depth > 1) target = make_room(second_bucket(key_hash), depth - 1);
    if (target.bucket == nullptr || target.bucket == &bucket) continue;
    store(target, key, key_hash, FdbValue(bucket.values[i].load(std::memory_order_relaxed)));
    clear({&bucket, i});
    return {&bucket, i};
  }
  return {};
}

FdbResult Fdb::put(std::uint64_t key, Location location, std::uint8_t flags, std::uint16_t updated,
                   std::uint16_t used) {
  const auto generation = generations_[generation_index(location)].load(std::memory_order_relaxed);
  const FdbValue value(location, static_cast<std::uint8_t>((flags & ~FdbValue::kMoved) | FdbValue::kValid),
                       generation, updated, used);
  const auto key_hash = hash(key);
  if (const Place place = find_slot(key, key_hash); place.bucket != nullptr) {
    auto& slot = place.bucket->values[place.way];
    const bool was_live = is_live(FdbValue(slot.load(std::memory_order_relaxed)));
    slot.store(value.raw(), std::memory_order_release);
    return was_live ? FdbResult::kReplaced : FdbResult::kAdded;
  }
  if (size_ >= capacity_) return FdbResult::kFull;
  Bucket& first = first_bucket(key_hash);
  Bucket& second = second_bucket(key_hash);
  Place place = free_slot(first);
  if (place.bucket == nullptr) place = free_slot(second);
  if (place.bucket == nullptr) place = make_room(first, 2);
  if (place.bucket == nullptr) place = make_room(second, 2);
  if (place.bucket == nullptr) return FdbResult::kFull;
  store(place, key, key_hash, value);
  return FdbResult::kAdded;
}

FdbResult Fdb::remove(std::uint64_t key) {
  const Place place = find_slot(key, hash(key));
  if (place.bucket == nullptr) return FdbResult::kNotFound;
  const bool was_live = is_live(FdbValue(place.bucket->values[place.way].load(std::memory_order_relaxed)));
  clear(place);
  return was_live ? FdbResult::kRemoved : FdbResult::kNotFound;
}

FdbResult Fdb::remove_if_idle(std::uint64_t key, std::uint16_t idle_since) {
  const Place place = find_slot(key, hash(key));
  if (place.bucket == nullptr) return FdbResult::kNotFound;
  auto& slot = place.bucket->values[place.way];
  std::uint64_t raw = slot.load(std::memory_order_relaxed);
  do {
    if (!is_live(FdbValue(raw))) break;
    if (static_cast<std::int16_t>(FdbValue(raw).updated() - idle_since) >= 0) return FdbResult::kRefreshed;
  } while (!slot.compare_exchange_weak(raw, 0, std::memory_order_acq_rel));
  clear(place);
  return is_live(FdbValue(raw)) ? FdbResult::kRemoved : FdbResult::kNotFound;
}

void Fdb::start_generation(std::atomic<std::uint16_t>& generation) noexcept {
  const auto next = generation.load(std::memory_order_relaxed) + 1;
  generation.store(static_cast<std::uint16_t>(next & FdbValue::kGenerationMask), std::memory_order_release);
}

void Fdb::flush(Location location) noexcept {
  start_generation(generations_[generation_index(location)]);
  reclaim_before_wrap();
}

void Fdb::flush_all() noexcept {
  for (auto& generation : generations_) start_generation(generation);
  reclaim_before_wrap();
}

// Before any generation can come round again, reclaim here and now.
void Fdb::reclaim_before_wrap() noexcept {
  if (++flushes_since_sweep_ <= FdbValue::kGenerationMask / 2) return;
  for (std::size_t b = 0; b <= bucket_mask_; ++b) reclaim_stale(buckets_[b]);
  flushes_since_sweep_ = 0;
}

void Fdb::reclaim_stale(Bucket& bucket) noexcept {
  for (unsigned i = 0; i < kWays; ++i) {
    const FdbValue value(bucket.values[i].load(std::memory_order_relaxed));
    if (value && !is_live(value)) clear({&bucket, i});
  }
}

std::size_t Fdb::sweep(std::size_t cursor, std::size_t buckets, std::uint16_t now) noexcept {
  if (cursor == 0) flushes_since_sweep_ = 0;
  const auto saturated = [now](std::uint16_t then) {
    return static_cast<std::uint16_t>(now - then) > kMaxAgeSeconds ? static_cast<std::uint16_t>(now - kMaxAgeSeconds) : then;
  };
  for (; buckets > 0 && cursor <= bucket_mask_; --buckets, ++cursor) {
    reclaim_stale(buckets_[cursor]);
    for (auto& slot : buckets_[cursor].values) {
      std::uint64_t raw = slot.load(std::memory_order_relaxed);
      const FdbValue value(raw);
      if (!value) continue;
      const FdbValue aged(value.location(), value.flags(), value.generation(), saturated(value.updated()),
                          saturated(value.used()));
      if (aged.raw() != raw) slot.compare_exchange_strong(raw, aged.raw(), std::memory_order_relaxed);
    }
  }
  return cursor > bucket_mask_ ? 0 : cursor;
}

std::size_t Fdb::dump(std::size_t& cursor, Entry* out, std::size_t max) const noexcept {
  std::size_t count = 0;
  for (; cursor <= bucket_mask_ && max - count >= kWays; ++cursor)
    for (unsigned i = 0; i < kWays; ++i) {
      const FdbValue value(buckets_[cursor].values[i].load(std::memory_order_relaxed));
      if (is_live(value)) out[count++] = {buckets_[cursor].keys[i].load(std::memory_order_relaxed) & kKeyMask, value};
    }
  if (cursor > bucket_mask_) cursor = 0;
  return count;
}

}  // namespace vx
