// SPDX-License-Identifier: Apache-2.0
// One contract, every back end: what goes in on one side comes out on the other, whole, in order, with its tag;
// what is lost is counted; nothing is left after a clean stop. In a network namespace of its own; needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <thread>

#include "dataplane/tc_ingress.h"
#include "tests/port_testkit.h"

namespace vx {
namespace {

using namespace testkit;
using testing::HasSubstr;

[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

// ---- the contract, for every back end that has another side ----

// One a process: a crashed run's socket would refuse the next.
std::string memif_socket() { return "/tmp/vxport-memif-" + std::to_string(::getpid()) + ".sock"; }

struct Backend {
  std::string name;
  PortDriver driver;
  std::string devargs;
  std::string netdev;  // the port's netdev; empty: vdevs
  std::string far;     // where the kernel's side is; empty: another port, or what is sent comes back
};

class PortContract : public PortTest, public testing::WithParamInterface<Backend> {
 protected:
  void SetUp() override {
    PortTest::SetUp();
    if (IsSkipped()) return;
    const Backend& b = GetParam();
    if (b.driver != PortDriver::kTap && !b.far.empty()) make_veth();
    made_ = make_port(config(b.netdev.empty() ? b.name : b.netdev, b.driver, b.devargs), context());
    beat(made_);
    if (!b.far.empty()) {
      kernel_ = std::make_unique<KernelSide>(b.far);
    } else if (b.name == "net_memif") {
      far_ = make_port(config("far", PortDriver::kDpdk, "net_memif,role=client,id=7,socket-abstract=no,socket=" + memif_socket()), context()).port;
      std::this_thread::sleep_for(300ms);  // they shake hands in EAL's interrupt thread
      receive(*far_, 1);                   // the client lends its first buffers when it polls
    }
  }
  void TearDown() override {
    far_.reset();
    made_ = {};
    kernel_.reset();
    PortTest::TearDown();
  }

  void send_from_far(const Bytes& frame) {
    if (kernel_) kernel_->send(frame);
    else EXPECT_TRUE(send(far_ ? *far_ : *made_.port, frame));
  }
  // One frame of ours on the other side.
  std::optional<Bytes> receive_at_far() {
    if (!kernel_) {
      auto frames = receive(far_ ? *far_ : *made_.port, 1);
      return frames.empty() ? std::nullopt : std::optional(frames.front());
    }
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (std::chrono::steady_clock::now() < end)
      if (auto frame = kernel_->receive(); frame && is_ours(*frame)) return frame;
    return std::nullopt;
  }

  MadePort made_;
  std::unique_ptr<KernelSide> kernel_;
  std::shared_ptr<Port> far_;
};

TEST_P(PortContract, ReceivesFramesOfEverySizeWhole) {
  for (const std::size_t payload : {46u, 47u, 200u, 1000u, 1499u, 1500u}) {
    const Bytes frame = FrameBuilder().eth(kGuestMac, kFarMac).payload(payload).build();
    send_from_far(frame);
    const auto got = receive(*made_.port, 1);
    ASSERT_EQ(got.size(), 1u) << payload;
    EXPECT_EQ(testkit::hex(got[0]), testkit::hex(frame));
  }
}

TEST_P(PortContract, SendsFramesOfEverySizeWhole) {
  for (const std::size_t payload : {46u, 47u, 200u, 1000u, 1499u, 1500u}) {
    const Bytes frame = FrameBuilder().eth(kFarMac, kGuestMac).payload(payload).build();
    ASSERT_TRUE(send(*made_.port, frame));
    const auto got = receive_at_far();
    ASSERT_TRUE(got) << payload;
    EXPECT_EQ(testkit::hex(*got), testkit::hex(frame));
  }
}

TEST_P(PortContract, TagsStandInTheBytesBothWays) {
  for (const Bytes& frame : {FrameBuilder().eth(kGuestMac, kFarMac).vlan(0xe064).payload(100).build(),
                             FrameBuilder().eth(kGuestMac, kFarMac).service_vlan(5).payload(100).build(),
                             FrameBuilder().eth(kGuestMac, kFarMac).vlan(7).vlan(8).payload(1400).build()}) {
    send_from_far(frame);
    const auto in = receive(*made_.port, 1);
    ASSERT_EQ(in.size(), 1u);
    EXPECT_EQ(testkit::hex(in[0]), testkit::hex(frame));
    ASSERT_TRUE(send(*made_.port, frame));
    const auto out = receive_at_far();
    ASSERT_TRUE(out);
    EXPECT_EQ(testkit::hex(*out), testkit::hex(frame));
  }
}

TEST_P(PortContract, ManyFramesArriveInOrder) {
  constexpr std::uint8_t kCount = 200;
  for (std::uint8_t i = 0; i < kCount; ++i) send_from_far(FrameBuilder().eth(kGuestMac, kFarMac).raw(Bytes(60, i)).build());
  const auto got = receive(*made_.port, kCount);
  ASSERT_EQ(got.size(), kCount);
  for (std::uint8_t i = 0; i < kCount; ++i) EXPECT_EQ(got[i].back(), i);
}

TEST_P(PortContract, BurstIsSentInOrderAndFreed) {
  std::array<Packet, kMaxBurst> packets;
  std::array<Packet*, kMaxBurst> pointers;
  ASSERT_EQ(pool_->allocate(packets.data(), kMaxBurst), kMaxBurst);
  for (unsigned i = 0; i < kMaxBurst; ++i) {
    const Bytes frame = FrameBuilder().eth(kFarMac, kGuestMac).raw(Bytes(60, static_cast<std::uint8_t>(i))).build();
    std::memcpy(packets[i].data, frame.data(), frame.size());
    packets[i].length = static_cast<std::uint32_t>(frame.size());
    pointers[i] = &packets[i];
  }
  ASSERT_EQ(made_.port->tx(0, pointers.data(), kMaxBurst), kMaxBurst);
  for (unsigned i = 0; i < kMaxBurst; ++i) {
    const auto frame = receive_at_far();
    ASSERT_TRUE(frame) << i;
    if (!kernel_) break;  // receive() took more than one
    EXPECT_EQ(frame->back(), i);
  }
}

TEST_P(PortContract, EmptyQueueGivesNothingAtOnce) {
  receive(*made_.port, 1000);  // what the kernel says by itself
  std::array<Packet, kMaxBurst> packets;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    const unsigned n = made_.port->rx(0, packets.data(), kMaxBurst);
    for (unsigned k = 0; k < n; ++k) {
      Packet* p = &packets[k];
      pool_->free(&p, 1);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 200ms);
}

TEST_P(PortContract, DescriptorPollsReadableWithAFrame) {
  const int fd = made_.port->rx_fd(0);
  if (GetParam().driver == PortDriver::kDpdk) {
    EXPECT_EQ(fd, -1);
    return;
  }
  ASSERT_GE(fd, 0);
  receive(*made_.port, 1000);
  send_from_far(FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build());
  pollfd p{fd, POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 500), 1);
  EXPECT_EQ(receive(*made_.port, 1).size(), 1u);
}

TEST_P(PortContract, AllBuffersComeHomeAndThePortCanBeMadeAgain) {
  const Backend& b = GetParam();
  const auto home = [&] { return mbufs().available(); };
  far_.reset();
  made_ = {};
  kernel_.reset();
  EXPECT_EQ(home(), kBuffers);
  EXPECT_EQ(mbufs().available_large(), kLargeBuffers);
  EXPECT_EQ(netdev::index("tapx"), 0u) << "the tap was ours";
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const auto open_before = descriptors();
  for (int again = 0; again < 3; ++again) {
    MadePort made = make_port(config(b.netdev.empty() ? b.name : b.netdev, b.driver, b.devargs), context());
    EXPECT_TRUE(made.port->is_alive());
    beat(made);
    for (int i = 0; i < 5; ++i) {
      if (!b.far.empty()) KernelSide(b.far).send(FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build());
      if (b.name != "net_memif") (void)send(*made.port, FrameBuilder().eth(kFarMac, kGuestMac).payload(60).build());
    }
    receive(*made.port, 3);
    made = {};
    EXPECT_EQ(home(), kBuffers) << "round " << again;
    EXPECT_EQ(mbufs().available_large(), kLargeBuffers) << "round " << again;
  }
  if (b.name != "net_memif") {  // whose PMD keeps one each time (22.11)
    EXPECT_EQ(descriptors(), open_before);
  }
}

INSTANTIATE_TEST_SUITE_P(BackEnds, PortContract,
                         testing::Values(Backend{"tap", PortDriver::kTap, "", "tapx", "tapx"},
                                         Backend{"netdev", PortDriver::kNetdev, "", "vxa", "vxb"},
                                         Backend{"af_xdp", PortDriver::kAfXdp, "", "vxa", "vxb"},
                                         Backend{"net_ring", PortDriver::kDpdk, "net_ring", "", ""},
                                         Backend{"net_pcap", PortDriver::kDpdk, "net_pcap,iface=vxa", "", "vxb"},
                                         Backend{"net_memif", PortDriver::kDpdk,
                                                 "net_memif,role=server,id=7,socket-abstract=no,socket=" + memif_socket(), "", ""}),
                         [](const auto& backend) { return backend.param.name; });

// ---- each back end's own ----

// Run in a process of its own by run_and_crash().
TEST_F(PortTest, DISABLED_CrashedRun) {
  const char* mark = std::getenv(kCrashMark);
  ASSERT_NE(mark, nullptr) << "only as another test's crashed run";
  auto c = config(std::string(mark) == std::to_string(static_cast<int>(PortDriver::kTap)) ? "tapx" : "vxa",
                  static_cast<PortDriver>(std::stoi(mark)));
  c.attach_xdp_take_all = 0;
  const MadePort made = make_port(c, context());
  for (auto* slot : made.heartbeats) slot->monotonic_ns = monotonic_ns();
  ::kill(::getpid(), SIGKILL);
}

TEST_F(PortTest, NetNullSwallowsAndGives) {
  const MadePort made = make_port(config("null", PortDriver::kDpdk, "net_null,size=64"), context());
  EXPECT_TRUE(send(*made.port, FrameBuilder().eth(kFarMac, kGuestMac).payload(60).build()));
  std::array<Packet, kMaxBurst> packets;
  const unsigned n = made.port->rx(0, packets.data(), kMaxBurst);
  EXPECT_EQ(n, kMaxBurst);
  for (unsigned i = 0; i < n; ++i) {
    EXPECT_EQ(packets[i].length, 64u);
    Packet* p = &packets[i];
    pool_->free(&p, 1);
  }
}

TEST_F(PortTest, UnknownDpdkDeviceIsRefusedWithOneLine) {
  try {
    (void)make_port(config("x", PortDriver::kDpdk, "net_nosuch,a=b"), context());
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_THAT(e.what(), HasSubstr("x: DPDK does not take device"));
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
  }
}

TEST_F(PortTest, AbsentNetdevIsRefused) {
  EXPECT_THROW((void)make_port(config("nosuch0", PortDriver::kNetdev), context()), std::runtime_error);
  EXPECT_THROW((void)make_port(config("nosuch0", PortDriver::kAfXdp), context()), std::runtime_error);
}

TEST_F(PortTest, PoolGivesHeadroomAndSaysWhenEmpty) {
  std::vector<Packet> all(kBuffers + 10);
  EXPECT_EQ(pool_->allocate(all.data(), kBuffers + 10), kBuffers);
  EXPECT_GE(all[0].headroom, kHeadroomBytes);
  EXPECT_GE(all[0].tailroom, 2048);
  EXPECT_EQ(pool_->allocate(&all[kBuffers], 1), 0u);
  for (unsigned i = 0; i < kBuffers; ++i) {
    Packet* p = &all[i];
    pool_->free(&p, 1);
  }
  EXPECT_EQ(mbufs().available(), kBuffers);
}

TEST_F(PortTest, TapSetsMtuAndLinkAndUsesSeveralQueues) {
  auto c = config("tapx", PortDriver::kTap);
  c.mtu = 1332;
  c.queues = 3;
  const MadePort made = make_port(c, context());
  EXPECT_EQ(made.port->rx_queues(), 3);
  EXPECT_THAT(sh("ip -d link show tapx"), testing::AllOf(HasSubstr("mtu 1332"), HasSubstr("UP"), HasSubstr("multi_queue"), HasSubstr("persist on")));
  KernelSide kernel("tapx");
  for (std::uint16_t q = 0; q < 3; ++q) EXPECT_TRUE(send(*made.port, FrameBuilder().eth(kFarMac, kGuestMac).payload(60).build(), q));
}

TEST_F(PortTest, TapOfTheOperatorIsJoinedAndStays) {
  for (const char* kind : {"", " multi_queue"}) {
    sh(std::string("ip tuntap add tapx mode tap") + kind);
    {
      const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
      EXPECT_EQ(made.port->rx_queues(), 1);
    }
    EXPECT_NE(netdev::index("tapx"), 0u) << kind;
    sh("ip link del tapx");
  }
}

TEST_F(PortTest, TapOfACrashedRunIsJoinedAndGoesAtACleanStop) {
  run_and_crash(PortDriver::kTap);
  const std::uint32_t before = netdev::index("tapx");
  EXPECT_NE(before, 0u) << "stays over a crash";
  {
    const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
    EXPECT_EQ(made.ifindex, before);
  }
  EXPECT_EQ(netdev::index("tapx"), 0u);
}

TEST_F(PortTest, TapNoticesThatItsNetdevIsGone) {
  const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
  EXPECT_TRUE(made.port->is_alive());
  sh("ip link del tapx");
  EXPECT_FALSE(made.port->is_alive());
  EXPECT_TRUE(receive(*made.port, 1).empty());
  (void)send(*made.port, FrameBuilder().eth(kFarMac, kGuestMac).payload(60).build());
}

TEST_F(PortTest, TapFramesLargerThanABufferComeWhole) {
  const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
  sh("ip link set tapx mtu 9000");
  const Bytes jumbo = FrameBuilder().eth(kGuestMac, kFarMac).payload(5000).build();
  KernelSide("tapx").send(jumbo);
  EXPECT_EQ(receive(*made.port, 1), std::vector<Bytes>(1, jumbo));
}

TEST_F(PortTest, TapCountsWhatTheKernelRefuses) {
  const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
  sh("ip link set tapx down");
  EXPECT_FALSE(send(*made.port, FrameBuilder().eth(kFarMac, kGuestMac).payload(60).build()));
  EXPECT_EQ(made.port->lost().tx_errors, 1u);
}

class NetdevTest : public PortTest {
 protected:
  void SetUp() override {
    PortTest::SetUp();
    if (!IsSkipped()) make_veth();
  }
  // Whether the kernel itself has seen a frame for vxa that vxb sent: an ARP answer.
  static bool kernel_answers() {
    return sh("ip netns add vxfar$$; ip link set vxb netns vxfar$$ && ip addr add 10.9.9.1/24 dev vxa;"
              "ip netns exec vxfar$$ sh -c 'ip link set vxb up; ip addr add 10.9.9.2/24 dev vxb; ping -c1 -W1 10.9.9.1';"
              "ip netns exec vxfar$$ ip link set vxb netns $$; ip netns del vxfar$$; ip addr flush dev vxa").find(" 1 received") != std::string::npos;
  }
};

TEST_F(NetdevTest, FramesTakenDoNotEnterTheKernelUntilTheHeartbeatStops) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  ASSERT_EQ(made.heartbeats.size(), 1u);
  beat(made);
  EXPECT_FALSE(kernel_answers()) << "the dataplane has the frames";
}

TEST_F(NetdevTest, KernelHasItsFramesBackWhenTheHeartbeatIsStale) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  made.heartbeats[0]->monotonic_ns = monotonic_ns();
  std::this_thread::sleep_for(60ms);
  EXPECT_TRUE(kernel_answers());
}

