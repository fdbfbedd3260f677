// SPDX-License-Identifier: Apache-2.0
// The whole Control and its requests against a dataplane with fake ports: restarts of either side, what is
// kept, and the operator's commands by their JSON.
#include "control/control.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "config/keys.h"
#include "control/requests.h"
#include "control/text.h"
#include "tests/control_testkit.h"

namespace vx::control {
namespace {

using testkit::FakeDataplane;

const IpAddress kUs = IpAddress::v4(172, 18, 1, 1), kPeer = IpAddress::v4(172, 18, 1, 2), kThird = IpAddress::v4(172, 18, 1, 3);
constexpr MacAddress kMac1{{0x52, 0x54, 0, 0, 0, 1}}, kMac2{{0x52, 0x54, 0, 0, 0, 2}};

config::PortSettings tap(const std::string& name) {
  config::PortSettings port;
  port.name = name;
  port.driver = config::Driver::kTap;
  port.vlans.members.insert_range(1, 100);
  port.vlans.untagged.insert(1);
  port.vlans.pvid = 1;
  return port;
}

config::Settings settings() {
  config::Settings s;
  s.source = "test.conf";
  s.vxlan.name = "vxlan_mainvx";
  s.vxlan.vni = 1000;
  s.vxlan.local = kUs;
  s.vxlan.remotes = {kPeer};
  s.vxlan.mtu = 1332;
  s.underlay.device = "wire0";
  s.underlay.driver = config::Driver::kDpdk;  // needs no netdev
  s.underlay.devargs = "net_null0";
  s.underlay.own_address = true;
  s.underlay.mtu = 1400;
  s.bridge.name = "mainvx";
  s.bridge.vids.insert_range(2, 100);
  s.ports = {tap("g1"), tap("g2")};
  return s;
}

class ControlTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/vxplane-control-XXXXXX";
    directory = mkdtemp(pattern);
    dataplane = std::make_unique<FakeDataplane>(directory);
    config = {settings()};
  }
  void TearDown() override {
    stop_control();
    dataplane.reset();
    std::filesystem::remove_all(directory);
  }
  void start_control() {
    loop = std::make_unique<EventLoop>();
    control = std::make_unique<Control>(*loop, directory, config, [this] { return reloaded; });
    requests = std::make_unique<Requests>(*control);
    loop->run_for(50);
  }
  void stop_control() {
    requests.reset();
    control.reset();
    loop.reset();
  }
  // Runs the loop until `is_so`, 5 s at most.
  template <typename Condition>
  bool eventually(Condition is_so) {
    for (int i = 0; i < 250; ++i) {
      if (is_so()) return true;
      loop->run_for(20);
    }
    return is_so();
  }
  Json ask(const Json& request) {
    std::string reply;
    requests->handle(request, [&reply](std::string line) { reply = std::move(line); });
    return *api::decode(reply);
  }
  Json fdb(const std::string& command, Json more = Json::object()) {
    more["object"] = "fdb";
    more["command"] = command;
    return ask(more);
  }
  bool has(const MacAddress& mac, const std::string& where, std::uint16_t vlan = 1) {
    const auto reply = fdb("get", {{"mac", format_mac(mac)}, {"vlan", vlan}});
    if (!reply["ok"].get<bool>()) return false;
    const Json& entry = reply["result"][0];
    return entry.value("dst", "") == where || (entry.value("ifname", "") == where && !entry.contains("dst"));
  }
  std::optional<FdbEntry> in_dataplane(const MacAddress& mac) {
    for (const auto& record : dataplane->entries())
      if (record.key == fdb_key(1, mac)) return FdbEntry{Location::from_raw(record.location), record.flags};
    return std::nullopt;
  }
  void learn_both() {
    dataplane->learn(fdb_key(1, kMac1), Location::port(dataplane->index_of("g1")));
    dataplane->remote(fdb_key(1, kMac2), kPeer);
    ASSERT_TRUE(eventually([&] { return has(kMac1, "g1") && has(kMac2, "172.18.1.2"); }));
  }

