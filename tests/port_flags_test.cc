// SPDX-License-Identifier: Apache-2.0
// isolated, flood, mcast_flood and bcast_flood of ports and of the tunnel, as `bridge link set` has them.
#include <array>
#include <random>

#include "dataplane/pipeline.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;
using protocol::kIsolated;
using protocol::kNoBroadcastFlood;
using protocol::kNoMulticastFlood;
using protocol::kNoUnicastFlood;

const MacAddress kMulticast = mac(0x01005e000001);

// Ports 1, 2, 3 and the tunnel with one VTEP on its flood list.
struct PortFlags : testing::Test {
  void set(std::array<std::uint8_t, 3> ports, std::uint8_t tunnel = 0) {
    for (std::size_t i = 0; i < ports.size(); ++i) host.state.ports[i + 1].flags = ports[i];
    host.state.overlays[0].tunnel_flags = tunnel;
  }
  // To which of the ports 1, 2, 3 and the tunnel (0) a frame from `port` goes.
  std::array<std::size_t, 4> from(PortIndex port, MacAddress to) {
    return received(port, port == 0 ? (outer4() + guest_frame(to, kFar)).build() : guest_frame(to, kNobody).build());
  }
  std::array<std::size_t, 4> received(PortIndex port, const Bytes& frame) {
    std::array<std::size_t, 4> before{}, sent{};
    for (std::size_t i = 0; i < 4; ++i) before[i] = host.ports[i]->sent.size();
    host.receive(port, frame);
    for (std::size_t i = 0; i < 4; ++i) sent[i] = host.ports[i]->sent.size() - before[i];
    return sent;
  }
  TestHost host;
};
using To = std::array<std::size_t, 4>;  // tunnel, port 1, 2, 3

TEST_F(PortFlags, EachKindOfFloodIsTurnedOffByItsOwnFlagOnly) {
  const std::array<std::pair<MacAddress, std::uint8_t>, 3> kinds{
      {{kNobody, kNoUnicastFlood}, {kMulticast, kNoMulticastFlood}, {kBroadcast, kNoBroadcastFlood}}};
  for (const auto& [to, flag] : kinds) {
    const auto all = static_cast<std::uint8_t>(kNoUnicastFlood | kNoMulticastFlood | kNoBroadcastFlood);
    const auto others = static_cast<std::uint8_t>(all & ~flag);
    host.learn(kGuestA, Location::port(1));
    const auto flood = [&, to = to](PortIndex port) {
      return received(port, port == 0 ? (outer4() + guest_frame(to, kFar)).build() : guest_frame(to, kGuestA).build());
    };
    set({0, flag, others}, flag);
    EXPECT_EQ(flood(1), (To{0, 0, 0, 1}));
    EXPECT_EQ(flood(0), (To{0, 1, 0, 1}));
    set({0, others, flag}, others);
    EXPECT_EQ(flood(1), (To{1, 0, 1, 0}));
    set({all, 0, 0}, 0);
    EXPECT_EQ(flood(1), (To{1, 0, 1, 1})) << "flags are about what a port gets, not what it sends";
  }
}

TEST_F(PortFlags, KnownUnicastGoesWhereNothingIsFlooded) {
  host.learn_all();
  set({0, kNoUnicastFlood | kNoMulticastFlood | kNoBroadcastFlood, 0}, kNoUnicastFlood);
  EXPECT_EQ(received(1, guest_frame(kGuestB, kGuestA).build()), (To{0, 0, 1, 0}));
  EXPECT_EQ(received(1, guest_frame(kFar, kGuestA).build()), (To{1, 0, 0, 0}));
}

TEST_F(PortFlags, WithNoTargetLeftTheReasonIsTheUsualOne) {
  set({0, kNoBroadcastFlood, kNoBroadcastFlood}, kNoBroadcastFlood);
  EXPECT_EQ(from(1, kBroadcast), To{});
  EXPECT_EQ(host.drops(DropReason::kNoFloodTarget), 1u);
}

