// SPDX-License-Identifier: Apache-2.0
// The packet's way as a whole: bridging, VLANs, moves, flooding, MTU, and a counter for every way out.
// Conservation and the return of every buffer are checked after each burst by TestHost::receive.
#include "dataplane/pipeline.h"

#include "dataplane/layer3.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;
using protocol::LearnKind;

Bytes tagged_frame(MacAddress destination, MacAddress source, std::uint16_t tci, std::size_t payload = 30) {
  FrameBuilder b;
  b.eth(destination, source).vlan(tci).payload(payload);
  return b.build();
}
Bytes untagged_frame(MacAddress destination, MacAddress source, std::size_t payload = 30) {
  FrameBuilder b;
  b.eth(destination, source).payload(payload);
  return b.build();
}
// The inner frame of what went to the underlay (IPv4, untagged outer frame).
Bytes inner_of(const Bytes& outer) { return Bytes(outer.begin() + 50, outer.end()); }
Bytes from_vtep0(const Bytes& inner, std::uint8_t tos = 0) { return outer4(tos).raw(inner).build(); }

// ---- where frames go ----

TEST(Bridge, KnownUnicastGoesToItsPortOnly) {
  TestHost host;
  host.learn_all();
  const auto frame = guest_frame(kGuestB, kGuestA).build();
  host.receive(1, frame);
  EXPECT_EQ(host.sent(2), std::vector<Bytes>{frame});
  EXPECT_TRUE(host.sent(0).empty());
  EXPECT_TRUE(host.sent(3).empty());
  EXPECT_EQ(host.counters().ports[1].rx_packets, 1u);
  EXPECT_EQ(host.counters().ports[1].rx_bytes, frame.size());
  EXPECT_EQ(host.counters().ports[2].tx_packets, 1u);
  EXPECT_EQ(host.counters().ports[2].tx_bytes, frame.size());
}

TEST(Bridge, KnownRemoteUnicastGoesThroughTheTunnelToItsVtep) {
  TestHost host;
  host.learn_all();
  const auto frame = guest_frame(kFar2, kGuestA).build();
  host.receive(1, frame);
  ASSERT_EQ(host.sent(0).size(), 1u);
  EXPECT_EQ(inner_of(host.sent(0)[0]), frame);
  EXPECT_EQ(std::memcmp(&host.sent(0)[0][30], kOther4.v4_bytes(), 4), 0);
  EXPECT_EQ(host.counters().ports[0].tx_bytes, frame.size() + 50);
}

TEST(Bridge, TunnelFramesGoToTheirPort) {
  TestHost host;
  host.learn_all();
  const auto frame = guest_frame(kGuestA, kFar).build();
  host.receive(0, from_vtep0(frame));
  EXPECT_EQ(host.sent(1), std::vector<Bytes>{frame});
  EXPECT_EQ(host.dropped(), 0u);
}

TEST(Bridge, DestinationWhereTheFrameCameFromIsDropped) {
  TestHost host;
  host.learn_all();
  host.learn(kNobody, Location::port(1));
  host.receive(1, guest_frame(kNobody, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kEgressSamePort), 1u);
  EXPECT_EQ(host.counters().ports[1].rx_dropped, 1u);
}

// Port 3 is the host behind a kernel's bridge: it answers for that bridge's address, and for a port's own on that port.
TEST(Bridge, TheHostGetsFramesToThePortTheyCameInByAsItsOwn) {
  const MacAddress bridge{{2, 0, 0, 0, 0, 1}}, one{{2, 0, 0, 0, 0, 2}}, two{{2, 0, 0, 0, 0, 3}}, tunnel{{2, 0, 0, 0, 0, 4}};
  TestHost host;
  host.learn_all();
  host.state.ports[1].own_mac = one;
  host.state.ports[2].own_mac = two;
  host.state.ports[3].own_mac = bridge;
  host.state.ports[3].delivers = true;
  host.state.overlays[0].own_mac = tunnel;
  for (const auto& address : {bridge, one, two, tunnel}) host.learn(address, Location::port(3));
  const auto to_host = [&](PortIndex port, MacAddress to) {
    host.ports[3]->sent.clear();
    host.receive(port, port == 0 ? from_vtep0(guest_frame(to, kFar).build()) : guest_frame(to, port == 1 ? kGuestA : kGuestB).build());
    EXPECT_EQ(host.sent(3).size(), 1u);
    MacAddress arrived;
    std::memcpy(arrived.bytes.data(), host.sent(3).at(0).data(), 6);
    return arrived;
  };
  EXPECT_EQ(to_host(1, one), bridge);
  EXPECT_EQ(to_host(1, bridge), bridge);
  EXPECT_EQ(to_host(1, two), two) << "another port's: the kernel's host drops it";
  EXPECT_EQ(to_host(2, two), bridge);
  EXPECT_EQ(to_host(0, tunnel), bridge);
  EXPECT_EQ(to_host(0, one), one);
  EXPECT_EQ(to_host(1, kNobody), kNobody) << "flooded";
  host.state.ports[3].delivers = false;
  EXPECT_EQ(to_host(1, one), one);
}

