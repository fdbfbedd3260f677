// SPDX-License-Identifier: Apache-2.0
// vtep-address = own: ARP, neighbour discovery and echo for the VTEP addresses, answered through the pipeline; what
// control is told.
#include "dataplane/own_address.h"

#include "dataplane/layer3.h"
#include "dataplane/probe_format.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

const IpAddress kAsker6 = v6(2);

struct OwnHost : TestHost {
  explicit OwnHost(std::uint16_t vlan = 0) : TestHost(false, vlan) { state.underlay.own_address = true; }
  FrameBuilder frame(MacAddress destination) const {
    FrameBuilder b;
    b.eth(destination, kPeerMac);
    if (state.underlay.vlan != 0) b.vlan(state.underlay.vlan);
    return b;
  }
  FrameBuilder reply() const {
    FrameBuilder b;
    b.eth(kPeerMac, kOurMac);
    if (state.underlay.vlan != 0) b.vlan(state.underlay.vlan);
    return b;
  }
  // Receives with room behind the frame, as a NIC's buffer has.
  void receive_roomy(const Bytes& bytes) {
    Packet packet = pool.receive(bytes, kHeadroomBytes, 64);
    pipeline.use(&state, &assignment);
    pipeline.process(&packet, 1, 0, now);
    EXPECT_TRUE(totals_of(counters()).balances());
    EXPECT_EQ(pool.live(), 0u);
  }
};

Bytes solicitation_body(const IpAddress& target, bool with_option) {
  Bytes body(4);
  body.insert(body.end(), target.bytes.begin(), target.bytes.end());
  if (with_option) {
    body.insert(body.end(), {1, 1});
    body.insert(body.end(), kPeerMac.bytes.begin(), kPeerMac.bytes.end());
  }
  return body;
}
Bytes advertisement_body(std::uint8_t flags) {
  Bytes body{flags, 0, 0, 0};
  const auto target = v6(1);
  body.insert(body.end(), target.bytes.begin(), target.bytes.end());
  body.insert(body.end(), {2, 1});
  body.insert(body.end(), kOurMac.bytes.begin(), kOurMac.bytes.end());
  return body;
}
const IpAddress kSolicitedNode{{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1}};

TEST(OwnAddress, ArpRequestIsAnsweredOutOfTheSamePortAndToldToControl) {
  for (const std::uint16_t vlan : {0, 4003}) {
    OwnHost host(vlan);
    host.receive(0, host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build());
    ASSERT_EQ(host.sent(0).size(), 1u);
    EXPECT_EQ(hex(host.sent(0)[0]), hex(host.reply().arp(2, kOurMac, kLocal4, kPeerMac, kRemote4).build()));
    EXPECT_EQ(host.counters().consumed, 1u);
    EXPECT_EQ(host.counters().generated, 1u);
    const auto punted = host.punted();
    ASSERT_EQ(punted.size(), 1u) << "the asker's address is news";
    FrameBuilder untagged;
    untagged.eth(kBroadcast, kPeerMac).arp(1, kPeerMac, kRemote4, mac(0), kLocal4);
    EXPECT_EQ(Bytes(punted[0].bytes.begin(), punted[0].bytes.begin() + punted[0].length), untagged.build());
    EXPECT_EQ(punted[0].port, 0);
    EXPECT_TRUE(host.pipeline.take_news());
  }
}

TEST(OwnAddress, ArpProbeIsAnsweredAndTellsNothing) {  // RFC 5227
  OwnHost host;
  host.receive(0, host.frame(kBroadcast).arp(1, kPeerMac, IpAddress::v4(0, 0, 0, 0), mac(0), kLocal4).build());
  EXPECT_EQ(host.sent(0).size(), 1u);
  EXPECT_TRUE(host.punted().empty());
}

TEST(OwnAddress, ArpRepliesAndGratuitousArpGoToControl) {
  OwnHost host;
  host.receive(0, {host.frame(kOurMac).arp(2, kPeerMac, kRemote4, kOurMac, kLocal4).build(),
                   host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kRemote4).build(),
                   host.frame(kBroadcast).arp(2, kPeerMac, kRemote4, kPeerMac, kRemote4).build()});
  EXPECT_EQ(host.punted().size(), 3u);
  EXPECT_EQ(host.counters().consumed, 3u);
  EXPECT_EQ(host.counters().punts, 3u);
  EXPECT_TRUE(host.sent(0).empty());
}

TEST(OwnAddress, WhatConcernsOthersIsNotForUs) {
  OwnHost host;
  host.receive(0, {host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kOther4).build(),
                   host.frame(kOurMac).arp(2, kPeerMac, kRemote4, kOurMac, kOther4).build(),
                   host.frame(mac(0x020000000099)).arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build(),
                   host.frame(kOurMac).ipv4(kRemote4, kOther4).icmp4(8, 20).build(),
                   host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(0, 20).build(),
                   host.frame(kOurMac).ipv4(kRemote4, kLocal4).udp(1, 53).payload(4).build(),
                   host.frame(kBroadcast).ipv4(kRemote4, kLocal4).icmp4(8, 20).build()});
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 7u);
  EXPECT_TRUE(host.punted().empty());
}

