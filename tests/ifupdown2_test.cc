// SPDX-License-Identifier: Apache-2.0
// config/ifupdown2.h and the import of its stanzas: the files that Proxmox VE keeps are a whole
// configuration.
#include "config/ifupdown2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "config/load.h"
#include "config/print.h"
#include "config/values.h"
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

const HostFacts kNoHost;

const std::string kUnderlay =
    "auto enp35s0.4003\niface enp35s0.4003 inet static\n        address 172.18.1.1/24\n        "
    "vlan-raw-device enp35s0\n        mtu 1400\n";
const std::string kSdn =
    "auto vxlan_mainvx\niface vxlan_mainvx\n        vxlan-id 1000\n        vxlan_remoteip "
    "172.18.1.2\n        mtu 1332\n\n"
    "auto mainvx\niface mainvx\n        bridge_ports vxlan_mainvx\n        bridge_stp off\n        "
    "bridge_fd 0\n"
    "        bridge-vlan-aware yes\n        bridge-vids 2-4094\n        mtu 1332\n";

struct Host {
  Directory directory;
  // An INI file that imports `interfaces`, and then says `rest`.
  LoadResult load(const std::string& interfaces, const std::string& rest = {},
                  const HostFacts& facts = kNoHost) const {
    directory.write("interfaces", interfaces);
    return config::load(directory.write("f", "interfaces = interfaces\n" + rest), facts);
  }
  Lines problems(const std::string& interfaces, const std::string& rest = {}) const {
    return directory.lines(load(interfaces, rest).problems);
  }
};

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), with);
}

// ---- the files ----

Interfaces read(const std::string& path) {
  Interfaces interfaces;
  read_interfaces(path, {"f", 1}, "interfaces", interfaces);
  return interfaces;
}

TEST(Ifupdown2, StanzasCommentsAndContinuationLines) {
  const Directory directory;
  const auto path = directory.write("i",
                                    "# comment\nauto lo eth0\niface lo inet loopback\n\n  iface "
                                    "eth0 inet static\n\taddress 10.0.0.1/8\n"
                                    "    # iface hidden\n    bridge_ports a \\\n        b \\\n     "
                                    "   c\n\nmapping x\n    script y\niface eth0 inet6 static\n"
                                    "    address fd00::1\n    netmask 64\n");
  const Interfaces interfaces = read(path);
  EXPECT_THAT(interfaces.problems, IsEmpty());
  ASSERT_EQ(interfaces.stanzas.size(), 2u);
  const Stanza& eth0 = interfaces.stanzas[1];
  EXPECT_EQ(eth0.name, "eth0");
  EXPECT_EQ(eth0.origin.line, 5u);
  ASSERT_NE(eth0.find("bridge-ports"), nullptr);
  EXPECT_THAT(split_words(eth0.find("bridge-ports")->value), ElementsAre("a", "b", "c"));
  EXPECT_EQ(eth0.find("bridge-ports")->origin.line, 8u);
  std::vector<Problem> problems;
  const auto addresses = addresses_of(eth0, problems);
  ASSERT_EQ(addresses.size(), 2u);
  EXPECT_EQ(addresses[1].address.ip, ip("fd00::1"));
  EXPECT_EQ(addresses[1].address.prefix, 64u);
  EXPECT_EQ(addresses[1].origin.line, 15u);
}

