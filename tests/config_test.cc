// SPDX-License-Identifier: Apache-2.0
// config/load.h and print.h: what an INI file means, every complaint with its exact line, and that
// what is printed reads back.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "config/keys.h"
#include "config/load.h"
#include "config/print.h"
#include "tests/config_testkit.h"

namespace vx::config {
namespace {

using testing::Directory;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::ip;
using ::testing::IsEmpty;
using testing::Lines;

const HostFacts kNoHost;

// Line numbers in the cases below are those of this file.
const Lines kBase = {
    /* 1*/ "[vxlan]",
    /* 2*/ "name = vx0",
    /* 3*/ "vxlan-id = 1000",
    /* 4*/ "vxlan-local-tunnelip = 172.18.1.1",
    /* 5*/ "vxlan-remoteip = 172.18.1.2",
    /* 6*/ "mtu = 1332",
    /* 7*/ "[underlay]",
    /* 8*/ "device = nic0",
    /* 9*/ "mtu = 1400",
    /*10*/ "[bridge]",
    /*11*/ "bridge-vids = 2-4094",
    /*12*/ "[port]",
    /*13*/ "port = tap0 driver=tap",
};

// kBase with one line replaced (0: none).
std::string base_with(unsigned line, const std::string& text) {
  std::string all;
  for (unsigned i = 1; i <= kBase.size(); ++i) all += (i == line ? text : kBase[i - 1]) + "\n";
  return all;
}

LoadResult load_text(const std::string& text, const HostFacts& facts = kNoHost) {
  const Directory directory;
  return load(directory.write("f", text), facts);
}

struct Case {
  const char* name;
  unsigned line;
  const char* text;
  Lines problems;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class ConfigProblem : public ::testing::TestWithParam<Case> {};

TEST_P(ConfigProblem, IsToldWithItsLine) {
  const Case& c = GetParam();
  const Directory directory;
  const LoadResult result = load(directory.write("f", base_with(c.line, c.text)), kNoHost);
  EXPECT_THAT(directory.lines(result.problems), ElementsAreArray(c.problems));
  EXPECT_EQ(result.settings.has_value(), !has_error(result.problems));
}

const Case kCases[] = {
    {"Nothing", 0, "", {}},
    // the file
    {"NoEquals",
     2,
     "name = vx0\nnonsense",
     {"f:3: nonsense: is neither KEY = VALUE nor [SECTION]"}},
    {"OpenSection",
     7,
     "[underlay]\n[underlay",
     {"f:8: [underlay: is neither KEY = VALUE nor [SECTION]"}},
    {"UnknownKey",
     3,
     "vxlan-id = 1000\nvxlan-lerning = yes",
     {"f:4: vxlan-lerning: is unknown in [vxlan]; did you mean vxlan-learning?"}},
    {"UnknownKeyLikeNone",
     9,
     "mtu = 1400\nzzzzzzzzz = 1",
     {"f:10: zzzzzzzzz: is unknown in [underlay]; there are device, driver, vlan, vtep-address, "
      "mtu"}},
    {"KeyOfAnotherSection",
     8,
     "device = nic0\nvxlan-ttl = 3",
     {"f:9: vxlan-ttl: is unknown in [underlay]; it belongs into [vxlan]"}},
    {"KeyBeforeSections", 1, "mtu = 1\n[vxlan]", {"f:1: mtu: belongs into [vxlan] or [underlay]"}},
    {"UnknownKeyBeforeSections",
     1,
     "what = 1\n[vxlan]",
     {"f:1: what: is unknown; only 'interfaces' stands before the sections"}},
    {"UnknownSection",
     12,
     "[prot]\nport = tap9 driver=tap\n[port]",
     {"f:13: port: section [prot] is unknown; did you mean [port]?"}},
    {"Duplicate", 6, "mtu = 1332\nmtu = 1332", {"f:7: mtu: is given already on line 6"}},
    {"DuplicateInBothSpellings",
     3,
     "vxlan-id = 1000\nvxlan_id = 1001",
     {"f:4: vxlan-id: is given already on line 3"}},
    {"InterfacesInASection",
     11,
     "bridge-vids = 2-4094\ninterfaces = x",
     {"f:12: interfaces: stands at the top of the file, before any section"}},
    {"InterfacesAbsent",
     1,
     "interfaces = gone\n[vxlan]",
     {"f:1: interfaces: gone cannot be read: No such file or directory"}},
    // required
    {"NameMissing", 2, "", {"f:1: name: is missing: [vxlan] needs it"}},
    {"VniMissing", 3, "", {"f:1: vxlan-id: is missing: [vxlan] needs it"}},
    {"DeviceMissing", 8, "", {"f:7: device: is missing: [underlay] needs it"}},
    {"LocalMissing",
     4,
     "",
     {"f:1: vxlan-local-tunnelip: is missing, and neither imported stanzas nor this machine have "
      "an interface towards a remote"}},
    {"NoRemote",
     5,
     "",
     {"f:1: vxlan-remoteip: warning: there is no remote VTEP: nothing is sent until vxctl adds "
      "one"}},
    {"NoRemoteButFlood", 5, "vtep-learning = flood", {}},
    {"MtuMissing",
     6,
     "",
     {"f:1: mtu: warning: is missing: 1346 is taken, the most that fits; the guests' MTU must "
      "agree"}},
    // numbers and words
    {"VniZero", 3, "vxlan-id = 0", {"f:3: vxlan-id: '0' is not a whole number from 1 to 16777215"}},
    {"VniTooLarge",
     3,
     "vxlan-id = 16777216",
     {"f:3: vxlan-id: '16777216' is not a whole number from 1 to 16777215"}},
    {"VniLargest", 3, "vxlan-id = 16777215", {}},
    {"VniNoNumber",
     3,
     "vxlan-id = 10x",
     {"f:3: vxlan-id: '10x' is not a whole number from 1 to 16777215"}},
    {"Empty", 3, "vxlan-id =", {"f:3: vxlan-id: '' is not a whole number from 1 to 16777215"}},
    {"UdpPort",
     3,
     "vxlan-id = 1\nvxlan-port = 65536",
     {"f:4: vxlan-port: '65536' is not a whole number from 1 to 65535"}},
    {"Ttl",
     3,
     "vxlan-id = 1\nvxlan-ttl = 256",
     {"f:4: vxlan-ttl: '256' is not a whole number from 1 to 255"}},
    {"Tos",
     3,
     "vxlan-id = 1\nvxlan-tos = x",
     {"f:4: vxlan-tos: 'x' is not a whole number from 0 to 255, nor inherit"}},
    {"TosWithEcn",
     3,
     "vxlan-id = 1\nvxlan-tos = 3",
     {"f:4: vxlan-tos: '3' sets the ECN bits, which follow the inner packet (RFC 6040): use a "
      "multiple of 4"}},
    {"Bool",
     3,
     "vxlan-id = 1\nvxlan-learning = maybe",
     {"f:4: vxlan-learning: 'maybe' is neither yes nor no"}},
    {"VtepLearning",
     3,
     "vxlan-id = 1\nvtep-learning = some",
     {"f:4: vtep-learning: 'some' is none of no, yes, flood"}},
    {"Name",
     2,
     "name = a-name-too-long-by-far",
     {"f:2: name: 'a-name-too-long-by-far' cannot be a network device's name (1 to 15 characters, "
      "no blank, none of / : * ? [ ] = #)"}},
    {"UnderlayVlan",
     9,
     "mtu = 1400\nvlan = 4095",
     {"f:10: vlan: '4095' is not a whole number from 1 to 4094"}},
    {"UnderlayVlanZero",
     9,
     "mtu = 1400\nvlan = 0",
     {"f:10: vlan: '0' is not a whole number from 1 to 4094"}},
    {"Ageing",
     11,
     "bridge-ageing = 40000",
     {"f:11: bridge-ageing: '40000' is not a whole number from 0 to 32767"}},
    {"Learned",
     11,
     "fdb-max-learned = 0",
     {"f:11: fdb-max-learned: '0' is not a whole number from 1 to 1048576"}},
    {"VidList",
     11,
     "bridge-vids = 2-4095",
     {"f:11: bridge-vids: VLAN list '2-4095': '4095' is not a whole number from 1 to 4094"}},
    {"VidListBackwards",
     11,
     "bridge-vids = 20-10",
     {"f:11: bridge-vids: VLAN list '20-10': 20-10 runs backwards"}},
    {"VidListEmpty", 11, "bridge-vids =", {"f:11: bridge-vids: is an empty VLAN list"}},
    {"Pvid",
     11,
     "bridge-pvid = 0",
     {"f:11: bridge-pvid: '0' is not a whole number from 1 to 4094, nor none"}},
    {"NoVlanAtAll",
     11,
     "bridge-pvid = none",
     {"f:11: bridge-pvid: none, and no bridge-vids: the tunnel would carry no VLAN",
      "f:13: port: tap0: carries no VLAN: give it bridge-access, bridge-vids or bridge-pvid"}},
    {"Takeover",
     11,
     "bridge-vids = 2-4094\ntakeover = yes",
     {"f:12: takeover: yes: of which bridge? takeover = NAME"}},
    {"NoTakeover", 11, "bridge-vids = 2-4094\ntakeover = no", {}},
    {"Lcores",
     13,
     "port = tap0 driver=tap\n[dataplane]\nlcores = all",
     {"f:15: lcores: 'all' is not a list of cores, e.g. 1 or 1-3,5"}},
    {"Poll",
     13,
     "port = tap0 driver=tap\n[dataplane]\npoll = lazy",
     {"f:15: poll: 'lazy' is neither busy nor adaptive"}},
    // addresses
    {"LocalNoAddress",
     4,
     "vxlan-local-tunnelip = 172.18.1",
     {"f:4: vxlan-local-tunnelip: '172.18.1' is not an IPv4 or IPv6 address"}},
    {"RemoteWithPrefix",
     5,
     "vxlan-remoteip = 172.18.1.2/24",
     {"f:5: vxlan-remoteip: '172.18.1.2/24' is not an IPv4 or IPv6 address"}},
    {"RemoteGroup",
     5,
     "vxlan-remoteip = 239.1.1.1",
     {"f:5: vxlan-remoteip: '239.1.1.1' is a multicast group: name each VTEP instead, flooding "
      "replicates to them"}},
    {"RemoteGroupIpv6",
     5,
     "vxlan-remoteip = ff05::1",
     {"f:5: vxlan-remoteip: 'ff05::1' is a multicast group: name each VTEP instead, flooding "
      "replicates to them"}},
    {"RemoteLinkLocal",
     5,
     "vxlan-remoteip = fe80::1",
     {"f:5: vxlan-remoteip: 'fe80::1' is link-local: use an address that needs no interface beside "
      "it"}},
    {"RemoteUnspecified",
     5,
     "vxlan-remoteip = 0.0.0.0",
     {"f:5: vxlan-remoteip: '0.0.0.0' is no host's address"}},
    {"MixedFamilies",
     5,
     "vxlan-remoteip = 172.18.1.2\nvxlan-remoteip = fd00::2",
     {"f:6: vxlan-remoteip: fd00::2 and the local 172.18.1.1 are of different IP versions: a "
      "tunnel has one"}},
    {"OwnAmongRemotes",
     5,
     "vxlan-remoteip = 172.18.1.2\nvxlan-remoteip = 172.18.1.1",
     {"f:6: vxlan-remoteip: warning: 172.18.1.1 is our own address: left out"}},
    {"RemoteTwice",
     5,
     "vxlan-remoteip = 172.18.1.2\nvxlan-remoteip = 172.18.1.2",
     {"f:6: vxlan-remoteip: warning: 172.18.1.2 is given twice"}},
    // underlay
    {"DriverUnknown",
     9,
     "mtu = 1400\ndriver = af-packet",
     {"f:10: driver: 'af-packet' is not a driver (af_xdp, udp, tap, netdev, dpdk:DEVARGS)"}},
    {"DriverLater",
     9,
     "mtu = 1400\ndriver = vhost-user",
     {"f:10: driver: driver vhost-user is not in this version"}},
    {"DriverUdp", 9, "mtu = 1400\ndriver = udp", {}},
    {"DriverUdpWithOwnAddress",
     9,
     "mtu = 1400\ndriver = udp\nvtep-address = own",
     {"f:11: vtep-address: own needs af_xdp or dpdk: below it: with driver = udp the kernel sends "
      "and receives"}},
    {"DriverUdpWithoutThePort",
     9,
     "mtu = 1400\ndriver = udp\n[vxlan]\nhold-port = no",
     {"f:12: hold-port: no cannot be with driver = udp: all that the tunnel brings comes through "
      "that port"}},
    {"DriverForGuests",
     9,
     "mtu = 1400\ndriver = tap",
     {"f:10: driver: 'tap' is for guest ports: the underlay has af_xdp, udp or dpdk:DEVARGS"}},
    {"DriverNoDevargs",
     9,
     "mtu = 1400\ndriver = dpdk:",
     {"f:10: driver: dpdk: needs DEVARGS behind it, e.g. dpdk:0000:01:00.0 or dpdk:net_null0"}},
    {"DpdkWithKernelAddress",
     9,
     "mtu = 1400\ndriver = dpdk:net_null0\nvtep-address = kernel",
     {"f:11: vtep-address: the kernel has no address on a dpdk: device: own, or leave it out"}},
    {"VtepAddress",
     9,
     "mtu = 1400\nvtep-address = mine",
     {"f:10: vtep-address: 'mine' is neither kernel nor own"}},
    {"DeviceIsVxlan",
     8,
     "device = vx0",
     {"f:2: name: 'vx0' is the name of the underlay device too"}},
    // MTU: 1400 - 50 = 1350, - 4 = 1346
    {"MtuLargestTagged", 6, "mtu = 1346", {}},
    {"MtuFitsUntaggedOnly",
     6,
     "mtu = 1347",
     {"f:6: mtu: warning: 1347 fits untagged only: with one inner tag at most 1346, an underlay "
      "MTU of 1400 less 50 bytes of VXLAN over IPv4 and "
      "4 of tag"}},
    {"MtuLargestUntagged",
     6,
     "mtu = 1350",
     {"f:6: mtu: warning: 1350 fits untagged only: with one inner tag at most 1346, an underlay "
      "MTU of 1400 less 50 bytes of VXLAN over IPv4 and "
      "4 of tag"}},
    {"MtuTooLarge",
     6,
     "mtu = 1351",
     {"f:6: mtu: 1351 does not fit: at most 1350, an underlay MTU of 1400 less 50 bytes of VXLAN "
      "over IPv4"}},
    {"MtuTooSmallForIpv6",
     6,
     "mtu = 1279",
     {"f:6: mtu: warning: 1279 is too small for guests' IPv6, which needs 1280"}},
    {"UnderlayMtuTooSmall", 9, "mtu = 100", {"f:9: mtu: 100 leaves no room for guests' packets"}},
    // ports
    {"PortNoName",
     13,
     "port = driver=tap",
     {"f:13: port: expected NAME driver=DRIVER [OPTION=VALUE]..."}},
    {"PortNoDriver", 13, "port = tap0", {"f:13: port: tap0: driver= is missing"}},
    {"PortManyFaults",
     13,
     "port = tap0 drivr=tap bridge-vids=5-x loud",
     {"f:13: port: tap0: drivr: is not an option of a port; did you mean driver?; bridge-vids: "
      "VLAN list '5-x': 'x' is not a whole number from 1 "
      "to 4094; 'loud' is not OPTION=VALUE; driver= is missing"}},
    {"PortOptionTwice",
     13,
     "port = tap0 driver=tap storm-pps=1 storm_pps=2",
     {"f:13: port: tap0: storm-pps is given twice"}},
    {"PortAccessAndVids",
     13,
     "port = tap0 driver=tap bridge-access=5 bridge-vids=6",
     {"f:13: port: tap0: bridge-access is the whole of an access port's VLANs: drop it, or "
      "bridge-vids, bridge-pvid and bridge-untagged"}},
    {"PortUntaggedNotMember",
     13,
     "port = tap0 driver=tap bridge-vids=10-20 bridge-untagged=30",
     {"f:13: port: tap0: bridge-untagged=30 is not among the port's VLANs"}},
    {"PortTwice",
     13,
     "port = tap0 driver=tap\nport = tap0 driver=netdev",
     {"f:14: port: tap0: is a port already on line 13"}},
    {"PortPatternOfTap",
     13,
     "port = tap* driver=tap",
     {"f:13: port: tap*: only driver=netdev and driver=af_xdp take a pattern: they wait for "
      "netdevs that others make"}},
    {"PortIsUnderlay",
     13,
     "port = nic0 driver=netdev",
     {"f:13: port: nic0: is the underlay device"}},
    {"PortLikeVxlanNoTap",
     13,
     "port = vx0 driver=netdev",
     {"f:13: port: vx0: has the vxlan's name, which only a driver=tap port may have (netdev "
      "mode)"}},
    {"NetdevModeWithGuestPort",
     13,
     "port = vx0 driver=tap\nport = tap0 driver=tap",
     {"f:14: port: tap0: in netdev mode (port vx0 driver=tap) the kernel's bridge has the guests' "
      "ports"}},
    {"PortDriverLater",
     13,
     "port = vm driver=vhost-user",
     {"f:13: port: vm: driver: driver vhost-user is not in this version"}},
    {"PortVlanNotCarried",
     11,
     "bridge-vids = 2-10\n[port]\nport = tap1 driver=tap bridge-access=100",
     {"f:13: port: warning: tap1: VLAN 100 stays on this host: the tunnel carries bridge-vids and "
      "bridge-pvid only"}},
};
INSTANTIATE_TEST_SUITE_P(Each, ConfigProblem, ::testing::ValuesIn(kCases),
                         [](const ::testing::TestParamInfo<Case>& test) {
                           return std::string(test.param.name);
                         });

TEST(Config, AllProblemsAreToldAtOnceInOrderOfLines) {
  const Directory directory;
  const auto path = directory.write("f",
                                    "[vxlan]\nname = vx0\nvxlan-id = 0\nvxlan-local-tunnelip = "
                                    "1.1.1.1\nvxlan-remoteip = x\nttl = 4\n"
                                    "[underlay]\ndevice = nic0\nvlan = 5000\n[port]\nport = a\n");
  EXPECT_THAT(directory.lines(load(path, kNoHost).problems),
              ElementsAre("f:1: mtu: warning: is missing: 1450 is taken, the most that fits; the "
                          "guests' MTU must agree",
                          "f:3: vxlan-id: '0' is not a whole number from 1 to 16777215",
                          "f:5: vxlan-remoteip: 'x' is not an IPv4 or IPv6 address",
                          "f:6: ttl: is unknown in [vxlan]; did you mean vxlan-ttl?",
                          "f:9: vlan: '5000' is not a whole number from 1 to 4094",
                          "f:11: port: a: driver= is missing"));
}

TEST(Config, MtusAreJudgedByIpv4WhileNoFamilyIsKnown) {
  std::string text;
  for (unsigned i = 1; i <= kBase.size(); ++i) {
    const char* other = i == 4 ? "" : i == 5 ? "vxlan-remoteip = nonsense" : "mtu = 1400";
    text += (i >= 4 && i <= 6 ? other : kBase[i - 1]) + std::string("\n");
  }
  const auto result = load_text(text);
  ASSERT_EQ(result.problems.size(), 2u);
  EXPECT_EQ(result.problems[0].line, 5u);
  EXPECT_EQ(result.problems[1].line, 6u);
  EXPECT_EQ(result.problems[1].text,
            "1400 does not fit: at most 1350, an underlay MTU of 1400 less 50 bytes of VXLAN over "
            "IPv4");
}

TEST(Config, UnreadableFileIsOneProblem) {
  const Directory directory;
  EXPECT_THAT(directory.lines(load(directory.path("gone"), kNoHost).problems),
              ElementsAre("gone: config: cannot be read: No such file or directory"));
  EXPECT_THAT(directory.lines(load(directory.path(), kNoHost).problems),
              ElementsAre(HasSubstr("config: cannot be read: Is a directory")));
}

TEST(Config, EmptyFileNamesWhatItNeeds) {
  const Directory directory;
  EXPECT_THAT(
      directory.lines(load(directory.write("f", ""), kNoHost).problems),
      ElementsAre(HasSubstr("f:1: vxlan-local-tunnelip: is missing"),
                  HasSubstr("f:1: name: is missing"), HasSubstr("f:1: vxlan-id: is missing"),
                  HasSubstr("f:1: device: is missing"), HasSubstr("f:1: vxlan-remoteip: warning")));
}

TEST(Config, UnderscoresCommentsBlanksAndCarriageReturnsAreRead) {
  const LoadResult result = load_text(
      "# a comment\r\n\r\n[vxlan]\r\n  name=vx0   # inline\r\nvxlan_id = "
      "7#close\r\nvxlan_local_tunnelip = fd00::1\r\nvxlan_remoteip = fd00::2\r\n"
      "mtu=1330\r\n[underlay]\r\ndevice = nic0\r\nmtu = 1400\r\n[port]\r\nport = t0   "
      "driver=tap\tstorm_pps=5\r\n");
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->vxlan.name, "vx0");
  EXPECT_EQ(result.settings->vxlan.vni, 7u);
  EXPECT_EQ(result.settings->vxlan.local, ip("fd00::1"));
  EXPECT_THAT(result.settings->vxlan.remotes, ElementsAre(ip("fd00::2")));
  EXPECT_EQ(result.settings->ports[0].storm_pps, 5u);
  EXPECT_THAT(result.problems, IsEmpty());
}

TEST(Config, MssClampIsReadAndShownByCheck) {
  for (const auto& [text, value] : {std::pair{"mtu = 1332\nmss-clamp = yes", true},
                                    std::pair{"mtu = 1332\nmss_clamp = no", false},
                                    std::pair{"mtu = 1332", false}}) {
    const LoadResult result = load_text(base_with(6, text));
    ASSERT_TRUE(result.settings) << text;
    EXPECT_EQ(result.settings->vxlan.mss_clamp, value) << text;
    EXPECT_THAT(result.problems, IsEmpty());
    EXPECT_THAT(print(*result.settings), HasSubstr(value ? "\nmss-clamp = yes\n" : "\nmss-clamp = no\n"));
  }
}

TEST(Config, Ipv6UnderlayLeaves20BytesLess) {
  const std::string head =
      "[vxlan]\nname = vx0\nvxlan-id = 7\nvxlan-local-tunnelip = fd00::1\nvxlan-remoteip = "
      "fd00::2\nmtu = ";
  const std::string tail = "\n[underlay]\ndevice = nic0\nmtu = 1400\n";
  EXPECT_THAT(load_text(head + "1330" + tail).problems, IsEmpty());
  EXPECT_FALSE(load_text(head + "1331" + tail).settings);
}

TEST(Config, PortVlansDefaultToTheBridges) {
  const LoadResult result = load_text(
      base_with(13,
                "port = a driver=tap\nport = b driver=tap bridge-access=100\nport = c driver=tap "
                "bridge-vids=10-20 "
                "bridge-pvid=10 bridge-untagged=11\nport = d driver=tap bridge-pvid=none"));
  ASSERT_TRUE(result.settings);
  const auto& ports = result.settings->ports;
  EXPECT_EQ(ports[0].vlans.pvid, 1);
  EXPECT_TRUE(ports[0].vlans.members.contains(4094));
  EXPECT_EQ(to_text(ports[0].vlans.untagged, ','), "1");
  EXPECT_EQ(ports[1].vlans.pvid, 100);
  EXPECT_EQ(to_text(ports[1].vlans.members, ','), "100");
  EXPECT_EQ(to_text(ports[1].vlans.untagged, ','), "100");
  EXPECT_EQ(to_text(ports[2].vlans.members, ','), "10-20");
  EXPECT_EQ(to_text(ports[2].vlans.untagged, ','), "10-11");
  EXPECT_EQ(ports[3].vlans.pvid, kNoPvid);
  EXPECT_EQ(to_text(ports[3].vlans.members, ','), "2-4094");
}

TEST(Config, BridgeAfterPortsStillGivesTheirVlans) {
  const LoadResult result =
      load_text(base_with(10, "[port]\nport = early driver=tap\n[bridge]\nbridge-pvid = 9"));
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->ports[0].vlans.pvid, 9);
}

TEST(Config, TapNamedLikeTheVxlanIsNetdevMode) {
  EXPECT_EQ(load_text(base_with(0, "")).settings->mode, Mode::kBridge);
  const LoadResult result = load_text(base_with(13, "port = vx0 driver=tap"));
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->mode, Mode::kNetdev);
}

