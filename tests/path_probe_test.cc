// SPDX-License-Identifier: Apache-2.0
// The search for a path's MTU against a path made of numbers: losses, reordering, duplicates, silence, changes; then who is
// measured when, and what is made of the results.
#include "control/path_probe.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "control/path_probe_schedule.h"
#include "control/path_probe_wire.h"
#include "dataplane/probe.h"
#include "tests/testkit.h"

namespace vx::control {
namespace {

constexpr Milliseconds kStart = 1'000'000;

// A path with a clock. What is sent is answered after `rtt` when it is not too large, not lost, and somebody answers that way.
struct FakePath {
  unsigned mtu = 1500;
  Milliseconds rtt = 25;
  std::set<ProbeMethod> answers{ProbeMethod::kTunnel};
  std::function<bool(const ProbeShot&, unsigned index)> is_lost = [](const ProbeShot&, unsigned) { return false; };
  std::function<Milliseconds(unsigned index)> extra_delay = [](unsigned) { return Milliseconds{0}; };
  unsigned copies = 1;
  unsigned device_mtu = 65535;

  Milliseconds now = kStart;
  std::vector<ProbeShot> shots;
  std::map<std::uint16_t, unsigned> tries;

  ProbeResult run(PathProbe& probe) {
    std::multimap<Milliseconds, std::uint32_t> under_way;
    while (!probe.is_done() && now < kStart + 60'000) {
      for (const auto& shot : probe.tick(now)) {
        const auto index = static_cast<unsigned>(shots.size());
        shots.push_back(shot);
        ++tries[shot.size];
        if (shot.size > device_mtu) probe.too_large(shot.sequence);
        else if (shot.size <= mtu && answers.contains(shot.method) && !is_lost(shot, index))
          for (unsigned i = 0; i < copies; ++i) under_way.emplace(now + rtt + extra_delay(index) + i, shot.sequence);
      }
      if (probe.is_done()) break;
      const Milliseconds next = under_way.empty() ? probe.due() : std::min(probe.due(), under_way.begin()->first);
      now = std::max(next, now + 1);
      while (!under_way.empty() && under_way.begin()->first <= now) {
        probe.answered(under_way.begin()->second, now);
        under_way.erase(under_way.begin());
      }
    }
    return probe.result();
  }
};

ProbePlan plan(std::uint16_t needed = 1400) {
  return {needed, {{ProbeMethod::kTunnel, 128, 2034}, {ProbeMethod::kEcho, 128, 65535}}};
}
ProbeResult measure(FakePath& path, std::uint16_t needed = 1400) {
  PathProbe probe(plan(needed), kStart);
  const auto result = path.run(probe);
  EXPECT_LE(path.now - kStart, 5000u);
  return result;
}

TEST(PathProbe, AGoodPathTakesTwoPacketsAndTwoRoundTrips) {
  FakePath path;
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kPasses);
  EXPECT_EQ(result.passes, 1400);
  EXPECT_EQ(result.method, ProbeMethod::kTunnel);
  EXPECT_EQ(result.rtt, 25u);
  EXPECT_EQ(path.shots.size(), 2u);
  EXPECT_EQ(path.now - kStart, 50u);
}

TEST(PathProbe, FindsEverySmallerPathExactly) {
  for (unsigned mtu = 128; mtu < 1400; ++mtu) {
    FakePath path;
    path.mtu = mtu;
    const auto result = measure(path);
    ASSERT_EQ(result.verdict, ProbeVerdict::kSmaller) << mtu;
    ASSERT_EQ(result.passes, mtu);
  }
}

TEST(PathProbe, FitsItsTimeOnSlowPaths) {
  for (const Milliseconds rtt : {0, 1, 10, 50, 100, 200}) {
    FakePath path;
    path.mtu = 1372;
    path.rtt = rtt;
    EXPECT_EQ(measure(path).passes, 1372) << rtt;
  }
}

TEST(PathProbe, TriesASizeThreeTimesAndTheNeededOneTwiceAsOften) {
  FakePath path;
  path.mtu = 1372;
  (void)measure(path);
  for (const auto& [size, tries] : path.tries) EXPECT_LE(tries, size == 1400 || size == 1373 ? 6u : 3u) << size;
  EXPECT_EQ(path.tries[1400], 6u);
  EXPECT_LT(path.shots.size(), 100u);
}

TEST(PathProbe, SilentPeerIsSilentAfterLittleMoreThanASecond) {
  FakePath path;
  path.answers = {};
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kSilent);
  EXPECT_EQ(result.passes, 0);
  EXPECT_EQ(path.shots.size(), 6u);
  EXPECT_LE(path.now - kStart, 1300u);
}

