// SPDX-License-Identifier: Apache-2.0
// What read_takeover() makes of the kernel's FDBs and routes: remotes, MACs, the underlay; and what it refuses.
#include <gmock/gmock.h>

#include "tests/takeover_read_testkit.h"

namespace vx::control {

static void PrintTo(const KernelPlace& place, std::ostream* out) {
  *out << place.port << (place.dst ? " dst" : "") << (place.is_external ? " external" : "");
}

namespace {

using namespace testkit;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class TakeoverFdb : public TakeoverRig {};

KernelPlace at(const std::string& port, bool is_external = false) { return {port, std::nullopt, is_external}; }
KernelPlace behind(const IpAddress& dst, bool is_external = false) { return {{}, dst, is_external}; }

TEST_F(TakeoverFdb, ZeroRowsAreTheRemotesOnceInOrderWithoutOurselves) {
  flood_to(kThird), flood_to(kUs), flood_to(kThird), flood_to(IpAddress::v4(10, 0, 0, 1));
  EXPECT_THAT(settings().vxlan.remotes, ElementsAre(IpAddress::v4(10, 0, 0, 1), kPeer, kThird));
  EXPECT_THAT(read().fdb, IsEmpty()) << "they are no MACs";
}

TEST_F(TakeoverFdb, RowsOfAnotherVxlanDeviceAreNotOurs) {
  BridgeFdbEntry foreign;
  foreign.ifindex = 99, foreign.dst = kThird, foreign.state = NUD_PERMANENT;
  kernel.fdb.push_back(foreign);
  EXPECT_THAT(settings().vxlan.remotes, ElementsAre(kPeer));
}

TEST_F(TakeoverFdb, LocalEntriesAreTheHosts) {
  row(kBridge, kOwnMac, 1, NUD_PERMANENT);
  row(kTap1, mac(0xfe), 1, NUD_PERMANENT);  // a tap's own MAC: local too
  row(kBridge, kOwnMac, 0, NUD_PERMANENT);  // for no frame of a bridge that filters
  row(kTap1, mac(0xfe), 300, NUD_PERMANENT);  // a trunk has one in each VLAN; the host is not in this one
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, kOwnMac), at("vxp-mainvx")), Pair(fdb_key(1, mac(0xfe)), at("vxp-mainvx"))));
}

TEST_F(TakeoverFdb, StaticEntriesArePortsByVid) {
  row(kTap1, mac(1), 7, NUD_NOARP);
  row(kTap2, mac(1), 30, NUD_NOARP);
  row(kTap2, MacAddress{{0x01, 0, 0x5e, 0, 0, 1}}, 30, NUD_PERMANENT);  // of a group
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(7, mac(1)), at("tap100i0")), Pair(fdb_key(30, mac(1)), at("tap200i0"))));
}

TEST_F(TakeoverFdb, AnotherBridgesRowsAreNotOurs) {
  row(kTap1, mac(1), 7, NUD_NOARP);
  kernel.fdb.back().master = 77;
  EXPECT_THAT(read().fdb, IsEmpty());
}

TEST_F(TakeoverFdb, WithoutFilteringRowsHaveNoVid) {
  make_unfiltered();
  row(kTap1, mac(1), 0, NUD_NOARP);
  row(kTap2, mac(2), 5, NUD_NOARP);  // left from when it filtered
  row(kBridge, kOwnMac, 0, NUD_PERMANENT);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(kOnlyVid, mac(1)), at("tap100i0")), Pair(fdb_key(kOnlyVid, kOwnMac), at("vxp-mainvx"))));
}

TEST_F(TakeoverFdb, EvpnsTwoRowsAreJoinedByMac) {
  row(kVxlan, mac(1), 1, NUD_NOARP, NTF_EXT_LEARNED);
  tunnel_row(mac(1), kPeer, NTF_EXT_LEARNED);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, mac(1)), behind(kPeer, true))));
  kernel.fdb.back().dst = kThird;
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, mac(1)), behind(kThird, true)))) << "a move changes the vxlan's row alone";
}

// zebra writes the bridge's row first, and leaves the vxlan's behind when the MAC comes home.
TEST_F(TakeoverFdb, AVxlanRowOfEvpnAloneSaysNothing) {
  tunnel_row(mac(1), kPeer, NTF_EXT_LEARNED);
  EXPECT_THAT(read().fdb, IsEmpty());
  row(kTap1, mac(1), 1, NUD_NOARP);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, mac(1)), at("tap100i0"))));
}

