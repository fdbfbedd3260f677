// SPDX-License-Identifier: Apache-2.0
// What makes a guest's offload metadata believable, and completing a partial checksum.
#include "dataplane/super_frame.h"

#include <gtest/gtest.h>

#include "offload_testkit.h"

namespace vx {
namespace {

using testkit::Bytes;
using testkit::OffloadSpec;

struct Parsed {
  DropReason reason;
  SuperFrame at;
};
// In a buffer of exactly its size: AddressSanitizer sees every byte too many.
Parsed parse(const Bytes& frame, const OffloadMeta& meta) {
  testkit::HeapPool pool;
  Packet packet = pool.receive(frame, 0);
  packet.offload = meta;
  Parsed parsed{};
  parsed.reason = parse_super_frame(packet, parsed.at);
  pool.give_back(packet.buffer);
  return parsed;
}
Parsed parse(const OffloadSpec& spec) { return parse(spec.partial(), spec.meta()); }

OffloadSpec spec(bool is_v4 = true, bool is_tcp = true) {
  OffloadSpec s;
  s.is_v4 = is_v4;
  s.is_tcp = is_tcp;
  s.payload.assign(2500, 0x5a);
  return s;
}

TEST(SuperFrame, EveryShapeIsFoundWhereItWasBuilt) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const OffloadSpec s = testkit::random_super_frame(random, 3000);
    const auto [reason, at] = parse(s);
    ASSERT_EQ(reason, DropReason::kNone) << i;
    EXPECT_EQ(at.layer3, s.layer3());
    EXPECT_EQ(at.layer4, s.layer4());
    EXPECT_EQ(at.payload, s.payload_at());
    EXPECT_EQ(at.segment_size, s.segment_size);
    EXPECT_EQ(at.is_v4, s.is_v4);
    EXPECT_EQ(at.is_tcp, s.is_tcp);
    EXPECT_EQ(at.segment_layer3_bytes(), s.payload_at() - s.layer3() + s.segment_size);
  }
}

TEST(SuperFrame, CutShortAtEveryLengthIsRefused) {
  for (int shape = 0; shape < 4; ++shape) {
    OffloadSpec s = spec((shape & 1) != 0, (shape & 2) != 0);
    s.tags = 2;
    s.ip_extra = 2;
    if (s.is_tcp) s.options = Bytes(12, 1);
    s.payload.resize(3);
    const Bytes whole = s.partial();
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_EQ(parse(cut, s.meta()).reason, DropReason::kGuestBadOffload) << shape << ' ' << length;
      // And with an IP length that agrees with the frame's: only the headers inside can tell.
      if (length <= s.layer4()) continue;
      Bytes agrees = cut;
      const std::size_t says = length - s.layer3() - (s.is_v4 ? 0 : 40);
      testkit::put16(agrees, s.layer3() + (s.is_v4 ? 2 : 4), static_cast<std::uint32_t>(says));
      const bool has_payload = length > s.payload_at();
      EXPECT_EQ(parse(agrees, s.meta()).reason, has_payload ? DropReason::kNone : DropReason::kGuestBadOffload)
          << shape << ' ' << length;
    }
  }
}

TEST(SuperFrame, PaddingBehindTheIpPacketIsRefused) {
  for (const bool is_v4 : {true, false}) {
    Bytes frame = spec(is_v4).partial();
    frame.push_back(0);
    EXPECT_EQ(parse(frame, spec(is_v4).meta()).reason, DropReason::kGuestBadOffload);
  }
}

TEST(SuperFrame, MetadataThatContradictsTheBytesIsRefused) {
  const OffloadSpec s = spec();
  const auto refused = [&](auto&& change) {
    OffloadMeta meta = s.meta();
    change(meta);
    return parse(s.partial(), meta).reason == DropReason::kGuestBadOffload;
  };
  EXPECT_FALSE(refused([](OffloadMeta&) {}));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.flags = 0; })) << "a super-frame's checksum cannot be complete";
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.segment_size = 0; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.gso_type = OffloadMeta::kGsoTcp6; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.gso_type = OffloadMeta::kGsoUdp; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.gso_type = 3; })) << "UFO: fragments, not datagrams";
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.gso_type = OffloadMeta::kGsoEcn; }));
  EXPECT_FALSE(refused([](OffloadMeta& m) { m.gso_type |= OffloadMeta::kGsoEcn; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.checksum_start -= 2; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.checksum_start = 0xffff; }));
  EXPECT_TRUE(refused([](OffloadMeta& m) { m.checksum_offset = 6; }));
  EXPECT_FALSE(refused([](OffloadMeta& m) { m.header_length = 0xffff; })) << "a hint, not used";

  OffloadMeta udp = spec(true, false).meta();
  udp.gso_type |= OffloadMeta::kGsoEcn;
  EXPECT_EQ(parse(spec(true, false).partial(), udp).reason, DropReason::kGuestBadOffload) << "ECN is TCP's";
}

