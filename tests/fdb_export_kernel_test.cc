// SPDX-License-Identifier: Apache-2.0
// What rtnetlink_fdb.h's writes do to a real bridge and vxlan device, in a namespace of the test's own. Needs root.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "control/fdb_export.h"

namespace vx::control {
namespace {

using namespace std::chrono_literals;

MacAddress mac(std::uint64_t n) { return MacAddress::from_u48(0x525400000000 + n); }
IpAddress address(std::uint8_t last) {
  const std::uint8_t bytes[4] = {127, 0, 0, last};
  return IpAddress::from_v4_bytes(bytes);
}

class RealKernel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0) return;
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    // Ages of 2 s: gone when not made young again, within the test's patience.
    // No frames but the test's own: rows that come by themselves would disturb a dump.
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; ip link set lo up; ip link add br0 type bridge ageing_time 200; ip link set br0 up;"
       "for i in 1 2; do ip link add p$i type veth peer name q$i; ip link set p$i master br0; ip link set p$i up; ip link set q$i up; done;"
       "ip link add vx0 type vxlan id 7 local 127.0.0.1 dstport 4789 ageing 300; ip link set vx0 master br0; ip link set vx0 up");
    std::this_thread::sleep_for(300ms);
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for a namespace";
    kernel_ = std::make_unique<RouteSocket>();
    bridge_ = index("br0"), p1_ = index("p1"), p2_ = index("p2"), tunnel_ = index("vx0");
    ASSERT_NE(tunnel_, 0);
  }
  void TearDown() override {
    if (kernel_) sh("for i in vx0 p1 p2; do ip link set $i down; ip link set $i up; done");  // forgets what is not static
  }
  static void sh(const std::string& command) { EXPECT_GE(std::system(command.c_str()), 0); }
  static int index(const char* name) { return static_cast<int>(::if_nametoindex(name)); }

  // Fails the test for a write that fails.
  void write(const std::vector<BridgeFdbWrite>& writes) {
    EXPECT_EQ(kernel_->write_bridge_fdb(writes, [](std::size_t i, int error) { ADD_FAILURE() << "write " << i << ": " << std::strerror(error); }), 0);
  }
  [[nodiscard]] int error_of(const BridgeFdbWrite& one) {
    int found = 0;
    EXPECT_EQ(kernel_->write_bridge_fdb({&one, 1}, [&](std::size_t, int error) { found = error; }), 0);
    return found;
  }
  std::optional<BridgeFdbEntry> find(const MacAddress& wanted, bool is_tunnel = false) {
    std::optional<BridgeFdbEntry> found;
    EXPECT_EQ(kernel_->bridge_fdb(bridge_, [&](const BridgeFdbEntry& entry) {
      if (entry.mac == wanted && (entry.master == 0) == is_tunnel) found = entry;
    }), 0);
    return found;
  }
  // A frame as the guest behind that port would send it.
  static void frame_at(const char* far_end, const MacAddress& source) {
    const int fd = ::socket(AF_PACKET, SOCK_RAW, 0);
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = index(far_end);
    std::array<std::uint8_t, 60> frame{};
    std::fill_n(frame.begin(), 6, 0xff);
    std::copy(source.bytes.begin(), source.bytes.end(), frame.begin() + 6);
    frame[12] = 0x88, frame[13] = 0xb5;  // local experimental
    EXPECT_EQ(::sendto(fd, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to), 60);
    ::close(fd);
  }

  std::unique_ptr<RouteSocket> kernel_;
  int bridge_ = 0, p1_ = 0, p2_ = 0, tunnel_ = 0;
};

TEST_F(RealKernel, ALearnedOneIsLikeOneWhoseFrameHasCome) {
  write({{p1_, mac(1), 0, {}, false, false}});
  const auto at = find(mac(1));
  ASSERT_TRUE(at);
  EXPECT_EQ(at->ifindex, p1_);
  EXPECT_EQ(at->master, bridge_);
  EXPECT_EQ(at->state & (NUD_NOARP | NUD_PERMANENT), 0);
  EXPECT_EQ(at->flags & NTF_EXT_LEARNED, 0);
  frame_at("q2", mac(1));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(find(mac(1))->ifindex, p2_) << "a real frame moves it";
  EXPECT_EQ(error_of({p1_, mac(1), 0, {}, false, true}), ENOENT) << "a delete of where it was does nothing";
  ASSERT_TRUE(find(mac(1)));
  write({{p1_, mac(1), 0, {}, false, false}});
  EXPECT_EQ(find(mac(1))->ifindex, p1_);
  write({{p1_, mac(1), 0, {}, false, true}});
  EXPECT_FALSE(find(mac(1)));
}

