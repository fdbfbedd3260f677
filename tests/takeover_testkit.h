// SPDX-License-Identifier: Apache-2.0
// A kernel bridge br0 with two veth ports vxa and vxc, a dataplane that takes its place, and guests at the far ends vxb
// and vxd that count every frame. Needs root.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "dataplane/switchboard.h"
#include "dataplane/worker.h"
#include "tests/port_testkit.h"

namespace vx::testkit {

// What stands in front of frames where they are sent, and how many bytes do where they arrive.
struct Tunnel {
  std::optional<FrameBuilder> outer;
  std::size_t outer_bytes = 0;
};

// Numbered frames from one guest to the other; how often each arrived.
class Traffic {
 public:
  // `gap`: between two frames; at most kInFlight are under way.
  Traffic(const std::string& from, const std::string& to, MacAddress source, MacAddress destination,
          std::chrono::microseconds gap, const Tunnel& tunnel = {})
      : sender_(open(from)), receiver_(open(to)), source_(source), destination_(destination), gap_(gap), tunnel_(tunnel) {
    receiving_ = std::thread([this] { receive(); });
    sending_ = std::thread([this] { send(); });
  }
  ~Traffic() { stop(); }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // Sends no more; waits until everything has arrived, or for a second.
  void stop() {
    if (!sending_.joinable()) return;
    is_sending_ = false;
    sending_.join();
    for (int i = 0; i < 1000 && arrived_ < sent_; ++i) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);  // duplicates
    is_receiving_ = false;
    receiving_.join();
  }
  // After stop():
  [[nodiscard]] std::uint32_t sent() const { return sent_; }
  [[nodiscard]] std::uint32_t lost() const { return static_cast<std::uint32_t>(std::count(begin(), end(), 0)); }
  [[nodiscard]] std::uint32_t doubled() const {
    return static_cast<std::uint32_t>(std::count_if(begin(), end(), [](std::uint8_t n) { return n > 1; }));
  }
  // The longest run of frames that were lost.
  [[nodiscard]] std::uint32_t longest_gap() const {
    std::uint32_t longest = 0, run = 0;
    for (auto n = begin(); n != end(); ++n) longest = std::max(longest, run = *n == 0 ? run + 1 : 0);
    return longest;
  }
  // Frames that arrived behind one sent more than `by` frames later.
  [[nodiscard]] std::uint32_t late() const { return late_; }
  std::uint32_t late_by = ~0u;

 private:
  static constexpr std::uint32_t kMost = 1 << 20, kInFlight = 400;
  static constexpr unsigned kFlows = 16;

  static FileDescriptor open(const std::string& netdev) {
    FileDescriptor fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, Be16(ETH_P_IP).raw()));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = Be16(ETH_P_IP).raw();
    address.sll_ifindex = static_cast<int>(netdev::index(netdev));
    const int one = 1, size = 8 << 20;
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::setsockopt(fd.get(), SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &one, sizeof one), 0);
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return fd;
  }
  [[nodiscard]] std::vector<std::uint8_t>::const_iterator begin() const { return seen_.begin(); }
  [[nodiscard]] std::vector<std::uint8_t>::const_iterator end() const { return seen_.begin() + static_cast<std::ptrdiff_t>(sent_.load()); }

  void send() {
    std::vector<Bytes> frames;
    for (unsigned flow = 0; flow < kFlows; ++flow) {
      frames.push_back(FrameBuilder().eth(destination_, source_).ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
                           .udp(static_cast<std::uint16_t>(5000 + flow), 9999).no_checksum().payload(40).build());
      if (tunnel_.outer) frames.back() = FrameBuilder(*tunnel_.outer).raw(frames.back()).build();
    }
    auto next = std::chrono::steady_clock::now();
    auto last_news = next;
    for (std::uint32_t arrived = 0; is_sending_ && sent_ < kMost;) {
      const auto now = std::chrono::steady_clock::now();
      if (arrived_ != arrived) arrived = arrived_, last_news = now;
      // Lost ones would hold it up for ever.
      if (sent_ > arrived_ + forgiven_ + kInFlight) {  // duplicates: more may have arrived
        if (now - last_news > 20ms) forgiven_ += kInFlight;
        std::this_thread::sleep_for(50us);
        continue;
      }
      Bytes& frame = frames[sent_ % kFlows];
      const std::uint32_t number = sent_;
      std::memcpy(frame.data() + frame.size() - sizeof number, &number, sizeof number);
      if (::send(sender_.get(), frame.data(), frame.size(), 0) < 0) continue;
      ++sent_;
      next += gap_;
      if (next > now) std::this_thread::sleep_until(next);
      else if (now - next > 5ms) next = now;
    }
  }
  void receive() {
    Bytes frame(2048);
    std::uint32_t newest = 0;
    pollfd waiting{receiver_.get(), POLLIN, 0};
    while (is_receiving_) {
      (void)::poll(&waiting, 1, 5);
      for (ssize_t n = 0; (n = ::recv(receiver_.get(), frame.data(), frame.size(), MSG_DONTWAIT)) >= 0;) {
        const std::size_t at = tunnel_.outer_bytes;
        if (n < static_cast<ssize_t>(at + 60) ||
            !std::equal(source_.bytes.begin(), source_.bytes.end(), frame.begin() + static_cast<std::ptrdiff_t>(at) + 6))
          continue;
        std::uint32_t number = 0;
        std::memcpy(&number, frame.data() + n - static_cast<ssize_t>(sizeof number), sizeof number);
        if (number >= kMost) continue;
        if (seen_[number] < 255) ++seen_[number];
        newest = std::max(newest, number);
        if (newest - number > late_by) ++late_;
        ++arrived_;
      }
    }
  }

  FileDescriptor sender_, receiver_;
  MacAddress source_, destination_;
  std::chrono::microseconds gap_;
  Tunnel tunnel_;
  std::atomic<bool> is_sending_{true}, is_receiving_{true};
  std::atomic<std::uint32_t> sent_{0}, arrived_{0};
  std::uint32_t forgiven_ = 0, late_ = 0;
  std::vector<std::uint8_t> seen_ = std::vector<std::uint8_t>(kMost);
  std::thread receiving_, sending_;
};

