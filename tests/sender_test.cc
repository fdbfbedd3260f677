// SPDX-License-Identifier: Apache-2.0
// The way out: what ports do not take as metadata is completed or segmented, TCP from the tunnel is coalesced, senders of what
// is too big are told. Conservation and the return of every buffer are checked after each burst.
#include "dataplane/sender.h"

#include "dataplane/pipeline.h"
#include "dataplane/probe_format.h"
#include "dataplane/unbundle.h"
#include "offload_testkit.h"

namespace vx {
namespace {

using namespace testkit;

constexpr TxOffloads kAll{true, true, true, true, false};

Bytes between(Bytes frame, MacAddress destination, MacAddress source) {
  std::memcpy(frame.data(), destination.bytes.data(), 6);
  std::memcpy(frame.data() + 6, source.bytes.data(), 6);
  return frame;
}
std::vector<Bytes> between(std::vector<Bytes> frames, MacAddress destination, MacAddress source) {
  for (auto& frame : frames) frame = between(std::move(frame), destination, source);
  return frames;
}
OffloadSpec tcp(bool is_v4 = true, std::size_t bytes = 4500, std::uint16_t segment = 1000) {
  OffloadSpec spec;
  spec.is_v4 = is_v4;
  spec.segment_size = segment;
  for (std::size_t i = 0; i < bytes; ++i) spec.payload.push_back(static_cast<std::uint8_t>(i * 7 + i / 256));
  return spec;
}

struct OffloadHost : TestHost {
  explicit OffloadHost(bool is_v6 = false) : TestHost(is_v6) { learn_all(); }
  // Received with metadata, in one burst.
  void receive_with(PortIndex port, const std::vector<Bytes>& frames, const OffloadMeta& meta) {
    std::vector<Packet> burst;
    for (const auto& frame : frames) {
      burst.push_back(pool.receive(frame));
      burst.back().offload = meta;
    }
    if (counters().held == 0) pipeline.use(&state, &assignment);
    process(burst, port);
  }
  void process(std::vector<Packet>& burst, PortIndex port) {
    pipeline.process(burst.data(), static_cast<unsigned>(burst.size()), port, now);
    EXPECT_TRUE(totals_of(counters()).balances());
    EXPECT_EQ(pool.live(), counters().held);
  }
  void receive_from_tunnel(const std::vector<Bytes>& inner) {
    std::vector<Bytes> outer;
    for (const auto& frame : inner) outer.push_back(outer4().raw(frame).build());
    receive_with(0, outer, {});
  }
  void pass(std::uint64_t ns) {
    now = Moment::at(now.ns + ns);
    if (pipeline.is_holding()) pipeline.send_held(now.ns);
    EXPECT_TRUE(totals_of(counters()).balances());
    EXPECT_EQ(pool.live(), counters().held);
  }
};

// The inner frames of what went to the underlay; every outer length and checksum is compared with a slow sum.
std::vector<Bytes> inner_of(const std::vector<Bytes>& outer, bool is_v6 = false) {
  std::vector<Bytes> all;
  for (const auto& frame : outer) {
    const std::size_t ip_bytes = is_v6 ? 40 : 20, udp = 14 + ip_bytes;
    EXPECT_EQ(be16(frame, udp + 4), frame.size() - udp);
    EXPECT_EQ(is_v6 ? be16(frame, 18) + 40u : be16(frame, 16), frame.size() - 14);
    if (!is_v6) {
      EXPECT_EQ(slow_sum(frame, 14, 34), 0xffff);
    }
    const std::size_t addresses = is_v6 ? 22 : 26;
    const std::uint32_t pseudo = slow_sum(frame, addresses, udp, 17 + static_cast<std::uint32_t>(frame.size() - udp));
    EXPECT_EQ(slow_sum(frame, udp, frame.size(), pseudo), 0xffff);
    all.emplace_back(frame.begin() + static_cast<std::ptrdiff_t>(udp + 16), frame.end());
  }
  return all;
}

// ---- segmentation ----

TEST(Sender, SuperFrameIntoTheTunnelBecomesEncapsulatedSegments) {
  for (const bool outer_v6 : {false, true}) {
    for (const bool inner_v4 : {true, false}) {
      OffloadHost host(outer_v6);
      const OffloadSpec spec = tcp(inner_v4);
      host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
      EXPECT_EQ(inner_of(host.sent(0), outer_v6), between(spec.segments(), kFar, kGuestA));
      EXPECT_EQ(host.counters().segmented, 4u);
      EXPECT_EQ(host.counters().ports[0].tx_packets, 5u);
      EXPECT_EQ(host.dropped(), 0u);
      const std::size_t source_port = outer_v6 ? 54 : 34;
      for (const auto& frame : host.sent(0)) EXPECT_EQ(be16(frame, source_port), be16(host.sent(0)[0], source_port));
    }
  }
}

TEST(Sender, SuperFrameIntoTheTunnelGetsTheTunnelsTag) {
  OffloadHost host;
  host.set_vlans(1, vlans(100, 100, 100));
  host.learn_all(100);
  OffloadSpec spec = tcp();
  host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
  const auto inner = inner_of(host.sent(0));
  auto expected = between(spec.segments(), kFar, kGuestA);
  for (auto& frame : expected) {
    const std::uint8_t tag[] = {0x81, 0, 0, 100};
    frame.insert(frame.begin() + 12, tag, tag + 4);
  }
  EXPECT_EQ(inner, expected);
}

TEST(Sender, SuperFrameOfMoreSegmentsThanAListAndASideHolds) {
  OffloadHost host;
  const OffloadSpec spec = tcp(true, 60'000, 100);
  host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
  EXPECT_EQ(inner_of(host.sent(0)), between(spec.segments(), kFar, kGuestA));
}

TEST(Sender, SuperFrameBetweenPortsThatTakeItStaysWhole) {
  OffloadHost host;
  host.ports[2]->offloads = kAll;
  const OffloadSpec spec = tcp(false, 60'000, 1272);
  host.receive_with(1, {between(spec.partial(), kGuestB, kGuestA)}, spec.meta());
  ASSERT_EQ(host.sent(2), (std::vector<Bytes>{between(spec.partial(), kGuestB, kGuestA)}));
  EXPECT_EQ(host.ports[2]->sent_offloads[0].gso_type, OffloadMeta::kGsoTcp6);
  EXPECT_EQ(host.counters().segmented, 0u);
}

TEST(Sender, SuperFrameToAPortWithoutOffloadsIsSegmented) {
  OffloadHost host;
  for (const bool is_tcp : {true, false}) {
    OffloadSpec spec = tcp();
    spec.is_tcp = is_tcp;
    host.ports[2]->sent.clear();
    host.receive_with(1, {between(spec.partial(), kGuestB, kGuestA)}, spec.meta());
    EXPECT_EQ(host.sent(2), between(spec.segments(), kGuestB, kGuestA));
  }
}

TEST(Sender, PartialChecksumIsCompletedOnlyWhereItMustBe) {
  OffloadHost host;
  host.ports[3]->offloads = kAll;
  host.learn(kNobody, Location::port(3));
  OffloadSpec spec = tcp(true, 100);
  OffloadMeta meta = spec.meta();
  meta.gso_type = OffloadMeta::kGsoNone;
  meta.segment_size = 0;
  host.receive_with(1, {between(spec.partial(), kGuestB, kGuestA), between(spec.partial(), kFar, kGuestA), between(spec.partial(), kNobody, kGuestA)}, meta);
  EXPECT_EQ(host.sent(2), (std::vector<Bytes>{between(spec.complete(), kGuestB, kGuestA)}));
  EXPECT_EQ(inner_of(host.sent(0)), (std::vector<Bytes>{between(spec.complete(), kFar, kGuestA)}));
  EXPECT_EQ(host.sent(3), (std::vector<Bytes>{between(spec.partial(), kNobody, kGuestA)}));
  EXPECT_TRUE(host.ports[3]->sent_offloads[0].needs_checksum());
}

TEST(Sender, MetadataThatContradictsTheFrameIsDropped) {
  OffloadHost host;
  host.ports[2]->offloads = kAll;
  const OffloadSpec spec = tcp();
  OffloadMeta outside = spec.meta(), unfinished;
  outside.checksum_start = 60'000;
  unfinished.flags = OffloadMeta::kNeedsChecksum;
  unfinished.checksum_start = 34;
  unfinished.checksum_offset = 60'000;
  for (const auto& to : {kGuestB, kFar}) {
    host.receive_with(1, {between(spec.partial(), to, kGuestA)}, outside);
    host.receive_with(1, {between(tcp(true, 100).partial(), to, kGuestA)}, unfinished);
  }
  EXPECT_EQ(host.drops(DropReason::kGuestBadOffload), 4u);
}

TEST(Sender, SegmentsWithoutABufferAreCounted) {
  OffloadHost host;
  const OffloadSpec spec = tcp();
  host.pool.fail_from(3);
  host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
  EXPECT_EQ(host.sent(0).size(), 2u);
  EXPECT_EQ(host.drops(DropReason::kNoBuffer), 3u);
}

TEST(Sender, SuperFrameIsFloodedToEachAsItTakesIt) {
  OffloadHost host;
  host.ports[2]->offloads = kAll;
  const OffloadSpec spec = tcp();
  const MacAddress unknown = mac(0x5254000000dd);
  host.receive_with(1, {between(spec.partial(), unknown, kGuestA)}, spec.meta());
  EXPECT_EQ(host.sent(2).size(), 1u);
  EXPECT_EQ(host.sent(3), between(spec.segments(), unknown, kGuestA));
  EXPECT_EQ(inner_of(host.sent(0)), between(spec.segments(), unknown, kGuestA));
}

TEST(Sender, TunnelOffloadTakesTheSuperFrameEncapsulated) {
  OffloadHost host;
  host.ports[0]->offloads.tunnel = true;
  const OffloadSpec spec = tcp();
  host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
  ASSERT_EQ(host.sent(0).size(), 1u);
  EXPECT_EQ(Bytes(host.sent(0)[0].begin() + 50, host.sent(0)[0].end()), between(spec.partial(), kFar, kGuestA));
  const OffloadMeta& meta = host.ports[0]->sent_offloads[0];
  EXPECT_EQ(meta.checksum_start, 50 + 34);
  EXPECT_EQ(meta.header_length, 50 + 54);
  EXPECT_EQ(meta.segment_size, 1000);
  EXPECT_EQ(host.counters().ports[0].tx_packets, 5u);
  EXPECT_EQ(host.counters().ports[0].tx_bytes, 4500u + 5 * 104);
  EXPECT_EQ(host.counters().segmented, 4u);
  host.ports[0]->accept = 0;
  host.receive_with(1, {between(spec.partial(), kFar, kGuestA)}, spec.meta());
  EXPECT_EQ(host.drops(DropReason::kTxFull), 1u);
  EXPECT_EQ(host.counters().segmented, 4u);
}

// ---- coalescing ----

TEST(Sender, SegmentsFromTheTunnelBecomeTheSuperFrameTheyWere) {
  for (const bool is_v4 : {true, false}) {
    OffloadHost host;
    host.ports[1]->offloads = kAll;
    const OffloadSpec spec = tcp(is_v4, 4500);  // the last one is shorter, which ends it
    host.receive_from_tunnel(between(spec.segments(), kGuestA, kFar));
    ASSERT_EQ(host.sent(1), (std::vector<Bytes>{between(spec.partial(), kGuestA, kFar)}));
    EXPECT_EQ(host.ports[1]->sent_offloads[0].gso_type, spec.meta().gso_type);
    EXPECT_EQ(host.ports[1]->sent_offloads[0].segment_size, 1000);
    EXPECT_EQ(host.counters().coalesced, 4u);
    EXPECT_EQ(host.counters().held, 0u);
  }
}

TEST(Sender, PortWithoutOffloadsGetsSegments) {
  OffloadHost host;
  const OffloadSpec spec = tcp();
  host.receive_from_tunnel(between(spec.segments(), kGuestA, kFar));
  EXPECT_EQ(host.sent(1), between(spec.segments(), kGuestA, kFar));
}

TEST(Sender, LoneSegmentIsNotHeld) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  host.receive_from_tunnel(between(tcp(true, 1000).segments(), kGuestA, kFar));
  EXPECT_EQ(host.sent(1).size(), 1u);
  EXPECT_EQ(host.counters().held, 0u);
}

TEST(Sender, OpenSuperFrameGrowsOverBurstsAndIsHeldForMicroseconds) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  const OffloadSpec spec = tcp(true, 6000);
  const auto segments = between(spec.segments(), kGuestA, kFar);
  host.receive_from_tunnel({segments[0], segments[1]});
  EXPECT_TRUE(host.sent(1).empty());
  EXPECT_EQ(host.counters().held, 1u);
  host.pass(kHoldGapNs - 1);
  host.receive_from_tunnel({segments[2]});
  host.pass(kHoldGapNs - 1);
  EXPECT_EQ(host.counters().held, 1u);
  host.receive_from_tunnel({segments[3], segments[4], segments[5]});
  host.pass(kHoldGapNs);
  EXPECT_EQ(host.sent(1), (std::vector<Bytes>{between(spec.partial(), kGuestA, kFar)}));
  EXPECT_EQ(host.counters().held, 0u);
}

TEST(Sender, HoldingHasAnEndHoweverManyFollow) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  const auto segments = between(tcp(true, 50'000).segments(), kGuestA, kFar);
  std::uint64_t waited = 0;
  for (std::size_t i = 0; i + 1 < segments.size() && host.sent(1).empty(); i += 2, waited += 5000) {
    host.receive_from_tunnel({segments[i], segments[i + 1]});
    host.pass(5000);
  }
  EXPECT_EQ(host.sent(1).size(), 1u);
  EXPECT_LE(waited, kHoldNs);
}

TEST(Sender, WhatCannotJoinLeavesBehindWhatWasHeld) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  OffloadSpec spec = tcp(true, 2000);
  const auto segments = between(spec.segments(), kGuestA, kFar);
  OffloadSpec fin = spec;
  fin.payload.clear();
  fin.sequence = 2001;
  fin.flags = 0x11;
  host.receive_from_tunnel(segments);
  host.receive_from_tunnel({between(fin.complete(), kGuestA, kFar)});
  EXPECT_EQ(host.sent(1), (std::vector<Bytes>{between(spec.partial(), kGuestA, kFar), between(fin.complete(), kGuestA, kFar)}));
}

TEST(Sender, WrongChecksumIsNeverRepaired) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  auto segments = between(tcp(true, 4000).segments(), kGuestA, kFar);
  segments[2].back() ^= 1;
  host.receive_from_tunnel(segments);
  host.pass(kHoldNs);
  bool seen = false;
  for (std::size_t i = 0; i < host.sent(1).size(); ++i)
    if (host.sent(1)[i] == segments[2]) seen = host.ports[1]->sent_offloads[i].is_plain();
  EXPECT_TRUE(seen) << "as it came, not part of a super-frame";
}

TEST(Sender, WithoutLargeBuffersSegmentsPassAsTheyAre) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  const auto segments = between(tcp(true, 2000).segments(), kGuestA, kFar);
  host.pool.large_fail_at(1);
  host.receive_from_tunnel(segments);
  EXPECT_EQ(host.sent(1), segments);
}

