// SPDX-License-Identifier: Apache-2.0
// Super-frames and partial checksums through the ports, against the real kernel: its TCP in two namespaces, its packet
// sockets, taps that others hold. What a port is handed as metadata comes out as metadata or as right frames; nothing is
// lost. In a network namespace of its own; needs root.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <rte_ip.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <algorithm>
#include <thread>

#include "dataplane/file_descriptor.h"
#include "dataplane/layer3.h"
#include "dataplane/mbuf_offload.h"
#include "dataplane/port_drivers.h"
#include "dataplane/super_frame.h"
#include "dataplane/vnet_header.h"
#include "tests/port_testkit.h"

namespace vx {
namespace {

using namespace testkit;

[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

constexpr std::uint8_t kTcp4 = OffloadMeta::kGsoTcp4, kTcp6 = OffloadMeta::kGsoTcp6, kUso = OffloadMeta::kGsoUdp;

// A frame with what is left to do with it.
struct Frame {
  Bytes bytes;
  OffloadMeta offload;
};

// `payload` bytes 0, 1, 2... of TCP or UDP to be cut into pieces of `segment_size`; 0: a partial checksum only.
Frame super_frame(std::uint8_t gso_type, std::size_t payload, std::uint16_t segment_size, int tci = -1) {
  const bool is_tcp = gso_type != kUso, is_v6 = gso_type == kTcp6;
  Bytes l4(is_tcp ? 20 : 8);
  l4[1] = 99, l4[3] = 98;  // ports
  if (is_tcp) l4[12] = 0x50, l4[13] = 0x18, l4[14] = 0xff;
  else view<UdpHeader>(l4.data())->length = Be16(static_cast<std::uint16_t>(payload + 8));
  FrameBuilder builder = FrameBuilder().eth(kGuestMac, kFarMac);
  if (tci >= 0) builder.vlan(static_cast<std::uint16_t>(tci));
  IpAddress a{{0xfd, 9, 1}}, b{{0xfd, 9, 2}};
  if (is_v6) builder.ipv6(a, b);
  else builder.ipv4(a = IpAddress::v4(10, 9, 9, 1), b = IpAddress::v4(10, 9, 9, 2));
  Frame frame{builder.raw(l4).payload(payload).build(), {}};
  const std::size_t l3 = tci >= 0 ? 18 : 14, at = l3 + (is_v6 ? 40 : 20);
  const std::uint8_t protocol = is_tcp ? ip_protocol::kTcp : ip_protocol::kUdp;
  frame.bytes[l3 + (is_v6 ? 6 : 9)] = protocol;
  if (!is_v6) {
    auto* ip = view<Ipv4Header>(&frame.bytes[l3]);
    ip->checksum = {};
    ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(checksum_partial(&frame.bytes[l3], 20))));
  }
  const auto length = static_cast<std::uint16_t>(frame.bytes.size() - at);
  const std::uint8_t tail[4] = {0, protocol, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  const std::uint32_t addresses = checksum_partial(&frame.bytes[l3 + (is_v6 ? 8 : 12)], is_v6 ? 32 : 8);
  const std::uint16_t pseudo = checksum_fold(checksum_partial(tail, 4, addresses));
  const std::uint16_t field = is_tcp ? 16 : 6;
  std::memcpy(&frame.bytes[at + field], &pseudo, 2);
  frame.offload = {OffloadMeta::kNeedsChecksum, segment_size != 0 ? gso_type : OffloadMeta::kGsoNone,
                   static_cast<std::uint16_t>(at + l4.size()), segment_size, static_cast<std::uint16_t>(at), field};
  return frame;
}

// Whether IPv4, IPv6 and TCP or UDP checksums of an untagged frame without options are right.
bool checksums_are_right(const Bytes& f) {
  const bool is_v6 = f[12] == 0x86;
  const std::size_t l4 = is_v6 ? 54 : 34;
  if (!is_v6 && checksum_fold(checksum_partial(&f[14], 20)) != 0xffff) return false;
  const std::size_t length = f.size() - l4;
  const std::uint8_t tail[4] = {0, f[is_v6 ? 20 : 23], static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  const std::uint32_t sum = checksum_partial(&f[is_v6 ? 22 : 26], is_v6 ? 32 : 8, checksum_partial(tail, 4));
  return checksum_fold(checksum_partial(&f[l4], length, sum)) == 0xffff;
}

// The kernel's end of a netdev with offload metadata: what arrives is one skb as the device got it.
class VnetSide {
 public:
  explicit VnetSide(const std::string& netdev) : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, Be16(ETH_P_ALL).raw())) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(ETH_P_ALL).raw();
    address.sll_ifindex = static_cast<int>(netdev::index(netdev));
    const int one = 1, size = 8 << 20;
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &one, sizeof one), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size), 0);
    EXPECT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size), 0);
  }
  [[nodiscard]] int send(const Frame& frame) {
    VnetHeader header = to_vnet(frame.offload, static_cast<std::uint32_t>(frame.bytes.size()));
    const iovec parts[2] = {{&header, sizeof header}, {const_cast<std::uint8_t*>(frame.bytes.data()), frame.bytes.size()}};
    return ::writev(fd_.get(), parts, 2) > 0 ? 0 : errno;
  }
  // All of our frames that are there, or come within a moment while there are fewer than `wanted`.
  [[nodiscard]] std::vector<Frame> receive(std::size_t wanted) {
    std::vector<Frame> frames;
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (frames.size() < wanted && std::chrono::steady_clock::now() < end) {
      Frame frame{Bytes(70000), {}};
      VnetHeader header;
      const iovec parts[2] = {{&header, sizeof header}, {frame.bytes.data(), frame.bytes.size()}};
      const ssize_t n = ::readv(fd_.get(), parts, 2);
      if (n < static_cast<ssize_t>(sizeof header)) continue;
      frame.bytes.resize(static_cast<std::size_t>(n) - sizeof header);
      frame.offload = to_offload(header);
      if (is_ours(frame.bytes)) frames.push_back(std::move(frame));
    }
    return frames;
  }

 private:
  FileDescriptor fd_;
};

