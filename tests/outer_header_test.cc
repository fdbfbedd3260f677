// SPDX-License-Identifier: Apache-2.0
// Checksum, flow hash and the VTEP table with its prebuilt outer headers.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "dataplane/checksum.h"
#include "dataplane/flow_hash.h"
#include "dataplane/vtep_table.h"

namespace vx {
namespace {

std::uint16_t naive_sum(const std::vector<std::uint8_t>& bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2)
    sum += bytes[i] | (i + 1 < bytes.size() ? bytes[i + 1] << 8 : 0);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

TEST(Checksum, AgreesWithTheDefinitionAtEveryLength) {
  std::mt19937 random(1);
  for (std::size_t length = 0; length < 700; ++length) {
    std::vector<std::uint8_t> bytes(length);
    for (auto& b : bytes) b = static_cast<std::uint8_t>(length % 3 == 0 ? 0xff : random());
    EXPECT_EQ(checksum_fold(checksum_partial(bytes.data(), length)), naive_sum(bytes)) << length;
  }
}

TEST(Checksum, Rfc1071ExampleSumsToItsPrintedValue) {
  // RFC 1071 section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
  const std::uint8_t bytes[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(Be16::from_raw(checksum_fold(checksum_partial(bytes, 8))).host(), 0xddf2);
}

TEST(Checksum, SeedsFromEvenPiecesGiveTheWhole) {
  std::vector<std::uint8_t> bytes(513, 0xfe);
  const auto pieces = checksum_partial(bytes.data() + 200, 313, checksum_partial(bytes.data(), 200));
  EXPECT_EQ(checksum_fold(pieces), naive_sum(bytes));
}

TEST(Checksum, UpdateAgreesWithRecomputing) {  // RFC 1624
  std::mt19937 random(2);
  for (int i = 0; i < 10000; ++i) {
    std::uint16_t words[4];
    for (auto& w : words) w = static_cast<std::uint16_t>(random());
    const auto sum = [&] {
      return static_cast<std::uint16_t>(~checksum_fold(checksum_partial(reinterpret_cast<std::uint8_t*>(words), 8)));
    };
    const auto before = sum();
    const auto from = words[2];
    words[2] = static_cast<std::uint16_t>(random());
    EXPECT_EQ(checksum_update(before, from, words[2]), sum());
  }
}

// Ethernet with `tags` 802.1Q tags, IPv4, ports.
std::vector<std::uint8_t> ipv4_frame(unsigned tags, std::uint16_t flags_fragment, std::uint16_t port) {
  std::vector<std::uint8_t> f(12, 2);
  for (unsigned i = 0; i < tags; ++i) f.insert(f.end(), {0x81, 0x00, 0x00, 100});
  f.insert(f.end(), {0x08, 0x00, 0x45, 0, 0, 28, 0, 1, static_cast<std::uint8_t>(flags_fragment >> 8),
                     static_cast<std::uint8_t>(flags_fragment), 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
                     static_cast<std::uint8_t>(port >> 8), static_cast<std::uint8_t>(port), 0, 53, 0, 8, 0, 0});
  return f;
}
std::uint32_t hash_of(const std::vector<std::uint8_t>& f) { return flow_hash(f.data(), static_cast<std::uint32_t>(f.size())); }

TEST(FlowHash, TagsDoNotChangeAFlowsHash) {
  EXPECT_EQ(hash_of(ipv4_frame(0, 0, 1000)), hash_of(ipv4_frame(1, 0, 1000)));
  EXPECT_EQ(hash_of(ipv4_frame(0, 0, 1000)), hash_of(ipv4_frame(2, 0, 1000)));
  EXPECT_NE(hash_of(ipv4_frame(0, 0, 1000)), hash_of(ipv4_frame(0, 0, 1001)));
}

TEST(FlowHash, AllFragmentsOfADatagramShareOne) {
  EXPECT_EQ(hash_of(ipv4_frame(0, 0x2000, 1000)), hash_of(ipv4_frame(0, 0x2010, 7)));
  EXPECT_EQ(hash_of(ipv4_frame(0, 0x2000, 1000)), hash_of(ipv4_frame(1, 0x0010, 9)));
}

TEST(FlowHash, FlowsSpreadOverThePortRange) {
  std::vector<unsigned> buckets(64);
  for (unsigned port = 0; port < 6400; ++port) ++buckets[hash_of(ipv4_frame(0, 0, static_cast<std::uint16_t>(port))) >> 26];
  for (auto n : buckets) {
    EXPECT_GT(n, 50u);
    EXPECT_LT(n, 200u);
  }
}

TEST(FlowHash, TruncatedAtEveryLengthReadsNothingBeyond) {  // meaningful under ASan
  const auto whole = ipv4_frame(2, 0, 1);
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    const std::vector<std::uint8_t> cut(whole.begin(), whole.begin() + static_cast<long>(length));
    (void)hash_of(cut);
  }
}

TEST(VtepTable, FindsEveryAddressAndOnlyThose) {
  std::vector<Vtep> vteps(300);
  for (std::size_t i = 0; i < vteps.size(); ++i) {
    vteps[i].exists = i % 3 != 0;
    vteps[i].flood = i % 2 == 0;
    vteps[i].address = IpAddress::v4(172, 18, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i));
  }
  const VtepTable table(vteps);
  for (std::size_t i = 0; i < vteps.size(); ++i)
    EXPECT_EQ(table.find(vteps[i].address), vteps[i].exists ? static_cast<VtepIndex>(i) : kNoIndex) << i;
  EXPECT_EQ(table.find(IpAddress::v4(9, 9, 9, 9)), kNoIndex);
  EXPECT_EQ(table.flood_list().size(), 100u);
  EXPECT_EQ(VtepTable().find(IpAddress::v4(1, 2, 3, 4)), kNoIndex);
}

OuterHeaderFields noble_fields() {
  OuterHeaderFields fields;
  fields.source_mac = {{2, 0, 0, 0, 0, 1}};
  fields.next_hop = {{2, 0, 0, 0, 0, 2}};
  fields.source = IpAddress::v4(172, 18, 1, 1);
  fields.destination = IpAddress::v4(172, 18, 1, 2);
  fields.vni = 1000;
  return fields;
}

// scapy: raw(Ether(dst="02:00:00:00:00:02",src="02:00:00:00:00:01")/Dot1Q(vlan=4003)/IP(src="172.18.1.1",
//   dst="172.18.1.2",flags="DF",id=0,len=0,chksum=0)/UDP(sport=0,dport=4789,len=0,chksum=0)/VXLAN(vni=1000,flags=8))
TEST(OuterHeader, TaggedIpv4IsWhatScapyMakes) {
  auto fields = noble_fields();
  fields.vlan = 4003;
  Vtep vtep;
  build_outer_header(fields, vtep);
  const std::vector<std::uint8_t> golden = {
      0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0x81, 0x00, 0x0f, 0xa3, 0x08, 0x00,
      0x45, 0, 0, 0, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xac, 0x12, 1, 1, 0xac, 0x12, 1, 2,
      0, 0, 0x12, 0xb5, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0x03, 0xe8, 0};
  ASSERT_EQ(vtep.header_length, golden.size());
  EXPECT_EQ(vtep.ip_offset, 18);
  EXPECT_EQ(std::vector<std::uint8_t>(vtep.header(), vtep.header() + vtep.header_length), golden);
}

TEST(OuterHeader, LengthsAreTheContractsOverheads) {
  auto fields = noble_fields();
  Vtep vtep;
  build_outer_header(fields, vtep);
  EXPECT_EQ(vtep.header_length, 50);
  fields.source.bytes[0] = fields.destination.bytes[0] = 0xfd;
  build_outer_header(fields, vtep);
  EXPECT_FALSE(vtep.is_v4);
  EXPECT_EQ(vtep.header_length, 70);
  fields.vlan = 4003;
  build_outer_header(fields, vtep);
  EXPECT_EQ(vtep.header_length, 74);
}

}  // namespace
}  // namespace vx
