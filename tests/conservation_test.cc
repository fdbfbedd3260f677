// SPDX-License-Identifier: Apache-2.0
// Whatever comes in, every packet goes out in exactly one counted way and every buffer comes back: random bursts,
// the n-th allocation or transmit slot failing for every n, order of survivors.
#include <random>

#include "dataplane/layer3.h"
#include "dataplane/pipeline.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;

class RandomFrames {
 public:
  explicit RandomFrames(unsigned seed) : random_(seed) {}
  unsigned pick(unsigned count) { return static_cast<unsigned>(random_() % count); }
  Bytes guest() {
    static const MacAddress macs[] = {kGuestA, kGuestB, kFar, kFar2, kNobody, kBroadcast, mac(0x3333000000fb),
                                      mac(0), mac(0x0180c2000000), mac(0x0180c2000002)};
    FrameBuilder b;
    b.eth(macs[pick(10)], macs[pick(8)]);
    static const std::uint16_t tags[] = {0, 1, 5, 100, 4094, 4095, 0xe000};
    for (unsigned n = pick(3); n > 0; --n) pick(4) == 0 ? b.service_vlan(tags[pick(7)]) : b.vlan(tags[pick(7)]);
    const auto ecn = static_cast<std::uint8_t>(pick(4));
    const std::size_t payload = pick(8) == 0 ? 1250 + pick(200) : pick(80);
    switch (pick(4)) {
      case 0: b.ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)).tos(ecn).udp(1, 2).payload(payload); break;
      case 1: b.ipv6(v6(7), v6(8)).tos(ecn).udp(1, 2).payload(payload); break;
      case 2: b.arp(1, kGuestA, kLocal4, mac(0), kRemote4); break;
      default: b.payload(payload); break;
    }
    return damaged(b.build());
  }
  Bytes underlay() {
    FrameBuilder b;
    b.eth(pick(8) == 0 ? kBroadcast : kOurMac, kPeerMac);
    static const IpAddress peers[] = {kRemote4, kOther4, kLocal4, IpAddress::v4(9, 9, 9, 9), kRemote4, kRemote4};
    if (pick(10) == 0) return damaged(b.arp(1, kPeerMac, kRemote4, mac(0), kLocal4).build());
    if (pick(10) == 0) return damaged(b.ipv4(kRemote4, kLocal4).icmp4(8, 20).build());
    b.ipv4(peers[pick(6)], pick(10) == 0 ? kOther4 : kLocal4).tos(static_cast<std::uint8_t>(pick(4)));
    b.udp(55555, pick(10) == 0 ? 53 : 4789);
    if (pick(4) == 0) b.no_checksum();
    b.vxlan(pick(10) == 0 ? 7 : 1000, pick(20) == 0 ? 0 : kVxlanFlagI).raw(guest());
    return damaged(b.build());
  }

 private:
  Bytes damaged(Bytes frame) {
    if (pick(10) == 0 && !frame.empty()) frame.resize(pick(static_cast<unsigned>(frame.size())));
    if (pick(10) == 0 && !frame.empty()) frame[pick(static_cast<unsigned>(frame.size()))] ^= static_cast<std::uint8_t>(1u << pick(8));
    return frame;
  }
  std::mt19937 random_;
};

void randomise_host(TestHost& host, RandomFrames& random) {
  host.learn_all();
  host.learn_all(100);
  host.learn(kNobody, Location(), FdbValue::kStatic | FdbValue::kBlackhole, 100);
  host.state.underlay.own_address = random.pick(2) == 0;
  host.state.overlays[0].accept_unknown_vteps = random.pick(2) == 0;
  host.state.ports[1].storm_pps = random.pick(3) == 0 ? 1000 : 0;
  host.set_vlans(2, vlans(100, 1, 200));
  host.set_vlans(3, vlans(kNoPvid, 100, 100));
}