void expect_same(const Frame& got, const Frame& sent) {
  EXPECT_TRUE(got.bytes == sent.bytes) << got.bytes.size() << " bytes, " << sent.bytes.size() << " sent";
  EXPECT_EQ(got.offload.flags, sent.offload.flags);
  EXPECT_EQ(got.offload.gso_type, sent.offload.gso_type);
  EXPECT_EQ(got.offload.segment_size, sent.offload.segment_size);
  EXPECT_EQ(got.offload.checksum_start, sent.offload.checksum_start);
  EXPECT_EQ(got.offload.checksum_offset, sent.offload.checksum_offset);
}

class OffloadTest : public PortTest {
 protected:
  // A wire whose ends offload all they can, as a container's has it.
  static void make_wire(const std::string& near, const std::string& far) {
    sh("ip link add " + near + " type veth peer name " + far + " && ip link set " + near + " up && ip link set " + far + " up");
  }
  void TearDown() override {
    made_ = {};
    if (pool_) {
      EXPECT_EQ(mbufs().available(), kBuffers);
      EXPECT_EQ(mbufs().available_large(), kLargeBuffers);
    }
    PortTest::TearDown();
  }
  void use(const std::string& name, PortDriver driver) {
    made_ = make_port(config(name, driver), context());
    beat(made_);
  }
  // What the kernel knows: USO from Linux 6.2 on.
  [[nodiscard]] std::vector<std::uint8_t> gso_types() const {
    utsname kernel{};
    ::uname(&kernel);
    int major = 0, minor = 0;
    EXPECT_EQ(std::sscanf(kernel.release, "%d.%d", &major, &minor), 2);
    EXPECT_EQ(made_.port->tx_offloads().udp, major * 100 + minor >= 602);
    return made_.port->tx_offloads().udp ? std::vector{kTcp4, kTcp6, kUso} : std::vector{kTcp4, kTcp6};
  }
  // The port's frames with their metadata; where each lay is noted.
  std::vector<bool> were_large_;
  std::vector<Frame> receive_frames(std::size_t wanted) {
    std::vector<Frame> frames;
    were_large_.clear();
    std::array<Packet, kMaxBurst> packets;
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (frames.size() < wanted && std::chrono::steady_clock::now() < end) {
      const unsigned n = made_.port->rx(0, packets.data(), kMaxBurst);
      for (unsigned i = 0; i < n; ++i) {
        Packet* p = &packets[i];
        Frame frame{Bytes(p->data, p->data + p->length), p->offload};
        const bool is_large = mbufs().is_large(p->buffer);
        pool_->free(&p, 1);
        if (!is_ours(frame.bytes)) continue;
        frames.push_back(std::move(frame));
        were_large_.push_back(is_large);
      }
    }
    return frames;
  }
  // True when the port took it.
  bool send_frame(const Frame& frame) {
    Packet packet;
    EXPECT_EQ(frame.bytes.size() > 2048 ? pool_->allocate_large(&packet, 1) : pool_->allocate(&packet, 1), 1u);
    std::memcpy(packet.data, frame.bytes.data(), frame.bytes.size());
    packet.length = static_cast<std::uint32_t>(frame.bytes.size());
    packet.offload = frame.offload;
    Packet* one = &packet;
    if (made_.port->tx(0, &one, 1) == 1) return true;
    pool_->free(&one, 1);
    return false;
  }
  // Plain frames that together carry the payload of `sent`, in order and with right checksums.
  static void expect_segments(const std::vector<Bytes>& segments, const Frame& sent) {
    const std::size_t header = sent.offload.header_length;
    Bytes payload;
    for (const auto& s : segments) {
      ASSERT_GT(s.size(), header);
      EXPECT_LE(s.size(), header + sent.offload.segment_size);
      EXPECT_TRUE(checksums_are_right(s));
      payload.insert(payload.end(), s.begin() + static_cast<std::ptrdiff_t>(header), s.end());
    }
    EXPECT_TRUE(payload == Bytes(sent.bytes.begin() + static_cast<std::ptrdiff_t>(header), sent.bytes.end())) << payload.size();
  }

