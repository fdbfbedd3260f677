// SPDX-License-Identifier: Apache-2.0
// Packets of a flow leave in the order in which they came, whatever two workers do at the same time: ports with two queues in memory,
// a flow always in the same of them, encap, decap and from guest to guest, also through a port whose one transmit queue both workers
// share. Meanwhile the switchboard is told of other ports and MACs: each time the workers go on with another state.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "dataplane/switchboard.h"
#include "tests/switchboard_testkit.h"

namespace vx {
namespace {

using namespace testkit;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kQueues = 2;
constexpr unsigned kFlows = 24, kFramesOfAQueue = 150'000, kRoom = 1600;
constexpr unsigned kTail = 8;  // the frame's last bytes: flow, number in the flow

// Any thread, any buffer.
class NewPool : public BufferPool {
 public:
  static Packet make() {
    auto* block = new std::uint8_t[kHeadroomBytes + kRoom];
    Packet packet;
    packet.buffer = block;
    packet.data = block + kHeadroomBytes;
    packet.headroom = kHeadroomBytes;
    packet.tailroom = kRoom;
    return packet;
  }
  unsigned allocate(Packet* out, unsigned count) noexcept override {
    std::generate_n(out, count, make);
    return count;
  }
  unsigned allocate_large(Packet*, unsigned) noexcept override { return 0; }
  void free(Packet* const* packets, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) delete[] static_cast<std::uint8_t*>(packets[i]->buffer);
  }
};

// Hands in `kFlows` flows a queue, frame by frame in turn; looks at the order of what is sent through it.
class FlowPort : public Port {
 public:
  FlowPort(std::string name, std::uint16_t rx_queues, std::uint16_t tx_queues) : Port(std::move(name)), sources_(rx_queues), tx_queues_(tx_queues) {}

  // Before it is polled. The flows of queue q are `first` + q, `first` + q + 2, ...
  void load(Bytes frame, std::uint32_t first) {
    for (auto& source : sources_) {
      source.frame = frame;
      source.first = first++;
    }
  }
  // From now on; any thread.
  void start() { limit_.store(kFramesOfAQueue, std::memory_order_release); }

  unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    Source& source = sources_[queue];
    if (source.frame.empty()) return 0;
    const std::lock_guard guard(source.mutex);  // two workers would poll it only by mistake
    unsigned n = 0;
    for (const unsigned limit = limit_.load(std::memory_order_acquire); n < count && source.sent < limit; ++n, ++source.sent) {
      const std::uint32_t words[2] = {source.first + source.sent % kFlows * kQueues, source.sent / kFlows};
      out[n] = NewPool::make();
      std::copy(source.frame.begin(), source.frame.end(), out[n].data);
      std::memcpy(out[n].data + source.frame.size() - kTail, words, kTail);
      out[n].length = static_cast<std::uint32_t>(source.frame.size());
      out[n].tailroom -= out[n].length;
    }
    return n;
  }
  unsigned tx(std::uint16_t, Packet* const* packets, unsigned count) noexcept override {
    const std::lock_guard guard(mutex_);
    for (unsigned i = 0; i < count; ++i) {
      std::uint32_t words[2];
      std::memcpy(words, packets[i]->data + packets[i]->length - kTail, kTail);
      std::uint32_t& next = next_[words[0]];
      if (words[1] != next) ++out_of_order;
      next = words[1] + 1;
      delete[] static_cast<std::uint8_t*>(packets[i]->buffer);
    }
    sent += count;
    return count;
  }
  std::uint16_t rx_queues() const noexcept override { return static_cast<std::uint16_t>(sources_.size()); }
  std::uint16_t tx_queues() const noexcept override { return tx_queues_; }
  int rx_fd(std::uint16_t) const noexcept override { return -1; }

  std::atomic<std::uint64_t> sent{0}, out_of_order{0};  // nothing is lost or doubled either: each number follows the one before

 private:
  struct Source {
    std::mutex mutex;
    Bytes frame;
    std::uint32_t first = 0, sent = 0;
  };
  std::vector<Source> sources_;
  std::uint16_t tx_queues_;
  std::atomic<unsigned> limit_{0};
  std::mutex mutex_;
  std::map<std::uint32_t, std::uint32_t> next_;  // by flow
};

struct Running {
  explicit Running(Worker& w) : worker(w), thread([&w] { w.run(); }) {}
  ~Running() {
    worker.stop();
    thread.join();
  }
  Worker& worker;
  std::thread thread;
};

