// SPDX-License-Identifier: Apache-2.0
// Taking the place of a kernel bridge and giving it back: every frame exactly once, in one of the two ways, whatever
// is switched meanwhile. Real programs, real packet sockets. Needs root.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>

#include <random>

#include "tests/offload_testkit.h"
#include "tests/takeover_testkit.h"

namespace vx::testkit {
namespace {

using testing::HasSubstr;

[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

constexpr std::uint32_t kNeverStale = 60'000;  // other load on the machine must not end a worker's turn

std::uint64_t total(const protocol::StatsReply& reply, vxp_take_exit exit) { return reply.take[exit]; }

struct Way {
  unsigned queues;
  bool uses_tcx;
};
class BothWays : public TakeoverTest, public testing::WithParamInterface<Way> {};

TEST_P(BothWays, EveryFrameGoesExactlyOneWayWhileBypassIsToggled) {
  uses_tcx_ = GetParam().uses_tcx;
  start_dataplane(GetParam().queues);
  take_both();
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 30us), back("vxd", "vxb", kFarMac, kGuestMac, 30us);
  std::mt19937 random(GetParam().queues);
  for (unsigned i = 0; i < 600; ++i) {
    bypass(i % 2 != 0, kNeverStale);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 4000));
  }
  there.stop();
  back.stop();
  for (const Traffic* t : {&there, &back}) {
    EXPECT_GT(t->sent(), 2000u);
    EXPECT_EQ(t->lost(), 0u) << "of " << t->sent();
    EXPECT_EQ(t->doubled(), 0u) << "of " << t->sent();
  }
  const auto reply = board_->stats().reply;
  EXPECT_GT(total(reply, VXP_TAKE_TAKEN), 500u);
  EXPECT_GT(total(reply, VXP_TAKE_BYPASS), 500u);
  EXPECT_EQ(total(reply, VXP_TAKE_UNFOLLOWED), 0u);
  EXPECT_EQ(total(reply, VXP_TAKE_TAKEN), reply.totals.received) << "nothing else comes in";
  EXPECT_TRUE(reply.totals.balances());
}
INSTANTIATE_TEST_SUITE_P(Queues, BothWays, testing::Values(Way{1, true}, Way{2, true}, Way{2, false}),
                         [](const auto& how) { return (how.param.uses_tcx ? "Tcx" : "Clsact") + std::to_string(how.param.queues); });

TEST_F(TakeoverTest, AttachArmDetachAndStopLoseAndDoubleNothing) {
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 100us), back("vxd", "vxb", kFarMac, kGuestMac, 100us);
  const auto a_while = [] { std::this_thread::sleep_for(40ms); };
  for (int round = 0; round < 3; ++round) {
    start_dataplane();
    take_both();
    a_while();
    bypass(false, kNeverStale);
    a_while();
    board_->delete_port("vxa");  // one way is the kernel's alone, the other ends at a port that is ours
    a_while();
    board_->add_port(taken("vxa"));
    a_while();
    stop_dataplane();
    a_while();
  }
  there.stop();
  back.stop();
  // Between a port of ours and one of the kernel's only there is no way but through the tunnel: what vxc took while vxa
  // was not ours had nowhere to go. All else is loss.
  EXPECT_EQ(there.lost(), 0u) << "of " << there.sent();
  EXPECT_EQ(there.doubled() + back.doubled(), 0u);
}

TEST_F(TakeoverTest, PortsThatGoWhileArmedLoseNothing) {
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 1000us), back("vxd", "vxb", kFarMac, kGuestMac, 1000us);
  for (int round = 0; round < 10; ++round) {
    start_dataplane();
    take_both();
    bypass(false, kNeverStale);
    std::this_thread::sleep_for(30ms);
    EXPECT_GT(total(board_->stats().reply, VXP_TAKE_TAKEN), 0u);
    stop_dataplane();
  }
  there.stop();
  back.stop();
  EXPECT_EQ(there.lost() + back.lost(), 0u) << "of " << there.sent() + back.sent();
  EXPECT_EQ(there.doubled() + back.doubled(), 0u);
}