TEST_F(RealKernel, WhatIsWrittenAgainStaysYoungTheRestAges) {
  write({{p1_, mac(1), 0, {}, false, false}, {p1_, mac(2), 0, {}, false, false}, {p1_, mac(3), 0, {}, true, false},
         {tunnel_, mac(4), 0, address(2), false, false}, {tunnel_, mac(5), 0, address(2), false, false}});
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(900ms);
    write({{p1_, mac(1), 0, {}, false, false}, {tunnel_, mac(4), 0, address(2), false, false}});
  }
  ASSERT_TRUE(find(mac(1)));
  EXPECT_EQ(find(mac(1))->updated_s, 0u);
  EXPECT_FALSE(find(mac(2))) << "idle for longer than 2 s";
  ASSERT_TRUE(find(mac(3)));
  EXPECT_NE(find(mac(3))->state & NUD_NOARP, 0);
  ASSERT_TRUE(find(mac(4), true) && find(mac(5), true));
  // `updated` is what ages since 6.14, `used` was before.
  EXPECT_EQ(std::min(find(mac(4), true)->updated_s, find(mac(4), true)->used_s), 0u);
  EXPECT_GE(find(mac(5), true)->updated_s, 4u);
  EXPECT_EQ(find(mac(4), true)->state & (NUD_NOARP | NUD_PERMANENT), 0);
  write({{p1_, mac(3), 0, {}, true, true}});
}

TEST_F(RealKernel, ATunnelRowMovesAndIsDeletedOnlyWhereItPoints) {
  write({{tunnel_, mac(1), 0, address(2), false, false}, {tunnel_, mac(1), 0, {}, false, false}});
  ASSERT_TRUE(find(mac(1)) && find(mac(1), true));
  EXPECT_EQ(find(mac(1))->ifindex, tunnel_);
  EXPECT_EQ(find(mac(1), true)->dst, address(2));
  write({{tunnel_, mac(1), 0, address(3), false, false}});
  EXPECT_EQ(find(mac(1), true)->dst, address(3));
  (void)error_of({tunnel_, mac(1), 0, address(2), false, true});  // 0 on 6.18, though nothing was deleted
  ASSERT_TRUE(find(mac(1), true));
  write({{tunnel_, mac(1), 0, address(3), false, true}});
  EXPECT_FALSE(find(mac(1), true));
}

TEST_F(RealKernel, ALocalFramesWriteTakesAnExternalOneOver) {
  const std::string text = "52:54:00:00:00:01";
  sh("bridge fdb add " + text + " dev vx0 master extern_learn");
  ASSERT_TRUE(find(mac(1)));
  EXPECT_NE(find(mac(1))->flags & NTF_EXT_LEARNED, 0);
  write({{p1_, mac(1), 0, {}, false, false}});
  EXPECT_EQ(find(mac(1))->ifindex, p1_);
  EXPECT_EQ(find(mac(1))->flags & NTF_EXT_LEARNED, 0);
}

TEST_F(RealKernel, ErrorsNameTheWriteAndDoNotStopTheOthers) {
  std::vector<BridgeFdbWrite> writes;
  for (std::uint64_t i = 1; i <= 1000; ++i) writes.push_back({i % 100 == 0 ? 9999 : p1_, mac(i), 0, {}, false, false});
  std::map<std::size_t, int> errors;
  EXPECT_EQ(kernel_->write_bridge_fdb(writes, [&](std::size_t index, int error) { errors[index] = error; }), 0);
  EXPECT_EQ(errors.size(), 10u);
  for (const auto& [index, error] : errors) {
    EXPECT_EQ(index % 100, 99u);
    EXPECT_EQ(error, ENODEV);
  }
  std::set<std::uint64_t> there;  // a dump has a row twice when another came meanwhile
  EXPECT_EQ(kernel_->bridge_fdb(bridge_, [&](const BridgeFdbEntry& entry) {
    if (entry.ifindex == p1_ && entry.mac.to_u48() > mac(0).to_u48() && entry.mac.to_u48() <= mac(1000).to_u48()) there.insert(entry.mac.to_u48());
  }), 0);
  EXPECT_EQ(there.size(), 990u);
}