TEST(OwnAddress, IsOffUnlessConfigured) {
  OwnHost host;
  host.state.underlay.own_address = false;
  host.receive(0, host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build());
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 1u);
}

TEST(OwnAddress, OtherVlansAreNotOurs) {
  OwnHost host(4003);
  FrameBuilder other;
  other.eth(kBroadcast, kPeerMac).vlan(4001).arp(1, kPeerMac, kRemote4, mac(0), kLocal4);
  FrameBuilder untagged;
  untagged.eth(kBroadcast, kPeerMac).arp(1, kPeerMac, kRemote4, mac(0), kLocal4);
  host.receive(0, {other.build(), untagged.build()});
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 2u);
}

TEST(OwnAddress, EchoRequestsAreAnswered) {
  OwnHost host;
  host.receive(0, host.frame(kOurMac).ipv4(kRemote4, kLocal4).ttl(3).icmp4(8, 56).build());
  ASSERT_EQ(host.sent(0).size(), 1u);
  EXPECT_EQ(hex(host.sent(0)[0]), hex(host.reply().ipv4(kLocal4, kRemote4).icmp4(0, 56).build()));
  host.receive(0, host.frame(kOurMac).ipv6(kAsker6, v6(1)).ttl(3).icmp6(128, Bytes(44, 7)).build());
  ASSERT_EQ(host.sent(0).size(), 2u);
  EXPECT_EQ(hex(host.sent(0)[1]), hex(host.reply().ipv6(v6(1), kAsker6).icmp6(129, Bytes(44, 7)).build()));
  EXPECT_TRUE(host.punted().empty());
}

TEST(OwnAddress, EchoRequestsWhoseAnswerWouldNotFitAreNotAnswered) {  // made whole of fragments
  OwnHost host;
  host.state.underlay.mtu = 600;
  const unsigned most4 = 600 - 20 - 4, most6 = 600 - 40 - 4;
  host.receive(0, {host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(8, most4).build(),
                   host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(8, most4 + 1).build(),
                   host.frame(kOurMac).ipv6(kAsker6, v6(1)).icmp6(128, Bytes(most6, 7)).build(),
                   host.frame(kOurMac).ipv6(kAsker6, v6(1)).icmp6(128, Bytes(most6 + 1, 7)).build()});
  EXPECT_EQ(host.sent(0).size(), 2u);
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 2u);
}

TEST(OwnAddress, NeighbourSolicitationIsAnsweredAndToldToControl) {  // RFC 4861 section 7.2.4
  for (const bool with_option : {true, false}) {
    OwnHost host;
    host.receive_roomy(host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(255)
                           .icmp6(135, solicitation_body(v6(1), with_option)).build());
    ASSERT_EQ(host.sent(0).size(), 1u);
    EXPECT_EQ(hex(host.sent(0)[0]),
              hex(host.reply().ipv6(v6(1), kAsker6).ttl(255).icmp6(136, advertisement_body(0x60)).build()));
    EXPECT_EQ(host.punted().size(), 1u);
  }
}

