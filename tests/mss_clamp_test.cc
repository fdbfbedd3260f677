// SPDX-License-Identifier: Apache-2.0
// MSS clamping: golden bytes made by scapy, options in every place and shape, checksums, frames cut at every length.
#include "dataplane/mss_clamp.h"

#include <random>

#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

constexpr std::uint16_t kMtu = 1332;

// Made by scapy 2.5.0 (/usr/bin/python3), each with the MSS before and after:
//   Ether(dst="52:54:00:00:00:02",src="52:54:00:00:00:01")/IP(src="10.0.0.1",dst="10.0.0.2",id=0,flags="DF")
//     /TCP(sport=1234,dport=80,seq=1000,ack=0,flags="S",window=64240,
//          options=[("MSS",MSS),("SAckOK",b""),("Timestamp",(1,0)),
//                   ("NOP",None),("WScale",7)])
struct Golden {
  const char* name;
  const char* before;
  const char* after;
};
const Golden kGolden[] = {
    {"IPv4 SYN, 1460 and 1292",
     "52540000000252540000000108004500003c00004000400626ba0a0000010a00000204d20050000003e800000000a002"
     "faf030020000020405b40402080a000000010000000001030307",
     "52540000000252540000000108004500003c00004000400626ba0a0000010a00000204d20050000003e800000000a002"
     "faf030aa00000204050c0402080a000000010000000001030307"},
    {"IPv4 SYN-ACK in VLAN 100, a NOP in front: odd offset",
     "5254000000025254000000018100006408004500004000004000400626b60a0000010a00000204d20050000003e80000"
     "0005b012faf067a0000001020405b40402080a000000010000000001030307000000",
     "5254000000025254000000018100006408004500004000004000400626b60a0000010a00000204d20050000003e80000"
     "0005b012faf00fa10000010204050c0402080a000000010000000001030307000000"},
    {"IPv4 with 8 bytes of IP options",
     "52540000000252540000000108004700004400004000400620ae0a0000010a000002010101010101010104d200500000"
     "03e800000000a002faf030020000020405b40402080a000000010000000001030307",
     "52540000000252540000000108004700004400004000400620ae0a0000010a000002010101010101010104d200500000"
     "03e800000000a002faf030aa00000204050c0402080a000000010000000001030307"},
    {"IPv6 (fd00::1 to fd00::2; MSS, NOP, NOP, SAckOK), 1440 and 1272",
     "52540000000252540000000186dd60000000001c0640fd000000000000000000000000000001fd000000000000000000"
     "00000000000204d20050000003e8000000007002faf085340000020405a001010402",
     "52540000000252540000000186dd60000000001c0640fd000000000000000000000000000001fd000000000000000000"
     "00000000000204d20050000003e8000000007002faf085dc0000020404f801010402"},
    {"IPv6 behind Dot1AD(vlan=7)/Dot1Q(vlan=100), IPv6ExtHdrHopByHop()/IPv6ExtHdrDestOpt()",
     "52540000000252540000000188a800078100006486dd60000000002c0040fd000000000000000000000000000001fd00"
     "00000000000000000000000000023c00010400000000060001040000000004d20050000003e8000000007002faf08534"
     "0000020405a001010402",
     "52540000000252540000000188a800078100006486dd60000000002c0040fd000000000000000000000000000001fd00"
     "00000000000000000000000000023c00010400000000060001040000000004d20050000003e8000000007002faf085dc"
     "0000020404f801010402"},
};

// The frame has nothing behind its last byte: a step too far is seen by the address sanitizer.
Bytes clamped(const Bytes& frame, std::uint16_t mtu = kMtu, std::uint8_t offload_flags = 0) {
  HeapPool pool;
  Packet packet = pool.receive(frame);
  packet.offload.flags = offload_flags;
  clamp_mss(packet, mtu);
  EXPECT_EQ(packet.length, frame.size());
  Bytes bytes(packet.data, packet.data + packet.length);
  pool.give_back(packet.buffer);
  return bytes;
}

constexpr std::size_t kTcp = 14 + 20, kField = kTcp + 16;  // offsets in the frames that tcp() makes

std::uint16_t checksum_of(const Bytes& frame) {  // 0xffff: right
  const auto length = frame.size() - kTcp;
  const std::uint8_t tail[4] = {0, 6, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)};
  const std::uint32_t pseudo = checksum_partial(tail, 4, checksum_partial(&frame[14 + 12], 8));
  return checksum_fold(checksum_partial(&frame[kTcp], length, pseudo));
}