TEST_F(NetdevTest, WhatComesWhileTheHeartbeatIsStaleWaitsWhereNoBridgeStandsBy) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  made.heartbeats[0]->monotonic_ns = monotonic_ns();
  std::this_thread::sleep_for(60ms);
  KernelSide far("vxb");
  for (std::uint16_t i = 0; i < 200; ++i)
    far.send(FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(static_cast<std::uint16_t>(1000 + i), 80).payload(60).build());
  EXPECT_EQ(receive(*made.port, 200).size(), 200u);
}

TEST_F(NetdevTest, ANetdevOfALivingVxplaneIsRefused) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  std::atomic<bool> is_done = false;
  std::thread living([&] {
    for (; !is_done; std::this_thread::sleep_for(5ms)) made.heartbeats[0]->monotonic_ns = monotonic_ns();
  });
  try {
    const MadePort second = make_port(config("vxa", PortDriver::kNetdev), context());
    ADD_FAILURE() << "two take the same frames";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("another running vxplane"));
  }
  is_done = true;
  living.join();
}

TEST_F(NetdevTest, ADeadWorkersQueueIsTheKernelsAndTheOthersAreOurs) {
  auto c = config("vxa", PortDriver::kNetdev);
  c.queues = 2;
  c.takeover = 1;
  const MadePort made = make_port(c, context());
  made.take->set_rule({.bypass = false});
  made.heartbeats[0]->monotonic_ns = monotonic_ns() + 3'600'000'000'000u;
  KernelSide far("vxb");
  for (std::uint16_t i = 0; i < 200; ++i)
    far.send(FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(static_cast<std::uint16_t>(1000 + i), 80).payload(60).build());
  const std::size_t ours = receive(*made.port, 200).size();
  EXPECT_GT(ours, 50u);
  EXPECT_LT(ours, 150u);
  const auto exits = made.take->exits();
  EXPECT_GE(exits[VXP_TAKE_TAKEN], ours) << "and the far end's IPv6";
  EXPECT_GE(exits[VXP_TAKE_STALE], 200 - ours);
}

