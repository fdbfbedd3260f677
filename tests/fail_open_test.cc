// SPDX-License-Identifier: Apache-2.0
// What the switchboard tells the BPF programs of ports: bypass where a kernel bridge stands by, the age of a
// stale heartbeat everywhere.
#include <cerrno>

#include "tests/switchboard_testkit.h"

namespace vx::testkit {
namespace {

using Rig = SwitchboardRig;
using protocol::FailOpenConfig;

protocol::PortConfig netdev(const std::string& name, bool takeover) {
  auto config = Rig::guest(name);
  config.driver = protocol::PortDriver::kNetdev;
  config.takeover = takeover ? 1 : 0;
  return config;
}
FailOpenConfig fail_open(bool bypass, std::uint32_t stale_after_ms = 50) {
  FailOpenConfig config;
  config.bypass = bypass ? 1 : 0;
  config.stale_after_ms = stale_after_ms;
  return config;
}

TEST(FailOpen, TakeoverPortsAreInBypassUntilToldOtherwiseAndTheOthersNever) {
  Rig rig;
  rig.set_up();
  EXPECT_EQ(rig.board->fail_open().bypass, 1);
  EXPECT_EQ(rig.board->fail_open().stale_after_ms, 50u);
  rig.board->add_port(netdev("a", true));
  rig.board->add_port(netdev("b", false));
  EXPECT_EQ(rig.takes["a"]->rule, (FailOpenRule{true, 50}));
  EXPECT_EQ(rig.takes["b"]->rule, (FailOpenRule{false, 50}));
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{false, 50})) << "nobody stands by for this underlay";
  rig.board->set_fail_open(fail_open(false));
  EXPECT_EQ(rig.takes["a"]->rule, (FailOpenRule{false, 50}));
  rig.board->set_fail_open(fail_open(true));
  EXPECT_EQ(rig.takes["a"]->rule, (FailOpenRule{true, 50}));
  EXPECT_EQ(rig.takes["b"]->rule, (FailOpenRule{false, 50}));
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{false, 50}));
}

TEST(FailOpen, PortsThatComeLaterAreToldToo) {
  Rig rig;
  rig.set_up();
  rig.board->set_fail_open(fail_open(false, 80));
  rig.board->add_port(netdev("a", true));
  EXPECT_EQ(rig.takes["a"]->rule, (FailOpenRule{false, 80}));
  rig.board->set_fail_open(fail_open(true, 80));
  rig.board->add_port(netdev("b", true));
  EXPECT_EQ(rig.takes["b"]->rule, (FailOpenRule{true, 80}));
}

TEST(FailOpen, TheUnderlayFollowsItsOwnField) {
  Rig rig;
  rig.set_up();
  auto underlay = rig.underlay();
  underlay.takeover = 1;
  rig.board->set_underlay(underlay);
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{true, 50}));
  EXPECT_TRUE(rig.steering->current) << "what is steered does not depend on it";
  rig.board->set_fail_open(fail_open(false));
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{false, 50}));
  rig.board->set_fail_open(fail_open(true));
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{true, 50}));
  underlay.takeover = 0;
  rig.board->set_underlay(underlay);
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{false, 50}));
}

TEST(FailOpen, AStaleHeartbeatIsAsOldEverywhereAndForTheWorkers) {
  Rig rig;
  rig.set_up();
  rig.board->add_port(netdev("b", false));
  rig.board->set_fail_open(fail_open(true, 200));
  EXPECT_EQ(rig.takes["b"]->rule, (FailOpenRule{false, 200}));
  EXPECT_EQ(rig.steering->rule, (FailOpenRule{false, 200}));
  const auto calls = rig.takes["b"]->calls;
  rig.board->set_fail_open(fail_open(true, 200));
  EXPECT_EQ(rig.takes["b"]->calls, calls) << "nothing new";
}

TEST(FailOpen, PortsAreGivenBackBeforeTheyGo) {
  Rig rig;
  rig.set_up();
  rig.board->set_fail_open(fail_open(false));
  rig.board->add_port(netdev("a", true));
  rig.board->add_port(netdev("b", true));
  rig.board->add_port(netdev("c", false));
  rig.board->delete_port("a");
  EXPECT_TRUE(rig.takes["a"]->rule.bypass);
  EXPECT_FALSE(rig.takes["b"]->rule.bypass);
  rig.board->shut_down();
  EXPECT_TRUE(rig.takes["b"]->rule.bypass);
  EXPECT_FALSE(rig.takes["c"]->rule.bypass) << "nobody stands by";
}

