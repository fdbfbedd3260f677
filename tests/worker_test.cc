// SPDX-License-Identifier: Apache-2.0
// The poll loop: publication and quiescence, snapshots that balance, injection, sleep without lost wake-ups, heartbeats,
// two workers sharing a port and an FDB.
#include "dataplane/worker.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "dataplane/clock.h"
#include "tests/testkit.h"

namespace vx {
namespace {

using namespace testkit;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Thread-safe: fixed frames in, counts out; a descriptor that polls readable while frames wait, or one that a device's interrupts write.
class SharedPort : public Port {
 public:
  SharedPort(std::string name, bool has_fd)
      : Port(std::move(name)), fd_(has_fd ? eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE) : -1) {}
  ~SharedPort() override {
    if (fd_ >= 0) close(fd_);
    if (interrupt_fd_ >= 0) close(interrupt_fd_);
  }
  void make_interrupts() { interrupt_fd_ = eventfd(0, EFD_NONBLOCK); }
  void offer(const Bytes& frame) {
    const std::lock_guard guard(mutex_);
    waiting_.push_back(frame);
    const std::uint64_t one = 1;
    if (fd_ >= 0) (void)!write(fd_, &one, sizeof one);
    if (!is_asked_) return;
    ++interrupts;
    (void)!write(interrupt_fd_, &one, sizeof one);
  }
  int rx_interrupt_fd(std::uint16_t) const noexcept override { return interrupt_fd_; }
  bool ask_for_rx_interrupt(std::uint16_t, bool is_wanted) noexcept override {
    const std::lock_guard guard(mutex_);
    is_asked_ = is_wanted && !refuses_interrupts;
    return !refuses_interrupts;
  }
  unsigned rx(std::uint16_t, Packet* out, unsigned count) noexcept override {
    last_polled_ns = monotonic_ns();
    ++asked;
    const std::lock_guard guard(mutex_);
    unsigned n = 0;
    for (; n < count && !waiting_.empty(); ++n) {
      std::uint64_t one;
      if (fd_ >= 0) (void)!read(fd_, &one, sizeof one);
      auto* block = new std::uint8_t[kHeadroomBytes + waiting_.front().size()];
      std::copy(waiting_.front().begin(), waiting_.front().end(), block + kHeadroomBytes);
      out[n] = Packet{};
      out[n].buffer = block;
      out[n].data = block + kHeadroomBytes;
      out[n].headroom = kHeadroomBytes;
      out[n].length = static_cast<std::uint32_t>(waiting_.front().size());
      waiting_.pop_front();
    }
    return n;
  }
  unsigned tx(std::uint16_t, Packet* const* packets, unsigned count) noexcept override {
    if (users_.fetch_add(1) != 0) overlapped = true;
    for (unsigned i = 0; i < count; ++i) delete[] static_cast<std::uint8_t*>(packets[i]->buffer);
    last_sent_ns = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
    sent += count;
    users_.fetch_sub(1);
    return count;
  }
  std::uint16_t rx_queues() const noexcept override { return 1; }
  std::uint16_t tx_queues() const noexcept override { return 1; }
  int rx_fd(std::uint16_t) const noexcept override { return fd_; }
  bool asks_kernel() const noexcept override { return is_dear; }

  std::atomic<std::uint64_t> sent{0}, last_sent_ns{0}, interrupts{0}, asked{0}, last_polled_ns{0};
  std::atomic<bool> refuses_interrupts{false};
  std::atomic<bool> overlapped{false};
  bool is_dear = false;  // set before anybody polls

 private:
  std::mutex mutex_;
  std::deque<Bytes> waiting_;
  std::atomic<int> users_{0};
  int fd_, interrupt_fd_ = -1;
  bool is_asked_ = false;
};

class SharedPool : public BufferPool {
 public:
  unsigned allocate(Packet* out, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) {
      auto* block = new std::uint8_t[kHeadroomBytes + 2048];
      out[i] = Packet{};
      out[i].buffer = block;
      out[i].data = block + kHeadroomBytes;
      out[i].headroom = kHeadroomBytes;
      out[i].tailroom = 2048;
    }
    return count;
  }
  unsigned allocate_large(Packet*, unsigned) noexcept override { return 0; }
  void free(Packet* const* packets, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) delete[] static_cast<std::uint8_t*>(packets[i]->buffer);
  }
};

