// SPDX-License-Identifier: Apache-2.0
// ebpf/steer.bpf.c and take.bpf.c on hand-made frames, by BPF_PROG_TEST_RUN: one exit a frame, the right one.
// Needs root (bpf(2)).
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/pkt_cls.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "dataplane/bpf_maps.h"
#include "dataplane/clock.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/xdp_steering.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using testkit::Bytes;
using testkit::FrameBuilder;

const MacAddress kOurMac = MacAddress::from_u48(0x020000000001), kPeerMac = MacAddress::from_u48(0x020000000002);
const IpAddress kLocal = IpAddress::v4(172, 18, 1, 1), kPeer = IpAddress::v4(172, 18, 1, 2), kOther = IpAddress::v4(172, 18, 1, 9);
IpAddress v6(std::uint8_t last) {
  IpAddress ip{{0xfd, 0, 0x18, 1}};
  ip.bytes[15] = last;
  return ip;
}
const IpAddress kLocal6 = v6(1), kPeer6 = v6(2), kOther6 = v6(9);
constexpr std::uint32_t kVni = 1000;
constexpr std::uint16_t kVid = 4003;

std::string object_path(const char* file) {
  const char* build = std::getenv("VXPLANE_BUILD");
  return std::string(build != nullptr ? build : ".") + "/" + file;
}

struct Loaded {
  Loaded(const char* file, const char* program) : object(::bpf_object__open_file(object_path(file).c_str(), nullptr)) {
    if (object == nullptr || ::bpf_object__load(object) != 0) throw std::runtime_error(std::string("cannot load ") + file);
    fd = ::bpf_program__fd(::bpf_object__find_program_by_name(object, program));
  }
  ~Loaded() { ::bpf_object__close(object); }
  Loaded(const Loaded&) = delete;
  [[nodiscard]] int map(const char* name) const { return ::bpf_object__find_map_fd_by_name(object, name); }
  [[nodiscard]] int run(const Bytes& frame) const {
    bpf_test_run_opts opts{};
    opts.sz = sizeof opts;
    opts.data_in = frame.data();
    opts.data_size_in = static_cast<__u32>(frame.size());
    opts.repeat = 1;
    const int error = ::bpf_prog_test_run_opts(fd, &opts);
    return error == 0 ? static_cast<int>(opts.retval) : -1;
  }
  bpf_object* object;
  int fd = -1;
};

class XdpSteer : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for bpf(2)";
    program_ = std::make_unique<Loaded>(VXP_XDP_OBJECT, VXP_XDP_PROGRAM);
    steering_ = make_xdp_steering(program_->fd, 0, false);
    bind_socket(0);
    steering_->heartbeat(0)->monotonic_ns = monotonic_ns() + 3'600'000'000'000u;  // an hour ahead: fresh while the test runs
    steer(kVid);
  }
  void steer(std::uint16_t vlan, bool own_address = false) {
    steering_->steer({own_address, vlan, {kLocal, kLocal6}, {kVxlanPort}, {kVni, 77}});
  }
  void bind_socket(std::uint32_t queue) {
    socket_ = FileDescriptor(::socket(AF_XDP, SOCK_RAW, 0));
    const int fd = socket_.get();
    ASSERT_EQ(::bpf_map_update_elem(program_->map("xsks_map"), &queue, &fd, BPF_ANY), 0);
  }
  // Runs the frame; checks that exactly one exit counted one, and returns it with the verdict.
  struct Outcome {
    int action;
    int exit;
    friend bool operator==(const Outcome&, const Outcome&) = default;
  };
  Outcome run(const Bytes& frame) {
    const auto before = steering_->exits();
    const int action = program_->run(frame);
    const auto after = steering_->exits();
    int taken = -1, total = 0;
    for (int i = 0; i < VXP_EXIT_COUNT; ++i) {
      const auto n = static_cast<std::size_t>(i);
      total += static_cast<int>(after[n] - before[n]);
      if (after[n] != before[n]) taken = i;
    }
    EXPECT_EQ(total, 1) << "every frame leaves by one counted exit";
    return {action, taken};
  }
  void expect_pass(const Bytes& frame, vxp_exit exit, const char* what = "") {
    const Outcome o = run(frame);
    EXPECT_EQ(o.action, XDP_PASS) << what;
    EXPECT_EQ(o.exit, exit) << what;
  }
  void expect_taken(const Bytes& frame, vxp_exit exit, const char* what = "") {
    const Outcome o = run(frame);
    EXPECT_EQ(o.action, XDP_REDIRECT) << what;
    EXPECT_EQ(o.exit, exit) << what;
  }

  static FrameBuilder outer(std::uint16_t vlan) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac);
    if (vlan != 0) b.vlan(vlan);
    return b;
  }
  static FrameBuilder inner() { return FrameBuilder().eth(kPeerMac, kOurMac).payload(50); }
  static Bytes vxlan4(std::uint16_t vlan, const IpAddress& to = kLocal, std::uint16_t port = kVxlanPort, std::uint32_t vni = kVni) {
    return outer(vlan).ipv4(kPeer, to).udp(50000, port).vxlan(vni).raw(inner().build()).build();
  }
  static Bytes vxlan6(std::uint16_t vlan, const IpAddress& to = kLocal6, std::uint16_t port = kVxlanPort, std::uint32_t vni = kVni) {
    return outer(vlan).ipv6(kPeer6, to).udp(50000, port).vxlan(vni).raw(inner().build()).build();
  }

  std::unique_ptr<Loaded> program_;
  std::shared_ptr<XdpSteering> steering_;
  FileDescriptor socket_;
};

