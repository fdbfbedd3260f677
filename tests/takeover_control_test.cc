// SPDX-License-Identifier: Apache-2.0
// The whole Control on a real kernel bridge: what it reads, that it follows, who forwards when.
#include "tests/takeover_control_testkit.h"

namespace vx::control {
namespace {

using namespace testkit;

// What a change may take at most until the dataplane has been told (on a machine that others load, too).
constexpr Milliseconds kFollowed = 1000;

class TakeoverControl : public TakenBridge {};

TEST_F(TakeoverControl, EverythingIsReadAndThenVxplaneForwards) {
  start_and_wait();
  auto& board = *dataplane->rig().board;
  ASSERT_EQ(board.overlays().size(), 1u);
  EXPECT_EQ(board.overlays()[0].vni, 1000u);
  EXPECT_EQ(board.overlays()[0].mtu, 1332);
  EXPECT_EQ(board.overlays()[0].local, IpAddress::v4(172, 18, 1, 1));
  EXPECT_EQ(board.overlays()[0].tunnel_vlans.filtering, 0);
  EXPECT_EQ(protocol::text_of(board.underlay().port), "wire");
  EXPECT_EQ(board.underlay().mtu, 1400);
  EXPECT_EQ(board.underlay().takeover, 1);
  EXPECT_EQ(board.underlay().hold_port, 0) << "the kernel's vxlan device has the port";
  EXPECT_EQ(remotes(), std::vector{kPeer});
  EXPECT_TRUE(has_port("g1") && has_port("vxp-mainvx") && !has_port("g2"));
  for (const auto& info : board.ports()) {
    const auto name = protocol::text_of(info.config.name);
    EXPECT_EQ(info.config.takeover, name == "g1" ? 1 : 0) << name;
    EXPECT_EQ(info.config.deliver_ifindex, name == "vxp-mainvx" ? ::if_nametoindex("mainvx") : 0) << name;
  }
  const auto host = told(fdb_key(kOnlyVid, RouteSocket().link("mainvx")->mac));
  ASSERT_TRUE(host) << "the bridge's own MAC is the host's";
  EXPECT_EQ(host->location, Location::port(dataplane->index_of("vxp-mainvx")).raw());
  const Json reply = ask({{"object", "status"}, {"command", "show"}});
  EXPECT_EQ(reply["result"]["overlays"][0]["mode"], "takeover");
  EXPECT_EQ(reply["result"]["overlays"][0]["forwards"], "vxplane");
}

TEST_F(TakeoverControl, PortsAndRemotesFollow) {
  start_and_wait();
  sh("ip link set g2 master mainvx");
  EXPECT_TRUE(eventually([&] { return has_port("g2") && is_armed(); }, kFollowed));
  sh("ip link set g1 nomaster");
  EXPECT_TRUE(eventually([&] { return !has_port("g1") && is_armed(); }, kFollowed));
  sh("bridge fdb append 00:00:00:00:00:00 dev vx dst 172.18.1.3");
  EXPECT_TRUE(eventually([&] { return remotes() == std::vector{kPeer, kThird}; }, kFollowed));
  sh("bridge fdb del 00:00:00:00:00:00 dev vx dst 172.18.1.2");
  EXPECT_TRUE(eventually([&] { return remotes() == std::vector{kThird}; }, kFollowed));
  sh("bridge link set dev g2 isolated on flood off");
  EXPECT_TRUE(eventually([&] {
    for (const auto& info : dataplane->rig().board->ports())
      if (protocol::text_of(info.config.name) == "g2") return info.config.flags == (protocol::kIsolated | protocol::kNoUnicastFlood);
    return false;
  }, kFollowed));
}

TEST_F(TakeoverControl, StaticEntriesFollow) {
  sh("bridge fdb add " + text_of(1) + " dev g1 master static");
  start_and_wait();
  EXPECT_TRUE(is_told_at(1, "g1", true)) << "before vxplane forwards";
  sh("ip link set g2 master mainvx; bridge fdb add " + text_of(2) + " dev g2 master static");
  EXPECT_TRUE(eventually([&] { return is_told_at(2, "g2", true); }, kFollowed));
  sh("bridge fdb replace " + text_of(2) + " dev g1 master static");
  EXPECT_TRUE(eventually([&] { return is_told_at(2, "g1", true); }, kFollowed));
  sh("bridge fdb del " + text_of(2) + " dev g1 master");
  EXPECT_TRUE(eventually([&] { return !told(key_of(2)); }, kFollowed));
  sh("bridge fdb add " + text_of(3) + " dev vx dst 172.18.1.2 static");
  EXPECT_TRUE(eventually([&] { return is_told_behind(3, kPeer); }, kFollowed));
  const Json reply = ask({{"object", "fdb"}, {"command", "get"}, {"mac", text_of(1)}});
  ASSERT_TRUE(reply["ok"].get<bool>()) << reply;
  EXPECT_EQ(reply["result"][0]["state"], "static");
  EXPECT_FALSE(reply["result"][0].contains("vlan")) << "the bridge does not filter";
  EXPECT_FALSE(ask({{"object", "fdb"}, {"command", "del"}, {"mac", text_of(1)}})["ok"].get<bool>()) << "it is the kernel's to delete";
}

TEST_F(TakeoverControl, EvpnsEntriesComeMoveAndGo) {
  start_and_wait();
  const auto evpn = [](const char* command, const char* dst) {
    sh(std::string("bridge fdb ") + command + " " + text_of(1) + " dev vx extern_learn master; bridge fdb " + command + " " + text_of(1) +
       " dev vx dst " + dst + " self extern_learn");
  };
  evpn("replace", "172.18.1.3");  // nothing is flooded to it
  EXPECT_TRUE(eventually([&] { return is_told_behind(1, kThird); }, kFollowed));
  EXPECT_EQ(remotes(), std::vector{kPeer});
  const Json shown = ask({{"object", "fdb"}, {"command", "get"}, {"mac", text_of(1)}});
  EXPECT_EQ(shown["result"][0]["flags"], Json::array({"extern_learn"})) << shown;
  EXPECT_EQ(shown["result"][0]["dst"], "172.18.1.3");
  evpn("replace", "172.18.1.2");
  EXPECT_TRUE(eventually([&] { return is_told_behind(1, kPeer); }, kFollowed));
  dataplane->learn(key_of(1), Location::port(dataplane->index_of("g1")));  // its guest is here now
  EXPECT_TRUE(eventually([&] { return is_row_on(1, "g1"); }, kFollowed));
  evpn("replace", "172.18.1.2");  // and back where it was
  EXPECT_TRUE(eventually([&] { return is_told_behind(1, kPeer); }, kFollowed));
  sh("bridge fdb del " + text_of(1) + " dev vx master; bridge fdb del " + text_of(1) + " dev vx dst 172.18.1.2 self");
  EXPECT_TRUE(eventually([&] { return !told(key_of(1)); }, kFollowed));
}

// ifreload takes a remote from the flood list and puts it back: what EVPN knows behind it stays so.
TEST_F(TakeoverControl, AVtepThatIsFloodedToNoLongerKeepsItsMacs) {
  sh("bridge fdb add " + text_of(1) + " dev vx extern_learn master; bridge fdb add " + text_of(1) + " dev vx dst 172.18.1.2 self extern_learn;"
     "bridge fdb add " + text_of(2) + " dev vx dst 172.18.1.2 static");
  start_and_wait();
  ASSERT_TRUE(eventually([&] { return is_told_behind(1, kPeer) && is_told_behind(2, kPeer); }, kFollowed));
  sh("bridge fdb del 00:00:00:00:00:00 dev vx dst 172.18.1.2");
  EXPECT_TRUE(eventually([&] { return remotes().empty(); }, kFollowed));
  EXPECT_TRUE(eventually([&] { return is_told_behind(1, kPeer) && is_told_behind(2, kPeer); }, kFollowed));
  sh("bridge fdb append 00:00:00:00:00:00 dev vx dst 172.18.1.2");
  EXPECT_TRUE(eventually([&] { return remotes() == std::vector{kPeer}; }, kFollowed));
  EXPECT_TRUE(is_told_behind(1, kPeer) && is_told_behind(2, kPeer));
}

// ---- learned entries, both ways ----

TEST_F(TakeoverControl, WhatTheKernelLearnedIsKnownBeforeVxplaneForwards) {
  frame_at("far-g1", 1);
  sh("bridge fdb add " + text_of(2) + " dev vx master dynamic; bridge fdb add " + text_of(2) + " dev vx dst 172.18.1.2 self dynamic");
  start_and_wait();
  EXPECT_TRUE(is_told_at(1, "g1", false));
  EXPECT_TRUE(is_told_behind(2, kPeer));
  EXPECT_TRUE(bypass("on")["ok"].get<bool>());
  sh("ip link set g2 master mainvx");
  ASSERT_TRUE(eventually([&] { return has_port("g2"); }, kFollowed));
  frame_at("far-g2", 3);
  ASSERT_TRUE(eventually([&] { return is_row_on(3, "g2"); }, kFollowed));
  EXPECT_TRUE(bypass("off")["ok"].get<bool>());
  ASSERT_TRUE(eventually([&] { return is_armed(); }));
  EXPECT_TRUE(is_told_at(3, "g2", false)) << "what it learned meanwhile, too";
}

TEST_F(TakeoverControl, WhatVxplaneLearnsIsInTheKernel) {
  start_and_wait();
  dataplane->learn(key_of(1), Location::port(dataplane->index_of("g1")));
  dataplane->remote(key_of(2), kPeer);
  EXPECT_TRUE(eventually([&] { return is_row_on(1, "g1") && is_row_on(2, "vx") && row(2, true) && row(2, true)->dst == kPeer; }, kFollowed));
  EXPECT_EQ(row(1)->state & (NUD_PERMANENT | NUD_NOARP), 0);
  EXPECT_TRUE(ask({{"object", "fdb"}, {"command", "flush"}, {"kind", "dynamic"}})["ok"].get<bool>());
  EXPECT_TRUE(eventually([&] { return !row(1) && !row(2) && !row(2, true); }, kFollowed));
}

// Somebody deletes it, or the port was down for a moment: a routing daemon would withdraw the MAC.
TEST_F(TakeoverControl, ARowOfOursThatTheKernelDropsIsWrittenAgain) {
  start_and_wait();
  dataplane->learn(key_of(1), Location::port(dataplane->index_of("g1")));
  ASSERT_TRUE(eventually([&] { return is_row_on(1, "g1"); }, kFollowed));
  sh("bridge fdb del " + text_of(1) + " dev g1 master");
  EXPECT_TRUE(eventually([&] { return is_row_on(1, "g1"); }, kFollowed));
}

TEST_F(TakeoverControl, APortThatIsUnpluggedIsNoReasonToBypass) {
  sh("ip link set g2 master mainvx");
  start_and_wait();
  ASSERT_TRUE(has_port("g2"));
  sh("ip link set g2 nomaster");
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(control->bypass_reason(), "");
    return !has_port("g2");
  }, kFollowed));
}