TEST_F(RealKernel, EventsAreParsed) {
  ASSERT_TRUE(kernel_->read_events([](const nlmsghdr*) {}));
  write({{tunnel_, mac(1), 0, address(2), false, false}, {p1_, mac(2), 0, {}, true, false}, {p1_, mac(2), 0, {}, true, true}});
  std::vector<std::pair<std::uint16_t, BridgeFdbEntry>> seen;
  ASSERT_TRUE(kernel_->read_events([&](const nlmsghdr* message) {
    const auto entry = parse_bridge_fdb(message);
    if (entry && (entry->mac == mac(1) || entry->mac == mac(2))) seen.emplace_back(message->nlmsg_type, *entry);
  }));
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].second.dst, address(2));
  EXPECT_EQ(seen[0].second.ifindex, tunnel_);
  EXPECT_EQ(seen[1].first, RTM_NEWNEIGH);
  EXPECT_NE(seen[1].second.state & NUD_NOARP, 0);
  EXPECT_EQ(seen[1].second.master, bridge_);
  EXPECT_EQ(seen[2].first, RTM_DELNEIGH);
}

// All together, and how fast: what the learner knows is in the kernel.
TEST_F(RealKernel, TheExportKeepsARealBridgeTrue) {
  sh("ip link set br0 type bridge ageing_time 30000");  // nothing ages however slow the machine
  Learner learner;
  FdbExport exported(learner, [&](Location location) {
    if (location.is_vtep()) return std::optional(FdbExport::Place{tunnel_, address(static_cast<std::uint8_t>(2 + location.index()))});
    return std::optional(FdbExport::Place{location.index() == 0 ? p1_ : p2_, std::nullopt});
  });
  exported.set({300, false});
  learner.set_on_changed([&](std::uint64_t key) { exported.changed(key); });
  constexpr std::uint64_t kMany = 10'000;
  for (std::uint64_t i = 1; i <= kMany; ++i) (void)learner.learn(fdb_key(1, mac(i)), i % 4 == 0 ? Location::vtep(i % 8 / 4) : Location::port(i % 2));
  std::size_t count = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (exported.waiting() > 0) {
    const auto writes = exported.take_writes(1000, 2000);
    count += writes.size();
    write(writes);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  RecordProperty("writes_per_second", std::to_string(static_cast<double>(count) / took.count()));
  EXPECT_EQ(count, kMany + kMany / 4);
  const auto check = [&] {
    std::map<std::uint64_t, BridgeFdbEntry> bridge, tunnel;
    EXPECT_EQ(kernel_->bridge_fdb(bridge_, [&](const BridgeFdbEntry& entry) {
      if (entry.mac.to_u48() > mac(0).to_u48() && entry.mac.to_u48() <= mac(kMany).to_u48()) (entry.master == 0 ? tunnel : bridge)[entry.mac.to_u48()] = entry;
    }), 0);
    std::size_t remote = 0, wrong = 0;
    learner.for_each([&](std::uint64_t key, const FdbEntry& entry) {
      const auto at = bridge.find(fdb_key_mac(key).to_u48());
      const int wanted = entry.location.is_vtep() ? tunnel_ : entry.location.index() == 0 ? p1_ : p2_;
      wrong += at == bridge.end() || at->second.ifindex != wanted;
      if (!entry.location.is_vtep()) return;
      ++remote;
      const auto self = tunnel.find(fdb_key_mac(key).to_u48());
      wrong += self == tunnel.end() || self->second.dst != address(static_cast<std::uint8_t>(2 + entry.location.index()));
    });
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(bridge.size(), learner.size());
    EXPECT_EQ(tunnel.size(), remote);
  };
  check();
  for (std::uint64_t i = 101; i <= kMany; ++i) learner.expire(fdb_key(1, mac(i)));
  for (std::uint64_t i = 1; i <= 100; ++i) (void)learner.learn(fdb_key(1, mac(i)), i % 2 == 0 ? Location::port(1) : Location::vtep(1));
  exported.changed_all();
  while (exported.waiting() > 0) {
    const auto writes = exported.take_writes(2000, 2000);
    EXPECT_EQ(kernel_->write_bridge_fdb(writes, [&](std::size_t i, int error) { EXPECT_TRUE(writes[i].is_delete && error == ENOENT) << error; }), 0);
  }
  check();
  sh("ip link set br0 type bridge ageing_time 200");
}

}  // namespace
}  // namespace vx::control
