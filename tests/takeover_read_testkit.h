// SPDX-License-Identifier: Apache-2.0
// A kernel's bridge with VLAN filtering as read_takeover() is shown it, written by hand: the machines that run the tests
// may have no VLAN filtering.
#pragma once

#include <gtest/gtest.h>
#include <linux/if_bridge.h>
#include <linux/neighbour.h>

#include <functional>

#include "config/keys.h"
#include "config/load.h"
#include "control/takeover.h"
#include "dataplane/fdb.h"

namespace vx::control::testkit {

inline constexpr int kNic = 2, kVlanDevice = 3, kBridge = 10, kVxlan = 11, kTap1 = 12, kTap2 = 13;
inline constexpr std::uint16_t kUntaggedPvid = BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED;
inline const IpAddress kUs = IpAddress::v4(172, 18, 1, 1), kPeer = IpAddress::v4(172, 18, 1, 2), kThird = IpAddress::v4(172, 18, 1, 3);
inline constexpr MacAddress kOwnMac{{2, 0, 0, 0, 0, 9}};

inline MacAddress mac(std::uint64_t n) { return MacAddress::from_u48(0x525400000000 + n); }

class FakeKernel : public KernelNetwork {
 public:
  std::vector<Link> links() override { return {}; }
  std::vector<Neighbour> neighbours(int) override { return {}; }
  std::vector<InterfaceIp> addresses() override { return all_addresses; }
  std::optional<Route> route_to(const IpAddress& to, const std::optional<IpAddress>&) override { return route(to); }
  int use_neighbour(int, const IpAddress&) override { return 0; }
  int probe_neighbour(int, const IpAddress&) override { return 0; }

  std::vector<InterfaceIp> all_addresses{{kVlanDevice, kUs, 24}};
  std::function<std::optional<Route>(const IpAddress&)> route = [](const IpAddress&) {
    return std::optional(Route{kVlanDevice, std::nullopt, kUs, 0, true});
  };
};

inline Link device(int ifindex, const std::string& name, std::uint32_t mtu = 1500) {
  Link link;
  link.ifindex = ifindex;
  link.name = name;
  link.mtu = mtu;
  link.is_up = true;
  return link;
}

// xenon of the design: mainvx with two taps over 802.1Q device enp35s0.4003.
class TakeoverRig : public ::testing::Test {
 protected:
  TakeoverRig() {
    auto& all = kernel.links;
    all.push_back(device(kNic, "enp35s0"));
    all.push_back(device(kVlanDevice, "enp35s0.4003", 1400));
    all.back().kind = "vlan", all.back().vid = 4003, all.back().lower = kNic;
    all.push_back(device(kBridge, "mainvx", 1332));
    all.back().kind = "bridge", all.back().bridge = BridgeInfo{.vlan_filtering = true};
    all.push_back(device(kVxlan, "vxlan_mainvx", 1332));
    all.back().kind = "vxlan", all.back().master = kBridge, all.back().vxlan = VxlanInfo{};
    all.back().vxlan->vni = 1000, all.back().vxlan->local = kUs;
    all.back().bridge_port = BridgePortInfo{};
    for (const int index : {kTap1, kTap2}) {
      all.push_back(device(index, index == kTap1 ? "tap100i0" : "tap200i0", 1332));
      all.back().master = kBridge;
      all.back().bridge_port = BridgePortInfo{};
    }
    kernel.vlans[kVxlan] = {{1, kUntaggedPvid}};
    for (std::uint16_t vid = 2; vid <= 100; ++vid) kernel.vlans[kVxlan].push_back({vid, 0});
    kernel.vlans[kTap1] = {{1, kUntaggedPvid}, {7, 0}};
    kernel.vlans[kTap2] = {{30, kUntaggedPvid}};
    kernel.vlans[kBridge] = {{1, kUntaggedPvid}};
    flood_to(kPeer);
  }
  Link& link(int ifindex) {
    for (auto& one : kernel.links)
      if (one.ifindex == ifindex) return one;
    throw std::out_of_range("link");
  }
  void row(int ifindex, const MacAddress& address, std::uint16_t vid, std::uint16_t state, std::uint8_t flags = 0) {
    BridgeFdbEntry entry;
    entry.ifindex = ifindex, entry.master = kBridge, entry.mac = address, entry.vid = vid, entry.state = state, entry.flags = flags;
    kernel.fdb.push_back(entry);
  }
  void tunnel_row(const MacAddress& address, const IpAddress& dst, std::uint8_t flags = 0) {
    BridgeFdbEntry entry;
    entry.ifindex = kVxlan, entry.mac = address, entry.dst = dst, entry.state = NUD_PERMANENT, entry.flags = flags;
    kernel.fdb.push_back(entry);
  }
  void flood_to(const IpAddress& dst) { tunnel_row(MacAddress{}, dst); }
  std::vector<Takeover> read_all() { return read_takeover(file, kernel, network); }
  Takeover read() {
    const auto all = read_all();
    EXPECT_EQ(all.size(), 1u);
    return all.front();
  }
  config::Settings settings() {
    const Takeover takeover = read();
    EXPECT_TRUE(takeover.settings) << ::testing::PrintToString(takeover.problems);
    return takeover.settings.value_or(config::Settings{});
  }
  config::PortSettings port(const std::string& name) {
    for (const auto& one : settings().ports)
      if (one.name == name) return one;
    ADD_FAILURE() << "no port " << name;
    return {};
  }
  std::vector<std::string> port_names() {
    std::vector<std::string> names;
    for (const auto& one : settings().ports) names.push_back(one.name);
    return names;
  }
  // Why it cannot be.
  std::string refusal() {
    const Takeover takeover = read();
    EXPECT_FALSE(takeover.settings);
    return takeover.problems.empty() ? "" : takeover.problems.front();
  }
  void make_unfiltered() {
    link(kBridge).bridge->vlan_filtering = false;
    kernel.vlans.clear();
  }

  BridgeSnapshot kernel;
  FakeKernel network;
  config::Settings file = config::takeover_of("mainvx");
};

}  // namespace vx::control::testkit
