// SPDX-License-Identifier: Apache-2.0
// bench/traffic_sink.bpf.c by BPF_PROG_TEST_RUN: loss, duplicates and order exactly as injected, beside a model that remembers every
// number; and the latency histogram. Needs root (bpf(2)).
#include "bench/traffic_sink.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <unistd.h>

#include <numeric>
#include <random>
#include <set>

#include "bench/traffic_frame.h"
#include "bench/traffic_run.h"
#include "dataplane/clock.h"
#include "tests/testkit.h"

namespace vx::traffic {
namespace {

using testkit::Bytes;

constexpr std::uint32_t kWindow = VXT_WINDOW_WORDS * 64;
const Outer kOuter{1000, IpAddress::v4(172, 18, 1, 2), IpAddress::v4(172, 18, 1, 1), MacAddress::from_u48(0x020000000002),
                   MacAddress::from_u48(0x020000000001), 4789};

class TrafficSink : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for bpf(2)";
  }
  void load(std::uint32_t flows, bool is_outer = false, std::uint32_t timed_mask = 0) {
    sink_ = std::make_unique<SinkProgram>(SinkSettings{flows, is_outer, kOuter.vni, kOuter.port, timed_mask});
    sink_->begin(1);
  }
  std::uint32_t run(const Bytes& frame) {
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_size_in = static_cast<__u32>(frame.size()), .repeat = 1);
    EXPECT_EQ(::bpf_prog_test_run_opts(sink_->fd(), &options), 0);
    return options.retval;
  }
  // A frame of this flow and number.
  static Bytes frame(std::uint32_t flow, std::uint32_t sequence, std::uint8_t run = 1, std::uint64_t sent_ns = 0, const FrameShape& shape = {}) {
    FrameMaker maker(shape);
    Bytes bytes(maker.length());
    maker.write_next(bytes.data(), 0);
    const vxt_stamp stamp{VXT_MAGIC, flow | std::uint32_t{run} << 24, sent_ns != 0 ? sent_ns : monotonic_ns(), sequence};
    std::memcpy(bytes.data() + maker.header_bytes(), &stamp, sizeof stamp);
    return bytes;
  }
  void expect(std::uint32_t flow, std::uint32_t received, std::uint32_t duplicated, std::uint32_t reordered, std::uint32_t unknown) {
    const vxt_flow state = sink_->flows().at(flow);
    EXPECT_EQ(state.received, received);
    EXPECT_EQ(state.duplicated, duplicated);
    EXPECT_EQ(state.reordered, reordered);
    EXPECT_EQ(state.unknown, unknown);
  }

  std::unique_ptr<SinkProgram> sink_;
};

TEST_F(TrafficSink, InOrderNothingIsWrong) {
  load(4);
  for (std::uint32_t i = 0; i < 1000; ++i)
    for (const std::uint32_t flow : {0, 3}) EXPECT_EQ(run(frame(flow, i)), XDP_DROP);
  expect(0, 1000, 0, 0, 0);
  expect(3, 1000, 0, 0, 0);
  expect(1, 0, 0, 0, 0);
  EXPECT_EQ(sink_->totals().frames, 2000u);
}

TEST_F(TrafficSink, CountsWhatWasInjected) {
  load(1);
  for (const std::uint32_t n : {0, 1, 2, 5, 3, 5, 4, 4, 9, 6}) (void)run(frame(0, n));  // 3, 4, 6 late; 5, 4 twice; 7, 8 lost
  expect(0, 8, 2, 3, 0);
  Report report;
  const std::uint32_t sent = 10;
  add_up(report, std::span(&sent, 1), sink_->flows());
  EXPECT_EQ(report.lost, 2u);
  EXPECT_EQ(report.sent, report.received + report.lost);
  EXPECT_EQ(report.flows_lossy, 1u);
}

TEST_F(TrafficSink, BeyondTheWindowItDoesNotGuess) {
  load(1);
  (void)run(frame(0, 0));
  (void)run(frame(0, 10 * kWindow));
  (void)run(frame(0, 1));
  (void)run(frame(0, 9 * kWindow + 64));  // the last word of the window
  (void)run(frame(0, 9 * kWindow));
  expect(0, 3, 0, 1, 2);
}

TEST_F(TrafficSink, AgreesWithAModelThatForgetsNothing) {
  std::mt19937 random(1);
  load(1);
  std::set<std::uint32_t> seen;
  std::uint32_t next = 0, received = 0, duplicated = 0, reordered = 0, unknown = 0;
  for (unsigned i = 0; i < 20000; ++i) {
    const unsigned kind = random() % 16;
    // Mostly the next one; gaps small and large; behind, near and far.
    std::uint32_t n = next;
    if (kind == 0) n += random() % 4;
    if (kind == 1) n += random() % (2 * kWindow);
    if (kind == 2) n -= std::min(next, static_cast<std::uint32_t>(random() % 8));
    if (kind == 3) n -= std::min(next, static_cast<std::uint32_t>(random() % (2 * kWindow)));
    (void)run(frame(0, n));
    if (n < next && (next - 1) / 64 - n / 64 >= VXT_WINDOW_WORDS) {
      ++unknown;
    } else if (!seen.insert(n).second) {
      ++duplicated;
    } else {
      ++received;
      reordered += n < next;
    }
    next = std::max(next, n + 1);
  }
  expect(0, received, duplicated, reordered, unknown);
  EXPECT_GT(std::min({received, duplicated, reordered, unknown}), 100u);
}

