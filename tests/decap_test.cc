// SPDX-License-Identifier: Apache-2.0
// The way out of the tunnel: every validation, RFC 6040, and truncation at every length.
#include "dataplane/decap.h"

#include "dataplane/layer3.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

struct Decapped {
  DropReason reason;
  Bytes inner;
  Location source;
};

Decapped decapped(TestHost& host, const Bytes& frame) {
  Packet packet = host.pool.receive(frame);
  DecapCache cache;
  IpAddress unknown;
  const auto first = decap(packet, host.state, cache, unknown);
  const Decapped result{first.reason, Bytes(packet.data, packet.data + packet.length), packet.source};
  host.pool.give_back(packet.buffer);
  // With what the first one left in the cache, the same again.
  Packet again = host.pool.receive(frame);
  const auto second = decap(again, host.state, cache, unknown);
  EXPECT_EQ(second.reason, first.reason);
  EXPECT_EQ(second.overlay, first.overlay);
  EXPECT_EQ(Bytes(again.data, again.data + again.length), result.inner);
  host.pool.give_back(again.buffer);
  return result;
}

const Bytes kInnerFrame = guest_frame(kGuestA, kFar).build();

TEST(VxlanDecap, InnerFrameOfAValidPacketComesOutWhole) {
  TestHost host;
  auto out = decapped(host, outer4().raw(kInnerFrame).build());
  EXPECT_EQ(out.reason, DropReason::kNone);
  EXPECT_EQ(hex(out.inner), hex(kInnerFrame));
  EXPECT_EQ(out.source, Location::vtep(0));
  TestHost six(true);
  out = decapped(six, outer6().raw(kInnerFrame).build());
  EXPECT_EQ(out.reason, DropReason::kNone);
  EXPECT_EQ(hex(out.inner), hex(kInnerFrame));
}

TEST(VxlanDecap, OuterVlanMustBeTheUnderlays) {
  const auto tagged = [](std::uint16_t tci) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).vlan(tci).ipv4(kRemote4, kLocal4).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
    return b.build();
  };
  TestHost untagged, with_4003(false, 4003);
  EXPECT_EQ(decapped(with_4003, tagged(4003)).reason, DropReason::kNone);
  EXPECT_EQ(decapped(with_4003, tagged(0xe000 | 4003)).reason, DropReason::kNone) << "any PCP";
  EXPECT_EQ(decapped(with_4003, tagged(4001)).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(with_4003, outer4().raw(kInnerFrame).build()).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(untagged, tagged(4003)).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(untagged, tagged(0xa000)).reason, DropReason::kNone) << "a priority tag is no VLAN";
}

TEST(VxlanDecap, Ipv4OptionsAreAccepted) {
  TestHost host;
  for (unsigned words = 1; words <= 10; ++words) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).ipv4_options(words).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
    const auto out = decapped(host, b.build());
    EXPECT_EQ(out.reason, DropReason::kNone);
    EXPECT_EQ(out.inner, kInnerFrame);
  }
}

TEST(VxlanDecap, EthernetPaddingBehindTheOuterPacketIsCutOff) {
  TestHost host;
  auto frame = outer4().raw(kInnerFrame).build();
  frame.resize(frame.size() + 7, 0xee);
  EXPECT_EQ(decapped(host, frame).inner, kInnerFrame);
}

TEST(VxlanDecap, WrongIpv4HeaderChecksumIsDropped) {
  TestHost host;
  const auto good = outer4().raw(kInnerFrame).build();
  for (std::size_t byte = 15; byte < 34; ++byte) {
    if (byte == 16 || byte == 17) continue;  // the length has its own check first
    auto bad = good;
    bad[byte] ^= 0x40;
    EXPECT_EQ(decapped(host, bad).reason, DropReason::kOuterBadChecksum) << byte;
  }
}