// The kernel's vxlan device on vxu stands by for the underlay, in whose far end vxw the other VTEP speaks VXLAN.
class UnderlayTest : public TakeoverTest {
 protected:
  void SetUp() override {
    TakeoverTest::SetUp();
    if (IsSkipped()) return;
    sh("ip link add vxu type veth peer name vxw && ip link set vxu up && ip link set vxw up");
    sh("ethtool -K vxu tx off && ethtool -K vxw tx off && ip addr add 10.1.1.1/24 dev vxu"
       " && ip neigh add 10.1.1.2 lladdr " + to_string(netdev::mac("vxw")) + " dev vxu nud permanent"
       " && ip link add vx0 type vxlan id 1000 local 10.1.1.1 remote 10.1.1.2 dstport 4789 dev vxu"
       " && sysctl -qw net.ipv6.conf.vx0.disable_ipv6=1 && ip link set vx0 master br0 up && ip link del vxc");
  }
  void TearDown() override {
    stop_dataplane();
    sh("ip link del vx0; ip link del vxu");
    TakeoverTest::TearDown();
  }
  static std::string to_string(const MacAddress& mac) {
    std::array<char, 18> text;
    const auto& b = mac.bytes;
    (void)std::snprintf(text.data(), text.size(), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
    return text.data();
  }
  static Tunnel from_peer() {
    FrameBuilder outer;
    outer.eth(netdev::mac("vxu"), netdev::mac("vxw")).ipv4(kPeer, kLocal).udp(50000, kVxlanPort).no_checksum().vxlan(1000);
    return {outer, 0};
  }
  void take_underlay_and_port() {
    auto underlay = config("vxu", PortDriver::kAfXdp);
    underlay.role = protocol::PortRole::kUnderlay;
    underlay.attach_xdp_take_all = 0;
    board_->add_port(underlay);
    auto overlay = board_->overlays().front();
    overlay.local = kLocal;
    board_->set_overlay(overlay);
    protocol::UnderlayConfig c;
    (void)protocol::set_text(c.port, "vxu");
    c.mtu = 1500;
    c.hold_port = 0;
    c.takeover = 1;
    c.mac = netdev::mac("vxu");
    c.local_count = 1;
    c.local[0] = kLocal;
    board_->set_underlay(c);
    protocol::VtepConfig vtep;
    vtep.overlay = vtep.index = 0;
    vtep.address = kPeer;
    vtep.flood = vtep.resolved = 1;
    vtep.next_hop = netdev::mac("vxw");
    board_->set_vteps(std::span(&vtep, 1));
    board_->add_port(taken("vxa"));
  }
  static inline const IpAddress kLocal = IpAddress::v4(10, 1, 1, 1), kPeer = IpAddress::v4(10, 1, 1, 2);
};

TEST_F(UnderlayTest, EveryFrameOfTheTunnelGoesExactlyOneWayWhileBypassIsToggled) {
  start_dataplane();
  take_underlay_and_port();
  Traffic in("vxw", "vxb", kFarMac, kGuestMac, 60us, from_peer()), out("vxb", "vxw", kGuestMac, kFarMac, 60us, {{}, 50});
  std::mt19937 random(3);
  for (unsigned i = 0; i < 400; ++i) {
    bypass(i % 2 != 0, kNeverStale);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
  }
  in.stop();
  out.stop();
  for (const Traffic* t : {&in, &out}) {
    EXPECT_GT(t->sent(), 1000u);
    EXPECT_EQ(t->lost(), 0u) << "of " << t->sent();
    EXPECT_EQ(t->doubled(), 0u) << "of " << t->sent();
  }
  const auto reply = board_->stats().reply;
  EXPECT_GT(reply.xdp[VXP_EXIT_REDIRECTED], 200u);
  EXPECT_GT(reply.xdp[VXP_EXIT_BYPASS], 200u);
  EXPECT_TRUE(reply.totals.balances());
}

// A veth of its own kind: the driver drops what is in its ring when XDP goes.
TEST_F(UnderlayTest, AStartAndAStopOfTheUnderlayLoseNoPing) {
  Traffic in("vxw", "vxb", kFarMac, kGuestMac, 1000us, from_peer()), out("vxb", "vxw", kGuestMac, kFarMac, 1000us, {{}, 50});
  for (int round = 0; round < 5; ++round) {
    start_dataplane();
    take_underlay_and_port();
    bypass(false, kNeverStale);
    std::this_thread::sleep_for(50ms);
    EXPECT_GT(board_->stats().reply.xdp[VXP_EXIT_REDIRECTED], 0u);
    stop_dataplane();
  }
  in.stop();
  out.stop();
  EXPECT_EQ(in.lost(), 0u) << "of " << in.sent();
  EXPECT_EQ(out.lost(), 0u) << "of " << out.sent();
  EXPECT_EQ(in.doubled() + out.doubled(), 0u);
}

// The worker is stopped as by SIGSTOP: inside a signal handler.
template <long kMilliseconds>
void stand_still(int) {
  const timespec pause{kMilliseconds / 1000, kMilliseconds % 1000 * 1'000'000};
  (void)::nanosleep(&pause, nullptr);
}

TEST_F(TakeoverTest, AStallOfSomeTenthsLosesNothing) {
  struct sigaction action {};
  action.sa_handler = stand_still<300>;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
  start_dataplane();
  take_both();
  bypass(false);
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 1000us);
  std::this_thread::sleep_for(100ms);
  ASSERT_EQ(::pthread_kill(threads_[0].native_handle(), SIGUSR1), 0);
  std::this_thread::sleep_for(500ms);
  const auto reply = board_->stats().reply;
  there.stop();
  EXPECT_GT(total(reply, VXP_TAKE_STALE), 100u) << "the kernel had its turn";
  EXPECT_EQ(there.lost(), 0u) << "what was taken before is late, not lost";
  EXPECT_EQ(there.doubled(), 0u);
}