TEST_F(TrafficSink, AnotherRunIsNotCountedAndANewOneBeginsAtZero) {
  load(2);
  (void)run(frame(0, 0));
  (void)run(frame(0, 1));
  EXPECT_EQ(run(frame(0, 2, 9)), XDP_DROP);
  EXPECT_EQ(run(frame(2, 0)), XDP_DROP);  // no such flow
  EXPECT_EQ(sink_->totals().stale, 2u);
  sink_->begin(2);
  expect(0, 0, 0, 0, 0);
  (void)run(frame(0, 0, 2));
  (void)run(frame(0, 2, 1));
  expect(0, 1, 0, 0, 0);
  EXPECT_EQ(sink_->totals().frames, 1u);
  EXPECT_EQ(sink_->totals().stale, 1u);
}

TEST_F(TrafficSink, FindsTheStampBehindATagAndInVxlan) {
  FrameShape tagged;
  tagged.size = 64;
  tagged.vlan = 100;
  load(1);
  EXPECT_EQ(run(frame(0, 0, 1, 0, tagged)), XDP_DROP);
  expect(0, 1, 0, 0, 0);
  for (const bool is_tagged : {false, true}) {
    FrameShape shape = is_tagged ? tagged : FrameShape{};
    shape.outer = kOuter;
    load(1, true);
    EXPECT_EQ(run(frame(0, 0, 1, 0, shape)), XDP_DROP);
    expect(0, 1, 0, 0, 0);
    shape.outer->vni = 1001;
    EXPECT_EQ(run(frame(0, 1, 1, 0, shape)), XDP_PASS);
    shape.outer->vni = kOuter.vni;
    shape.outer->port = 4790;
    EXPECT_EQ(run(frame(0, 1, 1, 0, shape)), XDP_PASS);
    expect(0, 1, 0, 0, 0);
  }
}

TEST_F(TrafficSink, WhatIsNotOursPasses) {
  for (const bool is_outer : {false, true}) {
    load(1, is_outer);
    FrameShape shape;
    if (!is_outer) shape.outer = kOuter;  // a VXLAN packet where a plain frame is expected, and the other way
    EXPECT_EQ(run(frame(0, 0, 1, 0, shape)), XDP_PASS);
    shape.outer = is_outer ? std::optional(kOuter) : std::nullopt;
    const Bytes whole = frame(0, 0, 1, 0, shape);
    for (std::size_t bytes = 14; bytes < whole.size(); ++bytes) EXPECT_EQ(run(Bytes(whole.begin(), whole.begin() + bytes)), XDP_PASS) << bytes;
    EXPECT_EQ(run(announcement(source_mac(0), source_mac(1), 0, shape.outer)), XDP_PASS);
    EXPECT_EQ(sink_->totals().frames, 0u);
  }
}

TEST_F(TrafficSink, LatencyIsMeasured) {
  load(1);
  for (std::uint32_t i = 0; i < 100; ++i) (void)run(frame(0, i, 1, monotonic_ns() - (i < 95 ? 1'000'000 : 50'000'000)));
  const SinkTotals totals = sink_->totals();
  EXPECT_NEAR(static_cast<double>(percentile(totals, 0.5)), 1e6, 0.5e6);  // the machine may be busy
  EXPECT_NEAR(static_cast<double>(percentile(totals, 0.99)), 50e6, 5e6);
  EXPECT_GE(totals.max_latency_ns, 50'000'000u);
  EXPECT_GE(totals.last_ns, totals.first_ns);
}

TEST_F(TrafficSink, OneFrameInEightIsTimedWhenToldSo) {
  load(1, false, 7);
  for (std::uint32_t i = 0; i < 100; ++i) (void)run(frame(0, i));
  const SinkTotals totals = sink_->totals();
  EXPECT_EQ(totals.frames, 100u);
  EXPECT_EQ(std::accumulate(totals.latency.begin(), totals.latency.end(), std::uint64_t{0}), 13u);
}

TEST(TrafficLatency, BucketsAreThreePercentWide) {
  std::uint32_t before = 0;
  for (std::uint64_t ns = 0; ns < 30'000'000'000; ns += ns / 100 + 1) {
    const std::uint32_t bucket = vxt_bucket(ns);
    EXPECT_GE(bucket, before);
    EXPECT_LT(bucket, VXT_BUCKETS);
    EXPECT_LE(std::abs(static_cast<double>(bucket_value(bucket)) - static_cast<double>(ns)), static_cast<double>(ns) * 0.032) << ns;
    before = bucket;
  }
  EXPECT_EQ(vxt_bucket(~0ull), VXT_BUCKETS - 1);
  EXPECT_EQ(percentile({}, 0.5), 0u);
}

}  // namespace
}  // namespace vx::traffic