TEST(Bridge, TunnelFramesNeverReturnToTheTunnel) {
  TestHost host;
  host.learn_all();
  host.receive(0, from_vtep0(guest_frame(kFar2, kFar).build()));  // from VTEP 0, to a MAC behind VTEP 1
  host.receive(0, from_vtep0(guest_frame(kFar, kNobody).build()));
  EXPECT_EQ(host.drops(DropReason::kEgressSamePort), 2u);
  EXPECT_TRUE(host.sent(0).empty());
}

TEST(Bridge, BlackholeDestinationIsDropped) {
  TestHost host;
  host.learn_all();
  host.learn(kNobody, Location(), FdbValue::kStatic | FdbValue::kBlackhole);
  host.receive(1, guest_frame(kNobody, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kFdbBlackhole), 1u);
}

TEST(Bridge, InvalidSourcesAreDropped) {
  TestHost host;
  host.receive(1, {guest_frame(kGuestB, kBroadcast).build(), guest_frame(kGuestB, mac(0)).build(),
                   guest_frame(kGuestB, mac(0x013300000001)).build()});
  EXPECT_EQ(host.drops(DropReason::kSmacInvalid), 3u);
  EXPECT_TRUE(host.events().empty());
}

TEST(Bridge, OfTheLinkLocalGroupsOnlyBpdusPass) {
  for (std::uint64_t last = 0; last < 32; ++last) {
    TestHost host;
    host.receive(1, untagged_frame(mac(0x0180c2000000 + last), kGuestA));
    const bool passes = last == 0 || last >= 16;
    EXPECT_EQ(host.drops(DropReason::kLinkLocal), passes ? 0u : 1u) << last;
    EXPECT_EQ(host.sent(2).size(), passes ? 1u : 0u) << last;
  }
}

TEST(Bridge, ShortFramesAreTruncatedAtEveryLength) {
  const auto run = [](const Bytes& frame, bool tunnel, std::size_t shortest) {
    for (std::size_t length = 0; length <= frame.size(); ++length) {
      TestHost host;
      host.learn_all();
      const Bytes cut(frame.begin(), frame.begin() + static_cast<long>(length));
      host.receive(tunnel ? 0 : 1, tunnel ? from_vtep0(cut) : cut);
      const auto reason = tunnel ? DropReason::kInnerTruncated : DropReason::kGuestTruncated;
      EXPECT_EQ(host.drops(reason), length < shortest ? 1u : 0u) << length;
      EXPECT_EQ(host.dropped(), length < shortest ? 1u : 0u) << length;
    }
  };
  run(guest_frame(kGuestB, kGuestA).build(), false, 14);
  run(tagged_frame(kFar, kGuestA, 1), false, 18);
  run(guest_frame(kGuestA, kFar).build(), true, 14);
  run(tagged_frame(kGuestA, kFar, 1), true, 18);
  FrameBuilder double_tagged, six;
  double_tagged.eth(kFar, kGuestA).vlan(1).vlan(7).ipv4(kLocal4, kRemote4).udp(1, 2).payload(4);
  six.eth(kFar, kGuestA).ipv6(v6(7), v6(8)).udp(1, 2).payload(4);
  run(double_tagged.build(), false, 18);
  run(six.build(), false, 14);
}

// ---- VLANs ----

struct TagCase {
  const char* name;
  int ingress_tci;      // -1: untagged
  bool egress_untagged;
  int egress_tci;       // -1: untagged
};
TEST(Vlan, TagIsPushedPoppedOrKeptAsTheEgressWantsIt) {
  const TagCase cases[] = {{"untagged to untagged", -1, true, -1},
                           {"untagged to tagged", -1, false, 100},
                           {"tagged to untagged", 100, true, -1},
                           {"tagged to tagged", 100, false, 100},
                           {"PCP and DEI are kept", 0xf000 | 100, false, 0xf000 | 100},
                           {"priority tag to tagged gets the PVID and keeps its PCP", 0xa000, false, 0xa000 | 100},
                           {"priority tag to untagged", 0xa000, true, -1}};
  for (const auto& c : cases)
    for (const bool to_tunnel : {false, true}) {
      SCOPED_TRACE(c.name);
      TestHost host;
      host.learn_all(100);
      host.set_vlans(1, vlans(100, 100, 100));
      VlanTable egress = vlans(c.egress_untagged ? 100 : 1, 1, 4094);
      host.set_vlans(2, egress);
      host.state.overlays[0].tunnel_vlans = std::make_shared<const VlanTable>(egress);
      const auto to = to_tunnel ? kFar : kGuestB;
      host.receive(1, c.ingress_tci < 0 ? untagged_frame(to, kGuestA)
                                        : tagged_frame(to, kGuestA, static_cast<std::uint16_t>(c.ingress_tci)));
      const auto expected = c.egress_tci < 0 ? untagged_frame(to, kGuestA)
                                             : tagged_frame(to, kGuestA, static_cast<std::uint16_t>(c.egress_tci));
      ASSERT_EQ(host.sent(to_tunnel ? 0 : 2).size(), 1u);
      EXPECT_EQ(hex(to_tunnel ? inner_of(host.sent(0)[0]) : host.sent(2)[0]), hex(expected));
    }
}

