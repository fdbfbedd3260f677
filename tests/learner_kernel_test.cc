// SPDX-License-Identifier: Apache-2.0
// Takeover's part of the learner: the kernel's static entries, zebra's external ones, and the hold of those that flap.
#include <gtest/gtest.h>

#include <vector>

#include "control/learner.h"

namespace vx::control {
namespace {

constexpr Location kPort0 = Location::port(0), kPort1 = Location::port(1), kRemote = Location::vtep(0), kOther = Location::vtep(1);
constexpr std::uint64_t key(std::uint64_t n) { return fdb_key(1, MacAddress::from_u48(0x525400000000 + n)); }
constexpr FdbEntry kStaticHere{kPort0, FdbValue::kStatic}, kStaticThere{kPort1, FdbValue::kStatic};

protocol::FdbRecord idle(std::uint64_t k, std::uint16_t age) {
  protocol::FdbRecord record;
  record.key = k;
  record.updated_age_s = age;
  return record;
}

TEST(LearnerKernel, AStaticOneOfTheKernelWinsOverLearnedAndExternalNotOverTheOperators) {
  Learner learner;
  (void)learner.learn(key(1), kPort1);
  EXPECT_EQ(learner.set_kernel(key(1), {kPort0, 0}), AddResult::kReplacedLearned);
  EXPECT_TRUE(learner.find(key(1))->is_static());
  EXPECT_EQ(learner.learn(key(1), kPort1), LearnResult::kIgnored);
  EXPECT_EQ(learner.find(key(1))->location, kPort0);
  (void)learner.set_external(key(2), kRemote);
  EXPECT_EQ(learner.set_kernel(key(2), kStaticHere), AddResult::kReplacedLearned);
  EXPECT_EQ(learner.set_external(key(2), kRemote), AddResult::kRefusedExists);
  (void)learner.add(key(3), kStaticThere);
  EXPECT_EQ(learner.set_kernel(key(3), kStaticHere), AddResult::kRefusedExists);
  EXPECT_EQ(learner.set_kernel(key(3), kStaticThere), AddResult::kSame) << "the export wrote it there";
  EXPECT_EQ(learner.find(key(3))->location, kPort1);
  EXPECT_TRUE(learner.find(key(3))->is_operators());
  EXPECT_EQ(learner.counts().static_entries, 3u);
}

TEST(LearnerKernel, TheSameAgainChangesNothingAnotherPlaceDoes) {
  Learner learner;
  EXPECT_EQ(learner.set_kernel(key(1), kStaticHere), AddResult::kAdded);
  EXPECT_EQ(learner.set_external(key(2), kRemote), AddResult::kAdded);
  (void)learner.take_changes(10);
  EXPECT_EQ(learner.set_kernel(key(1), kStaticHere), AddResult::kSame);
  EXPECT_EQ(learner.set_external(key(2), kRemote), AddResult::kSame);
  EXPECT_FALSE(learner.has_changes());
  EXPECT_EQ(learner.set_kernel(key(1), kStaticThere), AddResult::kAdded);
  EXPECT_EQ(learner.set_external(key(2), kOther), AddResult::kReplacedLearned);
  EXPECT_EQ(learner.take_changes(10).size(), 2u);
}

TEST(LearnerKernel, WhatIsTheKernelsIsRemovedByTheKernelOnly) {
  Learner learner;
  (void)learner.set_kernel(key(1), kStaticHere);
  (void)learner.set_external(key(2), kRemote);
  EXPECT_EQ(learner.remove(key(1)), RemoveResult::kKernels);
  EXPECT_EQ(learner.remove(key(2)), RemoveResult::kKernels);
  EXPECT_EQ(learner.flush([](std::uint64_t, const FdbEntry&) { return true; }), 0u);
  EXPECT_EQ(learner.add(key(1), kStaticThere), AddResult::kRefusedExists);
  EXPECT_TRUE(learner.remove_kernel(key(1)));
  EXPECT_TRUE(learner.remove_external(key(2)));
  EXPECT_FALSE(learner.remove_kernel(key(1)));
  EXPECT_EQ(learner.size(), 0u);
  (void)learner.set_external(key(2), kRemote);
  EXPECT_EQ(learner.add(key(2), kStaticHere), AddResult::kReplacedLearned) << "the operator knows better";
  EXPECT_FALSE(learner.remove_external(key(2)));
  EXPECT_EQ(learner.set_kernel(key(5), kStaticHere), AddResult::kAdded);
  learner.clear();
  EXPECT_EQ(learner.size(), 0u);
}

TEST(LearnerKernel, ExternalOnesDoNotAgeGiveWayToAPortAndNeverToAVtep) {
  Learner learner;
  (void)learner.set_external(key(1), kRemote);
  EXPECT_EQ(learner.find(key(1))->flags, 0) << "the dataplane sees a move by itself";
  EXPECT_TRUE(learner.choose_expired(std::vector{idle(key(1), 999)}, 300).empty());
  learner.expire(key(1));
  EXPECT_NE(learner.find(key(1)), nullptr);
  EXPECT_EQ(learner.learn(key(1), kOther), LearnResult::kIgnored);
  EXPECT_EQ(learner.find(key(1))->location, kRemote);
  EXPECT_EQ(learner.learn(key(1), kRemote), LearnResult::kConfirmed);
  EXPECT_TRUE(learner.find(key(1))->is_external());
  EXPECT_EQ(learner.learned_at(kRemote), 0u);
  EXPECT_EQ(learner.learn(key(1), kPort0), LearnResult::kMoved);
  EXPECT_TRUE(learner.find(key(1))->is_learned());
  EXPECT_FALSE(learner.remove_external(key(1))) << "zebra withdraws it after the local one has won";
  EXPECT_EQ(learner.find(key(1))->location, kPort0);
}

TEST(LearnerKernel, EvpnMovesALearnedOneAway) {
  Learner learner;
  std::vector<FdbEventKind> seen;
  (void)learner.learn(key(1), kPort0);
  learner.set_sink([&](const FdbEvent& event) { seen.push_back(event.kind); });
  EXPECT_EQ(learner.set_external(key(1), kRemote), AddResult::kReplacedLearned);
  EXPECT_EQ(seen, std::vector{FdbEventKind::kMoved});
  EXPECT_EQ(learner.counts().moved, 1u);
  EXPECT_EQ(learner.learned_at(kPort0), 0u);
}

TEST(LearnerKernel, ExternalOnesHaveARoomOfTheirOwn) {
  Learner learner;
  learner.set_limits({300, 2});
  for (std::uint64_t i = 1; i <= 2; ++i) (void)learner.set_external(key(i), kRemote);
  EXPECT_EQ(learner.set_external(key(3), kRemote), AddResult::kFull);
  EXPECT_EQ(learner.learn(key(4), kPort0), LearnResult::kLearned);
  EXPECT_EQ(learner.learn(key(5), kPort0), LearnResult::kLearned);
  EXPECT_EQ(learner.learn(key(1), kPort0), LearnResult::kRefused) << "a third learned one";
  EXPECT_EQ(learner.find(key(1)), nullptr) << "frames to it flood";
}

TEST(LearnerKernel, AfterARestartWhatNobodyKnowsIsNotTheOperators) {
  Learner learner;
  learner.set_follows_kernel(true);
  (void)learner.set_kernel(key(1), kStaticHere);
  (void)learner.take_changes(10);
  learner.adopt(key(1), kStaticHere);
  EXPECT_FALSE(learner.has_changes());
  learner.adopt(key(2), kStaticHere);              // the kernel dropped it meanwhile
  learner.adopt(key(3), {kPort0, FdbValue::kSticky});  // was held
  learner.adopt(key(4), {kPort0, 0});
  EXPECT_EQ(learner.size(), 2u);
  const auto changes = learner.take_changes(10);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_FALSE(changes[0].entry || changes[1].entry) << "deleted in the dataplane";
}

// ---- flapping ----

struct Flapper {
  Learner learner;
  std::vector<FdbEventKind> seen;
  std::uint64_t now = 1000;
  bool is_at_0 = true;
  Flapper() {
    learner.set_hold_sink([this](const FdbEvent& event) { seen.push_back(event.kind); });
    learner.tick(now);
    (void)learner.learn(key(1), kPort0);
  }
  LearnResult move(std::uint64_t after_ms) {
    learner.tick(now += after_ms);
    is_at_0 = !is_at_0;
    return learner.learn(key(1), is_at_0 ? kPort0 : kRemote);
  }
};

TEST(LearnerFlap, MoreThanFiveMovesInTenSecondsHoldItForThirty) {
  Flapper flapper;
  Learner& learner = flapper.learner;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(flapper.move(1000), LearnResult::kMoved);
  EXPECT_TRUE(flapper.seen.empty());
  EXPECT_EQ(flapper.move(1000), LearnResult::kMoved);
  EXPECT_EQ(flapper.seen, std::vector{FdbEventKind::kHeld});
  EXPECT_EQ(learner.held_now(), std::vector{key(1)});
  EXPECT_EQ(learner.find(key(1))->flags, FdbValue::kSticky);
  EXPECT_TRUE(learner.find(key(1))->is_learned());
  const Location held_at = learner.find(key(1))->location;
  for (int i = 0; i < 25; ++i) EXPECT_NE(flapper.move(1000), LearnResult::kMoved);
  EXPECT_EQ(learner.find(key(1))->location, held_at);
  EXPECT_EQ(learner.counts().moved, 6u);
  (void)learner.take_changes(1000);
  learner.tick(flapper.now += 5000);
  EXPECT_EQ(flapper.seen, (std::vector{FdbEventKind::kHeld, FdbEventKind::kReleased})) << "each once";
  EXPECT_TRUE(learner.held_now().empty());
  EXPECT_EQ(learner.find(key(1))->flags, 0);
  EXPECT_EQ(learner.take_changes(1000).size(), 1u) << "the dataplane is told";
  EXPECT_EQ(learner.learn(key(1), held_at == kPort0 ? kRemote : kPort0), LearnResult::kMoved);
}

TEST(LearnerFlap, SlowMovesAreNeverHeldAndAreForgotten) {
  Flapper flapper;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(flapper.move(2001), LearnResult::kMoved);
  EXPECT_TRUE(flapper.seen.empty());
  EXPECT_EQ(flapper.learner.moves_remembered(), 1u);
  flapper.learner.tick(flapper.now += 12000);
  EXPECT_EQ(flapper.learner.moves_remembered(), 0u);
}

TEST(LearnerFlap, ALiveMigrationAndBackIsNotHeld) {
  Flapper flapper;
  // The new place, a late frame from the old one, the new one again; and all of it back.
  for (const std::uint64_t after : {0, 3, 1, 5000, 3}) EXPECT_EQ(flapper.move(after), LearnResult::kMoved);
  EXPECT_TRUE(flapper.seen.empty());
}

TEST(LearnerFlap, WhatIsHeldExpiresCountsAndIsReplacedLikeALearnedOne) {
  Flapper flapper;
  for (int i = 0; i < 6; ++i) (void)flapper.move(1);
  Learner& learner = flapper.learner;
  EXPECT_EQ(learner.learned_at(learner.find(key(1))->location), 1u);
  EXPECT_EQ(learner.choose_expired(std::vector{idle(key(1), 300)}, 300), std::vector{key(1)});
  learner.expire(key(1));
  EXPECT_TRUE(learner.held_now().empty());
  for (int i = 0; i < 7; ++i) (void)flapper.move(1);
  EXPECT_EQ(learner.held_now().size(), 1u);
  EXPECT_EQ(learner.add(key(1), kStaticHere), AddResult::kReplacedLearned);
  EXPECT_TRUE(learner.held_now().empty());
  learner.tick(flapper.now += 60000);
  EXPECT_EQ(learner.find(key(1))->flags, FdbValue::kStatic);
  EXPECT_EQ(learner.counts().current, 1u);
}

TEST(LearnerFlap, WhatEvpnSaysDuringTheHoldHoldsAfterIt) {
  Flapper flapper;
  for (int i = 0; i < 6; ++i) (void)flapper.move(1);
  Learner& learner = flapper.learner;
  (void)learner.set_external(key(1), kOther);
  EXPECT_TRUE(learner.find(key(1))->is_held);
  learner.tick(flapper.now += 31000);
  EXPECT_TRUE(learner.find(key(1))->is_external());
  EXPECT_EQ(learner.find(key(1))->location, kOther);
  for (int i = 0; i < 12; ++i) {  // EVPN and a port in turn flap as well
    (void)learner.learn(key(1), kPort0);
    (void)learner.set_external(key(1), kOther);
  }
  EXPECT_TRUE(learner.find(key(1))->is_held);
  EXPECT_EQ(learner.find(key(1))->location, kPort0);
  EXPECT_TRUE(learner.remove_external(key(1)));
  learner.tick(flapper.now += 31000);
  EXPECT_TRUE(learner.find(key(1))->is_learned()) << "EVPN took its word back";
}

}  // namespace
}  // namespace vx::control
