// SPDX-License-Identifier: Apache-2.0
#include "control/learner.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

namespace vx::control {
namespace {

constexpr Location kPort0 = Location::port(0), kPort1 = Location::port(1), kRemote = Location::vtep(0);
constexpr std::uint64_t key(std::uint64_t n) { return fdb_key(1, MacAddress::from_u48(0x525400000000 + n)); }
constexpr FdbEntry kStaticHere{kPort0, FdbValue::kStatic};
constexpr FdbEntry kStickyHere{kPort0, FdbValue::kSticky};

protocol::FdbRecord idle(std::uint64_t k, std::uint16_t age, std::uint8_t flags = 0) {
  protocol::FdbRecord record;
  record.key = k;
  record.updated_age_s = age;
  record.flags = flags;
  return record;
}

// What the dataplane would hold after all changes.
void settle(Learner& learner, std::map<std::uint64_t, FdbEntry>& dataplane) {
  while (learner.has_changes())
    for (const auto& change : learner.take_changes(7)) {
      if (change.entry) dataplane[change.key] = *change.entry;
      else dataplane.erase(change.key);
    }
}

TEST(Learner, ANewMacIsInstalledWhereItWasSeen) {
  Learner learner;
  EXPECT_EQ(learner.learn(key(1), kPort0), LearnResult::kLearned);
  const auto changes = learner.take_changes(10);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].entry->location, kPort0);
  EXPECT_FALSE(learner.has_changes());
  EXPECT_EQ(learner.counts().learned, 1u);
  EXPECT_EQ(learner.counts().current, 1u);
}

TEST(Learner, TheNewPlaceOfALearnedMacWinsAtOnce) {
  Learner learner;
  (void)learner.learn(key(1), kPort0);
  EXPECT_EQ(learner.learn(key(1), kRemote), LearnResult::kMoved);
  EXPECT_EQ(learner.find(key(1))->location, kRemote);
  EXPECT_EQ(learner.counts().moved, 1u);
  EXPECT_EQ(learner.learned_at(kPort0), 0u);
  EXPECT_EQ(learner.learned_at(kRemote), 1u);
}

TEST(Learner, AReportFromTheKnownPlaceIsPutAgainBecauseTheDataplaneMayFloodToIt) {
  Learner learner;
  (void)learner.learn(key(1), kPort0);
  (void)learner.take_changes(10);
  EXPECT_EQ(learner.learn(key(1), kPort0), LearnResult::kConfirmed);
  EXPECT_EQ(learner.take_changes(10).size(), 1u);
}

TEST(Learner, StaticAndStickyEntriesDoNotMove) {
  Learner learner;
  (void)learner.add(key(1), kStaticHere);
  (void)learner.add(key(2), kStickyHere);
  EXPECT_EQ(learner.learn(key(1), kPort1), LearnResult::kIgnored);
  EXPECT_EQ(learner.learn(key(2), kPort1), LearnResult::kIgnored);
  EXPECT_EQ(learner.find(key(1))->location, kPort0);
  EXPECT_EQ(learner.find(key(2))->location, kPort0);
}

TEST(Learner, IdleEntriesExpireStaticOnesDoNotStickyOnesDo) {
  Learner learner;
  (void)learner.learn(key(1), kPort0);
  (void)learner.add(key(2), kStaticHere);
  (void)learner.add(key(3), kStickyHere);
  const std::vector records{idle(key(1), 300), idle(key(2), 900, FdbValue::kStatic),
                            idle(key(3), 301, FdbValue::kSticky), idle(key(4), 299), idle(key(5), 400)};
  // key 5 is a stray that the mirror does not know.
  EXPECT_EQ(learner.choose_expired(records, 300), (std::vector{key(1), key(3), key(5)}));
  for (const auto k : {key(1), key(2), key(3), key(5)}) learner.expire(k);
  EXPECT_EQ(learner.find(key(1)), nullptr);
  EXPECT_NE(learner.find(key(2)), nullptr);
  EXPECT_EQ(learner.find(key(3)), nullptr);
  EXPECT_EQ(learner.counts().expired, 2u);
}

