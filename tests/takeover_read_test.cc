// SPDX-License-Identifier: Apache-2.0
// What read_takeover() makes of a kernel's bridge: the vxlan device, VLANs, ports, and what the file gives.
#include <gmock/gmock.h>

#include "tests/takeover_read_testkit.h"

namespace vx::control {
namespace {

using namespace testkit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TakeoverRead : public TakeoverRig {};

TEST_F(TakeoverRead, TheDesignsHostIsReadWhole) {
  link(kVxlan).vxlan->ttl = 20, link(kVxlan).vxlan->tos = 0x2b, link(kVxlan).vxlan->port = 8472;
  link(kBridge).bridge->ageing_cs = 12000;
  const Takeover takeover = read();
  EXPECT_THAT(takeover.problems, IsEmpty());
  EXPECT_EQ(takeover.bridge, kBridge);
  EXPECT_EQ(takeover.vxlan, kVxlan);
  EXPECT_EQ(takeover.fdb_ageing_s, 120u);
  ASSERT_TRUE(takeover.settings);
  const auto& s = *takeover.settings;
  EXPECT_EQ(s.mode, config::Mode::kTakeover);
  EXPECT_EQ(s.vxlan.name, "vxlan_mainvx");
  EXPECT_EQ(s.vxlan.vni, 1000u);
  EXPECT_EQ(s.vxlan.local, kUs);
  EXPECT_THAT(s.vxlan.remotes, ElementsAre(kPeer));
  EXPECT_EQ(s.vxlan.port, 8472);
  EXPECT_EQ(s.vxlan.ttl, 20);
  EXPECT_EQ(s.vxlan.tos, 0x28) << "without the ECN bits";
  EXPECT_EQ(s.vxlan.mtu, 1332);
  EXPECT_EQ(s.vxlan.vtep_learning, config::VtepLearning::kYes) << "the kernel takes frames from any VTEP";
  EXPECT_TRUE(s.vxlan.learning && s.vxlan.udp_csum && !s.vxlan.hold_port && !s.vxlan.tos_inherit);
  EXPECT_EQ(s.underlay.device, "enp35s0");
  EXPECT_EQ(s.underlay.vlan, 4003);
  EXPECT_EQ(s.underlay.mtu, 1400);
  EXPECT_EQ(s.bridge.name, "mainvx");
  EXPECT_EQ(s.bridge.ageing_s, 120u);
  EXPECT_THAT(port_names(), ElementsAre("tap100i0", "tap200i0", "vxp-mainvx"));
}

TEST_F(TakeoverRead, VxlanValuesThatMeanAnother) {
  EXPECT_EQ(settings().vxlan.ttl, 64) << "0 is the host's default";
  link(kVxlan).vxlan->tos = 1;
  EXPECT_TRUE(settings().vxlan.tos_inherit);
  EXPECT_EQ(settings().vxlan.tos, 0);
  link(kVxlan).vxlan->udp_csum = false;
  EXPECT_FALSE(settings().vxlan.udp_csum);
  link(kVxlan).mtu = 1300;
  EXPECT_EQ(settings().vxlan.mtu, 1300) << "the smaller of the bridge's and the vxlan's";
}

TEST_F(TakeoverRead, TheTunnelLearnsOnlyWhenDeviceAndPortDo) {
  EXPECT_TRUE(settings().vxlan.learning);
  link(kVxlan).vxlan->learning = false;
  EXPECT_FALSE(settings().vxlan.learning);
  link(kVxlan).vxlan->learning = true;
  link(kVxlan).bridge_port->learning = false;
  EXPECT_FALSE(settings().vxlan.learning);
}

TEST_F(TakeoverRead, TheShorterAgeingCounts) {
  const auto ageing = [&](std::uint32_t bridge_cs, std::uint32_t vxlan_s) {
    link(kBridge).bridge->ageing_cs = bridge_cs;
    link(kVxlan).vxlan->ageing_s = vxlan_s;
    return read().fdb_ageing_s;
  };
  EXPECT_EQ(ageing(30000, 300), 300u);
  EXPECT_EQ(ageing(30000, 60), 60u);
  EXPECT_EQ(ageing(2000, 300), 20u);
  EXPECT_EQ(ageing(2000, 0), 20u) << "a vxlan device that never ages";
  link(kBridge).bridge->ageing_cs = 4000000000;
  EXPECT_EQ(settings().bridge.ageing_s, 32767u) << "the longest that bridge-ageing has";
}

// ---- VLANs ----

TEST_F(TakeoverRead, AFilteringBridgesPortsHaveTheirOwnVlans) {
  EXPECT_TRUE(settings().bridge.vlan_filtering);
  VlanTable tap1 = port("tap100i0").vlans;
  EXPECT_EQ(tap1.pvid, 1);
  EXPECT_TRUE(tap1.members.contains(1) && tap1.untagged.contains(1));
  EXPECT_TRUE(tap1.members.contains(7) && !tap1.untagged.contains(7));
  EXPECT_FALSE(tap1.members.contains(30));
  EXPECT_EQ(tap1.filtering, 1);
  EXPECT_EQ(port("tap200i0").vlans, config::vlan_table_of({}, 30)) << "an access port";
  kernel.vlans[kTap2] = {{30, BRIDGE_VLAN_INFO_PVID}, {31, BRIDGE_VLAN_INFO_UNTAGGED}, {4095, 0}, {0, 0}};
  const VlanTable odd = port("tap200i0").vlans;
  EXPECT_EQ(odd.pvid, 30);
  EXPECT_FALSE(odd.untagged.contains(30)) << "in untagged, out tagged";
  EXPECT_TRUE(odd.untagged.contains(31));
  EXPECT_FALSE(odd.members.contains(4095) || odd.members.contains(0));
  kernel.vlans.erase(kTap2);
  EXPECT_EQ(port("tap200i0").vlans, VlanTable{}) << "no VLAN at all: nothing passes";
}

TEST_F(TakeoverRead, TheTunnelsVlansAreTheVxlanPorts) {
  auto s = settings();
  EXPECT_EQ(s.bridge.pvid, 1);
  EXPECT_TRUE(s.bridge.vids.contains(2) && s.bridge.vids.contains(100) && !s.bridge.vids.contains(101) && !s.bridge.vids.contains(1));
  EXPECT_FALSE(s.bridge.tunnel_vlans) << "bridge-vids and bridge-pvid say it all";
  kernel.vlans[kVxlan] = {{1, kUntaggedPvid}, {7, BRIDGE_VLAN_INFO_UNTAGGED}};
  s = settings();
  ASSERT_TRUE(s.bridge.tunnel_vlans) << "two untagged VLANs, which the two keys cannot say";
  EXPECT_TRUE(s.bridge.tunnel_vlans->untagged.contains(7));
  EXPECT_EQ(config::tunnel_vlans_of(s.bridge), *s.bridge.tunnel_vlans);
  kernel.vlans.erase(kVxlan);
  const Takeover none = read();
  ASSERT_TRUE(none.settings);
  EXPECT_TRUE(config::tunnel_vlans_of(none.settings->bridge).members.is_empty());
  EXPECT_THAT(none.problems, ElementsAre(HasSubstr("vxlan_mainvx carries no VLAN")));
}

TEST_F(TakeoverRead, AnUnfilteredBridgeIsOneBroadcastDomain) {
  make_unfiltered();
  const auto s = settings();
  EXPECT_FALSE(s.bridge.vlan_filtering);
  for (const auto& one : s.ports) {
    EXPECT_EQ(one.vlans.filtering, 0) << one.name;
    EXPECT_EQ(one.vlans.pvid, kOnlyVid) << one.name;
    EXPECT_TRUE(one.vlans.untagged.contains(kOnlyVid)) << one.name;
  }
  EXPECT_EQ(config::tunnel_vlans_of(s.bridge).filtering, 0);
  EXPECT_EQ(config::tunnel_vlans_of(s.bridge), s.ports[0].vlans);
}

// ---- the host's own port ----

TEST_F(TakeoverRead, TheHostIsAPortWithTheBridgesOwnVlans) {
  for (const int index : {kBridge, kTap2, kVxlan}) link(index).mac = mac(static_cast<std::uint64_t>(index));
  kernel.vlans[kBridge] = {{5, kUntaggedPvid}, {6, 0}};
  const auto host = port("vxp-mainvx");
  EXPECT_EQ(host.driver, config::Driver::kTap);
  EXPECT_EQ(host.deliver_ifindex, static_cast<std::uint32_t>(kBridge));
  EXPECT_EQ(host.own_mac, mac(kBridge));
  EXPECT_EQ(port("tap200i0").own_mac, mac(kTap2));
  EXPECT_EQ(settings().vxlan.own_mac, mac(kVxlan));
  EXPECT_FALSE(host.flags.learning);
  EXPECT_TRUE(host.is_kernels);
  EXPECT_EQ(host.vlans.pvid, 5);
  EXPECT_TRUE(host.vlans.members.contains(6) && !host.vlans.members.contains(1));
  EXPECT_EQ(host_port_name("a-bridge-15char"), "vxp-a-bridge-15") << "what Linux takes";
}

TEST_F(TakeoverRead, ATapOfThatNameInTheBridgeIsNoGuest) {
  kernel.links.push_back(device(20, "vxp-mainvx"));
  kernel.links.back().master = kBridge;
  kernel.links.back().bridge_port = BridgePortInfo{};
  EXPECT_THAT(port_names(), ElementsAre("tap100i0", "tap200i0", "vxp-mainvx"));
}

// ---- ports ----

TEST_F(TakeoverRead, PortsHaveTheirFlags) {
  auto& info = *link(kTap1).bridge_port;
  info.learning = info.unicast_flood = info.multicast_flood = info.broadcast_flood = false;
  info.isolated = true;
  const auto tap1 = port("tap100i0");
  EXPECT_EQ(tap1.flags, (config::PortFlags{false, true, false, false, false}));
  EXPECT_EQ(tap1.driver, config::Driver::kNetdev);
  EXPECT_TRUE(tap1.is_kernels);
  EXPECT_EQ(port("tap200i0").flags, config::PortFlags{});
  link(kVxlan).bridge_port->isolated = true;
  link(kVxlan).bridge_port->broadcast_flood = false;
  EXPECT_TRUE(settings().vxlan.flags.isolated);
  EXPECT_FALSE(settings().vxlan.flags.broadcast_flood);
}

TEST_F(TakeoverRead, WhatTheKernelDoesNotForwardThroughIsNoPort) {
  link(kTap1).is_up = false;
  link(kTap2).bridge_port->is_forwarding = false;
  EXPECT_THAT(port_names(), ElementsAre("vxp-mainvx"));
  link(kTap1).is_up = true, link(kTap1).master = 0;
  link(kTap2).bridge_port->is_forwarding = true, link(kTap2).master = 77;
  EXPECT_THAT(port_names(), ElementsAre("vxp-mainvx"));
}

TEST_F(TakeoverRead, RulesGiveLimitsTheExactNameFirst) {
  const auto rule = [&](const char* line) {
    config::PortSettings one;
    ASSERT_EQ(config::read_port(line, file.bridge, one), "");
    file.port_rules.push_back(one);
  };
  rule("tap* driver=netdev storm-pps=1 bridge-isolated=yes bridge-access=9");
  rule("*i0 driver=netdev storm-pps=2");
  rule("tap200i0 driver=netdev fdb-max-learned=3 queues=2");
  const auto tap1 = port("tap100i0"), tap2 = port("tap200i0");
  EXPECT_EQ(tap1.storm_pps, 1u) << "the first pattern";
  EXPECT_FALSE(tap1.flags.isolated) << "limits only: the rest is the kernel's";
  EXPECT_EQ(tap1.vlans.pvid, 1);
  EXPECT_EQ(tap2.storm_pps, 0u);
  EXPECT_EQ(tap2.fdb_max_learned, 3u);
  EXPECT_EQ(tap2.queues, 2);
  EXPECT_EQ(port("vxp-mainvx").storm_pps, 0u);
}

TEST_F(TakeoverRead, HairpinIsRemarkedOnOnly) {
  link(kTap1).bridge_port->hairpin = true;
  const Takeover takeover = read();
  EXPECT_TRUE(takeover.settings);
  EXPECT_THAT(takeover.problems, ElementsAre(HasSubstr("tap100i0: hairpin")));
}

// ---- what the file gives wins ----

TEST_F(TakeoverRead, WhatTheFileGivesWins) {
  file.given.insert({"vxlan.vxlan-learning", "vxlan.mtu", "vxlan.vxlan-ttl", "vxlan.vxlan-tos", "vxlan.vxlan-remoteip",
                     "vxlan.vtep-learning", "underlay.device", "underlay.vlan", "underlay.mtu", "bridge.bridge-ageing", "bridge.bridge-vids"});
  file.vxlan.learning = false;
  file.vxlan.mtu = 1200;
  file.vxlan.ttl = 3;
  file.vxlan.tos = 8;
  file.vxlan.remotes = {kThird};
  file.vxlan.vtep_learning = config::VtepLearning::kNo;
  file.underlay.device = "nic9";
  file.underlay.vlan = 9;
  file.underlay.mtu = 1450;
  file.bridge.ageing_s = 10;
  file.bridge.vids.insert(44);
  file.vxlan.mss_clamp = true;
  link(kVxlan).vxlan->ttl = 20, link(kVxlan).vxlan->tos = 1;
  const auto s = settings();
  EXPECT_FALSE(s.vxlan.learning);
  EXPECT_EQ(s.vxlan.mtu, 1200);
  EXPECT_EQ(s.vxlan.ttl, 3);
  EXPECT_EQ(s.vxlan.tos, 8);
  EXPECT_FALSE(s.vxlan.tos_inherit);
  EXPECT_THAT(s.vxlan.remotes, ElementsAre(kThird));
  EXPECT_EQ(s.vxlan.vtep_learning, config::VtepLearning::kNo);
  EXPECT_EQ(s.underlay.device, "nic9");
  EXPECT_EQ(s.underlay.vlan, 9);
  EXPECT_EQ(s.underlay.mtu, 1450);
  EXPECT_EQ(s.bridge.ageing_s, 10u);
  EXPECT_EQ(config::tunnel_vlans_of(s.bridge), config::vlan_table_of(file.bridge.vids, 1));
  EXPECT_TRUE(s.vxlan.mss_clamp) << "the kernel has no word for it";
  EXPECT_EQ(s.vxlan.vni, 1000u) << "the kernel's, still";
}

TEST_F(TakeoverRead, AnMtuThatDoesNotFitIsRemarkedOn) {
  link(kBridge).mtu = link(kVxlan).mtu = 1400;
  const Takeover takeover = read();
  EXPECT_TRUE(takeover.settings);
  EXPECT_THAT(takeover.problems, ElementsAre(HasSubstr("takeover: mainvx: mtu: 1400 does not fit")));
}

}  // namespace
}  // namespace vx::control
