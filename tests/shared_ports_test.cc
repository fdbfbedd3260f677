// SPDX-License-Identifier: Apache-2.0
// Overlays that share the ports of one (OverlayConfig::home), as the vxlan ports of one VLAN-aware bridge do: each has its
// VLANs of every port's frames, an FDB and VTEPs of its own.
#include <cerrno>

#include "dataplane/layer3.h"
#include "tests/switchboard_testkit.h"

namespace vx::testkit {
namespace {

constexpr std::uint32_t kVni1 = 1000, kVni2 = 2000;

VlanTable access(std::uint16_t vid) { return vlans(vid, vid, vid); }

// Overlay 0 has the ports and carries VLAN 100, overlay 1 VLAN 200, both as their PVID; VLAN 1 is of no tunnel. `trunk` has
// all three, 1 untagged; `a` is in 100, `b` in 200.
struct TwoTunnels : SwitchboardRig {
  TwoTunnels() {
    board->add_port(underlay_port());
    board->set_overlay(tunnel(0, kVni1, 100));
    board->set_overlay(tunnel(1, kVni2, 200));
    board->set_underlay(underlay());
    auto first = vtep(0, kRemote4), second = vtep(0, kOther4);
    second.overlay = 1;
    const std::array both{first, second};
    board->set_vteps(both);
    trunk = add("trunk", vlans(1, 1, 1));
    auto config = guest("trunk");
    config.vlans = vlans(1, 1, 1);
    config.vlans.members.insert(100), config.vlans.members.insert(200);
    (void)board->set_port(config);
    a = add("a", access(100));
    b = add("b", access(200));
    c = add("c", access(1));
  }
  static protocol::OverlayConfig tunnel(OverlayIndex index, std::uint32_t vni, std::uint16_t vid) {
    auto config = overlay(index, vni);
    config.tunnel_vlans = access(vid);
    config.vtep_learning = protocol::VtepLearning::kYes;
    if (index != 0) config.home = 0;
    return config;
  }
  PortIndex add(const std::string& name, const VlanTable& table) {
    auto config = guest(name);
    config.vlans = table;
    return board->add_port(config).index;
  }
  bool learn(OverlayIndex index, std::uint16_t vid, MacAddress mac, Location location) {
    auto entry = record(mac, location);
    entry.overlay = index;
    entry.key = fdb_key(vid, mac);
    return put(entry).added == 1;
  }
  // What leaves where after `frames` came in at `port`, as "port: frame's VLAN, or VNI and inner VLAN".
  std::map<std::string, std::vector<std::string>> after(const std::string& port, const std::vector<Bytes>& frames) {
    for (auto& [name, one] : ports) one->sent.clear();
    for (const auto& frame : frames) ports[port]->incoming.push_back(frame);
    poll();
    std::map<std::string, std::vector<std::string>> left;
    const auto tag_of = [](const Bytes& frame, std::size_t at) {
      return frame[at + 12] == 0x81 && frame[at + 13] == 0 ? std::to_string((frame[at + 14] & 0xf) << 8 | frame[at + 15]) : "untagged";
    };
    for (const auto& [name, one] : ports)
      for (const auto& frame : one->sent)
        left[name].push_back(name != "eth0" ? tag_of(frame, 0)
                                            : std::to_string(frame[46] << 16 | frame[47] << 8 | frame[48]) + " " + tag_of(frame, 50));
    return left;
  }
  static Bytes frame(MacAddress to, MacAddress from, std::uint16_t tag = 0) {
    FrameBuilder builder;
    builder.eth(to, from);
    if (tag != 0) builder.vlan(tag);
    return builder.ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(1, 2).payload(30).build();
  }
  static Bytes from_tunnel(const IpAddress& vtep, std::uint32_t vni, const Bytes& inner) {
    FrameBuilder outer;
    outer.eth(kOurMac, kPeerMac).ipv4(vtep, kLocal4).udp(55555, kVxlanPort).vxlan(vni);
    return outer.raw(inner).build();
  }
  PortIndex trunk = kNoIndex, a = kNoIndex, b = kNoIndex, c = kNoIndex;
};

using Left = std::map<std::string, std::vector<std::string>>;

TEST(SharedPorts, AFrameIsInTheTunnelOfItsVlan) {
  TwoTunnels rig;
  EXPECT_EQ(rig.after("trunk", {rig.frame(kBroadcast, kGuestA, 100)}), (Left{{"a", {"untagged"}}, {"eth0", {"1000 untagged"}}}));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kBroadcast, kGuestA, 200)}), (Left{{"b", {"untagged"}}, {"eth0", {"2000 untagged"}}}));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kBroadcast, kGuestA)}), (Left{{"c", {"untagged"}}})) << "VLAN 1 is of no tunnel";
  EXPECT_EQ(rig.after("b", {rig.frame(kBroadcast, kGuestB)}), (Left{{"trunk", {"200"}}, {"eth0", {"2000 untagged"}}}));
  EXPECT_EQ(rig.after("a", {rig.frame(kBroadcast, kGuestB, 200)}), Left{}) << "not in that VLAN";
}