TEST(Vlan, MembershipIsCheckedOnTheWayInAndOut) {
  TestHost host;
  host.learn_all(5);
  host.set_vlans(1, vlans(1, 10, 20));
  host.receive(1, tagged_frame(kGuestB, kGuestA, 5));
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 1u);
  EXPECT_EQ(host.counters().ports[1].rx_dropped, 1u);
  host.set_vlans(1, vlans(1, 5, 5));
  host.set_vlans(2, vlans(1, 10, 20));
  host.receive(1, tagged_frame(kGuestB, kGuestA, 5));
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 2u);
  EXPECT_EQ(host.counters().ports[2].tx_dropped, 1u);
  host.receive(1, tagged_frame(kGuestB, kGuestA, 4095));
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 3u);
}

TEST(Vlan, WithoutPvidUntaggedAndPriorityTaggedFramesAreDropped) {
  TestHost host;
  host.set_vlans(1, vlans(kNoPvid, 2, 4094));
  host.receive(1, {untagged_frame(kGuestB, kGuestA), tagged_frame(kGuestB, kGuestA, 0xe000)});
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 2u);
}

TEST(Vlan, TunnelMembershipIsCheckedBothWays) {
  TestHost host;
  host.learn_all(5);
  host.state.overlays[0].tunnel_vlans = std::make_shared<const VlanTable>(vlans(1, 10, 20));
  host.receive(1, tagged_frame(kFar, kGuestA, 5));
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 1u);
  EXPECT_EQ(host.counters().ports[0].tx_dropped, 1u);
  host.receive(0, from_vtep0(tagged_frame(kGuestA, kFar, 5)));
  EXPECT_EQ(host.drops(DropReason::kVlanNotMember), 2u);
}

TEST(Vlan, SameMacInTwoVlansIsTwoEntries) {
  TestHost host;
  host.learn(kGuestB, Location::port(2), 0, 10);
  host.learn(kGuestB, Location::port(3), 0, 20);
  host.receive(1, {tagged_frame(kGuestB, kGuestA, 10), tagged_frame(kGuestB, kGuestA, 20)});
  EXPECT_EQ(host.sent(2), std::vector<Bytes>{tagged_frame(kGuestB, kGuestA, 10)});
  EXPECT_EQ(host.sent(3), std::vector<Bytes>{tagged_frame(kGuestB, kGuestA, 20)});
}

TEST(Vlan, ServiceTaggedFramesArePayloadOfThePvid) {
  TestHost host;
  host.learn_all();
  FrameBuilder b;
  b.eth(kGuestB, kGuestA).service_vlan(500).vlan(10).payload(40);
  host.receive(1, b.build());
  EXPECT_EQ(host.sent(2), std::vector<Bytes>{b.build()});
}

// ---- learning ----

TEST(Learning, NewSourceIsToldOnceAndFloodsOn) {
  TestHost host;
  const auto frame = guest_frame(kNobody, kGuestA).build();
  host.receive(1, {frame, frame, frame});
  const auto events = host.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, LearnKind::kMac);
  EXPECT_EQ(events[0].key, fdb_key(1, kGuestA));
  EXPECT_EQ(events[0].location, Location::port(1).raw());
  EXPECT_EQ(events[0].overlay, 0);
  EXPECT_TRUE(host.pipeline.take_news());
  EXPECT_FALSE(host.pipeline.take_news());
  EXPECT_EQ(host.counters().learn_events, 1u);
  host.now = Moment::at(host.now.ns + 150'000'000);
  host.receive(1, frame);
  EXPECT_EQ(host.events().size(), 1u) << "control may have missed it: told again";
}

TEST(Learning, SourcesBehindVtepsAreToldWithTheirVtep) {
  TestHost host;
  host.receive(0, from_vtep0(guest_frame(kGuestA, kFar).build()));
  const auto events = host.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].location, Location::vtep(0).raw());
}