// An untagged IPv4 SYN with these options, filled up to whole words with NOPs, and a right checksum.
Bytes tcp(Bytes options, std::uint8_t flags = 2, std::size_t payload = 0, std::uint16_t fragment = 0) {
  while (options.size() % 4 != 0) options.push_back(1);
  Bytes segment(20);
  segment[1] = 9, segment[3] = 80;
  segment[12] = static_cast<std::uint8_t>((20 + options.size()) / 4 << 4);
  segment[13] = flags;
  segment.insert(segment.end(), options.begin(), options.end());
  for (std::size_t i = 0; i < payload; ++i) segment.push_back(static_cast<std::uint8_t>(i));
  FrameBuilder b;
  b.eth(kGuestB, kGuestA).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).fragment(fragment).raw(segment);
  Bytes frame = b.build();
  frame[14 + 9] = 6;
  store(&frame[kField], static_cast<std::uint16_t>(~checksum_of(frame)));
  EXPECT_EQ(checksum_of(frame), 0xffff);
  return frame;
}
const Bytes kMss1460{2, 4, 0x05, 0xb4}, kMss1292{2, 4, 0x05, 0x0c};

TEST(MssClamp, FramesAreAsScapyMakesThem) {
  for (const auto& golden : kGolden)
    EXPECT_EQ(hex(clamped(from_hex(golden.before))), hex(from_hex(golden.after))) << golden.name;
}

TEST(MssClamp, AnMssThatFitsStays) {
  for (const auto& golden : kGolden)
    EXPECT_EQ(hex(clamped(from_hex(golden.after))), hex(from_hex(golden.after))) << golden.name;
  EXPECT_EQ(clamped(tcp({2, 4, 0, 0})), tcp({2, 4, 0, 0}));
  EXPECT_NE(clamped(tcp(kMss1292), kMtu - 1), tcp(kMss1292));
}

TEST(MssClamp, OnlySynsAreTouched) {
  for (int flags = 0; flags < 256; ++flags) {
    const auto f = static_cast<std::uint8_t>(flags);
    EXPECT_EQ(clamped(tcp(kMss1460, f)), tcp((flags & 2) != 0 ? kMss1292 : kMss1460, f)) << flags;
  }
}

TEST(MssClamp, TheOptionIsFoundInEveryPlaceAndTheChecksumStaysRight) {
  for (std::size_t nops = 0; nops <= 36; ++nops) {
    Bytes before(nops, 1), after(nops, 1);
    before.insert(before.end(), kMss1460.begin(), kMss1460.end());
    after.insert(after.end(), kMss1292.begin(), kMss1292.end());
    EXPECT_EQ(hex(clamped(tcp(before))), hex(tcp(after))) << nops;
  }
  EXPECT_EQ(clamped(tcp({8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0xff, 0xff})),
            tcp({8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0x0c}));
}

TEST(MssClamp, EveryMssOptionIsLowered) {  // a receiver may believe the last one
  EXPECT_EQ(clamped(tcp({2, 4, 0x05, 0xb4, 1, 2, 4, 0x23, 0x00})), tcp({2, 4, 0x05, 0x0c, 1, 2, 4, 0x05, 0x0c}));
}

TEST(MssClamp, EndOfOptionsIsTheEnd) { EXPECT_EQ(clamped(tcp({0, 2, 4, 5, 0xb4})), tcp({0, 2, 4, 5, 0xb4})); }

TEST(MssClamp, OptionsOfBadLengthEndTheWalk) {
  const Bytes bad_options[] = {{3, 0, 2, 4, 5, 0xb4}, {3, 1, 2, 4, 5, 0xb4}, {3, 200, 2, 4, 5, 0xb4, 1, 1},
                               {2, 3, 5, 0xb4}, {2, 5, 5, 0xb4, 1, 1, 1, 1}, {2, 0, 5, 0xb4}, {2, 8, 5, 0xb4},
                               {1, 1, 2, 4}, {1, 1, 1, 2}, {1, 2, 4, 5}};
  for (const Bytes& bad : bad_options)
    EXPECT_EQ(hex(clamped(tcp(bad))), hex(tcp(bad)));
}

TEST(MssClamp, PayloadIsNotTakenForOptions) {
  Bytes frame = tcp({1, 1, 2, 4}, 2, 4);
  frame[frame.size() - 4] = 0x05, frame[frame.size() - 3] = 0xb4;
  EXPECT_EQ(clamped(frame), frame);
}

