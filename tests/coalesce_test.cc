// SPDX-License-Identifier: Apache-2.0
// Coalescing: what segmentation cuts is joined to the same bytes again, against frames that scapy made, and the rules
// of the kernel's GRO one by one.
#include "dataplane/coalesce.h"

#include <gtest/gtest.h>

#include "dataplane/segment.h"
#include "offload_testkit.h"

namespace vx {
namespace {

using testkit::Bytes;
using testkit::from_hex;
using testkit::HeapPool;
using testkit::OffloadSpec;

struct Out {
  Bytes frame;
  OffloadMeta meta;
  unsigned segments = 1;
};

// The caller that coalesce.h describes, for one flow at a time. Frames lie in buffers of exactly their size.
class Coalescer {
 public:
  explicit Coalescer(std::uint32_t room = kMaxFrameBytes) : room_(room) {}
  ~Coalescer() { finish_open(); }

  void take(const Bytes& frame, const OffloadMeta& meta = {}) {
    Packet& packet = packets_.emplace_back(pool_.receive(frame, 0));
    packet.offload = meta;
    TcpSegment segment;
    if (!parse_tcp_segment(packet, segment)) return leave(packet, 1);
    if (flow_.head != nullptr && flow_.segment.flow == segment.flow && joins(packet, segment)) {
      pool_.give_back(packet.buffer);
      if (flow_.is_closed) finish_open();
      return;
    }
    finish_open();
    if (segment.may_start) flow_ = open_flow(packet, segment);
    else leave(packet, 1);
  }
  std::vector<Out> finish() {
    finish_open();
    return std::move(out_);
  }

 private:
  bool joins(const Packet& packet, const TcpSegment& segment) {
    if (!may_join(flow_, packet, segment)) return false;
    if (flow_.segments > 1) return join(flow_, packet, segment);
    Packet* head = flow_.head;
    Packet& large = packets_.emplace_back();
    large = receive_empty();
    const Packet before = large;
    if (!join_first(flow_, large, packet, segment)) {
      EXPECT_EQ(large.length, 0u);
      EXPECT_EQ(large.tailroom, before.tailroom);
      EXPECT_EQ(flow_.head, head);
      pool_.give_back(large.buffer);
      return false;
    }
    EXPECT_EQ(flow_.head, &large);
    EXPECT_EQ(large.buffer, before.buffer);
    EXPECT_EQ(large.headroom, before.headroom);
    EXPECT_EQ(large.length + large.tailroom, before.tailroom);
    pool_.give_back(head->buffer);
    return true;
  }
  Packet receive_empty() {
    Packet packet;
    if (room_ == kMaxFrameBytes) {
      EXPECT_EQ(pool_.allocate_large(&packet, 1), 1u);
    } else {
      packet = pool_.receive({}, 16, static_cast<std::uint16_t>(room_));
    }
    return packet;
  }
  void finish_open() {
    if (flow_.head == nullptr) return;
    vx::finish(flow_);
    leave(*flow_.head, flow_.segments);
    flow_ = {};
  }
  void leave(Packet& packet, unsigned segments) {
    out_.push_back({Bytes(packet.data, packet.data + packet.length), packet.offload, segments});
    pool_.give_back(packet.buffer);
  }