  std::string directory;
  std::unique_ptr<FakeDataplane> dataplane;
  std::vector<config::Settings> config;
  config::LoadAllResult reloaded;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Control> control;
  std::unique_ptr<Requests> requests;
};

TEST_F(ControlTest, ConfiguresADataplaneThatHasNothing) {
  start_control();
  auto& board = *dataplane->rig().board;
  EXPECT_EQ(board.ports().size(), 3u);
  ASSERT_EQ(board.overlays().size(), 1u);
  EXPECT_EQ(board.overlays()[0].vni, 1000u);
  EXPECT_EQ(board.overlays()[0].local, kUs);
  EXPECT_EQ(board.vteps(0).size(), 1u);
  EXPECT_EQ(protocol::text_of(board.underlay().port), "wire0");
  EXPECT_EQ(board.underlay().own_address, 1);
}

TEST_F(ControlTest, WaitsForADataplaneThatStartsLater) {
  dataplane->stop();
  start_control();
  EXPECT_EQ(ask({{"object", "status"}, {"command", "show"}})["result"]["dataplane"]["state"], "unreachable");
  dataplane->start();
  EXPECT_TRUE(eventually([&] { return dataplane->rig().board->ports().size() == 3; }));
}

TEST_F(ControlTest, LearnsMovesAndShows) {
  start_control();
  learn_both();
  EXPECT_TRUE(in_dataplane(kMac1));
  dataplane->remote(fdb_key(1, kMac1), kPeer);
  EXPECT_TRUE(eventually([&] { return has(kMac1, "172.18.1.2"); }));
  const auto count = fdb("count")["result"];
  EXPECT_EQ(count["learned"], 2);
  EXPECT_EQ(count["moved"], 1);
  auto show = fdb("show")["result"];
  ASSERT_EQ(show.size(), 3u);
  for (const char* age : {"used", "updated"}) {
    EXPECT_LE(show[0][age], 5);
    show[0][age] = 0;  // the second may have turned
  }
  EXPECT_EQ(show[0].dump(), R"({"mac":"52:54:00:00:00:01","ifname":"vxlan_mainvx","dst":"172.18.1.2","vlan":1,"used":0,"updated":0,"flags":[],"master":"mainvx","state":""})");
  EXPECT_EQ(show[2].dump(), R"({"mac":"00:00:00:00:00:00","ifname":"vxlan_mainvx","dst":"172.18.1.2","flags":["self"],"state":"permanent"})");
}

TEST_F(ControlTest, ARestartedDataplaneGetsEverythingBackLearnedEntriesIncluded) {
  start_control();
  learn_both();
  ASSERT_TRUE(fdb("add", {{"mac", "52:54:00:00:00:09"}, {"dev", "g2"}})["ok"].get<bool>());
  dataplane->restart();
  EXPECT_TRUE(eventually([&] { return control->client().is_connected() && dataplane->entries().size() == 3; }));
  EXPECT_EQ(in_dataplane(kMac1)->location, Location::port(dataplane->index_of("g1")));
  EXPECT_EQ(in_dataplane(kMac2)->location, Location::vtep(0));
  EXPECT_EQ(dataplane->rig().board->ports().size(), 3u);
}

TEST_F(ControlTest, ARestartedControlForgetsNothingAndTouchesNoPort) {
  start_control();
  learn_both();
  ASSERT_TRUE(fdb("add", {{"mac", "52:54:00:00:00:09"}, {"dev", "g2"}, {"kind", "sticky"}})["ok"].get<bool>());
  stop_control();
  start_control();
  EXPECT_TRUE(has(kMac1, "g1"));
  EXPECT_TRUE(has(kMac2, "172.18.1.2"));
  EXPECT_EQ(fdb("get", {{"mac", "52:54:00:00:00:09"}})["result"][0]["flags"][0], "sticky");
  EXPECT_TRUE(dataplane->rig().destroyed.empty()) << "a port was removed";
  EXPECT_EQ(dataplane->entries().size(), 3u);
  EXPECT_EQ(fdb("count")["result"]["learned"], 0) << "read back, not learned again";
}