// Programs of ours on the netdev's ingress, by link and by filter.
unsigned programs_on(const std::string& netdev) {
  std::array<__u32, 8> ids{};
  __u32 count = ids.size();
  unsigned ours = 0;
  if (::bpf_prog_query(static_cast<int>(netdev::index(netdev)), static_cast<bpf_attach_type>(46 /* BPF_TCX_INGRESS */), 0, nullptr, ids.data(), &count) == 0)
    for (__u32 i = 0; i < count; ++i) ours += open_bpf_program(ids[i]).name == VXP_TC_PROGRAM ? 1 : 0;
  return ours + (sh("tc filter show dev " + netdev + " ingress").find(VXP_TC_PROGRAM) != std::string::npos ? 1 : 0);
}

TEST_F(NetdevTest, NothingIsLeftAfterACleanStop) {
  { const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
    EXPECT_EQ(programs_on("vxa"), 1u);
    EXPECT_THAT(sh("ip -d link show vxa"), HasSubstr("promiscuity 1")); }
  EXPECT_EQ(programs_on("vxa"), 0u);
  EXPECT_EQ(sh("tc qdisc show dev vxa clsact"), "");
  EXPECT_THAT(sh("ip -d link show vxa"), HasSubstr("promiscuity 0"));
}

TEST_F(NetdevTest, ACrashedRunsProgramsAreReplacedAndNothingStays) {
  run_and_crash(PortDriver::kNetdev);
  { const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
    EXPECT_EQ(programs_on("vxa"), 1u); }
  EXPECT_EQ(programs_on("vxa"), 0u);
}