// Two guest ports of one overlay, no underlay; A on port 0, B on port 1.
struct Wiring {
  explicit Wiring(bool has_fd, unsigned ports_count = 2) {
    OverlayState overlay;
    overlay.exists = true;
    overlay.fdb = std::make_shared<Fdb>(256, 3);
    const auto table = std::make_shared<const VlanTable>(vlans(1, 2, 4094));
    overlay.tunnel_vlans = table;
    const auto now = clock_seconds();
    for (PortIndex i = 0; i < ports_count; ++i) {
      ports.push_back(std::make_shared<SharedPort>("p" + std::to_string(i), has_fd));
      PortState port;
      port.port = ports[i];
      port.overlay = 0;
      port.vlans = table;
      state.ports.push_back(port);
      overlay.ports.push_back(i);
      assignment.rx.push_back({ports[i].get(), i, 0, nullptr});
      assignment.tx.push_back({ports[i].get(), 0, nullptr});
      (void)overlay.fdb->put(fdb_key(1, host(i)), Location::port(i), 0, now, now);
    }
    state.overlays.push_back(overlay);
  }
  static MacAddress host(unsigned i) { return mac(0x525400000100 + i); }
  std::vector<std::shared_ptr<SharedPort>> ports;
  ForwardingState state;
  Assignment assignment;
  SharedPool pool;
};

bool eventually(const std::function<bool()>& is_true, std::chrono::milliseconds limit = 5000ms) {
  const auto deadline = Clock::now() + limit;
  while (!is_true()) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(200us);
  }
  return true;
}

struct Running {
  Running(Worker& w) : worker(w), thread([&w] { w.run(); }) {}
  ~Running() {
    worker.stop();
    thread.join();
  }
  Worker& worker;
  std::thread thread;
};

const Bytes kAToB = guest_frame(Wiring::host(1), Wiring::host(0)).build();

TEST(Worker, ForwardsAndAnswersSnapshotsThatBalance) {
  Wiring wiring(true);
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  ASSERT_TRUE(eventually([&] { return worker.wait_quiescent(1000ms); }));
  for (int i = 0; i < 500; ++i) {
    wiring.ports[0]->offer(kAToB);
    if (i % 50 == 0) {
      const auto counters = worker.snapshot(2000ms);
      ASSERT_TRUE(counters.has_value());
      EXPECT_TRUE(totals_of(*counters).balances());
    }
  }
  ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == 500; }));
  const auto counters = worker.snapshot(2000ms);
  ASSERT_TRUE(counters.has_value());
  EXPECT_EQ(counters->packets, 500u);
  EXPECT_GT(counters->polls, counters->busy_polls);
}

TEST(Worker, SleepLosesNoFrame) {
  for (const bool has_fd : {true, false}) {
    Wiring wiring(has_fd);
    WorkerConfig config;
    config.spin = 0us;  // asleep as often as can be
    Worker worker(config, wiring.pool);
    worker.publish(&wiring.state, &wiring.assignment);
    Running running(worker);
    for (unsigned i = 1; i <= 300; ++i) {
      wiring.ports[0]->offer(kAToB);
      ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == i; })) << i;
      if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i * 7 % 400));
    }
  }
}

