// SPDX-License-Identifier: Apache-2.0
// vxplane-bench: what became of a flow's packets, percentiles, pacing, and what the report says of them.
#include "bench/link_accounting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/link_pacer.h"
#include "bench/link_report.h"

namespace vx::bench {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

TEST(SequenceAccount, CountsLostDuplicatedAndReordered) {
  SequenceAccount account(100);
  // Of ten: 3 is lost, 5 comes twice, 6 after 8.
  std::uint64_t now = 0;
  for (const std::uint64_t sequence : {0, 1, 2, 4, 5, 5, 7, 8, 6, 9}) account.arrived(sequence, 1000, 0, now += kMs);
  EXPECT_EQ(account.received(), 9U);
  EXPECT_EQ(account.lost(10), 1U);
  EXPECT_EQ(account.duplicated(), 1U);
  EXPECT_EQ(account.reordered(), 1U);
  EXPECT_EQ(account.bytes(), 9000U);
  EXPECT_DOUBLE_EQ(account.seconds(), 0.009);
  EXPECT_DOUBLE_EQ(account.rate(), 8 * 8000 / 0.009);
  EXPECT_EQ(account.lost(5), 0U);  // a sender that says less than came
}

TEST(SequenceAccount, IgnoresNumbersThatWereNeverSent) {
  SequenceAccount account(10);
  account.arrived(10, 1000, 0, 0);
  account.arrived(UINT64_MAX, 1000, 0, 0);
  EXPECT_EQ(account.received(), 0U);
  EXPECT_EQ(account.strangers(), 2U);
  EXPECT_EQ(account.rate(), 0);
}

TEST(SequenceAccount, JitterIsThatOfRfc3550AndKnowsNoClockOffset) {
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1} << 63}) {
    SequenceAccount steady(100), shaky(100);
    for (std::uint64_t i = 0; i < 50; ++i) {
      steady.arrived(i, 100, i * kMs, offset + i * kMs + 5 * kMs);
      shaky.arrived(i, 100, i * kMs, offset + i * kMs + (i % 2) * kMs);
    }
    EXPECT_DOUBLE_EQ(steady.jitter_us(), 0);
    EXPECT_NEAR(shaky.jitter_us(), 1000 * (1 - std::pow(15.0 / 16, 49)), 0.01);
  }
}

TEST(RoundTrips, PercentilesAreNearestRank) {
  RoundTrips trips;
  EXPECT_EQ(trips.percentile_us(50), 0);
  for (std::uint64_t i = 100; i > 0; --i) trips.add(i * 1000);
  EXPECT_EQ(trips.percentile_us(50), 50);
  EXPECT_EQ(trips.percentile_us(99), 99);
  EXPECT_EQ(trips.percentile_us(100), 100);
  EXPECT_EQ(trips.percentile_us(0), 1);
  RoundTrips one;
  one.add(7000);
  for (const double percent : {0, 50, 99, 100}) EXPECT_EQ(one.percentile_us(percent), 7);
}

TEST(Pacer, KeepsTheRate) {
  // 1 Mbit/s of 1250 bytes: 100 packets a second.
  Pacer pacer(1'000'000, 2, 1250, 1000);
  unsigned sent = 0;
  for (std::uint64_t now = 1000; !pacer.is_over(now); now += kMs / 4) {
    const unsigned due = pacer.due(now);
    EXPECT_LE(due, 1U);
    pacer.sent(due);
    sent += due;
  }
  EXPECT_NEAR(sent, 200, 1);
}

TEST(Pacer, DoesNotMakeUpForAStall) {
  Pacer pacer(100'000'000, 10, 1250, 0);  // 10 packets a ms
  pacer.sent(pacer.due(0));
  EXPECT_LE(pacer.due(1000 * kMs), 51U);
  pacer.sent(pacer.due(1000 * kMs));
  EXPECT_EQ(pacer.due(1000 * kMs), 0U);
  EXPECT_EQ(pacer.due(10'000 * kMs), 0U);  // it is over
}

TEST(Pacer, WaitsForThePacketOrAStep) {
  Pacer slow(1'000'000, 1, 1250, 0), fast(10'000'000'000, 1, 1250, 0);
  slow.sent(slow.due(0));
  EXPECT_EQ(slow.next(0), 10 * kMs);
  fast.sent(fast.due(0));
  EXPECT_EQ(fast.next(0), 200'000U);
}

Report sample() {
  Report report;
  report.local = "10.0.0.1";
  report.remote = "10.0.0.3";
  report.rate = 100'000'000;
  report.idle = {200, 0, 50, 60, 70, 80};
  Direction way;
  way.mtu = {1332, 1332};
  way.udp = UdpResult{1332, 100'000'000, 1000, 990, 0, 2, 0, 99e6, 98e6, 12, {100, 100, 0, 0, 0, 0}};
  way.tcp = TcpResult{100'000'000, 60'000'000, 3, 95e6, 5, true, {}};
  report.up = way;
  return report;
}

TEST(LinkReport, WarnsOfWhatHangs) {
  Report report = sample();
  EXPECT_THAT(warnings_of(report), testing::IsEmpty());
  report.up->mtu.path_bytes = 1300;
  report.up->tcp->is_whole = false;
  report.up->udp->socket_drops = 5;
  EXPECT_THAT(warnings_of(report), testing::ElementsAre(testing::HasSubstr("above 1300 bytes are lost"), testing::HasSubstr("not the path"), testing::HasSubstr("hung")));
  report.up->mtu.path_bytes.reset();
  EXPECT_THAT(warnings_of(report), testing::Contains(testing::HasSubstr("no UDP probe passes")));
  EXPECT_THAT(to_text(report), testing::HasSubstr("warning: up: no UDP probe"));
}

TEST(LinkReport, JsonSaysTheSame) {
  const Json json = to_json(sample());
  EXPECT_EQ(json["up"]["path_mtu_bytes"], 1332);
  EXPECT_EQ(json["up"]["udp"]["lost_packets"], 10);
  EXPECT_EQ(json["up"]["udp"]["lost_percent"], 1.0);
  EXPECT_EQ(json["up"]["tcp"]["retransmitted_packets"], 3);
  EXPECT_EQ(json["round_trip_idle"]["p99_us"], 70.0);
  EXPECT_TRUE(json["up"]["udp"]["round_trip_under_load"]["p50_us"].is_null());
  EXPECT_FALSE(json.contains("down"));
  const std::string text = to_text(sample());
  EXPECT_THAT(text, testing::HasSubstr("10 of 1000 (1 %)"));
  EXPECT_THAT(text, testing::HasSubstr("no answer"));
}

}  // namespace
}  // namespace vx::bench
