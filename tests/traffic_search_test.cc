// SPDX-License-Identifier: Apache-2.0
// The search for the highest rate without loss, on devices that are functions.
#include "bench/traffic_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace vx::traffic {
namespace {

// Forwards up to `capacity`; a sender that can `most`.
struct Device {
  double capacity, most;
  double confirmation_capacity = capacity;  // in trials longer than a second: what a short one does not show
  double floor_loss = 0;                    // share lost at any rate
  bool collapses = false;                   // forwards little when overloaded
  unsigned runs = 0;

  SearchTrial operator()(double asked, double seconds) {
    ++runs;
    const double pps = asked == 0 ? most : std::min(asked, most), can = seconds > 1 ? confirmation_capacity : capacity;
    const double out = (pps <= can ? pps : collapses ? can / 100 : can) * (1 - floor_loss);
    const auto frames = [seconds](double rate) { return static_cast<std::uint64_t>(std::ceil(rate * seconds)); };
    return {asked, pps, out, frames(pps), frames(pps - out), asked > most};
  }
};

SearchResult run(Device& device, double most_loss = 0) {
  SearchSettings settings;
  settings.most_loss = most_loss;
  settings.seconds = 1;
  return search(settings, std::ref(device));
}

TEST(TrafficSearch, FindsTheCapacity) {
  for (const double capacity : {1e3, 123'456.0, 1.9e6}) {
    for (const bool collapses : {false, true}) {
      Device device{capacity, 2e6};
      device.collapses = collapses;
      const SearchResult result = run(device);
      EXPECT_LE(result.pps, capacity);
      EXPECT_GE(result.pps, capacity * 0.97) << capacity << collapses;
      EXPECT_TRUE(result.is_confirmed);
      EXPECT_FALSE(result.is_sender_bound);
      EXPECT_LE(device.runs, 20u);
    }
  }
}

TEST(TrafficSearch, SaysWhenTheSenderIsTheLimit) {
  Device device{3e6, 2e6};
  const SearchResult result = run(device);
  EXPECT_EQ(result.pps, 2e6);
  EXPECT_TRUE(result.is_sender_bound);
  EXPECT_TRUE(result.is_confirmed);
  EXPECT_EQ(device.runs, 2u);
}

TEST(TrafficSearch, StepsDownWhenTheLongerTrialFails) {
  Device device{1e6, 2e6, 0.95e6};
  const SearchResult result = run(device);
  EXPECT_TRUE(result.is_confirmed);
  EXPECT_LE(result.pps, 0.95e6);
  EXPECT_GE(result.pps, 0.90e6);

  Device hopeless{1e6, 2e6, 0.5e6};
  EXPECT_FALSE(run(hopeless).is_confirmed);
}

TEST(TrafficSearch, ToleratesTheLossItIsTold) {
  Device device{1e6, 2e6};
  device.floor_loss = 0.001;
  EXPECT_EQ(run(device).pps, 0);  // no rate is without loss
  EXPECT_LE(device.runs, 20u);
  const SearchResult result = run(device, 0.01);
  EXPECT_TRUE(result.is_confirmed);
  EXPECT_GE(result.pps, 0.98e6);
  EXPECT_LE(result.pps, 1.02e6);  // 1 % of loss is also 1 % above the capacity
}

TEST(TrafficSearch, AFewFramesThatCameThroughProveNothing) {
  // One frame in 50 is lost, at any rate: of fewer none.
  const SearchResult result = search({}, [](double asked, double seconds) {
    const double pps = asked == 0 ? 1e6 : asked;
    const auto sent = static_cast<std::uint64_t>(pps * seconds);
    return SearchTrial{asked, pps, pps * 0.98, sent, sent / 50, false};
  });
  EXPECT_EQ(result.pps, 0);
  EXPECT_LE(result.trials.size(), 16u);
}

TEST(TrafficSearch, ASenderThatIsHeldUpProvesWhatItSent) {
  unsigned runs = 0;
  const SearchResult result = search({}, [&](double asked, double seconds) {
    const double pps = asked == 0 ? 2e6 : asked * (++runs % 3 == 0 ? 0.9 : 1), out = std::min(pps, 1.5e6);
    return SearchTrial{asked, pps, out * 0.5, static_cast<std::uint64_t>(pps * seconds), static_cast<std::uint64_t>((pps - out) * seconds), pps < asked};
  });
  EXPECT_TRUE(result.is_confirmed);
  EXPECT_LE(result.pps, 1.5e6);
  EXPECT_GE(result.pps, 1.45e6);
}

TEST(TrafficSearch, EndsWhenATrialIsInterrupted) {
  unsigned runs = 0;
  const SearchResult result = search({}, [&](double pps, double) {
    SearchTrial trial{pps, 1e6, 5e5, 1'000'000, 500'000, false};
    if (++runs == 3) trial.sent = 0;
    return trial;
  });
  EXPECT_EQ(runs, 3u);
  EXPECT_FALSE(result.is_confirmed);
}

}  // namespace
}  // namespace vx::traffic