TEST_F(TakeoverFdb, ABridgeRowOnTheTunnelAloneSaysNothingYet) {
  row(kVxlan, mac(1), 1, NUD_NOARP, NTF_EXT_LEARNED);
  EXPECT_THAT(read().fdb, IsEmpty());
}

TEST_F(TakeoverFdb, AStickyMacOfEvpnIsAStaticOne) {
  row(kVxlan, mac(1), 1, NUD_NOARP, NTF_STICKY);
  tunnel_row(mac(1), kPeer, NTF_STICKY);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, mac(1)), behind(kPeer))));
}

TEST_F(TakeoverFdb, AnExternalLocalRowIsAPortsThatAFrameMayMove) {
  row(kTap1, mac(1), 7, NUD_PERMANENT, NTF_EXT_LEARNED);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(7, mac(1)), at("tap100i0", true))));
}

TEST_F(TakeoverFdb, AnOperatorsVxlanRowIsOfThePvidAndGivesWayToAPort) {
  tunnel_row(mac(1), kThird);
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(1, mac(1)), behind(kThird, true))));
  kernel.vlans[kVxlan] = {{7, 0}};
  EXPECT_THAT(read().fdb, IsEmpty()) << "no PVID: the row has no VLAN to be in";
  make_unfiltered();
  EXPECT_THAT(read().fdb, UnorderedElementsAre(Pair(fdb_key(kOnlyVid, mac(1)), behind(kThird, true))));
}

// ---- the underlay ----

class TakeoverUnderlay : public TakeoverRig {};

TEST_F(TakeoverUnderlay, AVlanDeviceIsTheNicBelowAndATag) {
  const auto s = settings();
  EXPECT_EQ(s.underlay.device, "enp35s0");
  EXPECT_EQ(s.underlay.vlan, 4003);
  EXPECT_EQ(s.underlay.mtu, 1400) << "the VLAN device's own";
  network.route = [](const IpAddress&) { return std::optional(Route{kNic, std::nullopt, kUs, 0, true}); };
  EXPECT_EQ(settings().underlay.device, "enp35s0");
  EXPECT_EQ(settings().underlay.vlan, 0);
  EXPECT_EQ(settings().underlay.mtu, 1500);
}

TEST_F(TakeoverUnderlay, WithoutRemotesTheVxlanSaysWhere) {
  kernel.fdb.clear();
  network.route = [](const IpAddress&) -> std::optional<Route> { throw std::logic_error("nobody to ask about"); };
  EXPECT_EQ(settings().underlay.vlan, 4003) << "the device that has the local address";
  EXPECT_THAT(settings().vxlan.remotes, IsEmpty());
  link(kVxlan).vxlan->lower = kNic;
  EXPECT_EQ(settings().underlay.vlan, 0) << "the vxlan's own `dev`";
}

TEST_F(TakeoverUnderlay, AnAddressOnLoopbackNamesNoNicUntilARouteDoes) {
  kernel.fdb.clear();
  for (const char* name : {"lo", "vtep0"}) {
    kernel.links.push_back(device(1, name, 65536));
    if (name[0] == 'v') kernel.links.back().kind = "dummy";
    network.all_addresses = {{1, kUs, 32}};
    EXPECT_THAT(refusal(), HasSubstr("no remote has a route yet")) << name;
    flood_to(kPeer);
    EXPECT_EQ(settings().underlay.device, "enp35s0");
    kernel.fdb.clear();
    kernel.links.pop_back();
  }
}

TEST_F(TakeoverUnderlay, ALocalOrForbiddenWayIsNone) {
  kernel.fdb.clear();
  flood_to(kPeer);
  link(kVxlan).vxlan->local.reset();
  network.route = [](const IpAddress&) { return std::optional(Route{kVlanDevice, std::nullopt, kUs, 0, false, true}); };
  EXPECT_THAT(refusal(), HasSubstr("no remote has a route yet"));
  network.route = [](const IpAddress&) { return std::optional<Route>(); };
  EXPECT_THAT(refusal(), HasSubstr("no remote has a route yet"));
  file.given.insert("underlay.device");
  file.underlay.device = "nic9";
  EXPECT_EQ(settings().underlay.device, "nic9");
}

TEST_F(TakeoverUnderlay, TheLocalAddressIsTheOneInTheRemotesSubnetElseTheKernelsChoice) {
  link(kVxlan).vxlan->local.reset();
  network.all_addresses = {{kVlanDevice, IpAddress::v4(10, 9, 9, 9), 24}, {kVlanDevice, IpAddress::v4(172, 18, 1, 77), 24}};
  EXPECT_EQ(settings().vxlan.local, IpAddress::v4(172, 18, 1, 77));
  network.all_addresses.pop_back();
  EXPECT_EQ(settings().vxlan.local, kUs);
}