  MadePort made_;
};

// ---- buffers ----

TEST_F(OffloadTest, LargeBuffersHoldTheLargestFrameAndAreTold) {
  std::vector<Packet> large(kLargeBuffers + 1), small(100);
  ASSERT_EQ(pool_->allocate_large(large.data(), kLargeBuffers + 1), kLargeBuffers) << "says when there are no more";
  ASSERT_EQ(pool_->allocate(small.data(), 100), 100u);
  std::vector<Packet*> mixed;
  for (unsigned i = 0; i < kLargeBuffers; ++i) {
    EXPECT_GE(large[i].headroom, kHeadroomBytes);
    EXPECT_GE(large[i].tailroom, kMaxFrameBytes);
    EXPECT_TRUE(mbufs().is_large(large[i].buffer));
    std::memset(large[i].data, static_cast<int>(i), large[i].tailroom);
    mixed.push_back(&large[i]);
    if (i >= 100) continue;
    EXPECT_FALSE(mbufs().is_large(small[i].buffer));
    mixed.push_back(&small[i]);
  }
  for (unsigned i = 0; i < kLargeBuffers; ++i) EXPECT_EQ(large[i].data[large[i].tailroom - 1], static_cast<std::uint8_t>(i)) << "they do not overlap";
  pool_->free(mixed.data(), static_cast<unsigned>(mixed.size()));
}

TEST_F(OffloadTest, FramesLieInOrdinaryBuffersWhereTheyFit) {
  Packet ordinary, large, out;
  ASSERT_EQ(pool_->allocate(&ordinary, 1), 1u);
  ASSERT_EQ(pool_->allocate_large(&large, 1), 1u);
  large.data[0] = 7;
  EXPECT_FALSE(place_frame(ordinary, large, ordinary.tailroom, {}, out));
  EXPECT_EQ(out.buffer, ordinary.buffer);
  EXPECT_EQ(out.data[0], 7);
  EXPECT_EQ(out.tailroom, 0u);
  EXPECT_TRUE(place_frame(ordinary, large, ordinary.tailroom + 1, {}, out));
  EXPECT_EQ(out.buffer, large.buffer);
  EXPECT_TRUE(place_frame(ordinary, large, kMaxFrameBytes, {}, out));
  EXPECT_EQ(out.length, kMaxFrameBytes);
  EXPECT_FALSE(place_frame(ordinary, large, kMaxFrameBytes + 1, {.flags = 1}, out)) << "guest_truncated";
  EXPECT_EQ(out.length, 0u);
  EXPECT_TRUE(out.offload.is_plain());
  Packet* both[] = {&ordinary, &large};
  pool_->free(both, 2);
}

// ---- tap and netdev: metadata both ways ----

struct Side {
  PortDriver driver;
  std::string netdev, far;
};
class MetadataTest : public OffloadTest, public testing::WithParamInterface<Side> {
 protected:
  void SetUp() override {
    OffloadTest::SetUp();
    if (IsSkipped()) return;
    if (GetParam().driver == PortDriver::kNetdev) make_wire("vxa", "vxb");
    use(GetParam().netdev, GetParam().driver);
    kernel_.emplace(GetParam().far);
  }
  std::optional<VnetSide> kernel_;
};
INSTANTIATE_TEST_SUITE_P(Ports, MetadataTest, testing::Values(Side{PortDriver::kTap, "tapx", "tapx"}, Side{PortDriver::kNetdev, "vxa", "vxb"}),
                         [](const auto& side) { return side.param.netdev; });

TEST_P(MetadataTest, SuperFramesPassWholeBothWays) {
  for (const std::uint8_t type : gso_types()) {
    for (const std::size_t payload : {2000u, 9000u, 61234u}) {
      const Frame frame = super_frame(type, payload, 1280);
      ASSERT_TRUE(made_.port->tx_offloads().carries(frame.offload));
      ASSERT_EQ(kernel_->send(frame), 0);
      const auto in = receive_frames(1);
      ASSERT_EQ(in.size(), 1u) << int{type} << " " << payload;
      expect_same(in[0], frame);
      EXPECT_EQ(were_large_[0], payload > 2048);
      ASSERT_TRUE(send_frame(frame));
      const auto out = kernel_->receive(1);
      ASSERT_EQ(out.size(), 1u) << int{type} << " " << payload;
      expect_same(out[0], frame);
    }
  }
}

TEST_P(MetadataTest, PartialChecksumsPassUntouched) {
  for (const std::uint8_t type : {kTcp4, kTcp6, kUso}) {
    const Frame frame = super_frame(type, 300, 0);
    ASSERT_EQ(kernel_->send(frame), 0);
    const auto in = receive_frames(1);
    ASSERT_EQ(in.size(), 1u);
    expect_same(in[0], frame);
    ASSERT_TRUE(send_frame(frame));
    const auto out = kernel_->receive(1);
    ASSERT_EQ(out.size(), 1u);
    expect_same(out[0], frame);
  }
}

