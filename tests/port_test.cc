// SPDX-License-Identifier: Apache-2.0
// One contract, every back end: what goes in on one side comes out on the other, whole, in order, with its tag;
// what is lost is counted; nothing is left after a clean stop. In a network namespace of its own; needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <rte_eal.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <thread>

#include "dataplane/buffer_pool_mbuf.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_factory.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace std::chrono_literals;
using protocol::PortDriver;
using testkit::Bytes;
using testkit::FrameBuilder;
using testing::HasSubstr;

constexpr unsigned kBuffers = 16384;
constexpr const char* kCrashMark = "VXPORT_CRASH";
const MacAddress kGuestMac = MacAddress::from_u48(0x0200000000aa), kFarMac = MacAddress::from_u48(0x0200000000bb);

std::string bpf_directory() {
  const char* build = std::getenv("VXPLANE_BUILD");
  return build != nullptr ? build : ".";
}
std::uint64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}
// Runs a shell command; its output.
std::string sh(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::array<char, 512> chunk;
  while (pipe != nullptr && std::fgets(chunk.data(), chunk.size(), pipe) != nullptr) output += chunk.data();
  if (pipe != nullptr) ::pclose(pipe);
  return output;
}
// Our own traffic: the kernel's (IPv6 autoconfiguration) is not.
bool is_ours(const Bytes& frame) {
  return frame.size() >= 14 && (std::equal(kGuestMac.bytes.begin(), kGuestMac.bytes.end(), frame.begin() + 6) ||
                                std::equal(kFarMac.bytes.begin(), kFarMac.bytes.end(), frame.begin() + 6));
}

// The kernel's end of a netdev, through a packet socket with the tag put back.
class KernelSide {
 public:
  explicit KernelSide(const std::string& netdev) : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, Be16(ETH_P_ALL).raw())) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(ETH_P_ALL).raw();
    address.sll_ifindex = static_cast<int>(netdev::index(netdev));
    const int one = 1, size = 4 << 20;
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_PACKET, PACKET_AUXDATA, &one, sizeof one), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &one, sizeof one), 0);
    (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  }
  void send(const Bytes& frame) { EXPECT_EQ(::send(fd_.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size())); }
  [[nodiscard]] std::optional<Bytes> receive() {
    Bytes frame(70000);
    alignas(cmsghdr) std::array<char, 128> control;
    iovec part{frame.data(), frame.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (n < 0) return std::nullopt;
    frame.resize(static_cast<std::size_t>(n));
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      tpacket_auxdata aux;
      std::memcpy(&aux, CMSG_DATA(c), sizeof aux);
      if (c->cmsg_type != PACKET_AUXDATA || (aux.tp_status & TP_STATUS_VLAN_VALID) == 0) continue;
      const Bytes tag{static_cast<std::uint8_t>(aux.tp_vlan_tpid >> 8), static_cast<std::uint8_t>(aux.tp_vlan_tpid),
                      static_cast<std::uint8_t>(aux.tp_vlan_tci >> 8), static_cast<std::uint8_t>(aux.tp_vlan_tci)};
      frame.insert(frame.begin() + 12, tag.begin(), tag.end());
    }
    return frame;
  }

 private:
  FileDescriptor fd_;
};