TEST_F(TakeoverControl, TheKernelsPortIsNotVxctlsToDelete) {
  start_and_wait();
  EXPECT_EQ(ask({{"object", "port"}, {"command", "del"}, {"name", "g1"}})["error"],
            "port g1 is the kernel bridge's: ip link set dev g1 nomaster");
  EXPECT_TRUE(has_port("g1"));
}

TEST_F(TakeoverControl, AReloadMayTurnItOffAndOnAgain) {
  sh("bridge fdb add " + text_of(1) + " dev g1 master static");
  start_and_wait();
  ASSERT_TRUE(eventually([&] { return is_told_at(1, "g1", true); }, kFollowed));
  const auto takeover = config;
  config[0] = control->overlays()[0]->settings;
  config[0].mode = config::Mode::kBridge;
  config[0].bridge.takeover.clear();
  config[0].ports.clear();
  EXPECT_TRUE(control->reload().is_done);
  EXPECT_TRUE(eventually([&] { return !has_port("g1") && !told(key_of(1)); }, kFollowed));
  config = takeover;
  EXPECT_TRUE(control->reload().is_done);
  EXPECT_TRUE(eventually([&] { return is_armed() && is_told_at(1, "g1", true); }, kFollowed));
}

TEST_F(TakeoverControl, TheKernelsEntriesAreNotInTheStateFile) {
  sh("bridge fdb add " + text_of(1) + " dev g1 master static; bridge fdb add " + text_of(2) + " dev vx extern_learn master;"
     "bridge fdb add " + text_of(2) + " dev vx dst 172.18.1.2 self extern_learn");
  start_and_wait();
  ASSERT_TRUE(eventually([&] { return is_told_at(1, "g1", true) && is_told_behind(2, kPeer); }, kFollowed));
  EXPECT_TRUE(ask({{"object", "fdb"}, {"command", "add"}, {"mac", text_of(3)}, {"dev", "g1"}})["ok"].get<bool>());
  stop_control();
  std::vector<std::string> problems;
  const auto state = read_state(directory + "/control.state", problems);
  ASSERT_EQ(state.overlays.size(), 1u);
  ASSERT_EQ(state.overlays[0].fdb.size(), 1u);
  EXPECT_EQ(state.overlays[0].fdb[0].mac, mac(3));
  sh("bridge fdb del " + text_of(1) + " dev g1 master");
  start_and_wait();
  EXPECT_TRUE(eventually([&] { return !told(key_of(1)); }, kFollowed)) << "deleted while control was away";
  EXPECT_TRUE(is_told_at(3, "g1", true));
}