TEST_P(MetadataTest, SmallSuperFrameIsInAnOrdinaryBuffer) {
  const Frame frame = super_frame(kTcp4, 1800, 500);
  ASSERT_EQ(kernel_->send(frame), 0);
  const auto in = receive_frames(1);
  ASSERT_EQ(in.size(), 1u);
  expect_same(in[0], frame);
  EXPECT_FALSE(were_large_[0]);
}

TEST_P(MetadataTest, TagMovesTheOffsets) {
  for (const std::uint8_t type : gso_types()) {
    const Frame frame = super_frame(type, 40000, 1000, 0x6064);
    ASSERT_EQ(kernel_->send(frame), 0);
    const auto in = receive_frames(1);
    ASSERT_EQ(in.size(), 1u);
    expect_same(in[0], frame);
    ASSERT_TRUE(send_frame(frame));
    const auto out = kernel_->receive(1);  // this socket leaves the tag in the kernel's metadata
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(out[0].bytes.size(), frame.bytes.size() - 4);
    EXPECT_EQ(out[0].offload.checksum_start, frame.offload.checksum_start - 4);
  }
}

TEST_P(MetadataTest, NothingIsLostWhileLargeBuffersAreOut) {
  std::vector<Packet> taken(kLargeBuffers);
  ASSERT_EQ(pool_->allocate_large(taken.data(), kLargeBuffers), kLargeBuffers);
  const Frame frame = super_frame(kTcp4, 50000, 1400);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(kernel_->send(frame), 0);
  EXPECT_EQ(receive_frames(1).size(), 0u);
  Packet* one = &taken[0];
  pool_->free(&one, 1);
  EXPECT_EQ(receive_frames(20).size(), 20u) << "one is enough to go on";
  for (unsigned i = 1; i < kLargeBuffers; ++i) {
    one = &taken[i];
    pool_->free(&one, 1);
  }
  EXPECT_EQ(made_.port->lost().rx_missed, 0u);
}

TEST_P(MetadataTest, ManySuperFramesKeepTheirOrder) {
  for (std::uint8_t i = 0; i < 60; ++i) {
    Frame frame = super_frame(kTcp4, i % 3 == 0 ? 100u : 30000u, i % 3 == 0 ? 0 : 1400);
    frame.bytes.back() = i;
    ASSERT_EQ(kernel_->send(frame), 0);
  }
  const auto in = receive_frames(60);
  ASSERT_EQ(in.size(), 60u);
  for (std::uint8_t i = 0; i < 60; ++i) EXPECT_EQ(in[i].bytes.back(), i);
  for (const auto& frame : in) ASSERT_TRUE(send_frame(frame));
  const auto out = kernel_->receive(60);
  ASSERT_EQ(out.size(), 60u);
  for (std::uint8_t i = 0; i < 60; ++i) EXPECT_EQ(out[i].bytes.back(), i);
}

TEST_P(MetadataTest, ImpossibleRequestIsRefusedWithAReason) {
  Frame frame = super_frame(kTcp4, 100, 0);
  frame.offload.checksum_start = 60000;
  Packet packet;
  ASSERT_EQ(pool_->allocate(&packet, 1), 1u);
  std::memcpy(packet.data, frame.bytes.data(), frame.bytes.size());
  packet.length = static_cast<std::uint32_t>(frame.bytes.size());
  packet.offload = frame.offload;
  Packet* one = &packet;
  EXPECT_EQ(made_.port->tx(0, &one, 1), 0u);
  EXPECT_EQ(packet.reason, DropReason::kGuestBadOffload);
  pool_->free(&one, 1);
  frame = super_frame(kTcp4, 100, 0);
  frame.offload.header_length = 0xffff;  // a hint only
  EXPECT_TRUE(send_frame(frame));
}

// ---- netdevs that cannot segment themselves: the kernel does it ----

TEST_F(OffloadTest, DeviceWithoutSegmentationGetsSegments) {
  make_wire("vxa", "vxb");
  use("vxa", PortDriver::kNetdev);
  KernelSide far("vxb");
  for (const char* change : {"", "ethtool -K vxa tso off", "ethtool -K vxa tx-udp-segmentation off", "ethtool -K vxa tx off sg off"}) {
    sh(change);  // while it runs
    for (const std::uint8_t type : gso_types()) {
      const Frame frame = super_frame(type, 60000, 1280);
      ASSERT_TRUE(send_frame(frame)) << change;
      std::vector<Bytes> got;
      while (auto bytes = far.receive())
        if (is_ours(*bytes)) got.push_back(*bytes);
      const std::string said = change;
      const bool stays_whole = said.empty() || (type == kUso && said == "ethtool -K vxa tso off");
      ASSERT_EQ(got.size(), stays_whole ? 1u : 47u) << change << " " << int{type};
      if (stays_whole) EXPECT_EQ(got[0].size(), frame.bytes.size());
      else if (said.find("tx off") != std::string::npos) expect_segments(got, frame);  // else checksums are the next device's
    }
  }
  EXPECT_EQ(made_.port->lost().tx_errors, 0u);
}