TEST(Config, DpdkUnderlayHasItsOwnAddress) {
  const LoadResult result =
      load_text(base_with(9, "mtu = 1400\ndriver = dpdk:net_memif0,role=client"));
  ASSERT_TRUE(result.settings);
  EXPECT_TRUE(result.settings->underlay.own_address);
  EXPECT_EQ(result.settings->underlay.devargs, "net_memif0,role=client");
}

HostFacts xenon_facts() {
  HostFacts facts;
  facts.interfaces = [] {
    return std::vector<HostInterface>{
        {"enp35s0", "", 0, 1500, {{ip("192.0.2.10"), 26}}},
        {"enp35s0.4003", "enp35s0", 4003, 1400, {{ip("172.18.1.1"), 24}}}};
  };
  facts.route_source = [](const IpAddress& remote) -> std::optional<IpAddress> {
    return is_in_subnet(remote, {ip("172.18.1.0"), 24}) ? ip("172.18.1.1") : ip("192.0.2.10");
  };
  return facts;
}

TEST(Config, HostGivesLocalAddressUnderlayAndItsMtu) {
  const LoadResult result =
      load_text("[vxlan]\nname = vx0\nvxlan-id = 1\nvxlan-remoteip = 172.18.1.2\nmtu = 1332\n",
                xenon_facts());
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  EXPECT_EQ(result.settings->vxlan.local, ip("172.18.1.1"));
  EXPECT_EQ(result.settings->underlay.device, "enp35s0");
  EXPECT_EQ(result.settings->underlay.vlan, 4003);
  EXPECT_EQ(result.settings->underlay.mtu, 1400);
}