TEST_F(ControlTest, WhatVxctlAddedSurvivesTheRestartOfBoth) {
  start_control();
  ASSERT_TRUE(ask({{"object", "vtep"}, {"command", "add"}, {"dst", "172.18.1.3"}})["ok"].get<bool>());
  ASSERT_TRUE(ask({{"object", "port"}, {"command", "add"}, {"name", "g3"}, {"options", "driver=tap bridge-access=7"}})["ok"].get<bool>());
  ASSERT_TRUE(fdb("add", {{"mac", "52:54:00:00:00:0a"}, {"dst", "172.18.1.3"}})["ok"].get<bool>());
  ASSERT_TRUE(fdb("add", {{"mac", "52:54:00:00:00:0b"}, {"vlan", 7}, {"dev", "g3"}})["ok"].get<bool>());
  ASSERT_TRUE(fdb("add", {{"mac", "52:54:00:00:00:0c"}, {"blackhole", true}})["ok"].get<bool>());
  stop_control();
  dataplane->restart();
  start_control();
  ASSERT_TRUE(eventually([&] { return dataplane->entries().size() == 3; }));
  EXPECT_EQ(dataplane->rig().board->ports().size(), 4u);
  EXPECT_TRUE(has({{0x52, 0x54, 0, 0, 0, 0x0a}}, "172.18.1.3"));
  EXPECT_TRUE(has({{0x52, 0x54, 0, 0, 0, 0x0b}}, "g3", 7));
  EXPECT_TRUE(has({{0x52, 0x54, 0, 0, 0, 0x0c}}, "mainvx"));
}

TEST_F(ControlTest, AFormerControlsVtepIndicesAreKept) {
  config[0].vxlan.remotes = {kThird, kPeer};
  start_control();
  dataplane->remote(fdb_key(1, kMac2), kPeer);
  ASSERT_TRUE(eventually([&] { return has(kMac2, "172.18.1.2"); }));
  stop_control();
  config[0].vxlan.remotes = {kPeer, kThird};  // another order
  start_control();
  EXPECT_TRUE(has(kMac2, "172.18.1.2"));
  EXPECT_EQ(in_dataplane(kMac2)->location, Location::vtep(1));
}

TEST_F(ControlTest, AddReplacesALearnedEntryAndRefusesOverAStaticOne) {
  start_control();
  learn_both();
  EXPECT_TRUE(fdb("add", {{"mac", format_mac(kMac1)}, {"dst", "172.18.1.2"}})["ok"].get<bool>());
  EXPECT_EQ(fdb("get", {{"mac", format_mac(kMac1)}})["result"][0]["state"], "static");
  const auto again = fdb("add", {{"mac", format_mac(kMac1)}, {"dev", "g1"}});
  EXPECT_FALSE(again["ok"].get<bool>());
  EXPECT_EQ(again["exit"], 1);
  EXPECT_FALSE(fdb("add", {{"mac", "52:54:00:00:00:77"}, {"dst", "172.18.1.9"}})["ok"].get<bool>()) << "not a VTEP";
  EXPECT_FALSE(fdb("add", {{"mac", "52:54:00:00:00:77"}, {"dev", "nobody"}})["ok"].get<bool>());
  EXPECT_EQ(fdb("add", {{"mac", "53:54:00:00:00:77"}, {"dev", "g1"}})["exit"], 2) << "a group address";
}

TEST_F(ControlTest, DelAndFlushSelect) {
  start_control();
  learn_both();
  (void)fdb("add", {{"mac", "52:54:00:00:00:09"}, {"dev", "g2"}});
  EXPECT_EQ(fdb("flush", {{"kind", "dynamic"}, {"dst", "172.18.1.2"}})["result"]["removed"], 1);
  EXPECT_EQ(fdb("flush", {{"kind", "dynamic"}, {"dev", "g2"}})["result"]["removed"], 0);
  EXPECT_TRUE(fdb("del", {{"mac", format_mac(kMac1)}})["ok"].get<bool>());
  EXPECT_FALSE(fdb("del", {{"mac", format_mac(kMac1)}})["ok"].get<bool>());
  EXPECT_EQ(dataplane->entries().size(), 1u);
  EXPECT_EQ(fdb("flush", {{"kind", "all"}})["result"]["removed"], 1);
  EXPECT_EQ(dataplane->entries().size(), 0u);
  EXPECT_EQ(dataplane->rig().board->vteps(0).size(), 1u) << "the flood list goes by vtep del only";
}