TEST(FailOpen, WhatTheProgramsCountedIsInTheSumAlsoWhenTheirPortsWent) {
  Rig rig;
  rig.set_up();
  for (const char* name : {"a", "b"}) {
    rig.board->add_port(netdev(name, true));
    rig.takes[name]->counts = {5, 3, 2};
  }
  for (int i = 0; i < 2; ++i) {
    const auto reply = rig.board->stats().reply;
    ASSERT_EQ(reply.take_exits, VXP_TAKE_COUNT);
    EXPECT_EQ(reply.take[VXP_TAKE_TAKEN], 10u);
    EXPECT_EQ(reply.take[VXP_TAKE_STALE], 6u);
    EXPECT_EQ(reply.take[VXP_TAKE_BYPASS], 4u);
    if (i == 0) rig.board->delete_port("a");
  }
}

TEST(FailOpen, ATcProgramThatWasDetachedIsAttachedAnewAtTheSecondLook) {
  Rig rig;
  rig.set_up();
  for (const char* name : {"a", "b"}) rig.board->add_port(netdev(name, true));
  auto& take = *rig.takes["a"];
  rig.board->follow_again();
  take.followed = false;
  rig.board->follow_again();
  EXPECT_EQ(take.attached, 0u) << "who detached it may be about to put another qdisc there";
  take.why_not = "there is another filter";
  rig.board->follow_again();
  rig.board->follow_again();
  EXPECT_EQ(take.attached, 2u) << "tried until it works";
  take.why_not.clear();
  rig.board->follow_again();
  EXPECT_TRUE(take.followed);
  rig.board->follow_again();
  EXPECT_EQ(take.attached, 3u);
  take.followed = false;
  rig.board->follow_again();
  EXPECT_EQ(take.attached, 3u) << "the next time is as the first";
  rig.board->follow_again();
  EXPECT_EQ(take.attached, 4u);
  EXPECT_EQ(rig.takes["b"]->attached, 0u);
  EXPECT_TRUE(rig.board->remove_dead_ports().empty());
}

TEST(FailOpen, RefusesWhatCannotBe) {
  Rig rig;
  rig.set_up();
  for (const std::uint32_t ms : {0u, 19u, 60'001u})
    EXPECT_EQ(error_of([&] { rig.board->set_fail_open(fail_open(false, ms)); }), EINVAL) << ms;
  auto bad = fail_open(false);
  bad.bypass = 2;
  EXPECT_EQ(error_of([&] { rig.board->set_fail_open(bad); }), EINVAL);
  EXPECT_EQ(rig.board->fail_open().bypass, 1);
  auto port = netdev("a", true);
  port.takeover = 2;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL);
  port = netdev("a", true);
  port.role = protocol::PortRole::kUnderlay;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL) << "no guest";
  port = netdev("a", true);
  port.driver = protocol::PortDriver::kTap;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL) << "no netdev";
  port = netdev("a", true);
  port.vlans.filtering = 2;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL);
  port.vlans.filtering = 0;
  port.vlans.pvid = kNoPvid;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL) << "frames of no VLAN";
  port = netdev("a", true);
  port.flags = 16;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL);
  port.flags = 0;
  port.deliver_ifindex = 1;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), EINVAL) << "not a tap";
  auto overlay = rig.overlay();
  overlay.tunnel_flags = 0x80;
  EXPECT_EQ(error_of([&] { rig.board->set_overlay(overlay); }), EINVAL);
  rig.board->add_port(netdev("b", true));
  EXPECT_EQ(error_of([&] { rig.board->set_port(netdev("b", false)); }), EINVAL) << "not in place";
}

TEST(FailOpen, AStandbysMtuIsNotTouchedAndFlagsChangeInPlace) {
  Rig rig;
  rig.set_up();
  rig.board->add_port(netdev("a", true));
  auto config = netdev("a", true);
  config.mtu = 1200;
  config.flags = protocol::kIsolated;
  EXPECT_EQ(rig.board->set_port(config).config.flags, protocol::kIsolated);
  EXPECT_TRUE(rig.mtus.empty());
}

TEST(FailOpen, FlagsOfPortsAndTunnelGetToTheWorkers) {
  Rig rig;
  rig.set_up();
  auto isolated = rig.guest("g1");
  isolated.flags = protocol::kIsolated;
  rig.board->set_port(isolated);
  auto overlay = rig.overlay();
  overlay.tunnel_flags = protocol::kIsolated;
  rig.board->set_overlay(overlay);
  rig.ports["g1"]->incoming.push_back(guest_frame(kBroadcast, kGuestA).build());
  rig.poll();
  EXPECT_EQ(rig.ports["g2"]->sent.size(), 1u);
  EXPECT_EQ(rig.ports["eth0"]->sent.size(), 0u);
}

}  // namespace
}  // namespace vx::testkit
