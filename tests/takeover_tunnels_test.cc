// SPDX-License-Identifier: Apache-2.0
// What read_takeover() makes of a bridge with several vxlan ports, each with VLANs of its own.
#include <gmock/gmock.h>

#include "tests/takeover_read_testkit.h"

namespace vx::control::testkit {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kVxlan2 = 21;

// vxlan100 (VNI 100, VLAN 100) and vxlan200 (VNI 200, VLAN 200); tap100i0 is a trunk, tap200i0 in VLAN 200.
class TakeoverTunnels : public TakeoverRig {
 protected:
  TakeoverTunnels() {
    link(kVxlan).name = "vxlan100";
    link(kVxlan).vxlan->vni = 100;
    kernel.links.insert(kernel.links.begin(), link(kVxlan));  // links come in no order
    kernel.links.front().ifindex = kVxlan2;
    kernel.links.front().name = "vxlan200";
    kernel.links.front().vxlan->vni = 200;
    kernel.vlans[kVxlan] = {{100, kUntaggedPvid}};
    kernel.vlans[kVxlan2] = {{200, kUntaggedPvid}};
    kernel.vlans[kTap1] = {{1, kUntaggedPvid}, {100, 0}, {200, 0}};
    kernel.vlans[kTap2] = {{200, kUntaggedPvid}};
    self(kVxlan2, MacAddress{}, kThird);
  }
  void self(int ifindex, const MacAddress& address, const IpAddress& dst) {
    tunnel_row(address, dst);
    kernel.fdb.back().ifindex = ifindex;
  }
  std::string why_not() {
    const auto all = read_all();
    EXPECT_EQ(all.size(), 1u);
    EXPECT_FALSE(all.front().settings);
    return all.front().problems.empty() ? "" : all.front().problems.front();
  }
};

TEST_F(TakeoverTunnels, EachIsAnOverlayAndTheFirstHasThePorts) {
  const auto all = read_all();
  ASSERT_EQ(all.size(), 2u);
  ASSERT_TRUE(all[0].settings && all[1].settings) << ::testing::PrintToString(all[0].problems);
  const auto &first = *all[0].settings, &second = *all[1].settings;
  EXPECT_EQ(first.vxlan.name, "vxlan100");
  EXPECT_EQ(second.vxlan.name, "vxlan200");
  EXPECT_EQ(first.vxlan.vni, 100u);
  EXPECT_EQ(second.vxlan.vni, 200u);
  EXPECT_THAT(first.vxlan.remotes, ElementsAre(kPeer));
  EXPECT_THAT(second.vxlan.remotes, ElementsAre(kThird));
  EXPECT_EQ(first.bridge.home, "");
  EXPECT_EQ(second.bridge.home, "vxlan100");
  EXPECT_EQ(all[0].vxlan, kVxlan);
  EXPECT_EQ(all[1].vxlan, kVxlan2);
  ASSERT_EQ(first.ports.size(), 3u) << "two taps and the host: no vxlan device is a guest";
  EXPECT_TRUE(first.ports[0].vlans.members.contains(200));
  EXPECT_TRUE(second.ports.empty());
  const VlanTable vlans = config::tunnel_vlans_of(second.bridge);
  EXPECT_EQ(vlans.pvid, 200);
  EXPECT_TRUE(vlans.untagged.contains(200) && !vlans.members.contains(100));
  EXPECT_TRUE(second.bridge.own_vids->contains(200) && !second.bridge.own_vids->contains(100) && !second.bridge.own_vids->contains(1));
  EXPECT_TRUE(first.bridge.own_vids->contains(100) && first.bridge.own_vids->contains(1) && !first.bridge.own_vids->contains(200));
}

TEST_F(TakeoverTunnels, TheKernelsRowsAreTheirs) {
  row(kTap1, mac(1), 100, NUD_NOARP);
  row(kTap1, mac(1), 200, NUD_NOARP);
  row(kTap2, mac(2), 200, NUD_NOARP);
  row(kTap1, mac(3), 1, NUD_NOARP);
  row(kVxlan2, mac(4), 200, NUD_NOARP);
  self(kVxlan2, mac(4), kThird);
  self(kVxlan, mac(5), kPeer);
  self(kVxlan2, mac(5), kThird);
  row(kBridge, mac(6), 1, NUD_PERMANENT);
  const auto all = read_all();
  ASSERT_EQ(all.size(), 2u);
  const auto keys = [](const Takeover& one) {
    std::set<std::uint64_t> found;
    for (const auto& [key, place] : one.fdb) found.insert(key);
    return found;
  };
  EXPECT_EQ(keys(all[0]), (std::set{fdb_key(100, mac(1)), fdb_key(1, mac(3)), fdb_key(100, mac(5)), fdb_key(1, mac(6))}));
  EXPECT_EQ(keys(all[1]), (std::set{fdb_key(200, mac(1)), fdb_key(200, mac(2)), fdb_key(200, mac(4)), fdb_key(200, mac(5))}));
  EXPECT_EQ(all[1].fdb.at(fdb_key(200, mac(4))).dst, kThird);
  EXPECT_EQ(all[0].fdb.at(fdb_key(100, mac(5))).dst, kPeer);
  EXPECT_EQ(all[1].fdb.at(fdb_key(200, mac(5))).dst, kThird);
}

TEST_F(TakeoverTunnels, OneThatIsDownIsAsIfItWereNot) {
  link(kVxlan2).is_up = false;
  const auto all = read_all();
  ASSERT_EQ(all.size(), 1u);
  ASSERT_TRUE(all[0].settings);
  EXPECT_EQ(all[0].settings->ports.size(), 3u);
  EXPECT_FALSE(all[0].settings->bridge.own_vids);
  link(kVxlan).is_up = false;
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 is down")) << read_all().size();
}

TEST_F(TakeoverTunnels, OneWithoutRemotesGoesTheWayOfTheOthers) {
  kernel.fdb.pop_back();
  network.all_addresses.clear();
  for (const bool is_first : {false, true}) {
    if (is_first) kernel.fdb.front().ifindex = kVxlan2;  // now the second has all of them
    const auto all = read_all();
    ASSERT_EQ(all.size(), 2u) << ::testing::PrintToString(all[0].problems);
    EXPECT_TRUE(all[is_first ? 0 : 1].settings->vxlan.remotes.empty());
    EXPECT_EQ(all[0].settings->underlay, all[1].settings->underlay);
    EXPECT_EQ(all[1].settings->underlay.device, "enp35s0");
  }
}

TEST_F(TakeoverTunnels, WhatIsSaidOfPortsIsSaidOnce) {
  link(kTap1).bridge_port->hairpin = true;
  const auto all = read_all();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_THAT(all[0].problems, ElementsAre(HasSubstr("hairpin")));
  EXPECT_TRUE(all[1].problems.empty());
}

TEST_F(TakeoverTunnels, RefusesInOneLineThatNamesBoth) {
  kernel.vlans[kVxlan2].push_back({100, 0});
  EXPECT_EQ(why_not(), "takeover: mainvx: its vxlan ports vxlan100 and vxlan200 both carry VLAN 100: one VNI a VLAN");
  kernel.vlans[kVxlan2].pop_back();
  link(kVxlan2).vxlan->port = 8472;
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 and vxlan200 have different UDP ports, 4789 and 8472"));
  link(kVxlan2).vxlan->port = 4789;
  link(kVxlan2).vxlan->local = IpAddress::v4(172, 18, 1, 77);
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 and vxlan200 have different local addresses"));
  link(kVxlan2).vxlan->local = kUs;
  network.route = [](const IpAddress& to) { return Route{to == kThird ? kNic : kVlanDevice, std::nullopt, kUs, 0, true}; };
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 and vxlan200 have different underlays"));
  network.route = FakeKernel().route;
  file.given.insert("vxlan.vxlan-id"), file.source = "vxplane.conf";
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 and vxlan200 cannot both have the vxlan.vxlan-id of vxplane.conf"));
  file.given.clear();
  EXPECT_EQ(read_all().size(), 2u);
  make_unfiltered();
  EXPECT_THAT(why_not(), HasSubstr("vxlan100 and vxlan200 would have every frame both"));
}

TEST_F(TakeoverTunnels, OneThatCannotBeKeepsTheBridgeWithTheKernel) {
  link(kVxlan2).vxlan->is_external = true;
  EXPECT_THAT(why_not(), HasSubstr("vxlan200 takes its VNI from metadata"));
}

}  // namespace
}  // namespace vx::control::testkit