TEST_F(XdpSteer, VxlanForUsIsRedirected) {
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED);
  expect_taken(vxlan6(kVid), VXP_EXIT_REDIRECTED);
  expect_taken(vxlan4(kVid, kLocal, kVxlanPort, 77), VXP_EXIT_REDIRECTED);
  steer(0);
  expect_taken(vxlan4(0), VXP_EXIT_REDIRECTED);
  expect_taken(vxlan6(0), VXP_EXIT_REDIRECTED);
}

TEST_F(XdpSteer, PriorityAndDeiBitsOfTheTagDoNotMatter) {
  expect_taken(vxlan4(0xf000 | kVid), VXP_EXIT_REDIRECTED);
}

TEST_F(XdpSteer, Ipv4OptionsAreSkipped) {
  for (unsigned words = 1; words <= 10; ++words)
    expect_taken(outer(kVid).ipv4(kPeer, kLocal).ipv4_options(words).udp(50000, kVxlanPort).vxlan(kVni).raw(inner().build()).build(),
                 VXP_EXIT_REDIRECTED);
}

TEST_F(XdpSteer, WithoutConfigurationEverythingPasses) {
  steering_->off();
  expect_pass(vxlan4(kVid), VXP_EXIT_NOT_CONFIGURED);
  steer(kVid);
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED);
}

TEST_F(XdpSteer, OtherVlansPass) {
  expect_pass(vxlan4(0), VXP_EXIT_OTHER_VLAN, "untagged where a tag is expected");
  expect_pass(vxlan4(4001), VXP_EXIT_OTHER_VLAN, "corosync's VLAN");
  expect_pass(FrameBuilder().eth(kOurMac, kPeerMac).service_vlan(kVid).ipv4(kPeer, kLocal).udp(1, kVxlanPort).vxlan(kVni).payload(60).build(),
              VXP_EXIT_OTHER_VLAN, "802.1ad");
  steer(0);
  expect_pass(vxlan4(kVid), VXP_EXIT_OTHER_VLAN, "tagged where none is expected");
  expect_pass(outer(0).vlan(0).ipv4(kPeer, kLocal).udp(1, kVxlanPort).vxlan(kVni).payload(60).build(), VXP_EXIT_OTHER_VLAN, "priority tag");
}

