// SPDX-License-Identifier: Apache-2.0
// Path probes in the dataplane: what is one, what is answered, and through the pipeline: who sees it, what is counted.
#include "dataplane/probe.h"

#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

Bytes request(std::uint16_t frame_bytes, ProbeKind kind = ProbeKind::kRequest) {
  // By hand, not by the structs under test.
  Bytes frame = from_hex("01 80 c2 00 00 01  02 56 ac 12 01 02  88 b5  56 58 50 50  01 00 00 00  de ad be ef  00 00 00 07");
  frame[19] = static_cast<std::uint8_t>(kind);
  frame[20] = static_cast<std::uint8_t>(frame_bytes >> 8);
  frame[21] = static_cast<std::uint8_t>(frame_bytes);
  frame.resize(kind == ProbeKind::kRequest ? frame_bytes : frame.size());
  return frame;
}
const Bytes kReply = request(1350, ProbeKind::kReply);

ProbeKind judge(const Bytes& frame) {
  HeapPool pool;
  Packet packet = pool.receive(frame);
  const ProbeKind kind = judge_probe(packet);
  Packet* const one = &packet;
  pool.free(&one, 1);
  return kind;
}

TEST(Probe, RequestAndReplyAreRecognised) {
  EXPECT_EQ(judge(request(30)), ProbeKind::kRequest);
  EXPECT_EQ(judge(request(1350)), ProbeKind::kRequest);
  EXPECT_EQ(judge(kReply), ProbeKind::kReply);
}

TEST(Probe, AnythingElseIsNone) {
  for (std::size_t cut = 14; cut < 30; ++cut) EXPECT_EQ(judge(Bytes(kReply.begin(), kReply.begin() + static_cast<long>(cut))), ProbeKind::kNone) << cut;
  for (const std::size_t at : {0, 5, 12, 13, 14, 17, 18, 19}) {  // destination, type, magic, version, kind
    Bytes other = request(100);
    other[at] ^= 0x40;
    EXPECT_EQ(judge(other), ProbeKind::kNone) << at;
  }
  Bytes truncated = request(1350);
  truncated.resize(1349);
  EXPECT_EQ(judge(truncated), ProbeKind::kNone) << "a request that did not arrive whole has not arrived";
  Bytes long_reply = kReply;
  long_reply.resize(1350);
  EXPECT_EQ(judge(long_reply), ProbeKind::kNone);
}

TEST(Probe, ReplyNamesTheRequestAndIsShort) {
  HeapPool pool;
  Packet packet = pool.receive(request(1350));
  const std::uint32_t end = packet.length + packet.tailroom;
  answer_probe(packet, IpAddress::v4(172, 18, 1, 1));
  Bytes expected = request(1350, ProbeKind::kReply);
  std::copy_n(from_hex("02 56 ac 12 01 01").begin(), 6, expected.begin() + 6);
  EXPECT_EQ(hex(Bytes(packet.data, packet.data + packet.length)), hex(expected));
  EXPECT_EQ(packet.length + packet.tailroom, end);
  EXPECT_EQ(judge_probe(packet), ProbeKind::kReply);
  Packet* const one = &packet;
  pool.free(&one, 1);
}

TEST(Probe, SourceDiffersBetweenVtepsAndIsUnicast) {
  const MacAddress a = probe_source_mac(kRemote4), b = probe_source_mac(kOther4), c = probe_source_mac(v6(2));
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
  for (const auto& one : {a, b, c}) EXPECT_FALSE(one.is_group());
}

}  // namespace
}  // namespace vx