TEST(Sender, FlowsAreJoinedApart) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  OffloadSpec one = tcp(true, 4500), two = tcp(true, 4500);
  two.source_port = 40'001;
  const auto a = between(one.segments(), kGuestA, kFar), b = between(two.segments(), kGuestA, kFar);
  std::vector<Bytes> mixed;
  for (std::size_t i = 0; i < a.size(); ++i) mixed.insert(mixed.end(), {a[i], b[i]});
  host.receive_from_tunnel(mixed);
  host.pass(kHoldNs);
  std::set<Bytes> sent(host.sent(1).begin(), host.sent(1).end());
  EXPECT_EQ(sent, (std::set<Bytes>{between(one.partial(), kGuestA, kFar), between(two.partial(), kGuestA, kFar)}));
}

TEST(Sender, ChangeOfStateLosesNothingThatWasHeld) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  host.receive_from_tunnel(between(tcp(true, 2000).segments(), kGuestA, kFar));
  EXPECT_EQ(host.counters().held, 1u);
  host.pipeline.use(&host.state, &host.assignment);
  EXPECT_EQ(host.sent(1).size(), 1u);
  EXPECT_EQ(host.pool.live(), 0u);
}

// ---- bundles of the udp underlay ----

TEST(Sender, BundleIsTakenApartAndJoinedAgain) {
  OffloadHost host;
  host.ports[1]->offloads = kAll;
  const OffloadSpec spec = tcp(true, 4500);
  const auto segments = between(spec.segments(), kGuestA, kFar);
  Bytes bundle = outer4().raw(segments[0]).build();
  for (std::size_t i = 1; i < segments.size(); ++i) {
    const Bytes vxlan{8, 0, 0, 0, 0, 0x03, 0xe8, 0};
    bundle.insert(bundle.end(), vxlan.begin(), vxlan.end());
    bundle.insert(bundle.end(), segments[i].begin(), segments[i].end());
  }
  Packet packet = host.pool.receive(bundle);
  mark_bundle(packet, 34, static_cast<std::uint16_t>(8 + segments[0].size()));
  std::vector<Packet> burst{packet};
  host.pipeline.use(&host.state, &host.assignment);
  host.process(burst, 0);
  EXPECT_EQ(host.sent(1), (std::vector<Bytes>{between(spec.partial(), kGuestA, kFar)}));
  EXPECT_EQ(host.counters().ports[0].rx_packets, 5u);
}