TEST_F(XdpSteer, OtherProtocolsPass) {
  expect_pass(outer(kVid).ipv4(kPeer, kLocal).icmp4(8, 20).build(), VXP_EXIT_OTHER_PROTOCOL, "ping of a kernel address");
  expect_pass(outer(kVid).arp(1, kPeerMac, kPeer, {}, kLocal).build(), VXP_EXIT_OTHER_PROTOCOL, "ARP for a kernel address");
  expect_pass(outer(kVid).ipv6(kPeer6, kLocal6).icmp6(128, Bytes(20)).build(), VXP_EXIT_OTHER_PROTOCOL);
  expect_pass(outer(kVid).payload(60).build(), VXP_EXIT_OTHER_PROTOCOL, "not IP");
  Bytes tcp = vxlan4(kVid);
  tcp[18 + 9] = ip_protocol::kTcp;
  expect_pass(tcp, VXP_EXIT_OTHER_PROTOCOL, "TCP to the VXLAN port");
  Bytes wrong_version = vxlan4(kVid);
  wrong_version[18] = 0x65;
  expect_pass(wrong_version, VXP_EXIT_OTHER_PROTOCOL, "IP version 6 under the IPv4 ethertype");
  Bytes short_ihl = vxlan4(kVid);
  short_ihl[18] = 0x44;
  expect_pass(short_ihl, VXP_EXIT_OTHER_PROTOCOL, "header length 16");
  Bytes two_tags = outer(kVid).vlan(5).ipv4(kPeer, kLocal).udp(1, kVxlanPort).vxlan(kVni).payload(60).build();
  expect_pass(two_tags, VXP_EXIT_OTHER_PROTOCOL, "a second tag");
}

TEST_F(XdpSteer, OtherAddressesPortsAndVnisPass) {
  expect_pass(vxlan4(kVid, kOther), VXP_EXIT_OTHER_ADDRESS);
  expect_pass(vxlan6(kVid, kOther6), VXP_EXIT_OTHER_ADDRESS);
  expect_pass(vxlan4(kVid, kLocal, 8472), VXP_EXIT_OTHER_PORT);
  expect_pass(vxlan6(kVid, kLocal6, 53), VXP_EXIT_OTHER_PORT);
  expect_pass(vxlan4(kVid, kLocal, kVxlanPort, kVni + 1), VXP_EXIT_UNKNOWN_VNI);
  expect_pass(vxlan6(kVid, kLocal6, kVxlanPort, kVni << 8), VXP_EXIT_UNKNOWN_VNI);
}

TEST_F(XdpSteer, ClearedIFlagPasses) {
  expect_pass(outer(kVid).ipv4(kPeer, kLocal).udp(1, kVxlanPort).vxlan(kVni, 0).payload(60).build(), VXP_EXIT_BAD_FLAGS);
}

TEST_F(XdpSteer, FragmentsPassToTheKernel) {
  for (const std::uint16_t bits : {kIpv4MoreFragments, std::uint16_t{0x00b9}, std::uint16_t{0x2001}})
    expect_pass(outer(kVid).ipv4(kPeer, kLocal).fragment(bits).udp(1, kVxlanPort).vxlan(kVni).payload(60).build(), VXP_EXIT_FRAGMENT);
  expect_taken(outer(kVid).ipv4(kPeer, kLocal).dont_fragment().udp(1, kVxlanPort).vxlan(kVni).payload(60).build(), VXP_EXIT_REDIRECTED);
  Bytes six = vxlan6(kVid);
  six[18 + 6] = ip_protocol::kFragment;
  expect_pass(six, VXP_EXIT_FRAGMENT);
  expect_pass(outer(kVid).ipv4(kPeer, kOther).fragment(kIpv4MoreFragments).udp(1, 53).payload(60).build(), VXP_EXIT_OTHER_ADDRESS, "somebody else's");
}