// As QEMU holds one: vxplane is on the kernel's side of it.
TEST_F(OffloadTest, TapHeldByAnotherGetsWhatItsHolderTakes) {
  FileDescriptor holder(::open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq ifr{};
  std::strcpy(ifr.ifr_name, "tapx");
  ifr.ifr_flags = IFF_TAP | IFF_NO_PI;
  ASSERT_EQ(::ioctl(holder.get(), TUNSETIFF, &ifr), 0);
  use("tapx", PortDriver::kNetdev);
  for (const std::uint8_t type : gso_types()) {
    const Frame frame = super_frame(type, 60000, 1280);
    ASSERT_TRUE(send_frame(frame));
    std::vector<Bytes> got;
    Bytes bytes(70000);
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (got.size() < 47 && std::chrono::steady_clock::now() < end) {
      const ssize_t n = ::read(holder.get(), bytes.data(), bytes.size());
      if (n > 0 && is_ours(Bytes(bytes.begin(), bytes.begin() + n))) got.emplace_back(bytes.begin(), bytes.begin() + n);
    }
    EXPECT_EQ(got.size(), 47u);
    expect_segments(got, frame);
    ASSERT_TRUE(send_frame(super_frame(type, 300, 0)));
    const ssize_t n = ::read(holder.get(), bytes.data(), bytes.size());
    ASSERT_GT(n, 0);
    EXPECT_TRUE(checksums_are_right(Bytes(bytes.begin(), bytes.begin() + n)));
  }
}

TEST_F(OffloadTest, UnderlaysHandInFinishedChecksums) {
  make_wire("vxa", "vxb");
  for (const auto& [name, driver, far] : {std::tuple("tapx", PortDriver::kTap, "tapx"), std::tuple("vxa", PortDriver::kNetdev, "vxb")}) {
    auto c = config(name, driver);
    c.role = protocol::PortRole::kUnderlay;
    made_ = {};
    made_ = make_port(c, context());
    beat(made_);
    ASSERT_EQ(VnetSide(far).send(super_frame(kUso, 301, 0)), 0);
    const auto in = receive_frames(1);
    ASSERT_EQ(in.size(), 1u) << name;
    EXPECT_TRUE(in[0].offload.is_plain());
    EXPECT_TRUE(checksums_are_right(in[0].bytes));
  }
}

// ---- Linux TCP on both sides, two ports in between that hand over what they get ----

// A namespace with one netdev in it.
class Guest {
 public:
  Guest(std::string name, const std::string& netdev, int host) : name_(name + std::to_string(::getpid())) {
    const std::string last = std::to_string(host);
    sh("ip netns add " + name_ + " && ip link set " + netdev + " netns " + name_ + " && ip -n " + name_ + " link set " + netdev + " mtu 1500 up && ip -n " +
       name_ + " addr add 10.9.9." + last + "/24 dev " + netdev + " && ip -n " + name_ + " addr add fd09::" + last + "/64 nodad dev " + netdev);
    // No probes on suspicion: they count as retransmissions when this test is kept off the CPU for a moment.
    sh("ip netns exec " + name_ + " sh -c 'echo 0 > /proc/sys/net/ipv4/tcp_early_retrans'");
  }
  ~Guest() { sh("ip netns del " + name_); }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  [[nodiscard]] FileDescriptor tcp(int family) const {
    FileDescriptor result;
    std::thread([&] {
      FileDescriptor ns(::open(("/run/netns/" + name_).c_str(), O_RDONLY));
      EXPECT_EQ(::setns(ns.get(), CLONE_NEWNET), 0);
      result = FileDescriptor(::socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0));
    }).join();
    return result;
  }

 private:
  std::string name_;
};