TEST(PathProbe, WithoutAWayNobodyAnswers) {
  PathProbe probe({1400, {}}, kStart);
  EXPECT_TRUE(probe.is_done());
  EXPECT_EQ(probe.result().verdict, ProbeVerdict::kSilent);
}

TEST(PathProbe, AKernelPeerIsMeasuredByEcho) {
  FakePath path;
  path.answers = {ProbeMethod::kEcho};
  path.mtu = 1372;
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kSmaller);
  EXPECT_EQ(result.method, ProbeMethod::kEcho);
  EXPECT_EQ(result.passes, 1372);
}

TEST(PathProbe, AnAnswerToAWayGivenUpTakesItUpAgain) {
  FakePath path;
  path.answers = {ProbeMethod::kTunnel};
  path.rtt = 1100;  // longer than the tunnel's contact lasts
  PathProbe probe(plan(), kStart);
  const auto result = path.run(probe);
  EXPECT_EQ(result.method, ProbeMethod::kTunnel);
  EXPECT_EQ(result.verdict, ProbeVerdict::kPasses);
}

TEST(PathProbe, OneAnswerInThreeIsEnough) {
  FakePath path;
  path.mtu = 1372;
  std::map<std::uint16_t, unsigned> seen;
  path.is_lost = [&](const ProbeShot& shot, unsigned) { return ++seen[shot.size] % 3 != 0; };
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kSmaller);
  EXPECT_EQ(result.passes, 1372);
}

TEST(PathProbe, LossNeverMakesAGoodPathSmall) {
  for (unsigned seed = 0; seed < 4000; ++seed) {
    FakePath path;
    std::uint32_t state = seed * 2654435761u + 1;
    path.is_lost = [&](const ProbeShot&, unsigned) {
      state = state * 1664525u + 1013904223u;
      return state >> 24 < 51;  // one in five
    };
    const auto result = measure(path);
    ASSERT_NE(result.verdict, ProbeVerdict::kSmaller) << seed << ": " << result.passes;
  }
}

TEST(PathProbe, ANeededSizeLostThriceIsFoundByTheConfirmation) {
  FakePath path;
  unsigned lost = 0;
  path.is_lost = [&](const ProbeShot& shot, unsigned) { return shot.size == 1400 && ++lost <= 3; };
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kPasses);
  EXPECT_EQ(result.passes, 1400);
}

TEST(PathProbe, APathThatGoesAwayMeanwhileIsNotCalledSmall) {
  for (const unsigned after : {1u, 4u, 8u, 20u, 28u}) {
    FakePath path;
    path.mtu = after == 1 ? 1500 : 1372;
    path.is_lost = [&](const ProbeShot&, unsigned index) { return index >= after; };
    EXPECT_EQ(measure(path).verdict, ProbeVerdict::kUnsure) << after;
  }
}

TEST(PathProbe, AnOutageThatEndsLeavesTheTruth) {
  FakePath path;
  path.is_lost = [&](const ProbeShot&, unsigned) { return path.now > kStart + 20 && path.now < kStart + 500; };
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kPasses);
}

TEST(PathProbe, ReorderingAndDuplicatesChangeNothing) {
  FakePath path;
  path.mtu = 1372;
  path.copies = 3;
  path.extra_delay = [](unsigned index) { return Milliseconds{index % 5 * 9}; };
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kSmaller);
  EXPECT_EQ(result.passes, 1372);
}

TEST(PathProbe, AnswersLaterThanTheirRoundCountForTheirSize) {
  FakePath path;
  path.rtt = 5;
  path.extra_delay = [](unsigned index) { return Milliseconds{index == 0 ? 0u : 300u}; };  // the path slows down behind the contact
  path.mtu = 1372;
  const auto result = measure(path);
  EXPECT_TRUE(result.verdict == ProbeVerdict::kUnsure || (result.verdict == ProbeVerdict::kSmaller && result.passes == 1372));
}

TEST(PathProbe, UnknownSequencesAreIgnored) {
  PathProbe probe(plan(), kStart);
  for (const std::uint32_t sequence : {0u, 1u, 77u, 0xffffffffu}) probe.answered(sequence, kStart);
  EXPECT_EQ(probe.tick(kStart).size(), 1u);
  EXPECT_EQ(probe.result().passes, 0);
}

TEST(PathProbe, WhatTheOwnDeviceDoesNotCarryIsNotTriedTwice) {
  FakePath path;
  path.device_mtu = 1300;
  const auto result = measure(path);
  EXPECT_EQ(result.verdict, ProbeVerdict::kSmaller);
  EXPECT_EQ(result.passes, 1300);
  EXPECT_EQ(path.tries[1400], 2u);  // once, and once to confirm
}