TEST(Worker, InterruptsWakeItAndItAsksForThemOnlyToSleep) {
  Wiring wiring(false);
  for (const auto& port : wiring.ports) port->make_interrupts();
  WorkerConfig config;
  config.spin = 0us;
  config.sleep_at_most = 1000ms;  // only the interrupt can be the reason
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  for (unsigned i = 1; i <= 300; ++i) {
    wiring.ports[0]->offer(kAToB);
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == i; }, 900ms)) << i;
    if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i * 7 % 400));
  }
  const auto before = worker.snapshot(2000ms);
  std::this_thread::sleep_for(100ms);
  const auto after = worker.snapshot(2000ms);
  ASSERT_TRUE(before && after);
  EXPECT_LE(after->polls - before->polls, 10u) << "it naps";
  worker.set_poll(PollMode::kBusy);
  std::this_thread::sleep_for(20ms);
  const std::uint64_t interrupts = wiring.ports[0]->interrupts;
  EXPECT_GT(interrupts, 0u);
  for (unsigned i = 301; i <= 320; ++i) {
    wiring.ports[0]->offer(kAToB);
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == i; }, 900ms)) << i;
  }
  EXPECT_EQ(wiring.ports[0]->interrupts, interrupts) << "it polls, and is interrupted";
}

TEST(Worker, NapsWhereADeviceRefusesItsInterrupt) {
  Wiring wiring(false);
  for (const auto& port : wiring.ports) port->make_interrupts();
  wiring.ports[0]->refuses_interrupts = true;
  WorkerConfig config;
  config.sleep_at_most = 1000ms;
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  for (unsigned i = 1; i <= 5; ++i) {
    std::this_thread::sleep_for(20ms);
    wiring.ports[0]->offer(kAToB);
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == i; }, 500ms)) << i;
  }
}

// Of 60 frames that come 5 ms after each other, more or less, the share that meets the worker polling.
double share_met_awake(Wiring& wiring, std::uint64_t jitter_us) {
  unsigned awake = 0;
  std::uint64_t at = monotonic_ns();
  for (unsigned i = 0; i < 60; ++i) {
    at += 5'000'000 + (jitter_us == 0 ? 0 : i * 7919 % jitter_us * 1000);
    while (monotonic_ns() < at) continue;
    awake += monotonic_ns() - wiring.ports[0]->last_polled_ns < 20'000;
    const std::uint64_t before = wiring.ports[1]->sent;
    wiring.ports[0]->offer(kAToB);
    while (wiring.ports[1]->sent == before) continue;
  }
  return awake / 60.0;
}

// The best of twenty: other load on the machine delays a sleeper's timers.
TEST(Worker, IsAwakeWhenEvenTrafficComes) {
  Wiring wiring(false);
  for (const auto& port : wiring.ports) port->make_interrupts();
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  double even = 0;
  for (int i = 0; i < 20 && even < 0.3; ++i)
    even = std::max(even, share_met_awake(wiring, 0));
  const double uneven = share_met_awake(wiring, 4000);
  std::printf("met awake: %.2f of the frames where they come evenly, %.2f where not\n", even, uneven);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_GE(even, uneven + 0.15);
#endif
  EXPECT_LE(uneven, 0.4);
}

// Of many queues only those are asked that have something.
TEST(Worker, AsksNoPortInVainWhileLittleComes) {
  Wiring wiring(true, 16);
  WorkerConfig config;
  config.spin = config.longest_spin = 1s;  // awake throughout
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  for (unsigned i = 1; i <= 300; ++i) {
    wiring.ports[i % 2 * 15]->offer(i % 2 != 0 ? guest_frame(Wiring::host(0), Wiring::host(15)).build() : guest_frame(Wiring::host(15), Wiring::host(0)).build());
    ASSERT_TRUE(eventually([&] { return wiring.ports[0]->sent + wiring.ports[15]->sent == i; })) << i;
  }
  const auto counters = worker.snapshot(2000ms);
  ASSERT_TRUE(counters.has_value());
  std::uint64_t asked = 0;
  for (const auto& port : wiring.ports) asked += port->asked;
  EXPECT_LE(asked, counters->polls) << "every port in every round would be 16 times that";
  for (const auto& port : wiring.ports) EXPECT_GT(port->asked, 0u) << "each still gets its turn to tidy up";
}