class TcpTest : public OffloadTest {
 protected:
  // Hands over what is there, both ways.
  void pump(Port& a, Port& b) {
    for (const auto& [from, to] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      std::array<Packet, kMaxBurst> packets;
      const unsigned n = from->rx(0, packets.data(), kMaxBurst);
      for (unsigned i = 0; i < n; ++i) {
        Packet* p = &packets[i];
        super_frames_ += p->offload.is_super_frame();
        EXPECT_TRUE(to->tx_offloads().carries(p->offload));
        if (to->tx(0, &p, 1) == 1) continue;
        ++lost_;
        pool_->free(&p, 1);
      }
    }
  }
  // One stream from a guest to the other, its content compared.
  void transfer(const Guest& from, const Guest& to, Port& a, Port& b, int family, std::size_t bytes) {
    sockaddr_in6 six{};
    sockaddr_in four{};
    six.sin6_family = AF_INET6, six.sin6_port = Be16(7000).raw(), six.sin6_addr.s6_addr[0] = 0xfd, six.sin6_addr.s6_addr[1] = 9, six.sin6_addr.s6_addr[15] = 2;
    four.sin_family = AF_INET, four.sin_port = Be16(7000).raw(), four.sin_addr.s_addr = Be32(0x0a090902).raw();
    const auto* address = family == AF_INET ? reinterpret_cast<sockaddr*>(&four) : reinterpret_cast<sockaddr*>(&six);
    const socklen_t size = family == AF_INET ? sizeof four : sizeof six;
    FileDescriptor listener = to.tcp(family), sender = from.tcp(family), receiver;
    const int one = 1;
    (void)::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    ASSERT_EQ(::bind(listener.get(), address, size), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    (void)::connect(sender.get(), address, size);
    Bytes pattern(1 << 18), buffer(1 << 18);
    for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<std::uint8_t>(i * 7 + (i >> 8));
    std::size_t sent = 0, received = 0;
    bool is_same = true;
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (received < bytes && is_same && std::chrono::steady_clock::now() < end) {
      pump(a, b);
      if (!receiver) receiver = FileDescriptor(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK));
      const std::size_t at = sent % pattern.size();
      const ssize_t out = sent < bytes ? ::send(sender.get(), &pattern[at], std::min(pattern.size() - at, bytes - sent), MSG_NOSIGNAL) : 0;
      if (out > 0) sent += static_cast<std::size_t>(out);
      const std::size_t expected = received % pattern.size();
      const ssize_t in = receiver ? ::recv(receiver.get(), buffer.data(), pattern.size() - expected, 0) : 0;
      if (in <= 0) continue;
      is_same = std::equal(buffer.begin(), buffer.begin() + in, pattern.begin() + static_cast<std::ptrdiff_t>(expected));
      received += static_cast<std::size_t>(in);
    }
    EXPECT_TRUE(is_same);
    EXPECT_EQ(received, bytes);
    tcp_info info{};
    socklen_t length = sizeof info;
    ASSERT_EQ(::getsockopt(sender.get(), IPPROTO_TCP, TCP_INFO, &info, &length), 0);
    EXPECT_EQ(info.tcpi_total_retrans, 0u);
  }
  // Both families, both directions.
  void expect_streams(const Guest& one, const Guest& two, Port& a, Port& b) {
    for (const int family : {AF_INET, AF_INET6}) transfer(one, two, a, b, family, 20'000'000);
    EXPECT_EQ(lost_, 0u);
    EXPECT_EQ(a.lost().rx_missed + a.lost().tx_errors + b.lost().rx_missed + b.lost().tx_errors, 0u);
  }
  void TearDown() override {
    other_ = {};
    OffloadTest::TearDown();
    sh("ip link del vxc; ip link del tapy");
  }
  std::size_t super_frames_ = 0, lost_ = 0;
  MadePort other_;
};

TEST_F(TcpTest, StreamsBetweenTapsPassAsSuperFrames) {
  use("tapx", PortDriver::kTap);
  other_ = make_port(config("tapy", PortDriver::kTap), context());
  const Guest one("vxg1-", "tapx", 1), two("vxg2-", "tapy", 2);
  expect_streams(one, two, *made_.port, *other_.port);
  EXPECT_GT(super_frames_, 100u);
}

TEST_F(TcpTest, StreamsBetweenVethsPassAsSuperFramesWithoutAnyAdvice) {
  make_wire("vxa", "vxb");
  make_wire("vxc", "vxd");
  use("vxa", PortDriver::kNetdev);
  other_ = make_port(config("vxc", PortDriver::kNetdev), context());
  beat(other_);
  const Guest one("vxg1-", "vxb", 1), two("vxg2-", "vxd", 2);
  expect_streams(one, two, *made_.port, *other_.port);
  EXPECT_GT(super_frames_, 100u);
}

TEST_F(TcpTest, StreamsFromATapToAVethThatDoesNotSegment) {
  make_wire("vxc", "vxd");
  sh("ethtool -K vxc tso off gso off tx off");
  use("tapx", PortDriver::kTap);
  other_ = make_port(config("vxc", PortDriver::kNetdev), context());
  beat(other_);
  const Guest one("vxg1-", "tapx", 1), two("vxg2-", "vxd", 2);
  expect_streams(one, two, *made_.port, *other_.port);
  EXPECT_GT(super_frames_, 100u);
}

// ---- dpdk: ports ----

// The mbuf that says what is left to do with `frame`, for a device that wants it DPDK's way.
class MbufTest : public OffloadTest {
 protected:
  void TearDown() override {
    Packet* one = &packet_;
    if (packet_.buffer != nullptr) pool_->free(&one, 1);
    OffloadTest::TearDown();
  }
  DropReason describe_frame(const Frame& frame) {
    Packet* one = &packet_;
    if (packet_.buffer != nullptr) pool_->free(&one, 1);
    EXPECT_EQ(pool_->allocate_large(&packet_, 1), 1u);
    std::memcpy(packet_.data, frame.bytes.data(), frame.bytes.size());
    packet_.length = static_cast<std::uint32_t>(frame.bytes.size());
    packet_.offload = frame.offload;
    mbuf_ = MbufPool::to_mbuf(packet_);
    return describe(MbufOffloads{}, packet_, *mbuf_);
  }
  [[nodiscard]] Bytes bytes() const { return {packet_.data, packet_.data + packet_.length}; }
  Packet packet_;
  rte_mbuf* mbuf_ = nullptr;
};