TEST(Learner, AtTheLimitNewMacsAreRefusedAndCountedKnownOnesWork) {
  Learner learner;
  learner.set_limits({300, 2});
  (void)learner.learn(key(1), kPort0);
  (void)learner.learn(key(2), kPort0);
  EXPECT_EQ(learner.learn(key(3), kPort0), LearnResult::kRefused);
  EXPECT_EQ(learner.learn(key(1), kPort1), LearnResult::kMoved);
  EXPECT_EQ(learner.counts().refused, 1u);
  EXPECT_EQ(learner.add(key(4), kStaticHere), AddResult::kAdded) << "the operator's do not count";
}

TEST(Learner, APortsOwnLimitHoldsForMovesToo) {
  Learner learner;
  learner.set_port_limit(1, 1);
  (void)learner.learn(key(1), kPort1);
  EXPECT_EQ(learner.learn(key(2), kPort1), LearnResult::kRefused);
  (void)learner.learn(key(3), kPort0);
  // It is no longer at port 0 and may not be at port 1: frames to it flood.
  EXPECT_EQ(learner.learn(key(3), kPort1), LearnResult::kRefused);
  EXPECT_EQ(learner.find(key(3)), nullptr);
  EXPECT_EQ(learner.counts().refused, 2u);
}

TEST(Learner, LoweredLimitsEvict) {
  Learner learner;
  for (std::uint64_t i = 1; i <= 10; ++i) (void)learner.learn(key(i), kPort0);
  learner.set_limits({300, 4});
  EXPECT_EQ(learner.counts().current, 4u);
  EXPECT_EQ(learner.counts().evicted, 6u);
  learner.set_port_limit(0, 3);
  EXPECT_EQ(learner.counts().current, 3u);
}

TEST(Learner, AgeingZeroKeepsNothingLearned) {
  Learner learner;
  (void)learner.learn(key(1), kPort0);
  (void)learner.add(key(2), kStaticHere);
  learner.set_limits({0, 100});
  EXPECT_EQ(learner.counts().current, 1u);
  EXPECT_EQ(learner.learn(key(3), kPort0), LearnResult::kIgnored);
}

TEST(Learner, AddReplacesALearnedEntryAndRefusesOverTheOperators) {
  Learner learner;
  (void)learner.learn(key(1), kPort1);
  EXPECT_EQ(learner.add(key(1), kStaticHere), AddResult::kReplacedLearned);
  EXPECT_EQ(learner.find(key(1))->location, kPort0);
  EXPECT_EQ(learner.counts().evicted, 1u);
  EXPECT_EQ(learner.add(key(1), kStickyHere), AddResult::kRefusedExists);
  EXPECT_EQ(learner.remove(key(1)), RemoveResult::kRemoved);
  EXPECT_EQ(learner.remove(key(1)), RemoveResult::kNotFound);
}

TEST(Learner, ForgettingAPlaceEvictsWhatWasLearnedThere) {
  Learner learner;
  (void)learner.learn(key(1), kPort0);
  (void)learner.learn(key(2), kPort1);
  (void)learner.add(key(3), kStaticHere);
  EXPECT_EQ(learner.forget(kPort0, false), 1u);
  EXPECT_NE(learner.find(key(3)), nullptr);
  EXPECT_EQ(learner.forget(kPort0, true), 1u);
  EXPECT_EQ(learner.size(), 1u);
  EXPECT_EQ(learner.counts().evicted, 1u);
}

TEST(Learner, ReconcileSendsOnlyTheDifference) {
  Learner learner;
  for (std::uint64_t i = 1; i <= 3; ++i) (void)learner.learn(key(i), kPort0);
  std::map<std::uint64_t, FdbEntry> ignored;
  settle(learner, ignored);
  const std::vector<std::pair<std::uint64_t, FdbEntry>> content{
      {key(1), {kPort0, 0}}, {key(2), {kPort1, 0}}, {key(9), {kPort0, 0}}};
  learner.reconcile(content);
  std::map<std::uint64_t, bool> changes;
  for (const auto& change : learner.take_changes(100)) changes[change.key] = change.entry.has_value();
  EXPECT_EQ(changes, (std::map<std::uint64_t, bool>{{key(2), true}, {key(3), true}, {key(9), false}}));
}