TEST(Worker, AsksAtMostEveryTwoMicrosecondsWhereThatIsASystemCall) {
  Wiring wiring(true);
  wiring.ports[1]->is_dear = true;
  WorkerConfig config;
  config.poll = PollMode::kBusy;
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  const auto began = Clock::now();
  Running running(worker);
  std::this_thread::sleep_for(50ms);
  for (unsigned i = 1; i <= 100; ++i) {
    wiring.ports[1]->offer(guest_frame(Wiring::host(0), Wiring::host(1)).build());
    ASSERT_TRUE(eventually([&] { return wiring.ports[0]->sent == i; })) << i;
  }
  const auto counters = worker.snapshot(2000ms);
  ASSERT_TRUE(counters.has_value());
  const std::uint64_t dear = wiring.ports[1]->asked;
  const auto most = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - began).count() / 2 + 200;
  EXPECT_LE(dear, static_cast<std::uint64_t>(most));
  EXPECT_GT(dear, 100u);
  EXPECT_GE(wiring.ports[0]->asked + 10, counters->polls) << "the other is asked in every round";
}

// How many epoll descriptors this process has.
unsigned epoll_count() {
  unsigned count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    count += std::filesystem::read_symlink(entry, error).native() == "anon_inode:[eventpoll]";
  }
  return count;
}

TEST(Worker, UnderLoadNoDescriptorIsWatchedAndWhenItEndsAllAre) {
  const unsigned others = epoll_count();
  Wiring wiring(true, 3);
  WorkerConfig config;
  config.spin = config.longest_spin = 100us;
  config.sleep_at_most = 1000ms;  // only a descriptor can wake it
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  ASSERT_TRUE(eventually([&] { return epoll_count() == others + 1; })) << "idle";
  std::uint64_t offered = 0;
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(eventually([&] {
      for (int i = 0; i < 512; ++i) wiring.ports[0]->offer(kAToB);
      offered += 512;
      return epoll_count() == others;
    }, 20000ms)) << "never so busy that nothing is watched";
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == offered && epoll_count() == others + 1; })) << "idle again";
    std::this_thread::sleep_for(5ms);
    wiring.ports[2]->offer(guest_frame(Wiring::host(1), Wiring::host(2)).build());
    ++offered;
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == offered; }, 900ms)) << "a lone packet wakes it";
  }
}

TEST(Worker, PublishReachesASleepingWorkerAndTheFormerStateIsNoLongerUsed) {
  Wiring wiring(true);
  auto first = std::make_unique<ForwardingState>(wiring.state);
  auto first_assignment = std::make_unique<Assignment>(wiring.assignment);
  WorkerConfig config;
  config.sleep_at_most = 1000ms;  // only the wake-up can be the reason
  Worker worker(config, wiring.pool);
  worker.publish(first.get(), first_assignment.get());
  Running running(worker);
  ASSERT_TRUE(worker.wait_quiescent(2000ms));
  for (int i = 0; i < 50; ++i) {
    std::this_thread::sleep_for(1ms);
    auto next = std::make_unique<ForwardingState>(wiring.state);
    auto next_assignment = std::make_unique<Assignment>(wiring.assignment);
    worker.publish(next.get(), next_assignment.get());
    ASSERT_TRUE(worker.wait_quiescent(900ms));
    first = std::move(next);  // frees the former: AddressSanitizer watches
    first_assignment = std::move(next_assignment);
    wiring.ports[0]->offer(kAToB);
  }
  EXPECT_TRUE(eventually([&] { return wiring.ports[1]->sent == 50; }));
  worker.publish(nullptr, nullptr);
  EXPECT_TRUE(worker.wait_quiescent(900ms));
}