TEST_F(PortFlags, IsolatedPortsTalkToOthersOnly) {
  host.learn_all();
  set({kIsolated, kIsolated, 0});
  EXPECT_EQ(received(1, guest_frame(kGuestB, kGuestA).build()), To{});
  EXPECT_EQ(host.drops(DropReason::kPortIsolated), 1u);
  EXPECT_EQ(received(1, guest_frame(kFar, kGuestA).build()), (To{1, 0, 0, 0}));
  EXPECT_EQ(received(1, guest_frame(kBroadcast, kGuestA).build()), (To{1, 0, 0, 1}));
  EXPECT_EQ(received(3, guest_frame(kGuestB, kNobody).build()), (To{0, 0, 1, 0}));
  EXPECT_EQ(from(0, kBroadcast), (To{0, 1, 1, 1})) << "the tunnel is not isolated";
  EXPECT_EQ(host.drops(DropReason::kPortIsolated), 1u);
}

TEST_F(PortFlags, AnIsolatedTunnelReachesNoIsolatedPort) {
  host.learn_all();
  set({kIsolated, 0, 0}, kIsolated);
  EXPECT_EQ(received(1, guest_frame(kFar, kGuestA).build()), To{});
  EXPECT_EQ(received(0, (outer4() + guest_frame(kGuestA, kFar)).build()), To{});
  EXPECT_EQ(host.drops(DropReason::kPortIsolated), 2u);
  EXPECT_EQ(received(0, (outer4() + guest_frame(kGuestB, kFar)).build()), (To{0, 0, 1, 0}));
  EXPECT_EQ(from(0, kBroadcast), (To{0, 0, 1, 1}));
  EXPECT_EQ(received(1, guest_frame(kBroadcast, kGuestA).build()), (To{0, 0, 1, 1}));
}

// The shortcut of a burst must not carry what one port may over to another, nor skip a check.
TEST_F(PortFlags, EveryFrameOfABurstIsHeldToThem) {
  host.learn_all();
  set({kIsolated, kIsolated, 0});
  std::vector<Bytes> burst;
  for (unsigned i = 0; i < kMaxBurst; ++i) burst.push_back(guest_frame(i % 3 == 0 ? kFar : kGuestB, kGuestA).build());
  host.receive(1, burst);
  EXPECT_EQ(host.sent(2).size(), 0u);
  EXPECT_EQ(host.sent(0).size(), (kMaxBurst + 2) / 3);
  EXPECT_EQ(host.drops(DropReason::kPortIsolated), kMaxBurst - (kMaxBurst + 2) / 3);
}

// Against the kernel's rules written down directly: br_flood, br_skb_isolated.
TEST_F(PortFlags, AllCombinationsAreAsTheKernelHasThem) {
  host.state.overlays[0].learning = false;
  for (unsigned i = 1; i < 4; ++i) host.state.ports[i].learning = false;
  const std::array<std::pair<MacAddress, std::uint8_t>, 3> kinds{
      {{kNobody, kNoUnicastFlood}, {kMulticast, kNoMulticastFlood}, {kBroadcast, kNoBroadcastFlood}}};
  std::mt19937 random(7);
  for (unsigned round = 0; round < 3000; ++round) {
    std::array<std::uint8_t, 4> flags{};
    for (auto& f : flags) f = static_cast<std::uint8_t>(random() & protocol::kAllPortFlags);
    set({flags[1], flags[2], flags[3]}, flags[0]);
    const auto source = static_cast<PortIndex>(random() % 4);
    const auto& [to, own] = kinds[random() % 3];
    To expected{};
    for (std::size_t port = 0; port < 4; ++port)
      expected[port] = port != source && (flags[port] & own) == 0 && !((flags[port] & flags[source] & kIsolated) != 0) ? 1 : 0;
    ASSERT_EQ(from(source, to), expected) << round;
  }
}

}  // namespace
}  // namespace vx