TEST(Config, LocalAddressOfARouteThroughAGatewayIsWarnedOf) {
  const Directory directory;
  const auto path = directory.write(
      "f", "[vxlan]\nname = vx0\nvxlan-id = 1\nvxlan-remoteip = 198.51.100.7\nmtu = 1400\n");
  const LoadResult result = load(path, xenon_facts());
  EXPECT_THAT(directory.lines(result.problems),
              ElementsAre("f:1: vxlan-local-tunnelip: warning: 192.0.2.10 is taken, this machine's "
                          "source towards 198.51.100.7, which is in no subnet of enp35s0"));
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->underlay.device, "enp35s0");
}

TEST(Config, NamesThatAnIniFileCannotSayAreRefused) {
  const Directory directory;
  directory.write("i",
                  "iface e#0.7\n address 10.0.0.1/8\n vlan-raw-device e#0\niface vx\n vxlan-id 1\n"
                  " vxlan-remoteip 10.0.0.2\n mtu 1400\n");
  EXPECT_THAT(directory.lines(load(directory.write("f", "interfaces = i\n"), kNoHost).problems),
              ElementsAre("i:1: device: 'e#0' is not a device's name"));
}

TEST(Config, UnderlayMtuAboveTheHostsIsWarnedOf) {
  const Directory directory;
  const auto path = directory.write("f",
                                    "[vxlan]\nname = vx0\nvxlan-id = 1\nvxlan-local-tunnelip = "
                                    "172.18.1.1\nvxlan-remoteip = 172.18.1.2\nmtu = 1332\n"
                                    "[underlay]\ndevice = enp35s0\nvlan = 4003\nmtu = 1500\n");
  EXPECT_THAT(
      directory.lines(load(path, xenon_facts()).problems),
      ElementsAre(
          "f:10: mtu: warning: 1500 is more than the 1400 that enp35s0.4003 has on this machine"));
}

