// SPDX-License-Identifier: Apache-2.0
// vxplane-traffic's frames against scapy's bytes, their order and numbers, and its command line.
#include "bench/traffic_frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "bench/traffic_options.h"
#include "tests/testkit.h"

namespace vx::traffic {
namespace {

using testkit::Bytes;
using testkit::from_hex;
using testkit::hex;

constexpr std::uint64_t kNow = 0x1122334455667788;
const Outer kOuter{1000, IpAddress::v4(172, 18, 1, 2), IpAddress::v4(172, 18, 1, 1), MacAddress::from_u48(0x020000000002),
                   MacAddress::from_u48(0x020000000001), 4789};

Bytes next(FrameMaker& maker) {
  Bytes frame(maker.length(), 0xee);
  maker.prepare(frame.data());
  maker.write_next(frame.data(), kNow);
  return frame;
}
vxt_stamp stamp_of(const Bytes& frame, const FrameMaker& maker) {
  vxt_stamp stamp;
  std::memcpy(&stamp, frame.data() + maker.header_bytes(), sizeof stamp);
  return stamp;
}
Bytes first(const FrameShape& shape) {
  FrameMaker maker(shape);
  maker.begin(7);
  return next(maker);
}

// scapy: Ether/[Dot1Q]/IP(id=0, flags="DF", ttl=64)/UDP(dport=9, chksum=0)/struct.pack("<HIQI", 0x7876, flow | 7 << 24, now, 0)
TEST(TrafficFrame, IsWhatScapyMakes) {
  EXPECT_EQ(hex(first({})), hex(from_hex("02767800000002767300000008004500002e000040004011ae97c6120001c613000104000009001a0000"
                                         "767800000007887766554433221100000000")));
  FrameShape tagged;
  tagged.size = 70;
  tagged.vlan = 100;
  EXPECT_EQ(hex(first(tagged)), hex(from_hex("02767800000002767300000081000064080045000034000040004011ae91c6120001c6130001040000090020"
                                             "0000767800000007887766554433221100000000000000000000")));
}

TEST(TrafficFrame, InsideVxlanIsWhatScapyMakes) {
  FrameShape shape;
  shape.size = 64;
  shape.vlan = 100;
  shape.outer = kOuter;
  EXPECT_EQ(hex(first(shape)),
            hex(from_hex("020000000001020000000002080045000064000040004011e061ac120102ac120101c00012b500500000080000000003e8000276780000000276"
                         "730000008100006408004500002e000040004011ae97c6120001c613000104000009001a0000767800000007887766554433221100000000")));
}

TEST(TrafficFrame, AFlowPastTheLastPortHasAnotherAddress) {
  FrameShape shape;
  shape.flows = 60002;
  shape.macs = shape.source_macs = 2;
  FrameMaker maker(shape);
  maker.begin(7);
  for (std::uint32_t i = 0; i < maker.flows(); ++i) {
    const Bytes frame = next(maker);
    if ((stamp_of(frame, maker).flow_run & 0xffffff) != 60001) continue;
    EXPECT_EQ(hex(frame), hex(from_hex("02767800000102767300000108004500002e000040004011ae96c6120002c613000104010009001a0000767861ea000788"
                                       "7766554433221100000000")));
    return;
  }
  FAIL() << "no frame of flow 60001";
}

TEST(TrafficFrame, AnnouncementsAreWhatScapyMakes) {
  const MacAddress broadcast = MacAddress::from_u48(0xffffffffffff);
  const Bytes plain = from_hex("ffffffffffff02767300000308004500002e000040004011ae97c6120001c613000104000009001a0000000000000000000000000000"
                               "000000000000");
  EXPECT_EQ(hex(announcement(source_mac(3), broadcast, 0, std::nullopt)), hex(plain));
  const Bytes outer = announcement(source_mac(3), broadcast, 0, kOuter);
  ASSERT_EQ(outer.size(), plain.size() + 50);
  EXPECT_EQ(hex(Bytes(outer.begin() + 50, outer.end())), hex(plain));
}

TEST(TrafficFrame, EachFrameIsOfTheNextFlowAndNumbered) {
  FrameShape shape;
  shape.flows = 8;
  shape.macs = 32;  // as many flows
  FrameMaker maker(shape);
  ASSERT_EQ(maker.flows(), 32u);
  std::vector<std::uint32_t> order;
  for (const std::uint8_t run : {1, 2}) {
    maker.begin(run);
    for (std::uint32_t round = 0; round < 3; ++round) {
      std::set<std::uint32_t> flows;
      std::set<Bytes> macs;
      for (unsigned i = 0; i < 32; ++i) {
        const Bytes frame = next(maker);
        const vxt_stamp stamp = stamp_of(frame, maker);
        EXPECT_EQ(stamp.flow_run >> 24, run);
        EXPECT_EQ(stamp.sequence, round);
        flows.insert(stamp.flow_run & 0xffffff);
        macs.emplace(frame.begin(), frame.begin() + 6);
        if (run == 1 && round == 0) order.push_back(stamp.flow_run & 0xffffff);
      }
      EXPECT_EQ(flows.size(), 32u);
      EXPECT_EQ(macs.size(), 32u);
    }
    EXPECT_THAT(maker.sent(), testing::Each(3u));
  }
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(TrafficFrame, LearningFramesHaveEachASourceOfTheirOwn) {
  for (const bool is_outer : {false, true}) {
    FrameShape shape;
    if (is_outer) shape.outer = kOuter;
    FrameMaker maker(shape);
    maker.learn();
    std::set<Bytes> sources;
    for (unsigned i = 0; i < 1000; ++i) {
      const Bytes frame = next(maker);
      const auto at = frame.begin() + (is_outer ? 56 : 6);
      EXPECT_EQ(*at, 0x02);
      sources.emplace(at, at + 6);
    }
    EXPECT_EQ(sources.size(), 1000u);
  }
}

std::string refusal(std::vector<const char*> words, bool is_whole = true) {
  std::vector<const char*> argv = {"vxplane-traffic"};
  if (is_whole) argv.insert(argv.end(), {"--from", "a:gen", "--to", "b:sink"});
  argv.insert(argv.end(), words.begin(), words.end());
  try {
    (void)parse_options(static_cast<int>(argv.size()), argv.data());
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(TrafficOptions, SayWhatIsWrong) {
  EXPECT_EQ(refusal({}), "");
  EXPECT_EQ(refusal({}, false), "--from is missing");
  EXPECT_EQ(refusal({"--from", "gen", "--to", "b:sink"}, false), "--from gen: expected NETNS:DEV");
  EXPECT_EQ(refusal({"--size", "59"}), "--size 59: expected 60 to 1900");
  EXPECT_EQ(refusal({"--size", "60", "--vlan", "5"}), "--size 60: expected 64 to 1900");
  EXPECT_EQ(refusal({"--seconds", "61"}), "--seconds 61: expected 0.01 to 60");
  EXPECT_EQ(refusal({"--seconds", "nan"}), "--seconds nan: expected 0.01 to 60");
  EXPECT_EQ(refusal({"--macs", "0"}), "--macs 0: expected 1 to 1048576");
  EXPECT_EQ(refusal({"--flows", "-1"}), "--flows -1: expected 1 to 1048576");
  EXPECT_EQ(refusal({"--sender", "dpdk"}), "--sender dpdk: expected af_xdp, af_packet or xdp_live");
  EXPECT_EQ(refusal({"--outer", "1000"}), "--outer 1000: expected VNI,SRC-IP,DST-IP,SRC-MAC,DST-MAC[,PORT]");
  EXPECT_EQ(refusal({"--outer", "1000,1.2.3.4,1.2.3,02:00:00:00:00:01,02:00:00:00:00:02"}), "--outer: 1.2.3: expected an IPv4 address");
  EXPECT_EQ(refusal({"--outer", "1000,1.2.3.4,1.2.3.5,02:00:00:00:00,02:00:00:00:00:02"}), "--outer: 02:00:00:00:00: expected a MAC address");
  EXPECT_EQ(refusal({"--search", "0", "--rate", "5"}), "--search and --rate: only one of them");
  EXPECT_THAT(refusal({"--cpu-send", "1023"}), testing::StartsWith("--cpu-send 1023: "));
  EXPECT_THAT(refusal({"--colour", "red"}), testing::HasSubstr("--colour"));
}

TEST(TrafficOptions, AreTaken) {
  const char* const argv[] = {"vxplane-traffic", "--from", "a:gen", "--to", "/proc/7/ns/net:eth0", "--outer-at-sink",
                              "7,172.18.1.2,172.18.1.1,02:00:00:00:00:02,02:00:00:00:00:01,8472", "--search", "0.001"};
  const TrafficOptions options = parse_options(std::size(argv), argv);
  EXPECT_EQ(options.from.netns, "a");
  EXPECT_EQ(options.to.netns, "/proc/7/ns/net");
  EXPECT_EQ(options.to.device, "eth0");
  EXPECT_EQ(options.sink_vni, 7u);
  ASSERT_TRUE(options.sink_outer);
  EXPECT_EQ(options.sink_outer->port, 8472);
  EXPECT_EQ(options.sink_outer->source, IpAddress::v4(172, 18, 1, 2));
  EXPECT_EQ(options.search, 0.001);
}

}  // namespace
}  // namespace vx::traffic
