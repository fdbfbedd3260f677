// SPDX-License-Identifier: Apache-2.0
// Bundles: what comes out are the outer frames that scapy makes of the same datagrams, whatever the sizes.
#include "dataplane/unbundle.h"

#include <gtest/gtest.h>

#include "dataplane/decap.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using testkit::Bytes;
using testkit::FrameBuilder;

// Made by scapy 2.5.0, VXLAN datagrams of 12, 12 and 9 bytes as
// `Ether(dst="02:00:00:00:00:01",src="02:00:00:00:00:02")/IP(src=
// "172.18.1.2",dst="172.18.1.1",id=0,flags="DF",tos=2)/UDP(sport=50000,dport=4789,chksum=0)/Raw(...)`; with IPv6: tc=2,
// fd00:18::2 to ::1.
constexpr const char* kBundle4 =
    "02000000000102000000000208004502003d00004000"
    "4011e086ac120102ac120101c35012b500290000"
    "080000000003e800a0a1a2a3"
    "080000000003e800b0b1b2b3"
    "080000000003e800c0";
constexpr const char* kFirst4 =
    "02000000000102000000000208004502002800004000"
    "4011e09bac120102ac120101c35012b500140000"
    "080000000003e800a0a1a2a3";
constexpr const char* kLast4 =
    "02000000000102000000000208004502002500004000"
    "4011e09eac120102ac120101c35012b500110000"
    "080000000003e800c0";

struct Rig {
  ~Rig() {
    for (void* buffer : buffers) pool.give_back(buffer);
  }
  Packet& bundle(const Bytes& frame, std::uint16_t udp, std::uint16_t segment_size) {
    packet = pool.receive(frame);
    buffers.push_back(packet.buffer);
    mark_bundle(packet, udp, segment_size);
    return packet;
  }
  Bytes datagram(unsigned i) {
    Packet out;
    EXPECT_EQ(pool.allocate(&out, 1), 1u);
    buffers.push_back(out.buffer);
    const std::uint32_t room = out.tailroom;
    EXPECT_TRUE(fill_from_bundle(packet, i, out));
    EXPECT_EQ(out.length + out.tailroom, room);
    EXPECT_EQ(out.offload.flags, OffloadMeta::kChecksumVerified);
    EXPECT_FALSE(out.offload.is_super_frame());
    return {out.data, out.data + out.length};
  }
  testkit::HeapPool pool;
  std::vector<void*> buffers;
  Packet packet;
};

TEST(Unbundle, EachDatagramIsTheFrameThatScapyMakes) {
  Rig rig;
  rig.bundle(testkit::from_hex(kBundle4), 34, 12).ingress_port = 3;
  ASSERT_EQ(unbundle_count(rig.packet), 3u);
  EXPECT_EQ(rig.datagram(0), testkit::from_hex(kFirst4));
  EXPECT_EQ(rig.datagram(2), testkit::from_hex(kLast4));
  EXPECT_EQ(datagram_of(rig.packet, 1).length, 12u);
  EXPECT_EQ(datagram_of(rig.packet, 1).data[8], 0xb0);
}

TEST(Unbundle, LengthsAreRightOverIpv6AndBehindATag) {
  for (const bool tagged : {false, true})
    for (const bool v6 : {false, true}) {
      Rig rig;
      FrameBuilder outer;
      outer.eth(testkit::kOurMac, testkit::kPeerMac);
      if (tagged) outer.vlan(4003);
      if (v6)
        outer.ipv6(testkit::v6(2), testkit::v6(1));
      else
        outer.ipv4(testkit::kRemote4, testkit::kLocal4).dont_fragment();
      outer.udp(50'000, kVxlanPort).no_checksum();
      const auto udp = static_cast<std::uint16_t>(14 + 4 * tagged + (v6 ? 40 : 20));
      FrameBuilder all = outer, second = outer;
      rig.bundle(all.payload(2500).build(), udp, 1000);
      ASSERT_EQ(unbundle_count(rig.packet), 3u);
      Bytes expected = second.payload(1000).build();
      std::copy(rig.packet.data + udp + 8 + 1000, rig.packet.data + udp + 8 + 2000, expected.begin() + udp + 8);
      EXPECT_EQ(rig.datagram(1), expected);
      EXPECT_EQ(rig.datagram(2).size(), udp + 8u + 500);
    }
}

TEST(Unbundle, CountsForEveryLength) {
  Rig rig;
  const Bytes frame = testkit::outer4().payload(1000).build();  // 1008 bytes behind the UDP header
  Packet& packet = rig.bundle(frame, 34, 1);
  for (unsigned size = 1; size <= 1100; ++size) {
    packet.offload.segment_size = static_cast<std::uint16_t>(size);
    const unsigned count = unbundle_count(packet);
    EXPECT_EQ(count, (1008 + size - 1) / size);
    unsigned bytes = 0;
    for (unsigned i = 0; i < count; ++i) bytes += datagram_of(packet, i).length;
    EXPECT_EQ(bytes, 1008u);
  }
}

TEST(Unbundle, NonsenseHasNoDatagrams) {
  Rig rig;
  Packet& packet = rig.bundle(testkit::outer4().payload(100).build(), 34, 100);
  packet.offload.segment_size = 0;
  EXPECT_EQ(unbundle_count(packet), 0u);
  packet.offload.segment_size = 100;
  packet.length = packet.offload.header_length;
  EXPECT_EQ(unbundle_count(packet), 0u);
}

TEST(Unbundle, ABufferThatIsTooSmallIsLeftAlone) {
  Rig rig;
  rig.bundle(testkit::outer4().payload(5000).build(), 34, 3000);
  Packet out;
  ASSERT_EQ(rig.pool.allocate(&out, 1), 1u);
  rig.buffers.push_back(out.buffer);
  EXPECT_FALSE(fill_from_bundle(rig.packet, 0, out));
  EXPECT_EQ(out.length, 0u);
}

}  // namespace
}  // namespace vx