TEST_F(MbufTest, SegmentationIsSaidDpdksWay) {
  const Frame frame = super_frame(kTcp4, 9000, 1280, 5);
  ASSERT_EQ(describe_frame(frame), DropReason::kNone);
  EXPECT_EQ(mbuf_->ol_flags, RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM);
  EXPECT_EQ(mbuf_->l2_len, 18);
  EXPECT_EQ(mbuf_->l3_len, 20);
  EXPECT_EQ(mbuf_->l4_len, 20);
  EXPECT_EQ(mbuf_->tso_segsz, 1280);
  auto* ip = reinterpret_cast<rte_ipv4_hdr*>(packet_.data + 18);
  EXPECT_EQ(ip->hdr_checksum, 0);
  EXPECT_EQ(load<std::uint16_t>(packet_.data + 38 + 16), rte_ipv4_phdr_cksum(ip, mbuf_->ol_flags));
  take_over(RTE_MBUF_F_RX_LRO, 1280, packet_);  // and back: the length is in again
  const Bytes back = bytes();
  EXPECT_TRUE(std::equal(back.begin() + 38, back.end(), frame.bytes.begin() + 38));
  EXPECT_EQ(packet_.offload.gso_type, kTcp4);

  ASSERT_EQ(describe_frame(super_frame(kTcp6, 9000, 1280)), DropReason::kNone);
  EXPECT_EQ(mbuf_->ol_flags, RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_IPV6);
  EXPECT_EQ(load<std::uint16_t>(packet_.data + 54 + 16), rte_ipv6_phdr_cksum(reinterpret_cast<rte_ipv6_hdr*>(packet_.data + 14), mbuf_->ol_flags));
}

TEST_F(MbufTest, ChecksumIsSaidAndWhatCannotBeSaidIsCompleted) {
  for (const std::uint8_t type : {kTcp4, kTcp6, kUso}) {
    const Frame frame = super_frame(type, 301, 0);
    ASSERT_EQ(describe_frame(frame), DropReason::kNone);
    EXPECT_EQ(mbuf_->ol_flags, (type == kUso ? RTE_MBUF_F_TX_UDP_CKSUM : RTE_MBUF_F_TX_TCP_CKSUM) | (type == kTcp6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4));
    EXPECT_EQ(bytes(), frame.bytes);
  }
  Frame frame = super_frame(kTcp6, 301, 0);  // with destination options, for which DPDK takes a wrong pseudo header
  frame.bytes.insert(frame.bytes.begin() + 54, {ip_protocol::kTcp, 0, 1, 4, 0, 0, 0, 0});
  frame.bytes[20] = ip_protocol::kDestinationOptions;
  view<Ipv6Header>(&frame.bytes[14])->payload_length = Be16(20 + 8 + 301);
  frame.offload.checksum_start = 62;
  ASSERT_EQ(describe_frame(frame), DropReason::kNone);
  EXPECT_EQ(mbuf_->ol_flags, 0u);
  Bytes sent = bytes();
  sent.erase(sent.begin() + 54, sent.begin() + 62);
  sent[20] = ip_protocol::kTcp;
  EXPECT_TRUE(checksums_are_right(sent));
}

TEST_F(MbufTest, LiesAreRefused) {
  Frame frame = super_frame(kTcp4, 9000, 1280);
  frame.offload.checksum_start = 38;
  EXPECT_EQ(describe_frame(frame), DropReason::kGuestBadOffload);
  frame = super_frame(kTcp4, 9000, 1280);
  frame.bytes[23] = 99;
  EXPECT_EQ(describe_frame(frame), DropReason::kGuestBadOffload);
  take_over(RTE_MBUF_F_RX_L4_CKSUM_NONE, 0, packet_);  // received: nothing to complete in that
  EXPECT_EQ(complete_checksum(packet_), DropReason::kGuestBadOffload);
}

TEST_F(OffloadTest, LargeBuffersDoNotReachAfXdp) {
  make_wire("vxa", "vxb");
  sh("ethtool -K vxa tx off tso off gso off txvlan off; ethtool -K vxb tx off tso off gso off txvlan off");
  use("vxa", PortDriver::kAfXdp);
  EXPECT_FALSE(made_.port->tx_offloads().checksum);
  KernelSide far("vxb");
  for (const std::size_t payload : {300u, 1486u}) {
    const Bytes frame = FrameBuilder().eth(kFarMac, kGuestMac).payload(payload).build();
    Packet packet;
    ASSERT_EQ(pool_->allocate_large(&packet, 1), 1u);
    std::memcpy(packet.data, frame.data(), frame.size());
    packet.length = static_cast<std::uint32_t>(frame.size());
    Packet* one = &packet;
    ASSERT_EQ(made_.port->tx(0, &one, 1), 1u);
    std::optional<Bytes> got;
    for (const auto end = std::chrono::steady_clock::now() + 500ms; !got && std::chrono::steady_clock::now() < end;)
      if (auto bytes = far.receive(); bytes && is_ours(*bytes)) got = bytes;
    ASSERT_TRUE(got);
    EXPECT_EQ(*got, frame);
  }
  Packet packet;
  ASSERT_EQ(pool_->allocate_large(&packet, 1), 1u);
  packet.length = 3000;
  Packet* one = &packet;
  EXPECT_EQ(made_.port->tx(0, &one, 1), 0u);
  EXPECT_EQ(packet.reason, DropReason::kMtuExceeded);
  pool_->free(&one, 1);
}

