// SPDX-License-Identifier: Apache-2.0
// The way into the tunnel: golden bytes made by scapy, RFC 6040, source ports, checksums, every refusal.
#include "dataplane/encap.h"

#include <set>

#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

// Made by scapy 2.5.0 (/usr/bin/python3):
//   inner = Ether(dst="52:54:00:00:00:f1",src="52:54:00:00:00:01")/IP(src="10.0.0.1",dst="10.0.0.2",id=0,tos=2)
//           /UDP(sport=1234,dport=5678)/Raw(bytes(range(22)))          tagged: Dot1Q(vlan=100,prio=5) behind Ether
//   Ether(dst="02:00:00:00:00:02",src="02:00:00:00:00:01")[/Dot1Q(vlan=4003)]
//     /IP(src="172.18.1.1",dst="172.18.1.2",id=0,flags="DF",ttl=64,tos=2)  or  /IPv6(src="fd00:18::1",dst="fd00:18::2",hlim=64,tc=2)
//     /UDP(sport=50000,dport=4789)/VXLAN(vni=1000,flags=8)/inner
constexpr const char* kInner =
    "5254000000f152540000000108004502003200000000401166b70a0000010a00000204d2162e001e6236000102030405"
    "060708090a0b0c0d0e0f101112131415";
constexpr const char* kInnerTagged =
    "5254000000f15254000000018100a06408004502003200000000401166b70a0000010a00000204d2162e001e62360001"
    "02030405060708090a0b0c0d0e0f101112131415";
constexpr const char* kOuter4 =
    "020000000002020000000001080045020064000040004011e05fac120101ac120102c35012b5005045b4080000000003"
    "e8005254000000f152540000000108004502003200000000401166b70a0000010a00000204d2162e001e623600010203"
    "0405060708090a0b0c0d0e0f101112131415";
constexpr const char* kOuter4Vlan4003 =
    "02000000000202000000000181000fa3080045020068000040004011e05bac120101ac120102c35012b5005424470800"
    "00000003e8005254000000f15254000000018100a06408004502003200000000401166b70a0000010a00000204d2162e"
    "001e6236000102030405060708090a0b0c0d0e0f101112131415";
constexpr const char* kOuter6 =
    "02000000000202000000000186dd6020000000501140fd000018000000000000000000000001fd000018000000000000"
    "000000000002c35012b50050a5a7080000000003e8005254000000f152540000000108004502003200000000401166b7"
    "0a0000010a00000204d2162e001e6236000102030405060708090a0b0c0d0e0f101112131415";

Vtep with_port_50000(Vtep vtep) {
  vtep.source_port_min = 50000;
  vtep.source_port_span = 1;
  return vtep;
}

Bytes encapsulated(TestHost& host, const Vtep& vtep, const Bytes& inner, const EncapSettings& settings,
                   DropReason expected = DropReason::kNone) {
  Packet packet = host.pool.receive(inner);
  EXPECT_EQ(encap(packet, vtep, settings), expected);
  Bytes out(packet.data, packet.data + packet.length);
  host.pool.give_back(packet.buffer);
  return out;
}

EncapSettings settings() {
  EncapSettings s;
  s.underlay_mtu = 1400;
  return s;
}

// The builder itself is pinned to scapy, so that other tests may compare with what it builds.
TEST(FrameBuilder, MakesTheBytesThatScapyMakes) {
  const auto inner = [] {
    FrameBuilder b;
    b.eth(kFar, kGuestA).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(2).udp(1234, 5678).payload(22);
    return b;
  }();
  EXPECT_EQ(inner.build(), from_hex(kInner));
  FrameBuilder tagged;
  tagged.eth(kFar, kGuestA).vlan(0xa064).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(2).udp(1234, 5678).payload(22);
  EXPECT_EQ(tagged.build(), from_hex(kInnerTagged));
  FrameBuilder v4;
  v4.eth(kPeerMac, kOurMac).vlan(4003).ipv4(kLocal4, kRemote4).tos(2).dont_fragment().udp(50000, 4789).vxlan(1000).raw(tagged.build());
  EXPECT_EQ(v4.build(), from_hex(kOuter4Vlan4003));
  FrameBuilder six;
  six.eth(kPeerMac, kOurMac).ipv6(v6(1), v6(2)).tos(2).udp(50000, 4789).vxlan(1000).raw(inner.build());
  EXPECT_EQ(six.build(), from_hex(kOuter6));
}

TEST(VxlanEncap, Ipv4BytesAreThoseOfScapy) {
  TestHost host;
  const auto out = encapsulated(host, with_port_50000(host.make_vtep(kRemote4, true)), from_hex(kInner), settings());
  EXPECT_EQ(hex(out), hex(from_hex(kOuter4)));
}