TEST_F(ControlTest, UnknownVtepsAreLearnedAsConfigured) {
  config[0].vxlan.vtep_learning = config::VtepLearning::kFlood;
  start_control();
  dataplane->remote(fdb_key(1, kMac2), kThird);
  ASSERT_TRUE(eventually([&] { return has(kMac2, "172.18.1.3"); }));
  const auto vteps = ask({{"object", "vtep"}, {"command", "show"}})["result"];
  ASSERT_EQ(vteps.size(), 2u);
  EXPECT_TRUE(vteps[1]["flood"].get<bool>());
  stop_control();
  start_control();
  EXPECT_TRUE(has(kMac2, "172.18.1.3")) << "also after a restart";
}

TEST_F(ControlTest, WithoutVtepLearningUnknownVtepsAreIgnored) {
  start_control();
  dataplane->remote(fdb_key(1, kMac2), kThird);
  loop->run_for(100);
  EXPECT_EQ(fdb("count")["result"]["current"], 0);
}

TEST_F(ControlTest, AVtepThatGoesTakesItsEntriesAlong) {
  start_control();
  learn_both();
  EXPECT_TRUE(ask({{"object", "vtep"}, {"command", "del"}, {"dst", "172.18.1.2"}})["ok"].get<bool>());
  EXPECT_FALSE(has(kMac2, "172.18.1.2"));
  EXPECT_TRUE(dataplane->rig().board->vteps(0).empty());
  EXPECT_FALSE(in_dataplane(kMac2));
}

TEST_F(ControlTest, ReloadAppliesDifferencesAndRefusesErrors) {
  start_control();
  learn_both();
  reloaded.settings = {settings()};
  reloaded.settings[0].vxlan.remotes.push_back(kThird);
  reloaded.settings[0].ports = {tap("g1"), tap("g4")};
  EXPECT_TRUE(ask({{"object", "reload"}, {"command", "run"}})["ok"].get<bool>());
  EXPECT_EQ(dataplane->rig().destroyed, std::vector<std::string>{"g2"});
  EXPECT_EQ(dataplane->rig().board->vteps(0).size(), 2u);
  EXPECT_TRUE(has(kMac1, "g1"));
  reloaded.settings.clear();
  reloaded.problems = {{"x.conf", 3, "mtu", "too large", config::Severity::kError}};
  const auto refused = ask({{"object", "reload"}, {"command", "run"}});
  EXPECT_FALSE(refused["ok"].get<bool>());
  EXPECT_NE(refused["error"].get<std::string>().find("x.conf:3: mtu: too large"), std::string::npos);
  EXPECT_EQ(dataplane->rig().board->ports().size(), 3u);
}

TEST_F(ControlTest, APortTheDataplaneRefusesIsAnErrorAndNotKept) {
  start_control();
  const auto reply = ask({{"object", "port"}, {"command", "add"}, {"name", "broken"}, {"options", "driver=tap"}});
  EXPECT_FALSE(reply["ok"].get<bool>());
  EXPECT_NE(reply["error"].get<std::string>().find("no such device"), std::string::npos);
  EXPECT_EQ(ask({{"object", "port"}, {"command", "show"}})["result"].size(), 3u);
}

TEST_F(ControlTest, EntriesAgeOut) {
  config[0].bridge.ageing_s = 1;
  start_control();
  learn_both();
  EXPECT_TRUE(eventually([&] { return fdb("count")["result"]["current"] == 0; }));
  EXPECT_EQ(fdb("count")["result"]["expired"], 2);
  EXPECT_TRUE(dataplane->entries().empty());
}