TEST(Ifupdown2, NetmaskForms) {
  const auto prefix = [](const std::string& lines) {
    const Directory directory;
    std::vector<Problem> problems;
    const auto addresses =
        addresses_of(read(directory.write("i", "iface e\n" + lines)).stanzas.at(0), problems);
    return addresses.empty() ? 999u : addresses[0].address.prefix;
  };
  EXPECT_EQ(prefix("address 10.0.0.1/24"), 24u);
  EXPECT_EQ(prefix("address 10.0.0.1\nnetmask 255.255.240.0"), 20u);
  EXPECT_EQ(prefix("address 10.0.0.1\nnetmask 255.255.255.255"), 32u);
  EXPECT_EQ(prefix("address 10.0.0.1\nnetmask 0.0.0.0"), 0u);
  EXPECT_EQ(prefix("address 10.0.0.1\nnetmask 22"), 22u);
  EXPECT_EQ(prefix("address 10.0.0.1"), 32u);
  EXPECT_EQ(prefix("address 10.0.0.1\nnetmask 255.0.255.0"), 32u);  // told, not used
  EXPECT_EQ(prefix("address 10.0.0.1/33"), 999u);
}

TEST(Ifupdown2, SourcesGlobsDirectoriesAndEachFileOnce) {
  const Directory directory;
  directory.write("d/sdn", "iface a\n");
  directory.write("d/b.cfg", "iface b\nsource ../i\n");  // back again
  directory.write("e/plain", "iface c\n");
  directory.write("e/not.plain", "iface hidden\n");
  const Interfaces interfaces = read(directory.write(
      "i", "source d/*\nsource-directory e\nsource none/*\nsource gone\nsource d/sdn\n"));
  std::vector<std::string> names;
  for (const Stanza& stanza : interfaces.stanzas) names.push_back(stanza.name);
  EXPECT_THAT(names, ElementsAre("b", "a", "c"));
  EXPECT_THAT(directory.lines(interfaces.problems),
              ElementsAre("i:4: source: warning: gone cannot be read: No such file or directory"));
}

TEST(Ifupdown2, VlanDeviceNames) {
  const auto vlan = [](const std::string& stanza) {
    const Directory directory;
    const VlanOf found = vlan_of(read(directory.write("i", stanza)).stanzas.at(0));
    return found.raw_device + "/" + std::to_string(found.vid);
  };
  EXPECT_EQ(vlan("iface enp35s0.4003\n"), "enp35s0/4003");
  EXPECT_EQ(vlan("iface enp35s0.4003\nvlan-raw-device enp35s0\n"), "enp35s0/4003");
  EXPECT_EQ(vlan("iface vlan4003\nvlan_raw_device eno1\n"), "eno1/4003");
  EXPECT_EQ(vlan("iface vxlan\nvlan-raw-device eno1\nvlan-id 12\n"), "eno1/12");
  EXPECT_EQ(vlan("iface enp35s0\n"), "enp35s0/0");
  EXPECT_EQ(vlan("iface eth0.5000\n"), "eth0.5000/0");
}

// ---- what they mean ----

TEST(Ifupdown2Import, TheTwoFilesOfSection1AreAWholeConfiguration) {
  const Directory directory;
  directory.write("interfaces", kUnderlay);
  directory.write("sdn", kSdn);
  const LoadResult result =
      load(directory.write("f", "interfaces = interfaces\ninterfaces = sdn\n"), kNoHost);
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  EXPECT_THAT(result.problems, IsEmpty());
  const Settings& s = *result.settings;
  EXPECT_EQ(s.vxlan.name, "vxlan_mainvx");
  EXPECT_EQ(s.vxlan.vni, 1000u);
  EXPECT_EQ(s.vxlan.local, ip("172.18.1.1"));
  EXPECT_THAT(s.vxlan.remotes, ElementsAre(ip("172.18.1.2")));
  EXPECT_EQ(s.vxlan.port, 4789);
  EXPECT_EQ(s.vxlan.mtu, 1332);
  EXPECT_EQ(s.underlay.device, "enp35s0");
  EXPECT_EQ(s.underlay.vlan, 4003);
  EXPECT_EQ(s.underlay.mtu, 1400);
  EXPECT_EQ(s.bridge.name, "mainvx");
  EXPECT_EQ(to_text(s.bridge.vids, ','), "2-4094");
  EXPECT_EQ(s.mode, Mode::kNetdev);
  ASSERT_EQ(s.ports.size(), 1u);
  EXPECT_EQ(s.ports[0].name, "vxlan_mainvx");
  EXPECT_EQ(s.ports[0].driver, Driver::kTap);
}