TEST(VxlanEncap, OuterVlan4003BytesAreThoseOfScapy) {
  TestHost host(false, 4003);
  const auto out = encapsulated(host, with_port_50000(host.make_vtep(kRemote4, true)), from_hex(kInnerTagged), settings());
  EXPECT_EQ(hex(out), hex(from_hex(kOuter4Vlan4003)));
}

TEST(VxlanEncap, Ipv6BytesAreThoseOfScapy) {
  TestHost host(true);
  const auto out = encapsulated(host, with_port_50000(host.make_vtep(v6(2), true)), from_hex(kInner), settings());
  EXPECT_EQ(hex(out), hex(from_hex(kOuter6)));
}

TEST(VxlanEncap, UdpChecksumIsZeroOnIpv4WhenSwitchedOffAndStaysOnIpv6) {
  EncapSettings off = settings();
  off.udp_csum = false;
  TestHost host;
  auto out = encapsulated(host, with_port_50000(host.make_vtep(kRemote4, true)), from_hex(kInner), off);
  EXPECT_EQ(view<UdpHeader>(out.data() + 34)->checksum.raw(), 0);
  TestHost six(true);
  out = encapsulated(six, with_port_50000(six.make_vtep(v6(2), true)), from_hex(kInner), off);
  EXPECT_EQ(hex(out), hex(from_hex(kOuter6)));
}

TEST(VxlanEncap, UdpChecksumIsRightForEveryInnerLength) {
  TestHost host(false, 4003), six(true);
  const Vtep vtep4 = host.make_vtep(kRemote4, true), vtep6 = six.make_vtep(v6(2), true);
  for (std::size_t bytes = 0; bytes < 300; ++bytes) {
    FrameBuilder inner;
    inner.eth(kFar, kGuestA).payload(bytes);
    const auto out4 = encapsulated(host, vtep4, inner.build(), settings());
    FrameBuilder expected4;
    const auto port4 = view<UdpHeader>(out4.data() + 38)->source_port.host();
    expected4.eth(kPeerMac, kOurMac).vlan(4003).ipv4(kLocal4, kRemote4).dont_fragment().udp(port4, 4789).vxlan(1000).raw(inner.build());
    ASSERT_EQ(hex(out4), hex(expected4.build())) << bytes;
    const auto out6 = encapsulated(six, vtep6, inner.build(), settings());
    FrameBuilder expected6;
    const auto port6 = view<UdpHeader>(out6.data() + 54)->source_port.host();
    expected6.eth(kPeerMac, kOurMac).ipv6(v6(1), v6(2)).udp(port6, 4789).vxlan(1000).raw(inner.build());
    ASSERT_EQ(hex(out6), hex(expected6.build())) << bytes;
  }
}

TEST(VxlanEncap, UdpChecksumThatComesOutZeroIsSentAsAllOnes) {  // RFC 768
  TestHost host;
  const Vtep vtep = with_port_50000(host.make_vtep(kRemote4, true));
  bool seen = false;
  for (unsigned word = 0; word < 0x10000 && !seen; ++word) {
    FrameBuilder inner;
    inner.eth(kFar, kGuestA).raw({static_cast<std::uint8_t>(word >> 8), static_cast<std::uint8_t>(word)});
    const auto out = encapsulated(host, vtep, inner.build(), settings());
    const auto checksum = view<UdpHeader>(out.data() + 34)->checksum.host();
    ASSERT_NE(checksum, 0);
    seen = checksum == 0xffff;
  }
  EXPECT_TRUE(seen);
}

// RFC 6040 section 4.1, normal mode; the DSCP is the setting's or, inherited, the inner packet's.
struct EcnCase {
  std::uint8_t inner, setting;
  bool inherit;
  std::uint8_t outer;
};
TEST(VxlanEncap, EcnIsCopiedAndDscpIsSetOrInherited) {  // RFC 6040 figure 3
  const EcnCase cases[] = {{0x00, 0, false, 0x00},    {0x01, 0, false, 0x01},    {0x02, 0, false, 0x02},
                           {0x03, 0, false, 0x03},    {0xb8, 0, false, 0x00},    {0xbb, 0x20, false, 0x23},
                           {0xb8, 0x22, false, 0x20}, {0xbb, 0x20, true, 0xbb},  {0x00, 0xff, true, 0x00}};
  TestHost host, six(true);
  const Vtep vtep4 = host.make_vtep(kRemote4, true), vtep6 = six.make_vtep(v6(2), true);
  for (const auto& c : cases)
    for (const bool inner_v6 : {false, true})
      for (const unsigned tags : {0u, 1u, 2u}) {
        FrameBuilder inner;
        inner.eth(kFar, kGuestA);
        if (tags == 2) inner.service_vlan(7);
        if (tags > 0) inner.vlan(100);
        if (inner_v6)
          inner.ipv6(v6(8), v6(9)).tos(c.inner).udp(1, 2).payload(9);
        else
          inner.ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(c.inner).udp(1, 2).payload(9);
        EncapSettings s = settings();
        s.tos = c.setting;
        s.tos_inherit = c.inherit;
        auto out = encapsulated(host, vtep4, inner.build(), s);
        EXPECT_EQ(out[15], c.outer) << int(c.inner) << " tags " << tags;
        EXPECT_EQ(checksum_fold(checksum_partial(out.data() + 14, 20)), 0xffff);
        out = encapsulated(six, vtep6, inner.build(), s);
        EXPECT_EQ(ipv6_traffic_class(out.data() + 14), c.outer) << int(c.inner) << " tags " << tags;
      }
}