TEST_F(XdpSteer, OwnAddressTakesFragmentsOfUdpAndIcmpForItOnly) {
  steer(kVid, true);
  const auto pieces = [](const IpAddress& to, const IpAddress& to6, std::uint8_t protocol, std::uint8_t protocol6) {
    std::vector<Bytes> list;
    for (const std::uint16_t bits : {kIpv4MoreFragments, std::uint16_t{0x00b9}, std::uint16_t{0x2001}}) {
      list.push_back(outer(kVid).ipv4(kPeer, to).fragment(bits).udp(1, kVxlanPort).payload(60).build());
      list.back()[18 + 9] = protocol;
    }
    Bytes six = vxlan6(kVid, to6);
    six[18 + 6] = ip_protocol::kFragment;
    six[18 + 40] = protocol6;
    list.push_back(six);
    return list;
  };
  for (const Bytes& frame : pieces(kLocal, kLocal6, ip_protocol::kUdp, ip_protocol::kUdp))
    expect_taken(frame, VXP_EXIT_OWN_ADDRESS);
  for (const Bytes& frame : pieces(kLocal, kLocal6, ip_protocol::kIcmp, ip_protocol::kIcmpv6))
    expect_taken(frame, VXP_EXIT_OWN_ADDRESS);
  for (const Bytes& frame : pieces(kLocal, kLocal6, ip_protocol::kTcp, ip_protocol::kTcp))
    expect_pass(frame, frame.size() > 18 + 40 && frame[18] >> 4 == 6 ? VXP_EXIT_FRAGMENT : VXP_EXIT_OTHER_PROTOCOL, "of nothing that ends here");
  for (const Bytes& frame : pieces(kOther, kOther6, ip_protocol::kUdp, ip_protocol::kUdp))
    expect_pass(frame, VXP_EXIT_OTHER_ADDRESS, "somebody else's");
  Bytes six = pieces(kLocal, kLocal6, ip_protocol::kUdp, ip_protocol::kUdp).back();
  for (std::size_t length = 18 + 40; length < 18 + 48; ++length)
    expect_pass(Bytes(six.begin(), six.begin() + static_cast<std::ptrdiff_t>(length)), VXP_EXIT_TRUNCATED);
}

TEST_F(XdpSteer, Ipv6ExtensionHeadersPass) {
  Bytes frame = vxlan6(kVid);
  frame[18 + 6] = ip_protocol::kHopByHop;
  expect_pass(frame, VXP_EXIT_OTHER_PROTOCOL);
}

TEST_F(XdpSteer, StaleHeartbeatPassesEverything) {
  steering_->heartbeat(0)->monotonic_ns = monotonic_ns() - 80'000'000;
  expect_pass(vxlan4(kVid), VXP_EXIT_STALE);
  steering_->heartbeat(0)->monotonic_ns = 0;
  expect_pass(vxlan6(kVid), VXP_EXIT_STALE, "nobody polls yet");
  steering_->heartbeat(0)->monotonic_ns = monotonic_ns();
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED);
}

TEST_F(XdpSteer, WhatIsForAnOwnAddressWaitsForALateWorker) {
  steer(kVid, true);
  steering_->heartbeat(0)->monotonic_ns = monotonic_ns() - 80'000'000;
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED, "the kernel has no use for it");
  expect_taken(outer(kVid).arp(1, kPeerMac, kPeer, {}, kLocal).build(), VXP_EXIT_OWN_ADDRESS);
  expect_pass(vxlan4(kVid, kOther), VXP_EXIT_OTHER_ADDRESS, "others' is theirs as ever");
  const std::uint32_t queue = 0;
  ASSERT_EQ(::bpf_map_delete_elem(program_->map("xsks_map"), &queue), 0);
  expect_pass(vxlan4(kVid), VXP_EXIT_NO_SOCKET, "it is dead, not late");
}

TEST_F(XdpSteer, QueueWithoutSocketPasses) {
  const std::uint32_t queue = 0;
  ASSERT_EQ(::bpf_map_delete_elem(program_->map("xsks_map"), &queue), 0);
  expect_pass(vxlan4(kVid), VXP_EXIT_NO_SOCKET);
}

TEST_F(XdpSteer, OwnAddressTakesArpForItOnly) {
  steer(kVid, true);
  expect_taken(outer(kVid).arp(1, kPeerMac, kPeer, {}, kLocal).build(), VXP_EXIT_OWN_ADDRESS, "request");
  expect_taken(outer(kVid).arp(2, kPeerMac, kPeer, kOurMac, kLocal).build(), VXP_EXIT_OWN_ADDRESS, "reply to us");
  expect_pass(outer(kVid).arp(1, kPeerMac, kPeer, {}, kOther).build(), VXP_EXIT_OTHER_ADDRESS);
  expect_pass(outer(kVid).arp(2, kPeerMac, kPeer, kPeerMac, kPeer).build(), VXP_EXIT_OTHER_ADDRESS, "somebody's gratuitous ARP");
  expect_pass(outer(0).arp(1, kPeerMac, kPeer, {}, kLocal).build(), VXP_EXIT_OTHER_VLAN);
}

