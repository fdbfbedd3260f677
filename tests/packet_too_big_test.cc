// SPDX-License-Identifier: Apache-2.0
// Packet too big: golden bytes made by scapy, what is quoted, who is not told, every length a frame may be cut to.
#include "dataplane/packet_too_big.h"

#include <optional>

#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

constexpr std::uint16_t kMtu = 1332;
const IpAddress kFrom4 = IpAddress::v4(10, 0, 0, 1), kTo4 = IpAddress::v4(10, 0, 0, 2);
const IpAddress kFrom6{{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
const IpAddress kTo6{{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}};

// Made by scapy 2.5.0 (/usr/bin/python3); Raw fills up to N bytes of IP with 0, 1, 2...
//   packet = IP(src="10.0.0.1",dst="10.0.0.2",id=0,flags="DF",ttl=63)/UDP(sport=1234,dport=5678)/Raw(...)
//   Ether(dst="52:54:00:00:00:01",src="52:54:00:00:00:02")[/Dot1Q(vlan=100,prio=5)]
//     /IP(src="10.0.0.2",dst="10.0.0.1",id=0,flags="DF",ttl=64,tos=0xc0)/ICMP(type=3,code=4,nexthopmtu=MTU)
//     /Raw(bytes(packet)[:548])
//   or with IPv6(src="fd00::1",dst="fd00::2",hlim=63) and, of the same MACs,
//   Ether()[/Dot1AD(vlan=7)/Dot1Q(vlan=100)]/IPv6(src="fd00::2",dst="fd00::1",hlim=64)/ICMPv6PacketTooBig(mtu=MTU)
//     /Raw(bytes(packet)[:1232])
constexpr const char* kReply4 =  // N = 80, MTU 70: all of it
    "525400000001525400000002080045c0006c00004000400125cf0a0000020a0000010304110600000046450000500000"
    "40003f11279b0a0000010a00000204d2162e003c43cd000102030405060708090a0b0c0d0e0f10111213141516171819"
    "1a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233";
constexpr const char* kHead4Tagged =  // N = 1400, MTU 1332: what stands in front of the quoted bytes
    "5254000000015254000000028100a064080045c0024000004000400123fb0a0000020a0000010304643b00000534";
constexpr const char* kHead6 =  // the same
    "52540000000152540000000286dd6000000004d83a40fd000000000000000000000000000002fd000000000000000000"
    "000000000001020070c200000534";
constexpr const char* kHead6TwoTags =  // N = 1500
    "52540000000152540000000288a800078100006486dd6000000004d83a40fd000000000000000000000000000002fd00"
    "000000000000000000000000000102002aae00000534";

FrameBuilder eth() {
  FrameBuilder b;
  b.eth(kGuestB, kGuestA);
  return b;
}
FrameBuilder packet4() { return eth().ipv4(kFrom4, kTo4).ttl(63).dont_fragment().udp(1234, 5678); }

struct Told {
  bool is_told = false;
  Bytes bytes;
  Packet packet;
};
// The frame has nothing behind its last byte: a read too far is seen by the address sanitizer.
Told tell(const Bytes& frame, std::uint16_t mtu = kMtu, bool is_tagged = false, std::uint16_t tci = 1) {
  HeapPool pool;
  Packet packet = pool.receive(frame);
  packet.is_tagged = is_tagged;
  packet.tci = tci;
  Packet reply;
  EXPECT_EQ(pool.allocate(&reply, 1), 1u);
  const Packet before = reply;
  Told told;
  told.is_told = make_packet_too_big(packet, mtu, reply);
  if (!told.is_told) {
    EXPECT_EQ(std::memcmp(&before, &reply, sizeof reply), 0) << "unchanged";
  }
  told.bytes.assign(reply.data, reply.data + reply.length);
  EXPECT_EQ(Bytes(packet.data, packet.data + packet.length), frame) << "the frame itself stays";
  EXPECT_EQ(reply.length + reply.tailroom, before.tailroom);
  told.packet = reply;
  pool.give_back(packet.buffer);
  pool.give_back(reply.buffer);
  return told;
}
bool is_told(const FrameBuilder& frame, std::uint16_t mtu = kMtu) { return tell(frame.build(), mtu).is_told; }

Bytes operator+(Bytes head, std::span<const std::uint8_t> tail) {
  head.insert(head.end(), tail.begin(), tail.end());
  return head;
}

TEST(PacketTooBig, Ipv4ReplyIsAsScapyMakesIt) {
  const Told told = tell(packet4().layer3_bytes(80).build(), 70);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(hex(told.bytes), hex(from_hex(kReply4)));
  EXPECT_TRUE(told.packet.offload.is_plain());
}

TEST(PacketTooBig, Ipv4QuotesUpTo576BytesAndKeepsTheTag) {
  FrameBuilder b = eth().vlan(0xa064).ipv4(kFrom4, kTo4).ttl(63).dont_fragment();
  const Bytes frame = b.udp(1234, 5678).layer3_bytes(1400).build();
  const Told told = tell(frame, kMtu, true, 0xa064);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(told.bytes.size(), 18u + 576u);
  EXPECT_EQ(hex(told.bytes), hex(from_hex(kHead4Tagged) + std::span(frame).subspan(18, 548)));
  EXPECT_TRUE(told.packet.is_tagged);
  EXPECT_EQ(told.packet.tci, 0xa064);
}

TEST(PacketTooBig, Ipv6QuotesUpTo1280Bytes) {
  const Bytes frame = eth().ipv6(kFrom6, kTo6).ttl(63).udp(1234, 5678).layer3_bytes(1400).build();
  const Told told = tell(frame);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(told.bytes.size(), 14u + 1280u);
  EXPECT_EQ(hex(told.bytes), hex(from_hex(kHead6) + std::span(frame).subspan(14, 1232)));
  EXPECT_FALSE(told.packet.is_tagged);
}

TEST(PacketTooBig, BothTagsOfAFrameAreKept) {
  FrameBuilder b = eth().service_vlan(7).vlan(100).ipv6(kFrom6, kTo6).ttl(63);
  const Bytes frame = b.udp(1234, 5678).layer3_bytes(1500).build();
  const Told told = tell(frame);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(hex(told.bytes), hex(from_hex(kHead6TwoTags) + std::span(frame).subspan(22, 1232)));
}

TEST(PacketTooBig, PaddingBehindThePacketIsNotQuoted) {
  const Bytes frame = packet4().layer3_bytes(80).build();
  const Told told = tell(frame + Bytes(40, 0xee), 70);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(hex(told.bytes), hex(from_hex(kReply4)));
}

TEST(PacketTooBig, OptionsOfIpv4AreQuotedToo) {
  const Bytes frame = eth().ipv4(kFrom4, kTo4).ipv4_options(10).udp(1, 2).layer3_bytes(1400).build();
  const Told told = tell(frame);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(told.bytes.size(), 14u + 576u);
  EXPECT_TRUE(std::equal(frame.begin() + 14, frame.begin() + 14 + 548, told.bytes.begin() + 14 + 28));
}

TEST(PacketTooBig, SuperFrameIsQuotedAsItIs) {
  const Bytes frame = packet4().layer3_bytes(60'000).build();
  HeapPool pool;
  Packet packet = pool.receive(frame), reply;
  packet.offload.flags = OffloadMeta::kNeedsChecksum;
  packet.offload.gso_type = OffloadMeta::kGsoUdp;
  packet.offload.segment_size = 1400;
  ASSERT_EQ(pool.allocate(&reply, 1), 1u);
  ASSERT_TRUE(make_packet_too_big(packet, kMtu, reply));
  EXPECT_EQ(reply.length, 14u + 576u);
  EXPECT_EQ(std::memcmp(reply.data + 14 + 28, packet.data + 14, 548), 0);
  EXPECT_TRUE(reply.offload.is_plain());
  pool.give_back(packet.buffer);
  pool.give_back(reply.buffer);
}

// ---- the MTU that is told ----

TEST(PacketTooBig, Ipv6IsNeverToldLessThan1280) {
  const Told told = tell(eth().ipv6(kFrom6, kTo6).udp(1, 2).layer3_bytes(1281).build(), 1200);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(view<Be32>(&told.bytes[14 + 44])->host(), 1280u);
  EXPECT_FALSE(is_told(eth().ipv6(kFrom6, kTo6).udp(1, 2).layer3_bytes(1280), 1200)) << "it could not go below";
}

TEST(PacketTooBig, Ipv4IsNeverToldLessThan68) {
  const Told told = tell(packet4().layer3_bytes(80).build(), 0);
  ASSERT_TRUE(told.is_told);
  EXPECT_EQ(view<Be32>(&told.bytes[14 + 24])->host(), 68u);
}

TEST(PacketTooBig, NobodyIsToldOfAnMtuThatThePacketFits) {  // padding made the frame too long
  EXPECT_FALSE(tell(packet4().layer3_bytes(1332).build() + Bytes(20)).is_told);
  EXPECT_TRUE(tell(packet4().layer3_bytes(1333).build()).is_told);
}

// ---- who is not told ----

TEST(PacketTooBig, GroupDestinationsAreNotTold) {
  const auto with_macs = [](MacAddress destination, MacAddress source) {
    FrameBuilder b;
    b.eth(destination, source).ipv4(kFrom4, kTo4).udp(1, 2).layer3_bytes(1400);
    return is_told(b);
  };
  EXPECT_TRUE(with_macs(kGuestB, kGuestA));
  EXPECT_FALSE(with_macs(kBroadcast, kGuestA));
  EXPECT_FALSE(with_macs(mac(0x01005e000001), kGuestA));
  EXPECT_FALSE(with_macs(kGuestB, mac(0)));
  EXPECT_FALSE(with_macs(kGuestB, mac(0x015254000001)));
}

TEST(PacketTooBig, AddressesThatAreNoOneHostsAreNotTold) {
  const auto v4 = [](const IpAddress& source, const IpAddress& destination) {
    return is_told(eth().ipv4(source, destination).udp(1, 2).layer3_bytes(1400));
  };
  for (const IpAddress& no_host : {IpAddress::v4(0, 0, 0, 0), IpAddress::v4(127, 0, 0, 1), IpAddress::v4(224, 0, 0, 1),
                                   IpAddress::v4(240, 0, 0, 1), IpAddress::v4(255, 255, 255, 255)}) {
    EXPECT_FALSE(v4(no_host, kTo4));
    EXPECT_FALSE(v4(kFrom4, no_host));
  }
  EXPECT_TRUE(v4(IpAddress::v4(223, 1, 1, 1), IpAddress::v4(1, 2, 3, 4)));

  const auto v6 = [](const IpAddress& source, const IpAddress& destination) {
    return is_told(eth().ipv6(source, destination).udp(1, 2).layer3_bytes(1400));
  };
  IpAddress multicast, loopback, link_local;
  multicast.bytes[0] = 0xff, multicast.bytes[15] = 1;
  loopback.bytes[15] = 1;
  link_local.bytes[0] = 0xfe, link_local.bytes[1] = 0x80, link_local.bytes[15] = 1;
  for (const IpAddress& no_host : {IpAddress{}, multicast, loopback}) {
    EXPECT_FALSE(v6(no_host, kTo6));
    EXPECT_FALSE(v6(kFrom6, no_host));
  }
  EXPECT_TRUE(v6(link_local, link_local));
}

TEST(PacketTooBig, IcmpErrorsAreNotToldQueriesAre) {
  for (int type = 0; type < 256; ++type) {
    const auto is_error4 = type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
    EXPECT_EQ(is_told(eth().ipv4(kFrom4, kTo4).icmp4(static_cast<std::uint8_t>(type), 1400)), !is_error4) << type;
    EXPECT_EQ(is_told(eth().ipv6(kFrom6, kTo6).icmp6(static_cast<std::uint8_t>(type), Bytes(1400))),
              type >= 128 && type != 137)
        << type;
  }
}

TEST(PacketTooBig, LaterFragmentsOfIpv4AreNotToldTheFirstIs) {
  const auto with = [](std::uint16_t flags) {
    return is_told(eth().ipv4(kFrom4, kTo4).fragment(flags).udp(1, 2).layer3_bytes(1400));
  };
  EXPECT_TRUE(with(kIpv4MoreFragments));
  EXPECT_FALSE(with(kIpv4MoreFragments | 1));
  EXPECT_FALSE(with(185));
  EXPECT_FALSE(with(0x1fff));
}

// Extension headers in front of `rest`; `first` is what the IPv6 header names.
Bytes ipv6_with(std::uint8_t first, const Bytes& extensions, std::size_t bytes = 1400) {
  Bytes rest = extensions;
  rest.resize(bytes - sizeof(Ipv6Header), 0x55);
  Bytes frame = eth().ipv6(kFrom6, kTo6).raw(rest).build();
  frame[14 + 6] = first;
  return frame;
}

TEST(PacketTooBig, ExtensionHeadersAreWalked) {
  const auto echo = [](std::uint8_t first, Bytes extensions, std::uint8_t type) {
    extensions.push_back(type);
    return tell(ipv6_with(first, extensions)).is_told;
  };
  const Bytes options{58, 0, 1, 4, 0, 0, 0, 0};                          // 8 bytes
  Bytes long_options(24, 0), authentication(16, 0);
  long_options[0] = 58, long_options[1] = 2;                             // (2 + 1) * 8
  authentication[0] = 58, authentication[1] = 2;                         // (2 + 2) * 4
  const Bytes first_fragment{58, 0, 0, 1, 0, 0, 0, 9}, atomic{58, 0, 0, 0, 0, 0, 0, 9}, later{58, 0, 0, 9, 0, 0, 0, 9};
  for (const std::uint8_t header : {0, 43, 60}) {
    EXPECT_TRUE(echo(header, options, 128)) << int{header};
    EXPECT_FALSE(echo(header, options, 1)) << int{header};
    EXPECT_TRUE(echo(header, long_options, 128)) << int{header};
    EXPECT_FALSE(echo(header, long_options, 3)) << int{header};
  }
  EXPECT_TRUE(echo(51, authentication, 128));
  EXPECT_FALSE(echo(51, authentication, 2));
  for (const Bytes& fragment : {first_fragment, atomic}) {
    EXPECT_TRUE(echo(44, fragment, 128));
    EXPECT_FALSE(echo(44, fragment, 2));
  }
  EXPECT_FALSE(echo(44, later, 128)) << "a later fragment";

  Bytes chain{60, 0, 1, 4, 0, 0, 0, 0};  // hop-by-hop, destination options, fragment, ICMPv6
  chain.insert(chain.end(), {44, 0, 1, 4, 0, 0, 0, 0});
  chain.insert(chain.end(), first_fragment.begin(), first_fragment.end());
  EXPECT_TRUE(echo(0, chain, 129));
  EXPECT_FALSE(echo(0, chain, 4));

  Bytes endless;
  for (int i = 0; i < 100; ++i) endless.insert(endless.end(), {60, 0, 1, 4, 0, 0, 0, 0});
  EXPECT_FALSE(echo(60, endless, 128));
}

TEST(PacketTooBig, OtherProtocolsAreNotTold) {
  EXPECT_FALSE(is_told(eth().arp(1, kGuestA, kFrom4, mac(0), kTo4).payload(1400)));
  EXPECT_FALSE(is_told(eth().payload(1400)));
  const auto three_tags = eth().vlan(1).vlan(2).vlan(3).ipv4(kFrom4, kTo4).udp(1, 2).payload(1400);
  EXPECT_FALSE(is_told(three_tags));
}

// Hop-by-hop options, destination options of 16 bytes, an echo request.
const Bytes kTwoExtensions{60, 0, 1, 4, 0, 0, 0, 0, 58, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128};

TEST(PacketTooBig, FramesCutShortAreNotTold) {
  const Bytes whole4 = eth().vlan(5).ipv4(kFrom4, kTo4).ipv4_options(2).icmp4(8, 100).build();
  const Bytes whole6 = ipv6_with(0, kTwoExtensions);
  const auto is_told_of = [](const Bytes& whole, std::size_t length, std::uint16_t mtu) {
    return tell(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)), mtu).is_told;
  };
  for (std::size_t length = 0; length <= whole4.size(); ++length)
    EXPECT_EQ(is_told_of(whole4, length, 70), length == whole4.size()) << length;
  for (std::size_t length = 0; length <= whole6.size(); ++length)
    EXPECT_EQ(is_told_of(whole6, length, 1280), length == whole6.size()) << length;
}

// The same cut, but the IP header's length agrees: told exactly when the headers that decide are there.
TEST(PacketTooBig, HeadersThatEndEarlyAreNotReadBeyond) {
  const Bytes whole = ipv6_with(0, kTwoExtensions);
  for (std::size_t length = 54; length < whole.size(); ++length) {
    Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    view<Ipv6Header>(&cut[14])->payload_length = Be16(static_cast<std::uint16_t>(length - 54));
    EXPECT_EQ(tell(cut, 1280).is_told, length > 14 + 1280) << length;
  }
  // 68 is the least MTU told and no header chain of IPv4 is longer than 60: the type byte is there whenever it matters.
  for (std::size_t options = 0; options <= 10; ++options) {
    EXPECT_TRUE(is_told(eth().ipv4(kFrom4, kTo4).ipv4_options(static_cast<unsigned>(options)).icmp4(8, 45), 68));
  }
}

TEST(PacketTooBig, HeadersThatContradictThemselvesAreNotTold) {
  const Bytes good = packet4().layer3_bytes(1400).build();
  const auto with = [&](std::size_t offset, std::uint8_t value) {
    Bytes bad = good;
    bad[14 + offset] = value;
    return tell(bad).is_told;
  };
  EXPECT_TRUE(with(0, 0x45));
  EXPECT_FALSE(with(0, 0x44)) << "a header of 16 bytes";
  EXPECT_FALSE(with(0, 0x65)) << "version 6";
  EXPECT_FALSE(with(2, 0x06)) << "longer than the frame";
  EXPECT_FALSE(with(2, 0)) << "120 bytes only: it fits";
  Bytes bad6 = ipv6_with(17, {});
  bad6[14] = 0x40;
  EXPECT_FALSE(tell(bad6).is_told);
}

TEST(PacketTooBig, BufferWithoutRoomIsLeftAlone) {
  HeapPool pool;
  Packet packet = pool.receive(packet4().layer3_bytes(1400).build());
  for (const std::uint16_t room : {0, 100, 589}) {
    Packet reply = pool.receive({}, kHeadroomBytes, room);
    EXPECT_FALSE(make_packet_too_big(packet, kMtu, reply));
    EXPECT_EQ(reply.length, 0u);
    pool.give_back(reply.buffer);
  }
  Packet reply = pool.receive({}, kHeadroomBytes, 590);
  EXPECT_TRUE(make_packet_too_big(packet, kMtu, reply));
  EXPECT_EQ(reply.tailroom, 0u);
  pool.give_back(reply.buffer);
  pool.give_back(packet.buffer);
}

}  // namespace
}  // namespace vx
