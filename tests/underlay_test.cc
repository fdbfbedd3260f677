// SPDX-License-Identifier: Apache-2.0
// The kernel's routes and neighbours followed: decisions on a kernel of the test's own with fake time, then the
// real one between two network namespaces.
#include "control/underlay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "control/text.h"

namespace vx::control {
namespace {

const IpAddress kRemote = IpAddress::v4(172, 18, 1, 2), kGateway = IpAddress::v4(172, 18, 1, 254);
constexpr MacAddress kMac1{{2, 0, 0, 0, 0, 1}}, kMac2{{2, 0, 0, 0, 0, 2}}, kOurMac{{2, 0, 0, 0, 0, 9}};

Link device(int ifindex, const std::string& name) {
  Link link;
  link.ifindex = ifindex;
  link.name = name;
  link.mac = kOurMac;
  link.is_up = true;
  return link;
}

class TestKernel : public KernelNetwork {
 public:
  std::vector<Link> links() override { return all_links; }
  std::vector<Neighbour> neighbours(int) override { return all_neighbours; }
  std::vector<InterfaceIp> addresses() override { return all_addresses; }
  std::optional<Route> route_to(const IpAddress&, const std::optional<IpAddress>&) override { return route; }
  int use_neighbour(int, const IpAddress& address) override {
    used.push_back(address);
    return 0;
  }
  int probe_neighbour(int, const IpAddress& address) override {
    probed.push_back(address);
    return 0;
  }
  std::vector<Link> all_links{device(2, "eth0")};
  std::vector<Neighbour> all_neighbours;
  std::vector<InterfaceIp> all_addresses;
  std::optional<Route> route = Route{2, std::nullopt, std::nullopt, 0, true};
  std::vector<IpAddress> used, probed;
};

class UnderlayTest : public testing::Test {
 protected:
  void start() {
    underlay.resync(1000);
    underlay.watch({{kRemote, std::nullopt}}, 1000);
  }
  // An event as the kernel sends it.
  void neighbour(std::uint16_t type, const IpAddress& address, std::uint16_t state, const MacAddress& mac, Milliseconds now) {
    alignas(8) char buffer[256]{};
    nlmsghdr* message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = type;
    auto* header = static_cast<ndmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ndmsg)));
    header->ndm_family = AF_INET;
    header->ndm_ifindex = 2;
    header->ndm_state = state;
    mnl_attr_put(message, NDA_DST, 4, address.v4_bytes());
    if (!mac.is_zero()) mnl_attr_put(message, NDA_LLADDR, 6, mac.bytes.data());
    underlay.on_event(message, now);
    underlay.tick(now);
  }
  const VtepPath& path() { return underlay.paths().at(kRemote); }

  TestKernel kernel;
  Underlay underlay{kernel, {"eth0", 0}};
};

TEST_F(UnderlayTest, MakesTheKernelResolveAndTakesTheAnswer) {
  start();
  EXPECT_FALSE(path().is_resolved);
  EXPECT_EQ(kernel.used, std::vector{kRemote});
  neighbour(RTM_NEWNEIGH, kRemote, NUD_REACHABLE, kMac1, 1100);
  EXPECT_TRUE(path().is_resolved);
  EXPECT_EQ(path().next_hop, kMac1);
  EXPECT_TRUE(underlay.take_changed());
  EXPECT_EQ(underlay.source_mac(), kOurMac);
}

TEST_F(UnderlayTest, KeepsAskingWhetherTheNeighbourIsStillThere) {
  start();
  neighbour(RTM_NEWNEIGH, kRemote, NUD_REACHABLE, kMac1, 1100);
  for (Milliseconds now = 1250; now <= 13250; now += 250) underlay.tick(now);
  EXPECT_EQ(kernel.probed.size(), 3u) << "every four seconds";
}

TEST_F(UnderlayTest, FollowsANewMacAtOnce) {
  start();
  neighbour(RTM_NEWNEIGH, kRemote, NUD_REACHABLE, kMac1, 1100);
  neighbour(RTM_NEWNEIGH, kRemote, NUD_STALE, kMac2, 1200);
  EXPECT_EQ(path().next_hop, kMac2);
}

TEST_F(UnderlayTest, AFailingNeighbourIsAskedAnewBeforeItIsGivenUp) {
  start();
  neighbour(RTM_NEWNEIGH, kRemote, NUD_REACHABLE, kMac1, 1100);
  kernel.used.clear();
  neighbour(RTM_NEWNEIGH, kRemote, NUD_FAILED, {}, 5000);
  EXPECT_EQ(kernel.used.size(), 1u);
  EXPECT_TRUE(path().is_resolved) << "the old MAC serves meanwhile";
  underlay.tick(9500);
  EXPECT_FALSE(path().is_resolved);
  EXPECT_NE(path().problem.find("172.18.1.2"), std::string::npos);
}

