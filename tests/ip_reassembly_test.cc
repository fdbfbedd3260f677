// SPDX-License-Identifier: Apache-2.0
// Reassembly of outer fragments: fragments made by scapy, every order, overlaps and other lies, limits of memory and
// time, congestion marks; every buffer comes back and every fragment is counted once.
#include "dataplane/ip_reassembly.h"

#include <gtest/gtest.h>
#include <rte_eal.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <random>

#include "dataplane/buffer_pool_mbuf.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

class World : public testing::Environment {
 public:
  void SetUp() override {
    const std::string prefix = "vxfrag" + std::to_string(::getpid());
    std::vector<std::string> words{"ip_reassembly_test", "--no-huge", "--no-shconf", "--no-pci", "--iova-mode",
                                   "va", "-m", "96", "--file-prefix", prefix, "--no-telemetry",
                                   "--log-level", "*:error", "-l", "0"};
    std::vector<char*> arguments;
    for (auto& w : words) arguments.push_back(w.data());
    ASSERT_GE(rte_eal_init(static_cast<int>(arguments.size()), arguments.data()), 0);
  }
  void TearDown() override { rte_eal_cleanup(); }
};
[[maybe_unused]] auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

// Made by scapy 2.5.0 (/usr/bin/python3):
//   inner = Ether(dst="52:54:00:00:00:01",src="52:54:00:00:00:f1")/IP(src="10.0.0.2",dst="10.0.0.1",id=0)
//           /UDP(sport=5,dport=6)/Raw(bytes(range(50)))
//   outer = UDP(sport=50000,dport=4789)/VXLAN(vni=1000,flags=8)/inner, each behind
//   Ether(dst="02:00:00:00:00:01",src="02:00:00:00:00:02")/Dot1Q(vlan=4003)/...
//   fragment(IP(src="172.18.1.2",dst="172.18.1.1",id=77)/outer, fragsize=48)
constexpr const char* kWhole4 =
    "02000000000102000000000281000fa3080045000080004d000040111ff9ac120102ac120101c35012b5006c45980800"
    "00000003e8005254000000015254000000f108004500004e000000004011669d0a0000020a00000100050006003a90f9"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
    "3031";
const char* const kFragments4[] = {
    "02000000000102000000000281000fa3080045000044004d200040110035ac120102ac120101c35012b5006c45980800"
    "00000003e8005254000000015254000000f108004500004e000000004011669d0a0000020a00",
    "02000000000102000000000281000fa3080045000044004d20064011002fac120102ac120101000100050006003a90f9"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425",
    "02000000000102000000000281000fa3080045000020004d000c4011204dac120102ac120101262728292a2b2c2d2e2f"
    "3031"};
//   fragment6(IPv6(src="fd00:18::2",dst="fd00:18::1",hlim=64)/IPv6ExtHdrFragment(id=0x1234567)/outer, 104)
constexpr const char* kWhole6 =
    "02000000000102000000000281000fa386dd60000000006c1140fd000018000000000000000000000002fd0000180000"
    "00000000000000000001c35012b5006ca58b080000000003e8005254000000015254000000f108004500004e00000000"
    "4011669d0a0000020a00000100050006003a90f9000102030405060708090a0b0c0d0e0f101112131415161718191a1b"
    "1c1d1e1f202122232425262728292a2b2c2d2e2f3031";
const char* const kFragments6[] = {
    "02000000000102000000000281000fa386dd6000000000402c40fd000018000000000000000000000002fd0000180000"
    "000000000000000000011100000101234567c35012b5006ca58b080000000003e8005254000000015254000000f10800"
    "4500004e000000004011669d0a0000020a00000100050006003a",
    "02000000000102000000000281000fa386dd60000000003c2c40fd000018000000000000000000000002fd0000180000"
    "00000000000000000001110000380123456790f9000102030405060708090a0b0c0d0e0f101112131415161718191a1b"
    "1c1d1e1f202122232425262728292a2b2c2d2e2f3031"};

constexpr std::uint64_t kSecond = 1'000'000'000, kNow = 1'000 * kSecond;

struct Piece {
  std::uint32_t offset = 0, bytes = 0;  // of the datagram's payload
};

