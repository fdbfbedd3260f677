// SPDX-License-Identifier: Apache-2.0
// The udp underlay driver against the real kernel: what is on the wire, over loopback into the held socket and back out
// of its bundles, and every refusal. In a network namespace of its own; needs root.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "dataplane/file_descriptor.h"
#include "dataplane/netdev.h"
#include "dataplane/port_factory.h"
#include "dataplane/segment.h"
#include "dataplane/unbundle.h"
#include "tests/offload_testkit.h"
#include "tests/testkit.h"

// What the driver calls; a kernel of another age, or one with no room, is played here.
namespace {
struct KernelPlay {
  int train_error = 0;  // for every train of datagrams
  int next_error = 0;   // for the next call, once
  unsigned calls_until_full = ~0u;
  unsigned trains = 0, calls = 0;
} kernel_play;
bool is_train(const msghdr& message) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c))
    if (c->cmsg_level == IPPROTO_UDP) return true;
  return false;
}
}  // namespace
extern "C" int sendmmsg(int fd, mmsghdr* messages, unsigned count, int flags) {
  ++kernel_play.calls;
  kernel_play.trains += is_train(messages[0].msg_hdr);
  errno = kernel_play.calls > kernel_play.calls_until_full ? EAGAIN
          : is_train(messages[0].msg_hdr)                  ? kernel_play.train_error
                                                           : 0;
  if (errno == 0) errno = std::exchange(kernel_play.next_error, 0);
  return errno != 0 ? -1 : static_cast<int>(::syscall(SYS_sendmmsg, fd, messages, count, flags));
}

