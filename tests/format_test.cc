// SPDX-License-Identifier: Apache-2.0
// What vxctl prints: exact text for what scripts read, and the same text as iproute2's from the same JSON.
#include "control/format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <sstream>

#include "dataplane/drop_reason.h"

namespace vx::control {
namespace {

Json parse(std::string_view text) { return Json::parse(text); }

std::string show(std::string_view object, const Json& result, bool statistics = false) {
  return format_result(object, "show", result, {.statistics = statistics});
}

const char* const kFdb = R"([
  {"mac":"52:54:00:aa:bb:01","ifname":"tap100i0","vlan":1,"used":3,"updated":3,"flags":[],"master":"mainvx","state":""},
  {"mac":"52:54:00:aa:bb:02","ifname":"vxlan_mainvx","dst":"172.18.1.2","vlan":1,"used":0,"updated":12,"flags":[],"master":"mainvx","state":"static"},
  {"mac":"00:00:00:00:00:00","ifname":"vxlan_mainvx","dst":"172.18.1.2","flags":["self"],"state":"permanent"},
  {"mac":"52:54:00:aa:bb:03","ifname":"mainvx","vlan":7,"flags":["blackhole"],"master":"mainvx","state":"static"},
  {"mac":"52:54:00:aa:bb:04","ifname":"tap1","vlan":7,"flags":["sticky"],"master":"mainvx","state":""}])";

TEST(FormatFdb, LinesAreThoseOfTheDesign) {
  EXPECT_EQ(show("fdb", parse(kFdb)),
            "52:54:00:aa:bb:01 dev tap100i0 vlan 1 master mainvx\n"
            "52:54:00:aa:bb:02 dev vxlan_mainvx dst 172.18.1.2 vlan 1 master mainvx static\n"
            "00:00:00:00:00:00 dev vxlan_mainvx dst 172.18.1.2 self permanent\n"
            "52:54:00:aa:bb:03 dev mainvx vlan 7 blackhole master mainvx static\n"
            "52:54:00:aa:bb:04 dev tap1 vlan 7 sticky master mainvx\n");
}

TEST(FormatFdb, StatisticsAddUsedAndUpdated) {
  const std::string text = show("fdb", parse(kFdb), true);
  EXPECT_TRUE(text.starts_with(
      "52:54:00:aa:bb:01 dev tap100i0 vlan 1 used 3/3 master mainvx\n"
      "52:54:00:aa:bb:02 dev vxlan_mainvx dst 172.18.1.2 vlan 1 used 0/12 master mainvx static\n"
      "00:00:00:00:00:00 dev vxlan_mainvx dst 172.18.1.2 self permanent\n"))
      << text;
}

TEST(FormatFdb, NoEntriesAreNoText) { EXPECT_EQ(show("fdb", Json::array()), ""); }

TEST(FormatFdb, GetPrintsAsShow) {
  EXPECT_EQ(format_result("fdb", "get", parse(kFdb), {}), show("fdb", parse(kFdb)));
}

TEST(FormatFdb, EventsSayWhatHappened) {
  Json event = parse(kFdb)[0];
  event["what"] = "added";
  EXPECT_EQ(format_fdb_event(event, {}), "52:54:00:aa:bb:01 dev tap100i0 vlan 1 master mainvx");
  event["what"] = "expired";
  EXPECT_EQ(format_fdb_event(event, {}),
            "Expired 52:54:00:aa:bb:01 dev tap100i0 vlan 1 master mainvx");
}

TEST(FormatFdb, CountNamesEveryKey) {
  const Json count = parse(
      R"({"current":2,"static":1,"limit":65536,"learned":10,"expired":3,"evicted":0,"moved":1,"refused":0})");
  EXPECT_EQ(format_result("fdb", "count", count, {}),
            "current  2\nstatic   1\nlimit    65536\nlearned  10\nexpired  3\nevicted  0\nmoved    "
            "1\nrefused  0\n");
}

// Runs `script` in a network namespace of its own; what it wrote to stdout.
std::string in_namespace(const std::string& script) {
  const std::string command = "unshare -n sh -c '" + script + "' 2>/dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string out;
  char bytes[4096];
  for (std::size_t n; pipe && (n = fread(bytes, 1, sizeof bytes, pipe.get())) > 0;)
    out.append(bytes, n);
  return out;
}