TEST(Learning, UnknownVtepIsToldWithTheMacBehindIt) {
  TestHost host;
  host.state.overlays[0].accept_unknown_vteps = true;
  const IpAddress stranger = IpAddress::v4(172, 18, 1, 99);
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv4(stranger, kLocal4).udp(55555, 4789).vxlan(1000).raw(guest_frame(kGuestA, kNobody).build());
  host.receive(0, b.build());
  const auto events = host.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, LearnKind::kVtep);
  EXPECT_EQ(events[0].address, stranger);
  EXPECT_EQ(events[1].kind, LearnKind::kMac);
  EXPECT_EQ(events[1].address, stranger);
  EXPECT_EQ(events[1].location, kNoIndex);
  EXPECT_EQ(host.sent(1).size() + host.sent(2).size() + host.sent(3).size(), 3u) << "flooded to the ports";
  EXPECT_TRUE(host.sent(0).empty()) << "split horizon holds for unknown VTEPs too";
}

TEST(Learning, ActivityIsNotedByReceivedAndSentFramesOncePerSecond) {
  TestHost host;
  host.learn_all();
  host.now = Moment::at(107'000'000'000);
  host.receive(1, guest_frame(kGuestB, kGuestA).build());
  auto a = host.fdb().find(fdb_key(1, kGuestA));
  auto b = host.fdb().find(fdb_key(1, kGuestB));
  EXPECT_EQ(a.value.updated(), 107);
  EXPECT_EQ(a.value.used(), 100);
  EXPECT_EQ(b.value.updated(), 100) << "only received frames refresh";
  EXPECT_EQ(b.value.used(), 107);
}

TEST(Learning, SwitchedOffLearnsNothing) {
  TestHost host;
  host.state.ports[1].learning = false;
  host.receive(1, guest_frame(kNobody, kGuestA).build());
  host.state.overlays[0].learning = false;
  host.receive(0, from_vtep0(guest_frame(kNobody, kFar).build()));
  EXPECT_TRUE(host.events().empty());
}

TEST(Learning, MovedSourceStopsTheOldPlaceAtOnceAndOneFrameIsEnough) {
  TestHost host;
  host.learn_all();
  host.receive(3, untagged_frame(kBroadcast, kGuestA));  // A was on port 1: a gratuitous ARP after a migration
  const auto events = host.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].location, Location::port(3).raw());
  const auto flooded_before = host.sent(3).size();
  host.receive(2, guest_frame(kGuestA, kGuestB).build());
  EXPECT_EQ(host.sent(3).size(), flooded_before + 1) << "flooded: the new place is reached before control answers";
  EXPECT_EQ(host.dropped(), 0u);
  host.learn(kGuestA, Location::port(3));  // control's answer
  host.receive(2, guest_frame(kGuestA, kGuestB).build());
  EXPECT_EQ(host.sent(3).size(), flooded_before + 2);
  EXPECT_EQ(host.sent(1).size(), 2u) << "the broadcast and the one flooded frame, nothing since";
}

TEST(Learning, MoveFromTunnelToPortAndBackIsToldEachTime) {
  TestHost host;
  host.learn_all();
  host.receive(2, untagged_frame(kBroadcast, kFar));
  auto events = host.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].location, Location::port(2).raw());
  host.learn(kFar, Location::port(2));
  host.receive(0, from_vtep0(untagged_frame(kBroadcast, kFar)));
  events = host.events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].location, Location::vtep(0).raw());
}

TEST(Learning, StaticAndStickySourcesInTheWrongPlaceAreDroppedAndTold) {
  for (const std::uint8_t flags : {std::uint8_t{FdbValue::kStatic}, std::uint8_t{FdbValue::kSticky},
                                   std::uint8_t{FdbValue::kStatic | FdbValue::kBlackhole}}) {
    TestHost host;
    host.learn(kGuestA, (flags & FdbValue::kBlackhole) != 0 ? Location() : Location::port(1), flags);
    host.learn(kGuestB, Location::port(2));
    host.receive(3, guest_frame(kGuestB, kGuestA).build());
    EXPECT_EQ(host.drops(DropReason::kSmacMovedStatic), 1u);
    const auto events = host.events();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].kind, LearnKind::kViolation);
    host.receive(2, guest_frame(kGuestA, kGuestB).build());
    if (flags == FdbValue::kStatic || flags == FdbValue::kSticky) {
      EXPECT_EQ(host.sent(1).size(), 1u) << "still where it was";
    }
  }
}