TEST_F(XdpSteer, OwnAddressTakesIcmpForItOnly) {
  steer(kVid, true);
  expect_taken(outer(kVid).ipv4(kPeer, kLocal).icmp4(8, 20).build(), VXP_EXIT_OWN_ADDRESS);
  expect_pass(outer(kVid).ipv4(kPeer, kOther).icmp4(8, 20).build(), VXP_EXIT_OTHER_ADDRESS);
  expect_taken(outer(kVid).ipv6(kPeer6, kLocal6).icmp6(128, Bytes(20)).build(), VXP_EXIT_OWN_ADDRESS, "echo");
  expect_taken(outer(kVid).ipv6(kPeer6, kLocal6).icmp6(136, Bytes(20)).build(), VXP_EXIT_OWN_ADDRESS, "advertisement to us");
  expect_pass(outer(kVid).ipv6(kPeer6, kOther6).icmp6(128, Bytes(20)).build(), VXP_EXIT_OTHER_ADDRESS);
}

TEST_F(XdpSteer, OwnAddressTakesSolicitationsByTheirTarget) {
  steer(kVid, true);
  const auto solicitation = [](const IpAddress& target) {
    IpAddress group{{0xff, 2}};
    group.bytes[11] = 1;
    group.bytes[12] = 0xff;
    std::copy(target.bytes.begin() + 13, target.bytes.end(), group.bytes.begin() + 13);
    Bytes body(4);
    body.insert(body.end(), target.bytes.begin(), target.bytes.end());
    return outer(kVid).ipv6(kPeer6, group).icmp6(135, body).build();
  };
  expect_taken(solicitation(kLocal6), VXP_EXIT_OWN_ADDRESS);
  expect_pass(solicitation(kOther6), VXP_EXIT_OTHER_ADDRESS);
  Bytes cut = solicitation(kLocal6);
  cut.resize(cut.size() - 1);
  expect_pass(cut, VXP_EXIT_OTHER_ADDRESS, "target cut short");
  steer(kVid, false);
  expect_pass(solicitation(kLocal6), VXP_EXIT_OTHER_PROTOCOL, "the kernel's address");
}

TEST_F(XdpSteer, TruncationAtEveryLengthPassesUntilTheVxlanHeaderIsWhole) {
  struct Case {
    Bytes frame;
    std::size_t whole;  // bytes up to the end of the VXLAN header
  };
  const Case cases[] = {{vxlan4(kVid), 14 + 4 + 20 + 16}, {vxlan6(kVid), 14 + 4 + 40 + 16},
                        {outer(kVid).ipv4(kPeer, kLocal).ipv4_options(3).udp(1, kVxlanPort).vxlan(kVni).payload(60).build(), 14 + 4 + 32 + 16}};
  for (const Case& c : cases) {
    for (std::size_t length = 14; length < c.whole; ++length) {  // the kernel refuses test runs shorter than 14 bytes
      const Outcome o = run(Bytes(c.frame.begin(), c.frame.begin() + static_cast<std::ptrdiff_t>(length)));
      EXPECT_EQ(o.action, XDP_PASS) << length;
      EXPECT_EQ(o.exit, VXP_EXIT_TRUNCATED) << length;
    }
    for (std::size_t length = c.whole; length <= c.frame.size(); ++length)
      expect_taken(Bytes(c.frame.begin(), c.frame.begin() + static_cast<std::ptrdiff_t>(length)), VXP_EXIT_REDIRECTED);
  }
}

TEST_F(XdpSteer, TruncatedArpAndEchoAreNotTaken) {
  steer(kVid, true);
  const Bytes arp = outer(kVid).arp(1, kPeerMac, kPeer, {}, kLocal).build();
  for (std::size_t length = 18; length < 18 + sizeof(ArpIpv4); ++length)
    expect_pass(Bytes(arp.begin(), arp.begin() + static_cast<std::ptrdiff_t>(length)), VXP_EXIT_TRUNCATED);
  const Bytes echo = outer(kVid).ipv4(kPeer, kLocal).icmp4(8, 0).build();
  for (std::size_t length = 18; length < 18 + sizeof(Ipv4Header); ++length)
    expect_pass(Bytes(echo.begin(), echo.begin() + static_cast<std::ptrdiff_t>(length)), VXP_EXIT_TRUNCATED);
}