TEST(VxlanDecap, WrongUdpChecksumIsDropped) {
  TestHost host, six(true);
  for (const bool is_v6 : {false, true}) {
    const auto good = (is_v6 ? outer6() : outer4()).raw(kInnerFrame).build();
    const std::size_t udp = is_v6 ? 54 : 34;
    for (std::size_t byte = udp; byte < good.size(); ++byte) {
      if (byte == udp + 2 || byte == udp + 3 || byte == udp + 4 || byte == udp + 5) continue;  // port and length
      auto bad = good;
      bad[byte] ^= 0x10;
      EXPECT_EQ(decapped(is_v6 ? six : host, bad).reason, DropReason::kOuterBadChecksum) << byte;
    }
  }
}

TEST(VxlanDecap, ZeroUdpChecksumIsAcceptedOnIpv4AndDroppedOnIpv6) {  // RFC 7348 section 5; RFC 8200 section 8.1
  TestHost host, six(true);
  FrameBuilder v4, v6_frame;
  v4.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(55555, 4789).no_checksum().vxlan(1000).raw(kInnerFrame);
  v6_frame.eth(kOurMac, kPeerMac).ipv6(v6(2), v6(1)).udp(55555, 4789).no_checksum().vxlan(1000).raw(kInnerFrame);
  EXPECT_EQ(decapped(host, v4.build()).reason, DropReason::kNone);
  EXPECT_EQ(decapped(six, v6_frame.build()).reason, DropReason::kOuterBadChecksum);

  // A datagram of the held socket: the kernel has verified it.
  Packet packet = six.pool.receive(v6_frame.build());
  packet.offload.flags = OffloadMeta::kChecksumVerified;
  DecapCache cache;
  IpAddress unknown;
  EXPECT_EQ(decap(packet, six.state, cache, unknown).reason, DropReason::kNone);
  EXPECT_EQ(packet.offload.flags, 0) << "says nothing of the inner frame";
  six.pool.give_back(packet.buffer);
}

TEST(VxlanDecap, ForeignAddressPortAndProtocolAreNotForUs) {
  TestHost host, six(true);
  const auto with = [](const IpAddress& destination, std::uint16_t port) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(kRemote4, destination).udp(55555, port).vxlan(1000).raw(kInnerFrame);
    return b.build();
  };
  EXPECT_EQ(decapped(host, with(kOther4, 4789)).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(host, with(kLocal4, 4790)).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(six, with(kLocal4, 4789)).reason, DropReason::kOuterNotForUs) << "the overlay's local address is IPv6";
  FrameBuilder icmp, arp, other6;
  icmp.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).icmp4(8, 20);
  arp.eth(kBroadcast, kPeerMac).arp(1, kPeerMac, kRemote4, mac(0), kLocal4);
  other6.eth(kOurMac, kPeerMac).ipv6(v6(2), v6(9)).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
  EXPECT_EQ(decapped(host, icmp.build()).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(host, arp.build()).reason, DropReason::kOuterNotForUs);
  EXPECT_EQ(decapped(six, other6.build()).reason, DropReason::kOuterNotForUs);
}

TEST(VxlanDecap, OwnSourceIsDropped) {
  TestHost host, six(true);
  FrameBuilder v4, v6_frame;
  v4.eth(kOurMac, kPeerMac).ipv4(kLocal4, kLocal4).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
  v6_frame.eth(kOurMac, kPeerMac).ipv6(v6(1), v6(1)).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
  EXPECT_EQ(decapped(host, v4.build()).reason, DropReason::kOuterOwnSource);
  EXPECT_EQ(decapped(six, v6_frame.build()).reason, DropReason::kOuterOwnSource);
}

TEST(VxlanDecap, FragmentsAreDroppedOnlyWhenTheyAreForUs) {
  TestHost host, six(true);
  for (const std::uint16_t flags : {std::uint16_t{kIpv4MoreFragments}, std::uint16_t{100}}) {
    FrameBuilder ours, theirs;
    ours.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).fragment(flags).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
    theirs.eth(kOurMac, kPeerMac).ipv4(kRemote4, kOther4).fragment(flags).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
    EXPECT_EQ(decapped(host, ours.build()).reason, DropReason::kOuterFragment);
    EXPECT_EQ(decapped(host, theirs.build()).reason, DropReason::kOuterNotForUs);
  }
  auto fragment6 = outer6().raw(kInnerFrame).build();
  fragment6[14 + 6] = ip_protocol::kFragment;
  EXPECT_EQ(decapped(six, fragment6).reason, DropReason::kOuterFragment);
}