class IpReassemblyTest : public testing::Test {
 protected:
  IpReassemblyTest() : before_(pool.available()), large_before_(pool.available_large()) {}
  void TearDown() override {
    expect_balance();
    reassembly.reset();
    EXPECT_EQ(pool.available(), before_) << "buffers not returned";
    EXPECT_EQ(pool.available_large(), large_before_);
  }
  void expect_balance() {
    const auto c = reassembly->counters();
    EXPECT_EQ(c.taken, taken_);
    EXPECT_EQ(c.taken, c.joined + c.refused + c.expired + c.held());
    EXPECT_EQ(c.reassembled, given_);
    EXPECT_EQ(reassembly->holds(), c.held() != 0);
  }
  // What comes out when `frame` has come in; `room`: behind the frame, as a NIC leaves it.
  std::optional<Bytes> take(const Bytes& frame, std::uint64_t now = kNow) {
    Packet packet;
    EXPECT_EQ(pool.allocate(&packet, 1), 1u);
    std::memcpy(packet.data, frame.data(), frame.size());
    packet.length = static_cast<std::uint32_t>(frame.size());
    packet.tailroom -= packet.length;
    EXPECT_TRUE(IpReassembly::is_fragment(packet));
    ++taken_;
    if (!reassembly->take(packet, now)) return std::nullopt;
    ++given_;
    Bytes bytes(packet.data, packet.data + packet.length);
    is_large = pool.is_large(packet.buffer);
    EXPECT_TRUE(packet.offload.is_plain());
    const auto* begin = static_cast<const std::uint8_t*>(static_cast<rte_mbuf*>(packet.buffer)->buf_addr);
    EXPECT_EQ(packet.headroom, packet.data - begin);
    Packet* one = &packet;
    pool.free(&one, 1);
    return bytes;
  }
  // All but the last give nothing; the last one's result.
  std::optional<Bytes> take_all(const std::vector<Bytes>& fragments) {
    for (std::size_t i = 0; i + 1 < fragments.size(); ++i) EXPECT_FALSE(take(fragments[i]));
    return take(fragments.back());
  }

  MbufPool pool{"frag", 4096};
  std::unique_ptr<IpReassembly> reassembly = std::make_unique<IpReassembly>(pool);
  bool is_large = false;

 private:
  unsigned before_, large_before_;
  std::uint64_t taken_ = 0, given_ = 0;
};

// A frame that is not a fragment, `payload` bytes behind its IP header.
Bytes datagram(bool is_v4, std::size_t payload, std::uint16_t vlan = 0, std::uint8_t tos = 0) {
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac);
  if (vlan != 0) b.vlan(vlan);
  if (is_v4)
    b.ipv4(kRemote4, kLocal4);
  else
    b.ipv6(v6(2), v6(1));
  b.tos(tos).udp(50000, kVxlanPort).payload(payload - 8);
  return b.build();
}
std::size_t layer3_of_frame(const Bytes& frame) { return frame[12] == 0x81 ? 18 : 14; }