TEST(SharedPorts, ABurstOfSeveralVlansIsSplit) {
  TwoTunnels rig;
  const auto left = rig.after("trunk", {rig.frame(kBroadcast, kGuestA, 200), rig.frame(kBroadcast, kGuestA), rig.frame(kBroadcast, kGuestA, 100),
                                        rig.frame(kBroadcast, kGuestA, 200), Bytes(13, 0xff), rig.frame(kBroadcast, kGuestA, 300)});
  EXPECT_EQ(left, (Left{{"a", {"untagged"}}, {"b", {"untagged", "untagged"}}, {"c", {"untagged"}},
                        {"eth0", {"2000 untagged", "2000 untagged", "1000 untagged"}}}));
  const auto totals = rig.board->stats().reply;
  EXPECT_TRUE(totals.totals.balances());
  EXPECT_EQ(totals.drops[static_cast<std::size_t>(DropReason::kGuestTruncated)], 1u);
  EXPECT_EQ(totals.drops[static_cast<std::size_t>(DropReason::kVlanNotMember)], 1u);
}

TEST(SharedPorts, WhatComesOutOfATunnelIsOfItsVlan) {
  TwoTunnels rig;
  EXPECT_EQ(rig.after("eth0", {rig.from_tunnel(kOther4, kVni2, rig.frame(kBroadcast, kFar))}), (Left{{"b", {"untagged"}}, {"trunk", {"200"}}}));
  EXPECT_EQ(rig.after("eth0", {rig.from_tunnel(kRemote4, kVni1, rig.frame(kBroadcast, kFar))}), (Left{{"a", {"untagged"}}, {"trunk", {"100"}}}));
  EXPECT_EQ(rig.after("eth0", {rig.from_tunnel(kRemote4, kVni1, rig.frame(kBroadcast, kFar, 200))}), Left{}) << "the other tunnel's VLAN";
}

TEST(SharedPorts, EachHasAnFdbAndVtepsOfItsOwn) {
  TwoTunnels rig;
  EXPECT_TRUE(rig.learn(0, 100, kGuestB, Location::port(rig.a)));
  EXPECT_TRUE(rig.learn(1, 200, kGuestB, Location::port(rig.b))) << "a port of its home";
  EXPECT_TRUE(rig.learn(0, 100, kFar, Location::vtep(0)));
  EXPECT_TRUE(rig.learn(1, 200, kFar, Location::vtep(0)));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kGuestB, kGuestA, 100)}), (Left{{"a", {"untagged"}}}));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kGuestB, kGuestA, 200)}), (Left{{"b", {"untagged"}}}));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kFar, kGuestA, 100)}), (Left{{"eth0", {"1000 untagged"}}}));
  EXPECT_EQ(std::memcmp(&rig.ports["eth0"]->sent[0][30], kRemote4.v4_bytes(), 4), 0);
  EXPECT_EQ(rig.after("trunk", {rig.frame(kFar, kGuestA, 200)}), (Left{{"eth0", {"2000 untagged"}}}));
  EXPECT_EQ(std::memcmp(&rig.ports["eth0"]->sent[0][30], kOther4.v4_bytes(), 4), 0);
  rig.board->delete_port("b");
  std::vector<protocol::FdbRecord> left;
  protocol::FdbDumpRequest request;
  request.overlay = 1;
  while ((request.cursor = rig.board->dump_fdb(request, 100, 1000, left)) != 0) {}
  ASSERT_EQ(left.size(), 1u) << "what was at the port is forgotten in every overlay that had it";
  EXPECT_EQ(left[0].key, fdb_key(200, kFar));
}

TEST(SharedPorts, VlansAndTunnelsComeAndGo) {
  TwoTunnels rig;
  rig.board->delete_overlay(1);
  EXPECT_EQ(rig.after("trunk", {rig.frame(kBroadcast, kGuestA, 200)}), (Left{{"b", {"untagged"}}})) << "a VLAN of no tunnel again";
  rig.board->set_overlay(rig.tunnel(1, kVni2, 100));
  EXPECT_EQ(rig.after("b", {rig.frame(kBroadcast, kGuestB)}), (Left{{"trunk", {"200"}}}));
  rig.board->set_overlay(rig.tunnel(0, kVni1, 300));
  EXPECT_EQ(rig.after("trunk", {rig.frame(kBroadcast, kGuestA, 100)}), (Left{{"a", {"untagged"}}})) << "VLAN 100 is the other's now, without VTEPs yet";
}

TEST(SharedPorts, RefusesAHomeThatIsNone) {
  TwoTunnels rig;
  for (const OverlayIndex home : {OverlayIndex{2}, OverlayIndex{7}, OverlayIndex{1}}) {
    auto config = rig.tunnel(2, 3000, 300);
    config.home = home;
    EXPECT_EQ(error_of([&] { rig.board->set_overlay(config); }), EINVAL) << home;
  }
  EXPECT_EQ(error_of([&] { rig.board->delete_overlay(0); }), EBUSY) << "it has the ports";
}

}  // namespace
}  // namespace vx::testkit