TEST(Learning, FloodOfRandomMacsIsRateLimitedAndMovesStillPass) {
  TestHost host;
  host.learn_all();
  SpscQueue<protocol::LearnEvent> queue(1024);
  Pipeline pipeline({1000, 64}, host.pool, queue, host.punt_queue);
  pipeline.use(&host.state, &host.assignment);
  for (unsigned i = 0; i < 500; ++i) {
    Packet packet = host.pool.receive(guest_frame(kGuestB, mac(0x0a0000000000 + i)).build());
    pipeline.process(&packet, 1, 1, host.now);
  }
  EXPECT_EQ(pipeline.counters().learn_events, 16u) << "a quarter of the queue at once";
  EXPECT_EQ(pipeline.counters().learn_events_lost, 500u - 16);
  Packet moved = host.pool.receive(guest_frame(kGuestB, kGuestA).build());
  pipeline.process(&moved, 1, 3, host.now);
  EXPECT_EQ(pipeline.counters().learn_events, 17u);
  EXPECT_EQ(host.sent(2).size(), 501u) << "not one known destination suffered";
  EXPECT_TRUE(totals_of(pipeline.counters()).balances());
}

// ---- flooding ----

TEST(Flood, GoesToMemberPortsAndEveryVtepOfTheListButNotBack) {
  TestHost host;
  host.set_vlans(3, vlans(7, 7, 7));
  host.set_vteps({host.make_vtep(kRemote4, true), host.make_vtep(kOther4, true),
                  host.make_vtep(IpAddress::v4(172, 18, 1, 4), false)});
  const auto frame = untagged_frame(kBroadcast, kGuestA);
  host.receive(1, frame);
  EXPECT_TRUE(host.sent(1).empty());
  EXPECT_EQ(host.sent(2), std::vector<Bytes>{frame});
  EXPECT_TRUE(host.sent(3).empty()) << "not a member";
  ASSERT_EQ(host.sent(0).size(), 2u);
  EXPECT_EQ(std::memcmp(&host.sent(0)[0][30], kRemote4.v4_bytes(), 4), 0);
  EXPECT_EQ(std::memcmp(&host.sent(0)[1][30], kOther4.v4_bytes(), 4), 0);
  EXPECT_EQ(inner_of(host.sent(0)[1]), frame);
  EXPECT_EQ(host.counters().cloned, 2u);
}

TEST(Flood, UnknownUnicastAndMulticastFloodToo) {
  TestHost host;
  host.receive(1, {untagged_frame(kNobody, kGuestA), untagged_frame(mac(0x3333000000fb), kGuestA)});
  EXPECT_EQ(host.sent(2).size(), 2u);
  EXPECT_EQ(host.sent(3).size(), 2u);
  EXPECT_EQ(host.sent(0).size(), 2u);
}

TEST(Flood, FromTheTunnelGoesToPortsOnly) {
  TestHost host;
  host.receive(0, from_vtep0(untagged_frame(kBroadcast, kFar)));
  EXPECT_TRUE(host.sent(0).empty());
  EXPECT_EQ(host.sent(1).size() + host.sent(2).size() + host.sent(3).size(), 3u);
}

TEST(Flood, EachEgressGetsItsOwnTag) {
  TestHost host;
  host.set_vlans(1, vlans(100, 100, 100));
  host.set_vlans(2, vlans(1, 2, 4094));
  host.set_vlans(3, vlans(100, 100, 100));
  for (const bool is_tagged : {false, true}) {
    host.receive(1, is_tagged ? tagged_frame(kBroadcast, kGuestA, 0x6000 | 100) : untagged_frame(kBroadcast, kGuestA));
    const std::uint16_t tci = is_tagged ? 0x6000 | 100 : 100;
    EXPECT_EQ(hex(host.sent(2).back()), hex(tagged_frame(kBroadcast, kGuestA, tci)));
    EXPECT_EQ(hex(host.sent(3).back()), hex(untagged_frame(kBroadcast, kGuestA)));
    EXPECT_EQ(hex(inner_of(host.sent(0).back())), hex(tagged_frame(kBroadcast, kGuestA, tci)));
  }
}

TEST(Flood, WithoutTargetIsCounted) {
  TestHost host;
  host.set_vteps({});
  host.set_vlans(2, vlans(7, 7, 7));
  host.set_vlans(3, vlans(7, 7, 7));
  host.receive(1, untagged_frame(kBroadcast, kGuestA));
  EXPECT_EQ(host.drops(DropReason::kNoFloodTarget), 1u);
}

TEST(Flood, PortsThatAreDownAreNoTargets) {
  TestHost host;
  host.state.ports[2].is_up = false;
  host.receive(1, untagged_frame(kBroadcast, kGuestA));
  EXPECT_TRUE(host.sent(2).empty());
  EXPECT_EQ(host.sent(3).size(), 1u);
  EXPECT_EQ(host.dropped(), 0u);
}