TEST_F(TakeoverTest, ALongStallCostsAtMostTheHeartbeatsAgeAndBringsNothingLate) {
  struct sigaction action {};
  action.sa_handler = stand_still<1300>;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
  start_dataplane();
  take_both();
  bypass(false);
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 1000us);
  there.late_by = 500;  // ms; load on the machine makes frames late, too
  std::this_thread::sleep_for(100ms);
  ASSERT_EQ(::pthread_kill(threads_[0].native_handle(), SIGUSR1), 0);
  std::this_thread::sleep_for(1500ms);
  const auto reply = board_->stats().reply;
  there.stop();
  EXPECT_GT(total(reply, VXP_TAKE_STALE), 100u) << "the kernel had its turn";
  EXPECT_GT(reply.drops[static_cast<std::size_t>(DropReason::kStalled)], 0u);
  EXPECT_EQ(there.lost(), reply.drops[static_cast<std::size_t>(DropReason::kStalled)]) << "nothing else is lost";
  EXPECT_LE(there.lost(), 80u) << "50 ms of 1 kHz, and some slack";
  EXPECT_LE(there.late(), 5u) << "what the worker had in its hands";
  EXPECT_EQ(there.doubled(), 0u);
}

TEST_F(TakeoverTest, AStandbysLinkAndMtuAreItsOwn) {
  start_dataplane();
  sh("ip link set vxa down");
  auto c = taken("vxa");
  c.mtu = 1280;
  board_->add_port(c);
  EXPECT_THAT(sh("ip link show vxa"), HasSubstr("mtu 1500"));
  EXPECT_THAT(sh("ip link show vxa"), HasSubstr("state DOWN"));
}