TEST(VxlanEncap, FramesThatAreNotIpHaveNoEcn) {
  TestHost host;
  FrameBuilder arp;
  arp.eth(kBroadcast, kGuestA).arp(1, kGuestA, IpAddress::v4(10, 0, 0, 1), mac(0), IpAddress::v4(10, 0, 0, 2));
  EncapSettings s = settings();
  s.tos = 0x20;
  EXPECT_EQ(encapsulated(host, host.make_vtep(kRemote4, true), arp.build(), s)[15], 0x20);
}

TEST(VxlanEncap, SourcePortIsStablePerFlowAndSpreadOverTheDynamicRange) {  // RFC 7348 section 5
  TestHost host;
  const Vtep vtep = host.make_vtep(kRemote4, true);
  std::set<std::uint16_t> ports;
  for (std::uint16_t flow = 0; flow < 1000; ++flow) {
    FrameBuilder inner;
    inner.eth(kFar, kGuestA).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(flow, 80).payload(10);
    FrameBuilder tagged;
    tagged.eth(kFar, kGuestA).vlan(5).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).udp(flow, 80).payload(700);
    const auto port = view<UdpHeader>(encapsulated(host, vtep, inner.build(), settings()).data() + 34)->source_port.host();
    EXPECT_GE(port, 49152);
    EXPECT_EQ(view<UdpHeader>(encapsulated(host, vtep, tagged.build(), settings()).data() + 34)->source_port.host(), port);
    ports.insert(port);
  }
  EXPECT_GT(ports.size(), 900u);
}

TEST(VxlanEncap, OuterPacketAboveTheMtuIsRefused) {
  // Underlay 1400: 1350 inner layer-3 bytes over IPv4, 1330 over IPv6 (design section 1); an inner tag costs 4.
  for (const bool is_v6 : {false, true})
    for (const bool is_tagged : {false, true})
      for (const int above : {-1, 0, 1}) {
        TestHost host(is_v6, 4003);
        const std::size_t ceiling = 1400 - (is_v6 ? kOverheadIpv6 : kOverheadIpv4) - (is_tagged ? 4 : 0);
        FrameBuilder inner;
        inner.eth(kFar, kGuestA);
        if (is_tagged) inner.vlan(10);
        inner.payload(ceiling + static_cast<std::size_t>(above));
        const Vtep vtep = host.make_vtep(is_v6 ? v6(2) : kRemote4, true);
        const auto expected = above > 0 ? DropReason::kUnderlayMtuExceeded : DropReason::kNone;
        const auto out = encapsulated(host, vtep, inner.build(), settings(), expected);
        if (above == 0) {
          EXPECT_EQ(out.size(), 1400u + 18);
        }
      }
}

TEST(VxlanEncap, SmallerPathMtuOfOneVtepCountsAndZeroMeansTheUnderlays) {
  TestHost host;
  Vtep vtep = host.make_vtep(kRemote4, true);
  FrameBuilder inner;
  inner.eth(kFar, kGuestA).payload(1250);
  vtep.outer_mtu = 1300;
  (void)encapsulated(host, vtep, inner.build(), settings());
  vtep.outer_mtu = 1299;
  (void)encapsulated(host, vtep, inner.build(), settings(), DropReason::kUnderlayMtuExceeded);
  vtep.outer_mtu = 0;
  (void)encapsulated(host, vtep, inner.build(), settings());
}

TEST(VxlanEncap, HeadroomIsNeverOverrun) {
  for (const bool is_v6 : {false, true})
    for (const std::uint16_t vlan : {0, 4003}) {
      TestHost host(is_v6, vlan);
      const Vtep vtep = host.make_vtep(is_v6 ? v6(2) : kRemote4, true);
      for (std::uint16_t headroom = 0; headroom < 80; ++headroom) {
        Packet packet = host.pool.receive(guest_frame(kFar, kGuestA).build(), headroom);
        const auto reason = encap(packet, vtep, settings());
        EXPECT_EQ(reason, headroom < vtep.header_length ? DropReason::kNoHeadroom : DropReason::kNone);
        if (reason == DropReason::kNone) {
          EXPECT_EQ(packet.headroom, headroom - vtep.header_length);
        }
        host.pool.give_back(packet.buffer);
      }
    }
}

}  // namespace
}  // namespace vx
