// SPDX-License-Identifier: Apache-2.0
// The FDB against a std::map model, at its limits, and under concurrent readers (run with -Dsanitize=thread).
#include "dataplane/fdb.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>
#include <vector>

namespace vx {
namespace {

std::uint64_t key_of(std::uint64_t n) { return fdb_key(static_cast<std::uint16_t>(1 + n % 4094), MacAddress::from_u48(0x020000000000u + n)); }
Fdb::Hit look_up(Fdb& fdb, std::uint64_t key) { return fdb.find(key); }

TEST(Fdb, KeyHoldsVidAndMac) {
  const auto key = fdb_key(4094, MacAddress{{0x52, 0x54, 0x00, 0xaa, 0xbb, 0x01}});
  EXPECT_EQ(key, 0x0ffe525400aabb01u);
  EXPECT_EQ(fdb_key_vid(key), 4094);
  EXPECT_EQ(fdb_key_mac(key).to_u48(), 0x525400aabb01u);
}

TEST(Fdb, ValueKeepsEveryField) {
  const FdbValue value(Location::vtep(4095), FdbValue::kValid | FdbValue::kSticky, 0x3ff, 65535, 12345);
  EXPECT_EQ(value.location(), Location::vtep(4095));
  EXPECT_TRUE(value.location().is_vtep());
  EXPECT_EQ(value.flags(), FdbValue::kValid | FdbValue::kSticky);
  EXPECT_EQ(value.generation(), 0x3ff);
  EXPECT_EQ(value.updated(), 65535);
  EXPECT_EQ(value.used(), 12345);
}

TEST(Fdb, MillionEntriesFitIn64MiB) {
  Fdb fdb(1'000'000, 1);
  EXPECT_LE(fdb.memory_bytes(), 64u << 20);
  for (std::uint64_t n = 0; n < 1'000'000; ++n)
    ASSERT_EQ(fdb.put(key_of(n), Location::port(static_cast<PortIndex>(n % 1000)), 0, 0, 0), FdbResult::kAdded) << n;
  EXPECT_EQ(fdb.size(), 1'000'000u);
  for (std::uint64_t n = 0; n < 1'000'000; ++n) {
    const auto hit = look_up(fdb, key_of(n));
    ASSERT_TRUE(hit) << n;
    ASSERT_EQ(hit.value.location(), Location::port(static_cast<PortIndex>(n % 1000)));
  }
}

TEST(Fdb, FullTableRefusesNewAndKeepsKnown) {
  Fdb fdb(100, 2);
  for (std::uint64_t n = 0; n < 100; ++n) ASSERT_EQ(fdb.put(key_of(n), Location::port(1), 0, 0, 0), FdbResult::kAdded);
  EXPECT_EQ(fdb.put(key_of(100), Location::port(1), 0, 0, 0), FdbResult::kFull);
  EXPECT_EQ(fdb.put(key_of(50), Location::port(2), 0, 0, 0), FdbResult::kReplaced);
  for (std::uint64_t n = 0; n < 100; ++n) EXPECT_TRUE(look_up(fdb, key_of(n)));
  EXPECT_EQ(fdb.remove(key_of(7)), FdbResult::kRemoved);
  EXPECT_EQ(fdb.put(key_of(100), Location::port(1), 0, 0, 0), FdbResult::kAdded);
}

TEST(Fdb, FlushMissesDynamicEntriesOfThatPlaceOnly) {
  Fdb fdb(1000, 3);
  ASSERT_EQ(fdb.put(key_of(1), Location::port(1), 0, 0, 0), FdbResult::kAdded);
  ASSERT_EQ(fdb.put(key_of(2), Location::port(1), FdbValue::kStatic, 0, 0), FdbResult::kAdded);
  ASSERT_EQ(fdb.put(key_of(3), Location::vtep(1), 0, 0, 0), FdbResult::kAdded);
  fdb.flush(Location::port(1));
  EXPECT_FALSE(look_up(fdb, key_of(1)));
  EXPECT_TRUE(look_up(fdb, key_of(2)));
  EXPECT_TRUE(look_up(fdb, key_of(3)));
  EXPECT_EQ(fdb.size(), 3u);  // not yet swept
  EXPECT_EQ(fdb.sweep(0, ~std::size_t{0}, 0), 0u);
  EXPECT_EQ(fdb.size(), 2u);
  fdb.flush_all();
  EXPECT_FALSE(look_up(fdb, key_of(3)));
  EXPECT_TRUE(look_up(fdb, key_of(2)));
}

TEST(Fdb, GenerationsComingRoundNeverReviveAnEntry) {
  Fdb fdb(1000, 4);
  ASSERT_EQ(fdb.put(key_of(1), Location::port(1), 0, 0, 0), FdbResult::kAdded);
  for (int i = 0; i < 5000; ++i) {
    fdb.flush(Location::port(1));
    ASSERT_FALSE(look_up(fdb, key_of(1))) << i;
  }
}

TEST(Fdb, ActivityIsNotedOnceASecondAndKeepsTheEntry) {
  Fdb fdb(10, 5);
  ASSERT_EQ(fdb.put(key_of(1), Location::port(1), 0, 100, 100), FdbResult::kAdded);
  Fdb::note_updated(look_up(fdb, key_of(1)), 105);
  Fdb::note_used(look_up(fdb, key_of(1)), 107);
  EXPECT_EQ(look_up(fdb, key_of(1)).value.updated(), 105);
  EXPECT_EQ(look_up(fdb, key_of(1)).value.used(), 107);
  EXPECT_EQ(fdb.remove_if_idle(key_of(1), 105), FdbResult::kRefreshed);
  EXPECT_EQ(fdb.remove_if_idle(key_of(1), 106), FdbResult::kRemoved);
  EXPECT_EQ(fdb.remove_if_idle(key_of(1), 106), FdbResult::kNotFound);
}

TEST(Fdb, AgesSurviveTheClockWrap) {
  Fdb fdb(10, 6);
  ASSERT_EQ(fdb.put(key_of(1), Location::port(1), 0, 65530, 65530), FdbResult::kAdded);
  EXPECT_EQ(fdb.remove_if_idle(key_of(1), 65500), FdbResult::kRefreshed);
  EXPECT_EQ(fdb.remove_if_idle(key_of(1), 4), FdbResult::kRemoved);  // idle since 10 s after
  ASSERT_EQ(fdb.put(key_of(2), Location::port(1), 0, 0, 0), FdbResult::kAdded);
  EXPECT_EQ(fdb.sweep(0, ~std::size_t{0}, 60000), 0u);
  EXPECT_EQ(look_up(fdb, key_of(2)).value.updated(), 60000 - Fdb::kMaxAgeSeconds);
}

TEST(Fdb, MovedEntryIsMarkedOnceAndReplacedByThePut) {
  Fdb fdb(10, 7);
  ASSERT_EQ(fdb.put(key_of(1), Location::port(1), 0, 0, 0), FdbResult::kAdded);
  const auto hit = look_up(fdb, key_of(1));
  EXPECT_TRUE(Fdb::mark_moved(hit));
  EXPECT_FALSE(Fdb::mark_moved(hit));
  EXPECT_TRUE(look_up(fdb, key_of(1)).value.has(FdbValue::kMoved));
  ASSERT_EQ(fdb.put(key_of(1), Location::port(2), 0, 0, 0), FdbResult::kReplaced);
  EXPECT_FALSE(look_up(fdb, key_of(1)).value.has(FdbValue::kMoved));
  EXPECT_FALSE(Fdb::mark_moved(hit));  // a stale hit cannot mark the new place
}

TEST(FdbModel, RandomOperationsAgreeWithAMap) {
  constexpr unsigned kSeed = 20261122;
  RecordProperty("seed", kSeed);
  std::mt19937_64 random(kSeed);
  constexpr std::size_t kCapacity = 600;
  Fdb fdb(kCapacity, 8);
  struct Expected {
    Location location;
    bool is_static;
  };
  std::map<std::uint64_t, Expected> model;
  for (int step = 0; step < 200'000; ++step) {
    const auto key = key_of(random() % 1000);
    const auto port = static_cast<PortIndex>(random() % 8);
    switch (random() % 16) {
      case 0:
        fdb.flush(Location::port(port));
        std::erase_if(model, [&](const auto& e) { return !e.second.is_static && e.second.location == Location::port(port); });
        break;
      case 1:
        (void)fdb.sweep(0, ~std::size_t{0}, 0);
        ASSERT_EQ(fdb.size(), model.size());
        break;
      case 2: case 3: case 4: case 5:
        ASSERT_EQ(fdb.remove(key), model.erase(key) != 0 ? FdbResult::kRemoved : FdbResult::kNotFound);
        break;
      default: {
        const bool is_static = random() % 8 == 0;
        const auto result = fdb.put(key, Location::port(port), is_static ? FdbValue::kStatic : 0, 0, 0);
        if (result == FdbResult::kFull) {
          ASSERT_FALSE(model.contains(key));
          ASSERT_EQ(fdb.size(), kCapacity);
          break;
        }
        ASSERT_EQ(result, model.contains(key) ? FdbResult::kReplaced : FdbResult::kAdded);
        model[key] = {Location::port(port), is_static};
      }
    }
    const auto probe = key_of(random() % 1000);
    const auto hit = look_up(fdb, probe);
    ASSERT_EQ(static_cast<bool>(hit), model.contains(probe)) << "step " << step;
    if (hit) {
      ASSERT_EQ(hit.value.location(), model[probe].location);
    }
  }
  std::size_t cursor = 0, dumped = 0;
  do {
    std::array<Fdb::Entry, 64> entries;
    const auto n = fdb.dump(cursor, entries.data(), entries.size());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(model.at(entries[i].key).location, entries[i].value.location());
    dumped += n;
  } while (cursor != 0);
  EXPECT_EQ(dumped, model.size());
}

// Every key has one place it may ever be at (a function of the key), so any mixture of two entries shows.
TEST(FdbThreads, ReadersNeverSeeAnotherKeysValueNorMissAStableOne) {
  Fdb fdb(4000, 9);
  constexpr std::uint64_t kStable = 1000, kChurn = 6000;
  const auto place = [](std::uint64_t n) { return Location::port(static_cast<PortIndex>(n % 1000)); };
  for (std::uint64_t n = 0; n < kStable; ++n) ASSERT_EQ(fdb.put(key_of(n), place(n), 0, 0, 0), FdbResult::kAdded);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0}, missed{0};
  std::vector<std::thread> readers;
  for (unsigned t = 0; t < 2; ++t)
    readers.emplace_back([&, t] {
      std::mt19937_64 random(t);
      std::uint16_t now = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        const auto n = random() % (kStable + kChurn);
        const auto hit = look_up(fdb, key_of(n));
        if (hit && hit.value.location() != place(n)) ++wrong;
        if (!hit && n < kStable) ++missed;
        if (hit) Fdb::note_updated(hit, ++now);
        if (hit && n >= kStable && n % 64 == 0) Fdb::mark_moved(hit);
      }
    });
  std::mt19937_64 random(99);
  for (int i = 0; i < 200'000; ++i) {
    const auto n = kStable + random() % kChurn;
    if (random() % 2 == 0) (void)fdb.put(key_of(n), place(n), 0, 0, 0);
    else (void)fdb.remove(key_of(n));
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_EQ(missed.load(), 0u);
}

}  // namespace
}  // namespace vx