// Kernels without TCX.
TEST_F(NetdevTest, AClsactFilterReplacesALeftoverAndLeavesTheQdiscThatItFound) {
  const BpfObject object = open_bpf_object("vxa", bpf_directory(), VXP_TC_OBJECT);
  load_bpf_object("vxa", object.get());
  const int program = program_of(object.get(), VXP_TC_PROGRAM);
  const auto attach = [&] { return std::make_unique<TcIngress>("vxa", netdev::index("vxa"), VXP_TC_PROGRAM, program, TcIngress::Kind::kClsact); };
  static std::unique_ptr<TcIngress> leftover;  // as of a crashed run: never taken off
  leftover = attach();
  EXPECT_THAT(sh("tc filter show dev vxa ingress"), HasSubstr(VXP_TC_PROGRAM));
  { const auto second = attach();
    EXPECT_EQ(programs_on("vxa"), 1u); }
  EXPECT_EQ(sh("tc filter show dev vxa ingress"), "");
  EXPECT_THAT(sh("tc qdisc show dev vxa clsact"), HasSubstr("clsact")) << "it may be an operator's";
  leftover.reset();
  EXPECT_THAT(sh("tc qdisc show dev vxa clsact"), HasSubstr("clsact")) << "its filter is gone: whose qdisc this is is not known";
  sh("tc qdisc del dev vxa clsact");
  attach().reset();
  EXPECT_EQ(sh("tc qdisc show dev vxa clsact"), "") << "made by this one";
  sh("tc qdisc add dev vxa clsact");
  attach().reset();
  EXPECT_THAT(sh("tc qdisc show dev vxa clsact"), HasSubstr("clsact")) << "an operator's";
  const BpfObject other = open_bpf_object("vxa", bpf_directory(), VXP_DELIVER_OBJECT);
  load_bpf_object("vxa", other.get());
  const TcIngress foreign("vxa", netdev::index("vxa"), VXP_DELIVER_PROGRAM, program_of(other.get(), VXP_DELIVER_PROGRAM), TcIngress::Kind::kClsact);
  EXPECT_THROW((void)attach(), std::runtime_error) << "another program's place";
  EXPECT_THAT(sh("tc filter show dev vxa ingress"), HasSubstr(VXP_DELIVER_PROGRAM));
}

