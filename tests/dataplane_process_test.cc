// SPDX-License-Identifier: Apache-2.0
// The real vxplane-dataplane in a network namespace of its own: taps as guests, a veth as the
// underlay.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/dataplane_client_testkit.h"
#include "tests/switchboard_testkit.h"

namespace vx::testkit {
namespace {

using protocol::MessageType;
using Rig = SwitchboardRig;
namespace fs = std::filesystem;

std::string binary() {
  const char* build = std::getenv("VXPLANE_BUILD");
  const fs::path directory =
      build != nullptr ? fs::path(build) : fs::read_symlink("/proc/self/exe").parent_path();
  return directory / "vxplane-dataplane";
}

bool shell(const std::string& command) {
  return std::system(("(" + command + ") >/dev/null 2>&1").c_str()) == 0;
}

// A new network namespace for this test process and what it starts, in which netdevs send nothing
// by themselves. False: not root.
bool enter_namespace() {
  return unshare(CLONE_NEWNET) == 0 &&
         shell("ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
}

class Process {
 public:
  Process(const std::string& run_dir, const std::vector<std::string>& arguments)
      : run_dir_(run_dir) {
    std::vector<std::string> words{binary(), "--run-dir", run_dir};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = log_path();
    pid_ = fork();
    if (pid_ == 0) {
      if (std::freopen(log.c_str(), "w", stderr) == nullptr) _exit(126);
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Process() {
    if (pid_ > 0) stop(SIGKILL);
  }
  // Exit status, or 128 + signal.
  int stop(int signal_number = SIGTERM) {
    kill(pid_, signal_number);
    return wait();
  }
  int wait() {
    int status = 0;
    for (int i = 0; i < 1000; ++i) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "the dataplane does not end";
    kill(std::exchange(pid_, -1), SIGKILL);
    return -1;
  }
  TestClient connect() {
    for (int i = 0; i < 1500; ++i) {
      TestClient client(run_dir_ + "/dataplane.sock");
      if (client.is_connected()) return client;
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = -1;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "no dataplane.sock: " << log();
    return TestClient(FileDescriptor());
  }
  std::string log() const {
    std::ifstream file(log_path());
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string log_path() const { return run_dir_ + ".log"; }
  std::string run_dir_;
  pid_t pid_ = -1;
};

// The far side of a port: frames sent on and received from a netdev.
class Wire {
 public:
  explicit Wire(const std::string& netdev)
      : fd_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL_))) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL_);
    address.sll_ifindex = static_cast<int>(if_nametoindex(netdev.c_str()));
    EXPECT_NE(address.sll_ifindex, 0) << netdev;
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const int on = 1;
    setsockopt(fd_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  }
  void send(const Bytes& frame) {
    EXPECT_EQ(::send(fd_.get(), frame.data(), frame.size(), 0), ssize_t(frame.size()));
  }
  // The next frame that carries `marker` somewhere; empty: none in time.
  Bytes expect(const Bytes& marker, int timeout_ms = 3000) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    while (std::chrono::steady_clock::now() < deadline) {
      pollfd poll_fd{fd_.get(), POLLIN, 0};
      if (poll(&poll_fd, 1, 50) != 1) continue;
      Bytes frame(4096);
      const auto got = recv(fd_.get(), frame.data(), frame.size(), 0);
      if (got <= 0) continue;
      frame.resize(static_cast<std::size_t>(got));
      if (std::search(frame.begin(), frame.end(), marker.begin(), marker.end()) != frame.end())
        return frame;
    }
    return {};
  }

 private:
  static constexpr int ETH_P_ALL_ = 3;
  FileDescriptor fd_;
};

Bytes marker(std::uint8_t number) { return {0xca, 0xfe, 0xba, 0xbe, 0x55, 0xaa, number}; }
Bytes frame(MacAddress source, MacAddress destination, std::uint8_t number) {
  Bytes payload = marker(number);
  payload.resize(50);
  return FrameBuilder()
      .eth(destination, source)
      .ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
      .udp(1, 2)
      .raw(payload)
      .build();
}

class VxplaneDataplane : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || !enter_namespace()) GTEST_SKIP() << "needs root: network namespaces";
    char pattern[] = "/tmp/vxplane-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    directory_ = pattern;
  }
  void TearDown() override {
    std::error_code error;
    if (!directory_.empty()) fs::remove_all(directory_, error);
  }
  std::string run_dir(const std::string& name = "run") const { return directory_ + "/" + name; }

  // eth0 (a veth whose other end is wire0) as `driver`, overlay 0, a VTEP, taps g1 and g2.
  void configure(TestClient& client, protocol::PortDriver driver) {
    ASSERT_TRUE(
        shell("ip link add eth0 type veth peer name wire0 && ip link set eth0 up && ip link set "
              "wire0 up && "
              "ethtool -K eth0 tx off rxvlan off txvlan off && ethtool -K wire0 tx off rxvlan off "
              "txvlan off"));
    auto port = Rig::underlay_port();
    port.driver = driver;
    const auto eth0 = client.ask<protocol::PortInfo>(MessageType::kPortAdd, port);
    auto underlay = Rig::underlay(true);
    underlay.mac = eth0.mac;
    client.request(MessageType::kOverlaySet, Rig::overlay());
    client.request(MessageType::kUnderlaySet, underlay);
    client.request(MessageType::kVtepSet, Rig::vtep(0, kRemote4));
    for (const char* name : {"g1", "g2"}) {
      auto guest = Rig::guest(name);
      guest.mtu = 1332;
      indices_.push_back(client.ask<protocol::PortInfo>(MessageType::kPortAdd, guest).index);
    }
    our_mac_ = eth0.mac;
  }
  void pass_traffic(TestClient& client, const protocol::PortDriver driver);

  std::string directory_;
  std::vector<PortIndex> indices_;
  MacAddress our_mac_;
};