TEST(OwnAddress, DuplicateAddressProbeIsAnsweredToAllNodes) {  // RFC 4862 section 5.4.3
  OwnHost host;
  host.receive_roomy(host.frame(mac(0x3333ff000001)).ipv6(IpAddress{}, kSolicitedNode).ttl(255)
                         .icmp6(135, solicitation_body(v6(1), false)).build());
  ASSERT_EQ(host.sent(0).size(), 1u);
  const IpAddress all_nodes{{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
  FrameBuilder expected;
  expected.eth(mac(0x333300000001), kOurMac).ipv6(v6(1), all_nodes).ttl(255).icmp6(136, advertisement_body(0x20));
  EXPECT_EQ(hex(host.sent(0)[0]), hex(expected.build()));
  EXPECT_TRUE(host.punted().empty());
}

TEST(OwnAddress, SolicitationWithoutRoomForTheReplyIsCounted) {
  OwnHost host;
  host.receive(0, host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(255)
                      .icmp6(135, solicitation_body(v6(1), false)).build());
  EXPECT_EQ(host.drops(DropReason::kNoHeadroom), 1u);
}

TEST(OwnAddress, SolicitationsThatARouterForwardedOrWithWrongChecksumAreIgnored) {  // RFC 4861 section 7.1.1
  OwnHost host;
  host.receive_roomy(host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(254)
                         .icmp6(135, solicitation_body(v6(1), true)).build());
  auto wrong = host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(255)
                   .icmp6(135, solicitation_body(v6(1), true)).build();
  wrong.back() ^= 1;
  host.receive_roomy(wrong);
  host.receive_roomy(host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(255)
                         .icmp6(135, solicitation_body(v6(9), true)).build());
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 3u);
}

TEST(OwnAddress, NeighbourAdvertisementGoesToControl) {
  OwnHost host;
  Bytes body{0x60, 0, 0, 0};
  body.insert(body.end(), kAsker6.bytes.begin(), kAsker6.bytes.end());
  host.receive(0, host.frame(kOurMac).ipv6(kAsker6, v6(1)).ttl(255).icmp6(136, body).build());
  EXPECT_EQ(host.punted().size(), 1u);
  EXPECT_EQ(host.counters().consumed, 1u);
}

// An echo reply of 1400 bytes whose data begins as control's probes do.
Bytes probe_echo(const OwnHost& host, bool is_v6, std::uint32_t magic = kProbeMagic) {
  Bytes rest(8, 0);
  rest[4] = static_cast<std::uint8_t>(magic >> 24);
  rest[5] = static_cast<std::uint8_t>(magic >> 16);
  rest[6] = static_cast<std::uint8_t>(magic >> 8);
  rest[7] = static_cast<std::uint8_t>(magic);
  rest.resize(is_v6 ? 1356 : 1376);
  if (is_v6) return host.frame(kOurMac).ipv6(kAsker6, v6(1)).icmp6(129, rest).build();
  Bytes frame = host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(0, 1376).build();
  const std::size_t icmp = frame.size() - 1380;
  std::copy(rest.begin(), rest.end(), frame.begin() + static_cast<long>(icmp) + 4);
  store<std::uint16_t>(frame.data() + icmp + 2, 0);
  store(frame.data() + icmp + 2, static_cast<std::uint16_t>(~checksum_fold(checksum_partial(frame.data() + icmp, 1380))));
  return frame;
}

TEST(OwnAddress, AnswersToPathProbesGoToControlCut) {
  for (const std::uint16_t vlan : {0, 4003}) {
    for (const bool is_v6 : {false, true}) {
      OwnHost host(vlan);
      const Bytes echo = probe_echo(host, is_v6);
      host.receive(0, echo);
      const auto punted = host.punted();
      ASSERT_EQ(punted.size(), 1u);
      EXPECT_EQ(punted[0].length, punted[0].bytes.size());
      EXPECT_EQ(host.counters().consumed, 1u);
      EXPECT_TRUE(host.sent(0).empty());
      // What control reads: behind Ethernet, IP and 8 bytes of ICMP.
      const std::size_t at = 14 + (is_v6 ? 40 : 20) + 8;
      EXPECT_EQ(hex(Bytes(punted[0].bytes.begin() + static_cast<long>(at), punted[0].bytes.begin() + static_cast<long>(at) + 4)), "56 58 50 50 ");
    }
  }
}

TEST(OwnAddress, OtherEchoRepliesAreNobodys) {
  OwnHost host;
  Bytes broken4 = probe_echo(host, false), broken6 = probe_echo(host, true);
  broken4.back() ^= 1;
  broken6.back() ^= 1;
  host.receive(0, {probe_echo(host, false, kProbeMagic + 1), probe_echo(host, true, kProbeMagic + 1), broken4, broken6,
                   host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(0, 3).build(),
                   host.frame(kOurMac).ipv6(kAsker6, v6(1)).icmp6(129, Bytes(4)).build()});
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 6u);
  EXPECT_TRUE(host.punted().empty());
}

TEST(OwnAddress, FullPuntQueueLosesTheNewsAndNotTheAnswer) {
  OwnHost host;
  for (int i = 0; i < 20; ++i)
    host.receive(0, host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build());
  EXPECT_EQ(host.sent(0).size(), 20u);
  EXPECT_EQ(host.counters().punts, 16u);
  EXPECT_EQ(host.counters().punts_lost, 4u);
}

TEST(OwnAddress, FramesCutAtEveryLengthAreNeverReadPastTheirEnd) {
  for (const std::uint16_t vlan : {0, 4003}) {
    OwnHost host(vlan);
    const Bytes frames[] = {
        host.frame(kBroadcast).arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build(),
        host.frame(kOurMac).ipv4(kRemote4, kLocal4).icmp4(8, 20).build(), probe_echo(host, false), probe_echo(host, true),
        host.frame(kOurMac).ipv6(kAsker6, v6(1)).icmp6(128, Bytes(20)).build(),
        host.frame(mac(0x3333ff000001)).ipv6(kAsker6, kSolicitedNode).ttl(255).icmp6(135, solicitation_body(v6(1), true)).build()};
    for (const auto& frame : frames) {
      const auto consumed = host.counters().consumed;
      for (std::size_t length = 0; length < frame.size(); ++length)
        host.receive(0, Bytes(frame.begin(), frame.begin() + static_cast<long>(length)));
      EXPECT_EQ(host.counters().consumed, consumed);
      host.receive(0, frame);
      EXPECT_EQ(host.counters().consumed, consumed + 1);
    }
  }
}

}  // namespace
}  // namespace vx