  std::uint32_t room_;
  HeapPool pool_;
  std::deque<Packet> packets_;
  OpenFlow flow_;
  std::vector<Out> out_;
};

std::vector<Out> coalesce(const std::vector<Bytes>& frames) {
  Coalescer coalescer;
  for (const Bytes& frame : frames) coalescer.take(frame);
  return coalescer.finish();
}
// How many segments each frame that leaves stands for; that those not joined are bytes that came.
std::vector<unsigned> joined(const std::vector<Bytes>& frames) {
  std::vector<unsigned> counts;
  std::size_t all = 0;
  for (const Out& out : coalesce(frames)) {
    counts.push_back(out.segments);
    all += out.segments;
    if (out.segments != 1) continue;
    EXPECT_NE(std::find(frames.begin(), frames.end(), out.frame), frames.end());
    EXPECT_TRUE(out.meta.is_plain());
  }
  EXPECT_EQ(all, frames.size());
  return counts;
}
using Counts = std::vector<unsigned>;

bool operator==(const OffloadMeta& a, const OffloadMeta& b) {
  return a.flags == b.flags && a.gso_type == b.gso_type && a.header_length == b.header_length &&
         a.segment_size == b.segment_size && a.checksum_start == b.checksum_start &&
         a.checksum_offset == b.checksum_offset;
}

OffloadSpec spec(bool is_v4 = true) {
  OffloadSpec s;
  s.is_v4 = is_v4;
  s.payload.assign(1000, 0x5a);
  return s;
}
// The segment behind one of spec(), valid, to be made wrong.
OffloadSpec next_of(const OffloadSpec& first) {
  OffloadSpec s = first;
  s.sequence += static_cast<std::uint32_t>(first.payload.size());
  s.id++;
  return s;
}
Counts joined(const OffloadSpec& first, const OffloadSpec& second) {
  return joined({first.complete(), second.complete()});
}

TEST(Coalesce, WhatScapyCutIsJoinedToWhatScapyHadWhole) {
  const auto out = coalesce({
      from_hex("525400aabb02525400aabb018100a06408004502003efffe40003f061da60a0102030a0908079c4001bbfffffff001020304"
               "80d001f5484400000101080a11223344556677884142434445464748494a"),
      from_hex("525400aabb02525400aabb018100a06408004502003effff40003f061da50a0102030a0908079c4001bbfffffffa01020304"
               "805001f5168800000101080a11223344556677884b4c4d4e4f5051525354"),
      from_hex("525400aabb02525400aabb018100a064080045020039000040003f061daa0a0102030a0908079c4001bb0000000401020304"
               "805901f59d5d00000101080a11223344556677885556575859"),
  });
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(testkit::hex(out[0].frame),
            testkit::hex(from_hex(
                "525400aabb02525400aabb018100a06408004502004dfffe40003f061d970a0102030a0908079c4001bbfffffff001020304"
                "80d901f51e5300000101080a11223344556677884142434445464748494a4b4c4d4e4f50515253545556575859")));
  const OffloadMeta& meta = out[0].meta;
  EXPECT_EQ(meta.flags, OffloadMeta::kNeedsChecksum);
  EXPECT_EQ(meta.gso_type, OffloadMeta::kGsoTcp4 | OffloadMeta::kGsoEcn);
  EXPECT_EQ(meta.header_length, 70);
  EXPECT_EQ(meta.segment_size, 10);
  EXPECT_EQ(meta.checksum_start, 38);
  EXPECT_EQ(meta.checksum_offset, 16);
}

// Any TCP super-frame that coalescing may make: no IP options or extension headers.
OffloadSpec random_joinable(std::mt19937& random, std::size_t payload_limit) {
  OffloadSpec s = testkit::random_super_frame(random, payload_limit);
  if (!s.is_tcp) s.flags = 0x10;
  s.is_tcp = true;
  s.ip_extra = 0;
  if (s.payload.size() <= s.segment_size) s.payload.resize(s.segment_size + 1u, 7);
  return s;
}

TEST(Coalesce, RoundTripThroughTheSegmenter) {
  std::mt19937 random(5);
  for (int i = 0; i < 1500; ++i) {
    const OffloadSpec s = random_joinable(random, i % 20 == 0 ? 65'535 - 120 : 6000);
    const Bytes whole = s.partial();
    HeapPool pool;
    Packet super = pool.receive(whole, 0);
    super.offload = s.meta();
    SuperFrame at;
    ASSERT_EQ(parse_super_frame(super, at), DropReason::kNone);
    const Segmenter segmenter(super, at);
    Coalescer coalescer;
    for (unsigned n = 0; n < segmenter.count(); ++n) {
      Packet segment = pool.receive({}, 0, static_cast<std::uint16_t>(segmenter.longest()));
      (void)segmenter.make(n, segment);
      coalescer.take(Bytes(segment.data, segment.data + segment.length));
      pool.give_back(segment.buffer);
    }
    pool.give_back(super.buffer);
    const auto out = coalescer.finish();
    ASSERT_EQ(out.size(), 1u) << i;
    EXPECT_EQ(out[0].segments, segmenter.count());
    ASSERT_EQ(out[0].frame, whole) << i;
    EXPECT_TRUE(out[0].meta == s.meta()) << i;
  }
}

TEST(Coalesce, SequenceAndIdWrap) {
  OffloadSpec s = spec();
  s.sequence = 0xffffff00;
  s.id = 0xffff;
  s.payload.resize(3000, 1);
  const auto out = coalesce(s.segments());
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].frame, s.partial());
}

TEST(Coalesce, LoneSegmentIsLeftAsItWas) {
  EXPECT_EQ(joined({spec().complete()}), (Counts{1}));
  Bytes padded = spec().complete();
  padded.resize(padded.size() + 3, 0xcc);
  EXPECT_EQ(joined({padded}), (Counts{1}));
}

TEST(Coalesce, ShorterSegmentIsTheLast) {
  OffloadSpec s = spec();
  s.payload.resize(2500, 1);
  auto frames = s.segments();
  OffloadSpec more = spec();
  more.sequence = s.sequence + 2500;
  more.id = static_cast<std::uint16_t>(s.id + 3);
  frames.push_back(more.complete());
  EXPECT_EQ(joined(frames), (Counts{3, 1}));
}

TEST(Coalesce, LongerSegmentDoesNotJoin) {
  OffloadSpec longer = next_of(spec());
  longer.payload.push_back(1);
  EXPECT_EQ(joined(spec(), longer), (Counts{1, 1}));
}

TEST(Coalesce, PshOrFinJoinsAsTheLast) {
  for (const std::uint8_t flag : {0x08, 0x01, 0x09}) {
    OffloadSpec last = next_of(spec());
    last.flags |= flag;
    const OffloadSpec after = next_of(last);
    const auto frames = std::vector<Bytes>{spec().complete(), last.complete(), after.complete()};
    EXPECT_EQ(joined(frames), (Counts{2, 1}));
    EXPECT_EQ(coalesce(frames)[0].frame.at(34 + 13), 0x10 | flag);
    EXPECT_EQ(joined({last.complete(), after.complete()}), (Counts{1, 1})) << "nothing follows it";
  }
}

TEST(Coalesce, SynRstUrgNeverJoinNorStart) {
  for (const std::uint8_t flag : {0x02, 0x04, 0x20}) {
    OffloadSpec first = spec(), second = next_of(first);
    second.flags |= flag;
    EXPECT_EQ(joined(first, second), (Counts{1, 1}));
    first.flags |= flag;
    EXPECT_EQ(joined(first, second), (Counts{1, 1}));
  }
}

TEST(Coalesce, CwrMayBeOnTheFirstOnly) {
  OffloadSpec first = spec(), second = next_of(first);
  first.flags |= 0x80;
  EXPECT_EQ(joined(first, second), (Counts{2}));
  second.flags |= 0x80;
  EXPECT_EQ(joined(first, second), (Counts{1, 1}));
  EXPECT_EQ(joined(spec(), second), (Counts{1, 1}));
}

TEST(Coalesce, PureAckEndsWhatIsOpen) {
  OffloadSpec ack = next_of(spec());
  ack.payload.clear();
  OffloadSpec third = next_of(spec());
  EXPECT_EQ(joined({spec().complete(), ack.complete(), third.complete()}), (Counts{1, 1, 1}));
}

TEST(Coalesce, GapOverlapAndRepetitionDoNotJoin) {
  for (const int by : {1, -1, -1000, 1000}) {
    OffloadSpec second = next_of(spec());
    second.sequence += static_cast<std::uint32_t>(by);
    EXPECT_EQ(joined(spec(), second), (Counts{1, 1})) << by;
  }
}

TEST(Coalesce, EveryOtherHeaderFieldMustBeTheSame) {
  using Change = void (*)(OffloadSpec&);
  const struct {
    const char* what;
    Change change;
  } kChanges[] = {
      {"acknowledgment", [](OffloadSpec& s) { s.acknowledgment++; }},
      {"window", [](OffloadSpec& s) { s.window++; }},
      {"ECE", [](OffloadSpec& s) { s.flags ^= 0x40; }},
      {"ACK", [](OffloadSpec& s) { s.flags ^= 0x10; }},
      {"source port", [](OffloadSpec& s) { s.source_port++; }},
      {"TOS", [](OffloadSpec& s) { s.tos = 3; }},
      {"TTL", [](OffloadSpec& s) { s.ttl--; }},
      {"options' bytes", [](OffloadSpec& s) { s.options[7]++; }},
      {"options' length", [](OffloadSpec& s) { s.options.resize(16, 1); }},
      {"no options", [](OffloadSpec& s) { s.options.clear(); }},
      {"family", [](OffloadSpec& s) { s.is_v4 = !s.is_v4; }},
      {"tag", [](OffloadSpec& s) { s.tags = 2; }},
      {"no tag", [](OffloadSpec& s) { s.tags = 0; }},
      {"flow label or DF", [](OffloadSpec& s) { s.flow_label = 1; s.dont_fragment = false; }},
  };
  for (const bool is_v4 : {true, false}) {
    OffloadSpec first = spec(is_v4);
    first.options = Bytes{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8};
    first.tags = 1;
    EXPECT_EQ(joined(first, next_of(first)), (Counts{2})) << is_v4;
    for (const auto& change : kChanges) {
      OffloadSpec second = next_of(first);
      change.change(second);
      EXPECT_EQ(joined(first, second), (Counts{1, 1})) << is_v4 << ' ' << change.what;
    }
    for (std::size_t byte = 0; byte < 18; ++byte) {  // MACs, TPID, TCI, type
      Bytes second = next_of(first).complete();
      second[byte] ^= 1;
      EXPECT_EQ(joined({first.complete(), second}), (Counts{1, 1})) << is_v4 << ' ' << byte;
    }
  }
}

// The hash only finds the place: equal or not, the headers decide.
TEST(Coalesce, SharedHashJoinsNothingThatDiffers) {
  HeapPool pool;
  OffloadSpec other = next_of(spec());
  other.source_port++;
  Packet head = pool.receive(spec().complete()), packet = pool.receive(other.complete());
  TcpSegment first, second;
  ASSERT_TRUE(parse_tcp_segment(head, first));
  ASSERT_TRUE(parse_tcp_segment(packet, second));
  EXPECT_NE(first.flow, second.flow);
  second.flow = first.flow;
  EXPECT_FALSE(may_join(open_flow(head, first), packet, second));
  Packet right = pool.receive(next_of(spec()).complete());
  ASSERT_TRUE(parse_tcp_segment(right, second));
  EXPECT_EQ(first.flow, second.flow);
  EXPECT_TRUE(may_join(open_flow(head, first), right, second));
  for (const Packet* p : {&head, &packet, &right}) pool.give_back(p->buffer);
}

TEST(Coalesce, Ipv4IdGoesOnAsItBegan) {
  const auto run = [](bool dont_fragment, std::vector<int> steps) {
    OffloadSpec s = spec();
    s.dont_fragment = dont_fragment;
    std::vector<Bytes> frames;
    for (const int step : steps) {
      OffloadSpec one = s;
      one.id = static_cast<std::uint16_t>(s.id + step);
      frames.push_back(one.complete());
      s.sequence += 1000;
    }
    return joined(frames);
  };
  EXPECT_EQ(run(true, {0, 1, 2, 3}), (Counts{4}));
  EXPECT_EQ(run(false, {0, 1, 2, 3}), (Counts{4}));
  EXPECT_EQ(run(true, {0, 0, 0, 0}), (Counts{4})) << "atomic datagrams, RFC 6864";
  EXPECT_EQ(run(false, {0, 0}), (Counts{1, 1})) << "not with fragments possible";
  EXPECT_EQ(run(true, {0, 1, 1}), (Counts{2, 1}));
  EXPECT_EQ(run(true, {0, 0, 1}), (Counts{2, 1}));
  EXPECT_EQ(run(true, {0, 2}), (Counts{1, 1}));
  EXPECT_EQ(run(true, {0, -1}), (Counts{1, 1}));
}

TEST(Coalesce, WrongChecksumJoinsNothingAndPassesUnrepaired) {
  for (const bool is_v4 : {true, false})
    for (const unsigned wrong : {0u, 1u, 2u}) {
      OffloadSpec s = spec(is_v4);
      s.payload.resize(3000, 1);
      auto frames = s.segments();
      frames[wrong].back() ^= 1;  // a payload byte
      const Counts expected = wrong == 0 ? Counts{1, 2} : wrong == 1 ? Counts{1, 1, 1} : Counts{2, 1};
      EXPECT_EQ(joined(frames), expected) << wrong;
    }
}

TEST(Coalesce, WrongChecksumFieldJoinsNothing) {
  for (const std::size_t at : {std::size_t{14 + 10}, std::size_t{34 + 16}}) {  // IPv4's, TCP's
    Bytes second = next_of(spec()).complete();
    second[at] ^= 1;
    EXPECT_EQ(joined({spec().complete(), second}), (Counts{1, 1}));
    Bytes first = spec().complete();
    first[at] ^= 1;
    EXPECT_EQ(joined({first, next_of(spec()).complete()}), (Counts{1, 1}));
  }
}

TEST(Coalesce, EthernetPaddingIsNoPayload) {
  for (const bool is_v4 : {true, false}) {
    OffloadSpec s = spec(is_v4);
    s.payload.assign(5, 0x11);
    s.segment_size = 2;
    auto frames = s.segments();
    for (Bytes& frame : frames) frame.resize(std::max<std::size_t>(90, frame.size()), 0xcc);
    const auto out = coalesce(frames);
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(out[0].frame, s.partial());
  }
}

TEST(Coalesce, EndsAtTheLargestIpPacket) {
  for (const bool is_v4 : {true, false}) {
    OffloadSpec s = spec(is_v4);
    s.tags = 2;
    s.segment_size = 1000;
    s.payload.assign(1000, 1);
    std::vector<Bytes> frames;
    for (unsigned i = 0; i < 70; ++i, s = next_of(s)) frames.push_back(s.complete());
    EXPECT_EQ(joined(frames), (Counts{65, 5})) << is_v4;  // 65,000 + 60 <= 65,535
    // To the byte.
    OffloadSpec last = spec(is_v4);
    last.tags = 2;
    last.payload.assign(65'535 - (is_v4 ? 40 : 60), 9);
    EXPECT_EQ(joined(last.segments()), (Counts{66}));
    last.payload.push_back(9);
    auto too_long = spec(is_v4);  // the same one byte longer, the IP length of each segment still right
    too_long.tags = 2;
    std::vector<Bytes> one_more;
    for (std::size_t at = 0; at < last.payload.size(); at += 1000) {
      too_long.payload.assign(std::min<std::size_t>(1000, last.payload.size() - at), 9);
      one_more.push_back(too_long.complete());
      too_long = next_of(too_long);
    }
    EXPECT_EQ(joined(one_more), (Counts{65, 1}));
  }
}

TEST(Coalesce, SmallBufferJoinsOnlyWhatFits) {
  Coalescer none(54 + 1999), two(54 + 2999);
  OffloadSpec s = spec();
  s.payload.resize(3000, 1);
  for (const Bytes& frame : s.segments()) {
    none.take(frame);
    two.take(frame);
  }
  const auto apart = none.finish(), most = two.finish();
  EXPECT_EQ(apart.size(), 3u);
  ASSERT_EQ(most.size(), 2u);
  EXPECT_EQ(most[0].segments, 2u);
}

TEST(Coalesce, FramesWithMetadataEndWhatIsOpen) {
  Coalescer coalescer;
  coalescer.take(spec().complete());
  OffloadSpec super = next_of(spec());
  super.payload.resize(900);
  coalescer.take(super.partial(), super.meta());
  coalescer.take(next_of(next_of(spec())).complete());
  const auto out = coalescer.finish();
  ASSERT_EQ(out.size(), 3u);
  EXPECT_TRUE(out[1].meta.needs_checksum());
}

TEST(Coalesce, NoCoalescibleTcpIsToldApart) {
  const auto parses = [](const Bytes& frame) {
    HeapPool pool;
    Packet packet = pool.receive(frame, 0);
    TcpSegment segment;
    const bool is_tcp = parse_tcp_segment(packet, segment);
    pool.give_back(packet.buffer);
    return is_tcp;
  };
  EXPECT_TRUE(parses(spec().complete()));
  OffloadSpec s = spec();
  s.ip_extra = 1;
  EXPECT_FALSE(parses(s.complete())) << "IPv4 options";
  s.is_v4 = false;
  EXPECT_FALSE(parses(s.complete())) << "IPv6 extension header";
  s = spec();
  s.is_tcp = false;
  EXPECT_FALSE(parses(s.complete())) << "UDP";
  for (const std::uint16_t bits : {0x2000, 0x0001, 0x8000}) {  // a fragment, a later one, the reserved bit
    Bytes frame = spec().complete();
    testkit::put16(frame, 14 + 6, bits);
    testkit::put16(frame, 14 + 10, 0);
    testkit::put16(frame, 14 + 10, static_cast<std::uint16_t>(~testkit::slow_sum(frame, 14, 34)));
    EXPECT_FALSE(parses(frame)) << bits;
  }
  for (const bool is_v4 : {true, false}) {  // cut at every length, and with every length said
    s = spec(is_v4);
    s.tags = 2;
    s.options = Bytes(12, 1);
    s.payload.resize(4);
    const Bytes whole = s.complete();
    for (std::size_t length = 0; length < whole.size(); ++length)
      EXPECT_FALSE(parses(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)))) << length;
    for (std::size_t says = 0; says < 200; ++says) {
      Bytes frame = whole;
      testkit::put16(frame, s.layer3() + (is_v4 ? 2 : 4), static_cast<std::uint32_t>(says));
      if (is_v4) {
        testkit::put16(frame, s.layer3() + 10, 0);
        const auto sum = static_cast<std::uint16_t>(~testkit::slow_sum(frame, s.layer3(), s.layer4()));
        testkit::put16(frame, s.layer3() + 10, sum);
      }
      const std::size_t ip = says + (is_v4 ? 0 : 40);
      EXPECT_EQ(parses(frame), ip >= s.payload_at() - s.layer3() && ip <= whole.size() - s.layer3()) << says;
    }
  }
}

}  // namespace
}  // namespace vx