TEST(Config, LiveFactsKnowLoopback) {
  const HostFacts facts = live_host_facts();
  bool has_loopback = false;
  for (const HostInterface& interface : facts.interfaces())
    has_loopback |= interface.name == "lo" && interface.mtu > 0;
  EXPECT_TRUE(has_loopback);
  if (const auto source = facts.route_source(ip("127.0.0.2"))) {
    EXPECT_EQ(source, ip("127.0.0.1"));  // absent where lo is down
  }
}

// ---- several files ----

struct TwoFiles {
  Directory directory;
  LoadAllResult load(const std::string& a, const std::string& b) const {
    return load_all({directory.write("a", a), directory.write("b", b)}, kNoHost);
  }
};
std::string second_file(unsigned line = 0, const std::string& text = {}) {
  std::string all;
  const Lines other = {"[vxlan]",
                       "name = vx1",
                       "vxlan-id = 2000",
                       "vxlan-local-tunnelip = 172.18.1.1",
                       "vxlan-remoteip = 172.18.1.2",
                       "mtu = 1332",
                       "[underlay]",
                       "device = nic0",
                       "mtu = 1400",
                       "[bridge]",
                       "bridge-vids = 2-4094",
                       "[port]",
                       "port = tap1 driver=tap"};
  for (unsigned i = 1; i <= other.size(); ++i) all += (i == line ? text : other[i - 1]) + "\n";
  return all;
}