TEST_F(NetdevTest, FramesLargerThanABufferComeWhole) {
  sh("ip link set vxa mtu 9000; ip link set vxb mtu 9000");
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  beat(made);
  const Bytes jumbo = FrameBuilder().eth(kGuestMac, kFarMac).payload(5000).build();
  KernelSide("vxb").send(jumbo);
  EXPECT_EQ(receive(*made.port, 1), std::vector<Bytes>(1, jumbo));
}

TEST_F(NetdevTest, SeveralQueuesShareTheFramesAndLoseNone) {
  auto c = config("vxa", PortDriver::kNetdev);
  c.queues = 2;
  const MadePort made = make_port(c, context());
  ASSERT_EQ(made.port->rx_queues(), 2);
  EXPECT_EQ(made.heartbeats.size(), 2u);
  beat(made);
  KernelSide far("vxb");
  for (std::uint16_t i = 0; i < 100; ++i)
    far.send(FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(static_cast<std::uint16_t>(1000 + i), 80).payload(60).build());
  EXPECT_EQ(receive(*made.port, 101).size(), 100u) << "each once";
}

TEST_F(NetdevTest, WhatTheRingHasNoRoomForIsCountedAndItGoesOn) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  beat(made);
  KernelSide far("vxb");
  for (unsigned round = 0; round < 3; ++round) {
    const std::uint64_t lost_before = made.port->lost().rx_missed;
    for (std::uint16_t i = 0; i < 3000; ++i)
      far.send(FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(i, 80).payload(60).build());
    const auto frames = receive(*made.port, 3000);
    EXPECT_GT(frames.size(), 1900u);
    EXPECT_GE(frames.size() + made.port->lost().rx_missed - lost_before, 3000u) << "and the far end's IPv6";
    for (std::uint16_t i = 0; i < frames.size(); ++i) ASSERT_EQ(view<UdpHeader>(frames[i].data() + 34)->source_port.host(), i);
  }
}

// The kernel leaves an error on the socket, by which it polls ready until somebody reads it.
TEST_F(NetdevTest, ALinkThatGoesDownKeepsNobodyAwakeAndComesBack) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  beat(made);
  sh("ip link set vxa down");
  pollfd waiting{made.port->rx_fd(0), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 0), 1);
  EXPECT_TRUE(receive(*made.port, 1).empty());
  EXPECT_EQ(::poll(&waiting, 1, 0), 0);
  sh("ip link set vxa up");
  const Bytes frame = FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build();
  KernelSide("vxb").send(frame);
  EXPECT_EQ(receive(*made.port, 1), std::vector<Bytes>(1, frame));
}