void VxplaneDataplane::pass_traffic(TestClient& client, protocol::PortDriver driver) {
  configure(client, driver);
  TestClient events(run_dir() + "/dataplane.sock");
  events.request(MessageType::kSubscribe);
  Wire g1("g1"), g2("g2"), wire("wire0");
  g1.send(frame(kGuestA, kBroadcast, 1));
  EXPECT_FALSE(g2.expect(marker(1)).empty());
  const Bytes outer = wire.expect(marker(1));
  ASSERT_GE(outer.size(), 50u);
  EXPECT_EQ(view<EthernetHeader>(outer.data())->destination, kPeerMac);
  EXPECT_EQ(view<UdpHeader>(outer.data() + 34)->destination_port, Be16(kVxlanPort));

  const auto learned = events.receive();
  const auto header = protocol::read_header(learned);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, MessageType::kLearnEvents);
  const auto event = protocol::read_record<protocol::LearnEvent>(learned, 0);
  EXPECT_EQ(event->key, fdb_key(1, kGuestA));
  EXPECT_EQ(event->location, Location::port(indices_[0]).raw());

  const auto put = client.ask<protocol::FdbPutReply>(
      MessageType::kFdbPut, Rig::record(kGuestA, Location::port(indices_[0])));
  EXPECT_EQ(put.added, 1u);
  wire.send(FrameBuilder()
                .eth(our_mac_, kPeerMac)
                .ipv4(kRemote4, kLocal4)
                .udp(50000, kVxlanPort)
                .vxlan(1000)
                .raw(frame(kFar, kGuestA, 2))
                .build());
  EXPECT_FALSE(g1.expect(marker(2)).empty());
  EXPECT_TRUE(g2.expect(marker(2), 200).empty());

  const auto stats = client.ask<protocol::StatsReply>(MessageType::kStatsGet);
  EXPECT_TRUE(stats.totals.balances());
  EXPECT_GE(stats.totals.received, 2u);
  EXPECT_EQ(stats.ports, 3u);
}

TEST_F(VxplaneDataplane, ForwardsBetweenTapsAndAnAfXdpUnderlay) {
  Process process(run_dir(), {"--no-huge"});
  auto client = process.connect();
  ASSERT_TRUE(client.is_connected());
  pass_traffic(client, protocol::PortDriver::kAfXdp);
  EXPECT_EQ(process.stop(), 0) << process.log();
  EXPECT_EQ(if_nametoindex("g1"), 0u) << "a tap of ours outlives a clean stop";
  EXPECT_TRUE(shell("! ip link show eth0 | grep -q xdp"));
}

TEST_F(VxplaneDataplane, ForwardsBetweenTapsAndANetdevUnderlayWithTwoWorkers) {
  Process process(run_dir(), {"--no-huge", "--lcores", "0,1", "--poll", "adaptive"});
  auto client = process.connect();
  ASSERT_TRUE(client.is_connected());
  EXPECT_EQ(client.ask<protocol::HelloReply>(MessageType::kHello).workers, 2u);
  pass_traffic(client, protocol::PortDriver::kNetdev);
  EXPECT_EQ(process.stop(SIGINT), 0) << process.log();
}