TEST_F(XdpSteer, SteeringAnewForgetsWhatIsNotNamed) {
  steering_->steer({false, kVid, {kLocal6}, {8472}, {5}});
  expect_pass(vxlan4(kVid), VXP_EXIT_OTHER_ADDRESS);
  expect_pass(vxlan6(kVid), VXP_EXIT_OTHER_PORT);
  expect_pass(vxlan6(kVid, kLocal6, 8472), VXP_EXIT_UNKNOWN_VNI);
  expect_taken(vxlan6(kVid, kLocal6, 8472, 5), VXP_EXIT_REDIRECTED);
  steering_->steer({false, kVid, {kLocal6}, {8472}, {}});
  expect_pass(vxlan6(kVid, kLocal6, 8472, 5), VXP_EXIT_UNKNOWN_VNI);
  steering_->steer({false, kVid, {}, {}, {}});
  expect_pass(vxlan6(kVid, kLocal6, 8472, 5), VXP_EXIT_OTHER_ADDRESS);
}

// The first of each is looked at before the maps (vxp_common): the others must be found as well, and no mixture of two.
TEST_F(XdpSteer, AllAddressesPortsAndVnisAreFoundWhicheverIsFirst) {
  steering_->steer({false, kVid, {kLocal, kOther, kLocal6}, {kVxlanPort, 8472}, {kVni, 77, 0}});
  for (const std::uint16_t port : {kVxlanPort, std::uint16_t{8472}})
    for (const std::uint32_t vni : {kVni, 77u, 0u}) {
      expect_taken(vxlan4(kVid, kLocal, port, vni), VXP_EXIT_REDIRECTED);
      expect_taken(vxlan4(kVid, kOther, port, vni), VXP_EXIT_REDIRECTED);
      expect_taken(vxlan6(kVid, kLocal6, port, vni), VXP_EXIT_REDIRECTED);
    }
  for (std::size_t byte = 0; byte < 4; ++byte) {
    IpAddress near = kLocal;
    near.bytes[12 + byte] ^= 0x80;
    expect_pass(vxlan4(kVid, near), VXP_EXIT_OTHER_ADDRESS);
  }
  expect_pass(vxlan4(kVid, kLocal, 0), VXP_EXIT_OTHER_PORT);
  expect_pass(vxlan4(kVid, kLocal, kVxlanPort, 0xffffff), VXP_EXIT_UNKNOWN_VNI);
}

TEST_F(XdpSteer, MoreVnisThanTheMapHoldsAreRefusedWithOneLine) {
  XdpSteering::Target target{false, kVid, {kLocal}, {kVxlanPort}, {}};
  for (std::uint32_t vni = 0; vni < VXP_MAX_VNIS; ++vni) target.vnis.push_back(vni);
  EXPECT_THROW(steering_->steer(target), std::runtime_error);
}

TEST_F(XdpSteer, GuestPortTakesEveryFrame) {
  const auto guest = make_xdp_steering(program_->fd, 0, true);
  for (const Bytes& frame : {vxlan4(0), vxlan6(7), FrameBuilder().eth(testkit::kBroadcast, kPeerMac).build(),
                             FrameBuilder().eth(kOurMac, kPeerMac).arp(1, kPeerMac, kPeer, {}, kOther).build()})
    expect_taken(frame, VXP_EXIT_TAKEN);
  guest->heartbeat(0)->monotonic_ns = monotonic_ns() - 80'000'000;
  expect_pass(vxlan4(0), VXP_EXIT_STALE);
}

TEST_F(XdpSteer, BypassGivesTheKernelWhatWouldBeOursWhateverIsSteeredMeanwhile) {
  steering_->set_rule({true, 50});
  expect_pass(vxlan4(kVid), VXP_EXIT_BYPASS);
  expect_pass(vxlan4(kVid, kOther), VXP_EXIT_OTHER_ADDRESS, "is counted as ever");
  steer(kVid, true);
  expect_pass(vxlan6(kVid), VXP_EXIT_BYPASS);
  expect_pass(outer(kVid).arp(1, kPeerMac, kPeer, {}, kLocal).build(), VXP_EXIT_BYPASS);
  steering_->off();
  expect_pass(vxlan4(kVid), VXP_EXIT_NOT_CONFIGURED);
  steer(kVid);
  expect_pass(vxlan4(kVid), VXP_EXIT_BYPASS);
  steering_->set_rule({false, 50});
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED);
  const auto guest = make_xdp_steering(program_->fd, 0, true);
  expect_taken(vxlan4(0), VXP_EXIT_TAKEN);
  guest->set_rule({true, 50});
  expect_pass(vxlan4(0), VXP_EXIT_BYPASS);
}