TEST(Learner, EventsTellTheMonitorWhatHappened) {
  Learner learner;
  std::vector<FdbEventKind> seen;
  learner.set_sink([&](const FdbEvent& event) { seen.push_back(event.kind); });
  (void)learner.learn(key(1), kPort0);
  (void)learner.learn(key(1), kPort1);
  learner.expire(key(1));
  (void)learner.add(key(1), kStaticHere);
  (void)learner.remove(key(1));
  using enum FdbEventKind;
  EXPECT_EQ(seen, (std::vector{kLearned, kMoved, kExpired, kAdded, kDeleted}));
}

// Whatever happens, a dataplane that applies the changes holds what the mirror holds, and the counts are right.
TEST(Learner, RandomOperationsKeepDataplaneAndCountsTrue) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  Learner learner;
  learner.set_limits({300, 40});
  learner.set_port_limit(2, 5);
  std::map<std::uint64_t, FdbEntry> dataplane;
  std::uint64_t now = 0;
  for (int step = 0; step < 100000; ++step) {
    const std::uint64_t k = key(random() % 100);
    const Location place = random() % 4 == 0 ? kRemote : Location::port(static_cast<PortIndex>(random() % 3));
    const std::uint8_t flags = random() % 2 == 0 ? FdbValue::kStatic : FdbValue::kSticky;
    switch (random() % 16) {
      case 0: (void)learner.add(k, {place, flags}); break;
      case 1:
      case 2: (void)learner.remove(k); break;
      case 3:  // the dataplane removed it, and says so
        if (const FdbEntry* entry = learner.find(k); entry != nullptr && !entry->is_static()) dataplane.erase(k);
        if (random() % 4 == 0) (void)learner.set_kernel(k, {place, 0});
        learner.expire(k);
        break;
      case 4: if (random() % 50 == 0) learner.forget(place, random() % 2 == 0); break;
      case 5: if (random() % 50 == 0) learner.mark_dirty(); break;
      case 6: if (random() % 20 == 0) learner.set_limits({300, static_cast<std::uint32_t>(20 + random() % 40)}); break;
      case 7: (void)learner.set_external(k, place); break;
      case 8: (void)(random() % 2 == 0 ? learner.remove_kernel(k) : learner.remove_external(k)); break;
      case 9: learner.tick(now += random() % 500); break;
      default: (void)learner.learn(k, place); break;
    }
    if (random() % 8 == 0) settle(learner, dataplane);
  }
  settle(learner, dataplane);
  std::map<std::uint64_t, FdbEntry> mirror;
  std::map<std::uint16_t, std::size_t> learned_at;
  std::size_t statics = 0, held = 0;
  learner.for_each([&](std::uint64_t k, const FdbEntry& entry) {
    mirror[k] = entry;
    statics += entry.is_static() ? 1 : 0;
    if (entry.is_learned()) ++learned_at[entry.location.raw()];
    held += entry.is_held ? 1 : 0;
  });
  EXPECT_EQ(mirror, dataplane);
  EXPECT_EQ(learner.held_now().size(), held);
  EXPECT_LE(learner.moves_remembered(), mirror.size());
  EXPECT_EQ(learner.counts().current, mirror.size());
  EXPECT_EQ(learner.counts().static_entries, statics);
  for (const Location place : {kPort0, kPort1, Location::port(2), kRemote})
    EXPECT_EQ(learner.learned_at(place), learned_at[place.raw()]);
  EXPECT_LE(learner.learned_at(Location::port(2)), 5u);
}

TEST(Learner, LearnsFasterThanTwoHundredThousandASecond) {
  Learner learner;
  learner.set_limits({300, 1u << 20});
  const auto begin = std::chrono::steady_clock::now();
  constexpr std::uint64_t kCount = 400000;
  for (std::uint64_t i = 1; i <= kCount; ++i) {
    (void)learner.learn(key(i), kPort0);
    if (i % 2000 == 0) (void)learner.take_changes(2000);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  RecordProperty("learns_per_second", std::to_string(kCount / took.count()));
  EXPECT_EQ(learner.counts().learned, kCount);
  EXPECT_LT(took.count(), 20.0) << "a loaded machine has ten times the time";
}

}  // namespace
}  // namespace vx::control