TEST_F(NetdevTest, GoneNetdevIsNoticed) {
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  EXPECT_TRUE(made.port->is_alive());
  sh("ip link del vxa");
  EXPECT_FALSE(made.port->is_alive());
  EXPECT_TRUE(receive(*made.port, 1).empty());
}

class AfXdpTest : public NetdevTest {
 protected:
  MadePort underlay() {
    auto c = config("vxa", PortDriver::kAfXdp);
    c.role = protocol::PortRole::kUnderlay;
    c.attach_xdp_take_all = 0;
    return make_port(c, context());
  }
  static std::string program() { return sh("ip link show vxa | grep -o 'prog/xdp.*'"); }
};

TEST_F(AfXdpTest, NothingIsLeftAfterACleanStop) {
  const std::string features = sh("ethtool -k vxa");
  {
    const MadePort made = underlay();
    EXPECT_NE(program(), "");
    EXPECT_THAT(sh("ethtool -k vxa"), HasSubstr("rx-vlan-offload: off"));
    EXPECT_THAT(sh("ip -d link show vxa"), HasSubstr("promiscuity 0"));
  }
  EXPECT_EQ(program(), "");
  EXPECT_THAT(sh("ethtool -k vxa"), HasSubstr("rx-vlan-offload: on"));
  EXPECT_EQ(sh("ip -d link show vxa | grep -c PROMISC"), "0\n");
}

TEST_F(AfXdpTest, LeftoverOfACrashedRunIsReplacedAndRxvlanComesBack) {
  run_and_crash(PortDriver::kAfXdp);
  ASSERT_NE(program(), "");
  EXPECT_THAT(sh("ethtool -k vxa"), HasSubstr("rx-vlan-offload: off"));
  { const MadePort made = underlay(); }
  EXPECT_EQ(program(), "");
  EXPECT_THAT(sh("ethtool -k vxa"), HasSubstr("rx-vlan-offload: on"));
}

TEST_F(AfXdpTest, ForeignProgramIsRefusedWithWhatToDo) {
  std::ofstream("/tmp/vxforeign.c") << "__attribute__((section(\"xdp\"))) int foreign(void *c) { return 2; }\n"
                                       "char _license[] __attribute__((section(\"license\"))) = \"GPL\";\n";
  sh("clang -O2 -target bpf -c /tmp/vxforeign.c -o /tmp/vxforeign.o && ip link set dev vxa xdp obj /tmp/vxforeign.o sec xdp");
  ASSERT_NE(program(), "");
  try {
    const MadePort made = underlay();
    FAIL() << "took over a foreign program";
  } catch (const std::runtime_error& e) {
    EXPECT_THAT(e.what(), testing::AllOf(HasSubstr("foreign"), HasSubstr("ip link set dev vxa xdp off")));
  }
  EXPECT_NE(program(), "") << "it is still there";
}

TEST_F(AfXdpTest, NicOfALivingVxplaneIsRefused) {
  const MadePort first = underlay();
  std::thread worker([&] {
    for (int i = 0; i < 40; ++i) {
      first.steering->heartbeat(0)->monotonic_ns = monotonic_ns();
      std::this_thread::sleep_for(10ms);
    }
  });
  EXPECT_THROW((void)underlay(), std::runtime_error);
  worker.join();
  EXPECT_NE(program(), "");
}

TEST_F(AfXdpTest, RefusedSetUpCostsNoBuffersAndSaysWhy) {
  sh("ip link set vxb mtu 9000");  // veth: XDP is refused when the peer's MTU exceeds a page
  for (int i = 0; i < 3; ++i) {
    try {
      const MadePort made = underlay();
      FAIL();
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      EXPECT_THAT(e.what(), HasSubstr("vxa: "));
    }
    EXPECT_EQ(mbufs().available(), kBuffers);
  }
  EXPECT_THAT(sh("ethtool -k vxa"), HasSubstr("rx-vlan-offload: on"));
  sh("ip link set vxb mtu 1500");
  EXPECT_TRUE(underlay().port->is_alive());
}

TEST_F(AfXdpTest, OnlyVxlanForUsIsTakenTheRestIsTheKernels) {
  const MadePort made = underlay();
  made.steering->steer({false, 0, {IpAddress::v4(10, 9, 9, 1)}, {kVxlanPort}, {1000}});
  beat(made);
  KernelSide far("vxb"), near("vxa");
  const auto vxlan = [](std::uint32_t vni) {
    return FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 9, 9, 2), IpAddress::v4(10, 9, 9, 1)).udp(50000, kVxlanPort).vxlan(vni).payload(60).build();
  };
  far.send(vxlan(1000));
  far.send(vxlan(2000));
  EXPECT_EQ(receive(*made.port, 2).size(), 1u);
  std::size_t passed = 0;
  for (int i = 0; i < 100; ++i)
    if (auto frame = near.receive(); frame && is_ours(*frame)) ++passed;
  EXPECT_EQ(passed, 1u);
  const auto exits = made.steering->exits();
  EXPECT_EQ(exits[VXP_EXIT_REDIRECTED], 1u);
  EXPECT_EQ(exits[VXP_EXIT_UNKNOWN_VNI], 1u);
}