namespace vx {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testkit::Bytes;
using testkit::FrameBuilder;
using testkit::kOurMac;
using testkit::kPeerMac;

const IpAddress kNear4 = IpAddress::v4(10, 77, 0, 1), kFar4 = IpAddress::v4(10, 77, 0, 2);
const IpAddress kNear6{{0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    kFar6{{0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}};
const IpAddress kLo1 = IpAddress::v4(127, 0, 0, 1), kLo2 = IpAddress::v4(127, 0, 0, 2);
constexpr std::uint16_t kPort = 50'000;
constexpr std::size_t kOuter4 = 14 + 20 + 8, kOuter6 = 14 + 40 + 8;

std::string sh(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  char chunk[512];
  while (pipe != nullptr && std::fgets(chunk, sizeof chunk, pipe) != nullptr) output += chunk;
  if (pipe != nullptr) ::pclose(pipe);
  return output;
}

// A namespace for the process; behind a veth that is a wire (no offloads) another one, "far".
class World : public testing::Environment {
 public:
  void SetUp() override {
    if (::geteuid() != 0) return;
    ASSERT_EQ(::unshare(CLONE_NEWNET | CLONE_NEWNS), 0);
    (void)::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    sh("mkdir -p /run/netns");
    ASSERT_EQ(::mount("none", "/run/netns", "tmpfs", 0, nullptr), 0);
    ASSERT_EQ(
        sh("ip link set lo up && ip netns add far && ip link add ua type veth peer name ub netns far && ip link set ua "
           "up"
           " && ethtool -K ua tx off tso off gso off sg off txvlan off >/dev/null"
           " && ip addr add 10.77.0.1/24 dev ua && ip addr add fd77::1/64 dev ua nodad && ip addr add fd77:1::1/128 "
           "dev lo"
           " && ip addr add fd77:1::2/128 dev lo && ip netns exec far sh -c 'ip link set lo up; ip link set ub up;"
           " ethtool -K ub gro off tx off >/dev/null; ip addr add 10.77.0.2/24 dev ub; ip addr add fd77::2/64 dev ub "
           "nodad'"),
        "");
  }
};
[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

// What arrives on the far end of the wire.
class FarEnd {
 public:
  FarEnd() {
    const FileDescriptor here(::open("/proc/thread-self/ns/net", O_RDONLY)), there(::open("/run/netns/far", O_RDONLY));
    EXPECT_EQ(::setns(there.get(), CLONE_NEWNET), 0);
    fd_ = FileDescriptor(::socket(AF_PACKET, SOCK_RAW, Be16(ETH_P_ALL).raw()));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(ETH_P_ALL).raw();
    address.sll_ifindex = static_cast<int>(netdev::index("ub"));
    const int on = 1, bytes = 8 << 20;
    (void)::setsockopt(fd_.get(), SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &on, sizeof on);
    (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::setns(here.get(), CLONE_NEWNET), 0);
  }
  // VXLAN frames, until there are `wanted` or a fifth of a second was quiet.
  std::vector<Bytes> frames(std::size_t wanted) {
    std::vector<Bytes> all;
    pollfd waiting{fd_.get(), POLLIN, 0};
    while (all.size() < wanted && ::poll(&waiting, 1, 200) == 1) {
      Bytes frame(70'000);
      const ssize_t n = ::recv(fd_.get(), frame.data(), frame.size(), 0);
      if (n < 0) break;
      frame.resize(static_cast<std::size_t>(n));
      const std::size_t udp = frame[12] == 0x08 ? 34 : 54;
      if (frame.size() > udp + 8 && frame[udp + 2] == 4789 >> 8 && frame[udp + 3] == (4789 & 255) &&
          frame[udp - (udp == 34 ? 11 : 34)] == 17)
        all.push_back(std::move(frame));
    }
    return all;
  }

 private:
  FileDescriptor fd_;
};

std::uint16_t source_port(const Bytes& frame) {
  return view<UdpHeader>(frame.data() + (frame[12] == 0x08 ? 34 : 54))->source_port.host();
}
bool is_udp_sum_right(const Bytes& frame) {
  const bool is_v4 = frame[12] == 0x08;
  const std::size_t ip = 14, udp = is_v4 ? 34 : 54, length = frame.size() - udp;
  const std::uint8_t tail[4] = {0, 17, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  const std::uint32_t seed = checksum_partial(tail, 4, checksum_partial(&frame[ip + (is_v4 ? 12 : 8)], is_v4 ? 8 : 32));
  return checksum_fold(checksum_partial(&frame[udp], length, seed)) == 0xffff;
}

class Pool : public testkit::HeapPool {
 public:
  unsigned allocate_large(Packet* out, unsigned count) noexcept override {
    return has_large ? HeapPool::allocate_large(out, count) : 0;
  }
  bool has_large = true;
};

class PortUdp : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for a namespace";
    kernel_play = {};
    protocol::PortConfig config;
    (void)protocol::set_text(config.name, "ua");
    config.role = protocol::PortRole::kUnderlay;
    config.driver = protocol::PortDriver::kUdp;
    port_ = make_port(config, {&pool_, 1, "t", "."}).port;
  }
  void TearDown() override { port_.reset(); }

  static FrameBuilder outer(std::uint16_t flow = kPort, const IpAddress& to = kFar4, std::uint8_t tos = 0,
                            std::uint8_t ttl = 64) {
    FrameBuilder b;
    b.eth(kPeerMac, kOurMac).ipv4(to == kLo2 ? kLo1 : kNear4, to).tos(tos).ttl(ttl).udp(flow, kVxlanPort).vxlan(1000);
    return b;
  }
  static FrameBuilder outer6(const IpAddress& from = kNear6, const IpAddress& to = kFar6, std::uint8_t tos = 0) {
    FrameBuilder b;
    b.eth(kPeerMac, kOurMac).ipv6(from, to).tos(tos).udp(kPort, kVxlanPort).vxlan(1000);
    return b;
  }
  // Offers all as one burst, as the sender does; what was refused has its reason in the answer.
  std::map<std::size_t, DropReason> send(const std::vector<Bytes>& frames, const OffloadMeta& meta = {}) {
    std::vector<Packet> packets(frames.size());
    std::vector<Packet*> list;
    for (std::size_t i = 0; i < frames.size(); ++i) {
      packets[i] = pool_.receive(frames[i]);
      packets[i].offload = meta;
      list.push_back(&packets[i]);
    }
    std::map<std::size_t, DropReason> refused;
    for (std::size_t done = 0; done < list.size();) {
      const auto n = static_cast<unsigned>(std::min<std::size_t>(list.size() - done, kMaxBurst));
      const unsigned sent = port_->tx(0, &list[done], n);
      done += sent;
      if (sent == n) continue;
      refused[done] = list[done]->reason;
      pool_.give_back(list[done]->buffer);
      ++done;
    }
    return refused;
  }
  static std::vector<Packet> receive(Port& port, std::size_t wanted = 1) {
    std::vector<Packet> all;
    const auto end = std::chrono::steady_clock::now() + 500ms;
    while (all.size() < wanted && std::chrono::steady_clock::now() < end) {
      Packet packets[kMaxBurst];
      for (std::uint16_t q = 0; q < port.rx_queues(); ++q) {
        const unsigned n = port.rx(q, packets, kMaxBurst);
        all.insert(all.end(), packets, packets + n);
      }
    }
    return all;
  }
  // Outer frames one by one, bundles taken apart; buffers given back. Notes how many came as bundles.
  std::vector<Bytes> unbundled(const std::vector<Packet>& packets) {
    std::vector<Bytes> frames;
    for (const Packet& packet : packets) {
      if (packet.offload.gso_type != OffloadMeta::kGsoUdp) {
        frames.emplace_back(packet.data, packet.data + packet.length);
      } else {
        ++bundles_;
        for (unsigned i = 0; i < unbundle_count(packet); ++i) {
          Packet one;
          EXPECT_EQ(pool_.allocate(&one, 1), 1u);
          EXPECT_TRUE(fill_from_bundle(packet, i, one));
          frames.emplace_back(one.data, one.data + one.length);
          pool_.give_back(one.buffer);
        }
      }
      pool_.give_back(packet.buffer);
    }
    return frames;
  }
  std::shared_ptr<Port> hold(const IpAddress& local, const HeldSocketOptions& options = {1, true}) {
    return make_held_socket(local, kVxlanPort, 0, kOurMac, pool_, reason_, options);
  }

  Pool pool_;
  std::shared_ptr<Port> port_;
  std::string reason_;
  unsigned bundles_ = 0;
};

TEST_F(PortUdp, PayloadAddressesPortsTosAndTtlAreThoseOfTheFrame) {
  FarEnd far;
  const Bytes four = (outer(kPort, kFar4, 0xb9, 33).payload(100)).build(),
              six = outer6(kNear6, kFar6, 0x2e).payload(100).build();
  EXPECT_TRUE(send({four, six}).empty());
  const auto frames = far.frames(2);
  ASSERT_EQ(frames.size(), 2u);
  const auto* ip = view<Ipv4Header>(&frames[0][14]);
  EXPECT_EQ(ip->tos, 0xb9);
  EXPECT_EQ(ip->ttl, 33);
  EXPECT_EQ(ip->flags_fragment, Be16(kIpv4DontFragment));
  EXPECT_TRUE(std::equal(frames[0].begin() + 26, frames[0].begin() + 40, four.begin() + 26))
      << "addresses, ports, length";
  EXPECT_EQ(Bytes(frames[0].begin() + kOuter4, frames[0].end()), Bytes(four.begin() + kOuter4, four.end()));
  EXPECT_TRUE(is_udp_sum_right(frames[0]));
  EXPECT_EQ(ipv6_traffic_class(&frames[1][14]), 0x2e);
  EXPECT_EQ(frames[1][14 + 7], 64);
  EXPECT_TRUE(std::equal(frames[1].begin() + 22, frames[1].begin() + 60, six.begin() + 22));
  EXPECT_EQ(Bytes(frames[1].begin() + kOuter6, frames[1].end()), Bytes(six.begin() + kOuter6, six.end()));
  EXPECT_TRUE(is_udp_sum_right(frames[1]));
}

TEST_F(PortUdp, AnOuterTagIsNotLookedAt) {
  FarEnd far;
  FrameBuilder tagged;
  tagged.eth(kPeerMac, kOurMac).vlan(4003).ipv4(kNear4, kFar4).udp(kPort, kVxlanPort).vxlan(1000).payload(60);
  EXPECT_TRUE(send({tagged.build()}).empty());
  EXPECT_EQ(far.frames(1).size(), 1u);
}

TEST_F(PortUdp, AFlowAlwaysLeavesFromOnePortAndFlowsFromSixtyFour) {
  FarEnd far;
  std::vector<Bytes> frames;
  for (unsigned round = 0; round < 2; ++round)
    for (unsigned flow = 0; flow < 256; ++flow) {
      Bytes frame = outer(static_cast<std::uint16_t>(49'152 + flow * 64)).payload(60).build();
      frame[kOuter4 + 8] = static_cast<std::uint8_t>(flow);
      frames.push_back(std::move(frame));
    }
  EXPECT_TRUE(send(frames).empty());
  std::map<std::uint8_t, std::set<std::uint16_t>> ports;
  std::set<std::uint16_t> all;
  for (const Bytes& frame : far.frames(frames.size())) {
    ports[frame[kOuter4 + 8]].insert(source_port(frame));
    all.insert(source_port(frame));
  }
  EXPECT_EQ(ports.size(), 256u);
  for (const auto& [flow, seen] : ports) EXPECT_EQ(seen.size(), 1u);
  EXPECT_EQ(all.size(), 64u);
  EXPECT_GE(*all.begin(), 49'152);
}

TEST_F(PortUdp, APortThatIsTakenIsLeftToItsOwner) {
  const FileDescriptor taken(::socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = Be16(kPort).raw();
  ASSERT_EQ(::bind(taken.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  FarEnd far;
  EXPECT_TRUE(send({outer().payload(60).build()}).empty());
  const auto frames = far.frames(1);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(source_port(frames[0]), kPort + 1);
}

// Software segmentation: the wire has no offloads.
TEST_F(PortUdp, FramesOfOneSizeAndAShorterOneArriveSinglyAndInOrder) {
  FarEnd far;
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 150; ++i) {
    sent.push_back(outer(kPort, i == 90 ? kNear4 : kFar4).payload(i % 50 == 40 ? 700 : 1200).build());
    sent.back()[kOuter4 + 8] = static_cast<std::uint8_t>(i);
  }
  sent.erase(sent.begin() + 90);  // had another destination
  EXPECT_TRUE(send(sent).empty());
  const auto frames = far.frames(sent.size());
  ASSERT_EQ(frames.size(), sent.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_EQ(Bytes(frames[i].begin() + kOuter4, frames[i].end()), Bytes(sent[i].begin() + kOuter4, sent[i].end()))
        << i;
    EXPECT_TRUE(is_udp_sum_right(frames[i]));
    EXPECT_EQ(view<Ipv4Header>(&frames[i][14])->flags_fragment, Be16(kIpv4DontFragment));
  }
}

// Flows that alternate: a call for each socket, not for each frame.
TEST_F(PortUdp, FramesOfABurstThatShareASocketLeaveTogetherAndInOrder) {
  FarEnd far;
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 60; ++i) {
    sent.push_back(outer(static_cast<std::uint16_t>(kPort + i % 3 * 256)).payload(300).build());
    sent.back()[kOuter4 + 8] = static_cast<std::uint8_t>(i);
  }
  EXPECT_TRUE(send(sent).empty());
  EXPECT_EQ(kernel_play.calls, 3u);
  EXPECT_EQ(kernel_play.trains, 3u);
  std::map<std::uint16_t, std::vector<int>> flows;
  for (const Bytes& frame : far.frames(60)) flows[source_port(frame)].push_back(frame[kOuter4 + 8]);
  ASSERT_EQ(flows.size(), 3u);
  for (const auto& [port, order] : flows) {
    EXPECT_EQ(order.size(), 20u);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  }
}

TEST_F(PortUdp, FramesThatAreRefusedAmongOthersAreThoseAndTheOthersPassOnce) {
  FarEnd far;
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 30; ++i) {
    const bool is_lost = i % 3 == 1;
    sent.push_back(outer(static_cast<std::uint16_t>(kPort + (2 - i % 3) * 256), is_lost ? IpAddress::v4(203, 0, 113, 9) : kFar4).payload(300).build());
    sent.back()[kOuter4 + 8] = static_cast<std::uint8_t>(i);
  }
  const auto refused = send(sent);
  EXPECT_EQ(refused.size(), 10u);
  for (const auto& [i, reason] : refused) EXPECT_EQ(reason, DropReason::kUnderlayUnresolved);
  std::set<int> seen;
  for (const Bytes& frame : far.frames(20)) EXPECT_TRUE(seen.insert(frame[kOuter4 + 8]).second);
  EXPECT_EQ(seen.size(), 20u);
  for (const int i : seen) EXPECT_NE(i % 3, 1);
}

TEST_F(PortUdp, WithoutAnOuterChecksumThereIsNone) {
  FarEnd far;
  std::vector<Bytes> frames(5, outer().payload(300).build());
  for (std::size_t i = 0; i < 4; ++i) frames[i][40] = frames[i][41] = 0;
  EXPECT_TRUE(send(frames).empty());
  const auto seen = far.frames(5);
  ASSERT_EQ(seen.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(seen[i][40] == 0 && seen[i][41] == 0, i < 4) << i;
}

// ---- super-frames ----

struct SuperCase {
  const char* name;
  bool is_tcp, inner_v4, outer_v4, checksum;
};
class PortUdpSuper : public PortUdp, public testing::WithParamInterface<SuperCase> {};

TEST_P(PortUdpSuper, IsOnTheWireAsItsSegments) {
  const SuperCase& c = GetParam();
  FarEnd far;
  testkit::OffloadSpec spec;
  spec.is_tcp = c.is_tcp;
  spec.is_v4 = c.inner_v4;
  spec.payload.resize(60'000);
  for (std::size_t i = 0; i < spec.payload.size(); ++i) spec.payload[i] = static_cast<std::uint8_t>(i * 7 >> 3);
  spec.segment_size = 1280;
  const Bytes inner = spec.partial();
  OffloadMeta meta = spec.meta();

  // What is to be seen: the inner segments, as segment.h makes them.
  Packet super = pool_.receive(inner);
  super.offload = meta;
  SuperFrame at;
  ASSERT_EQ(parse_super_frame(super, at), DropReason::kNone);
  const Segmenter cut(super, at);
  std::vector<Bytes> expected;
  for (unsigned i = 0; i < cut.count(); ++i) {
    Packet out;
    ASSERT_EQ(pool_.allocate(&out, 1), 1u);
    (void)cut.make(i, out);
    expected.emplace_back(out.data, out.data + out.length);
    pool_.give_back(out.buffer);
  }
  pool_.give_back(super.buffer);

  // As the sender hands it over: lengths of the first segment, the checksum field says whether.
  Bytes frame = (c.outer_v4 ? outer() : outer6()).payload(100).build();
  const std::size_t front = (c.outer_v4 ? kOuter4 : kOuter6) + 8;
  frame.resize(front);
  frame[front - 10] = frame[front - 9] = c.checksum ? 0xff : 0;
  frame.insert(frame.end(), inner.begin(), inner.end());
  meta.header_length = at.payload;
  meta.shift(static_cast<int>(front));
  EXPECT_TRUE(send({frame}, meta).empty());

  const auto seen = far.frames(expected.size());
  ASSERT_EQ(seen.size(), expected.size());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(Bytes(seen[i].begin() + static_cast<std::ptrdiff_t>(front), seen[i].end()), expected[i]) << i;
    EXPECT_EQ(view<VxlanHeader>(&seen[i][front - 8])->vni_reserved, Be32(1000 << 8));
    if (c.checksum)
      EXPECT_TRUE(is_udp_sum_right(seen[i]));
    else
      EXPECT_EQ(seen[i][front - 10] | seen[i][front - 9], 0);
  }
}
INSTANTIATE_TEST_SUITE_P(Each, PortUdpSuper,
                         testing::Values(SuperCase{"Tcp4In4", true, true, true, true},
                                         SuperCase{"Tcp6In4", true, false, true, true},
                                         SuperCase{"Tcp4In6", true, true, false, true},
                                         SuperCase{"Udp4In4", false, true, true, true},
                                         SuperCase{"Tcp4In4WithoutChecksum", true, true, true, false}),
                         [](const auto& one) { return std::string(one.param.name); });

// 60,000 bytes of TCP in 47 segments, as the sender hands them over.
struct Super {
  Bytes frame;
  OffloadMeta meta;
};
Super super_frame(FrameBuilder outer) {
  testkit::OffloadSpec spec;
  spec.payload.resize(60'000);
  spec.segment_size = 1280;
  Super super{outer.build(), spec.meta()};
  const Bytes inner = spec.partial();
  super.meta.header_length = static_cast<std::uint16_t>(spec.payload_at());
  super.meta.shift(static_cast<int>(super.frame.size()));
  super.frame.insert(super.frame.end(), inner.begin(), inner.end());
  return super;
}

TEST_F(PortUdp, SegmentsOfASuperFrameGoSinglyWhereTrainsAreRefused) {
  FarEnd far;
  kernel_play.train_error = EIO;
  const Super super = super_frame(outer());
  EXPECT_TRUE(send({super.frame, super.frame}, super.meta).empty());
  EXPECT_EQ(far.frames(94).size(), 94u);
  EXPECT_EQ(kernel_play.trains, 1u);
}

TEST_F(PortUdp, TheRestOfASuperFrameThatFindsNoRoomIsCounted) {
  FarEnd far;
  const Super super = super_frame(outer());
  OffloadMeta meta = super.meta;
  meta.segment_size = 500;  // 120 segments: two trains
  kernel_play.calls_until_full = 1;
  EXPECT_TRUE(send({super.frame}, meta).empty());
  EXPECT_EQ(far.frames(120).size(), 64u);
  EXPECT_EQ(port_->lost().tx_errors, 120u - 64);
  kernel_play.calls_until_full = 0;
  EXPECT_EQ(send({super.frame}, meta), (std::map<std::size_t, DropReason>{{0, DropReason::kNone}}));
}

TEST_F(PortUdp, ASuperFrameAboveThePathMtuIsRefusedAsOne) {
  sh("ip route add 10.77.0.2/32 dev ua mtu lock 1300");
  const Super super = super_frame(outer());
  EXPECT_EQ(send({super.frame}, super.meta),
            (std::map<std::size_t, DropReason>{{0, DropReason::kUnderlayMtuExceeded}}));
  sh("ip route del 10.77.0.2/32 dev ua");
}

TEST_F(PortUdp, ASuperFrameThatContradictsItselfIsRefused) {
  Super super = super_frame(outer());
  super.meta.checksum_start = 60'000;
  EXPECT_EQ(send({super.frame}, super.meta), (std::map<std::size_t, DropReason>{{0, DropReason::kGuestBadOffload}}));
}

// ---- in: the held socket ----

TEST_F(PortUdp, ATrainComesInAsABundle) {
  const auto held = hold(kLo2);
  ASSERT_TRUE(held) << reason_;
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 40; ++i) {
    sent.push_back(outer(kPort, kLo2, 3).payload(i == 39 ? 500 : 1300).build());
    sent.back()[kOuter4 + 8] = static_cast<std::uint8_t>(i);
  }
  EXPECT_TRUE(send(sent).empty());
  const auto packets = receive(*held);
  for (const Packet& packet : packets) {
    EXPECT_EQ(packet.offload.segment_size, 1308);
    EXPECT_EQ(packet.offload.header_length, kOuter4);
    EXPECT_GE(packet.headroom, 60);
  }
  const auto frames = unbundled(packets);
  EXPECT_EQ(bundles_, 1u);
  ASSERT_EQ(frames.size(), sent.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_EQ(Bytes(frames[i].begin() + kOuter4, frames[i].end()), Bytes(sent[i].begin() + kOuter4, sent[i].end()))
        << i;
    const auto* ip = view<Ipv4Header>(&frames[i][14]);
    EXPECT_EQ(ip->total_length.host(), frames[i].size() - 14);
    EXPECT_EQ(ip->tos, 3);
    EXPECT_EQ(checksum_fold(checksum_partial(&frames[i][14], 20)), 0xffff);
    EXPECT_EQ(view<UdpHeader>(&frames[i][34])->length.host(), frames[i].size() - 34);
  }
}

TEST_F(PortUdp, BundlesOverIpv6) {
  const IpAddress one{{0xfd, 0x77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
      two{{0xfd, 0x77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}};
  const auto held = hold(two);
  ASSERT_TRUE(held) << reason_;
  const std::vector<Bytes> sent(45, outer6(one, two, 1).payload(1300).build());
  EXPECT_TRUE(send(sent).empty());
  const auto frames = unbundled(receive(*held));
  EXPECT_EQ(bundles_, 1u);
  ASSERT_EQ(frames.size(), sent.size());
  for (const Bytes& frame : frames) {
    EXPECT_EQ(Bytes(frame.begin() + kOuter6, frame.end()), Bytes(sent[0].begin() + kOuter6, sent[0].end()));
    EXPECT_EQ(view<Ipv6Header>(&frame[14])->payload_length.host(), frame.size() - 54);
    EXPECT_EQ(ipv6_traffic_class(&frame[14]), 1);
  }
}

TEST_F(PortUdp, SmallDatagramsStayInOrdinaryBuffersAndManyComeAtOnce) {
  const auto held = hold(kLo2);
  ASSERT_TRUE(held) << reason_;
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 60; ++i)
    sent.push_back(outer(static_cast<std::uint16_t>(49'152 + i * 256), kLo2).payload(64 + i).build());
  EXPECT_TRUE(send(sent).empty());
  const auto packets = receive(*held, 60);
  ASSERT_EQ(packets.size(), 60u);
  for (std::size_t i = 0; i < 60; ++i) {
    EXPECT_EQ(packets[i].length, sent[i].size());
    EXPECT_LE(packets[i].length + packets[i].tailroom + packets[i].headroom, kHeadroomBytes + 2048u);
  }
  EXPECT_EQ(unbundled(packets).size(), 60u);
}

TEST_F(PortUdp, WithoutLargeBuffersBundlesStillComeIn) {
  const auto held = hold(kLo2);
  ASSERT_TRUE(held) << reason_;
  pool_.has_large = false;
  const std::vector<Bytes> sent(100, outer(kPort, kLo2).payload(1300).build());
  EXPECT_TRUE(send(sent).empty());
  const auto packets = receive(*held, 100);
  EXPECT_EQ(packets.size(), 100u) << "taken apart by the socket itself";
  EXPECT_EQ(unbundled(packets).size(), 100u);
  EXPECT_EQ(bundles_, 0u);
}

TEST_F(PortUdp, SeveralQueuesShareThePortByFlowAndNobodyElseMayJoin) {
  const auto held = hold(kLo2, {2, true});
  ASSERT_TRUE(held) << reason_;
  EXPECT_EQ(held->rx_queues(), 2);
  EXPECT_FALSE(hold(kLo2, {2, true})) << "another instance";
  EXPECT_THAT(reason_, HasSubstr("another program"));
  std::vector<Bytes> sent;
  for (unsigned i = 0; i < 64; ++i)
    sent.push_back(outer(static_cast<std::uint16_t>(49'152 + i * 256), kLo2).payload(64).build());
  EXPECT_TRUE(send(sent).empty());
  Packet packets[kMaxBurst];
  std::size_t all = 0;
  for (std::uint16_t q = 0; q < 2; ++q) {
    const unsigned n = held->rx(q, packets, kMaxBurst);
    EXPECT_GT(n, 8u);
    all += n;
    unbundled({packets, packets + n});
  }
  EXPECT_EQ(all, 64u);
}

TEST_F(PortUdp, TheKernelVxlanDeviceThatHoldsThePortIsNamed) {
  sh("ip link add kvx7 type vxlan id 7 dstport 4789 local 10.77.0.1 dev ua && ip link set kvx7 up");
  EXPECT_FALSE(hold(kNear4));
  EXPECT_EQ(reason_, "UDP port 4789 is held by the kernel's vxlan device kvx7");
  sh("ip link del kvx7");
}

// ---- refusals ----

TEST_F(PortUdp, AFrameAboveTheDevicesMtuIsRefusedAndTheNextPasses) {
  FarEnd far;
  const Bytes fits = outer().payload(1500 - 36).build(), large = outer().payload(1501 - 36).build(),
              large6 = outer6().payload(1500).build();
  const auto refused = send({fits, large, large, large6, fits});
  EXPECT_EQ(refused, (std::map<std::size_t, DropReason>{{1, DropReason::kUnderlayMtuExceeded},
                                                        {2, DropReason::kUnderlayMtuExceeded},
                                                        {3, DropReason::kUnderlayMtuExceeded}}));
  EXPECT_EQ(far.frames(2).size(), 2u);
  EXPECT_EQ(port_->lost().tx_errors, 3u);
}

// The kernel learns it as it would from a router's ICMP: for the socket that is there.
TEST_F(PortUdp, ThePathMtuThatTheKernelHasLearntIsObeyed) {
  FarEnd far;
  sh("ip route add 10.77.0.2/32 dev ua mtu lock 1300");
  const auto refused = send({outer().payload(1301 - 36).build(), outer().payload(1300 - 36).build()});
  sh("ip route del 10.77.0.2/32 dev ua");
  EXPECT_EQ(refused, (std::map<std::size_t, DropReason>{{0, DropReason::kUnderlayMtuExceeded}}));
  EXPECT_EQ(far.frames(1).size(), 1u);
}

TEST_F(PortUdp, WithoutARouteItIsUnresolved) {
  const auto refused =
      send({outer(kPort, IpAddress::v4(203, 0, 113, 9)).payload(60).build(), outer().payload(60).build()});
  EXPECT_EQ(refused, (std::map<std::size_t, DropReason>{{0, DropReason::kUnderlayUnresolved}}));
}

TEST_F(PortUdp, PortUnreachableOfThePeerLosesNothing) {
  FarEnd far;
  for (unsigned i = 0; i < 5; ++i) {  // nobody listens at the far end: each is answered by ICMP
    EXPECT_TRUE(send({outer().payload(60).build()}).empty());
    ::usleep(5000);
  }
  EXPECT_EQ(far.frames(5).size(), 5u);
}

TEST_F(PortUdp, AnErrorOfAnEarlierDatagramLosesNothing) {
  FarEnd far;
  kernel_play.next_error = ECONNREFUSED;
  EXPECT_TRUE(send({outer().payload(60).build()}).empty());
  EXPECT_EQ(far.frames(1).size(), 1u);
}

TEST_F(PortUdp, WhereTrainsAreRefusedDatagramsGoSinglyAndThatIsRemembered) {
  for (const int error : {EIO, EINVAL}) {
    FarEnd far;
    TearDown();
    SetUp();
    kernel_play.train_error = error;
    EXPECT_TRUE(send(std::vector<Bytes>(40, outer().payload(1000).build())).empty());
    EXPECT_EQ(far.frames(40).size(), 40u);
    EXPECT_EQ(kernel_play.trains, 1u);
    EXPECT_TRUE(send(std::vector<Bytes>(40, outer().payload(1000).build())).empty());
    EXPECT_EQ(far.frames(40).size(), 40u);
    EXPECT_EQ(kernel_play.trains, 1u);
    EXPECT_EQ(port_->lost().tx_errors, 0u);
  }
}

TEST_F(PortUdp, AFullSocketIsNoRefusalOfTheFrame) {
  kernel_play.calls_until_full = 0;
  EXPECT_EQ(send({outer().payload(60).build()}), (std::map<std::size_t, DropReason>{{0, DropReason::kNone}}));
  EXPECT_EQ(port_->lost().tx_errors, 0u);
}

TEST_F(PortUdp, WhatIsNoUdpIsRefused) {
  FrameBuilder arp;
  arp.eth(kPeerMac, kOurMac).arp(1, kOurMac, kNear4, {}, kFar4);
  EXPECT_EQ(send({arp.build()}), (std::map<std::size_t, DropReason>{{0, DropReason::kPortDown}}));
}

TEST_F(PortUdp, AnAddressThatComesLaterIsUsedThen) {
  FarEnd far;
  FrameBuilder early;
  early.eth(kPeerMac, kOurMac).ipv4(IpAddress::v4(10, 77, 0, 9), kFar4).udp(kPort, kVxlanPort).vxlan(1000).payload(60);
  EXPECT_EQ(send({early.build()}), (std::map<std::size_t, DropReason>{{0, DropReason::kUnderlayUnresolved}}));
  sh("ip addr add 10.77.0.9/24 dev ua");
  EXPECT_TRUE(send({early.build()}).empty());
  EXPECT_EQ(far.frames(1).size(), 1u);
  sh("ip addr del 10.77.0.9/24 dev ua");
}

}  // namespace
}  // namespace vx