TEST(Ifupdown2Import, PortLinesMakeItBridgeMode) {
  const Host host;
  const LoadResult result = host.load(kUnderlay + kSdn, "[port]\nport = tap100i0 driver=netdev\n");
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->mode, Mode::kBridge);
  EXPECT_EQ(result.settings->ports.size(), 1u);
}

TEST(Ifupdown2Import, BridgeWithOtherPortsIsNotTakenForNetdevMode) {
  const Host host;
  const LoadResult result = host.load(
      kUnderlay + replaced(kSdn, "bridge_ports vxlan_mainvx", "bridge-ports eno2 vxlan_mainvx"));
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->mode, Mode::kBridge);
}

TEST(Ifupdown2Import, ExplicitKeysWin) {
  const Host host;
  const LoadResult result = host.load(kUnderlay + kSdn,
                                      "[vxlan]\nvxlan-id = 7\nvxlan-remoteip = 172.18.1.9\nmtu = "
                                      "1300\n[underlay]\nmtu = 1390\n[bridge]\nbridge-vids = 5\n");
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  EXPECT_EQ(result.settings->vxlan.vni, 7u);
  EXPECT_THAT(result.settings->vxlan.remotes, ElementsAre(ip("172.18.1.9")));
  EXPECT_EQ(result.settings->vxlan.mtu, 1300);
  EXPECT_EQ(result.settings->underlay.mtu, 1390);
  EXPECT_EQ(to_text(result.settings->bridge.vids, ','), "5");
  EXPECT_EQ(result.settings->vxlan.local, ip("172.18.1.1"));
}

TEST(Ifupdown2Import, OwnAddressAmongTheRemotesIsLeftOut) {
  const Host host;
  const std::string sdn = replaced(kSdn, "vxlan_remoteip 172.18.1.2",
                                   "vxlan_remoteip 172.18.1.1\n        vxlan_remoteip 172.18.1.2");
  EXPECT_THAT(
      host.problems(kUnderlay + sdn),
      ElementsAre(
          "interfaces:9: vxlan-remoteip: warning: 172.18.1.1 is our own address: left out"));
  EXPECT_THAT(host.load(kUnderlay + sdn).settings->vxlan.remotes, ElementsAre(ip("172.18.1.2")));
}

TEST(Ifupdown2Import, NamePicksOneOfSeveralTunnels) {
  const Host host;
  const std::string two =
      kUnderlay + kSdn +
      "iface vxlan_b\n    vxlan-id 2000\n    vxlan-remoteip 172.18.1.2\n    mtu 1332\n";
  EXPECT_THAT(host.problems(two),
              ElementsAre("f:1: interfaces: several vxlan stanzas (vxlan_mainvx, vxlan_b): pick "
                          "one by name = in [vxlan]"));
  const LoadResult picked = host.load(two, "[vxlan]\nname = vxlan_b\n");
  ASSERT_TRUE(picked.settings);
  EXPECT_EQ(picked.settings->vxlan.vni, 2000u);
  EXPECT_EQ(picked.settings->bridge.name, "");
  EXPECT_THAT(
      host.problems(two, "[vxlan]\nname = vxlan_c\n"),
      ElementsAre(
          "f:3: name: 'vxlan_c' is no vxlan stanza of the imported files (vxlan_mainvx, vxlan_b)"));
}

TEST(Ifupdown2Import, NoTunnelAtAllIsOneProblem) {
  const Host host;
  EXPECT_THAT(
      host.problems(kUnderlay),
      ElementsAre(
          "f:1: interfaces: there is no vxlan stanza (one with vxlan-id) in the imported files"));
}