// ---- who forwards ----

TEST_F(TakeoverControl, TheOperatorsBypassIsKeptOverRestartsOfBoth) {
  start_and_wait();
  EXPECT_TRUE(bypass("on")["ok"].get<bool>());
  EXPECT_FALSE(is_armed());
  EXPECT_EQ(bypass("show")["result"]["forwards"], "kernel");
  EXPECT_EQ(bypass("show")["result"]["reason"], "vxctl bypass on");
  EXPECT_EQ(ask({{"object", "status"}, {"command", "show"}})["result"]["overlays"][0]["forwards"], "kernel");
  stop_control();
  start_control();
  EXPECT_FALSE(eventually([&] { return is_armed(); }, 2500));
  dataplane->restart();
  EXPECT_TRUE(eventually([&] { return has_port("g1"); }));
  EXPECT_FALSE(eventually([&] { return is_armed(); }, 2500));
  EXPECT_TRUE(bypass("off")["ok"].get<bool>());
  EXPECT_TRUE(eventually([&] { return is_armed(); }));
  EXPECT_EQ(bypass("show")["result"]["forwards"], "vxplane");
  stop_control();
  start_control();
  EXPECT_TRUE(eventually([&] { return is_armed(); }));
}

TEST_F(TakeoverControl, ARestartOfControlAloneChangesNothing) {
  start_and_wait();
  const auto index = dataplane->index_of("g1");
  const auto calls = dataplane->rig().takes["g1"]->calls;
  stop_control();
  start_control();
  loop->run_for(500);
  EXPECT_EQ(dataplane->index_of("g1"), index);
  EXPECT_EQ(dataplane->rig().takes["g1"]->calls, calls) << "not a moment in bypass";
  EXPECT_TRUE(is_armed());
}