TEST_F(UnderlayTest, AGatewayIsTheNextHop) {
  kernel.route->gateway = kGateway;
  start();
  EXPECT_EQ(kernel.used, std::vector{kGateway});
  neighbour(RTM_NEWNEIGH, kGateway, NUD_REACHABLE, kMac2, 1100);
  EXPECT_EQ(path().next_hop, kMac2);
}

TEST_F(UnderlayTest, ARouteOutOfAnotherDeviceIsAProblem) {
  kernel.all_links.push_back(device(3, "eth1"));
  kernel.route->ifindex = 3;
  start();
  EXPECT_FALSE(path().is_resolved);
  EXPECT_NE(path().problem.find("eth1"), std::string::npos);
}

TEST_F(UnderlayTest, ALearnedPathMtuIsSeen) {
  start();
  kernel.route->mtu = 1300;
  underlay.tick(6000);
  EXPECT_EQ(path().mtu, 1300);
}

TEST_F(UnderlayTest, APermanentNeighbourIsNotProbed) {
  start();
  neighbour(RTM_NEWNEIGH, kRemote, NUD_PERMANENT, kMac1, 1100);
  for (Milliseconds now = 1250; now <= 13250; now += 250) underlay.tick(now);
  EXPECT_TRUE(kernel.probed.empty());
  EXPECT_TRUE(path().is_resolved);
}

TEST_F(UnderlayTest, TheVlanDeviceOnTheUnderlayIsOurs) {
  Underlay tagged(kernel, {"eth0", 4003});
  Link vlan = device(5, "eth0.4003");
  vlan.kind = "vlan", vlan.vid = 4003, vlan.lower = 2;
  kernel.all_links.push_back(vlan);
  kernel.route->ifindex = 5;
  kernel.all_addresses = {{2, IpAddress::v4(192, 0, 2, 1), 24}, {5, IpAddress::v4(172, 18, 1, 1), 24}};
  tagged.resync(1000);
  tagged.watch({{kRemote, std::nullopt}}, 1000);
  EXPECT_TRUE(tagged.paths().at(kRemote).problem.find("leads out of") == std::string::npos);
  EXPECT_EQ(tagged.local_towards(kRemote), IpAddress::v4(172, 18, 1, 1));
}

// driver = udp: the kernel sends.
TEST_F(UnderlayTest, WithSocketsARouteOutOfAnyDeviceIsEnough) {
  Underlay routed(kernel, {"eth0", 4003, true});
  kernel.all_links.push_back(device(3, "wg0"));
  kernel.all_links.back().mtu = 1420;
  kernel.route = Route{3, kGateway, std::nullopt, 0, true};
  routed.resync(1000);
  routed.watch({{kRemote, std::nullopt}}, 1000);
  const auto path = [&]() -> const VtepPath& { return routed.paths().at(kRemote); };
  EXPECT_TRUE(path().is_resolved);
  EXPECT_TRUE(path().next_hop.is_zero());
  EXPECT_EQ(path().mtu, 1420) << "the device's";
  EXPECT_EQ(path().problem, "");
  EXPECT_FALSE(routed.problem());
  EXPECT_TRUE(routed.source_mac().is_zero());
  for (Milliseconds now = 1250; now <= 13250; now += 250) routed.tick(now);
  EXPECT_TRUE(kernel.used.empty());
  EXPECT_TRUE(kernel.probed.empty());
  kernel.route->mtu = 1300;  // learnt by ICMP
  routed.tick(18000);
  EXPECT_EQ(path().mtu, 1300);
  kernel.route->is_unicast = false;
  routed.tick(23000);
  EXPECT_FALSE(path().is_resolved);
  EXPECT_NE(path().problem.find("no route"), std::string::npos);
  kernel.route->is_local = true;  // a VTEP on this host
  routed.tick(28000);
  EXPECT_TRUE(path().is_resolved);
}

TEST(Rtnetlink, TruncatedMessagesAreIgnored) {
  alignas(8) char buffer[256]{};
  for (const std::uint16_t type : {RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWADDR}) {
    nlmsghdr* message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = type;
    EXPECT_FALSE(parse_link(message));
    EXPECT_FALSE(parse_neighbour(message));
    EXPECT_FALSE(parse_route(message));
    EXPECT_FALSE(parse_address(message));
    EXPECT_TRUE(parse_bridge_vlans(message).empty());
  }
}

// ---- the real kernel ----

bool run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