TEST(Conservation, RandomBurstsBalanceAndReturnEveryBuffer) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomFrames random(seed);
    TestHost host;
    randomise_host(host, random);
    std::uint64_t received = 0;
    for (int burst = 0; burst < 40; ++burst) {
      host.now = Moment::at(host.now.ns + random.pick(20'000'000));
      for (auto& port : host.ports) port->accept = random.pick(4) == 0 ? random.pick(30) : 1000;
      host.pool.fail_from(random.pick(4) == 0 ? 1 + random.pick(20) : 0);
      const auto port = static_cast<PortIndex>(random.pick(4));
      std::vector<Bytes> frames(1 + random.pick(kMaxBurst));
      for (auto& frame : frames) frame = port == 0 ? random.underlay() : random.guest();
      received += frames.size();
      host.receive(port, frames);
    }
    const auto totals = totals_of(host.counters());
    EXPECT_EQ(totals.received, received);
    EXPECT_TRUE(totals.balances());
    std::uint64_t at_ports = 0;
    for (const auto& port : host.counters().ports) at_ports += port.rx_dropped + port.tx_dropped;
    EXPECT_EQ(at_ports, totals.dropped) << "each drop is some port's";
    std::uint64_t sent = 0;
    for (const auto& port : host.ports) sent += port->sent.size();
    EXPECT_EQ(sent, totals.sent);
  }
}

// The sequence number of a frame is its last two payload bytes.
TEST(Conservation, SurvivorsKeepTheirOrderPerEgress) {
  TestHost host;
  host.learn_all();
  RandomFrames random(99);
  std::uint16_t number = 0;
  for (int burst = 0; burst < 50; ++burst) {
    std::vector<Bytes> frames(kMaxBurst);
    for (auto& frame : frames) {
      static const MacAddress to[] = {kGuestB, kFar, kBroadcast, kNobody, kGuestA};
      FrameBuilder b;
      b.eth(to[random.pick(5)], random.pick(5) == 0 ? mac(0) : kGuestA).payload(60);
      frame = b.build();
      frame[frame.size() - 2] = static_cast<std::uint8_t>(++number >> 8);
      frame[frame.size() - 1] = static_cast<std::uint8_t>(number);
    }
    host.receive(1, frames);
  }
  for (const PortIndex port : {0, 2, 3}) {
    int last = 0;
    EXPECT_GE(host.sent(port).size(), 500u);
    for (const auto& frame : host.sent(port)) {
      const int n = frame[frame.size() - 2] << 8 | frame[frame.size() - 1];
      EXPECT_GT(n, last);
      last = n;
    }
  }
}

TEST(Conservation, HoldsWhenTheNthCopyCannotBeMadeForEveryN) {
  RandomFrames random(5);
  const std::vector<Bytes> frames(20, guest_frame(kBroadcast, kGuestA).build());
  for (unsigned n = 1; n <= 42; ++n)
    for (const bool from : {false, true}) {
      TestHost host;
      from ? host.pool.fail_from(n) : host.pool.fail_at(n);
      host.receive(1, frames);  // 3 targets: 2 copies a frame
      const std::uint64_t expected = n > 40 ? 0 : from ? 41 - n : 1;
      EXPECT_EQ(host.drops(DropReason::kNoBuffer), expected) << n;
      EXPECT_EQ(host.counters().cloned, 40u);
      EXPECT_EQ(totals_of(host.counters()).sent, 60 - expected);
    }
}

TEST(Conservation, HoldsWhenTheNthTransmitSlotIsMissingForEveryN) {
  std::vector<Bytes> frames;
  for (int i = 0; i < 10; ++i) {
    frames.push_back(guest_frame(kGuestB, kGuestA).build());
    frames.push_back(guest_frame(kFar, kGuestA).build());
    frames.push_back(guest_frame(kBroadcast, kGuestA).build());
  }
  for (const PortIndex port : {0, 2, 3})
    for (unsigned n = 0; n <= 21; ++n) {
      TestHost host;
      host.learn_all();
      host.ports[port]->accept = n;
      host.receive(1, frames);
      const std::uint64_t wanted = port == 3 ? 10 : 20;
      EXPECT_EQ(host.drops(DropReason::kTxFull), n < wanted ? wanted - n : 0) << n;
      EXPECT_EQ(host.counters().ports[port].tx_packets, std::min<std::uint64_t>(n, wanted));
      EXPECT_EQ(host.dropped(), host.drops(DropReason::kTxFull));
    }
}

TEST(Conservation, HoldsForEveryHeadroom) {
  for (std::uint16_t headroom = 0; headroom < 80; ++headroom) {
    TestHost host(false, 4003);
    host.learn_all();
    host.set_vlans(2, vlans(7, 1, 4094));
    host.receive(1, {guest_frame(kGuestB, kGuestA).build(), guest_frame(kFar, kGuestA).build(),
                     guest_frame(kBroadcast, kGuestA).build()},
                 headroom);
    EXPECT_EQ(totals_of(host.counters()).received, 3u);
  }
}

}  // namespace
}  // namespace vx
