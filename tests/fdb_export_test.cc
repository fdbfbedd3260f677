// SPDX-License-Identifier: Apache-2.0
// The kernel's FDB is kept true: the decisions against a fake kernel. fdb_export_kernel_test.cc has the real one.
#include "control/fdb_export.h"

#include <gtest/gtest.h>
#include <linux/neighbour.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <tuple>

namespace vx::control {
namespace {

constexpr Location kPort0 = Location::port(0), kPort1 = Location::port(1), kRemote = Location::vtep(0), kOther = Location::vtep(1);
constexpr int kTunnel = 100;
constexpr std::uint64_t key(std::uint64_t n, std::uint16_t vid = 1) { return fdb_key(vid, MacAddress::from_u48(0x525400000000 + n)); }

IpAddress address(unsigned index) {
  const std::uint8_t bytes[4] = {10, 0, 0, static_cast<std::uint8_t>(index)};
  return IpAddress::from_v4_bytes(bytes);
}
std::optional<FdbExport::Place> place_of(Location location) {
  if (location.is_vtep()) return FdbExport::Place{kTunnel, address(location.index())};
  return FdbExport::Place{10 + location.index(), std::nullopt};
}

// As the kernel's bridge and vxlan do with what is written to them.
struct FakeKernel {
  struct Row {
    int ifindex = 0;
    std::optional<IpAddress> dst;
    bool is_static = false;
    Milliseconds updated = 0;
  };
  std::map<std::tuple<bool, std::uint16_t, std::uint64_t>, Row> rows;  // tunnel's, VID, MAC
  std::size_t puts = 0, deletes = 0;

