// SPDX-License-Identifier: Apache-2.0
// vxplane-bench: the search for the path MTU, against paths that are made up.
#include "bench/link_mtu_search.h"

#include <gtest/gtest.h>

namespace vx::bench {
namespace {

using Verdict = MtuSearch::Verdict;

struct Path {
  unsigned passes = 65535, interface = 65535;
};

// Runs the search to its end; how many sizes it tried.
unsigned explore(MtuSearch& search, const Path& path) {
  unsigned tried = 0;
  while (const auto size = search.next()) {
    if (++tried > 40) break;
    search.tried(*size > path.interface ? Verdict::kRefused : *size > path.passes ? Verdict::kLost : Verdict::kPassed);
  }
  return tried;
}

TEST(MtuSearch, AHealthyPathTakesOneProbe) {
  MtuSearch search(128, 1332);
  EXPECT_EQ(explore(search, {1332, 1332}), 1U);
  EXPECT_EQ(search.result(), 1332U);
  EXPECT_FALSE(search.is_own_limit());
}

TEST(MtuSearch, FindsEveryLimit) {
  for (unsigned passes = 128; passes <= 1500; ++passes) {
    MtuSearch search(128, 1500);
    EXPECT_LE(explore(search, {passes, 1500}), 12U);
    EXPECT_EQ(search.result(), passes);
    EXPECT_FALSE(search.is_own_limit());
  }
}

TEST(MtuSearch, NothingPasses) {
  MtuSearch search(128, 1500);
  EXPECT_LE(explore(search, {100, 1500}), 12U);
  EXPECT_FALSE(search.result());
}

TEST(MtuSearch, KnowsItsOwnInterfaceFromThePath) {
  // The address is on lo, the packets leave by a NIC of 1500.
  MtuSearch nic(128, 65535);
  EXPECT_LE(explore(nic, {65535, 1500}), 17U);
  EXPECT_EQ(nic.result(), 1500U);
  EXPECT_TRUE(nic.is_own_limit());
  MtuSearch path(128, 65535);
  explore(path, {1450, 1500});
  EXPECT_EQ(path.result(), 1450U);
  EXPECT_FALSE(path.is_own_limit());
}

TEST(MtuSearch, AnInterfaceBelowTheSmallestSizeIsTriedOnce) {
  MtuSearch search(128, 68);
  EXPECT_EQ(explore(search, {68, 68}), 1U);
  EXPECT_FALSE(search.result());
}

}  // namespace
}  // namespace vx::bench