// ---- too big ----

TEST(PacketTooBig, GuestIsToldOnItsPort) {
  OffloadHost host;
  OffloadSpec spec = tcp(true, 1400);
  host.receive_with(1, {between(spec.complete(), kFar, kGuestA)}, {});
  EXPECT_EQ(host.drops(DropReason::kMtuExceeded), 1u);
  ASSERT_EQ(host.sent(1).size(), 1u);
  const Bytes& told = host.sent(1)[0];
  EXPECT_EQ(told[34], 3);
  EXPECT_EQ(told[35], 4);
  EXPECT_EQ(be16(told, 40), 1332);
  EXPECT_EQ(host.counters().too_big_told, 1u);
  EXPECT_EQ(host.counters().generated, 1u);
}

TEST(PacketTooBig, SegmentsCountNotTheSuperFrame) {
  OffloadHost host;
  OffloadSpec fits = tcp(true, 10'000, 1292), over = tcp(true, 10'000, 1293);
  host.receive_with(1, {between(fits.partial(), kFar, kGuestA)}, fits.meta());
  EXPECT_EQ(host.dropped(), 0u);
  host.receive_with(1, {between(over.partial(), kFar, kGuestA)}, over.meta());
  EXPECT_EQ(host.drops(DropReason::kMtuExceeded), 1u);
  ASSERT_EQ(host.sent(1).size(), 1u);
  EXPECT_EQ(be16(host.sent(1)[0], 40), 1332);
}