  bool apply(const BridgeFdbWrite& write, Milliseconds now) {
    const auto name = std::tuple{write.dst.has_value(), write.vid, write.mac.to_u48()};
    const auto at = rows.find(name);
    if (write.is_delete) {
      ++deletes;
      if (at == rows.end() || at->second.ifindex != write.ifindex || at->second.dst != write.dst) return false;
      rows.erase(at);
      return true;
    }
    ++puts;
    Row& row = rows[name];
    const bool stays_static = row.is_static && !write.dst;
    row = {write.ifindex, write.dst, write.is_static || stays_static, now};
    return true;
  }
  void age(Milliseconds now, Milliseconds ageing) {
    std::erase_if(rows, [&](const auto& row) { return !row.second.is_static && now - row.second.updated >= ageing; });
  }
};

struct World {
  Learner learner;
  FdbExport exported{learner, place_of};
  FakeKernel kernel;
  Milliseconds now = 1000;
  World() {
    learner.set_on_changed([this](std::uint64_t k) { exported.changed(k); });
  }
  std::size_t tick(std::size_t max = 2000) {
    const auto writes = exported.take_writes(now, max);
    EXPECT_LE(writes.size(), max);
    for (const auto& write : writes) (void)kernel.apply(write, now);
    return writes.size();
  }
  void run(Milliseconds duration, Milliseconds step = 100) {
    for (const Milliseconds end = now + duration; now < end; now += step) {
      tick();
      kernel.age(now, 300'000);
    }
  }
  const FakeKernel::Row* bridge(std::uint64_t k) {
    const auto at = kernel.rows.find({false, fdb_key_vid(k), fdb_key_mac(k).to_u48()});
    return at == kernel.rows.end() ? nullptr : &at->second;
  }
  const FakeKernel::Row* tunnel(std::uint64_t k) {
    const auto at = kernel.rows.find({true, 0, fdb_key_mac(k).to_u48()});
    return at == kernel.rows.end() ? nullptr : &at->second;
  }
};

TEST(FdbExport, APortIsOneRowAVtepTwo) {
  World world;
  (void)world.learner.learn(key(1), kPort1);
  (void)world.learner.learn(key(2), kRemote);
  EXPECT_EQ(world.tick(), 3u);
  ASSERT_NE(world.bridge(key(1)), nullptr);
  EXPECT_EQ(world.bridge(key(1))->ifindex, 11);
  EXPECT_EQ(world.tunnel(key(1)), nullptr);
  ASSERT_NE(world.bridge(key(2)), nullptr);
  ASSERT_NE(world.tunnel(key(2)), nullptr);
  EXPECT_EQ(world.bridge(key(2))->ifindex, kTunnel);
  EXPECT_EQ(world.tunnel(key(2))->dst, address(0));
  EXPECT_EQ(world.tick(), 0u) << "written once";
}

TEST(FdbExport, AMoveIsRewrittenAndAnEndDeleted) {
  World world;
  (void)world.learner.learn(key(1), kRemote);
  world.tick();
  (void)world.learner.learn(key(1), kOther);
  world.tick();
  EXPECT_EQ(world.tunnel(key(1))->dst, address(1));
  (void)world.learner.learn(key(1), kPort0);
  world.tick();
  EXPECT_EQ(world.bridge(key(1))->ifindex, 10);
  EXPECT_EQ(world.tunnel(key(1)), nullptr);
  world.learner.expire(key(1));
  world.tick();
  EXPECT_TRUE(world.kernel.rows.empty());
  EXPECT_EQ(world.exported.rows(), 0u);
}

TEST(FdbExport, WhatMovesWhileItWaitsIsWrittenOnceWithItsNewestPlace) {
  World world;
  for (int i = 0; i < 1000; ++i) (void)world.learner.learn(key(1), i % 2 == 0 ? kPort0 : kPort1);
  EXPECT_EQ(world.tick(), 1u);
  EXPECT_EQ(world.bridge(key(1))->ifindex, place_of(world.learner.find(key(1))->location)->ifindex);
  (void)world.learner.learn(key(2), kPort0);
  world.learner.expire(key(2));
  EXPECT_EQ(world.tick(), 0u) << "came and went unseen";
}

TEST(FdbExport, TheKernelsOwnIsNeitherWrittenNorDeleted) {
  World world;
  (void)world.learner.learn(key(1), kPort0);
  (void)world.learner.learn(key(2), kRemote);
  world.tick();
  (void)world.learner.set_kernel(key(1), {kPort0, 0});  // somebody made it static there
  (void)world.learner.set_external(key(2), kOther);
  (void)world.learner.set_external(key(3), kRemote);
  EXPECT_EQ(world.tick(), 0u);
  (void)world.learner.remove_kernel(key(1));
  (void)world.learner.remove_external(key(2));
  EXPECT_EQ(world.tick(), 0u);
  // A local frame takes an external one over; of the device's own row zebra has the say.
  (void)world.learner.learn(key(3), kPort0);
  EXPECT_EQ(world.tick(), 1u);
  EXPECT_EQ(world.bridge(key(3))->ifindex, 10);
}

TEST(FdbExport, TheOperatorsStaticIsStaticThereAndAStepBackDeletesFirst) {
  World world;
  (void)world.learner.add(key(1), {kPort0, FdbValue::kStatic});
  (void)world.learner.add(key(2), {Location(), FdbValue::kStatic | FdbValue::kBlackhole});
  (void)world.learner.add(key(3), {kRemote, FdbValue::kStatic});
  EXPECT_EQ(world.tick(), 3u);
  EXPECT_TRUE(world.bridge(key(1))->is_static);
  EXPECT_TRUE(world.tunnel(key(3))->is_static);
  BridgeFdbEntry row;
  row.ifindex = 10, row.master = 5, row.mac = fdb_key_mac(key(1)), row.vid = 1, row.state = NUD_NOARP;
  EXPECT_TRUE(world.exported.wrote(row)) << "read back it is not the kernel's word";
  row.ifindex = 11;
  EXPECT_FALSE(world.exported.wrote(row));
  world.run(400'000, 1000);
  EXPECT_EQ(world.kernel.puts, 3u) << "stays by itself";
  (void)world.learner.remove(key(1));
  (void)world.learner.learn(key(1), kPort0);
  world.tick();
  EXPECT_FALSE(world.bridge(key(1))->is_static);
  row.ifindex = 10;
  EXPECT_FALSE(world.exported.wrote(row)) << "static by somebody else's hand";
  row.state = NUD_REACHABLE;
  EXPECT_TRUE(world.exported.wrote(row));
}

TEST(FdbExport, RowsNeverAgeWhileTheLearnerHasThemAndAreMadeYoungSpreadInTime) {
  World world;
  constexpr std::uint64_t kMany = 20000;
  for (std::uint64_t i = 1; i <= kMany; ++i) (void)world.learner.learn(key(i), kPort0);
  for (unsigned i = 0; i < 11; ++i) EXPECT_LE(world.tick(), 2000u);
  EXPECT_EQ(world.kernel.rows.size(), kMany);
  std::size_t most = 0;
  for (int step = 0; step < 6000; ++step, world.now += 100) {
    most = std::max(most, world.tick());
    world.kernel.age(world.now, 101'000);
    if (world.kernel.rows.size() != kMany) break;
  }
  EXPECT_EQ(world.kernel.rows.size(), kMany) << "young again within a third of the ageing";
  EXPECT_LT(most, 200u) << "20,000 in 50 s are 40 a tick";
  EXPECT_LT(world.kernel.puts, kMany * (1 + 600 / 50 + 1));
}

TEST(FdbExport, AMassOfNewOnesDoesNotKeepTheOldFromBeingMadeYoung) {
  World world;
  for (std::uint64_t i = 1; i <= 1000; ++i) (void)world.learner.learn(key(i), kPort0);
  world.tick(1010);
  std::uint64_t next = 10'000, oldest = next;
  for (int step = 0; step < 1200; ++step, world.now += 100) {
    for (int i = 0; i < 300; ++i) (void)world.learner.learn(key(next++), kPort0);
    while (next - oldest > 9000) world.learner.expire(key(oldest++));
    EXPECT_LE(world.tick(200), 200u);
    world.kernel.age(world.now, 300'000);
  }
  for (std::uint64_t i = 1; i <= 1000; ++i) EXPECT_LE(world.now - world.bridge(key(i))->updated, 101'000u) << i;
}

TEST(FdbExport, WhatTheKernelLostIsWrittenAgain) {
  World world;
  (void)world.learner.learn(key(1), kPort0);
  (void)world.learner.learn(key(2), kRemote);
  world.tick();
  world.kernel.rows.clear();
  world.exported.changed(key(1));
  EXPECT_EQ(world.tick(), 0u) << "as far as is known, it is there";
  world.exported.changed_at(kPort0);
  EXPECT_EQ(world.tick(), 1u);
  world.exported.changed_all();
  EXPECT_EQ(world.tick(), 3u);
  EXPECT_EQ(world.kernel.rows.size(), 3u);
}

TEST(FdbExport, TheQueueStaysBounded) {
  World world;
  for (int i = 0; i < 2'000'000; ++i) world.exported.changed(key(static_cast<std::uint64_t>(i % 1000)));
  EXPECT_LE(world.exported.waiting(), 65536u);
}

TEST(FdbExport, WhatFailedIsTriedAgain) {
  World world;
  (void)world.learner.learn(key(1), kPort0);
  for (const auto& write : world.exported.take_writes(world.now, 100)) world.exported.failed(write, world.now);
  EXPECT_EQ(world.tick(), 0u);
  world.run(101'000);
  EXPECT_NE(world.bridge(key(1)), nullptr);
  EXPECT_EQ(world.kernel.puts, 1u);
}

TEST(FdbExport, WithoutVlanFilteringRowsHaveNoVid) {
  World world;
  world.exported.set({300, false});
  (void)world.learner.learn(key(1, 1), kPort0);
  (void)world.learner.learn(key(1, 7), kPort1);
  world.tick();
  EXPECT_EQ(world.kernel.rows.size(), 1u);
  EXPECT_EQ(world.kernel.rows.begin()->second.ifindex, 11) << "the newest";
  world.learner.expire(key(1, 7));
  world.tick();
  EXPECT_EQ(world.kernel.rows.begin()->second.ifindex, 10);
  world.exported.set({300, true});
  world.tick();
  EXPECT_EQ(world.kernel.rows.size(), 1u);
  EXPECT_NE(world.bridge(key(1, 1)), nullptr);
}

TEST(FdbExport, AMacInTwoVlansBehindATunnelKeepsItsRowUntilTheLastGoes) {
  World world;
  (void)world.learner.learn(key(1, 1), kRemote);
  (void)world.learner.learn(key(1, 2), kOther);
  world.tick();
  EXPECT_EQ(world.tunnel(key(1))->dst, address(1));
  world.learner.expire(key(1, 2));
  world.tick();
  EXPECT_EQ(world.tunnel(key(1))->dst, address(0));
  world.learner.expire(key(1, 1));
  world.tick();
  EXPECT_TRUE(world.kernel.rows.empty());
}

TEST(FdbExport, WhilePausedNothingIsWrittenAndDynamicRowsBecomeTheKernels) {
  World world;
  (void)world.learner.learn(key(1), kPort0);
  (void)world.learner.add(key(2), {kPort0, FdbValue::kStatic});
  (void)world.learner.learn(key(4), kPort0);
  world.tick();
  world.exported.pause();
  world.learner.expire(key(1));
  (void)world.learner.remove(key(2));
  (void)world.learner.learn(key(3), kPort0);
  EXPECT_EQ(world.tick(), 0u);
  world.exported.resume();
  world.tick();
  EXPECT_NE(world.bridge(key(1)), nullptr) << "the kernel has kept it alive, or will age it";
  EXPECT_EQ(world.bridge(key(2)), nullptr);
  EXPECT_NE(world.bridge(key(3)), nullptr);
  EXPECT_NE(world.bridge(key(4)), nullptr);
}

// After any events and enough ticks the kernel has what the learner has, and nothing else.
TEST(FdbExport, RandomEventsLeaveTheKernelTrue) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  World world;
  Learner& learner = world.learner;
  learner.set_limits({300, 60});
  const auto check = [&] {
    while (world.exported.waiting() > 0) world.tick(50);
    std::size_t bridge = 0;
    std::map<std::uint64_t, std::vector<IpAddress>> tunnel;
    learner.for_each([&](std::uint64_t k, const FdbEntry& entry) {
      if (entry.origin != FdbOrigin::kDynamic) return;
      ++bridge;
      ASSERT_NE(world.bridge(k), nullptr);
      EXPECT_EQ(world.bridge(k)->ifindex, place_of(entry.location)->ifindex);
      EXPECT_EQ(world.bridge(k)->is_static, entry.is_static());
      if (entry.location.is_vtep()) tunnel[fdb_key_mac(k).to_u48()].push_back(address(entry.location.index()));
    });
    for (const auto& [mac, addresses] : tunnel) {
      const auto at = world.kernel.rows.find({true, 0, mac});
      ASSERT_NE(at, world.kernel.rows.end());
      EXPECT_NE(std::find(addresses.begin(), addresses.end(), *at->second.dst), addresses.end());
    }
    EXPECT_EQ(world.kernel.rows.size(), bridge + tunnel.size());
    EXPECT_EQ(world.exported.rows(), bridge + tunnel.size());
  };
  for (int step = 0; step < 100'000 && !HasFailure(); ++step) {
    const std::uint64_t k = key(random() % 50, static_cast<std::uint16_t>(1 + random() % 3));
    const Location place = random() % 2 == 0 ? Location::vtep(random() % 2) : Location::port(static_cast<PortIndex>(random() % 3));
    switch (random() % 16) {
      case 0: (void)learner.add(k, {place, FdbValue::kStatic}); break;
      case 1:
      case 2: (void)learner.remove(k); break;
      case 3: learner.expire(k); break;
      case 4: if (random() % 50 == 0) learner.forget(place, random() % 2 == 0); break;
      case 5: if (random() % 100 == 0) world.exported.changed_all(); break;
      case 6: learner.tick(world.now += random() % 3000); break;
      case 7: world.tick(4 + random() % 20); break;
      case 8: world.kernel.age(world.now, 300'000); break;
      default: (void)learner.learn(k, place); break;
    }
    if (step % 1000 == 999) {
      world.run(1000);
      check();
    }
  }
  EXPECT_GT(world.kernel.deletes, 1000u);
}

TEST(FdbExport, LearningIsHardlySlowerWithIt) {
  constexpr std::uint64_t kCount = 400'000;
  double seconds[2];
  for (const bool is_exporting : {false, true}) {
    World world;
    world.learner.set_limits({300, 1u << 20});
    if (!is_exporting) world.learner.set_on_changed({});
    const auto begin = std::chrono::steady_clock::now();
    for (std::uint64_t i = 1; i <= kCount; ++i) {
      (void)world.learner.learn(key(i), kPort0);
      if (i % 2000 == 0) (void)world.learner.take_changes(2000);
    }
    seconds[is_exporting] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  RecordProperty("learns_per_second_alone", std::to_string(kCount / seconds[0]));
  RecordProperty("learns_per_second_exporting", std::to_string(kCount / seconds[1]));
  EXPECT_LT(seconds[1], 20.0) << "a loaded machine has ten times the time";
}

}  // namespace
}  // namespace vx::control
