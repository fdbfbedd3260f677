// SPDX-License-Identifier: Apache-2.0
// config/mtu_arithmetic.h against the figures of design.md section 1.
#include "config/mtu_arithmetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/config_testkit.h"

namespace vx::config {
namespace {

using ::testing::ElementsAre;

Settings noble(std::uint16_t mtu, bool is_tagged = true) {
  Settings settings;
  settings.vxlan.local = IpAddress::v4(172, 18, 1, 1);
  settings.vxlan.mtu = mtu;
  settings.underlay.mtu = 1400;
  if (is_tagged) settings.bridge.vids.insert_range(2, 4094);
  return settings;
}

TEST(MtuArithmetic, CeilingsOfThe1400ByteUnderlay) {
  EXPECT_EQ(mtu_ceilings(1400, false), (MtuCeilings{1350, 1346, 1342}));
  EXPECT_EQ(mtu_ceilings(1400, true), (MtuCeilings{1330, 1326, 1322}));
  EXPECT_EQ(mtu_ceilings(1500, false), (MtuCeilings{1450, 1446, 1442}));
}

TEST(MtuArithmetic, TinyUnderlayHasCeilingZeroNotAWrappedOne) {
  EXPECT_EQ(mtu_ceilings(0, false), (MtuCeilings{0, 0, 0}));
  EXPECT_EQ(mtu_ceilings(53, false), (MtuCeilings{3, 0, 0}));
}

TEST(MtuArithmetic, AboveUntaggedCeilingIsAnErrorAboveTaggedAWarning) {
  EXPECT_FALSE(judge_mtu(noble(1332)));
  EXPECT_FALSE(judge_mtu(noble(1346)));
  for (std::uint16_t mtu = 1347; mtu <= 1350; ++mtu) {
    const auto verdict = judge_mtu(noble(mtu));
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->severity, Severity::kWarning);
    EXPECT_FALSE(judge_mtu(noble(mtu, false)));
  }
  ASSERT_TRUE(judge_mtu(noble(1351)));
  EXPECT_EQ(judge_mtu(noble(1351))->severity, Severity::kError);
  EXPECT_EQ(judge_mtu(noble(1351, false))->severity, Severity::kError);
}

TEST(MtuArithmetic, PvidAmongTheVidsIsNoTag) {
  Settings settings = noble(1350, false);
  settings.bridge.vids.insert(settings.bridge.pvid);
  EXPECT_FALSE(carries_tags(settings.bridge));
  EXPECT_EQ(largest_safe_mtu(settings), 1350u);
  settings.bridge.pvid = kNoPvid;
  EXPECT_TRUE(carries_tags(settings.bridge));
  EXPECT_EQ(largest_safe_mtu(settings), 1346u);
}

TEST(MtuArithmetic, IsSpeltOut) {
  Settings settings = noble(1348);
  settings.vxlan.local = testing::ip("fd00::1");
  EXPECT_THAT(
      mtu_lines(settings),
      ElementsAre(
          "MTU arithmetic, in bytes of IP packet: underlay 1400, overlay 1348",
          "VXLAN over IPv6 costs 70: 40 IPv6 + 8 UDP + 8 VXLAN + 14 inner Ethernet",
          "guest packets, untagged:           1400 - 70     = 1330 at most; 1348 is 18 too large",
          "guest packets, one 802.1Q tag:     1400 - 70 - 4 = 1326 at most; 1348 is 22 too large",
          "guest packets, two tags:           1400 - 70 - 8 = 1322 at most; 1348 is 26 too large"));
}

}  // namespace
}  // namespace vx::config