TEST_F(XdpSteer, TheAgeOfAStaleHeartbeatIsAsTold) {
  steering_->heartbeat(0)->monotonic_ns = monotonic_ns() - 80'000'000;
  expect_pass(vxlan4(kVid), VXP_EXIT_STALE);
  steering_->set_rule({false, 60'000});
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED);
  steer(kVid);
  expect_taken(vxlan4(kVid), VXP_EXIT_REDIRECTED, "kept when steering changes");
}

// The socket filter and the tc program on one frame after the other, as the kernel runs them on one CPU.
class TakePair : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for bpf(2)";
    program_ = std::make_unique<Loaded>(VXP_TC_OBJECT, VXP_TC_PROGRAM);
    filter_ = ::bpf_program__fd(::bpf_object__find_program_by_name(program_->object, VXP_FILTER_PROGRAM));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  }
  void configure(__u32 flags, std::uint64_t stale_after_ns = VXP_STALE_NS) {
    const vxp_take_config config{flags, 0, stale_after_ns};
    const std::uint32_t zero = 0;
    ASSERT_EQ(::bpf_map_update_elem(program_->map("vxp_take"), &zero, &config, BPF_ANY), 0);
  }
  void beat(std::uint32_t queue, std::uint64_t ns) {
    const vxp_beat value{ns};
    ASSERT_EQ(::bpf_map_update_elem(program_->map("vxp_heartbeat"), &queue, &value, BPF_ANY), 0);
  }
  bool is_unfollowed() {
    const std::uint32_t zero = 0;
    vxp_take_config config{};
    EXPECT_EQ(::bpf_map_lookup_elem(program_->map("vxp_take"), &zero, &config), 0);
    return config.unfollowed != 0;
  }
  std::uint64_t counted(std::uint32_t way) {
    std::array<std::uint64_t, VXP_TAKE_COUNT> sums{};
    read_counters(program_->map("vxp_exits"), sums);
    return sums[way];
  }
  std::uint32_t filter(const Bytes& frame, std::uint32_t gso_size = 0) const {
    __sk_buff skb{};
    skb.gso_size = gso_size;
    bpf_test_run_opts opts{};
    opts.sz = sizeof opts;
    opts.data_in = frame.data();
    opts.data_size_in = static_cast<__u32>(frame.size());
    opts.ctx_in = &skb;
    opts.ctx_size_in = sizeof skb;
    opts.repeat = 1;
    EXPECT_EQ(::bpf_prog_test_run_opts(filter_, &opts), 0);
    return opts.retval;
  }
  std::uint32_t filter() const { return filter(frame_); }
  int tc() const { return program_->run(frame_); }
  void expect_taken(const char* why) {
    EXPECT_GT(filter(), 0xffffu) << why << ": whole super-frames, too";
    EXPECT_EQ(tc(), TC_ACT_SHOT) << why;
    EXPECT_EQ(tc(), TC_ACT_UNSPEC) << why << ": one verdict for one frame";
  }
  void expect_passed(const char* why) {
    EXPECT_EQ(filter(), 0u) << why;
    EXPECT_EQ(tc(), TC_ACT_UNSPEC) << why;
  }
  std::unique_ptr<Loaded> program_;
  int filter_ = -1;
  const Bytes frame_ = FrameBuilder().eth(kOurMac, kPeerMac).payload(60).build();
};

TEST_F(TakePair, TheSocketsFilterDecidesAndTheTcProgramFollows) {
  const std::uint64_t fresh = monotonic_ns() + 3'600'000'000'000;
  configure(VXP_FLAG_STANDBY);
  expect_passed("no beat yet");
  beat(0, fresh);
  expect_taken("beats");
  beat(0, monotonic_ns() - 80'000'000);
  beat(1, fresh);
  expect_passed("stale: another queue's beat is not this socket's");
  configure(VXP_FLAG_STANDBY, 3'600'000'000'000);
  expect_taken("stale later");
  configure(VXP_FLAG_BYPASS);
  beat(0, fresh);
  expect_passed("bypass");
  EXPECT_EQ(counted(VXP_TAKE_TAKEN), 2u);
  EXPECT_EQ(counted(VXP_TAKE_STALE), 2u);
  EXPECT_EQ(counted(VXP_TAKE_BYPASS), 1u);
}