TEST(PathProbe, WhereLargerOnesCannotBeSentItSaysHowFarItCame) {
  FakePath path;
  path.mtu = 9000;
  const auto result = measure(path, 9000);
  EXPECT_EQ(result.verdict, ProbeVerdict::kPasses);
  EXPECT_EQ(result.needed, 9000);
  EXPECT_EQ(result.passes, 2034);
}


// ---- the bytes ----

using testkit::Bytes;
using testkit::FrameBuilder;
using testkit::hex;

ProbeEnds ends(bool is_v6) {
  ProbeEnds ends;
  ends.source_mac = testkit::kOurMac;
  ends.next_hop = testkit::kPeerMac;
  ends.local = is_v6 ? testkit::v6(1) : testkit::kLocal4;
  ends.remote = is_v6 ? testkit::v6(2) : testkit::kRemote4;
  ends.ttl = 63;
  ends.vni = 1000;
  return ends;
}
constexpr ProbeId kId{0xdeadbeef, 7};

TEST(ProbeWire, TunnelProbesAreWholeVxlanPacketsOfTheirSize) {
  for (const bool is_v6 : {false, true}) {
    for (const std::uint16_t size : {kSmallestProbe, std::uint16_t{1399}, std::uint16_t{1400}, kLargestInjected}) {
      const Frame frame = tunnel_probe(ends(is_v6), size, kId);
      ASSERT_EQ(frame.size(), size + 14u);
      const std::size_t headers = is_v6 ? 70 : 50;  // outer ones
      const std::uint16_t port = static_cast<std::uint16_t>(frame[headers - 16] << 8 | frame[headers - 15]);
      EXPECT_GE(port, 49152);
      FrameBuilder expected;
      expected.eth(testkit::kPeerMac, testkit::kOurMac);
      if (is_v6) expected.ipv6(testkit::v6(1), testkit::v6(2)).ttl(63);
      else expected.ipv4(testkit::kLocal4, testkit::kRemote4).ttl(63).dont_fragment();
      expected.udp(port, 4789).vxlan(1000).raw(Bytes(frame.begin() + static_cast<long>(headers), frame.end()));
      EXPECT_EQ(hex(frame), hex(expected.build()));
      // What the peer's dataplane makes of it, and what comes back.
      Bytes inner(frame.begin() + static_cast<long>(headers), frame.end());
      Packet packet;
      packet.data = inner.data();
      packet.length = static_cast<std::uint32_t>(inner.size());
      ASSERT_EQ(judge_probe(packet), ProbeKind::kRequest);
      EXPECT_EQ(probe_answer({packet.data, packet.length}), std::nullopt) << "a request is no answer";
      answer_probe(packet, testkit::kRemote4);
      EXPECT_EQ(probe_answer({packet.data, packet.length}), kId);
      EXPECT_EQ(probe_answer({packet.data, packet.length - 1}), std::nullopt);
    }
  }
}

TEST(ProbeWire, EchoProbesAreAnsweredByWhoeverAnswersPings) {
  for (const bool is_v6 : {false, true}) {
    Frame frame = echo_probe(ends(is_v6), 1400, kId);
    ASSERT_EQ(frame.size(), 1414u);
    const std::size_t icmp = is_v6 ? 54 : 34;
    EXPECT_EQ(frame[icmp], is_v6 ? 128 : 8);
    FrameBuilder expected;
    expected.eth(testkit::kPeerMac, testkit::kOurMac);
    if (is_v6) expected.ipv6(testkit::v6(1), testkit::v6(2)).ttl(63).icmp6(128, Bytes(frame.begin() + 58, frame.end()));
    else expected.ipv4(testkit::kLocal4, testkit::kRemote4).ttl(63).dont_fragment().icmp4(8, 1376);
    Bytes wanted = expected.build();
    if (!is_v6) {  // FrameBuilder's ICMPv4 has data of its own
      EXPECT_EQ(checksum_fold(checksum_partial(frame.data() + icmp, 1380)), 0xffff);
      std::copy(frame.begin() + static_cast<long>(icmp), frame.end(), wanted.begin() + static_cast<long>(icmp));
    }
    EXPECT_EQ(hex(frame), hex(wanted));
    EXPECT_EQ(probe_answer(frame), std::nullopt) << "a request is no answer";
    frame[icmp] = is_v6 ? 129 : 0;
    EXPECT_EQ(probe_answer(frame), kId);
    EXPECT_EQ(probe_answer({frame.data(), 256}), kId) << "as it is punted";
    EXPECT_EQ(echo_answer({frame.data() + icmp, 24}, is_v6), kId);
  }
}