TEST_F(TakeoverControl, NothingIsTakenBeforeEverythingIsAttached) {
  sh("ip link add broken type veth peer name far-broken; ip link set far-broken up; ip link set broken up master mainvx");
  start_control();
  EXPECT_FALSE(eventually([&] { return is_armed(); }, 2500));
  EXPECT_NE(control->bypass_reason().find("port broken: "), std::string::npos) << control->bypass_reason();
  EXPECT_TRUE(has_port("g1") && has_port("wire"));
  EXPECT_TRUE(dataplane->rig().takes["g1"]->rule.bypass);
  sh("ip link set broken nomaster");
  EXPECT_TRUE(eventually([&] { return is_armed(); }));
  EXPECT_FALSE(dataplane->rig().takes["g1"]->rule.bypass);
}

TEST_F(TakeoverControl, StaleAfterIsTheFiles) {
  config[0].dataplane.stale_after_ms = 120;
  start_and_wait();
  EXPECT_EQ(dataplane->rig().takes["g1"]->rule.stale_after_ms, 120u);
}

TEST_F(TakeoverControl, ABridgeDeletedAndMadeAnewIsTakenAgainWithWhatWasAdded) {
  start_and_wait();
  EXPECT_TRUE(ask({{"object", "vtep"}, {"command", "add"}, {"dst", "172.18.1.3"}})["ok"].get<bool>());
  sh("ip link del mainvx");
  EXPECT_TRUE(eventually([&] { return !is_armed() && !has_port("g1"); }, kFollowed));
  EXPECT_EQ(control->bypass_reason(), "takeover: there is no netdev mainvx");
  sh("ip link del vx");
  loop->run_for(100);
  sh(kMakeBridge);
  EXPECT_TRUE(eventually([&] { return is_armed() && has_port("g1") && has_port("vxp-mainvx"); }));
  EXPECT_EQ(remotes(), (std::vector{kPeer, kThird}));
  dataplane->learn(key_of(1), Location::port(dataplane->index_of("g1")));
  EXPECT_TRUE(eventually([&] { return is_row_on(1, "g1"); }, kFollowed)) << "into the new bridge";
}

TEST_F(TakeoverControl, AVxlanThatComesLaterIsTakenWhenItIsThere) {
  sh("ip link set vx nomaster");
  start_control();
  EXPECT_EQ(control->bypass_reason(), "takeover: mainvx has no vxlan port");
  EXPECT_FALSE(has_port("g1"));
  sh("ip link set vx master mainvx");
  EXPECT_TRUE(eventually([&] { return is_armed() && has_port("g1"); }));
}

// ---- bursts ----

TEST_F(TakeoverControl, AThousandChangesAtOnceAreAllFollowed) {
  start_and_wait();
  std::ofstream batch(directory + "/batch");
  for (unsigned i = 1; i <= 1000; ++i) batch << "fdb add " << text_of(i) << " dev g1 master static\n";
  for (unsigned i = 1; i <= 500; ++i) batch << "fdb replace " << text_of(i) << " dev vx master static\n" << "fdb del " << text_of(i) << " dev vx master\n";
  batch.close();
  sh("bridge -batch " + directory + "/batch");  // nobody reads events meanwhile
  EXPECT_TRUE(eventually([&] {
    unsigned first = 0, second = 0;
    for (const auto& record : dataplane->entries()) {
      const std::uint64_t n = fdb_key_mac(record.key).to_u48() - mac(0).to_u48();
      if (n >= 1 && n <= 500) ++first;
      if (n > 500 && n <= 1000) ++second;
    }
    return first == 0 && second == 500;
  }));
  EXPECT_TRUE(is_armed());
}

}  // namespace
}  // namespace vx::control
