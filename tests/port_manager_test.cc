// SPDX-License-Identifier: Apache-2.0
#include "control/port_manager.h"

#include <gtest/gtest.h>

namespace vx::control {
namespace {

using protocol::PortDriver;
using Kind = PortAction::Kind;

WantedPort wanted(const std::string& name, PortDriver driver, bool is_pattern = false) {
  WantedPort port;
  protocol::set_text(port.config.name, name);
  port.config.driver = driver;
  port.config.overlay = 0;
  port.is_pattern = is_pattern;
  return port;
}
Link link(const std::string& name, int ifindex, bool is_up = true) {
  Link l;
  l.name = name;
  l.ifindex = ifindex;
  l.is_up = is_up;
  return l;
}
protocol::PortInfo info(const protocol::PortConfig& config, PortIndex index, std::uint32_t ifindex = 0) {
  protocol::PortInfo i;
  i.config = config;
  i.index = index;
  i.ifindex = ifindex;
  return i;
}

class PortManagerTest : public testing::Test {
 protected:
  // Does what the actions say, as a dataplane that never refuses; "+g1 -g2 =g3".
  std::string act(Milliseconds now = 0) {
    std::string done;
    for (const auto& action : ports.actions(now)) {
      const std::string name(protocol::text_of(action.config.name));
      const char* sign = action.kind == Kind::kAttach ? "+" : action.kind == Kind::kDetach ? "-" : "=";
      done += (done.empty() ? "" : " ") + (sign + name);
      if (action.kind == Kind::kAttach) ports.attached(name, info(action.config, next_index++, ifindex_of[name]));
      if (action.kind == Kind::kSet) ports.attached(name, info(action.config, ports.find(name)->info->index, ifindex_of[name]));
    }
    return done;
  }
  void appear(const std::string& name, int ifindex, bool is_up = true) {
    ifindex_of[name] = static_cast<std::uint32_t>(ifindex);
    ports.on_link(link(name, ifindex, is_up));
  }
  PortStatus status(const std::string& name) { return ports.find(name)->status; }