TEST(MssClamp, DataWithTheSynDoesNotMatter) {
  for (const std::size_t payload : {1, 2, 3, 500})
    EXPECT_EQ(clamped(tcp(kMss1460, 2, payload)), tcp(kMss1292, 2, payload));
}

TEST(MssClamp, WrongChecksumStaysWrong) {
  Bytes frame = tcp(kMss1460);
  frame[kField] = static_cast<std::uint8_t>(frame[kField] + 1);
  const std::uint16_t wrong_by = checksum_of(frame);
  EXPECT_NE(wrong_by, 0xffff);
  EXPECT_EQ(checksum_of(clamped(frame)), wrong_by);
}

TEST(MssClamp, ChecksumThatIsStillToBeCompletedIsLeftToThat) {
  const Bytes before = tcp(kMss1460), after = clamped(before, kMtu, OffloadMeta::kNeedsChecksum);
  EXPECT_EQ(load<std::uint16_t>(&after[kField]), load<std::uint16_t>(&before[kField]));
  EXPECT_EQ(after[kTcp + 22], 0x05);
  EXPECT_EQ(after[kTcp + 23], 0x0c);
  EXPECT_EQ(clamped(before, kMtu, OffloadMeta::kChecksumVerified), tcp(kMss1292)) << "a complete one is updated";
}

TEST(MssClamp, LaterFragmentsAreLeftAlone) {
  const auto after = [](std::uint16_t fragment) { return clamped(tcp(kMss1460, 2, 0, fragment)); };
  EXPECT_EQ(after(1), tcp(kMss1460, 2, 0, 1));
  EXPECT_EQ(after(kIpv4MoreFragments | 100), tcp(kMss1460, 2, 0, kIpv4MoreFragments | 100));
  EXPECT_EQ(after(kIpv4MoreFragments), tcp(kMss1292, 2, 0, kIpv4MoreFragments)) << "the first has the header";
  EXPECT_EQ(after(kIpv4DontFragment), tcp(kMss1292, 2, 0, kIpv4DontFragment));
}

TEST(MssClamp, OtherProtocolsAreLeftAlone) {
  Bytes frame = tcp(kMss1460);
  frame[14 + 9] = 17;
  EXPECT_EQ(clamped(frame), frame);
  frame[14 + 9] = 6;
  frame[12] = 0x08, frame[13] = 0x06;
  EXPECT_EQ(clamped(frame), frame);
}

TEST(MssClamp, AnMtuWithoutRoomForASegmentClampsNothing) {
  for (const std::uint16_t mtu : {0, 20, 40}) EXPECT_EQ(clamped(tcp(kMss1460), mtu), tcp(kMss1460));
  EXPECT_EQ(clamped(tcp(kMss1460), 41), tcp({2, 4, 0, 1}));
  const Bytes v6 = from_hex(kGolden[3].before);
  EXPECT_EQ(clamped(v6, 60), v6);
}

TEST(MssClamp, FramesCutShortAreLeftAlone) {
  for (const auto& golden : kGolden) {
    const Bytes whole = from_hex(golden.before);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_EQ(clamped(cut), cut) << golden.name << " " << length;
    }
  }
  // IP agrees with where it ends, TCP does not.
  const Bytes whole = tcp({1, 1, 1, 1, 2, 4, 5, 0xb4});
  for (std::size_t length = kTcp; length < whole.size(); ++length) {
    Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    view<Ipv4Header>(&cut[14])->total_length = Be16(static_cast<std::uint16_t>(length - 14));
    EXPECT_EQ(clamped(cut), cut) << length;
  }
}

TEST(MssClamp, AnyOptionBytesAtAllKeepTheChecksumRight) {
  std::mt19937 random(3);
  unsigned changed = 0;
  for (int round = 0; round < 20'000; ++round) {
    Bytes options(random() % 41);
    for (auto& byte : options) byte = static_cast<std::uint8_t>(random() % 8 == 0 ? random() : random() % 6);
    const Bytes before = tcp(options), after = clamped(before, 41);
    ASSERT_EQ(checksum_of(after), 0xffff) << hex(before);
    ASSERT_TRUE(std::equal(before.begin(), before.begin() + kField, after.begin()));
    changed += before != after;
  }
  EXPECT_GT(changed, 100u);
}

}  // namespace
}  // namespace vx