// What `bridge` printed, in parts: plain, with -s, plain JSON, JSON with -s, with -s again. Fewer without the kernel's vxlan.
std::vector<std::string> ask_bridge() {
  const std::string out = in_namespace(
      "ip link add vx0 type vxlan id 1000 remote 172.18.1.2 local 172.18.1.1 dstport 4789 || exit;"
      "ip link add vx6 type vxlan id 6 local fd00::1 dstport 4790;"
      "ip link add d0 type veth peer name d1; ip link set vx0 up; ip link set d0 up;"
      "ip link add mainvx type bridge vlan_filtering 1 && ip link set d0 master mainvx && ip link "
      "set mainvx up &&"
      "  bridge fdb add 52:54:00:aa:bb:05 dev d0 master static vlan 1 &&"
      "  bridge fdb add 52:54:00:aa:bb:06 dev d0 master sticky dynamic vlan 1;"
      "bridge fdb add 52:54:00:aa:bb:02 dev vx0 dst 172.18.1.2 self static;"
      "bridge fdb add 52:54:00:aa:bb:03 dev vx0 dst 172.18.1.3 self dynamic;"
      "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 172.18.1.3 self permanent;"
      "bridge fdb add 52:54:00:aa:bb:04 dev vx6 dst fd00::2 self permanent;"
      "for o in \"\" -s -j \"-s -j\" -s; do bridge $o fdb show; echo; echo @; done");
  std::vector<std::string> parts(1);
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) {
    while (line.ends_with(' '))
      line.pop_back();  // bridge ends lines of learned entries with a space, we do not
    if (line == "@") {
      parts.emplace_back();
    } else if (!line.empty()) {
      parts.back() += line + '\n';
    }
  }
  parts.pop_back();
  return parts;
}

// The kernel and iproute2 are the oracle: the same entries as JSON, formatted here, must be the text that `bridge` prints.
TEST(FormatFdb, IsTheTextOfBridgeForTheJsonOfBridge) {
  std::vector<std::string> parts = ask_bridge();
  if (parts.size() != 5) GTEST_SKIP() << "no kernel vxlan device, no iproute2, or not root";
  for (int tries = 0; parts[1] != parts[4] && tries < 5; ++tries)
    parts = ask_bridge();  // a second passed in between
  const Json plain = parse(parts[2]), with_statistics = parse(parts[3]);
  ASSERT_GT(plain.size(), 4u);
  EXPECT_EQ(show("fdb", plain), parts[0]);
  EXPECT_EQ(show("fdb", with_statistics, true), parts[1]);
  EXPECT_EQ(show("fdb", with_statistics), parts[0]);
}

// Written from knowledge of `bridge vlan show`, not captured: the machines here have no kernel bridge to ask.
TEST(FormatVlan, IsLaidOutAsBridgeVlan) {
  const Json vlans = parse(
      R"([{"ifname":"tap100i0","vlans":[{"vlan":1,"flags":["PVID","Egress Untagged"]},{"vlan":2,"vlanEnd":4094}]},
                               {"ifname":"vxlan_mainvx","vlans":[{"vlan":100}]},{"ifname":"tap0","vlans":[]}])");
  EXPECT_EQ(show("vlan", vlans),
            "port              vlan-id\n"
            "tap100i0          1 PVID Egress Untagged\n"
            "                  2-4094\n"
            "vxlan_mainvx      100\n"
            "tap0              None\n");
}

TEST(FormatVtep, UnresolvedHasNoMac) {
  const Json vteps = parse(
      R"([{"dst":"172.18.1.2","flood":true,"state":"reachable","mac":"52:54:00:00:00:02","port":4789},
                               {"dst":"fd00::3","flood":false,"state":"unresolved","port":4789}])");
  EXPECT_EQ(show("vtep", vteps),
            "DST         PORT  STATE       MAC                FLOOD  PATH-MTU  MEASURED\n"
            "172.18.1.2  4789  reachable   52:54:00:00:00:02  yes           -         -\n"
            "fd00::3     4789  unresolved  -                  no            -         -\n");
}

TEST(FormatVtep, ShowsThePathAndSinceWhenItIsKnown) {
  const Json vteps = parse(
      R"([{"dst":"172.18.1.2","flood":true,"state":"reachable","mac":"52:54:00:00:00:02","port":4789,"ifname":"vx1","path_mtu":1372,"path_mtu_age":185},
          {"dst":"172.18.1.3","flood":true,"state":"reachable","mac":"52:54:00:00:00:03","port":4789,"ifname":"vx1","path_mtu":1400,"path_mtu_age":0}])");
  EXPECT_EQ(show("vtep", vteps),
            "DST         PORT  STATE      MAC                FLOOD  DEV  PATH-MTU  MEASURED\n"
            "172.18.1.2  4789  reachable  52:54:00:00:00:02  yes    vx1      1372  3m05s ago\n"
            "172.18.1.3  4789  reachable  52:54:00:00:00:03  yes    vx1      1400  0s ago\n");
}