TEST(Ifupdown2Import, WholeVxlanSectionMayImportTheUnderlayOnly) {
  const Host host;
  const LoadResult result = host.load(
      kUnderlay, "[vxlan]\nname = vx0\nvxlan-id = 5\nvxlan-remoteip = 172.18.1.2\nmtu = 1332\n");
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  EXPECT_EQ(result.settings->vxlan.local, ip("172.18.1.1"));
  EXPECT_EQ(result.settings->underlay.vlan, 4003);
}

TEST(Ifupdown2Import, SdnFileAloneAsksTheHost) {
  const Host host;
  EXPECT_THAT(host.problems(kSdn),
              ElementsAre(HasSubstr("f:1: vxlan-local-tunnelip: is missing, and neither"),
                          "f:1: device: is missing: [underlay] needs it"));
  HostFacts facts;
  facts.interfaces = [] {
    return std::vector<HostInterface>{
        {"enp35s0.4003", "enp35s0", 4003, 1400, {{ip("172.18.1.1"), 24}}}};
  };
  facts.route_source = [](const IpAddress&) { return ip("172.18.1.1"); };
  const LoadResult live = host.load(kSdn, {}, facts);
  const LoadResult both = host.load(kUnderlay + kSdn);
  ASSERT_TRUE(live.settings && both.settings);
  EXPECT_EQ(*live.settings, *both.settings);
}

TEST(Ifupdown2Import, NarrowestSubnetWithARemoteIsTheUnderlay) {
  const Host host;
  const LoadResult result =
      host.load("iface wide\n    address 172.18.0.1/16\n    mtu 1500\n" + kUnderlay + kSdn);
  ASSERT_TRUE(result.settings);
  EXPECT_EQ(result.settings->underlay.device, "enp35s0");
}

TEST(Ifupdown2Import, EveryAttributeOfTheTunnelIsRead) {
  const Host host;
  const LoadResult result = host.load(
      "iface eno1\n    address 10.1.0.1/24\n    mtu 9000\n"
      "iface vx\n    vxlan-id 5\n    vxlan-local-tunnelip 10.9.9.9\n    vxlan-remoteip 10.1.0.2 "
      "10.1.0.3\n    vxlan_remoteip 10.1.0.4\n"
      "    vxlan-svcnodeip 10.1.0.5\n    vxlan-port 8472\n    vxlan-learning no\n    vxlan-ttl "
      "auto\n    vxlan-tos inherit\n    vxlan-ageing 60\n"
      "    vxlan-physdev eno1\n    vxlan-weird 1\n    bridge-vids 10 20-30\n    bridge-pvid 10\n   "
      " mtu 8000\n"
      "iface br\n    bridge-ports vx\n    bridge-vlan-aware yes\n    bridge-vids 2-4094\n");
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  const Settings& s = *result.settings;
  EXPECT_THAT(host.directory.lines(result.problems),
              ElementsAre("interfaces:16: vxlan-weird: warning: is not imported"));
  EXPECT_EQ(s.vxlan.local, ip("10.9.9.9"));
  EXPECT_THAT(s.vxlan.remotes,
              ElementsAre(ip("10.1.0.2"), ip("10.1.0.3"), ip("10.1.0.4"), ip("10.1.0.5")));
  EXPECT_EQ(s.vxlan.port, 8472);
  EXPECT_FALSE(s.vxlan.learning);
  EXPECT_EQ(s.vxlan.ttl, 64);
  EXPECT_TRUE(s.vxlan.tos_inherit);
  EXPECT_EQ(s.bridge.ageing_s, 60u);
  EXPECT_EQ(s.underlay.device, "eno1");
  EXPECT_EQ(s.underlay.vlan, 0);
  EXPECT_EQ(s.underlay.mtu, 9000);
  EXPECT_EQ(to_text(s.bridge.vids, ','), "10,20-30");
  EXPECT_EQ(s.bridge.pvid, 10);
}