// A guest's super-frame of UDP, which not every kernel has a vnet header's word for.
TEST_F(TakeoverTest, SuperFramesOtherThanTcpsAreLeftToTheKernelsBridge) {
  start_dataplane();
  take_both();
  bypass(false, kNeverStale);
  sh("ip addr add 10.2.0.1/24 dev vxb; ip neigh add 10.2.0.2 lladdr 02:00:00:00:00:bb dev vxb");
  KernelSide far("vxd");
  const FileDescriptor guest(::socket(AF_INET, SOCK_DGRAM, 0));
  const int segment = 1000;
  ASSERT_EQ(::setsockopt(guest.get(), IPPROTO_UDP, 103 /* UDP_SEGMENT */, &segment, sizeof segment), 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = Be16(9).raw();
  to.sin_addr.s_addr = Be32(0x0a020002).raw();
  const Bytes payload(10'000, 7);
  ASSERT_EQ(::sendto(guest.get(), payload.data(), payload.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
            static_cast<ssize_t>(payload.size()));
  std::this_thread::sleep_for(100ms);
  std::size_t bytes = 0;
  while (const auto frame = far.receive())
    if (std::equal(kFarMac.bytes.begin(), kFarMac.bytes.end(), frame->begin())) bytes += frame->size() - 42;
  EXPECT_EQ(bytes, payload.size()) << "once and whole, in one piece or in segments";
  EXPECT_EQ(total(board_->stats().reply, VXP_TAKE_OTHER_GSO), 1u);
}

// Behind our back: `bpftool link detach`.
void detach_link(const std::string& netdev) {
  for (__u32 id = 0; ::bpf_link_get_next_id(id, &id) == 0;) {
    const FileDescriptor link(::bpf_link_get_fd_by_id(id));
    std::array<__u32, 64> info{};  // the headers of Debian 12 do not have tcx's part: netdev's index at byte 16
    __u32 bytes = sizeof info;
    if (!link || ::bpf_obj_get_info_by_fd(link.get(), info.data(), &bytes) != 0) continue;
    if (info[0] != 11 /* BPF_LINK_TYPE_TCX */ || info[4] != netdev::index(netdev)) continue;
    EXPECT_EQ(::bpf_link_detach(link.get()), 0);
  }
}

// How our program sits at vxa's ingress, and what takes it away. Of the two qdiscs "ingress" is somebody's (a VM's rate
// limit, which Proxmox removes and makes anew) and "clsact" our own.
struct Ingress {
  const char* name;
  bool uses_tcx;
  const char* before;  // we come
  const char* detach;  // empty: the link
  const char* after;   // as somebody goes on
  bool changes_qdisc;
  bool leaves_qdisc;   // when we have gone
};

class Detached : public TakeoverTest, public testing::WithParamInterface<Ingress> {
 protected:
  static void run(const char* command) {
    EXPECT_EQ(sh(command), "") << command;
  }
  std::uint64_t taken_now() { return total(board_->stats().reply, VXP_TAKE_TAKEN); }
};

TEST_P(Detached, CostsADuplicateACpuAndIsAttachedAnew) {
  const Ingress& how = GetParam();
  uses_tcx_ = how.uses_tcx;
  run(how.before);
  start_dataplane();
  take_both();
  bypass(false, kNeverStale);
  Traffic there("vxb", "vxd", kGuestMac, kFarMac, 200us), back("vxd", "vxb", kFarMac, kGuestMac, 200us);
  const auto look = [&] {
    std::this_thread::sleep_for(50ms);
    board_->follow_again();
    EXPECT_TRUE(board_->remove_dead_ports().empty());
  };
  for (int i = 0; i < 3; ++i) look();
  EXPECT_EQ(total(board_->stats().reply, VXP_TAKE_UNFOLLOWED), 0u);
  if (*how.detach != 0) run(how.detach);
  else detach_link("vxa");
  look();
  run(how.after);
  bypass(false, kNeverStale - 1);  // does not take it back
  const auto unfollowed = total(board_->stats().reply, VXP_TAKE_UNFOLLOWED);
  std::this_thread::sleep_for(50ms);
  EXPECT_GT(total(board_->stats().reply, VXP_TAKE_UNFOLLOWED), unfollowed) << "the kernel's bridge forwards alone";
  look();
  std::this_thread::sleep_for(20ms);
  const auto again = total(board_->stats().reply, VXP_TAKE_UNFOLLOWED);
  const auto taken_then = taken_now();
  for (int i = 0; i < 3; ++i) look();
  EXPECT_EQ(total(board_->stats().reply, VXP_TAKE_UNFOLLOWED), again) << "attached anew";
  EXPECT_GT(taken_now(), taken_then + 100);
  there.stop();
  back.stop();
  EXPECT_EQ(there.lost(), 0u) << "of " << there.sent();
  // Whenever a qdisc comes or goes the kernel sends nothing out of that netdev for some milliseconds, whoever does it.
  EXPECT_LE(back.longest_gap(), how.changes_qdisc ? 500u : 0u) << "of " << back.sent();
  EXPECT_LE(there.doubled(), std::thread::hardware_concurrency());
  EXPECT_EQ(back.doubled(), 0u);
  stop_dataplane();
  EXPECT_EQ(sh("tc filter show dev vxa ingress"), "");
  EXPECT_EQ(sh("tc qdisc show dev vxa").find("ffff:") != std::string::npos, how.leaves_qdisc);
}
void PrintTo(const Ingress& how, std::ostream* out) { *out << how.name; }
INSTANTIATE_TEST_SUITE_P(Ways, Detached,
                         testing::Values(Ingress{"Link", true, "", "", "", false, false},
                                         Ingress{"Clsact", false, "", "tc qdisc del dev vxa clsact", "", true, false},
                                         Ingress{"Filter", false, "", "tc filter del dev vxa ingress", "", false, true},
                                         Ingress{"ClsactThatIsSomebodysNow", false, "", "tc qdisc del dev vxa clsact", "tc qdisc add dev vxa clsact", true, true},
                                         Ingress{"RateLimit", false, "tc qdisc add dev vxa handle ffff: ingress", "tc qdisc del dev vxa ingress",
                                                 "tc qdisc add dev vxa handle ffff: ingress", true, true}),
                         [](const auto& how) { return std::string(how.param.name); });

// ---- deliver_ifindex ----

class Deliver : public TakeoverTest {
 protected:
  void SetUp() override {
    TakeoverTest::SetUp();
    if (IsSkipped()) return;
    sh("ip addr add 10.0.0.1/24 dev br0");
    auto c = config("vxptap", PortDriver::kTap);
    c.deliver_ifindex = netdev::index("br0");
    c.mtu = 1500;
    tap_ = make_port(c, context());
  }
  void TearDown() override {
    tap_ = {};
    TakeoverTest::TearDown();
  }
  // A UDP socket of the host on br0's address.
  static FileDescriptor listen(std::uint16_t port) {
    FileDescriptor fd(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = Be16(port).raw();
    const int one = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static std::size_t received(const FileDescriptor& socket) {
    std::size_t count = 0;
    pollfd waiting{socket.get(), POLLIN, 0};
    std::array<char, 65536> bytes;
    while (::poll(&waiting, 1, 100) > 0 && ::recv(socket.get(), bytes.data(), bytes.size(), 0) >= 0) ++count;
    return count;
  }
  static FrameBuilder datagram(MacAddress to, const IpAddress& address) {
    FrameBuilder b;
    b.eth(to, kGuestMac).ipv4(IpAddress::v4(10, 0, 0, 2), address).udp(4000, 7000).payload(100);
    return b;
  }
  MadePort tap_;
};

TEST_F(Deliver, WhatIsSentIntoTheTapReachesTheHostAsIfTheBridgeHadReceivedIt) {
  const FileDescriptor host = listen(7000);
  const MacAddress bridge = netdev::mac("br0");
  EXPECT_TRUE(send(*tap_.port, datagram(bridge, IpAddress::v4(10, 0, 0, 1)).build()));
  EXPECT_EQ(received(host), 1u) << "to the bridge's own MAC";
  EXPECT_TRUE(send(*tap_.port, datagram(kBroadcast, IpAddress::v4(10, 0, 0, 255)).build()));
  EXPECT_EQ(received(host), 1u) << "broadcast";
  EXPECT_TRUE(send(*tap_.port, datagram(kFarMac, IpAddress::v4(10, 0, 0, 1)).build()));
  EXPECT_EQ(received(host), 0u) << "to somebody else";
  EXPECT_TRUE(receive(*tap_.port, 1).empty()) << "nothing comes back into the tap";
}

TEST_F(Deliver, TheBridgesOwnPortsSeeNothingOfIt) {
  KernelSide guest("vxb");
  EXPECT_TRUE(send(*tap_.port, datagram(kBroadcast, IpAddress::v4(10, 0, 0, 255)).build()));
  std::this_thread::sleep_for(50ms);
  while (const auto frame = guest.receive()) EXPECT_FALSE(is_ours(*frame)) << "it entered the bridge, not its master's ingress";
}

TEST_F(Deliver, TagsStayOn) {
  KernelSide host("br0");
  const Bytes tagged = FrameBuilder().eth(netdev::mac("br0"), kGuestMac).vlan(7).payload(80).build();
  EXPECT_TRUE(send(*tap_.port, tagged));
  std::this_thread::sleep_for(20ms);
  std::vector<Bytes> ours;
  while (const auto frame = host.receive())
    if (is_ours(*frame)) ours.push_back(*frame);
  EXPECT_EQ(ours, std::vector<Bytes>(1, tagged));
}

TEST_F(Deliver, TheTargetChangesInPlace) {
  sh("ip link add br1 type bridge; ip link set br1 up; ip addr flush dev br0; ip addr add 10.0.0.1/24 dev br1");
  const FileDescriptor host = listen(7000);
  const Bytes frame = datagram(netdev::mac("br1"), IpAddress::v4(10, 0, 0, 1)).build();
  EXPECT_TRUE(send(*tap_.port, frame));
  EXPECT_EQ(received(host), 0u);
  tap_.deliver->deliver_to(netdev::index("br1"));
  EXPECT_TRUE(send(*tap_.port, frame));
  EXPECT_EQ(received(host), 1u);
  sh("ip link del br1");
  EXPECT_TRUE(send(*tap_.port, frame)) << "a target that went is no fault of the port";
}

TEST_F(Deliver, TheHostItselfSendsNothingIntoIt) {
  EXPECT_THAT(sh("cat /proc/sys/net/ipv6/conf/vxptap/disable_ipv6"), HasSubstr("1"));
  std::array<Packet, kMaxBurst> packets;
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(tap_.port->rx(0, packets.data(), kMaxBurst), 0u);
}

// As under the unit's ProtectKernelTunables, where the sysctl cannot be had.
TEST_F(Deliver, TheHostItselfSendsNothingIntoItWhereSysctlsAreReadOnly) {
  tap_ = {};
  sh("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
  auto c = config("vxptap", PortDriver::kTap);
  c.deliver_ifindex = netdev::index("br0");
  c.mtu = 1500;
  tap_ = make_port(c, context());
  EXPECT_THAT(sh("umount /proc/sys; cat /proc/sys/net/ipv6/conf/vxptap/disable_ipv6"), HasSubstr("0")) << "or this tests nothing";
  std::this_thread::sleep_for(1500ms);  // duplicate address detection is done
  EXPECT_EQ(sh("ip -6 address show dev vxptap"), "");
  std::array<Packet, kMaxBurst> packets;
  EXPECT_EQ(tap_.port->rx(0, packets.data(), kMaxBurst), 0u);
}

// Frames as a guest behind a port hands them in: UDP with a partial checksum, then super-frames.
TEST_F(Deliver, PartialChecksumsAndSuperFramesArriveWhole) {
  sh("ip link set br0 address 52:54:00:aa:bb:02; ip addr add 10.9.8.7/32 dev br0; ip route add 10.1.2.0/24 dev br0");
  const auto offer = [&](const OffloadSpec& spec, bool is_super) {
    const Bytes frame = spec.partial();
    Packet packet;
    ASSERT_EQ(pool_->allocate_large(&packet, 1), 1u);
    std::memcpy(packet.data, frame.data(), frame.size());
    packet.length = static_cast<std::uint32_t>(frame.size());
    packet.offload = spec.meta();
    if (!is_super) packet.offload.gso_type = OffloadMeta::kGsoNone, packet.offload.segment_size = 0;
    ASSERT_TRUE(tap_.port->tx_offloads().carries(packet.offload));
    Packet* one = &packet;
    ASSERT_EQ(tap_.port->tx(0, &one, 1), 1u);
  };
  std::mt19937 random(1);
  const FileDescriptor host = listen(443);
  OffloadSpec spec;
  spec.is_tcp = false;
  spec.payload = random_bytes(random, 700);
  offer(spec, false);
  EXPECT_EQ(received(host), 1u);
  spec.payload = random_bytes(random, 5000);
  if (tap_.port->tx_offloads().udp) {
    offer(spec, true);
    EXPECT_EQ(received(host), 5u) << "the host's stack takes it apart";
  }
  KernelSide bridge("br0");
  spec.is_tcp = true;
  spec.payload = random_bytes(random, 30000);
  offer(spec, true);
  std::this_thread::sleep_for(20ms);
  std::size_t longest = 0;
  while (const auto frame = bridge.receive()) longest = std::max(longest, frame->size());
  EXPECT_EQ(longest, spec.partial().size()) << "in one piece";
}

TEST_F(Deliver, NothingIsLeftOnAnOperatorsTap) {
  tap_ = {};
  sh("ip tuntap add dev vxptap mode tap");
  auto c = config("vxptap", PortDriver::kTap);
  c.deliver_ifindex = netdev::index("br0");
  for (int i = 0; i < 2; ++i) {
    tap_ = make_port(c, context());
    const FileDescriptor host = listen(7000);
    EXPECT_TRUE(send(*tap_.port, datagram(netdev::mac("br0"), IpAddress::v4(10, 0, 0, 1)).build()));
    EXPECT_EQ(received(host), 1u);
    tap_ = {};
    EXPECT_EQ(sh("tc filter show dev vxptap ingress; tc qdisc show dev vxptap clsact"), "");
  }
  sh("ip link del vxptap");
}

}  // namespace
}  // namespace vx::testkit