  PortManager ports;
  PortIndex next_index = 0;
  std::map<std::string, std::uint32_t> ifindex_of;
};

TEST_F(PortManagerTest, ATapIsMadeAtOnceANetdevPortWaitsForItsNetdev) {
  ports.configure({wanted("g1", PortDriver::kTap), wanted("tap100i0", PortDriver::kNetdev)});
  EXPECT_EQ(act(), "+g1");
  EXPECT_EQ(status("tap100i0"), PortStatus::kWaiting);
  EXPECT_NE(ports.find("tap100i0")->text.find("tap100i0"), std::string::npos);
  appear("tap100i0", 7);
  EXPECT_EQ(act(), "+tap100i0");
  EXPECT_EQ(status("tap100i0"), PortStatus::kUp);
}

TEST_F(PortManagerTest, TheUnderlayIsAttachedBeforeGuests) {
  auto underlay = wanted("z0", PortDriver::kAfXdp);
  underlay.config.role = protocol::PortRole::kUnderlay;
  appear("z0", 2);
  ports.configure({wanted("a1", PortDriver::kTap), underlay});
  EXPECT_EQ(act(), "+z0 +a1");
}

TEST_F(PortManagerTest, ANetdevThatGoesAndComesBackIsAttachedAgain) {
  ports.configure({wanted("tap100i0", PortDriver::kNetdev)});
  appear("tap100i0", 7);
  (void)act();
  const PortIndex slot = ports.find("tap100i0")->slot;
  ports.on_link_gone("tap100i0");
  EXPECT_EQ(status("tap100i0"), PortStatus::kLost);
  EXPECT_EQ(act(), "-tap100i0");
  EXPECT_EQ(ports.take_vacated(), std::vector{slot});
  appear("tap100i0", 8);
  EXPECT_EQ(act(), "+tap100i0");
  EXPECT_EQ(ports.find("tap100i0")->slot, slot);
}

TEST_F(PortManagerTest, AnotherNetdevOfTheSameNameReplacesTheOldOne) {
  ports.configure({wanted("veth1", PortDriver::kNetdev)});
  appear("veth1", 7);
  (void)act();
  appear("veth1", 9);  // the removal was not seen
  EXPECT_EQ(act(), "-veth1 +veth1");
}

TEST_F(PortManagerTest, APatternMakesPortsOfNetdevsThatComeAndGo) {
  ports.configure({wanted("tap*i*", PortDriver::kNetdev, true)});
  EXPECT_EQ(act(), "");
  appear("tap100i0", 3);
  appear("eth0", 4);
  EXPECT_EQ(act(), "+tap100i0");
  ports.on_link_gone("tap100i0");
  EXPECT_EQ(ports.find("tap100i0"), nullptr);
  EXPECT_EQ(act(), "-tap100i0");
}

TEST_F(PortManagerTest, AnExplicitNameWinsOverAPattern) {
  auto one = wanted("tap100i0", PortDriver::kNetdev);
  one.config.storm_pps = 7;
  appear("tap100i0", 3);
  ports.configure({wanted("tap*", PortDriver::kNetdev, true), one});
  EXPECT_EQ(ports.find("tap100i0")->wanted.config.storm_pps, 7u);
  EXPECT_FALSE(ports.find("tap100i0")->is_from_pattern);
}

TEST_F(PortManagerTest, AfterARestartOfControlRightPortsAreKept) {
  ports.configure({wanted("g1", PortDriver::kTap), wanted("g2", PortDriver::kTap)});
  ports.adopt(info(wanted("g1", PortDriver::kTap).config, 5));
  ports.adopt(info(wanted("g9", PortDriver::kTap).config, 6));
  EXPECT_EQ(act(), "-g9 +g2");
  EXPECT_EQ(ports.index_of_slot(ports.find("g1")->slot), 5);
  EXPECT_EQ(ports.slot_of_index(5), ports.find("g1")->slot);
}

TEST_F(PortManagerTest, VlansChangeInPlaceTheDriverDoesNot) {
  ports.configure({wanted("g1", PortDriver::kTap), wanted("g2", PortDriver::kTap)});
  (void)act();
  auto vlans = wanted("g1", PortDriver::kTap);
  vlans.config.vlans.pvid = 7;
  auto queues = wanted("g2", PortDriver::kTap);
  queues.config.queues = 2;
  ports.configure({vlans, queues});
  EXPECT_EQ(act(), "-g2 =g1 +g2");
  EXPECT_EQ(act(), "");
}

TEST_F(PortManagerTest, ADataplaneThatComesBackGetsAllPortsUnderNewIndices) {
  ports.configure({wanted("g1", PortDriver::kTap), wanted("g2", PortDriver::kTap)});
  (void)act();
  const PortIndex slot = ports.find("g2")->slot;
  (void)ports.take_filled();
  ports.on_disconnected();
  EXPECT_EQ(ports.index_of_slot(slot), kNoIndex);
  EXPECT_TRUE(ports.take_vacated().empty()) << "what was learned stays";
  EXPECT_EQ(act(), "+g1 +g2");
  EXPECT_EQ(ports.index_of_slot(slot), 3);
  EXPECT_EQ(ports.take_filled().size(), 2u);
}

TEST_F(PortManagerTest, ARefusedPortIsTriedAgainMoreAndMoreSlowly) {
  ports.configure({wanted("g1", PortDriver::kTap)});
  unsigned tries = 0;
  for (Milliseconds now = 0; now < 60000; now += 100) {
    for (const auto& action : ports.actions(now)) {
      ++tries;
      ports.refused(std::string(protocol::text_of(action.config.name)), "no such thing", now);
    }
  }
  EXPECT_GE(tries, 6u);
  EXPECT_LE(tries, 16u);
  EXPECT_EQ(ports.find("g1")->text, "no such thing");
}

TEST_F(PortManagerTest, ABlockedPortIsNotMade) {
  auto port = wanted("vxlan_mainvx", PortDriver::kTap);
  port.blocked = "the kernel's vxlan device exists";
  ports.configure({port});
  EXPECT_EQ(act(), "");
  EXPECT_EQ(ports.find("vxlan_mainvx")->text, port.blocked);
  port.blocked.clear();
  ports.configure({port});
  EXPECT_EQ(act(), "+vxlan_mainvx");
}

TEST_F(PortManagerTest, ALostReportOfAnEarlierPortIsIgnored) {
  ports.configure({wanted("g1", PortDriver::kTap)});
  (void)act();
  ports.lost("g1", 99, 0);
  EXPECT_TRUE(ports.find("g1")->info);
  ports.lost("g1", 0, 0);
  EXPECT_FALSE(ports.find("g1")->info);
  EXPECT_EQ(act(1000), "+g1");
}

TEST_F(PortManagerTest, LinkStateIsShown) {
  ports.configure({wanted("veth1", PortDriver::kNetdev)});
  appear("veth1", 3, false);
  (void)act();
  EXPECT_EQ(status("veth1"), PortStatus::kDown);
  appear("veth1", 3, true);
  EXPECT_EQ(status("veth1"), PortStatus::kUp);
}

TEST_F(PortManagerTest, SlotsAreReusedOnceReleased) {
  const PortIndex first = ports.slot_of("a");
  EXPECT_EQ(ports.slot_of("a"), first);
  EXPECT_NE(ports.slot_of("b"), first);
  ports.release_slot(first);
  EXPECT_EQ(ports.slot_of("c"), first);
  EXPECT_EQ(ports.name_of_slot(first), "c");
}

TEST_F(PortManagerTest, TheMacIsTheNetdevsOfNowNotThatOfTheAttachment) {
  constexpr MacAddress kOld{{2, 0, 0, 0, 0, 1}}, kNew{{2, 0, 0, 0, 0, 2}};
  ports.configure({wanted("eth0", PortDriver::kAfXdp), wanted("fast0", PortDriver::kDpdk)});
  Link eth0 = link("eth0", 7);
  eth0.mac = kOld;
  ports.on_link(eth0);
  EXPECT_TRUE(ports.mac_of("eth0").is_zero()) << "not attached yet";
  for (const auto& action : ports.actions(0)) {
    auto attached = info(action.config, next_index++);
    attached.mac = kOld;
    ports.attached(std::string(protocol::text_of(action.config.name)), attached);
  }
  EXPECT_EQ(ports.mac_of("eth0"), kOld);
  eth0.mac = kNew;
  ports.on_link(eth0);
  EXPECT_EQ(ports.mac_of("eth0"), kNew);
  EXPECT_EQ(ports.mac_of("fast0"), kOld) << "no netdev: the device's own";
}

}  // namespace
}  // namespace vx::control