TEST(Flood, StormLimitHoldsPerPortAndSparesKnownUnicast) {
  TestHost host;
  host.learn_all();
  host.state.ports[1].storm_pps = 100;
  host.state.ports[1].storm = std::make_shared<SharedTokenBucket>();
  const std::vector<Bytes> burst(64, untagged_frame(kBroadcast, kGuestA));
  for (unsigned ms = 0; ms < 1000; ++ms) {
    host.now = Moment::at(200'000'000'000 + ms * 1'000'000);
    host.receive(1, burst);
  }
  EXPECT_GE(host.sent(2).size(), 100u);
  EXPECT_LE(host.sent(2).size(), 110u) << "100 and what may come at once";
  EXPECT_EQ(host.drops(DropReason::kStormLimit), 64000 - host.sent(2).size());
  const auto before = host.sent(2).size();
  host.receive(1, guest_frame(kGuestB, kGuestA).build());
  host.receive(3, untagged_frame(kBroadcast, kNobody));
  EXPECT_EQ(host.sent(2).size(), before + 2) << "known unicast and other ports are not limited";
}

TEST(Flood, ToManyTargetsEarlyFlushesWhenSideDescriptorsRunOut) {
  TestHost host;
  std::vector<Vtep> vteps;
  for (std::uint8_t i = 0; i < 100; ++i) vteps.push_back(host.make_vtep(IpAddress::v4(10, 9, 0, i), true));
  host.set_vteps(vteps);
  host.receive(1, std::vector<Bytes>(64, untagged_frame(kBroadcast, kGuestA)));
  EXPECT_EQ(host.sent(0).size(), 6400u);
  EXPECT_EQ(host.sent(2).size(), 64u);
  EXPECT_EQ(host.counters().cloned, 64u * 101);
  EXPECT_EQ(host.dropped(), 0u);
}

// ---- MTU ----

struct MtuCase {
  bool from_tunnel, to_tunnel, is_v6, is_tagged;
};
TEST(Mtu, OverlayMtuHoldsEverywhereTaggedOrNot) {
  for (const bool is_v6 : {false, true})
    for (const bool is_tagged : {false, true})
      for (const int way : {0, 1, 2})  // port to port, into the tunnel, out of it
        for (const std::size_t bytes : {1331u, 1332u, 1333u, 1336u, 1337u}) {
          TestHost host;
          const std::uint16_t vid = is_tagged ? 10 : 1;
          host.learn_all(vid);
          FrameBuilder b;
          b.eth(way == 0 ? kGuestB : way == 1 ? kFar : kGuestA, way == 2 ? kFar : kGuestA);
          if (is_tagged) b.vlan(vid);
          if (is_v6)
            b.ipv6(v6(7), v6(8)).udp(1, 2).layer3_bytes(bytes);
          else
            b.ipv4(kLocal4, kRemote4).udp(1, 2).layer3_bytes(bytes);
          host.receive(way == 2 ? 0 : 1, way == 2 ? from_vtep0(b.build()) : b.build());
          const bool passes = bytes <= 1332;
          EXPECT_EQ(host.drops(DropReason::kMtuExceeded), passes ? 0u : 1u) << bytes << " way " << way;
          EXPECT_EQ(host.sent(way == 0 ? 2 : way == 1 ? 0 : 1).size(), passes ? 1u : 0u) << bytes << " way " << way;
        }
}

TEST(Mtu, SecondTagDoesNotCountAsLayer3) {
  TestHost host;
  host.learn_all(10);
  FrameBuilder fits, too_long;
  fits.eth(kGuestB, kGuestA).vlan(10).vlan(20).payload(1332);
  too_long.eth(kGuestB, kGuestA).vlan(10).vlan(20).payload(1333);
  host.receive(1, {fits.build(), too_long.build()});
  EXPECT_EQ(host.sent(2).size(), 1u);
  EXPECT_EQ(host.drops(DropReason::kMtuExceeded), 1u);
}

TEST(Mtu, FloodedFramesObeyItToo) {
  TestHost host;
  host.receive(1, untagged_frame(kBroadcast, kGuestA, 1333));
  EXPECT_EQ(host.drops(DropReason::kMtuExceeded), 1u);
  EXPECT_EQ(host.counters().cloned, 0u);
}

TEST(Mtu, UnderlayMtuIsCountedAtTheUnderlay) {
  TestHost host;
  host.learn_all();
  host.state.overlays[0].mtu = 1500;
  host.receive(1, untagged_frame(kFar, kGuestA, 1351));
  EXPECT_EQ(host.drops(DropReason::kUnderlayMtuExceeded), 1u);
  EXPECT_EQ(host.counters().ports[0].tx_dropped, 1u);
}

// ---- the remaining reasons ----

TEST(Drops, EveryOuterReasonIsCountedAtTheUnderlay) {
  TestHost host;
  host.learn_all();
  const auto inner = guest_frame(kGuestA, kFar).build();
  auto bad_checksum = from_vtep0(inner);
  bad_checksum[24] ^= 1;
  FrameBuilder own, fragment, flags, stranger;
  own.eth(kOurMac, kPeerMac).ipv4(kLocal4, kLocal4).udp(5, 4789).vxlan(1000).raw(inner);
  fragment.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).fragment(kIpv4MoreFragments).udp(5, 4789).vxlan(1000).raw(inner);
  flags.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).udp(5, 4789).vxlan(1000, 0).raw(inner);
  stranger.eth(kOurMac, kPeerMac).ipv4(IpAddress::v4(9, 9, 9, 9), kLocal4).udp(5, 4789).vxlan(1000).raw(inner);
  FrameBuilder elsewhere;
  elsewhere.eth(kOurMac, kPeerMac).ipv4(kRemote4, kOther4).udp(5, 4789).vxlan(1000).raw(inner);
  host.receive(0, {Bytes(20), bad_checksum, elsewhere.build(), own.build(), fragment.build(), flags.build(),
                   outer4(0, 5).raw(inner).build(), stranger.build(), outer4().payload(5).build(),
                   from_vtep0(guest_frame(kGuestA, kFar).build(), kCe), from_vtep0(inner)});
  // Of the all-zero 20 bytes nothing is ours.
  EXPECT_EQ(host.drops(DropReason::kOuterNotForUs), 2u);
  for (const auto reason :
       {DropReason::kOuterBadChecksum, DropReason::kOuterOwnSource, DropReason::kOuterFragment, DropReason::kVxlanBadFlags,
        DropReason::kVxlanUnknownVni, DropReason::kVxlanUnknownVtep, DropReason::kInnerTruncated, DropReason::kEcnNotEct})
    EXPECT_EQ(host.drops(reason), 1u) << name(reason);
  EXPECT_EQ(host.counters().ports[0].rx_dropped, 10u);
  host.receive(0, Bytes(13));
  EXPECT_EQ(host.drops(DropReason::kOuterTruncated), 1u);
}