TEST(VxlanDecap, ClearedIFlagIsDropped) {  // RFC 7348 section 5
  TestHost host;
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(55555, 4789).vxlan(1000, 0).raw(kInnerFrame);
  EXPECT_EQ(decapped(host, b.build()).reason, DropReason::kVxlanBadFlags);
}

TEST(VxlanDecap, EachSetReservedBitIsDropped) {
  TestHost host;
  for (unsigned bit = 0; bit < 32; ++bit) {
    const std::uint32_t flags = kVxlanFlagI ^ 1u << bit;
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(55555, 4789).vxlan(1000, flags).raw(kInnerFrame);
    EXPECT_EQ(decapped(host, b.build()).reason, DropReason::kVxlanBadFlags) << bit;
  }
  for (unsigned bit = 0; bit < 8; ++bit) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(55555, 4789)
        .vxlan(1000, kVxlanFlagI, static_cast<std::uint8_t>(1u << bit)).raw(kInnerFrame);
    EXPECT_EQ(decapped(host, b.build()).reason, DropReason::kVxlanBadFlags) << bit;
  }
}

TEST(VxlanDecap, UnknownVniIsDropped) {
  TestHost host;
  EXPECT_EQ(decapped(host, outer4(0, 1001).raw(kInnerFrame).build()).reason, DropReason::kVxlanUnknownVni);
  EXPECT_EQ(decapped(host, outer4(0, 0).raw(kInnerFrame).build()).reason, DropReason::kVxlanUnknownVni);
}

TEST(VxlanDecap, UnknownVtepIsDroppedUnlessVtepLearningAcceptsIt) {
  TestHost host;
  const IpAddress stranger = IpAddress::v4(172, 18, 1, 99);
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv4(stranger, kLocal4).udp(55555, 4789).vxlan(1000).raw(kInnerFrame);
  EXPECT_EQ(decapped(host, b.build()).reason, DropReason::kVxlanUnknownVtep);
  host.state.overlays[0].accept_unknown_vteps = true;
  const auto out = decapped(host, b.build());
  EXPECT_EQ(out.reason, DropReason::kNone);
  EXPECT_EQ(out.source, Location());
}

TEST(VxlanDecap, InnerFrameShorterThanEthernetIsDropped) {
  TestHost host;
  for (std::size_t bytes = 0; bytes < 14; ++bytes)
    EXPECT_EQ(decapped(host, outer4().payload(bytes).build()).reason, DropReason::kInnerTruncated) << bytes;
  EXPECT_EQ(decapped(host, outer4().payload(14).build()).reason, DropReason::kNone);
}

TEST(VxlanDecap, WrongLengthsAreTruncation) {
  TestHost host;
  const auto good = outer4().raw(kInnerFrame).build();
  const auto with_word = [&](std::size_t at, std::uint16_t value) {
    auto frame = good;
    frame[at] = static_cast<std::uint8_t>(value >> 8);
    frame[at + 1] = static_cast<std::uint8_t>(value);
    if (at < 34) {  // keep the header checksum right
      frame[24] = frame[25] = 0;
      const auto sum = static_cast<std::uint16_t>(~checksum_fold(checksum_partial(frame.data() + 14, 20)));
      std::memcpy(&frame[24], &sum, 2);
    }
    return frame;
  };
  const auto total = static_cast<std::uint16_t>(good.size() - 14), udp = static_cast<std::uint16_t>(total - 20);
  EXPECT_EQ(decapped(host, with_word(16, static_cast<std::uint16_t>(total + 1))).reason, DropReason::kOuterTruncated);
  EXPECT_EQ(decapped(host, with_word(16, 19)).reason, DropReason::kOuterTruncated);
  EXPECT_EQ(decapped(host, with_word(16, 27)).reason, DropReason::kOuterTruncated);
  EXPECT_EQ(decapped(host, with_word(38, static_cast<std::uint16_t>(udp + 1))).reason, DropReason::kOuterTruncated);
  EXPECT_EQ(decapped(host, with_word(38, 15)).reason, DropReason::kOuterTruncated);
  EXPECT_EQ(decapped(host, with_word(38, 0)).reason, DropReason::kOuterTruncated);
  auto version = good;
  version[14] = 0x65;
  EXPECT_EQ(decapped(host, version).reason, DropReason::kOuterTruncated);
  version[14] = 0x44;
  EXPECT_EQ(decapped(host, version).reason, DropReason::kOuterTruncated);
}