// One fragment of it, as RFC 791 and RFC 8200 say. `end`: no more fragments behind.
Bytes fragment(const Bytes& whole, Piece piece, bool end, std::uint16_t id = 7) {
  const std::size_t at = layer3_of_frame(whole);
  const bool is_v4 = whole[at] >> 4 == 4;
  const std::size_t ip_bytes = is_v4 ? view<Ipv4Header>(&whole[at])->header_length() : sizeof(Ipv6Header);
  Bytes frame(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(at + ip_bytes));
  const auto* payload = whole.data() + at + ip_bytes;
  if (is_v4) {
    auto* ip = view<Ipv4Header>(&frame[at]);
    ip->identification = Be16(id);
    ip->total_length = Be16(static_cast<std::uint16_t>(ip_bytes + piece.bytes));
    ip->flags_fragment = Be16(static_cast<std::uint16_t>(piece.offset / 8 | (end ? 0 : kIpv4MoreFragments)));
    ip->checksum = {};
    ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(checksum_partial(&frame[at], ip_bytes))));
  } else {
    auto* ip = view<Ipv6Header>(&frame[at]);
    ip->payload_length = Be16(static_cast<std::uint16_t>(8 + piece.bytes));
    const std::uint8_t next = ip->next_header;
    ip->next_header = ip_protocol::kFragment;
    const auto field = static_cast<std::uint16_t>(piece.offset | (end ? 0 : 1));
    const Bytes header{next, 0, static_cast<std::uint8_t>(field >> 8), static_cast<std::uint8_t>(field),
                       0,    0, static_cast<std::uint8_t>(id >> 8),    static_cast<std::uint8_t>(id)};
    frame.insert(frame.end(), header.begin(), header.end());
  }
  for (std::uint32_t i = 0; i < piece.bytes; ++i)
    frame.push_back(payload + piece.offset + i < whole.data() + whole.size() ? payload[piece.offset + i] : 0xee);
  return frame;
}
std::vector<Bytes> fragments(const Bytes& whole, std::uint32_t piece_bytes, std::uint16_t id = 7) {
  const std::size_t at = layer3_of_frame(whole);
  const bool is_v4 = whole[at] >> 4 == 4;
  const std::size_t behind = at + (is_v4 ? view<Ipv4Header>(&whole[at])->header_length() : sizeof(Ipv6Header));
  const auto total = static_cast<std::uint32_t>(whole.size() - behind);
  std::vector<Bytes> list;
  for (std::uint32_t offset = 0; offset < total; offset += piece_bytes)
    list.push_back(fragment(whole, {offset, std::min(piece_bytes, total - offset)}, offset + piece_bytes >= total, id));
  return list;
}
// As `whole` was, but for what fragments carry: the IPv4 identification.
Bytes with_id(Bytes whole, std::uint16_t id = 7) {
  const std::size_t at = layer3_of_frame(whole);
  if (whole[at] >> 4 != 4) return whole;
  auto* ip = view<Ipv4Header>(&whole[at]);
  ip->identification = Be16(id);
  ip->checksum = {};
  const std::uint32_t sum = checksum_partial(&whole[at], ip->header_length());
  ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(sum)));
  return whole;
}

// ---- what is whole again ----

TEST_F(IpReassemblyTest, FragmentsOfScapyInEveryOrder) {
  const auto every_order = [&](const char* whole, std::vector<Bytes> list) {
    std::sort(list.begin(), list.end());
    do {
      const auto out = take_all(list);
      ASSERT_TRUE(out);
      EXPECT_EQ(hex(*out), hex(from_hex(whole)));
    } while (std::next_permutation(list.begin(), list.end()));
  };
  every_order(kWhole4, {from_hex(kFragments4[0]), from_hex(kFragments4[1]), from_hex(kFragments4[2])});
  every_order(kWhole6, {from_hex(kFragments6[0]), from_hex(kFragments6[1])});
  EXPECT_EQ(reassembly->counters().reassembled, 6u + 2u);
  EXPECT_EQ(reassembly->counters().joined, 6u * 3 + 2u * 2);
  EXPECT_FALSE(is_large);
}

TEST_F(IpReassemblyTest, TaggedAndUntaggedUpToEightFragments) {
  for (const bool is_v4 : {true, false})
    for (const std::uint16_t vlan : {0, 4003})
      for (unsigned count = 2; count <= IpReassembly::kMostFragments; ++count) {
        const Bytes whole = datagram(is_v4, count * 160 - 5, vlan);
        auto list = fragments(whole, 160);
        ASSERT_EQ(list.size(), count);
        std::reverse(list.begin(), list.end());
        const auto out = take_all(list);
        ASSERT_TRUE(out) << count;
        EXPECT_EQ(hex(*out), hex(with_id(whole)));
      }
}

TEST_F(IpReassemblyTest, Ipv4OptionsOfTheFirstFragmentStay) {
  FrameBuilder b;
  b.eth(kOurMac, kPeerMac).ipv4(kRemote4, kLocal4).ipv4_options(10).udp(50000, kVxlanPort).payload(500);
  const Bytes whole = b.build();
  const auto out = take_all(fragments(whole, 200));
  ASSERT_TRUE(out);
  EXPECT_EQ(hex(*out), hex(with_id(whole)));
}