TEST(Drops, UnresolvedAndVanishedVtepsAreCounted) {
  TestHost host;
  host.learn_all();
  host.set_vteps({host.make_vtep(kRemote4, true, false)});
  host.receive(1, {guest_frame(kFar, kGuestA).build(), guest_frame(kFar2, kGuestA).build()});
  EXPECT_EQ(host.drops(DropReason::kUnderlayUnresolved), 2u);
  EXPECT_EQ(host.counters().ports[0].tx_dropped, 2u);
}

TEST(Drops, MissingHeadroomIsCounted) {
  TestHost host;
  host.learn_all();
  host.receive(1, {guest_frame(kFar, kGuestA).build()}, 49);
  EXPECT_EQ(host.drops(DropReason::kNoHeadroom), 1u);
  host.set_vlans(2, vlans(7, 1, 4094));
  host.receive(1, {guest_frame(kGuestB, kGuestA).build()}, 3);
  EXPECT_EQ(host.drops(DropReason::kNoHeadroom), 2u);
  EXPECT_EQ(host.counters().ports[2].tx_dropped, 1u);
}

TEST(Drops, FullEgressIsCountedAndBuffersComeBack) {
  TestHost host;
  host.learn_all();
  host.ports[2]->accept = 3;
  host.receive(1, std::vector<Bytes>(10, guest_frame(kGuestB, kGuestA).build()));
  EXPECT_EQ(host.drops(DropReason::kTxFull), 7u);
  EXPECT_EQ(host.counters().ports[2].tx_dropped, 7u);
  EXPECT_EQ(host.counters().ports[2].tx_packets, 3u);
  EXPECT_EQ(host.counters().ports[2].tx_bytes, 3 * guest_frame(kGuestB, kGuestA).build().size());
}

TEST(Drops, FrameThatThePortRefusesIsCountedByItsReasonAndTheNextPass) {
  TestHost host;
  host.learn_all();
  const auto fine = guest_frame(kGuestB, kGuestA).build();
  auto refused = fine;
  refused.resize(fine.size() + 7);
  host.ports[2]->refuse_length = static_cast<std::uint32_t>(refused.size());
  host.receive(1, std::vector<Bytes>{refused, fine, refused, refused, fine, refused});
  EXPECT_EQ(host.drops(DropReason::kPortDown), 4u);
  EXPECT_EQ(host.drops(DropReason::kTxFull), 0u);
  EXPECT_EQ(host.counters().ports[2].tx_packets, 2u);
  EXPECT_EQ(host.counters().ports[2].tx_bytes, 2 * fine.size());
}

