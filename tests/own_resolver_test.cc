// SPDX-License-Identifier: Apache-2.0
#include "control/own_resolver.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "control/text.h"

namespace vx::control {
namespace {

const IpAddress kLocal = IpAddress::v4(172, 18, 1, 1), kPeer = IpAddress::v4(172, 18, 1, 2);
const IpAddress kLocal6 = *parse_ip("fd00::1"), kPeer6 = *parse_ip("fd00::2");
constexpr MacAddress kOurMac{{2, 0, 0, 0, 0, 1}}, kPeerMac{{2, 0, 0, 0, 0, 2}}, kNewMac{{2, 0, 0, 0, 0, 3}};

// Byte by byte after RFC 826, so that the resolver is not compared with itself.
Frame arp(std::uint8_t operation, const MacAddress& sender_mac, const IpAddress& sender, const MacAddress& target_mac,
          const IpAddress& target) {
  Frame f(42);
  std::copy(target_mac.bytes.begin(), target_mac.bytes.end(), f.begin());
  std::copy(sender_mac.bytes.begin(), sender_mac.bytes.end(), f.begin() + 6);
  const std::uint8_t fixed[] = {0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation};
  std::copy(std::begin(fixed), std::end(fixed), f.begin() + 12);
  std::copy(sender_mac.bytes.begin(), sender_mac.bytes.end(), f.begin() + 22);
  std::copy_n(sender.v4_bytes(), 4, f.begin() + 28);
  std::copy(target_mac.bytes.begin(), target_mac.bytes.end(), f.begin() + 32);
  std::copy_n(target.v4_bytes(), 4, f.begin() + 38);
  return f;
}

Frame advertisement(const IpAddress& target, const MacAddress& mac) {
  Frame f(86);
  std::copy(kOurMac.bytes.begin(), kOurMac.bytes.end(), f.begin());
  std::copy(mac.bytes.begin(), mac.bytes.end(), f.begin() + 6);
  const std::uint8_t ip[] = {0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255};
  std::copy(std::begin(ip), std::end(ip), f.begin() + 12);
  std::copy(target.bytes.begin(), target.bytes.end(), f.begin() + 22);
  std::copy(kLocal6.bytes.begin(), kLocal6.bytes.end(), f.begin() + 38);
  f[54] = 136;
  f[58] = 0x60;
  std::copy(target.bytes.begin(), target.bytes.end(), f.begin() + 62);
  f[78] = 2, f[79] = 1;
  std::copy(mac.bytes.begin(), mac.bytes.end(), f.begin() + 80);
  return f;
}

bool is_to(const Frame& frame, const MacAddress& mac) { return std::equal(mac.bytes.begin(), mac.bytes.end(), frame.begin()); }
constexpr MacAddress kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

class OwnResolverTest : public testing::Test {
 protected:
  void start(const IpAddress& local = kLocal, const IpAddress& peer = kPeer) {
    resolver.set_local(kOurMac, {local});
    resolver.watch({peer});
  }
  // Everything sent from `from` to `to`, asked every 250 ms.
  std::vector<Frame> run(Milliseconds from, Milliseconds to) {
    std::vector<Frame> all;
    for (Milliseconds now = from; now < to; now += 250)
      for (auto& frame : resolver.tick(now)) all.push_back(std::move(frame));
    return all;
  }
  OwnResolver resolver;
};

TEST_F(OwnResolverTest, AnnouncesItselfAndAsksByBroadcastAtStart) {
  start();
  const auto frames = resolver.tick(1000);
  ASSERT_EQ(frames.size(), 2u);
  Frame gratuitous = arp(1, kOurMac, kLocal, {}, kLocal), request = arp(1, kOurMac, kLocal, {}, kPeer);
  for (Frame* f : {&gratuitous, &request}) {
    std::fill_n(f->begin(), 6, 0xff);
    f->resize(60);
  }
  EXPECT_EQ(frames[0], gratuitous);
  EXPECT_EQ(frames[1], request);
}

TEST_F(OwnResolverTest, AnAnswerResolvesAndIsRefreshedByUnicast) {
  start();
  (void)run(1000, 2500);
  resolver.on_frame(arp(2, kPeerMac, kPeer, kOurMac, kLocal), 2500);
  EXPECT_TRUE(resolver.take_changed());
  EXPECT_EQ(resolver.mac_of(kPeer), kPeerMac);
  EXPECT_TRUE(run(2500, 7500).empty());
  const auto refresh = resolver.tick(7500);
  ASSERT_EQ(refresh.size(), 1u);
  EXPECT_TRUE(is_to(refresh[0], kPeerMac));
}

TEST_F(OwnResolverTest, AMacChangedInSilenceIsAskedForByBroadcastWithinTenSeconds) {
  start();
  (void)run(1000, 3000);
  resolver.on_frame(arp(2, kPeerMac, kPeer, kOurMac, kLocal), 3000);
  const auto frames = run(3000, 3000 + 9000);
  EXPECT_TRUE(std::any_of(frames.begin(), frames.end(), [](const Frame& f) { return is_to(f, kBroadcast); }));
  EXPECT_EQ(resolver.mac_of(kPeer), kPeerMac) << "the old one is used meanwhile";
  resolver.on_frame(arp(2, kNewMac, kPeer, kOurMac, kLocal), 12000);
  EXPECT_EQ(resolver.mac_of(kPeer), kNewMac);
}

TEST_F(OwnResolverTest, GratuitousArpIsFollowedAtOnce) {
  start();
  resolver.on_frame(arp(2, kPeerMac, kPeer, kOurMac, kLocal), 1000);
  (void)resolver.take_changed();
  resolver.on_frame(arp(1, kNewMac, kPeer, kBroadcast, kPeer), 1100);
  EXPECT_TRUE(resolver.take_changed());
  EXPECT_EQ(resolver.mac_of(kPeer), kNewMac);
}

TEST_F(OwnResolverTest, APeerThatStaysSilentBecomesUnresolved) {
  start();
  resolver.on_frame(arp(2, kPeerMac, kPeer, kOurMac, kLocal), 1000);
  (void)run(1000, 20000);
  EXPECT_EQ(resolver.mac_of(kPeer), std::nullopt);
  EXPECT_GE(run(20000, 25000).size(), 4u) << "it is still asked every second";
}

TEST_F(OwnResolverTest, StrangersGroupMacsAndOurOwnAreIgnored) {
  start();
  resolver.on_frame(arp(2, kPeerMac, IpAddress::v4(172, 18, 1, 9), kOurMac, kLocal), 1000);
  resolver.on_frame(arp(2, kBroadcast, kPeer, kOurMac, kLocal), 1000);
  resolver.on_frame(arp(2, kOurMac, kPeer, kOurMac, kLocal), 1000);
  EXPECT_FALSE(resolver.take_changed());
  EXPECT_EQ(resolver.mac_of(kPeer), std::nullopt);
}

TEST_F(OwnResolverTest, TruncatedFramesAreIgnoredAtEveryLength) {
  start();
  start(kLocal6, kPeer6);
  for (const Frame& whole : {arp(2, kPeerMac, kPeer, kOurMac, kLocal), advertisement(kPeer6, kPeerMac)}) {
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::vector<std::uint8_t> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      resolver.on_frame(cut, 1000);
    }
  }
  SUCCEED();
}

TEST_F(OwnResolverTest, Ipv6SolicitsTheSolicitedNodeGroupWithAValidChecksum) {
  start(kLocal6, kPeer6);
  const auto frames = resolver.tick(1000);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_TRUE(is_to(frames[0], MacAddress{{0x33, 0x33, 0, 0, 0, 1}})) << "the unsolicited advertisement";
  EXPECT_TRUE(is_to(frames[1], MacAddress{{0x33, 0x33, 0xff, 0, 0, 2}}));
  for (const auto& frame : frames) {
    std::uint32_t sum = 32 + 58;  // length and next header of the pseudo header
    for (std::size_t i = 22; i < 86; i += 2) sum += static_cast<std::uint32_t>(frame[i] << 8 | frame[i + 1]);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
    EXPECT_EQ(sum, 0xffffu);
  }
}

TEST_F(OwnResolverTest, Ipv6AdvertisementResolves) {
  start(kLocal6, kPeer6);
  resolver.on_frame(advertisement(kPeer6, kPeerMac), 1000);
  EXPECT_EQ(resolver.mac_of(kPeer6), kPeerMac);
}

TEST_F(OwnResolverTest, AnAdvertisementFromOffTheLinkIsIgnored) {
  start(kLocal6, kPeer6);
  Frame frame = advertisement(kPeer6, kPeerMac);
  frame[21] = 254;  // hop limit
  resolver.on_frame(frame, 1000);
  EXPECT_EQ(resolver.mac_of(kPeer6), std::nullopt);
}

TEST_F(OwnResolverTest, WhatWasKnownBeforeARestartIsUsedAndAskedAtOnce) {
  start();
  resolver.assume(kPeer, kPeerMac);
  EXPECT_EQ(resolver.mac_of(kPeer), kPeerMac);
  const auto frames = resolver.tick(1000);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_TRUE(is_to(frames[1], kPeerMac));
}

}  // namespace
}  // namespace vx::control
