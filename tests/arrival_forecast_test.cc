// SPDX-License-Identifier: Apache-2.0
// What is foretold of even, disturbed, random and ending traffic, and what waiting for it costs.
#include "dataplane/arrival_forecast.h"

#include <gtest/gtest.h>

#include <random>

namespace vx {
namespace {

constexpr std::uint64_t kUs = 1000, kMs = 1000 * kUs, kSilence = 400 * kUs;

// A receiver that sleeps and is woken as the forecast says; waking takes 60 us.
struct Receiver {
  static constexpr std::uint64_t kWake = 60 * kUs;
  ArrivalForecast forecast{kSilence};
  unsigned met_awake = 0, woken = 0;
  std::uint64_t spent_awake = 0;

  void packet(std::uint64_t at) {
    const std::uint64_t from = forecast.wake_at(), until = forecast.awake_until();
    bool is_awake = false;
    if (from != 0 && from <= at) {
      forecast.woke(from, from + kWake);
      is_awake = at >= from + kWake && at < until;
      spent_awake += std::min(at, until) - from;
    }
    ++(is_awake ? met_awake : woken);
    forecast.received(is_awake ? at : at + kWake, !is_awake);
  }
};

TEST(ArrivalForecast, MeetsEvenTrafficAwake) {
  for (const std::uint64_t interval : {1 * kMs, 4 * kMs, 20 * kMs, 50 * kMs, 900 * kMs}) {
    Receiver receiver;
    std::uint64_t at = 7 * kMs;
    std::mt19937 random(1);
    for (int i = 0; i < 200; ++i) receiver.packet(at += interval + random() % (20 * kUs) - 10 * kUs);
    EXPECT_GE(receiver.met_awake, 190u) << interval;
    EXPECT_LE(receiver.spent_awake, 200 * std::min(interval / 4, kSilence)) << interval;
  }
}

TEST(ArrivalForecast, OneLateOrLostPacketEndsNothing) {
  Receiver receiver;
  std::uint64_t at = 7 * kMs;
  for (int i = 0; i < 200; ++i) {
    at += 10 * kMs;
    if (i % 20 == 18) continue;
    receiver.packet(i % 20 == 9 ? at + 2 * kMs : at);
  }
  EXPECT_GE(receiver.met_awake, 130u);  // not the first ones, the late ones, and the one or two behind those
}

TEST(ArrivalForecast, PacketsOfOneArrivalCountOnce) {
  Receiver receiver;
  for (std::uint64_t at = 10 * kMs; at < 1000 * kMs; at += 10 * kMs) {
    receiver.packet(at);
    for (unsigned i = 1; i < 20; ++i) receiver.forecast.received(at + Receiver::kWake + i * 50 * kUs, false);
  }
  EXPECT_GE(receiver.met_awake, 90u);
}

TEST(ArrivalForecast, RandomTrafficCostsNothing) {
  Receiver receiver;
  std::mt19937 random(1);
  std::exponential_distribution<double> interval(1.0 / (20 * kMs));
  std::uint64_t at = 7 * kMs;
  for (int i = 0; i < 5000; ++i) receiver.packet(at += kSilence + static_cast<std::uint64_t>(interval(random)));
  EXPECT_LE(receiver.spent_awake, at / 500) << "0.2 % of the time";
}

TEST(ArrivalForecast, SilenceEndsItAfterOneWait) {
  Receiver receiver;
  std::uint64_t at = 7 * kMs;
  for (int i = 0; i < 20; ++i) receiver.packet(at += 10 * kMs);
  EXPECT_TRUE(receiver.forecast.is_due(at + 10 * kMs));
  EXPECT_LE(receiver.forecast.awake_until() - receiver.forecast.wake_at(), kSilence);
  for (std::uint64_t later = at + 11 * kMs; later < at + 1000 * kMs; later += 100 * kUs) EXPECT_FALSE(receiver.forecast.is_due(later));
}

TEST(ArrivalForecast, FollowsAnotherInterval) {
  Receiver receiver;
  std::uint64_t at = 7 * kMs;
  for (int i = 0; i < 50; ++i) receiver.packet(at += 10 * kMs);
  const unsigned before = receiver.met_awake;
  for (int i = 0; i < 50; ++i) receiver.packet(at += 3 * kMs);
  EXPECT_GE(receiver.met_awake - before, 40u);
}

}  // namespace
}  // namespace vx