TEST_F(IpReassemblyTest, ADatagramThatFillsALargeBuffer) {
  for (const bool is_v4 : {true, false}) {
    const Bytes whole = datagram(is_v4, 9000, 4003);
    const auto out = take_all(fragments(whole, 1360));
    ASSERT_TRUE(out);
    EXPECT_TRUE(*out == with_id(whole));
    EXPECT_TRUE(is_large);
  }
}

TEST_F(IpReassemblyTest, PaddingBehindShortFragmentsIsCutOff) {
  for (const bool is_v4 : {true, false}) {
    const Bytes whole = datagram(is_v4, 110);
    auto list = fragments(whole, 104);
    list[1].resize(std::max<std::size_t>(list[1].size(), 80), 0xaa);
    const auto out = take_all(list);
    ASSERT_TRUE(out);
    EXPECT_EQ(hex(*out), hex(with_id(whole)));
  }
}

TEST_F(IpReassemblyTest, DatagramsUnderWayTogetherDoNotMix) {
  const Bytes a = datagram(true, 300), b = datagram(true, 320), c = datagram(false, 300), d = datagram(false, 320);
  const auto fa = fragments(a, 160, 1), fb = fragments(b, 160, 2), fc = fragments(c, 160, 1), fd = fragments(d, 160, 2);
  for (const auto* list : {&fa, &fb, &fc, &fd}) EXPECT_FALSE(take((*list)[0]));
  EXPECT_EQ(take(fd[1]), d);
  EXPECT_EQ(take(fb[1]), with_id(b, 2));
  EXPECT_EQ(take(fc[1]), c);
  EXPECT_EQ(take(fa[1]), with_id(a, 1));
}

TEST_F(IpReassemblyTest, AFragmentThatIsAllOfItsDatagramIsNotWaitedFor) {  // RFC 6946
  const Bytes whole = datagram(false, 100, 4003);
  EXPECT_EQ(take(fragment(whole, {0, 100}, true)), whole);
}

TEST_F(IpReassemblyTest, CongestionMarksAreKept) {
  const auto merged = [&](bool is_v4, std::uint8_t first, std::uint8_t second) -> int {
    const Bytes one = datagram(is_v4, 300, 0, first), other = datagram(is_v4, 300, 0, second);
    EXPECT_FALSE(take(fragments(one, 160)[0]));
    const auto out = take(fragments(other, 160)[1]);
    if (!out) return -1;
    EXPECT_EQ(*out, with_id(datagram(is_v4, 300, 0, is_v4 ? (*out)[15] : ipv6_traffic_class(&(*out)[14]))));
    return is_v4 ? (*out)[15] : ipv6_traffic_class(&(*out)[14]);
  };
  for (const bool is_v4 : {true, false}) {
    EXPECT_EQ(merged(is_v4, 0xb8 | kEct0, 0xb8 | kCe), 0xb8 | kCe);
    EXPECT_EQ(merged(is_v4, kCe, kEct0), kCe);
    EXPECT_EQ(merged(is_v4, kEct1, kEct1), kEct1);
    EXPECT_EQ(merged(is_v4, 0x20, 0x20), 0x20);
    EXPECT_EQ(merged(is_v4, kNotEct, kCe), -1);
    EXPECT_EQ(merged(is_v4, kCe, kNotEct), -1);
  }
  EXPECT_EQ(reassembly->counters().refused, 8u);
}

// ---- what is refused ----

TEST_F(IpReassemblyTest, OverlapsAreRefusedInEveryOrder) {
  for (const bool is_v4 : {true, false}) {
    const Bytes whole = datagram(is_v4, 240);
    for (const std::vector<Piece>& pieces : {std::vector<Piece>{{0, 80}, {72, 88}, {160, 80}},
                                             {{0, 80}, {80, 160}, {160, 80}}, {{0, 240}, {80, 80}, {160, 80}}}) {
      std::vector<Bytes> list;
      for (const Piece piece : pieces) list.push_back(fragment(whole, piece, piece.offset == 160));
      std::sort(list.begin(), list.end());
      do {
        for (const auto& one : list) EXPECT_FALSE(take(one));
        reassembly->expire(kNow + 2 * kSecond);
        EXPECT_FALSE(reassembly->holds());
      } while (std::next_permutation(list.begin(), list.end()));
    }
  }
  EXPECT_EQ(reassembly->counters().reassembled, 0u);
}

