// SPDX-License-Identifier: Apache-2.0
// What the tests of the port back ends share: EAL and a network namespace of the process's own, a wire (veth), the
// kernel's end of a netdev, and the pool. Needs root; skipped without.
#pragma once

#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <rte_eal.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/buffer_pool_mbuf.h"
#include "dataplane/clock.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_factory.h"
#include "tests/testkit.h"

namespace vx::testkit {

using namespace std::chrono_literals;
using protocol::PortDriver;

inline constexpr unsigned kBuffers = 16384, kLargeBuffers = kBuffers / kBuffersPerLarge;
inline constexpr const char* kCrashMark = "VXPORT_CRASH";
inline const MacAddress kGuestMac = MacAddress::from_u48(0x0200000000aa), kFarMac = MacAddress::from_u48(0x0200000000bb);

inline std::string bpf_directory() {
  const char* build = std::getenv("VXPLANE_BUILD");
  return build != nullptr ? build : ".";
}
// Runs a shell command; its output.
inline std::string sh(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::array<char, 512> chunk;
  while (pipe != nullptr && std::fgets(chunk.data(), chunk.size(), pipe) != nullptr) output += chunk.data();
  if (pipe != nullptr) ::pclose(pipe);
  return output;
}
// Our own traffic: the kernel's (IPv6 autoconfiguration) is not.
inline bool is_ours(const Bytes& frame) {
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
    if (::geteuid() != 0) return;
    std::this_thread::sleep_for(200ms);  // net_memif's control thread may still look at memory that goes now
    rte_eal_cleanup();
  }
};

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
    const std::uint64_t ahead = monotonic_ns() + 3'600'000'000'000u;
    if (made.steering) made.steering->heartbeat(0)->monotonic_ns = ahead;
    for (auto* slot : made.heartbeats) slot->monotonic_ns = ahead;
  }
  // Another process makes the port and dies by SIGKILL: a crashed run. (A fork would share this one's EAL memory.)
  static void run_and_crash(PortDriver driver) {
    sh(std::string(kCrashMark) + "=" + std::to_string(static_cast<int>(driver)) + " " + std::filesystem::read_symlink("/proc/self/exe").string() +
       " --gtest_also_run_disabled_tests --gtest_filter=PortTest.DISABLED_CrashedRun");
  }
  // Frames of ours that the port receives on any queue until `wanted` are there or none came for half a second, 5 s at most.
  std::vector<Bytes> receive(Port& port, std::size_t wanted) {
    std::vector<Bytes> frames;
    std::array<Packet, kMaxBurst> packets;
    const auto began = std::chrono::steady_clock::now();
    auto last = began;
    for (auto now = began; frames.size() < wanted && now < last + 500ms && now < began + 5s; now = std::chrono::steady_clock::now()) {
      for (std::uint16_t q = 0; q < port.rx_queues(); ++q) {
        const unsigned n = port.rx(q, packets.data(), kMaxBurst);
        for (unsigned i = 0; i < n; ++i) {
          Packet* packet = &packets[i];
          EXPECT_GE(packet->headroom, 78) << "outer headers must fit";
          Bytes frame(packet->data, packet->data + packet->length);
          pool_->free(&packet, 1);
          if (!is_ours(frame)) continue;
          frames.push_back(std::move(frame));
          last = now;
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

}  // namespace vx::testkit