// EAL and a namespace, once for the process.
class World : public testing::Environment {
 public:
  void SetUp() override {
    if (::geteuid() != 0) return;
    if (std::getenv(kCrashMark) == nullptr) {  // else: in the namespace of the test that started us
      ASSERT_EQ(::unshare(CLONE_NEWNET | CLONE_NEWNS), 0);
      (void)::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
      (void)::mount("sysfs", "/sys", "sysfs", 0, nullptr);  // /sys/class/net of this namespace
      sh("ip link set lo up");
    }
    const std::string prefix = "vxport" + std::to_string(::getpid());
    std::vector<std::string> words{"port_test", "--no-huge", "--no-shconf", "--no-pci", "--iova-mode", "va", "-m", "256",
                                   "--file-prefix", prefix, "--no-telemetry", "--log-level", "*:error", "-l", "0"};
    std::vector<char*> arguments;
    for (auto& w : words) arguments.push_back(w.data());
    ASSERT_GE(rte_eal_init(static_cast<int>(arguments.size()), arguments.data()), 0);
  }
  void TearDown() override {
    if (::geteuid() == 0) rte_eal_cleanup();
  }
};
[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

class PortTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for namespaces, tap and AF_XDP";
    pool_ = make_mbuf_pool("pool", kBuffers);
  }
  void TearDown() override {
    if (std::getenv(kCrashMark) == nullptr) sh("ip link del vxa; ip link del tapx");
  }
  [[nodiscard]] PortContext context() { return {pool_.get(), 1, "t", bpf_directory()}; }
  [[nodiscard]] MbufPool& mbufs() { return dynamic_cast<MbufPool&>(*pool_); }

  static protocol::PortConfig config(const std::string& name, PortDriver driver, const std::string& devargs = "") {
    protocol::PortConfig c;
    (void)protocol::set_text(c.name, name);
    (void)protocol::set_text(c.devargs, devargs);
    c.driver = driver;
    c.attach_xdp_take_all = driver == PortDriver::kAfXdp ? 1 : 0;
    return c;
  }
  // A wire: what vxa's far end vxb sees is what a guest or a switch sees.
  static void make_veth() {
    sh("ip link add vxa type veth peer name vxb && ip link set vxa up && ip link set vxb up"
       " && ethtool -K vxa tx off tso off gso off txvlan off && ethtool -K vxb tx off tso off gso off txvlan off");
  }
  static void beat(const MadePort& made) {
    const std::uint64_t ahead = now_ns() + 3'600'000'000'000u;
    if (made.steering) made.steering->heartbeat(0)->monotonic_ns = ahead;
    for (auto* slot : made.heartbeats) slot->monotonic_ns = ahead;
  }
  // Another process makes the port and dies by SIGKILL: a crashed run. (A fork would share this one's EAL memory.)
  static void run_and_crash(PortDriver driver) {
    sh(std::string(kCrashMark) + "=" + std::to_string(static_cast<int>(driver)) + " " + std::filesystem::read_symlink("/proc/self/exe").string() +
       " --gtest_also_run_disabled_tests --gtest_filter=PortTest.DISABLED_CrashedRun");
  }
  // Frames of ours that the port receives on any queue until `wanted` are there or half a second went by.
  // Frames cut off by the buffer's end arrive with length 0.
  std::size_t truncated_ = 0;
  std::vector<Bytes> receive(Port& port, std::size_t wanted) {
    std::vector<Bytes> frames;
    std::array<Packet, kMaxBurst> packets;
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (frames.size() < wanted && std::chrono::steady_clock::now() < end) {
      for (std::uint16_t q = 0; q < port.rx_queues(); ++q) {
        const unsigned n = port.rx(q, packets.data(), kMaxBurst);
        for (unsigned i = 0; i < n; ++i) {
          Packet* packet = &packets[i];
          EXPECT_GE(packet->headroom, 78) << "outer headers must fit";
          Bytes frame(packet->data, packet->data + packet->length);
          pool_->free(&packet, 1);
          truncated_ += frame.empty();
          if (is_ours(frame)) frames.push_back(std::move(frame));
        }
      }
    }
    return frames;
  }
  // True when the port took it; the buffer is freed otherwise.
  bool send(Port& port, const Bytes& frame, std::uint16_t queue = 0) {
    Packet packet;
    if (pool_->allocate(&packet, 1) != 1 || packet.tailroom < frame.size()) return false;
    std::memcpy(packet.data, frame.data(), frame.size());
    packet.length = static_cast<std::uint32_t>(frame.size());
    Packet* one = &packet;
    if (port.tx(queue, &one, 1) == 1) return true;
    pool_->free(&one, 1);
    return false;
  }

  std::unique_ptr<BufferPool> pool_;
};

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
  for (auto* slot : made.heartbeats) slot->monotonic_ns = now_ns();
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

TEST_F(PortTest, TapFramesLargerThanABufferComeAsTruncatedFrames) {
  const MadePort made = make_port(config("tapx", PortDriver::kTap), context());
  sh("ip link set tapx mtu 9000");
  KernelSide("tapx").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(5000).build());
  KernelSide("tapx").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build());
  EXPECT_EQ(receive(*made.port, 1).size(), 1u);
  EXPECT_EQ(truncated_, 1u);
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
  made.heartbeats[0]->monotonic_ns = now_ns();
  std::this_thread::sleep_for(60ms);
  EXPECT_TRUE(kernel_answers());
}