TEST_F(IpReassemblyTest, AnOverlapBehindAWholeDatagramDoesNotReachIt) {
  const Bytes whole = datagram(true, 240);
  EXPECT_FALSE(take(fragment(whole, {0, 160}, false)));
  EXPECT_EQ(take(fragment(whole, {160, 80}, true)), with_id(whole));
  EXPECT_FALSE(take(fragment(whole, {80, 80}, false)));
  reassembly->expire(kNow + 2 * kSecond);
  EXPECT_EQ(reassembly->counters().expired, 1u);
}

TEST_F(IpReassemblyTest, TeardropIsRefused) {  // the second lies inside the first
  const Bytes whole = datagram(true, 64);
  EXPECT_FALSE(take(fragment(whole, {0, 64}, false)));
  EXPECT_FALSE(take(fragment(whole, {24, 8}, true)));
  EXPECT_EQ(reassembly->counters().refused, 2u);
}

TEST_F(IpReassemblyTest, ASecondFirstOrLastFragmentEndsTheDatagram) {
  const Bytes whole = datagram(true, 480);
  const auto list = fragments(whole, 160);
  for (const std::size_t twice : {0u, 2u}) {
    EXPECT_FALSE(take(list[twice]));
    EXPECT_FALSE(take(list[twice]));
    EXPECT_FALSE(reassembly->holds());
  }
  EXPECT_EQ(reassembly->counters().refused, 4u);
}

TEST_F(IpReassemblyTest, ANinthFragmentIsRefusedWithTheOthers) {
  const auto list = fragments(datagram(true, 9 * 80), 80);
  ASSERT_EQ(list.size(), 9u);
  for (const auto& one : list) EXPECT_FALSE(take(one));
  EXPECT_GE(reassembly->counters().refused, 8u);
  EXPECT_EQ(reassembly->counters().reassembled, 0u);
}

TEST_F(IpReassemblyTest, NothingLongerThanAnIpPacketIsMade) {  // the "ping of death"
  const Bytes whole = datagram(true, 200);
  for (const std::uint32_t bytes : {8u, 16u, 160u}) {
    EXPECT_FALSE(take(fragment(whole, {0, 160}, false)));
    EXPECT_FALSE(take(fragment(whole, {0x1fff * 8, bytes}, true)));
  }
  const Bytes six = datagram(false, 200);
  EXPECT_FALSE(take(fragment(six, {0x1fff * 8, 8}, true)));
  EXPECT_EQ(reassembly->counters().refused, 3u + 2u + 1u) << "each too long one, and the first ones that came twice";
}

TEST_F(IpReassemblyTest, FragmentsThatCannotBeAreRefusedAtOnce) {
  const Bytes whole = datagram(true, 300), six = datagram(false, 300);
  unsigned refused = 0;
  const auto refuses = [&](Bytes frame) {
    EXPECT_FALSE(take(frame));
    EXPECT_FALSE(reassembly->holds());
    EXPECT_EQ(reassembly->counters().refused, ++refused);
  };
  refuses(fragment(whole, {0, 161}, false));   // not a multiple of 8
  refuses(fragment(six, {0, 161}, false));
  refuses(fragment(whole, {160, 0}, true));    // nothing in it
  refuses(fragment(six, {160, 0}, true));
  Bytes bad = fragment(whole, {0, 160}, false);
  bad[14 + 8] ^= 1;                            // header checksum
  refuses(bad);
  bad = fragment(whole, {0, 160}, false);
  bad[14] = 0x44;                              // header of 16 bytes
  refuses(bad);
  bad = fragment(six, {0, 160}, false);
  bad[14] = 0x40;                              // version
  refuses(bad);
}