TEST(ProbeWire, OtherFramesCutAnywhereAreNoAnswers) {
  for (const bool is_v6 : {false, true}) {
    Frame frame = echo_probe(ends(is_v6), 200, kId);
    frame[is_v6 ? 54 : 34] = is_v6 ? 129 : 0;
    for (std::size_t length = 0; length < (is_v6 ? 78u : 58u); ++length) {
      const Bytes cut(frame.begin(), frame.begin() + static_cast<long>(length));
      EXPECT_EQ(probe_answer(cut), std::nullopt) << length;
    }
  }
  FrameBuilder arp, ping;
  arp.eth(testkit::kOurMac, testkit::kPeerMac).arp(2, testkit::kPeerMac, testkit::kRemote4, testkit::kOurMac, testkit::kLocal4);
  ping.eth(testkit::kOurMac, testkit::kPeerMac).ipv4(testkit::kRemote4, testkit::kLocal4).icmp4(0, 56);
  EXPECT_EQ(probe_answer(arp.build()), std::nullopt);
  EXPECT_EQ(probe_answer(ping.build()), std::nullopt);
}

// ---- who is measured when ----

const IpAddress kPeer = IpAddress::v4(172, 18, 1, 2), kOther = IpAddress::v4(172, 18, 1, 3);

// VTEPs that answer at once what fits their paths; 0: silent.
struct FakePeers {
  std::map<IpAddress, unsigned> mtu;
  std::map<IpAddress, unsigned> shots;
  std::vector<ProbeId> answers;
  Milliseconds now = kStart;
  PathProber prober{[this](const IpAddress& vtep, const ProbeShot& shot, ProbeId id) {
                      ++shots[vtep];
                      if (shot.size <= mtu[vtep]) answers.push_back(id);
                      return ProbeSent::kSent;
                    },
                    42};
  std::map<IpAddress, ProbePlan> plans;

  void pass(Milliseconds duration) {
    for (const Milliseconds end = now + duration; now < end; now += 20) {
      prober.watch(plans, now);
      prober.tick(now);
      for (const auto& id : std::exchange(answers, {})) prober.answered(id, now + 1);
    }
  }
};

TEST(PathProber, MeasuresSoonAndThenEveryFiveMinutesWithJitter) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1500}};
  peers.plans[kPeer] = plan();
  peers.pass(700);
  ASSERT_NE(peers.prober.find(kPeer), nullptr);
  EXPECT_EQ(peers.prober.find(kPeer)->passes, 1400);
  EXPECT_EQ(peers.shots[kPeer], 2u);
  EXPECT_TRUE(peers.prober.take_changes().empty()) << "all is well: no news";
  peers.pass(PathProber::kEvery * 9 / 10 - 1000);
  EXPECT_EQ(peers.shots[kPeer], 2u);
  peers.pass(PathProber::kEvery / 5 + 2000);
  EXPECT_EQ(peers.shots[kPeer], 4u);
  EXPECT_FALSE(peers.prober.is_busy());
}

TEST(PathProber, AShrinkingPathIsOnePieceOfNewsAndItsRecoveryAnother) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1500}};
  peers.plans[kPeer] = plan();
  peers.pass(1000);
  peers.mtu[kPeer] = 1372;
  peers.pass(PathProber::kEvery * 11 / 10 + 5000);
  auto news = peers.prober.take_changes();
  ASSERT_EQ(news.size(), 1u);
  EXPECT_EQ(news[0].now.passes, 1372);
  EXPECT_TRUE(news[0].now.is_smaller);
  ASSERT_TRUE(news[0].before);
  EXPECT_EQ(news[0].before->passes, 1400);
  peers.pass(3 * PathProber::kWhileSmaller);
  EXPECT_TRUE(peers.prober.take_changes().empty()) << "no news twice";
  peers.mtu[kPeer] = 1400;
  peers.pass(PathProber::kWhileSmaller * 11 / 10 + 5000);
  news = peers.prober.take_changes();
  ASSERT_EQ(news.size(), 1u);
  EXPECT_FALSE(news[0].now.is_smaller);
}

TEST(PathProber, APathThatIsSmallFromTheBeginningIsNews) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1372}};
  peers.plans[kPeer] = plan();
  peers.pass(5000);
  EXPECT_EQ(peers.prober.take_changes().size(), 1u);
}

