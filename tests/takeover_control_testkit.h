// SPDX-License-Identifier: Apache-2.0
// A kernel bridge with vxlan and veth ports in a namespace of the test's own, taken over by a whole Control before a
// dataplane with fake ports. The bridge does not filter VLANs: not every kernel that runs this can. Needs root.
#pragma once

#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "control/control.h"
#include "control/requests.h"
#include "control/text.h"
#include "tests/control_testkit.h"

namespace vx::control::testkit {

inline const IpAddress kPeer = IpAddress::v4(172, 18, 1, 2), kThird = IpAddress::v4(172, 18, 1, 3);
inline MacAddress mac(std::uint64_t n) { return MacAddress::from_u48(0x525400000000 + n); }
inline std::uint64_t key_of(std::uint64_t n) { return fdb_key(kOnlyVid, mac(n)); }

inline void sh(const std::string& command) { EXPECT_EQ(std::system(("exec 2>&1; " + command).c_str()), 0) << command; }

class TakenBridge : public ::testing::Test {
 protected:
  static constexpr const char* kMakeBridge =
      "ip link add mainvx type bridge; ip link set mainvx up;"
      "ip link add vx type vxlan id 1000 local 172.18.1.1 dstport 4789; ip link set vx mtu 1332 master mainvx up;"
      "bridge fdb append 00:00:00:00:00:00 dev vx dst 172.18.1.2; ip link set g1 master mainvx; ip link set mainvx mtu 1332";
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for a namespace";
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; ip link set lo up;"
       "for i in wire g1 g2; do ip link add $i type veth peer name far-$i; ip link set $i up; ip link set far-$i up; done;"
       "ip addr add 172.18.1.1/24 dev wire; ip link set wire mtu 1400;"
       "for i in 2 3; do ip neigh add 172.18.1.$i lladdr 02:00:00:00:00:0$i dev wire nud permanent; done");
    sh(kMakeBridge);
    char pattern[] = "/tmp/vxplane-takeover-XXXXXX";
    directory = mkdtemp(pattern);
    config = {config::takeover_of("mainvx")};
    dataplane = std::make_unique<vx::testkit::FakeDataplane>(directory, true);
  }
  void TearDown() override {
    stop_control();
    dataplane.reset();
    if (!directory.empty()) std::filesystem::remove_all(directory);
  }
  void start_control() {
    loop = std::make_unique<EventLoop>();
    control = std::make_unique<Control>(*loop, directory, config, [this] {
      config::LoadAllResult again;
      again.settings = config;
      return again;
    });
    requests = std::make_unique<Requests>(*control);
    loop->run_for(50);
  }
  void stop_control() {
    requests.reset();
    control.reset();
    loop.reset();
  }
  void start_and_wait() {
    start_control();
    ASSERT_TRUE(eventually([&] { return is_armed(); })) << control->bypass_reason();
  }
  // Runs the loop until `is_so`.
  template <typename Condition>
  bool eventually(Condition is_so, Milliseconds within = 5000) {
    for (const Milliseconds end = EventLoop::now() + within; EventLoop::now() < end;) {
      if (is_so()) return true;
      loop->run_for(5);
    }
    return is_so();
  }
  Json ask(const Json& request) {
    std::string reply;
    requests->handle(request, [&reply](std::string line) { reply = std::move(line); });
    return *api::decode(reply);
  }
  Json bypass(const char* command) { return ask({{"object", "bypass"}, {"command", command}}); }
  bool is_armed() { return dataplane->rig().board->fail_open().bypass == 0 && has_port("wire"); }
  bool has_port(const std::string& name) { return dataplane->index_of(name) != kNoIndex; }
  std::vector<IpAddress> remotes() {
    std::vector<IpAddress> all;
    if (dataplane->rig().board->overlays().empty()) return all;
    for (const auto& vtep : dataplane->rig().board->vteps(0))
      if (vtep.flood != 0) all.push_back(vtep.address);
    std::sort(all.begin(), all.end());
    return all;
  }
  std::optional<protocol::FdbRecord> told(std::uint64_t key) {
    for (const auto& record : dataplane->entries())
      if (record.key == key) return record;
    return std::nullopt;
  }
  bool is_told_at(std::uint64_t n, const std::string& port, bool is_static) {
    const auto record = told(key_of(n));
    return record && record->location == Location::port(dataplane->index_of(port)).raw() && ((record->flags & FdbValue::kStatic) != 0) == is_static;
  }
  bool is_told_behind(std::uint64_t n, const IpAddress& address) {
    const auto record = told(key_of(n));
    if (!record || !Location::from_raw(record->location).is_vtep()) return false;
    for (const auto& vtep : dataplane->rig().board->vteps(0))
      if (vtep.index == Location::from_raw(record->location).index()) return vtep.address == address;
    return false;
  }
  // A row of the kernel's.
  std::optional<BridgeFdbEntry> row(std::uint64_t n, bool is_tunnel = false) {
    RouteSocket kernel;
    std::optional<BridgeFdbEntry> found;
    (void)kernel.bridge_fdb(0, [&](const BridgeFdbEntry& entry) {
      if (entry.mac == mac(n) && (entry.master == 0) == is_tunnel) found = entry;
    });
    return found;
  }
  bool is_row_on(std::uint64_t n, const char* device) {
    const auto entry = row(n);
    return entry && entry->ifindex == static_cast<int>(::if_nametoindex(device));
  }
  static std::string text_of(std::uint64_t n) { return format_mac(mac(n)); }
  // A frame as the guest behind that port would send it.
  static void frame_at(const char* far_end, std::uint64_t source) {
    const int fd = ::socket(AF_PACKET, SOCK_RAW, 0);
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = static_cast<int>(::if_nametoindex(far_end));
    std::array<std::uint8_t, 60> frame{};
    std::fill_n(frame.begin(), 6, 0xff);
    std::copy_n(mac(source).bytes.begin(), 6, frame.begin() + 6);
    frame[12] = 0x88, frame[13] = 0xb5;  // local experimental
    EXPECT_EQ(::sendto(fd, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to), 60);
    ::close(fd);
  }

  std::string directory;
  std::vector<config::Settings> config;
  std::unique_ptr<vx::testkit::FakeDataplane> dataplane;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Control> control;
  std::unique_ptr<Requests> requests;
};

}  // namespace vx::control::testkit