TEST(FormatPort, SaysWhyAPortWaits) {
  const Json ports = parse(
      R"([{"name":"tap100i0","role":"guest","driver":"netdev","state":"up","mtu":1332,"rx_queues":1,"tx_queues":2,"learned":3},
                               {"name":"tap101i0","role":"guest","driver":"netdev","state":"waiting","text":"no such netdev yet"}])");
  EXPECT_EQ(show("port", ports),
            "NAME      ROLE   DRIVER  STATE     MTU  QUEUES  MACS\n"
            "tap100i0  guest  netdev  up       1332  1/2        3\n"
            "tap101i0  guest  netdev  waiting     -  -          -\n"
            "tap101i0: no such netdev yet\n");
}

TEST(FormatPort, SaysWhatWasLostOutsideOfTheDataplane) {
  const Json ports = parse(
      R"([{"name":"eth0","role":"underlay","driver":"af_xdp","state":"up","rx_queues":1,"tx_queues":1,"rx_missed":7,"tx_errors":0},
          {"name":"g1","role":"guest","driver":"tap","state":"up","rx_queues":1,"tx_queues":1,"rx_missed":0,"tx_errors":0}])");
  EXPECT_EQ(show("port", ports),
            "NAME  ROLE      DRIVER  STATE  MTU  QUEUES  MACS\n"
            "eth0  underlay  af_xdp  up       -  1/1        -\n"
            "g1    guest     tap     up       -  1/1        -\n"
            "eth0: 7 frames lost before it received them (rx_missed), 0 refused by the kernel or device (tx_errors)\n");
}

std::size_t widest_line(const std::string& text) {
  std::size_t widest = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) widest = std::max(widest, line.size());
  return widest;
}

Json all_drops(std::uint64_t count) {
  Json drops = Json::object();
  for (const auto& reason : kDropReasonTexts) drops[std::string(reason.name)] = count;
  return drops;
}

TEST(FormatDrops, ShowsWhatHappenedWithItsMeaning) {
  Json drops = all_drops(0);
  EXPECT_EQ(show("drops", drops), "");
  drops["mtu_exceeded"] = 17;
  EXPECT_EQ(show("drops", drops),
            "mtu_exceeded              17  the layer-3 length exceeds the overlay MTU\n");
}

TEST(FormatDrops, EveryReasonFitsEightyColumns) {
  const std::string text = show("drops", all_drops(1234567890123), true);
  EXPECT_LE(widest_line(text), 80u) << text;
  for (const auto& reason : kDropReasonTexts)
    EXPECT_NE(text.find(reason.name), std::string::npos) << reason.name;
}

const char* const kStats =
    R"({"ports":{"enp35s0":{"rx_packets":10,"rx_bytes":1000,"tx_packets":20,"tx_bytes":2000,"rx_dropped":1,"tx_dropped":0}},
  "drops":{"mtu_exceeded":1,"tx_full":0},"xdp":{"redirected":10,"stale":0},
  "totals":{"received":10,"cloned":0,"generated":0,"segmented":0,"sent":9,"dropped":1,"consumed":0,"coalesced":0,"held":0},
  "workers":[{"lcore":1,"polls":1000,"busy_polls":10,"packets":10}]})";

TEST(FormatStats, SectionsStandApart) {
  EXPECT_EQ(show("stats", parse(kStats)),
            "PORT     DIR  PACKETS  BYTES  DROPPED\n"
            "enp35s0  rx        10   1000        1\n"
            "enp35s0  tx        20   2000        0\n"
            "\n"
            "TOTAL      PACKETS\n"
            "received        10\ncloned           0\ngenerated        0\nsegmented        0\nsent  "
            "           9\n"
            "dropped          1\nconsumed         0\ncoalesced        0\nheld             0\n"
            "\n"
            "DROPPED       PACKETS\n"
            "mtu_exceeded        1\n"
            "\n"
            "XDP         PACKETS\n"
            "redirected       10\n"
            "\n"
            "LCORE  POLLS  BUSY%  PACKETS\n"
            "    1   1000    1.0       10\n");
}