TEST_F(IpReassemblyTest, NeighbourDiscoveryInFragmentsIsRefused) {  // RFC 6980 section 5
  for (const std::uint8_t type : {128, 133, 134, 135, 136, 137, 143}) {
    const Bytes whole = FrameBuilder().eth(kOurMac, kPeerMac).ipv6(v6(2), v6(1)).icmp6(type, Bytes(300, 1)).build();
    const bool is_refused = type >= 133 && type <= 137;
    const auto before = reassembly->counters();
    EXPECT_EQ(take(fragment(whole, {0, 304}, true)).has_value(), !is_refused) << int{type} << ", all in one";
    const auto list = fragments(whole, 160);
    ASSERT_EQ(list.size(), 2u);
    EXPECT_FALSE(take(list[0]));
    EXPECT_EQ(take(list[1]).has_value(), !is_refused) << int{type};
    EXPECT_EQ(reassembly->counters().refused - before.refused, is_refused ? 3u : 0u);
    EXPECT_FALSE(reassembly->holds());
  }
}

TEST_F(IpReassemblyTest, FragmentsCutShortAreRefused) {
  for (const bool is_v4 : {true, false}) {
    const Bytes one = fragments(datagram(is_v4, 300, 4003), 160)[0];
    const std::size_t least = 18 + (is_v4 ? 20 : 48);
    for (std::size_t length = least; length < one.size(); ++length)
      EXPECT_FALSE(take(Bytes(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(length))));
    EXPECT_FALSE(reassembly->holds());
  }
}

TEST_F(IpReassemblyTest, OnlyFragmentsOfUdpAndIcmpAreItsBusiness) {
  HeapPool heap;
  const auto is_fragment = [&](const Bytes& frame) {
    const Packet packet = heap.receive(frame);
    const bool is = IpReassembly::is_fragment(packet);
    heap.give_back(packet.buffer);
    return is;
  };
  for (const bool is_v4 : {true, false})
    for (const std::uint16_t vlan : {0, 4003}) {
      const Bytes whole = datagram(is_v4, 300, vlan);
      EXPECT_FALSE(is_fragment(whole));
      for (const auto& one : fragments(whole, 160)) {
        EXPECT_TRUE(is_fragment(one));
        Bytes other = one;
        std::uint8_t& protocol = other[layer3_of_frame(whole) + (is_v4 ? 9 : 40)];
        protocol = is_v4 ? ip_protocol::kIcmp : ip_protocol::kIcmpv6;
        EXPECT_TRUE(is_fragment(other));
        protocol = ip_protocol::kTcp;
        EXPECT_FALSE(is_fragment(other));
        const std::size_t least = layer3_of_frame(whole) + (is_v4 ? 20 : 48);
        for (std::size_t length = 0; length < one.size(); ++length) {
          const Bytes cut(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(length));
          EXPECT_EQ(is_fragment(cut), length >= least);
        }
      }
    }
  const auto eth = [] { return FrameBuilder().eth(kOurMac, kPeerMac); };
  EXPECT_FALSE(is_fragment(eth().ipv4(kRemote4, kLocal4).dont_fragment().udp(1, 2).build()));
  EXPECT_FALSE(is_fragment(eth().arp(1, kPeerMac, kRemote4, {}, kLocal4).build()));
  EXPECT_FALSE(is_fragment(eth().vlan(1).vlan(2).ipv4(kRemote4, kLocal4).fragment(1).udp(1, 2).build()));
}

// ---- limits ----

TEST_F(IpReassemblyTest, WhatIsNotWholeAfterASecondGoesBack) {
  const Bytes whole = datagram(true, 480);
  const auto list = fragments(whole, 160);
  EXPECT_FALSE(take(list[0], kNow));
  EXPECT_FALSE(take(list[1], kNow + kSecond / 2));
  reassembly->expire(kNow + kSecond);
  EXPECT_EQ(reassembly->counters().held(), 2u) << "a second after the first, not more";
  reassembly->expire(kNow + kSecond + 1);
  EXPECT_EQ(reassembly->counters().expired, 2u);
  EXPECT_FALSE(reassembly->holds());
  EXPECT_FALSE(take(list[2], kNow + kSecond + 2)) << "too late: the others are gone";
  EXPECT_FALSE(take(fragments(whole, 160, 9)[0], kNow + 3 * kSecond)) << "taking one expires others too";
  EXPECT_EQ(reassembly->counters().expired, 3u);
}

