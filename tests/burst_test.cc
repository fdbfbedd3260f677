// SPDX-License-Identifier: Apache-2.0
// What is decided once for frames in a row (the same Ethernet header, the same place, the same outer headers) comes out as if each had
// come alone: random bursts into one host, the same frames one by one into another.
#include <random>

#include "dataplane/pipeline.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

constexpr unsigned kBursts = 400, kFrames = 24;

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  unsigned below(unsigned end) { return static_cast<unsigned>(engine_() % end); }
  template <typename T>
  const T& one_of(const std::vector<T>& all) { return all[below(static_cast<unsigned>(all.size()))]; }

 private:
  std::mt19937 engine_;
};

// With and without tags, of VLANs of the port and of others, to all kinds of destinations, from places where the source is and is not.
Bytes random_frame(Random& random, const std::vector<MacAddress>& sources) {
  static const std::vector<MacAddress> destinations{kGuestA, kGuestB, kFar, kFar2, kNobody, kBroadcast, mac(0x0180c2000001), mac(0x0180c2000000)};
  FrameBuilder b;
  b.eth(random.one_of(destinations), random.one_of(sources));
  const std::vector<int> tags{-1, -1, -1, 0, 1, 0x6001, 100, 0x2064, 4095};
  if (const int tag = random.one_of(tags); tag >= 0) b.vlan(static_cast<std::uint16_t>(tag));
  else if (random.below(8) == 0) b.service_vlan(100);
  if (random.below(3) == 0) b.raw(Bytes(random.below(6), std::uint8_t{0x45}));  // barely longer than its headers
  else b.ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(static_cast<std::uint8_t>(random.below(4))).udp(1, 2).payload(random.below(40));
  Bytes frame = b.build();
  if (random.below(12) == 0) frame.resize(random.below(19));  // cut short; empty ones too
  return frame;
}

void learn(TestHost& host) {
  host.learn_all();
  host.learn_all(100);
  host.learn(kGuestB, Location::port(3), FdbValue::kStatic, 1);
}

// Port 3 belongs to a second overlay, VNI 1001.
void add_overlay(TestHost& host) {
  OverlayState second = host.state.overlays[0];
  second.vni = 1001;
  second.fdb = std::make_shared<Fdb>(4096, 7);
  second.ports = {3};
  host.state.overlays.push_back(second);
  host.state.overlays[0].ports = {1, 2};
  host.state.ports[3].overlay = 1;
}

// Bursts of frames into `port`, most of them like the one before. The first host gets each at once, the second one by one.
template <typename Make>
void compare(PortIndex port, unsigned seed, Make&& make) {
  TestHost at_once, alone;
  add_overlay(at_once);
  add_overlay(alone);
  learn(at_once);
  learn(alone);
  Random random(seed);
  Bytes frame;
  for (unsigned burst = 0; burst < kBursts; ++burst) {
    std::vector<Bytes> frames;
    for (unsigned i = 0; i < kFrames; ++i) {
      if (frame.empty() || random.below(3) == 0) frame = make(random);
      frames.push_back(frame);
    }
    at_once.receive(port, frames);
    for (const auto& one : frames) alone.receive(port, one);
    for (PortIndex i = 0; i < 4; ++i) ASSERT_EQ(at_once.sent(i), alone.sent(i)) << "port " << i << " burst " << burst;
    ASSERT_EQ(at_once.counters().drops, alone.counters().drops) << "burst " << burst;
    ASSERT_EQ(at_once.events().size(), alone.events().size()) << "burst " << burst;
    // What moved is put back where it was: the next burst finds it there.
    if (burst % 2 == 0) continue;
    learn(at_once);
    learn(alone);
  }
  EXPECT_NE(at_once.dropped(), 0u);
}

TEST(Burst, OfAGuestComesOutAsItsFramesDoAlone) {
  const std::vector<MacAddress> sources{kGuestA, kGuestA, kGuestA, kNobody, kGuestB, kFar, mac(0), kBroadcast};
  for (unsigned seed = 1; seed <= 3; ++seed) compare(1, seed, [&](Random& random) { return random_frame(random, sources); });
}

TEST(Burst, OfTheTunnelComesOutAsItsFramesDoAlone) {
  const std::vector<MacAddress> sources{kFar, kFar, kFar2, kGuestA, kNobody};
  for (unsigned seed = 1; seed <= 3; ++seed)
    compare(0, seed, [&](Random& random) {
      const IpAddress& peer = random.below(4) == 0 ? kOther4 : kRemote4;
      FrameBuilder outer;
      outer.eth(kOurMac, kPeerMac).ipv4(peer, kLocal4).tos(static_cast<std::uint8_t>(random.below(4)));
      outer.udp(55555, random.below(16) == 0 ? 4790 : kVxlanPort);
      if (random.below(2) == 0) outer.no_checksum();
      static const std::vector<std::uint32_t> vnis{1000, 1000, 1000, 1001, 1002};
      outer.vxlan(random.one_of(vnis));
      Bytes frame = outer.raw(random_frame(random, sources)).build();
      if (random.below(16) == 0) ++frame[random.below(static_cast<unsigned>(frame.size()))];  // damaged
      return frame;
    });
}

}  // namespace
}  // namespace vx