TEST_F(ControlTest, MonitorTellsOfEvents) {
  start_control();
  std::vector<std::string> seen;
  control->set_monitor([&](const Json& event) { seen.push_back(event["what"].get<std::string>() + " " + event["mac"].get<std::string>()); });
  learn_both();
  (void)fdb("del", {{"mac", format_mac(kMac1)}});
  EXPECT_EQ(seen, (std::vector<std::string>{"added 52:54:00:00:00:01", "added 52:54:00:00:00:02", "deleted 52:54:00:00:00:01"}));
}

TEST_F(ControlTest, NonsenseIsRefusedNotObeyed) {
  start_control();
  EXPECT_EQ(ask({{"object", "fdb"}, {"command", "dance"}})["exit"], 2);
  EXPECT_EQ(ask(Json::object())["exit"], 2);
  EXPECT_EQ(fdb("get", {{"mac", "nonsense"}})["exit"], 2);
  EXPECT_EQ(fdb("show", {{"vlan", 5000}})["exit"], 2);
}

TEST_F(ControlTest, EveryShowAnswers) {
  start_control();
  for (const char* object : {"vtep", "port", "vlan", "stats", "drops", "status", "mtu"})
    EXPECT_TRUE(ask({{"object", object}, {"command", "show"}})["ok"].get<bool>()) << object;
  EXPECT_EQ(ask({{"object", "drops"}, {"command", "show"}})["result"].size(), kDropReasonCount);
  EXPECT_EQ(ask({{"object", "vlan"}, {"command", "show"}})["result"][0]["vlans"][1].dump(), R"({"vlan":2,"vlanEnd":100})");
}

TEST_F(ControlTest, MtuSaysWhatDoesNotAddUpAndWhatToDo) {
  start_control();
  const Json good = ask({{"object", "mtu"}, {"command", "show"}});
  EXPECT_FALSE(good.contains("exit")) << good;
  EXPECT_EQ(good["result"][0]["margin"], 14);  // one tag: 1400 - 50 - 4 - 1332
  EXPECT_EQ(good["result"][0]["verdict"], "ok");
  reloaded.settings = {settings()};
  reloaded.settings[0].vxlan.mtu = 1350;
  EXPECT_TRUE(control->reload().is_done);
  const Json bad = ask({{"object", "mtu"}, {"command", "show"}});
  EXPECT_TRUE(bad["ok"].get<bool>());
  EXPECT_EQ(bad["exit"], 1);
  EXPECT_EQ(bad["advice"], "vxlan_mainvx does not add up: set [vxlan] mtu = 1346");
  EXPECT_EQ(bad["result"][0]["margin"], -4);
  EXPECT_EQ(bad["result"][0]["verdict"], "warning");
}

TEST_F(ControlTest, AProbeOfAnUnresolvedVtepSaysWhyAtOnce) {
  start_control();
  std::vector<std::string> lines;
  const auto probe = [&](Json more) {
    more["object"] = "mtu";
    more["command"] = "probe";
    lines.clear();
    requests->handle(more, [&](std::string line) { lines.push_back(std::move(line)); });
    EXPECT_EQ(lines.size(), 1u);
    return lines.empty() ? Json() : *api::decode(lines[0]);
  };
  for (const Json& request : {Json::object(), Json{{"dst", "172.18.1.2"}}}) {
    const Json reply = probe(request);
    EXPECT_EQ(reply["exit"], 1);
    EXPECT_EQ(reply["result"][0]["verdict"], "silent");
    EXPECT_EQ(reply["result"][0]["needed"], 1400);
    EXPECT_EQ(reply["result"][0]["text"], "172.18.1.2: 1400 needed, no answer: it does not answer ARP or ND");
    EXPECT_FALSE(reply["result"][0].contains("passes"));
  }
  EXPECT_EQ(probe({{"dst", "172.18.1.77"}})["error"], "172.18.1.77 is not a VTEP");
  EXPECT_EQ(probe({{"dst", "nonsense"}})["exit"], 2);
  dataplane->stop();
  ASSERT_TRUE(eventually([&] { return !control->client().is_connected(); }));
  EXPECT_EQ(probe(Json::object())["result"][0]["text"], "172.18.1.2: 1400 needed, no answer: the dataplane is not running");
}

