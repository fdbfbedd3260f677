// SPDX-License-Identifier: Apache-2.0
// What a configuration file says of a takeover: which lines stand, which cannot be, what is left for the kernel to say,
// and how it is printed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "config/keys.h"
#include "config/load.h"
#include "config/print.h"
#include "control/takeover_check.h"
#include "tests/config_testkit.h"

namespace vx::config {
namespace {

using testing::Directory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ip;
using ::testing::IsEmpty;
using testing::Lines;
using ::testing::Not;

const HostFacts kNoHost;

class TakeoverFile : public ::testing::Test {
 protected:
  LoadResult load_text(const std::string& text) { return load(directory.write("f", text), kNoHost); }
  Lines problems(const std::string& text) { return directory.lines(load_text(text).problems); }
  // Of a file that must be good.
  Settings settings(const std::string& text) {
    const LoadResult result = load_text(text);
    EXPECT_THAT(directory.lines(result.problems), IsEmpty());
    return result.settings.value_or(Settings{});
  }
  Directory directory;
};

TEST_F(TakeoverFile, TheBridgesNameIsAWholeConfiguration) {
  const Settings s = settings("[bridge]\ntakeover = mainvx\n");
  EXPECT_EQ(s.mode, Mode::kTakeover);
  EXPECT_EQ(s.bridge.takeover, "mainvx");
  EXPECT_EQ(s.bridge.name, "mainvx");
  EXPECT_THAT(s.given, ElementsAre("bridge.takeover"));
  EXPECT_EQ(s.dataplane.stale_after_ms, 50u);
  Settings flag = takeover_of("mainvx");
  EXPECT_EQ(flag.source, "--takeover mainvx");
  flag.source = s.source;
  EXPECT_EQ(flag, s) << "as --takeover mainvx";
}

TEST_F(TakeoverFile, YesIsTheNamedBridgeAndNoIsNone) {
  EXPECT_EQ(settings("[bridge]\nname = mainvx\ntakeover = yes\n").bridge.takeover, "mainvx");
  EXPECT_THAT(problems("[bridge]\ntakeover = yes\n"), ::testing::Contains("f:2: takeover: yes: of which bridge? takeover = NAME"));
  EXPECT_THAT(problems("[bridge]\nname = vmbr0\ntakeover = mainvx\n"),
              ElementsAre("f:2: name: 'vmbr0', but takeover = mainvx: one bridge"));
  EXPECT_THAT(problems("[bridge]\ntakeover = much/too\n"), ::testing::Contains(HasSubstr("f:2: takeover: ")));
  const Settings none = settings(
      "[vxlan]\nname = vx0\nvxlan-id = 1\nvxlan-local-tunnelip = 10.0.0.1\nvxlan-remoteip = 10.0.0.2\nmtu = 1400\n"
      "[underlay]\ndevice = e\n[bridge]\nname = mainvx\ntakeover = no\n");
  EXPECT_EQ(none.mode, Mode::kBridge);
  EXPECT_THAT(none.given, IsEmpty());
}

TEST_F(TakeoverFile, WhatTheFileGivesIsRemembered) {
  const Settings s = settings(
      "[vxlan]\nvxlan-remoteip = 10.0.0.2\nvxlan-remoteip = 10.0.0.3\nmss-clamp = yes\n[underlay]\ndevice = e\n"
      "[bridge]\ntakeover = mainvx\nfdb-max-learned = 5\n[dataplane]\nstale-after = 200\n");
  EXPECT_THAT(s.given, ElementsAre("bridge.fdb-max-learned", "bridge.takeover", "dataplane.stale-after", "underlay.device",
                                   "vxlan.mss-clamp", "vxlan.vxlan-remoteip"));
  EXPECT_THAT(s.vxlan.remotes, ElementsAre(ip("10.0.0.2"), ip("10.0.0.3")));
  EXPECT_EQ(s.dataplane.stale_after_ms, 200u);
}

TEST_F(TakeoverFile, NetdevLinesAreRulesOthersArePortsOfOurOwn) {
  const Settings s = settings(
      "[bridge]\ntakeover = mainvx\n[port]\nport = tap*i* driver=netdev storm-pps=1000\nport = g0 driver=tap\n"
      "port = tap100i0 driver=netdev fdb-max-learned=4\n");
  ASSERT_EQ(s.port_rules.size(), 2u);
  EXPECT_EQ(s.port_rules[0].name, "tap*i*");
  EXPECT_EQ(s.port_rules[0].storm_pps, 1000u);
  EXPECT_EQ(s.port_rules[1].fdb_max_learned, 4u);
  ASSERT_EQ(s.ports.size(), 1u);
  EXPECT_EQ(s.ports[0].name, "g0");
  const LoadResult result = load_text("[bridge]\ntakeover = mainvx\n[port]\nport = a driver=netdev\nport = b driver=tap\n");
  EXPECT_EQ(result.origins.at("port.b").line, 5u) << "of the port, not of the rule before it";
}

TEST_F(TakeoverFile, APortGivenTwiceIsTold) {
  EXPECT_THAT(problems("[bridge]\ntakeover = mainvx\n[port]\nport = a driver=netdev\nport = a driver=tap\n"),
              ElementsAre("f:5: port: a: is a port already on line 4"));
}

TEST_F(TakeoverFile, WhatTheStandbyNeedsIsNotTakenFromIt) {
  const auto with = [&](const std::string& text) {
    const Lines all = problems(text + "\n[bridge]\ntakeover = mainvx\n");
    return all.size() == 1 ? all[0] : "problems: " + std::to_string(all.size());
  };
  EXPECT_EQ(with("[underlay]\ndriver = udp"),
            "f:2: driver: takeover has af_xdp only: the kernel's vxlan device, which stands by, holds the UDP port");
  EXPECT_EQ(with("[underlay]\ndriver = dpdk:0000:01:00.0"),
            "f:2: driver: takeover has af_xdp only: the kernel's vxlan device, which stands by, holds the UDP port");
  EXPECT_EQ(with("[underlay]\nvtep-address = own"),
            "f:2: vtep-address: own cannot be with takeover: the kernel's vxlan device, which stands by, needs the address");
  EXPECT_EQ(with("[vxlan]\nreplace-kernel = yes"), "f:2: replace-kernel: yes cannot be with takeover: the kernel's device stands by");
  EXPECT_EQ(with("[vxlan]\nhold-port = yes"), "f:2: hold-port: yes cannot be with takeover: the kernel's vxlan device holds the port");
  EXPECT_THAT(problems("[vxlan]\nhold-port = no\nreplace-kernel = no\n[bridge]\ntakeover = mainvx\n"), IsEmpty());
  EXPECT_THAT(problems("interfaces = i\n[bridge]\ntakeover = mainvx\n"),
              ::testing::Contains("f:1: interfaces: with takeover the kernel itself is read: drop this line"));
}

TEST_F(TakeoverFile, StaleAfterHasALeastAndAMost) {
  const auto with = [&](const std::string& value) { return problems("[bridge]\ntakeover = mainvx\n[dataplane]\nstale-after = " + value + "\n"); };
  for (const char* good : {"40", "50", "10000"}) EXPECT_THAT(with(good), IsEmpty()) << good;
  for (const std::string bad : {"39", "10001", "0", "x"})
    EXPECT_THAT(with(bad), ElementsAre("f:4: stale-after: '" + bad + "' is not a whole number from 40 to 10000"));
}

TEST_F(TakeoverFile, TwoFilesTakeTwoBridgesAndAgreeOnTheDataplane) {
  const std::string one = directory.write("one", "[bridge]\ntakeover = mainvx\n[dataplane]\nstale-after = 100\n");
  const std::string two = directory.write("two", "[dataplane]\nstale-after = 100\n[bridge]\ntakeover = second\n");
  const std::string same = directory.write("same", "[dataplane]\nstale-after = 100\n[bridge]\ntakeover = mainvx\n");
  const std::string other = directory.write("other", "[bridge]\ntakeover = second\n[dataplane]\nlcores = 1\n");
  EXPECT_THAT(directory.lines(load_all({one, two}, kNoHost).problems), IsEmpty());
  EXPECT_THAT(directory.lines(load_all({one, same}, kNoHost).problems), ElementsAre("same:4: takeover: mainvx is taken by one too"));
  EXPECT_THAT(directory.lines(load_all({one, other}, kNoHost).problems),
              ElementsAre("other:4: lcores: [dataplane] differs from that of one: one instance has one"));
}

TEST_F(TakeoverFile, TheFlagIsComparedWithTheFilesAndTakesTheirDataplane) {
  const std::string one = directory.write("one", "[bridge]\ntakeover = mainvx\n[dataplane]\nstale-after = 100\n");
  const LoadAllResult both = load_all({one}, kNoHost, {"second"});
  EXPECT_THAT(directory.lines(both.problems), IsEmpty());
  ASSERT_EQ(both.settings.size(), 2u);
  EXPECT_EQ(both.settings[1].bridge.takeover, "second");
  EXPECT_EQ(both.settings[1].dataplane.stale_after_ms, 100u);
  EXPECT_THAT(directory.lines(load_all({one}, kNoHost, {"mainvx"}).problems),
              ElementsAre("--takeover mainvx: takeover: mainvx is taken by one too"));
  EXPECT_THAT(directory.lines(load_all({}, kNoHost, {"b", "b"}).problems), ElementsAre("--takeover b: takeover: b is taken by --takeover b too"));
  EXPECT_THAT(load_all({}, kNoHost, {"b", "b"}).settings, IsEmpty());
}

// ---- a port's flags ----

TEST(PortFlagWords, EachIsReadAndPrintedAlone) {
  const BridgeSettings bridge;
  const std::pair<const char*, bool PortFlags::*> words[] = {
      {"bridge-learning=no", &PortFlags::learning},
      {"bridge-isolated=yes", &PortFlags::isolated},
      {"bridge-unicast-flood=no", &PortFlags::unicast_flood},
      {"bridge-multicast-flood=no", &PortFlags::multicast_flood},
      {"bridge-broadcast-flood=no", &PortFlags::broadcast_flood},
  };
  for (const auto& [word, flag] : words) {
    PortSettings port;
    const std::string line = std::string("p driver=tap ") + word;
    EXPECT_EQ(read_port(line, bridge, port), "");
    PortFlags wanted;
    wanted.*flag = !(wanted.*flag);
    EXPECT_EQ(port.flags, wanted) << word;
    EXPECT_EQ(port_text(port, bridge), line);
  }
  PortSettings port;
  EXPECT_THAT(read_port("p driver=tap bridge-isolated=perhaps", bridge, port), HasSubstr("p: bridge-isolated: "));
  EXPECT_THAT(read_port("p driver=tap bridge-isolate=yes", bridge, port), HasSubstr("did you mean bridge-isolated?"));
}

// ---- print ----

// As read_takeover() fills a file in.
Settings filled() {
  Settings s = takeover_of("mainvx");
  s.given.insert("vxlan.mss-clamp");
  s.vxlan.name = "vxlan_mainvx";
  s.vxlan.vni = 1000;
  s.vxlan.mss_clamp = true;
  s.vxlan.remotes = {ip("172.18.1.2")};
  s.underlay.device = "nic0";
  s.bridge.vids.insert_range(2, 4094);
  PortSettings rule;
  rule.name = "tap*";
  rule.driver = Driver::kNetdev;
  rule.storm_pps = 7;
  rule.vlans = tunnel_vlans_of(s.bridge);
  s.port_rules = {rule};
  PortSettings port = rule;
  port.name = "tap100i0";
  port.is_kernels = true;
  s.ports = {port};
  return s;
}

TEST(TakeoverPrint, TheKernelsWordsAreCommentsTheFilesAreNot) {
  const std::string text = print(filled());
  EXPECT_TRUE(text.starts_with("# takeover mode: ")) << text;
  for (const char* line : {"# name = vxlan_mainvx\n", "# vxlan-id = 1000\n", "# vxlan-remoteip = 172.18.1.2\n", "# device = nic0\n",
                           "# bridge-vids = 2-4094\n", "# stale-after = 50\n", "# port = tap100i0 driver=netdev storm-pps=7\n"})
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line));
  for (const char* line : {"mss-clamp = yes\n", "takeover = mainvx\n", "port = tap* driver=netdev storm-pps=7\n"})
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line));
  EXPECT_THAT(text, Not(HasSubstr("\n# [")));
}