TEST(Drops, EgressThatIsDownOrGoneIsCounted) {
  TestHost host;
  host.learn_all();
  host.state.ports[2].is_up = false;
  host.receive(1, guest_frame(kGuestB, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 1u);
  host.state.ports[2] = PortState{};
  host.receive(1, guest_frame(kGuestB, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 2u);
  host.state.underlay.port = kNoIndex;
  host.receive(1, guest_frame(kFar, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 3u);
  host.learn(kNobody, Location::port(999));
  host.receive(1, guest_frame(kNobody, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 4u);
  host.state.ports[1].overlay = kNoIndex;
  host.receive(1, guest_frame(kFar, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 5u);
  host.has_state = false;
  host.pipeline.use(nullptr, nullptr);
  host.receive(1, guest_frame(kFar, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 6u);
}

TEST(Drops, PortOfAnotherOverlayIsNoEgress) {
  TestHost host;
  host.learn_all();
  host.state.overlays.push_back(host.state.overlays[0]);
  host.state.ports[2].overlay = 1;
  host.receive(1, guest_frame(kGuestB, kGuestA).build());
  EXPECT_EQ(host.drops(DropReason::kPortDown), 1u);
}

TEST(Drops, EmptyPoolIsCountedPerMissingCopy) {
  TestHost host;
  host.pool.fail_from(1);
  host.receive(1, untagged_frame(kBroadcast, kGuestA));  // three targets: two copies fail, the original goes out
  EXPECT_EQ(host.drops(DropReason::kNoBuffer), 2u);
  EXPECT_EQ(host.counters().cloned, 2u);
  EXPECT_EQ(host.sent(0).size(), 1u);
}

// ---- several overlays, netdev mode, injection ----

TEST(Overlays, OneBurstMayCarrySeveralAndTheyDoNotMix) {
  TestHost host;
  OverlayState second = host.state.overlays[0];
  second.vni = 2000;
  second.fdb = std::make_shared<Fdb>(64, 1);
  second.ports = {3};
  host.state.overlays[0].ports = {1, 2};
  host.state.overlays.push_back(std::move(second));
  host.state.ports[3].overlay = 1;
  const auto first = untagged_frame(kBroadcast, kFar, 20), other = untagged_frame(kBroadcast, kFar, 21);
  host.receive(0, {from_vtep0(first), outer4(0, 2000).raw(other).build(), from_vtep0(first)});
  EXPECT_EQ(host.sent(1), (std::vector<Bytes>{first, first}));
  EXPECT_EQ(host.sent(3), std::vector<Bytes>{other});
  const auto events = host.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].overlay, 1);
}

TEST(NetdevMode, TunnelFramesGoToTheUplinkWithoutLookupAndItsFramesUseRemoteEntries) {
  TestHost host;
  OverlayState& overlay = host.state.overlays[0];
  overlay.uplink = 1;
  overlay.ports = {1};
  host.state.ports[1].learning = false;
  host.learn(kFar, Location::vtep(0));
  host.learn(kFar2, Location::vtep(1));
  const auto to_anyone = guest_frame(kNobody, kFar).build(), to_far2 = guest_frame(kFar2, kFar).build();
  host.receive(0, {from_vtep0(to_anyone), from_vtep0(to_far2)});
  EXPECT_EQ(host.sent(1), (std::vector<Bytes>{to_anyone, to_far2}));
  EXPECT_TRUE(host.sent(0).empty());
  host.receive(1, {guest_frame(kFar2, kGuestA).build(), guest_frame(kNobody, kGuestA).build()});
  ASSERT_EQ(host.sent(0).size(), 2u);
  EXPECT_EQ(std::memcmp(&host.sent(0)[0][30], kOther4.v4_bytes(), 4), 0);
  EXPECT_EQ(std::memcmp(&host.sent(0)[1][30], kRemote4.v4_bytes(), 4), 0) << "unknown: to the flood list";
  EXPECT_TRUE(host.events().empty());
}

TEST(Generate, InjectedFrameLeavesByItsPortAndTheUnderlayTagIsPushed) {
  TestHost host(false, 4003);
  const auto frame = untagged_frame(kBroadcast, kOurMac);
  host.pipeline.generate(0, frame);
  host.pipeline.generate(2, frame);
  host.pipeline.generate(999, frame);
  EXPECT_EQ(host.sent(0), std::vector<Bytes>{tagged_frame(kBroadcast, kOurMac, 4003)});
  EXPECT_EQ(host.sent(2), std::vector<Bytes>{frame});
  EXPECT_EQ(host.counters().generated, 3u);
  EXPECT_EQ(host.drops(DropReason::kPortDown), 1u);
  host.pool.fail_from(1);
  host.pipeline.generate(0, frame);
  EXPECT_EQ(host.drops(DropReason::kNoBuffer), 1u);
  EXPECT_TRUE(totals_of(host.counters()).balances());
}

}  // namespace
}  // namespace vx