TEST(FormatStats, SendersThatWereToldOfTheMtuAreShown) {
  Json stats = parse(R"({"too_big":{"told":0,"limited":0}})");
  EXPECT_EQ(show("stats", stats), "");
  EXPECT_EQ(show("stats", stats, true), "TOO BIG  PACKETS\ntold           0\nlimited        0\n");
  stats["too_big"]["told"] = 12;
  EXPECT_EQ(show("stats", stats), "TOO BIG  PACKETS\ntold          12\n");
}

TEST(FormatStats, ReassemblyIsShownWhereThereWasAny) {
  Json stats = parse(R"({"fragments":{"received":0,"reassembled":0,"lost":0}})");
  EXPECT_EQ(show("stats", stats), "");
  stats["fragments"]["received"] = 20;
  stats["fragments"]["reassembled"] = 10;
  EXPECT_EQ(show("stats", stats), "FRAGMENTS    PACKETS\nreceived          20\nreassembled       10\n");
}

TEST(FormatStats, RatesAreDifferencesPerSecond) {
  Json after = parse(kStats);
  after["ports"]["enp35s0"]["rx_packets"] = 2010;
  after["ports"]["enp35s0"]["rx_bytes"] = 501000;
  after["drops"]["mtu_exceeded"] = 5;
  EXPECT_EQ(format_rates(parse(kStats), after, 2.0),
            "PORT     RX-PPS  RX-MBIT/S  TX-PPS  TX-MBIT/S  DROPS/S\n"
            "enp35s0    1000        2.0       0        0.0        0\n"
            "drops in all: 2/s\n");
}

TEST(FormatStats, RatesSurviveARestartOfTheDataplane) {
  Json before = parse(kStats);
  before["ports"]["enp35s0"]["rx_packets"] = 1000000;
  EXPECT_NE(format_rates(before, parse(kStats), 1.0).find("enp35s0      10"), std::string::npos);
}

TEST(FormatMtu, SaysWhatDoesNotAddUpAndWhatToDo) {
  Json mtu = parse(
      R"([{"ifname":"vxlan_mainvx","mtu":1340,"underlay_mtu":1400,"device":"enp35s0","family":"ipv6",
    "overhead":{"ip":40,"udp":8,"vxlan":8,"ethernet":14,"total":70},"ceiling":{"untagged":1330,"tagged":1326,"double_tagged":1322},
    "margin":-14,"device_mtu":1500,"verdict":"error","text":"first","problems":["first","second"],"ports":[{"name":"tap1","mtu":1500}],
    "vteps":[{"dst":"fd18::2","mtu":1372,"ceiling":1302,"by":"probe"}]}])");
  const std::string text = show("mtu", mtu);
  EXPECT_TRUE(text.starts_with("vxlan_mainvx: error\n    1400  underlay IP MTU of enp35s0 (the netdev's own: 1500)\n  -   40  outer IPv6 header\n")) << text;
  EXPECT_TRUE(text.ends_with("    1340  overlay MTU: larger ones are dropped (mtu_exceeded)\n"
                             "      14  too many for what the tunnel carries\n"
                             "    1302  towards fd18::2: its path MTU is 1372, measured\n"
                             "first\nsecond\n"))
      << text;
  mtu[0]["margin"] = 10;
  mtu[0]["mtu"] = 1320;
  EXPECT_NE(show("mtu", mtu).find("\n      10  to spare\n"), std::string::npos);
  mtu[0]["margin"] = 6;
  EXPECT_NE(show("mtu", mtu).find("\n       6  to spare, one tag counted\n"), std::string::npos);
}

TEST(FormatMtu, AProbeIsALineForEachVtep) {
  const Json results = parse(R"([{"dst":"172.18.1.2","text":"172.18.1.2: 1400 needed, 1372 passes: your path eats 28 bytes"},
                                 {"dst":"172.18.1.3","text":"172.18.1.3: 1400 needed, 1400 passes"},{"dst":3},7])");
  EXPECT_EQ(format_result("mtu", "probe", results, {}),
            "172.18.1.2: 1400 needed, 1372 passes: your path eats 28 bytes\n172.18.1.3: 1400 needed, 1400 passes\n");
}