TEST(TakeoverPrint, WhatIsPrintedReadsBackAsTheFile) {
  const Directory directory;
  const LoadResult again = load(directory.write("f", print(filled())), kNoHost);
  ASSERT_TRUE(again.settings) << to_string(again.problems.at(0));
  EXPECT_EQ(again.settings->mode, Mode::kTakeover);
  EXPECT_THAT(again.settings->given, ElementsAre("bridge.takeover", "port.port", "vxlan.mss-clamp"));
  EXPECT_TRUE(again.settings->vxlan.mss_clamp);
  EXPECT_THAT(again.settings->vxlan.remotes, IsEmpty());
  ASSERT_EQ(again.settings->port_rules.size(), 1u);
  EXPECT_EQ(again.settings->port_rules[0].storm_pps, 7u);
  EXPECT_THAT(again.settings->ports, IsEmpty()) << "the kernel's port";
}

TEST(TakeoverPrint, APortWithoutAnyVlanIsNoAccessPort) {
  BridgeSettings bridge;
  PortSettings port;
  port.name = "p";
  EXPECT_EQ(port_text(port, bridge), "p driver=tap bridge-vids=none bridge-pvid=none");
}

TEST(TakeoverCheck, AnErrorOfAFileIsExit2AndNothingIsPrinted) {
  const Directory directory;
  std::ostringstream out, err;
  const std::string path = directory.write("f", "[bridge]\ntakeover = mainvx\n[dataplane]\nstale-after = 1\n");
  EXPECT_EQ(control::print_effective(load_all({path}, kNoHost), out, err), 2);
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(err.str(), path + ":4: stale-after: '1' is not a whole number from 40 to 10000\n");
}

}  // namespace
}  // namespace vx::config