TEST(ConfigFiles, DifferentVnisOnOneUnderlayAgree) {
  const TwoFiles files;
  const LoadAllResult all = files.load(base_with(0, ""), second_file());
  EXPECT_THAT(all.problems, IsEmpty());
  ASSERT_EQ(all.settings.size(), 2u);
  EXPECT_EQ(all.settings[1].vxlan.vni, 2000u);
}

TEST(ConfigFiles, WhatCannotBeSharedIsToldAtTheSecondFile) {
  const TwoFiles files;
  const auto problems = [&](unsigned line, const std::string& text) {
    const LoadAllResult all = files.load(base_with(0, ""), second_file(line, text));
    EXPECT_THAT(all.settings, IsEmpty());
    std::vector<std::string> lines = files.directory.lines(all.problems);
    return lines.empty() ? std::string() : lines.front();
  };
  EXPECT_EQ(problems(2, "name = vx0"), "b:2: name: vx0 is that of a too");
  EXPECT_EQ(problems(3, "vxlan-id = 1000"), "b:3: vxlan-id: 1000 is that of a too");
  EXPECT_EQ(problems(13, "port = tap0 driver=tap"), "b:13: port: tap0: is a port of a too");
  EXPECT_EQ(problems(8, "device = nic1"),
            "b:8: device: 'nic1' here, 'nic0' in a: one instance has one (another --run-dir is "
            "another instance)");
  EXPECT_EQ(problems(9, "mtu = 1500"),
            "b:9: mtu: '1500' here, '1400' in a: one instance has one (another --run-dir is "
            "another instance)");
  EXPECT_EQ(problems(13, "[dataplane]\npoll = busy"),
            "b:14: poll: 'busy' here, 'adaptive' in a: one instance has one (another --run-dir is "
            "another instance)");
}