TEST_F(TakeoverUnderlay, RemotesBehindDifferentDevicesAreRemarkedOn) {
  flood_to(kThird);
  network.route = [](const IpAddress& to) { return std::optional(Route{to == kThird ? kNic : kVlanDevice, std::nullopt, kUs, 0, true}); };
  const Takeover takeover = read();
  ASSERT_TRUE(takeover.settings);
  EXPECT_EQ(takeover.settings->underlay.vlan, 4003) << "the first remote's";
  EXPECT_THAT(takeover.problems, ElementsAre(HasSubstr("one underlay device")));
}

// ---- what is refused, each by one line that names what to change ----

class TakeoverRefusal : public TakeoverRig {};

TEST_F(TakeoverRefusal, NoBridgeOrNoneOfThatName) {
  file.bridge.takeover = "vmbr7";
  EXPECT_EQ(refusal(), "takeover: there is no netdev vmbr7");
  file.bridge.takeover = "enp35s0";
  EXPECT_EQ(refusal(), "takeover: enp35s0 is no bridge");
}

TEST_F(TakeoverRefusal, NoVxlanPort) {
  link(kVxlan).master = 0;
  EXPECT_EQ(refusal(), "takeover: mainvx has no vxlan port");
}

TEST_F(TakeoverRefusal, ExternalVxlan) {
  link(kVxlan).vxlan->is_external = true;
  EXPECT_EQ(refusal(), "takeover: vxlan_mainvx takes its VNI from metadata (external)");
}

TEST_F(TakeoverRefusal, AMulticastGroup) {
  flood_to(IpAddress::v4(239, 1, 1, 1));
  EXPECT_EQ(refusal(), "takeover: vxlan_mainvx floods to the group 239.1.1.1: unicast remotes only");
  kernel.fdb.clear();
  IpAddress group;
  group.bytes[0] = 0xff, group.bytes[1] = 5, group.bytes[15] = 1;
  flood_to(group);
  EXPECT_EQ(refusal(), "takeover: vxlan_mainvx floods to the group ff05::1: unicast remotes only");
}

TEST_F(TakeoverRefusal, WhatIsDown) {
  link(kVxlan).is_up = false;
  EXPECT_EQ(refusal(), "takeover: vxlan_mainvx is down");
  link(kBridge).is_up = false;
  EXPECT_EQ(refusal(), "takeover: mainvx is down");
}

TEST_F(TakeoverRefusal, ALockedPort) {
  link(kTap1).bridge_port->locked = true;
  EXPECT_EQ(refusal(), "takeover: port tap100i0 is locked, which vxplane does not do: bridge link set dev tap100i0 locked off");
}

TEST_F(TakeoverRefusal, SpanningTreeAndAQuerierWhoseFramesWouldBeTaken) {
  link(kBridge).bridge->stp = true;
  EXPECT_THAT(refusal(), HasSubstr("type bridge stp_state 0"));
  link(kBridge).bridge->stp = false;
  link(kBridge).bridge->multicast_querier = true;
  EXPECT_TRUE(read().settings) << "without snooping it does not matter";
  link(kBridge).bridge->multicast_snooping = true;
  EXPECT_THAT(refusal(), HasSubstr("type bridge mcast_querier 0"));
}

TEST_F(TakeoverRefusal, APortWithAVlanDeviceOnIt) {
  kernel.links.push_back(device(31, "tap100i0.20"));
  kernel.links.back().kind = "vlan", kernel.links.back().vid = 20, kernel.links.back().lower = kTap1;
  EXPECT_THAT(refusal(), HasSubstr("port tap100i0: tap100i0.20 on it takes frames"));
}

TEST_F(TakeoverRefusal, ServiceVlansButNotOfABridgeThatDoesNotFilter) {
  link(kBridge).bridge->vlan_protocol = 0x88a8;
  EXPECT_EQ(refusal(), "takeover: mainvx filters 802.1ad VLANs; 802.1Q only");
  make_unfiltered();
  EXPECT_TRUE(read().settings);
}

TEST_F(TakeoverRefusal, AnUnderlayThatIsAPortOfTheBridge) {
  link(kNic).master = kBridge;
  EXPECT_EQ(refusal(), "takeover: the underlay enp35s0 is a port of mainvx itself");
}

TEST_F(TakeoverRefusal, AVlanDeviceWhoseNicIsInAnotherNamespace) {
  link(kVlanDevice).lower = 500;
  EXPECT_EQ(refusal(), "takeover: the device below enp35s0.4003 is not here");
}

}  // namespace
}  // namespace vx::control