// Two namespaces joined by a veth; the test process stands in the first for as long as this lives.
class Namespaces {
 public:
  Namespaces() : suffix_(std::to_string(getpid())), home_(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
    is_ready = geteuid() == 0 && run("ip netns add vxu1" + suffix_) && run("ip netns add vxu2" + suffix_) &&
               run("ip link add wire netns vxu1" + suffix_ + " type veth peer name wire netns vxu2" + suffix_) &&
               in(1, "ip addr add 172.18.1.1/24 dev wire") && in(1, "ip link set wire up") &&
               in(2, "ip addr add 172.18.1.2/24 dev wire") && in(2, "ip link set wire up");
    if (!is_ready) return;
    const int here = open(("/run/netns/vxu1" + suffix_).c_str(), O_RDONLY | O_CLOEXEC);
    is_ready = here >= 0 && setns(here, CLONE_NEWNET) == 0;
    if (here >= 0) close(here);
  }
  ~Namespaces() {
    if (setns(home_, CLONE_NEWNET) != 0) std::abort();
    close(home_);
    run("ip netns del vxu1" + suffix_);
    run("ip netns del vxu2" + suffix_);
  }
  bool in(int which, const std::string& command) {
    return run("ip netns exec vxu" + std::to_string(which) + suffix_ + " " + command);
  }
  bool is_ready = false;

 private:
  std::string suffix_;
  int home_;
};

class RealUnderlay : public testing::Test {
 protected:
  void SetUp() override {
    if (!namespaces.is_ready) GTEST_SKIP() << "needs root, ip(8) and network namespaces";
    kernel = std::make_unique<RouteSocket>();
    underlay = std::make_unique<Underlay>(*kernel, Underlay::Device{"wire", 0});
    underlay->resync(EventLoop::now());
    underlay->watch({{kRemote, IpAddress::v4(172, 18, 1, 1)}}, EventLoop::now());
  }
  // As Control does it: events as they come, a tick every quarter of a second.
  template <typename Condition>
  bool eventually(Condition is_so, Milliseconds within) {
    const Milliseconds end = EventLoop::now() + within;
    while (!is_so() && EventLoop::now() < end) {
      pollfd ready{kernel->event_fd(), POLLIN, 0};
      poll(&ready, 1, 250);
      const Milliseconds now = EventLoop::now();
      if (!kernel->read_events([&](const nlmsghdr* message) { underlay->on_event(message, now); })) underlay->resync(now);
      underlay->tick(now);
    }
    return is_so();
  }
  const VtepPath& path() { return underlay->paths().at(kRemote); }
  bool has_mac(const char* mac) { return path().is_resolved && format_mac(path().next_hop) == mac; }

  Namespaces namespaces;
  std::unique_ptr<RouteSocket> kernel;
  std::unique_ptr<Underlay> underlay;
};

TEST_F(RealUnderlay, ResolvesWithoutAnyTrafficOfTheHost) {
  EXPECT_TRUE(eventually([&] { return path().is_resolved; }, 5000));
}

TEST_F(RealUnderlay, AMacChangedInSilenceIsFollowedWithinTenSeconds) {
  ASSERT_TRUE(eventually([&] { return path().is_resolved; }, 5000));
  // Neither gratuitous ARP nor link flap: the peer answers from another MAC from now on.
  ASSERT_TRUE(namespaces.in(2, "sysctl -w net.ipv4.conf.wire.arp_notify=0"));
  ASSERT_TRUE(namespaces.in(2, "ip link set wire address 02:00:00:00:aa:bb"));
  EXPECT_TRUE(eventually([&] { return has_mac("02:00:00:00:aa:bb"); }, 10000));
}

TEST_F(RealUnderlay, ARouteChangeToAGatewayIsFollowedWithinASecond) {
  ASSERT_TRUE(eventually([&] { return path().is_resolved; }, 5000));
  ASSERT_TRUE(namespaces.in(2, "ip link add gw type veth peer name gw2"));
  ASSERT_TRUE(namespaces.in(2, "ip addr add 172.18.1.254/24 dev wire"));
  ASSERT_TRUE(namespaces.in(1, "ip neigh add 172.18.1.254 lladdr 02:00:00:00:cc:dd dev wire nud permanent"));
  ASSERT_TRUE(namespaces.in(1, "ip route add 172.18.1.2/32 via 172.18.1.254 dev wire mtu 1300"));
  EXPECT_TRUE(eventually([&] { return has_mac("02:00:00:00:cc:dd"); }, 1000));
  EXPECT_EQ(path().mtu, 1300);
}

TEST_F(RealUnderlay, ALinkFlapHealsWithinASecond) {
  ASSERT_TRUE(eventually([&] { return path().is_resolved; }, 5000));
  ASSERT_TRUE(namespaces.in(1, "ip link set wire down"));
  EXPECT_TRUE(eventually([&] { return !path().is_resolved; }, 1000)) << "no route";
  ASSERT_TRUE(namespaces.in(1, "ip link set wire up"));
  EXPECT_TRUE(eventually([&] { return path().is_resolved; }, 3000));
}

TEST_F(RealUnderlay, TheLocalAddressIsTheOneInTheRemotesSubnet) {
  EXPECT_EQ(underlay->local_towards(kRemote), IpAddress::v4(172, 18, 1, 1));
}

}  // namespace
}  // namespace vx::control