// The two pieces of a VXLAN datagram of 1900 bytes, and itself.
struct Pieces {
  Bytes whole, first, second;
};
Pieces fragmented() {
  Pieces p;
  p.whole = FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 9, 9, 2), IpAddress::v4(10, 9, 9, 1)).udp(50000, kVxlanPort).vxlan(1000).payload(1900).build();
  const auto piece = [&](std::size_t from, std::size_t to, std::uint16_t fragment) {
    Bytes frame(p.whole.begin(), p.whole.begin() + 34);
    frame.insert(frame.end(), p.whole.begin() + 34 + static_cast<std::ptrdiff_t>(from), p.whole.begin() + 34 + static_cast<std::ptrdiff_t>(to));
    auto* ip = view<Ipv4Header>(&frame[14]);
    ip->total_length = Be16(static_cast<std::uint16_t>(20 + to - from));
    ip->flags_fragment = Be16(fragment);
    ip->checksum = {};
    ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(checksum_partial(&frame[14], 20))));
    return frame;
  };
  p.first = piece(0, 1400, kIpv4MoreFragments);
  p.second = piece(1400, p.whole.size() - 34, 1400 / 8);
  return p;
}

TEST_F(AfXdpTest, FragmentsForAnOwnAddressComeInWhole) {
  const MadePort made = underlay();
  made.steering->steer({true, 0, {IpAddress::v4(10, 9, 9, 1)}, {kVxlanPort}, {1000}});
  beat(made);
  KernelSide far("vxb");
  const Pieces pieces = fragmented();
  for (int round = 0; round < 3; ++round) {
    far.send(pieces.second);
    if (round == 0) {
      EXPECT_TRUE(receive(*made.port, 1).empty());
    }
    far.send(pieces.first);
    EXPECT_EQ(receive(*made.port, 1), std::vector<Bytes>(1, pieces.whole));
  }
  EXPECT_EQ(made.port->fragments().received, 6u);
  EXPECT_EQ(made.port->fragments().reassembled, 3u);
}

TEST_F(PortTest, FragmentsOnADpdkUnderlayComeInWholeAndTooLateOnesAreCounted) {
  auto c = config("ring", PortDriver::kDpdk, "net_ring");
  c.role = protocol::PortRole::kUnderlay;
  {
    const MadePort made = make_port(c, context());
    const Pieces pieces = fragmented();
    ASSERT_TRUE(send(*made.port, pieces.first) && send(*made.port, pieces.second));
    EXPECT_EQ(receive(*made.port, 1), std::vector<Bytes>(1, pieces.whole));
    ASSERT_TRUE(send(*made.port, pieces.first));
    for (int i = 0; i < 3; ++i) receive(*made.port, 1);  // half a second each: 1 s is the limit
    EXPECT_EQ(made.port->fragments().lost, 1u);
    ASSERT_TRUE(send(*made.port, pieces.first));
    receive(*made.port, 1);
  }
  EXPECT_EQ(mbufs().available(), kBuffers) << "what was waiting came home";
}

TEST_F(AfXdpTest, FrameLargerThanABufferIsCountedAsLost) {
  sh("ip link set vxa mtu 3000; ip link set vxb mtu 3000");
  const MadePort made = make_port(config("vxa", PortDriver::kAfXdp), context());
  beat(made);
  KernelSide("vxb").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(2900).build());
  KernelSide("vxb").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build());
  EXPECT_EQ(receive(*made.port, 1).size(), 1u);
  EXPECT_EQ(made.port->lost().rx_missed, 1u);
}

// ---- the held socket ----

class HeldSocketTest : public PortTest {
 protected:
  void SetUp() override {
    PortTest::SetUp();
    if (IsSkipped()) return;
    make_veth();
    sh("ip netns add vxfar; ip link set vxb netns vxfar; ip addr add 10.9.9.1/24 dev vxa; ip addr add fd99::1/64 dev vxa nodad;"
       "ip netns exec vxfar sh -c 'ip link set vxb up; ip addr add 10.9.9.2/24 dev vxb; ip addr add fd99::2/64 dev vxb nodad'");
  }
  void TearDown() override {
    sh("ip netns del vxfar");
    PortTest::TearDown();
  }
  // A datagram of `bytes` from the far side, fragmented when it must be; TOS or traffic class 0x03 (CE).
  static void send_datagram(const std::string& to, unsigned bytes) {
    const bool six = to.find(':') != std::string::npos;
    sh("ip netns exec vxfar /usr/bin/python3 -c \"import socket; s=socket.socket(socket." + std::string(six ? "AF_INET6" : "AF_INET") +
       ",socket.SOCK_DGRAM); s.setsockopt(" + (six ? "41,67" : "0,1") + ",3); s.bind(('" + (six ? "fd99::2" : "10.9.9.2") +
       "',50123)); s.sendto(bytes(i&255 for i in range(" + std::to_string(bytes) + ")),('" + to + "',4789))\"");
  }
  // The datagram is there when the kernel's other CPU has come to it.
  static unsigned receive_soon(Port& port, Packet* packets) {
    unsigned n = 0;
    for (const auto end = std::chrono::steady_clock::now() + 500ms; n == 0 && std::chrono::steady_clock::now() < end;)
      n = port.rx(0, packets, kMaxBurst);
    return n;
  }
  std::string reason_;
};