TEST(Worker, InjectedFramesWakeItAndAreSent) {
  Wiring wiring(true);
  WorkerConfig config;
  config.sleep_at_most = 1000ms;
  Worker worker(config, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  for (unsigned i = 1; i <= 200; ++i) {
    ASSERT_TRUE(worker.inject(1, kAToB));
    ASSERT_TRUE(eventually([&] { return wiring.ports[1]->sent == i; }, 900ms)) << i;
  }
  EXPECT_FALSE(worker.inject(1, Bytes(protocol::kMaxFrameBytes + 1)));
  const auto counters = worker.snapshot(2000ms);
  ASSERT_TRUE(counters.has_value());
  EXPECT_EQ(counters->generated, 200u);
  EXPECT_TRUE(totals_of(*counters).balances());
}

TEST(Worker, LearnEventsRingTheManagersBell) {
  Wiring wiring(true);
  WorkerConfig config;
  config.events_fd = eventfd(0, EFD_NONBLOCK);
  {
    Worker worker(config, wiring.pool);
    worker.publish(&wiring.state, &wiring.assignment);
    Running running(worker);
    for (unsigned i = 0; i < 20; ++i) {
      wiring.ports[0]->offer(guest_frame(Wiring::host(1), mac(0x0a0000000000 + i)).build());
      std::uint64_t rings = 0;
      protocol::LearnEvent event;
      ASSERT_TRUE(eventually([&] { return read(config.events_fd, &rings, sizeof rings) == sizeof rings; })) << i;
      ASSERT_TRUE(eventually([&] { return worker.learn_events().try_pop(event); }));
      EXPECT_EQ(event.key, fdb_key(1, mac(0x0a0000000000 + i)));
    }
  }
  close(config.events_fd);
}

TEST(Worker, HeartbeatsAreFreshWhileItSleeps) {
  Wiring wiring(true);
  vxp_beat beat{};
  wiring.assignment.rx[0].heartbeat = &beat;
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  ASSERT_TRUE(eventually([&] { return __atomic_load_n(&beat.monotonic_ns, __ATOMIC_RELAXED) != 0; }));
  int stale = 0;
  for (int i = 0; i < 50; ++i) {
    std::this_thread::sleep_for(2ms);
    const std::uint64_t now = monotonic_ns();
    const std::uint64_t then = __atomic_load_n(&beat.monotonic_ns, __ATOMIC_RELAXED);
    if (now > then && now - then > 50'000'000) ++stale;  // the XDP program's limit; other load may delay us now and then
  }
  EXPECT_LE(stale, 5);
}

// The kernel has forwarded meanwhile, where it can.
TEST(Worker, WhatWaitedThroughAStallIsDroppedWhereTheKernelStandsBy) {
  Wiring wiring(true);
  vxp_beat beats[2]{};
  wiring.assignment.rx[0].heartbeat = &beats[0];
  wiring.assignment.rx[0].is_takeover = true;
  wiring.assignment.too_late_ns = 20'000'000;
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  const auto poll_after = [&](std::chrono::milliseconds pause, PortIndex port, const Bytes& frame, unsigned count) {
    for (unsigned i = 0; i < count; ++i) wiring.ports[port]->offer(frame);
    std::this_thread::sleep_for(pause);
    (void)worker.poll_once();
    while (worker.poll_once() != 0) continue;
    const auto counters = worker.snapshot(1000ms);
    EXPECT_TRUE(counters && totals_of(*counters).balances());
    return counters->drops[static_cast<std::size_t>(DropReason::kStalled)];
  };
  const Bytes back = guest_frame(Wiring::host(0), Wiring::host(1)).build();
  EXPECT_EQ(poll_after(0ms, 0, kAToB, 5), 0u) << "the first poll ends no stall";
  EXPECT_EQ(wiring.ports[1]->sent, 5u);
  const std::uint64_t before = beats[0].monotonic_ns;
  EXPECT_EQ(poll_after(25ms, 0, kAToB, 200), 200u) << "more than a burst";
  EXPECT_EQ(wiring.ports[1]->sent, 5u);
  EXPECT_GT(beats[0].monotonic_ns, before) << "it has its frames again";
  EXPECT_EQ(poll_after(25ms, 1, back, 7), 200u) << "nobody stands by for that port";
  EXPECT_EQ(wiring.ports[0]->sent, 7u);
  EXPECT_EQ(poll_after(1ms, 0, kAToB, 5), 200u);
  EXPECT_EQ(wiring.ports[1]->sent, 10u);
}

double cpu_share_of_idle(bool has_fd) {
  Wiring wiring(has_fd);
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  double used = 0, passed = 0;
  std::thread thread([&] {
    std::thread stopper([&] {
      std::this_thread::sleep_for(1s);
      worker.stop();
    });
    timespec before, after;
    const auto start = Clock::now();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    worker.run();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    passed = std::chrono::duration<double>(Clock::now() - start).count();
    used = static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
    stopper.join();
  });
  thread.join();
  return used / passed;
}

// The best of three: other load on the machine makes a sleeper's wake-ups dearer, never cheaper.
TEST(Worker, IdleAdaptiveWorkerUsesAtMostTwoPercentOfACore) {
  for (const bool with_fd : {true, false}) {
    double share = 1;
    for (int i = 0; i < 3 && share > 0.02; ++i) share = std::min(share, cpu_share_of_idle(with_fd));
    std::printf("idle CPU: %.2f %% %s descriptors\n", share * 100, with_fd ? "with" : "without");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LE(share, 0.02);
#endif
  }
}

TEST(Worker, PollModeChangesWhileItRuns) {
  Wiring wiring(true);
  Worker worker(WorkerConfig{}, wiring.pool);
  worker.publish(&wiring.state, &wiring.assignment);
  Running running(worker);
  const auto polls_within = [&](std::chrono::milliseconds time) {
    const auto before = worker.snapshot(1s);
    std::this_thread::sleep_for(time);
    const auto after = worker.snapshot(1s);
    return before && after ? after->polls - before->polls : 0;
  };
  EXPECT_EQ(worker.poll(), PollMode::kAdaptive);
  worker.set_poll(PollMode::kBusy);
  std::this_thread::sleep_for(20ms);
  const auto busy = polls_within(200ms);
  worker.set_poll(PollMode::kAdaptive);
  std::this_thread::sleep_for(20ms);
  const auto idle = polls_within(200ms);
  EXPECT_GT(idle, 0u);
  EXPECT_GT(busy, 20 * idle);  // it sleeps again: its descriptors are watched anew
}

TEST(Worker, TwoWorkersShareOneFdbAndALockedTransmitQueue) {
  Wiring wiring(true, 4);
  std::atomic_flag lock = ATOMIC_FLAG_INIT;
  for (auto& tx : wiring.assignment.tx) tx.lock = &lock;
  Assignment first = wiring.assignment, second = wiring.assignment;
  first.rx = {wiring.assignment.rx[0], wiring.assignment.rx[1]};
  second.rx = {wiring.assignment.rx[2], wiring.assignment.rx[3]};
  Worker one(WorkerConfig{}, wiring.pool), two(WorkerConfig{}, wiring.pool);
  one.publish(&wiring.state, &first);
  two.publish(&wiring.state, &second);
  {
    Running run_one(one), run_two(two);
    // Host 9 roams between ports of both workers while everybody talks; the writer keeps installing its place.
    for (unsigned i = 0; i < 400; ++i) {
      for (unsigned p = 0; p < 4; ++p) wiring.ports[p]->offer(guest_frame(Wiring::host((p + 1) % 4), Wiring::host(p)).build());
      wiring.ports[i % 4]->offer(guest_frame(kBroadcast, mac(9 << 8)).build());
      (void)wiring.state.overlays[0].fdb->put(fdb_key(1, mac(9 << 8)), Location::port(static_cast<PortIndex>(i % 4)), 0, 0, 0);
    }
    const auto sum = [&] {
      std::uint64_t sent = 0;
      for (const auto& port : wiring.ports) sent += port->sent;
      return sent;
    };
    EXPECT_TRUE(eventually([&] { return sum() == 400u * (4 + 3); }, 10000ms)) << sum();
  }
  for (const auto& port : wiring.ports) EXPECT_FALSE(port->overlapped) << "the lock keeps workers apart";
  Totals total;
  for (Worker* worker : {&one, &two}) {
    const auto counters = worker->snapshot(0ms);
    ASSERT_TRUE(counters.has_value());
    const auto t = totals_of(*counters);
    EXPECT_TRUE(t.balances());
    total.received += t.received;
    total.dropped += t.dropped;
  }
  EXPECT_EQ(total.received, 2000u);
  EXPECT_EQ(total.dropped, 0u);
}

}  // namespace
}  // namespace vx