TEST(ConfigFiles, OneFileTwiceIsRefused) {
  const Directory directory;
  const std::string path = directory.write("a", base_with(0, ""));
  EXPECT_THAT(directory.lines(load_all({path, path}, kNoHost).problems),
              ElementsAre("a:2: name: this file is given twice"));
}

// ---- print ----

LoadResult reload(const std::string& text) { return load_text(text); }

void expect_round_trip(const Settings& settings) {
  const std::string text = print(settings);
  LoadResult again = reload(text);
  ASSERT_TRUE(again.settings) << to_string(again.problems.at(0)) << "\n" << text;
  again.settings->source = settings.source;
  EXPECT_EQ(*again.settings, settings) << text;
  EXPECT_EQ(print(*again.settings), text);
}

VidSet random_vids(std::mt19937& random) {
  VidSet vids;
  for (unsigned i = random() % 4; i > 0; --i) {
    const auto first = static_cast<std::uint16_t>(1 + random() % 4000);
    vids.insert_range(first, static_cast<std::uint16_t>(first + random() % 94));
  }
  return vids;
}

PortSettings random_port(std::mt19937& random, unsigned number, const BridgeSettings& bridge) {
  constexpr Driver kDrivers[] = {Driver::kAfXdp, Driver::kTap, Driver::kNetdev, Driver::kDpdk};
  PortSettings port;
  port.driver = kDrivers[random() % 4];
  port.name = (port.driver == Driver::kNetdev && random() % 2 != 0 ? "tap*i" : "p") +
              std::to_string(number);
  if (port.driver == Driver::kDpdk) port.devargs = "net_null0,copy=1";
  port.vlans = vlan_table_of(bridge.vids, bridge.pvid);
  if (random() % 2 != 0)
    port.vlans = vlan_table_of(
        random_vids(random),
        random() % 3 == 0 ? kNoPvid : static_cast<std::uint16_t>(1 + random() % 4094));
  if (port.vlans.members.is_empty()) port.vlans = vlan_table_of({}, 7);
  for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid)
    if (port.vlans.members.contains(vid) && random() % 50 == 0) port.vlans.untagged.insert(vid);
  port.fdb_max_learned = random() % 3;
  port.storm_pps = random() % 2 * 1000;
  port.queues = static_cast<std::uint16_t>(random() % 3);
  for (const auto flag : {&PortFlags::learning, &PortFlags::isolated, &PortFlags::unicast_flood,
                          &PortFlags::multicast_flood, &PortFlags::broadcast_flood})
    if (random() % 3 == 0) port.flags.*flag = !(port.flags.*flag);
  return port;
}