TEST(FormatMtu, SpellsOutTheArithmetic) {
  const Json mtu = parse(
      R"([{"ifname":"vxlan_mainvx","mtu":1332,"underlay_mtu":1400,"device":"enp35s0","family":"ipv4",
    "overhead":{"ip":20,"udp":8,"vxlan":8,"ethernet":14,"total":50},"ceiling":{"untagged":1350,"tagged":1346,"double_tagged":1342},
    "verdict":"ok","vteps":[{"dst":"172.18.1.2","mtu":1380,"ceiling":1330}]}])");
  EXPECT_EQ(show("mtu", mtu),
            "vxlan_mainvx: ok\n"
            "    1400  underlay IP MTU of enp35s0\n"
            "  -   20  outer IPv4 header\n"
            "  -    8  outer UDP header\n"
            "  -    8  VXLAN header\n"
            "  -   14  inner Ethernet header\n"
            "  = 1350  largest IP packet of a guest, untagged\n"
            "    1346  with one 802.1Q tag\n"
            "    1342  with two\n"
            "    1332  overlay MTU: larger ones are dropped (mtu_exceeded)\n"
            "    1330  towards 172.18.1.2: its path MTU is 1380\n");
}

TEST(FormatStatus, NamesProcessesOverlaysAndProblems) {
  const Json status = parse(R"({"control":{"version":"0.1.0","pid":10,"uptime_s":59},
    "dataplane":{"state":"connected","pid":9,"uptime_s":3725,"workers":1,"hugepages":false},
    "underlay":{"device":"enp35s0","driver":"af_xdp","state":"up","vlan":4003,"mtu":1400,"vtep_address":"kernel"},
    "overlays":[{"name":"vxlan_mainvx","vni":1000,"mode":"bridge","local":"172.18.1.1","port":4789,"mtu":1332,"master":"mainvx",
                 "ports":2,"vteps":1,"vteps_reachable":1,"fdb":4,"fdb_limit":65536}],
    "problems":["port tap1: no such netdev yet"]})");
  EXPECT_EQ(show("status", status),
            "control    pid 10, up 59s, version 0.1.0\n"
            "dataplane  connected, pid 9, up 1h02m, workers 1, hugepages no\n"
            "underlay   enp35s0 af_xdp up, vlan 4003, mtu 1400, address: kernel\n"
            "overlay    vxlan_mainvx vni 1000 bridge, local 172.18.1.1 port 4789, mtu 1332, bridge "
            "mainvx\n"
            "           ports 2, vteps 1 (1 reachable), fdb 4 of 65536\n"
            "problem    port tap1: no such netdev yet\n");
}

TEST(FormatStatus, ATakeoverSaysWhoForwardsAndWhatIsHeld) {
  const std::string text = show("status", parse(R"({"overlays":[{"name":"vx","master":"mainvx","forwards":"kernel",
    "held":["52:54:00:00:00:01 vlan 1"]}]})"));
  EXPECT_NE(text.find(", bridge mainvx, forwarding: kernel\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n           held 52:54:00:00:00:01 vlan 1: it moved too often\n"), std::string::npos) << text;
}

TEST(FormatBypass, SaysWhoForwardsAndWhy) {
  EXPECT_EQ(show("bypass", parse(R"({"bypass":false,"forwards":"vxplane","reason":""})")), "off: vxplane forwards\n");
  EXPECT_EQ(show("bypass", parse(R"({"bypass":true,"forwards":"kernel","reason":"vxctl bypass on"})")),
            "on: the kernel forwards: vxctl bypass on\n");
}

TEST(FormatFdb, EntriesOfATakenBridge) {
  EXPECT_EQ(format_fdb_entry(parse(R"({"mac":"52:54:00:00:00:01","ifname":"vx","dst":"172.18.1.2","flags":["extern_learn"],"master":"mainvx","state":""})"), {}),
            "52:54:00:00:00:01 dev vx dst 172.18.1.2 extern_learn master mainvx");
  EXPECT_EQ(format_fdb_entry(parse(R"({"mac":"52:54:00:00:00:01","ifname":"tap1","flags":[],"master":"mainvx","state":"static"})"), {}),
            "52:54:00:00:00:01 dev tap1 master mainvx static");
}

TEST(Format, AnswersOfAnotherShapeDoNotThrow) {
  for (const char* text : {"null", "[]", "{}", "5", "\"x\"", "[5,null,{}]",
                           "{\"ports\":5,\"drops\":[1],\"workers\":{\"a\":1}}"}) {
    for (const char* object : {"fdb", "vtep", "port", "vlan", "stats", "drops", "status", "mtu", "bypass"}) {
      EXPECT_NO_THROW(static_cast<void>(show(object, parse(text), true))) << object << " " << text;
    }
    EXPECT_NO_THROW(static_cast<void>(format_result("fdb", "count", parse(text), {})));
    EXPECT_NO_THROW(static_cast<void>(format_rates(parse(text), parse(text), 1.0)));
  }
}

}  // namespace
}  // namespace vx::control