TEST(Ifupdown2Import, ProblemsNameTheStanzasLine) {
  const Host host;
  EXPECT_THAT(
      host.problems(kUnderlay + replaced(kSdn, "vxlan-id 1000", "vxlan-id big")),
      ElementsAre("interfaces:8: vxlan-id: 'big' is not a whole number from 1 to 16777215"));
  EXPECT_THAT(host.problems(kUnderlay + replaced(kSdn, "mtu 1332", "mtu 1400")),
              ElementsAre("interfaces:10: mtu: 1400 does not fit: at most 1350, an underlay MTU of "
                          "1400 less 50 bytes of VXLAN over IPv4"));
  EXPECT_THAT(
      host.problems(kUnderlay + replaced(kSdn, "vxlan_remoteip 172.18.1.2",
                                         "vxlan-mcastgrp 239.1.1.1\n  vxlan_remoteip 172.18.1.2")),
      ElementsAre("interfaces:9: vxlan-remoteip: '239.1.1.1' is a multicast group: name each VTEP "
                  "instead, flooding replicates to them"));
}

TEST(Ifupdown2Import, BridgeThatIsNotVlanAwareIsToldOf) {
  const Host host;
  EXPECT_THAT(
      host.problems(kUnderlay + replaced(kSdn, "bridge-vlan-aware yes", "bridge-vlan-aware no")),
      ElementsAre("interfaces:17: bridge-vlan-aware: warning: mainvx is not VLAN-aware: taken as "
                  "bridge-vids 2-4094 and bridge-pvid 1"));
}

TEST(Ifupdown2Import, BridgeAsUnderlayIsToldOf) {
  const Host host;
  const std::string vmbr =
      "iface vmbr0 inet static\n    address 172.18.1.1/24\n    bridge-ports eno1\n    mtu 1400\n";
  EXPECT_THAT(host.problems(vmbr + kSdn),
              ElementsAre("interfaces:1: device: warning: vmbr0 is a bridge: name the NIC below it "
                          "by device = in [underlay]"));
}

// ---- config/noble ----

std::string check_output(const std::vector<std::string>& paths) {
  std::ostringstream out, err;
  EXPECT_EQ(control::print_effective(load_all(paths, kNoHost), out, err), 0);
  EXPECT_EQ(err.str(), "");
  return out.str();
}

std::string xenon_golden(const std::string& mode, const std::string& ports,
                         const std::string& lcores) {
  return "# " + mode + R"(
# MTU arithmetic, in bytes of IP packet: underlay 1400, overlay 1332
# VXLAN over IPv4 costs 50: 20 IPv4 + 8 UDP + 8 VXLAN + 14 inner Ethernet
# guest packets, untagged:           1400 - 50     = 1350 at most; 1332 fits, 18 to spare
# guest packets, one 802.1Q tag:     1400 - 50 - 4 = 1346 at most; 1332 fits, 14 to spare
# guest packets, two tags:           1400 - 50 - 8 = 1342 at most; 1332 fits, 10 to spare
[vxlan]
name = vxlan_mainvx
vxlan-id = 1000
vxlan-local-tunnelip = 172.18.1.1
vxlan-remoteip = 172.18.1.2
vxlan-port = 4789
vxlan-learning = yes
vtep-learning = no
udp-csum = yes
vxlan-ttl = 64
vxlan-tos = 0
mss-clamp = no
hold-port = yes
replace-kernel = no
mtu = 1332
[underlay]
device = enp35s0
driver = af_xdp
vlan = 4003
vtep-address = kernel
mtu = 1400
[bridge]
name = mainvx
bridge-vids = 2-4094
bridge-pvid = 1
bridge-ageing = 300
fdb-max-learned = 65536
[port]
)" + ports +
         "[dataplane]\n" + lcores + "poll = adaptive\nstale-after = 50\n";
}

const std::string kBridgeMode = "bridge mode: vxplane is the bridge and the tunnel";
const std::string kNetdevMode =
    "netdev mode: a tap stands in the kernel's bridge for the vxlan device";
