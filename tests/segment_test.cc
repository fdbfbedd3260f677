// SPDX-License-Identifier: Apache-2.0
// Segmentation against frames that scapy made, against a naive segmenter, and rule by rule.
#include "dataplane/segment.h"

#include <gtest/gtest.h>

#include "offload_testkit.h"

namespace vx {
namespace {

using testkit::Bytes;
using testkit::from_hex;
using testkit::OffloadSpec;

// All segments, made in the order `backwards` says, each in a buffer of exactly longest() bytes.
std::vector<Bytes> cut(const Bytes& frame, const OffloadMeta& meta, bool backwards = false) {
  testkit::HeapPool pool;
  Packet super = pool.receive(frame, 0);
  super.offload = meta;
  super.is_tagged = true;
  super.tci = 0x2005;
  super.ingress_port = 7;
  super.source = Location::port(9);
  SuperFrame at;
  std::vector<Bytes> all;
  EXPECT_EQ(parse_super_frame(super, at), DropReason::kNone);
  const Segmenter segmenter(super, at);
  all.resize(segmenter.count());
  for (unsigned n = 0; n < segmenter.count(); ++n) {
    const unsigned i = backwards ? segmenter.count() - 1 - n : n;
    Packet out = pool.receive({}, 0, static_cast<std::uint16_t>(segmenter.longest()));
    out.offload = meta;
    const std::uint32_t sum = segmenter.make(i, out);
    EXPECT_LT(sum, 1u << 20);
    EXPECT_EQ(checksum_fold(sum), checksum_fold(checksum_partial(out.data, out.length)));
    EXPECT_EQ(out.length, segmenter.length_of(i));
    EXPECT_EQ(out.length + out.tailroom, segmenter.longest());
    EXPECT_TRUE(out.offload.is_plain());
    EXPECT_TRUE(out.is_tagged);
    EXPECT_EQ(out.tci, 0x2005);
    EXPECT_EQ(out.ingress_port, 7);
    EXPECT_EQ(out.source, Location::port(9));
    all[i].assign(out.data, out.data + out.length);
    pool.give_back(out.buffer);
  }
  EXPECT_EQ(Bytes(super.data, super.data + super.length), frame) << "the super-frame stays unchanged";
  pool.give_back(super.buffer);
  return all;
}
std::vector<Bytes> cut(const OffloadSpec& spec) { return cut(spec.partial(), spec.meta()); }

OffloadSpec spec(bool is_tcp = true) {
  OffloadSpec s;
  s.is_tcp = is_tcp;
  s.payload.assign(2500, 0x5a);
  return s;
}

struct Golden {  // made by scapy 2.5.0
  const char* name;
  std::uint8_t gso_type;
  std::uint16_t layer4;
  const char* super_frame;
  const char* segments[3];
};
constexpr Golden kGolden[] = {
    {"TCP over IPv4, tagged, timestamps, CWR ECE FIN PSH; ID and sequence wrap",
     OffloadMeta::kGsoTcp4 | OffloadMeta::kGsoEcn, 38,
     "525400aabb02525400aabb018100a06408004502004dfffe40003f061d970a0102030a0908079c4001bbfffffff001020304"
     "80d901f51e5300000101080a11223344556677884142434445464748494a4b4c4d4e4f50515253545556575859",
     {"525400aabb02525400aabb018100a06408004502003efffe40003f061da60a0102030a0908079c4001bbfffffff001020304"
      "80d001f5484400000101080a11223344556677884142434445464748494a",
      "525400aabb02525400aabb018100a06408004502003effff40003f061da50a0102030a0908079c4001bbfffffffa01020304"
      "805001f5168800000101080a11223344556677884b4c4d4e4f5051525354",
      "525400aabb02525400aabb018100a064080045020039000040003f061daa0a0102030a0908079c4001bb0000000401020304"
      "805901f59d5d00000101080a11223344556677885556575859"}},
    {"TCP over IPv6 with destination options", OffloadMeta::kGsoTcp6, 62,
     "525400aabb02525400aabb0186dd6011234500353c05fd000000000000000000000000000001fd0000000000000000000000"
     "0000000206000104000000009c4001bb000003e800000007501801f6fa3700004142434445464748494a4b4c4d4e4f505152"
     "53545556575859",
     {"525400aabb02525400aabb0186dd6011234500263c05fd000000000000000000000000000001fd0000000000000000000000"
      "0000000206000104000000009c4001bb000003e800000007501001f6b78600004142434445464748494a",
      "525400aabb02525400aabb0186dd6011234500263c05fd000000000000000000000000000001fd0000000000000000000000"
      "0000000206000104000000009c4001bb000003f200000007501001f6854a00004b4c4d4e4f5051525354",
      "525400aabb02525400aabb0186dd6011234500213c05fd000000000000000000000000000001fd0000000000000000000000"
      "0000000206000104000000009c4001bb000003fc00000007501801f60c2000005556575859"}},
    {"UDP over IPv4", OffloadMeta::kGsoUdp, 34,
     "525400aabb02525400aabb010800450000350064000040115c410a0102030a0908071388177000211e464142434445464748"
     "494a4b4c4d4e4f50515253545556575859",
     {"525400aabb02525400aabb010800450000260064000040115c500a0102030a0908071388177000125c5f4142434445464748"
      "494a",
      "525400aabb02525400aabb010800450000260065000040115c4f0a0102030a0908071388177000122a2d4b4c4d4e4f505152"
      "5354",
      "525400aabb02525400aabb010800450000210066000040115c530a0102030a09080713881770000db1195556575859"}},
    {"UDP over IPv6, two tags", OffloadMeta::kGsoUdp, 62,
     "525400aabb02525400aabb0188a800078100000986dd6000000000211140fd000000000000000000000000000001fd000000"
     "000000000000000000000002138817700021fa364142434445464748494a4b4c4d4e4f50515253545556575859",
     {"525400aabb02525400aabb0188a800078100000986dd6000000000121140fd000000000000000000000000000001fd000000"
      "000000000000000000000002138817700012806e4142434445464748494a",
      "525400aabb02525400aabb0188a800078100000986dd6000000000121140fd000000000000000000000000000001fd000000"
      "0000000000000000000000021388177000124e3c4b4c4d4e4f5051525354",
      "525400aabb02525400aabb0188a800078100000986dd60000000000d1140fd000000000000000000000000000001fd000000"
      "00000000000000000000000213881770000dd5285556575859"}},
};

TEST(Segment, AgreesWithFramesMadeByScapy) {
  for (const Golden& golden : kGolden) {
    OffloadMeta meta;
    meta.flags = OffloadMeta::kNeedsChecksum;
    meta.gso_type = golden.gso_type;
    meta.segment_size = 10;
    meta.checksum_start = golden.layer4;
    meta.checksum_offset = golden.gso_type == OffloadMeta::kGsoUdp ? 6 : 16;
    const auto segments = cut(from_hex(golden.super_frame), meta);
    ASSERT_EQ(segments.size(), 3u) << golden.name;
    for (unsigned i = 0; i < 3; ++i)
      EXPECT_EQ(testkit::hex(segments[i]), testkit::hex(from_hex(golden.segments[i]))) << golden.name << ' ' << i;
  }
}

TEST(Segment, AgreesWithANaiveSegmenterForEveryShape) {
  std::mt19937 random(3);
  for (int i = 0; i < 1500; ++i) {
    const OffloadSpec s = testkit::random_super_frame(random, i % 20 == 0 ? 65'000 - 100 : 6000);
    ASSERT_EQ(cut(s.partial(), s.meta(), i % 2 == 0), s.segments()) << i;
  }
}

TEST(Segment, AllZeroAndAllOnesPayloadsSumRight) {  // where one's complement has two zeros
  for (const std::uint8_t byte : {0x00, 0xff})
    for (const bool is_tcp : {true, false}) {
      OffloadSpec s = spec(is_tcp);
      s.payload.assign(2500, byte);
      EXPECT_EQ(cut(s), s.segments());
    }
}

TEST(Segment, FinAndPshAreOnTheLastOnly) {
  OffloadSpec s = spec();
  s.flags = 0x19;
  const auto segments = cut(s);
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[0].at(34 + 13), 0x10);
  EXPECT_EQ(segments[1].at(34 + 13), 0x10);
  EXPECT_EQ(segments[2].at(34 + 13), 0x19);
}

TEST(Segment, CwrIsOnTheFirstOnlyAndEceOnAll) {  // RFC 3168 section 6.1.2, with and without kGsoEcn as in Linux
  OffloadSpec s = spec();
  s.flags = 0xd0;
  for (const std::uint8_t ecn : {std::uint8_t{0}, OffloadMeta::kGsoEcn}) {
    OffloadMeta meta = s.meta();
    meta.gso_type = OffloadMeta::kGsoTcp4 | ecn;
    const auto segments = cut(s.partial(), meta);
    ASSERT_EQ(segments.size(), 3u);
    EXPECT_EQ(segments[0].at(34 + 13), 0xd0);
    EXPECT_EQ(segments[1].at(34 + 13), 0x50);
    EXPECT_EQ(segments[2].at(34 + 13), 0x50);
  }
}

TEST(Segment, PayloadThatFitsIsOneSegmentWithAllFlags) {
  OffloadSpec s = spec();
  s.flags = 0x99;
  s.payload.resize(1000);
  EXPECT_EQ(cut(s), std::vector<Bytes>{s.complete()});
  s.segment_size = 0xffff;
  EXPECT_EQ(cut(s), std::vector<Bytes>{s.complete()});
}

TEST(Segment, WholeMultipleHasNoEmptyTail) {
  OffloadSpec s = spec();
  s.payload.resize(3000, 1);
  EXPECT_EQ(cut(s).size(), 3u);
  s.payload.resize(3001, 1);
  EXPECT_EQ(cut(s).size(), 4u);
}

TEST(Segment, LargestSuperFrameInManySmallSegments) {
  OffloadSpec s = spec();
  s.payload.assign(65'535 - 40, 0xa5);
  s.segment_size = 7;
  s.id = 0xfff0;
  EXPECT_EQ(cut(s), s.segments());
}

TEST(Segment, UdpChecksumOfZeroBecomesAllOnes) {  // RFC 768
  OffloadSpec s = spec(false);
  s.payload.assign(4, 0);
  s.segment_size = 2;
  testkit::put16(s.payload, 0, testkit::be16(s.segments()[0], s.checksum_at()));
  const auto segments = cut(s);
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(testkit::be16(segments[0], s.checksum_at()), 0xffff);
  EXPECT_EQ(segments, s.segments());
}

// RFC 8200 section 8.1: the field knows it, the header does not.
TEST(Segment, ChecksumBehindARoutingHeaderIsThatOfTheLastAddress) {
  OffloadSpec s = spec();
  s.is_v4 = false;
  s.payload.resize(1500);
  const Bytes plain = s.partial();
  const auto expected = s.segments();
  // The same with another destination in the header, as it is before the last hop; the pseudo header's sum stays.
  Bytes frame = plain;
  frame.at(14 + 24 + 15) ^= 0x55;
  const auto segments = cut(frame, s.meta());
  ASSERT_EQ(segments.size(), 2u);
  for (unsigned i = 0; i < 2; ++i)
    EXPECT_EQ(testkit::be16(segments[i], s.checksum_at()), testkit::be16(expected[i], s.checksum_at()));
}

TEST(ChecksumCopy, CopiesAndSumsEveryLengthAndAlignment) {
  std::mt19937 random(4);
  const Bytes from = testkit::random_bytes(random, 1000);
  for (std::size_t length = 0; length < 700; ++length) {
    const std::size_t skip = length % 33;
    Bytes to(length + 2, 0xee);
    const auto sum = checksum_copy(to.data() + 1, from.data() + skip, length, 0x12345);
    EXPECT_EQ(checksum_fold(sum), checksum_fold(checksum_partial(from.data() + skip, length, 0x12345)));
    EXPECT_TRUE(std::equal(to.begin() + 1, to.end() - 1, from.begin() + static_cast<std::ptrdiff_t>(skip))) << length;
    EXPECT_EQ(to.front(), 0xee);
    EXPECT_EQ(to.back(), 0xee);
  }
}

}  // namespace
}  // namespace vx