// eth0 the underlay; a sends to the VTEP, eth0 to b, b to `one`, which has one transmit queue.
class FlowOrder : public testing::Test {
 protected:
  FlowOrder() {
    for (unsigned i = 0; i < 2; ++i) {
      WorkerConfig config;
      config.lcore = i;
      workers_.push_back(std::make_unique<Worker>(config, pool_));
      pointers_.push_back(workers_.back().get());
    }
    BackEnds back_ends;
    back_ends.make_port = [this](const protocol::PortConfig& config) {
      const std::string name(protocol::text_of(config.name));
      auto port = std::make_shared<FlowPort>(name, config.queues, name == "one" ? 1 : kQueues);
      if (!ports_.contains(name)) ports_[name] = port;
      MadePort made;
      made.port = port;
      return made;
    };
    back_ends.make_held_socket = [](auto&&...) { return nullptr; };
    back_ends.set_mtu = [](const std::string&, unsigned) {};
    board_ = std::make_unique<Switchboard>(pointers_, back_ends);
    auto underlay = SwitchboardRig::underlay_port();
    underlay.queues = kQueues;
    (void)board_->add_port(underlay);
    board_->set_overlay(SwitchboardRig::overlay());
    board_->set_underlay(SwitchboardRig::underlay());
    const auto remote = SwitchboardRig::vtep(0, kRemote4);
    board_->set_vteps(std::span(&remote, 1));
    put(kGuestA, Location::port(add("a")));
    b_ = add("b");
    put(kGuestB, Location::port(b_));
    put(kOne, Location::port(add("one")));
    put(kFar, Location::vtep(0));

    ports_["a"]->load(guest_frame(kFar, kGuestA).build(), 1000);
    ports_["b"]->load(guest_frame(kOne, kGuestB).build(), 2000);
    Bytes from_far = (outer4() + guest_frame(kGuestB, kFar)).build();
    from_far[40] = from_far[41] = 0;  // no checksum: the tail is written later
    ports_["eth0"]->load(from_far, 3000);
  }
  PortIndex add(const std::string& name) { return board_->add_port(SwitchboardRig::guest(name, kQueues)).index; }
  void put(MacAddress address, Location place) {
    const auto record = SwitchboardRig::record(address, place, FdbValue::kStatic);
    (void)board_->put_fdb(std::span(&record, 1), clock_seconds());
  }
  [[nodiscard]] std::uint64_t sent() const {
    std::uint64_t sum = 0;
    for (const auto& [name, port] : ports_) sum += port->sent;
    return sum;
  }

  const MacAddress kOne = mac(0x525400000077);
  NewPool pool_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> pointers_;
  std::map<std::string, std::shared_ptr<FlowPort>> ports_;
  std::unique_ptr<Switchboard> board_;
  PortIndex b_ = kNoIndex;
};

TEST_F(FlowOrder, IsKeptByTwoWorkersWhilePortsAndMacsComeAndGo) {
  constexpr std::uint64_t kAll = std::uint64_t{3} * kQueues * kFramesOfAQueue;
  unsigned changes = 0;
  {
    const Running one(*workers_[0]), two(*workers_[1]);
    for (const auto& [name, port] : ports_) port->start();
    for (const auto deadline = Clock::now() + 60s; sent() < kAll && Clock::now() < deadline; ++changes) {
      put(mac(0x525400010000 + changes % 64), Location::vtep(0));
      put(kGuestB, Location::port(b_));
      (void)add("passer");
      board_->delete_port("passer");
    }
  }
  for (const auto& [name, port] : ports_) EXPECT_EQ(port->out_of_order, 0u) << name;
  EXPECT_EQ(ports_["eth0"]->sent, std::uint64_t{kQueues} * kFramesOfAQueue) << "encap";
  EXPECT_EQ(ports_["b"]->sent, std::uint64_t{kQueues} * kFramesOfAQueue) << "decap";
  EXPECT_EQ(ports_["one"]->sent, std::uint64_t{kQueues} * kFramesOfAQueue) << "from guest to guest";
  EXPECT_GT(changes, 5u);
  std::uint64_t packets = 0;
  for (const auto& worker : workers_) {
    const auto counters = worker->snapshot(0ms);
    ASSERT_TRUE(counters.has_value());
    EXPECT_TRUE(totals_of(*counters).balances());
    EXPECT_EQ(totals_of(*counters).dropped, 0u);
    EXPECT_EQ(counters->packets, kAll / 2) << "each polls one queue of every port";
    packets += counters->packets;
  }
  EXPECT_EQ(packets, kAll);
}

}  // namespace
}  // namespace vx