TEST(PacketTooBig, RemoteGuestIsToldThroughTheTunnel) {
  OffloadHost host;
  host.state.overlays[0].mtu = 1280;
  host.receive_from_tunnel({between(tcp(true, 1260).complete(), kGuestA, kFar)});
  const auto inner = inner_of(host.sent(0));
  ASSERT_EQ(inner.size(), 1u);
  EXPECT_EQ(be16(inner[0], 40), 1280);
  EXPECT_EQ(Bytes(inner[0].begin(), inner[0].begin() + 6), Bytes(kFar.bytes.begin(), kFar.bytes.end()));
}

TEST(PacketTooBig, SmallerUnderlayIsWhatIsTold) {
  OffloadHost host;
  auto vtep = host.make_vtep(kRemote4, true);
  vtep.outer_mtu = 1300;
  host.set_vteps({vtep});
  host.receive_with(1, {between(tcp(true, 1240).complete(), kFar, kGuestA)}, {});
  EXPECT_EQ(host.drops(DropReason::kUnderlayMtuExceeded), 1u);
  ASSERT_EQ(host.sent(1).size(), 1u);
  EXPECT_EQ(be16(host.sent(1)[0], 40), 1250);
}

TEST(PacketTooBig, RateIsLimitedPerPort) {
  OffloadHost host;
  const auto frame = between(tcp(true, 1400).complete(), kFar, kGuestA);
  for (int i = 0; i < 30; ++i) host.receive_with(1, {frame}, {});
  EXPECT_EQ(host.counters().too_big_told, 10u);
  EXPECT_EQ(host.counters().too_big_limited, 20u);
  EXPECT_EQ(host.drops(DropReason::kMtuExceeded), 30u);
  host.pass(1'000'000'000);
  for (int i = 0; i < 5; ++i) host.receive_with(1, {frame}, {});
  EXPECT_EQ(host.counters().too_big_told, 15u);
}

// ---- mss-clamp, probes ----

TEST(MssClamp, SynIsClampedOnlyWhenWanted) {
  OffloadHost host;
  OffloadSpec syn = tcp(true, 0);
  syn.flags = 2;
  syn.options = {2, 4, 0x05, 0xb4};
  const Bytes frame = between(syn.complete(), kFar, kGuestA);
  host.receive_with(1, {frame}, {});
  EXPECT_EQ(inner_of(host.sent(0)).at(0), frame);
  host.state.overlays[0].mss_clamp = true;
  host.receive_with(1, {frame}, {});
  EXPECT_EQ(be16(inner_of(host.sent(0)).at(1), 56), 1292);
}

Bytes probe(ProbeKind kind, std::uint16_t length) {
  FrameBuilder b;
  b.eth(kProbeDestination, probe_source_mac(kRemote4)).payload(length - 14u);
  Bytes frame = b.build();
  const std::uint8_t head[] = {0x88, 0xb5, 'V', 'X', 'P', 'P', kProbeVersion, static_cast<std::uint8_t>(kind), static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length), 0, 0, 0, 7, 0, 0, 0, 9};
  std::copy(std::begin(head), std::end(head), frame.begin() + 12);
  return frame;
}

TEST(Probe, RequestFromTheTunnelIsAnsweredThere) {
  OffloadHost host;
  host.receive_from_tunnel({probe(ProbeKind::kRequest, 1350)});
  const auto inner = inner_of(host.sent(0));
  ASSERT_EQ(inner.size(), 1u);
  EXPECT_EQ(inner[0].size(), kProbeReplyBytes);
  EXPECT_EQ(host.dropped(), 0u);
  EXPECT_EQ(host.counters().consumed, 1u);
  for (PortIndex i = 1; i < 4; ++i) EXPECT_TRUE(host.sent(i).empty());
}

TEST(Probe, ReplyGoesToControlAndAGuestsProbeToNobody) {
  OffloadHost host;
  host.receive_from_tunnel({probe(ProbeKind::kReply, kProbeReplyBytes)});
  ASSERT_EQ(host.punted().size(), 1u);
  host.receive_with(1, {probe(ProbeKind::kRequest, 1350)}, {});
  EXPECT_EQ(host.drops(DropReason::kLinkLocal), 1u);
  EXPECT_TRUE(host.sent(0).empty());
}

}  // namespace
}  // namespace vx