TEST(SuperFrame, BytesThatAreNoWholeTcpPacketAreRefused) {
  const OffloadSpec s = spec();
  const auto refused = [](const OffloadSpec& of, std::size_t at, std::uint8_t value) {
    Bytes frame = of.partial();
    frame.at(at) = value;
    return parse(frame, of.meta()).reason == DropReason::kGuestBadOffload;
  };
  EXPECT_TRUE(refused(s, 12, 0x09)) << "not IP";
  EXPECT_TRUE(refused(s, 14, 0x65)) << "version 6 in an IPv4 packet";
  EXPECT_TRUE(refused(s, 14, 0x44)) << "header of 16 bytes";
  EXPECT_TRUE(refused(s, 14, 0x46)) << "layer 4 is not where the metadata says";
  EXPECT_TRUE(refused(s, 14 + 6, 0x20)) << "more fragments";
  EXPECT_TRUE(refused(s, 14 + 7, 0x01)) << "a later fragment";
  EXPECT_TRUE(refused(s, 14 + 9, 17)) << "UDP";
  EXPECT_TRUE(refused(s, 34 + 12, 0x40)) << "TCP header of 16 bytes";
  const OffloadSpec six = spec(false);
  EXPECT_TRUE(refused(six, 14, 0x40)) << "version 4 in an IPv6 packet";
  EXPECT_TRUE(refused(six, 14 + 6, 44)) << "fragment header";
  EXPECT_TRUE(refused(six, 14 + 6, 51)) << "authentication header";
  EXPECT_TRUE(refused(six, 14 + 6, 59)) << "no next header";
}

TEST(SuperFrame, ThirdTagIsNoIp) {
  OffloadSpec s = spec();
  s.tags = 3;
  EXPECT_EQ(parse(s).reason, DropReason::kGuestBadOffload);
}

TEST(SuperFrame, LargestPacketPasses) {
  for (const bool is_v4 : {true, false}) {
    OffloadSpec s = spec(is_v4);
    s.tags = 2;
    s.payload.resize(65'535 - 20 - (is_v4 ? 20 : 0));
    EXPECT_EQ(parse(s).reason, DropReason::kNone);
  }
}

DropReason complete(Bytes& frame, OffloadMeta& meta) {
  testkit::HeapPool pool;
  Packet packet = pool.receive(frame, 0);
  packet.offload = meta;
  const DropReason reason = complete_checksum(packet);
  meta = packet.offload;
  frame.assign(packet.data, packet.data + packet.length);
  pool.give_back(packet.buffer);
  return reason;
}

TEST(CompleteChecksum, IsWhatTheSenderWouldHaveWritten) {
  std::mt19937 random(2);
  for (int i = 0; i < 500; ++i) {
    const OffloadSpec s = testkit::random_super_frame(random, 1400);
    OffloadMeta meta = s.meta();
    meta.gso_type = OffloadMeta::kGsoNone;
    meta.segment_size = 0;
    Bytes frame = s.partial();
    ASSERT_EQ(complete(frame, meta), DropReason::kNone);
    EXPECT_EQ(frame, s.complete());
    EXPECT_TRUE(meta.is_plain());
  }
}

TEST(CompleteChecksum, ZeroOfUdpBecomesAllOnes) {  // RFC 768; TCP's zero stays
  for (const bool is_tcp : {false, true}) {
    OffloadSpec s = spec(true, is_tcp);
    s.payload.assign(2, 0);
    const Bytes without = s.complete();
    testkit::put16(s.payload, 0, testkit::be16(without, s.checksum_at()));
    OffloadMeta meta = s.meta();
    Bytes frame = s.partial();
    ASSERT_EQ(complete(frame, meta), DropReason::kNone);
    EXPECT_EQ(testkit::be16(frame, s.checksum_at()), is_tcp ? 0 : 0xffff);
  }
}

TEST(CompleteChecksum, FieldOutsideOfTheFrameIsRefusedAndNothingWritten) {
  OffloadSpec s = spec(true, false);
  s.payload.resize(1);
  s.tags = 1;
  const Bytes frame = s.partial();
  const auto refused = [&](std::uint32_t start, std::uint32_t offset) {
    OffloadMeta meta = s.meta();
    meta.checksum_start = static_cast<std::uint16_t>(start);
    meta.checksum_offset = static_cast<std::uint16_t>(offset);
    Bytes after = frame;
    const bool is_refused = complete(after, meta) == DropReason::kGuestBadOffload;
    if (is_refused) {
      EXPECT_EQ(after, frame);
    }
    return is_refused;
  };
  const auto length = static_cast<std::uint32_t>(frame.size());
  EXPECT_FALSE(refused(length - 8, 6));
  EXPECT_TRUE(refused(length - 8, 7));
  EXPECT_TRUE(refused(length, 0));
  EXPECT_TRUE(refused(0xffff, 0xffff));
  EXPECT_TRUE(refused(17, 6)) << "before layer 3: the tag and the addresses are not a guest's to sum";
  EXPECT_FALSE(refused(18, 6));
  Bytes runt(13);
  OffloadMeta meta = s.meta();
  meta.checksum_start = 0;
  EXPECT_EQ(complete(runt, meta), DropReason::kGuestBadOffload);
}

}  // namespace
}  // namespace vx