Settings random_settings(std::mt19937& random) {
  const auto flip = [&] { return random() % 2 != 0; };
  Settings s;
  const bool v6 = flip();
  s.vxlan.name = "vx0";
  s.vxlan.vni = 1 + static_cast<std::uint32_t>(random() % 0xffffff);
  s.vxlan.local = ip(v6 ? "fd00::1" : "10.0.0.1");
  for (unsigned i = static_cast<unsigned>(random() % 4); i > 0; --i)
    s.vxlan.remotes.push_back(ip((v6 ? "fd00::1" : "10.0.0.1") + std::to_string(i)));
  s.vxlan.port = static_cast<std::uint16_t>(1 + random() % 65535);
  s.vxlan.learning = flip();
  s.vxlan.vtep_learning = static_cast<VtepLearning>(random() % 3);
  s.vxlan.udp_csum = flip();
  s.vxlan.ttl = static_cast<std::uint8_t>(1 + random() % 255);
  s.vxlan.tos_inherit = flip();
  if (!s.vxlan.tos_inherit) s.vxlan.tos = static_cast<std::uint8_t>(random() & 0xfc);
  s.vxlan.mss_clamp = flip();
  s.vxlan.hold_port = flip();
  s.vxlan.replace_kernel = flip();
  s.underlay.device = "nic0";
  s.underlay.own_address = flip();
  if (flip()) {
    s.underlay.driver = Driver::kDpdk;
    s.underlay.devargs = "0000:01:00.0";
    s.underlay.own_address = true;
  }
  s.underlay.vlan = static_cast<std::uint16_t>(flip() ? 0 : 1 + random() % 4094);
  s.underlay.mtu = static_cast<std::uint16_t>(500 + random() % 9000);
  s.vxlan.mtu = static_cast<std::uint16_t>(s.underlay.mtu - 70 - random() % 300);
  if (flip()) s.bridge.name = "br0";
  s.bridge.vids = random_vids(random);
  s.bridge.pvid = static_cast<std::uint16_t>(
      flip() && !s.bridge.vids.is_empty() ? kNoPvid : 1 + random() % 4094);
  s.bridge.ageing_s = static_cast<std::uint32_t>(random() % 32768);
  s.bridge.fdb_max_learned = static_cast<std::uint32_t>(1 + random() % (1 << 20));
  if (random() % 4 == 0) {
    s.mode = Mode::kNetdev;
    PortSettings port;
    port.name = s.vxlan.name;
    port.vlans = vlan_table_of(s.bridge.vids, s.bridge.pvid);
    s.ports.push_back(port);
  } else {
    for (unsigned i = static_cast<unsigned>(random() % 5); i > 0; --i)
      s.ports.push_back(random_port(random, i, s.bridge));
  }
  if (flip()) s.dataplane.lcores = "1-2,4";
  s.dataplane.poll = static_cast<Poll>(random() % 2);
  if (flip()) s.dataplane.stale_after_ms = static_cast<std::uint32_t>(40 + random() % 9961);
  return s;
}

TEST(ConfigPrint, WhatIsPrintedReadsBackEqual) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 300 && !HasFatalFailure(); ++round) {
    SCOPED_TRACE(round);
    expect_round_trip(random_settings(random));
  }
}

TEST(ConfigPrint, EveryKeyIsPrinted) {
  const Settings settings = *load("config/noble/xenon.conf", kNoHost).settings;
  const std::string text = print(settings);
  for (const Key& key : all_keys())
    if (key.name != "takeover") {
      EXPECT_THAT(text, HasSubstr(fmt::format("\n{} = ", key.name)));
    }
}

}  // namespace
}  // namespace vx::config