TEST_F(NetdevTest, NothingIsLeftAfterACleanStop) {
  { const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
    EXPECT_THAT(sh("tc filter show dev vxa ingress"), HasSubstr(VXP_TC_PROGRAM));
    EXPECT_THAT(sh("ip -d link show vxa"), HasSubstr("promiscuity 1")); }
  EXPECT_EQ(sh("tc qdisc show dev vxa clsact; tc filter show dev vxa ingress"), "");
  EXPECT_THAT(sh("ip -d link show vxa"), HasSubstr("promiscuity 0"));
}

TEST_F(NetdevTest, LeftoverFilterIsReplacedAndGoesWithTheNextCleanStop) {
  run_and_crash(PortDriver::kNetdev);
  EXPECT_THAT(sh("tc filter show dev vxa ingress"), HasSubstr(VXP_TC_PROGRAM));
  { const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context()); }
  EXPECT_EQ(sh("tc filter show dev vxa ingress"), "");
}

TEST_F(NetdevTest, PartialChecksumsAreCompleted) {
  sh("ethtool -K vxb tx on; ip netns add vxfar; ip link set vxb netns vxfar;"
     "ip netns exec vxfar sh -c 'ip link set vxb up; ip addr add 10.9.9.2/24 dev vxb; ip neigh add 10.9.9.1 lladdr 02:00:00:00:00:aa dev vxb'");
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  sh("ip netns exec vxfar bash -c 'echo -n hello-checksum > /dev/udp/10.9.9.1/7777'");
  bool seen = false;
  std::array<Packet, kMaxBurst> packets;
  const auto end = std::chrono::steady_clock::now() + 500ms;
  while (!seen && std::chrono::steady_clock::now() < end) {
    const unsigned n = made.port->rx(0, packets.data(), kMaxBurst);
    for (unsigned i = 0; i < n; ++i) {
      Packet* p = &packets[i];
      if (p->length > 42 && p->data[12] == 8 && p->data[23] == 17) {
        seen = true;
        EXPECT_EQ(p->offload.flags, 0);
        const std::uint32_t pseudo = checksum_partial(p->data + 26, 8, std::uint32_t{Be16(17).raw()} + Be16(static_cast<std::uint16_t>(p->length - 34)).raw());
        EXPECT_EQ(checksum_fold(checksum_partial(p->data + 34, p->length - 34, pseudo)), 0xffff);
      }
      pool_->free(&p, 1);
    }
  }
  EXPECT_TRUE(seen);
  sh("ip netns del vxfar");
}

TEST_F(NetdevTest, SuperFramesComeAsTruncatedFrames) {
  sh("ip link set vxa mtu 9000; ip link set vxb mtu 9000");
  const MadePort made = make_port(config("vxa", PortDriver::kNetdev), context());
  KernelSide("vxb").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(5000).build());
  KernelSide("vxb").send(FrameBuilder().eth(kGuestMac, kFarMac).payload(60).build());
  EXPECT_EQ(receive(*made.port, 1).size(), 1u);
  EXPECT_EQ(truncated_, 1u);  // length 0: the pipeline drops it as guest_truncated
}

TEST_F(NetdevTest, SeveralQueuesShareTheFramesAndLoseNone) {
  auto c = config("vxa", PortDriver::kNetdev);
  c.queues = 2;
  const MadePort made = make_port(c, context());
  ASSERT_EQ(made.port->rx_queues(), 2);
  EXPECT_EQ(made.heartbeats.size(), 2u);
  KernelSide far("vxb");
  for (std::uint16_t i = 0; i < 100; ++i)
    far.send(FrameBuilder().eth(kGuestMac, kFarMac).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(static_cast<std::uint16_t>(1000 + i), 80).payload(60).build());
  EXPECT_EQ(receive(*made.port, 101).size(), 100u) << "each once";
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
      first.steering->heartbeat(0)->monotonic_ns = now_ns();
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
  std::string reason_;
};

TEST_F(HeldSocketTest, ReassembledFragmentsComeInWithRebuiltHeaders) {
  const auto port = make_held_socket(IpAddress::v4(10, 9, 9, 1), kVxlanPort, 4003, kGuestMac, *pool_, reason_);
  ASSERT_TRUE(port) << reason_;
  send_datagram("10.9.9.1", 2000);
  std::array<Packet, kMaxBurst> packets;
  ASSERT_EQ(port->rx(0, packets.data(), kMaxBurst), 1u);
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
  ASSERT_EQ(port->rx(0, packets.data(), kMaxBurst), 1u);
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