class TakeoverTest : public PortTest {
 protected:
  void SetUp() override {
    PortTest::SetUp();
    if (IsSkipped()) return;
    sh("ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0 && ip link set br0 up");
    for (const char* pair : {"vxa:vxb", "vxc:vxd"}) {
      const std::string near(pair, 3), far(pair + 4, 3);
      sh("ip link add " + near + " type veth peer name " + far + " && sysctl -qw net.ipv6.conf." + near + ".disable_ipv6=1 net.ipv6.conf." + far +
         ".disable_ipv6=1; ip link set " + near + " master br0 up && ip link set " + far + " up");
    }
  }
  void TearDown() override {
    stop_dataplane();
    sh("ip link del vxa; ip link del vxc; ip link del br0");
  }

  void start_dataplane(unsigned workers = 1) {
    std::vector<Worker*> pointers;
    for (unsigned i = 0; i < workers; ++i) {
      WorkerConfig config;
      config.lcore = i;
      workers_.push_back(std::make_unique<Worker>(config, *pool_));
      pointers.push_back(workers_.back().get());
    }
    BackEnds back_ends;
    PortContext made_by = context();
    made_by.workers = static_cast<std::uint16_t>(workers);
    made_by.uses_tcx = uses_tcx_;
    back_ends.make_port = [made_by](const protocol::PortConfig& config) { return make_port(config, made_by); };
    back_ends.make_held_socket = [](const IpAddress&, std::uint16_t, std::uint16_t, const MacAddress&, std::string&,
                                    const HeldSocketOptions&) { return std::shared_ptr<Port>(); };
    board_ = std::make_unique<Switchboard>(pointers, back_ends);
    for (auto& worker : workers_) threads_.emplace_back([w = worker.get()] { w->run(); });
    protocol::OverlayConfig overlay;
    overlay.index = 0;
    overlay.vni = 1000;
    overlay.mtu = 1500;
    overlay.fdb_capacity = 1024;
    overlay.tunnel_vlans = vlans(1, 2, 4094);
    board_->set_overlay(overlay);
  }
  void stop_dataplane() {
    if (!board_) return;
    board_->shut_down();
    for (auto& worker : workers_) worker->stop();
    for (auto& thread : threads_) thread.join();
    board_.reset();
    threads_.clear();
    workers_.clear();
  }
  static protocol::PortConfig taken(const std::string& name) {
    auto c = config(name, PortDriver::kNetdev);
    c.takeover = 1;
    c.overlay = 0;
    c.vlans = vlans(1, 2, 4094);
    return c;
  }
  void take_both() {
    board_->add_port(taken("vxa"));
    board_->add_port(taken("vxc"));
  }
  void bypass(bool on, std::uint32_t stale_after_ms = 50) {
    protocol::FailOpenConfig fail_open;
    fail_open.bypass = on ? 1 : 0;
    fail_open.stale_after_ms = stale_after_ms;
    board_->set_fail_open(fail_open);
  }

  bool uses_tcx_ = true;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
  std::unique_ptr<Switchboard> board_;
};

}  // namespace vx::testkit