TEST_F(TakePair, WhereNobodyStandsByAStaleQueuesFramesWaitForItsWorker) {
  configure(0);
  beat(0, monotonic_ns() - 80'000'000);
  EXPECT_GT(filter(), 0xffffu) << "to the socket";
  EXPECT_EQ(tc(), TC_ACT_UNSPEC) << "and to the kernel, which may be what the host needs";
  EXPECT_EQ(counted(VXP_TAKE_STALE), 1u);
}

TEST_F(TakePair, NothingIsTakenAfterAVerdictThatWasNotFollowed) {
  configure(VXP_FLAG_STANDBY);
  beat(0, monotonic_ns() + 3'600'000'000'000);
  expect_taken("followed");
  EXPECT_FALSE(is_unfollowed());
  EXPECT_NE(filter(), 0u);
  expect_passed("the frame before never came to tc ingress");
  EXPECT_TRUE(is_unfollowed());
  expect_passed("and for good");
  EXPECT_EQ(counted(VXP_TAKE_UNFOLLOWED), 2u);
  configure(VXP_FLAG_STANDBY);
  expect_taken("until configured anew");
  EXPECT_FALSE(is_unfollowed());
}

TEST_F(TakePair, WithoutAStandbyFramesAreTakenThoughNotFollowed) {
  configure(0);
  beat(0, monotonic_ns() + 3'600'000'000'000);
  for (int i = 0; i < 3; ++i) EXPECT_NE(filter(), 0u) << "nobody else would forward it";
  EXPECT_TRUE(is_unfollowed()) << "but it is known";
}

TEST_F(TakePair, WithAStandbySuperFramesOtherThanPlainTcpAreTheKernels) {
  beat(0, monotonic_ns() + 3'600'000'000'000);
  const auto eth = [] { return FrameBuilder().eth(kOurMac, kPeerMac); };
  const IpAddress a = IpAddress::v4(10, 0, 0, 1), b = IpAddress::v4(10, 0, 0, 2);
  // The first byte of the next header's number, at its place in an IPv6 header.
  const auto ipv6 = [&](std::uint8_t next) {
    Bytes frame = eth().payload(200).build();
    frame[12] = 0x86, frame[13] = 0xdd, frame[14] = 0x60, frame[20] = next;
    return frame;
  };
  const auto ipv4 = [&](FrameBuilder builder, std::uint8_t protocol) {
    Bytes frame = builder.ipv4(a, b).udp(1, 2).payload(200).build();
    frame[frame.size() - 200 - 8 - 20 + 9] = protocol;
    return frame;
  };
  struct Case {
    const char* name;
    Bytes frame;
    bool is_tcp;
  } cases[] = {{"TCP", ipv4(eth(), 6), true},           {"UDP", ipv4(eth(), 17), false},
               {"SCTP", ipv4(eth(), 132), false},       {"tagged TCP", ipv4(eth().vlan(7), 6), true},
               {"tagged UDP", ipv4(eth().vlan(7), 17), false}, {"TCP over IPv6", ipv6(6), true},
               {"UDP over IPv6", ipv6(17), false},      {"no IP", frame_, false}};
  for (const auto& c : cases) {
    for (const __u32 flags : {0u, unsigned{VXP_FLAG_STANDBY}}) {
      configure(flags);
      const bool is_taken = flags == 0 || c.is_tcp;
      EXPECT_EQ(filter(c.frame, 100) != 0, is_taken) << c.name << " " << flags;
      EXPECT_EQ(tc(), is_taken ? TC_ACT_SHOT : TC_ACT_UNSPEC) << c.name;
      EXPECT_NE(filter(c.frame), 0u) << c.name << ": no super-frame";
      EXPECT_EQ(tc(), TC_ACT_SHOT) << c.name;
    }
  }
  EXPECT_EQ(counted(VXP_TAKE_OTHER_GSO), 5u);
}

TEST_F(TakePair, WithoutASocketEverythingPasses) { EXPECT_EQ(tc(), TC_ACT_UNSPEC); }

}  // namespace
}  // namespace vx