const std::string kPorts =
    "port = tap100i0 driver=netdev\nport = guest1 driver=tap bridge-access=100\n"
    "port = guest2 driver=tap bridge-vids=10-20 bridge-pvid=10 bridge-untagged=11 "
    "fdb-max-learned=64 storm-pps=1000\n";

// xenon's figures with krypton's addresses.
std::string mirrored(std::string text) {
  text = replaced(text, "tunnelip = 172.18.1.1\n", "tunnelip = 172.18.1.2\n");
  return replaced(text, "remoteip = 172.18.1.2\n", "remoteip = 172.18.1.1\n");
}

TEST(Noble, IniFilesCheckToTheGolden) {
  const std::string golden = xenon_golden(kBridgeMode, kPorts, "lcores = 1\n");
  EXPECT_EQ(check_output({"config/noble/xenon.conf"}), golden);
  EXPECT_EQ(check_output({"config/noble/krypton.conf"}), mirrored(golden));
}

TEST(Noble, InterfacesFilesCheckToTheGolden) {
  const std::string golden = xenon_golden(kNetdevMode, "port = vxlan_mainvx driver=tap\n", "");
  EXPECT_EQ(check_output({"config/noble/xenon-from-interfaces.conf"}), golden);
  EXPECT_EQ(check_output({"config/noble/krypton-from-interfaces.conf"}), mirrored(golden));
}

TEST(Noble, BothInputsWithTheSamePortsAreTheSameConfiguration) {
  for (const std::string node : {"xenon", "krypton"}) {
    const Directory directory;
    const std::string interfaces =
        std::filesystem::absolute("config/noble/" + node + "/interfaces").string();
    const std::string path = directory.write(
        "f", "interfaces = " + interfaces + "\n[port]\n" + kPorts + "[dataplane]\nlcores = 1\n");
    EXPECT_EQ(check_output({path}), check_output({"config/noble/" + node + ".conf"}));
  }
}

TEST(Noble, ExampleIsValidAndNamesEveryDefault) {
  const LoadResult result = load("config/example.conf", kNoHost);
  ASSERT_TRUE(result.settings) << to_string(result.problems.at(0));
  EXPECT_THAT(result.problems, IsEmpty());
}

TEST(Check, PrintsAllProblemsAndExits2) {
  const Directory directory;
  const std::string path =
      directory.write("f",
                      "[vxlan]\nname = vx0\nvxlan-id = 0\nvxlan-local-tunnelip = "
                      "1.1.1.1\nvxlan-remoteip = 1.1.1.2\nmtu = 1500\n[underlay]\ndevice = e\n");
  std::ostringstream out, err;
  EXPECT_EQ(control::print_effective(load_all({path}, kNoHost), out, err), 2);
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(err.str(), path + ":3: vxlan-id: '0' is not a whole number from 1 to 16777215\n" +
                           path +
                           ":6: mtu: 1500 does not fit: at most 1450, an underlay MTU of 1500 less "
                           "50 bytes of VXLAN over IPv4\n");
}

TEST(Check, WarningsAloneExit0) {
  const Directory directory;
  const std::string path = directory.write(
      "f",
      "[vxlan]\nname = vx0\nvxlan-id = 1\nvxlan-local-tunnelip = 1.1.1.1\nvxlan-remoteip = "
      "1.1.1.2\nmtu = 1449\n[underlay]\ndevice = e\n[bridge]\nbridge-vids = 2\n");
  std::ostringstream out, err;
  EXPECT_EQ(control::print_effective(load_all({path}, kNoHost), out, err), 0);
  EXPECT_THAT(err.str(), HasSubstr(":6: mtu: warning: 1449 fits untagged only"));
  EXPECT_THAT(out.str(), HasSubstr("mtu = 1449"));
}

}  // namespace
}  // namespace vx::config