TEST(PathProber, SilenceChangesNothingThatIsKnownAndIsAskedAgain) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1372}};
  peers.plans[kPeer] = plan();
  peers.pass(5000);
  (void)peers.prober.take_changes();
  const Milliseconds measured_at = peers.prober.find(kPeer)->at;
  peers.mtu[kPeer] = 0;
  peers.pass(2 * PathProber::kWhileSmaller);
  ASSERT_NE(peers.prober.find(kPeer), nullptr);
  EXPECT_EQ(peers.prober.find(kPeer)->passes, 1372);
  EXPECT_EQ(peers.prober.find(kPeer)->at, measured_at) << "its age grows";
  EXPECT_TRUE(peers.prober.take_changes().empty());
  peers.mtu[kPeer] = 1500;
  peers.pass(PathProber::kAfterSilence * 11 / 10 + 3000);
  EXPECT_EQ(peers.prober.find(kPeer)->passes, 1400);
}

TEST(PathProber, WhoAsksIsToldAndWhoAsksMeanwhileToo) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1372}};
  peers.plans[kPeer] = plan();
  peers.pass(5000);
  unsigned told = 0;
  const auto done = [&](const ProbeResult& result) {
    ++told;
    EXPECT_EQ(result.passes, 1372);
    EXPECT_EQ(result.verdict, ProbeVerdict::kSmaller);
  };
  const auto shots = peers.shots[kPeer];
  EXPECT_TRUE(peers.prober.measure(kPeer, done, peers.now));
  EXPECT_TRUE(peers.prober.is_busy());
  EXPECT_TRUE(peers.prober.measure(kPeer, done, peers.now));
  EXPECT_FALSE(peers.prober.measure(kOther, done, peers.now)) << "no such VTEP";
  peers.pass(5000);
  EXPECT_EQ(told, 2u);
  EXPECT_GT(peers.shots[kPeer], shots);
}

TEST(PathProber, AVtepThatGoesIsForgottenAndWhoWaitedIsTold) {
  FakePeers peers;
  peers.plans[kPeer] = plan();
  peers.pass(40);
  bool told = false;
  EXPECT_TRUE(peers.prober.measure(kPeer, [&](const ProbeResult& result) { told = result.verdict == ProbeVerdict::kSilent; }, peers.now));
  peers.plans.clear();
  peers.pass(40);
  EXPECT_TRUE(told);
  EXPECT_FALSE(peers.prober.is_busy());
  EXPECT_EQ(peers.prober.find(kPeer), nullptr);
}

TEST(PathProber, WithoutAWayOnlyWhoAsksIsTold) {
  FakePeers peers;
  peers.plans[kPeer] = {1400, {}};
  peers.pass(5000);
  EXPECT_EQ(peers.shots[kPeer], 0u);
  bool told = false;
  EXPECT_TRUE(peers.prober.measure(kPeer, [&](const ProbeResult& result) { told = result.verdict == ProbeVerdict::kSilent; }, peers.now));
  EXPECT_TRUE(told);
  peers.mtu[kPeer] = 1500;
  peers.plans[kPeer] = plan();
  peers.pass(PathProber::kAtFirst + 200);
  EXPECT_NE(peers.prober.find(kPeer), nullptr) << "resolved: measured soon";
}

TEST(PathProber, ASuspectedPathIsMeasuredSoonAndOnce) {
  FakePeers peers;
  peers.mtu = {{kPeer, 1500}};
  peers.plans[kPeer] = plan();
  peers.pass(1000);
  const auto shots = peers.shots[kPeer];
  peers.prober.suspect(kPeer, kStart + 10);
  peers.pass(1000);
  EXPECT_EQ(peers.shots[kPeer], shots) << "measured since";
  const Milliseconds when = peers.now;
  peers.mtu[kPeer] = 0;  // and silent now: no reason to ask again and again
  for (int i = 0; i < 100; ++i) {
    peers.prober.suspect(kPeer, when);
    peers.pass(100);
  }
  EXPECT_EQ(peers.shots[kPeer], shots + 6);
  peers.prober.suspect(kOther, when);  // unknown: nothing
}

TEST(PathProber, AFewAtATime) {
  FakePeers peers;
  for (std::uint8_t i = 1; i < 200; ++i) peers.plans[IpAddress::v4(10, 0, 0, i)] = plan();  // all silent
  unsigned most = 0;
  for (int i = 0; i < 60; ++i) {
    const auto before = peers.shots.size();
    peers.pass(20);
    most = std::max(most, static_cast<unsigned>(peers.shots.size() - before));
  }
  EXPECT_LE(most, PathProber::kAtOnce);
  EXPECT_LE(peers.shots.size(), PathProber::kAtOnce);
  peers.pass(60'000);
  EXPECT_EQ(peers.shots.size(), 199u) << "and all have their turn";
}

}  // namespace
}  // namespace vx::control