// Frames stand in heap blocks of exactly their size: under AddressSanitizer any read past the end is an error.
TEST(VxlanDecap, ValidFramesCutAtEveryLengthAreTruncated) {
  TestHost untagged, tagged(false, 4003), six(true);
  FrameBuilder with_options, with_tag;
  with_options.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).ipv4_options(3).udp(5, 4789).vxlan(1000).raw(kInnerFrame);
  with_tag.eth(kOurMac, kPeerMac).vlan(4003).ipv4(kRemote4, kLocal4).udp(5, 4789).vxlan(1000).raw(kInnerFrame);
  const std::pair<TestHost*, Bytes> frames[] = {{&untagged, outer4().raw(kInnerFrame).build()},
                                                {&untagged, with_options.build()},
                                                {&tagged, with_tag.build()},
                                                {&six, outer6().raw(kInnerFrame).build()}};
  for (const auto& [host, frame] : frames) {
    ASSERT_EQ(decapped(*host, frame).reason, DropReason::kNone);
    for (std::size_t length = 0; length < frame.size(); ++length)
      EXPECT_EQ(decapped(*host, Bytes(frame.begin(), frame.begin() + static_cast<long>(length))).reason,
                DropReason::kOuterTruncated)
          << length;
  }
}

// RFC 6040 figure 4: rows inner, columns outer; -1 means dropped.
TEST(VxlanDecap, EcnFollowsRfc6040ForEveryPairUnderTagsToo) {
  constexpr int figure4[4][4] = {// outer: Not-ECT, ECT(1), ECT(0), CE
                                 {0, 0, 0, -1},  // inner Not-ECT
                                 {1, 1, 1, 3},   // inner ECT(1)
                                 {2, 1, 2, 3},   // inner ECT(0)
                                 {3, 3, 3, 3}};  // inner CE
  for (const bool outer_is_v6 : {false, true})
    for (const bool inner_is_v6 : {false, true})
      for (const unsigned tags : {0u, 1u, 2u})
        for (std::uint8_t inner = 0; inner < 4; ++inner)
          for (std::uint8_t outer = 0; outer < 4; ++outer) {
            TestHost host(outer_is_v6);
            const auto frame = [&](std::uint8_t ecn) {
              FrameBuilder b;
              b.eth(kGuestA, kFar);
              if (tags == 2) b.service_vlan(9);
              if (tags > 0) b.vlan(100);
              const auto tos = static_cast<std::uint8_t>(0xb8 | ecn);
              if (inner_is_v6)
                b.ipv6(v6(7), v6(8)).tos(tos).udp(1, 2).payload(5);
              else
                b.ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(tos).udp(1, 2).payload(5);
              return b.build();
            };
            const auto out = decapped(host, (outer_is_v6 ? outer6(outer) : outer4(outer)).raw(frame(inner)).build());
            const int expected = figure4[inner][outer];
            if (expected < 0) {
              EXPECT_EQ(out.reason, DropReason::kEcnNotEct);
            } else {
              EXPECT_EQ(out.reason, DropReason::kNone);
              EXPECT_EQ(hex(out.inner), hex(frame(static_cast<std::uint8_t>(expected)))) << "header checksum included";
            }
          }
}

TEST(VxlanDecap, CongestionMarkOnFramesThatAreNotIpPasses) {
  TestHost host;
  FrameBuilder arp;
  arp.eth(kBroadcast, kFar).arp(1, kFar, kRemote4, mac(0), kLocal4);
  EXPECT_EQ(decapped(host, outer4(kCe).raw(arp.build()).build()).reason, DropReason::kNone);
  FrameBuilder cut;  // an IPv4 ethertype without an IPv4 header
  cut.eth(kGuestA, kFar).ipv4(kRemote4, kLocal4);
  auto bytes = cut.build();
  bytes.resize(30);
  EXPECT_EQ(decapped(host, outer4(kCe).raw(bytes).build()).inner, bytes);
}