TEST_F(ControlTest, StatsTellOfPacketTooBigMessagesAndFragments) {
  start_control();
  const auto stats = ask({{"object", "stats"}, {"command", "show"}})["result"];
  EXPECT_EQ(stats["too_big"].dump(), R"({"told":0,"limited":0})");
  EXPECT_EQ(stats["fragments"].dump(), R"({"received":0,"reassembled":0,"lost":0})");
}

TEST_F(ControlTest, MssClampReachesTheDataplaneAgainAfterItsRestartToo) {
  config[0].vxlan.mss_clamp = true;
  start_control();
  const auto clamps = [&] {
    const auto overlays = dataplane->rig().board->overlays();
    return overlays.size() == 1 && overlays[0].mss_clamp != 0;
  };
  EXPECT_TRUE(clamps());
  dataplane->restart();
  EXPECT_TRUE(eventually([&] { return control->client().is_connected() && clamps(); }));
  stop_control();
  config[0].vxlan.mss_clamp = false;  // while control was away
  start_control();
  EXPECT_FALSE(clamps());
  reloaded.settings = {settings()};
  reloaded.settings[0].vxlan.mss_clamp = true;
  EXPECT_TRUE(ask({{"object", "reload"}, {"command", "run"}})["ok"].get<bool>());
  EXPECT_TRUE(clamps());
  EXPECT_TRUE(dataplane->rig().destroyed.empty()) << "no port was touched";
}

TEST_F(ControlTest, PollOfTheConfigurationReachesTheWorkers) {
  config[0].dataplane.poll = config::Poll::kBusy;
  config[0].dataplane.lcores = "0";  // as the dataplane has them
  start_control();
  EXPECT_EQ(dataplane->rig().workers[0]->poll(), PollMode::kBusy);
  EXPECT_EQ(dataplane->rig().board->ports().size(), 3u);
  reloaded.settings = {settings()};
  EXPECT_TRUE(ask({{"object", "reload"}, {"command", "run"}})["ok"].get<bool>());
  EXPECT_EQ(dataplane->rig().workers[0]->poll(), PollMode::kAdaptive);
}

TEST_F(ControlTest, ADataplaneWithOtherLcoresIsAskedOnceToStartOver) {
  config[0].dataplane.lcores = "1";
  start_control();
  EXPECT_EQ(dataplane->rig().board->restart_lcores(), "1");
  EXPECT_TRUE(dataplane->rig().board->ports().empty()) << "before anything else";
  dataplane->restart();  // on CPU 0 again: lcores = 1 did not work there
  ASSERT_TRUE(eventually([&] { return dataplane->rig().board->ports().size() == 3; }));
  EXPECT_EQ(dataplane->rig().board->restart_lcores(), "");
  const auto problems = control->problems();
  EXPECT_EQ(std::count(problems.begin(), problems.end(), "dataplane: restart vxplane-dataplane to use lcores = 1"), 1);
}

TEST_F(ControlTest, NewLcoresAreAProblemToShowWhileThereArePorts) {
  start_control();
  reloaded.settings = {settings()};
  reloaded.settings[0].dataplane.lcores = "2";
  EXPECT_TRUE(ask({{"object", "reload"}, {"command", "run"}})["ok"].get<bool>());
  EXPECT_EQ(dataplane->rig().board->ports().size(), 3u);
  const auto has_problem = [&] {
    const auto problems = control->problems();
    return std::count(problems.begin(), problems.end(), "dataplane: restart vxplane-dataplane to use lcores = 2");
  };
  EXPECT_EQ(has_problem(), 1);
  reloaded.settings = {settings()};
  EXPECT_TRUE(ask({{"object", "reload"}, {"command", "run"}})["ok"].get<bool>());
  EXPECT_EQ(has_problem(), 0);
}

}  // namespace
}  // namespace vx::control