// A guest's end (net_virtio_user) and ours (net_vhost) of one socket, as a VM has it.
class VhostTest : public OffloadTest {
 protected:
  void SetUp() override {
    OffloadTest::SetUp();
    if (IsSkipped()) return;
    const std::string socket = "/tmp/vxport-vhost-" + std::to_string(::getpid()) + ".sock";
    vhost_ = make_port(config("vhost", PortDriver::kDpdk, "net_vhost,iface=" + socket + ",tso=1"), context());
    guest_ = make_port(config("guest", PortDriver::kDpdk, "net_virtio_user,path=" + socket + ",queue_size=1024,mac=02:00:00:00:00:aa"), context());
  }
  void TearDown() override {
    guest_ = {};
    vhost_ = {};
    OffloadTest::TearDown();
  }
  // Sends through one and receives from the other; the guest's driver frees what was sent when it sends again.
  std::vector<Frame> pass(const MadePort& from, const MadePort& to, const Frame& frame) {
    made_ = from;
    EXPECT_TRUE(send_frame(frame));
    made_ = to;
    auto frames = receive_frames(1);
    made_ = {};
    return frames;
  }
  MadePort vhost_, guest_;
};

// net_vhost and net_virtio_user interrupt, both by an eventfd.
TEST_F(VhostTest, InterruptsComeWhileAskedForOnly) {
  const auto watch = [](const MadePort& made) {
    const int set = epoll_create1(EPOLL_CLOEXEC);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    EXPECT_EQ(epoll_ctl(set, EPOLL_CTL_ADD, made.port->rx_interrupt_fd(0), &event), 0);
    return set;
  };
  const auto is_signalled = [](int set, int ms) {
    epoll_event event{};
    return epoll_wait(set, &event, 1, ms) == 1;
  };
  const Frame frame{FrameBuilder().eth(kGuestMac, kFarMac).payload(200).build(), {}};
  for (const auto& [from, to] : {std::pair{guest_, vhost_}, std::pair{vhost_, guest_}}) {
    EXPECT_EQ(to.port->rx_fd(0), -1);
    ASSERT_GE(to.port->rx_interrupt_fd(0), 0);
    const FileDescriptor set(watch(to));
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(to.port->ask_for_rx_interrupt(0, true));
      EXPECT_EQ(pass(from, to, frame).size(), 1u);
      EXPECT_TRUE(is_signalled(set.get(), 1000)) << round;
      ASSERT_TRUE(to.port->ask_for_rx_interrupt(0, false));
      EXPECT_EQ(pass(from, to, frame).size(), 1u);
      EXPECT_FALSE(is_signalled(set.get(), 20)) << round;
    }
  }
}

TEST_F(VhostTest, SuperFramesAndPartialChecksumsPass) {
  EXPECT_TRUE(guest_.port->tx_offloads().checksum && guest_.port->tx_offloads().tcp4 && guest_.port->tx_offloads().tcp6);
  EXPECT_TRUE(vhost_.port->tx_offloads().checksum);
  EXPECT_FALSE(vhost_.port->tx_offloads().tcp4) << "net_vhost does not offer it";
  for (int round = 0; round < 3; ++round) {
    for (const std::uint8_t type : {kTcp4, kTcp6}) {
      for (const std::size_t payload : {1900u, 5000u, 61234u}) {
        const Frame frame = super_frame(type, payload, 1280, round == 1 ? 0x6005 : -1);
        const auto got = pass(guest_, vhost_, frame);
        ASSERT_EQ(got.size(), 1u) << payload;
        expect_same(got[0], frame);
        EXPECT_EQ(were_large_[0], payload > 2048);
      }
    }
    for (const std::uint8_t type : {kTcp4, kTcp6, kUso}) {
      const Frame frame = super_frame(type, 301, 0, round == 1 ? 0x6005 : -1);
      for (const auto& got : {pass(guest_, vhost_, frame), pass(vhost_, guest_, frame)}) {
        ASSERT_EQ(got.size(), 1u);
        expect_same(got[0], frame);
      }
    }
    const Frame plain{FrameBuilder().eth(kGuestMac, kFarMac).payload(1400).build(), {}};
    for (const auto& got : {pass(guest_, vhost_, plain), pass(vhost_, guest_, plain)}) {
      ASSERT_EQ(got.size(), 1u);
      expect_same(got[0], plain);
    }
  }
}

}  // namespace
}  // namespace vx