// The cache holds the last accepted outer headers: any frame after any other must come out as it does alone.
TEST(VxlanDecap, WhatTheCacheHoldsNeverChangesAVerdict) {
  TestHost host;
  host.state.overlays[0].accept_unknown_vteps = true;
  const auto from = [](const IpAddress& source, std::uint32_t vni, std::uint16_t port) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(source, kLocal4).udp(55555, port).vxlan(vni).raw(kInnerFrame);
    return b.build();
  };
  auto fragment = from(kRemote4, 1000, 4789), flagless = fragment, bad_sum = fragment, short_udp = fragment;
  fragment[20] = 0x20;  // MF; the header checksum is then wrong too, unless mended
  fragment[24] = static_cast<std::uint8_t>(fragment[24] - 0x20);
  flagless[42] = 0;
  bad_sum[60] ^= 1;
  short_udp[38] = 0x7f;
  const std::vector<Bytes> frames = {
      from(kRemote4, 1000, 4789), from(kOther4, 1000, 4789), from(IpAddress::v4(172, 18, 9, 9), 1000, 4789),
      from(kRemote4, 1001, 4789), from(kRemote4, 1000, 4790), from(kLocal4, 1000, 4789),
      fragment, flagless, bad_sum, short_udp};
  struct Seen {
    DropReason reason;
    OverlayIndex overlay;
    Location source;
    Bytes inner;
    bool operator==(const Seen&) const = default;
  };
  const auto see = [&](const Bytes& frame, DecapCache& cache) {
    Packet packet = host.pool.receive(frame);
    IpAddress unknown;
    const auto result = decap(packet, host.state, cache, unknown);
    const bool passed = result.reason == DropReason::kNone;
    const Seen seen{result.reason, result.overlay, passed ? packet.source : Location(),
                    Bytes(packet.data, packet.data + packet.length)};
    host.pool.give_back(packet.buffer);
    return seen;
  };
  std::vector<Seen> alone;
  for (const auto& frame : frames) {
    DecapCache empty;
    alone.push_back(see(frame, empty));
  }
  EXPECT_EQ(alone[0].source, Location::vtep(0));
  EXPECT_EQ(alone[1].source, Location::vtep(1));
  for (std::size_t a = 0; a < frames.size(); ++a)
    for (std::size_t b = 0; b < frames.size(); ++b)
      for (std::size_t c = 0; c < frames.size(); ++c) {
        DecapCache cache;
        (void)see(frames[a], cache);
        (void)see(frames[b], cache);
        EXPECT_EQ(see(frames[c], cache), alone[c]) << a << ' ' << b << ' ' << c;
      }
}

TEST(VxlanDecap, OverlaysDifferInVniAddressAndPort) {
  TestHost host;
  OverlayState second = host.state.overlays[0];
  second.vni = 2000;
  second.udp_port = 8472;
  host.state.overlays.push_back(second);
  DecapCache cache;
  IpAddress unknown;
  const auto run = [&](std::uint16_t port, std::uint32_t vni) {
    FrameBuilder b;
    b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(55555, port).vxlan(vni).raw(kInnerFrame);
    Packet packet = host.pool.receive(b.build());
    const auto result = decap(packet, host.state, cache, unknown);
    host.pool.give_back(packet.buffer);
    return std::pair(result.reason, result.overlay);
  };
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(run(4789, 1000), std::pair(DropReason::kNone, OverlayIndex{0}));
    EXPECT_EQ(run(8472, 2000), std::pair(DropReason::kNone, OverlayIndex{1}));
    EXPECT_EQ(run(4789, 2000), std::pair(DropReason::kVxlanUnknownVni, OverlayIndex{kNoIndex}));
    EXPECT_EQ(run(8472, 1000), std::pair(DropReason::kVxlanUnknownVni, OverlayIndex{kNoIndex}));
    EXPECT_EQ(run(8473, 1000), std::pair(DropReason::kOuterNotForUs, OverlayIndex{kNoIndex}));
  }
}

}  // namespace
}  // namespace vx