TEST_F(HeldSocketTest, ReassembledFragmentsComeInWithRebuiltHeaders) {
  const auto port = make_held_socket(IpAddress::v4(10, 9, 9, 1), kVxlanPort, 4003, kGuestMac, *pool_, reason_);
  ASSERT_TRUE(port) << reason_;
  send_datagram("10.9.9.1", 2000);
  std::array<Packet, kMaxBurst> packets;
  ASSERT_EQ(receive_soon(*port, packets.data()), 1u);
  const Packet& p = packets[0];
  const Bytes frame(p.data, p.data + p.length);
  Packet* one = &packets[0];
  pool_->free(&one, 1);
  ASSERT_EQ(frame.size(), 14u + 4 + 20 + 8 + 2000);
  EXPECT_TRUE(std::equal(kGuestMac.bytes.begin(), kGuestMac.bytes.end(), frame.begin()));
  EXPECT_EQ(testkit::hex(Bytes(frame.begin() + 12, frame.begin() + 20)), testkit::hex({0x81, 0, 0x0f, 0xa3, 8, 0, 0x45, 3}));
  EXPECT_EQ(checksum_fold(checksum_partial(&frame[18], 20)), 0xffff);
  EXPECT_EQ(testkit::hex(Bytes(frame.begin() + 30, frame.begin() + 46)),
            testkit::hex({10, 9, 9, 2, 10, 9, 9, 1, 50123 >> 8, 50123 & 255, 4789 >> 8, 4789 & 255, 2008 >> 8, 2008 & 255, 0, 0}));
  EXPECT_EQ(frame[46 + 1999], 1999 & 255);
  EXPECT_EQ(p.offload.flags, 2);
}

TEST_F(HeldSocketTest, Ipv6IsRebuiltToo) {
  IpAddress local{{0xfd, 0x99}};
  local.bytes[15] = 1;
  const auto port = make_held_socket(local, kVxlanPort, 0, kGuestMac, *pool_, reason_);
  ASSERT_TRUE(port) << reason_;
  send_datagram("fd99::1", 1800);
  std::array<Packet, kMaxBurst> packets;
  ASSERT_EQ(receive_soon(*port, packets.data()), 1u);
  const Bytes frame(packets[0].data, packets[0].data + packets[0].length);
  Packet* one = &packets[0];
  pool_->free(&one, 1);
  ASSERT_EQ(frame.size(), 14u + 40 + 8 + 1800);
  EXPECT_EQ(testkit::hex(Bytes(frame.begin() + 12, frame.begin() + 22)), testkit::hex({0x86, 0xdd, 0x60, 0x30, 0, 0, 1808 >> 8, 1808 & 255, 17, 64}));
  EXPECT_EQ(frame[14 + 8 + 15], 2);
  EXPECT_EQ(frame[14 + 24 + 15], 1);
}

TEST_F(HeldSocketTest, DatagramsLargerThanABufferAreCounted) {
  const auto port = make_held_socket(IpAddress::v4(10, 9, 9, 1), kVxlanPort, 0, kGuestMac, *pool_, reason_);
  ASSERT_TRUE(port) << reason_;
  send_datagram("10.9.9.1", 9000);
  EXPECT_TRUE(receive(*port, 1).empty());
  EXPECT_EQ(port->lost().rx_missed, 1u);
}

TEST_F(HeldSocketTest, PortOfAKernelVxlanDeviceStaysWithIt) {
  sh("ip link add kvx type vxlan id 5 dstport 4789 local 10.9.9.1 && ip link set kvx up");
  EXPECT_FALSE(make_held_socket(IpAddress::v4(10, 9, 9, 1), kVxlanPort, 0, kGuestMac, *pool_, reason_));
  EXPECT_THAT(reason_, HasSubstr("4789"));
  sh("ip link del kvx");
}

TEST_F(HeldSocketTest, BuffersComeHome) {
  { const auto port = make_held_socket(IpAddress::v4(10, 9, 9, 1), kVxlanPort, 0, kGuestMac, *pool_, reason_);
    send_datagram("10.9.9.1", 100);
    receive(*port, 1); }
  EXPECT_EQ(mbufs().available(), kBuffers);
}

}  // namespace
}  // namespace vx