TEST_F(VxplaneDataplane, PortsCanBeRemovedAndAddedUnderTraffic) {
  Process process(run_dir(), {"--no-huge"});
  auto client = process.connect();
  ASSERT_TRUE(client.is_connected());
  configure(client, protocol::PortDriver::kAfXdp);
  Wire wire("wire0");
  for (int i = 0; i < 10; ++i) {
    for (int j = 0; j < 50; ++j)
      wire.send(FrameBuilder()
                    .eth(our_mac_, kPeerMac)
                    .ipv4(kRemote4, kLocal4)
                    .udp(50000, kVxlanPort)
                    .vxlan(1000)
                    .raw(frame(kFar, kBroadcast, 3))
                    .build());
    protocol::PortRef ref;
    protocol::set_text(ref.name, i % 2 == 0 ? "g2" : "eth0");
    client.request(MessageType::kPortDelete, ref);
    EXPECT_EQ(client.status(), 0) << client.error();
    (void)client.ask<protocol::PortInfo>(MessageType::kPortAdd,
                                         i % 2 == 0 ? Rig::guest("g2") : Rig::underlay_port());
  }
  EXPECT_TRUE(client.ask<protocol::StatsReply>(MessageType::kStatsGet).totals.balances());
  EXPECT_EQ(process.stop(), 0) << process.log();
}

TEST_F(VxplaneDataplane, RefusesASecondInstanceOnTheSameRunDir) {
  Process first(run_dir(), {"--no-huge"});
  ASSERT_TRUE(first.connect().is_connected());
  struct stat status {};
  ASSERT_EQ(stat((run_dir() + "/dataplane.sock").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  Process second(run_dir(), {"--no-huge"});
  EXPECT_EQ(second.wait(), 1);
  EXPECT_TRUE(first.connect().is_connected());
  EXPECT_EQ(first.stop(), 0);
  EXPECT_TRUE(fs::is_empty(run_dir())) << "something is left in the run directory";
}

TEST_F(VxplaneDataplane, ReplacesTheSocketOfAKilledInstance) {
  {
    Process first(run_dir(), {"--no-huge"});
    ASSERT_TRUE(first.connect().is_connected());
    EXPECT_EQ(first.stop(SIGKILL), 128 + SIGKILL);
  }
  EXPECT_TRUE(fs::exists(run_dir() + "/dataplane.sock"));
  Process second(run_dir(), {"--no-huge"});
  EXPECT_TRUE(second.connect().is_connected());
  EXPECT_EQ(second.stop(), 0);
}

TEST_F(VxplaneDataplane, TwoInstancesRunSideBySide) {
  Process a(run_dir("a"), {"--no-huge"}), b(run_dir("b"), {"--no-huge"});
  auto client_a = a.connect(), client_b = b.connect();
  ASSERT_TRUE(client_a.is_connected() && client_b.is_connected());
  EXPECT_NE(client_a.ask<protocol::HelloReply>(MessageType::kHello).instance,
            client_b.ask<protocol::HelloReply>(MessageType::kHello).instance);
  EXPECT_EQ(a.stop(), 0);
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(VxplaneDataplane, BadFlagsAreOneLineAndExitTwo) {
  for (const auto& words : std::vector<std::vector<std::string>>{{"--lcores", "99"},
                                                                 {"--lcores", ""},
                                                                 {"--lcores", "0-"},
                                                                 {"--poll", "never"},
                                                                 {"--memory", "x"},
                                                                 {"--bogus"},
                                                                 {"stray"}}) {
    Process process(run_dir(), words);
    EXPECT_EQ(process.wait(), 2) << words[0];
    const std::string log = process.log();
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  }
}

TEST_F(VxplaneDataplane, StartsOverWithTheLcoresOfTheConfiguration) {
  Process process(run_dir(), {"--no-huge"});
  auto client = process.connect();
  ASSERT_TRUE(client.is_connected());
  const auto before = client.ask<protocol::HelloReply>(MessageType::kHello);
  protocol::WorkersConfig config;
  protocol::set_text(config.lcores, "9999");
  client.request(MessageType::kWorkersSet, config);
  EXPECT_EQ(client.status(), EINVAL);
  EXPECT_EQ(client.error().find("lcores = 9999: CPU 9999 is not here"), 0u) << client.error();
  for (const char* list :
       {"0,1", "0"}) {  // the second replaces what the first left in the arguments
    protocol::set_text(config.lcores, list);
    ASSERT_EQ(client.ask<protocol::WorkersReply>(MessageType::kWorkersSet, config).restarts, 1);
    EXPECT_TRUE(client.receive(10000).empty()) << "the connection closes";
    client = process.connect();
    ASSERT_TRUE(client.is_connected());
    const auto hello = client.ask<protocol::HelloReply>(MessageType::kHello);
    EXPECT_EQ(hello.workers, std::string(list) == "0" ? 1u : 2u);
    EXPECT_NE(hello.instance, before.instance);
    EXPECT_EQ(hello.pid, before.pid);
    EXPECT_EQ(client.ask<protocol::WorkersReply>(MessageType::kWorkersSet, config).restarts, 0);
  }
  pass_traffic(client, protocol::PortDriver::kNetdev);
  protocol::set_text(config.lcores, "1");
  client.request(MessageType::kWorkersSet, config);
  EXPECT_EQ(client.status(), EBUSY);
  EXPECT_EQ(process.stop(), 0) << process.log();
}

}  // namespace
}  // namespace vx::testkit