TEST_F(IpReassemblyTest, NoMoreDatagramsThanTheLimitAreUnderWay) {
  const Bytes whole = datagram(true, 300);
  for (std::uint16_t id = 0; id < 4 * IpReassembly::kMostDatagrams; ++id)
    EXPECT_FALSE(take(fragments(whole, 160, id)[0]));
  auto c = reassembly->counters();
  EXPECT_LE(c.held(), IpReassembly::kMostDatagrams);
  EXPECT_GE(c.held(), IpReassembly::kMostDatagrams * 3 / 4) << "a hash table need not fill to the last place";
  EXPECT_EQ(c.refused, c.taken - c.held());
  reassembly->expire(kNow + 2 * kSecond);
  EXPECT_EQ(reassembly->counters().held(), 0u);
  const auto list = fragments(whole, 160, 1);
  EXPECT_FALSE(take(list[1], kNow + 2 * kSecond));
  EXPECT_TRUE(take(list[0], kNow + 2 * kSecond)) << "there is room again";
}

TEST_F(IpReassemblyTest, WhatIsUnderWayAtTheEndGoesBackToThePool) {
  for (std::uint16_t id = 0; id < 100; ++id) {
    const auto list = fragments(datagram(id % 2 != 0, 720), 160, id);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_FALSE(take(list[i]));
  }
  EXPECT_EQ(reassembly->counters().held(), 400u);  // TearDown() counts buffers
}

TEST_F(IpReassemblyTest, WithoutALargeBufferADatagramIsRefusedNotCut) {
  std::vector<Packet> all(pool.available_large());
  const unsigned got = pool.allocate_large(all.data(), static_cast<unsigned>(all.size()));
  const auto list = fragments(datagram(true, 9000), 1360);
  EXPECT_FALSE(take_all(list));
  EXPECT_EQ(reassembly->counters().refused, list.size());
  for (unsigned i = 0; i < got; ++i) {
    Packet* one = &all[i];
    pool.free(&one, 1);
  }
}

// Whatever comes, what is given back consists of exactly the fragments that fit together, each once.
TEST_F(IpReassemblyTest, RandomFragmentsMakeNothingFalse) {
  std::mt19937 random(11);
  std::uint64_t joined = 0;
  unsigned whole_ones = 0;
  for (int round = 0; round < 20'000; ++round) {
    const bool is_v4 = random() % 2 != 0;
    const Bytes whole = datagram(is_v4, 8 * (4 + random() % 8) + random() % 8);
    const std::uint32_t total = static_cast<std::uint32_t>(whole.size()) - (is_v4 ? 34 : 54);
    const std::uint32_t offset = random() % 4 * 16;
    const bool is_last = random() % 3 == 0 && (offset != 0 || !is_v4);  // else it is no fragment
    const std::uint32_t bytes = is_last && offset < total ? total - offset : (1 + random() % 3) * 16;
    const auto out = take(fragment(whole, {offset, bytes}, is_last, static_cast<std::uint16_t>(random() % 16)),
                          kNow + static_cast<std::uint64_t>(round) * 20'000'000);
    if (!out) continue;
    ++whole_ones;
    const std::size_t header = is_v4 ? 34 : 54;
    const std::size_t said = is_v4 ? view<Ipv4Header>(&(*out)[14])->total_length.host()
                                   : view<Ipv6Header>(&(*out)[14])->payload_length.host() + sizeof(Ipv6Header);
    ASSERT_EQ(said, out->size() - 14);
    for (std::size_t i = header + 8; i < out->size(); ++i)  // every byte is at its place, or beyond its datagram's end
      ASSERT_TRUE((*out)[i] == static_cast<std::uint8_t>(i - header - 8) || (*out)[i] == 0xee);
    const auto now_joined = reassembly->counters().joined;
    ASSERT_GT(now_joined, joined);
    joined = now_joined;
  }
  EXPECT_GT(whole_ones, 100u);
  expect_balance();
}

}  // namespace
}  // namespace vx
