// SPDX-License-Identifier: Apache-2.0
// The poll loop and its sleep. What would surprise: an adaptive worker announces that it sleeps, then polls
// once more, then sleeps; whoever has news for it stores the news, then looks whether it sleeps. One of the two
// always sees the other.
#include "dataplane/worker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "dataplane/arrival_forecast.h"
#include "dataplane/clock.h"
#include "dataplane/pipeline.h"

namespace vx {
namespace {

constexpr std::uint64_t kBeatEveryNs = 2'000'000;
constexpr std::uint64_t kTellEveryNs = 200'000;     // learn events go to control at least this seldom under load
// Ports without a descriptor are polled every so often when idle, the more seldom the longer nothing came: a nap
// costs 15 to 30 us of a core here (a timer in a virtual machine), and idle may cost 2 %.
constexpr std::uint64_t kShortestNapNs = 85'000, kLongestNapNs = 3'000'000;
constexpr std::uint64_t kNapPerIdle = 16;           // a sixteenth of the time since the last packet
constexpr std::size_t kInjectSlots = 64;
constexpr std::uint64_t kAskAgainNs = 2'000;        // a queue that had nothing, where asking is a system call
constexpr unsigned kQuiet = 4;                      // fewer packets in a round
constexpr unsigned kBusyBeat = 200, kQuietBeat = 50; // packets of rounds that are not quiet, from beat to beat
constexpr int kMostReady = 16;
constexpr std::uint32_t kWakeEvent = UINT32_MAX;    // among the numbers of receive queues

constexpr std::uint64_t nanoseconds(std::chrono::nanoseconds duration) noexcept { return static_cast<std::uint64_t>(duration.count()); }

struct InjectedFrame {
  PortIndex port = kNoIndex;
  std::uint16_t length = 0;
  std::array<std::uint8_t, protocol::kMaxFrameBytes> bytes{};
};

struct Published {
  const ForwardingState* state = nullptr;
  const Assignment* assignment = nullptr;
};

}  // namespace

struct Worker::Impl {
  Impl(const WorkerConfig& worker_config, BufferPool& pool)
      : config(worker_config),
        learn(worker_config.learn_queue_capacity),
        punts(256),
        injected(kInjectSlots),
        pipeline({worker_config.learn_events_per_second, worker_config.learn_queue_capacity}, pool, learn, punts),
        wake_fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (wake_fd < 0) throw std::system_error(errno, std::generic_category(), "worker: eventfd; raise the limit of open files");
  }
  ~Impl() {
    close(wake_fd);
    if (epoll_fd >= 0) close(epoll_fd);
  }

  unsigned poll_once() noexcept;
  unsigned poll_all() noexcept;
  unsigned poll_queue(std::size_t number) noexcept;
  unsigned poll_ready() noexcept;
  void take_published(std::uint64_t sequence) noexcept;
  void arm() noexcept;
  void disarm() noexcept;
  void watch_by_load() noexcept;
  bool ask_for_interrupts(bool are_wanted) noexcept;
  void take_snapshot(std::uint64_t request) noexcept;
  void send_injected() noexcept;
  void beat() noexcept;
  void drop_stalled() noexcept;
  void tell_news(bool at_once) noexcept;
  void sleep() noexcept;
  void wait(bool all_wake_it) noexcept;
  void note_packets(bool was_asleep) noexcept;
  void adapt_spin() noexcept;
  void wake() noexcept;

  const WorkerConfig config;
  SpscQueue<protocol::LearnEvent> learn;
  SpscQueue<PuntedFrame> punts;
  SpscQueue<InjectedFrame> injected;
  Pipeline pipeline;
  int wake_fd;

  // Worker's own.
  alignas(kCacheLine) std::array<Packet, kMaxBurst> burst;
  const Assignment* assignment = nullptr;
  std::uint64_t now_ns = 0, busy_at_ns = 0, last_beat_ns = 0, last_told_ns = 0;
  std::uint64_t beaten_ns = 0;  // as last_beat_ns, but not made 0 so that the next one comes at once
  std::uint64_t spin_ns = nanoseconds(config.spin);  // now; up to config.longest_spin
  ArrivalForecast forecast{nanoseconds(config.longest_spin)};
  std::vector<std::uint64_t> not_before_ns;  // by number of the assignment's receive queue: not to be asked earlier
  bool is_woken = false;  // by packets, since it was last awake
  std::uint64_t taken_sequence = 0, taken_snapshot = 0;
  bool news_pending = false;
  bool has_queue_without_fd = false, has_interrupts = false;
  bool has_only_descriptors = false;  // epoll_fd has one for each of several queues
  bool is_quiet = false;              // the last round brought little
  bool has_slept = false;             // since the last beat
  std::uint64_t busy_packets = 0;     // since then, of rounds that were not quiet
  int epoll_fd = -1;                  // -1: not armed
  PollMode armed_poll = PollMode::kAdaptive;  // what epoll_fd was set up for

  // Between the threads. `published` nodes are the manager's; the worker copies the two pointers.
  alignas(kCacheLine) std::atomic<std::uint64_t> published_sequence{0};
  std::atomic<const Published*> current{nullptr};
  std::atomic<std::uint64_t> snapshot_request{0};
  std::atomic<std::uint32_t> injections{0};  // bumped so that a sleeping worker's last look sees them
  std::atomic<bool> stopping{false};
  std::atomic<PollMode> poll{config.poll};
  alignas(kCacheLine) std::atomic<std::uint64_t> passed_sequence{0};
  std::atomic<std::uint64_t> snapshot_done{0};
  std::atomic<bool> sleeping{false};
  std::atomic<bool> running{false};
  std::atomic<std::uint64_t> beats{0};

  // Manager's own.
  std::vector<std::unique_ptr<Published>> nodes;
  WorkerCounters snapshot;  // the worker writes it between a request and its answer
};

// ---- worker's thread ----

unsigned Worker::Impl::poll_once() noexcept {
  if (const auto sequence = published_sequence.load(std::memory_order_seq_cst); sequence != taken_sequence) [[unlikely]]
    take_published(sequence);
  if (const auto request = snapshot_request.load(std::memory_order_seq_cst); request != taken_snapshot) [[unlikely]]
    take_snapshot(request);
  now_ns = monotonic_ns();
  send_injected();
  unsigned received = 0;
  WorkerCounters& counters = pipeline.counters();
  if (assignment != nullptr) [[likely]] {
    if (now_ns - beaten_ns > assignment->too_late_ns) [[unlikely]] drop_stalled();
    if (is_quiet && has_only_descriptors && now_ns - last_beat_ns < kBeatEveryNs) received = poll_ready();
    else received = poll_all();
  }
  if (pipeline.is_holding()) [[unlikely]] pipeline.send_held(now_ns);
  ++counters.polls;
  counters.busy_polls += received != 0;
  if (now_ns - last_beat_ns >= kBeatEveryNs) [[unlikely]] beat();
  if (pipeline.take_news() || news_pending) [[unlikely]] tell_news(received == 0);
  return received;
}

unsigned Worker::Impl::poll_all() noexcept {
  unsigned received = 0;
  for (std::size_t i = 0; i < not_before_ns.size(); ++i) {
    if (not_before_ns[i] > now_ns) continue;
    const unsigned count = poll_queue(i);
    received += count;
    if (count == 0 && assignment->rx[i].port->asks_kernel()) not_before_ns[i] = now_ns + kAskAgainNs;
  }
  return received;
}

unsigned Worker::Impl::poll_queue(std::size_t number) noexcept {
  const RxQueueRef& queue = assignment->rx[number];
  const unsigned count = queue.port->rx(queue.queue, burst.data(), kMaxBurst);
  if (count != 0) pipeline.process(burst.data(), count, queue.index, Moment::at(now_ns));
  return count;
}

// One system call finds who has something: to ask each port costs one a port, and a lone packet waits for that round.
unsigned Worker::Impl::poll_ready() noexcept {
  epoll_event ready[kMostReady];
  unsigned received = 0;
  for (int i = epoll_wait(epoll_fd, ready, kMostReady, 0); i-- > 0;)
    if (ready[i].data.u32 != kWakeEvent) received += poll_queue(ready[i].data.u32);
  return received;
}

void Worker::Impl::take_published(std::uint64_t sequence) noexcept {
  const Published* node = current.load(std::memory_order_acquire);
  assignment = node->assignment;
  pipeline.use(node->state, node->assignment);
  last_beat_ns = 0;
  not_before_ns.assign(assignment != nullptr ? assignment->rx.size() : 0, 0);
  arm();
  taken_sequence = sequence;
  passed_sequence.store(sequence, std::memory_order_release);
}

// A fresh set each time: descriptors of ports that went are forgotten without asking which.
void Worker::Impl::arm() noexcept {
  disarm();
  armed_poll = poll.load(std::memory_order_relaxed);
  epoll_fd = armed_poll == PollMode::kAdaptive ? epoll_create1(EPOLL_CLOEXEC) : -1;
  has_queue_without_fd = has_interrupts = false;
  bool is_shared = false;
  const auto add = [this, &is_shared](int fd, std::uint32_t number, std::uint32_t how = 0) {
    epoll_event event{};
    event.events = EPOLLIN | how;
    event.data.u32 = number;
    if (fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return fd >= 0;
    is_shared = is_shared || errno == EEXIST;
    return errno == EEXIST;
  };
  if (epoll_fd < 0) return;
  (void)add(wake_fd, kWakeEvent);
  if (assignment == nullptr) return;
  for (std::uint32_t i = 0; i < assignment->rx.size(); ++i) {
    const RxQueueRef& queue = assignment->rx[i];
    if (add(queue.port->rx_fd(queue.queue), i)) continue;
    if (add(queue.port->rx_interrupt_fd(queue.queue), i, EPOLLET)) has_interrupts = true;
    else has_queue_without_fd = true;
  }
  has_only_descriptors = !has_queue_without_fd && !has_interrupts && !is_shared && assignment->rx.size() > 1;
}

// An armed descriptor costs each packet some hundred cycles: the kernel takes epoll's locks to say that the queue is readable, or its
// socket writable again. Under load nobody asks.
void Worker::Impl::disarm() noexcept {
  if (epoll_fd >= 0) close(epoll_fd);
  epoll_fd = -1;
  has_only_descriptors = false;
}

void Worker::Impl::watch_by_load() noexcept {
  const std::uint64_t packets = std::exchange(busy_packets, 0);
  const bool was_awake = !std::exchange(has_slept, false);
  if (armed_poll != PollMode::kAdaptive) return;
  if (epoll_fd >= 0 && was_awake && packets >= kBusyBeat) disarm();
  else if (epoll_fd < 0 && packets < kQuietBeat) arm();
}

// Of the queues that have them. False: one refuses.
bool Worker::Impl::ask_for_interrupts(bool are_wanted) noexcept {
  bool agree = true;
  for (const RxQueueRef& queue : assignment->rx)
    if (queue.port->rx_interrupt_fd(queue.queue) >= 0 && !queue.port->ask_for_rx_interrupt(queue.queue, are_wanted)) agree = false;
  return agree;
}

void Worker::Impl::take_snapshot(std::uint64_t request) noexcept {
  snapshot = pipeline.counters();  // equal sizes: the vector's copy does not allocate
  taken_snapshot = request;
  snapshot_done.store(request, std::memory_order_release);
}

void Worker::Impl::send_injected() noexcept {
  static_assert(sizeof(InjectedFrame) < 4096);
  if (injections.load(std::memory_order_seq_cst) == 0) [[likely]] return;
  InjectedFrame frame;
  while (injected.try_pop(frame)) {
    injections.fetch_sub(1, std::memory_order_relaxed);
    pipeline.generate(frame.port, {frame.bytes.data(), frame.length});
  }
}

void Worker::Impl::beat() noexcept {
  last_beat_ns = beaten_ns = now_ns;
  beats.store(beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);  // nobody else writes it
  watch_by_load();
  if (assignment == nullptr) return;
  for (const RxQueueRef& queue : assignment->rx)
    if (queue.heartbeat != nullptr) __atomic_store_n(&queue.heartbeat->monotonic_ns, now_ns, __ATOMIC_RELAXED);
}

// Nobody polled for so long that the kernel forwarded in our place where one stands by: what was taken before would come
// far too late, and teach the FDB where MACs were. While the heartbeat is stale no more comes.
[[gnu::cold]] void Worker::Impl::drop_stalled() noexcept {
  if (beaten_ns != 0)
    for (const RxQueueRef& queue : assignment->rx) {
      if (!queue.is_takeover) continue;
      while (const unsigned count = queue.port->rx(queue.queue, burst.data(), kMaxBurst))
        pipeline.discard(burst.data(), count, queue.index, DropReason::kStalled);
    }
  now_ns = monotonic_ns();
  beat();
}

// A system call a burst would be dear while learning is busy.
void Worker::Impl::tell_news(bool at_once) noexcept {
  news_pending = true;
  if (!at_once && now_ns - last_told_ns < kTellEveryNs) return;
  news_pending = false;
  last_told_ns = now_ns;
  const std::uint64_t one = 1;
  if (config.events_fd >= 0) (void)!write(config.events_fd, &one, sizeof one);
}

void Worker::Impl::sleep() noexcept {
  if (epoll_fd < 0) arm();
  sleeping.store(true, std::memory_order_seq_cst);  // before poll_once() looks for news, sequentially consistent too
  const bool have_agreed = !has_interrupts || ask_for_interrupts(true);
  const std::uint64_t asked_sequence = taken_sequence;
  const unsigned received = poll_once();
  if (received != 0) note_packets(false);
  else if (!pipeline.is_holding() && !stopping.load(std::memory_order_seq_cst) && taken_sequence == asked_sequence) wait(have_agreed);
  if (has_interrupts) (void)ask_for_interrupts(false);
  sleeping.store(false, std::memory_order_relaxed);
  has_slept = true;
}

void Worker::Impl::wait(bool all_wake_it) noexcept {
  auto nap = nanoseconds(config.sleep_at_most);
  if (has_queue_without_fd || !all_wake_it || epoll_fd < 0)
    nap = std::min(nap, std::clamp((now_ns - busy_at_ns) / kNapPerIdle, kShortestNapNs, kLongestNapNs));
  if (forecast.wake_at() > now_ns) nap = std::min(nap, forecast.wake_at() - now_ns);
  const timespec timeout{static_cast<time_t>(nap / 1'000'000'000), static_cast<long>(nap % 1'000'000'000)};
  epoll_event events[8];
  const int ready = epoll_fd >= 0 ? epoll_pwait2(epoll_fd, events, 8, &timeout, nullptr) : nanosleep(&timeout, nullptr);
  for (int i = 0; i < ready; ++i) {
    std::uint64_t count;
    if (events[i].data.u32 == kWakeEvent) (void)!read(wake_fd, &count, sizeof count);
    else is_woken = true;
  }
  if (ready == 0) forecast.woke(now_ns + nap, monotonic_ns());
  if (is_woken) adapt_spin();
}

void Worker::Impl::note_packets(bool was_asleep) noexcept {
  busy_at_ns = now_ns;
  forecast.received(now_ns, was_asleep);
}

// A packet came while it slept. Waking costs the packet tens of microseconds, spinning costs a core: it pays where spinning
// a little longer would have caught this one, as with requests and answers in a row (the kernel's haltpoll has the same idea).
void Worker::Impl::adapt_spin() noexcept {
  const std::uint64_t longest = nanoseconds(config.longest_spin), shortest = nanoseconds(config.spin);
  const bool would_have_paid = monotonic_ns() - busy_at_ns < longest;
  spin_ns = would_have_paid ? std::min(spin_ns * 2, longest) : std::max(spin_ns / 2, shortest);
}

void Worker::run() noexcept {
  Impl& w = *impl_;
  w.running.store(true, std::memory_order_seq_cst);
  (void)prctl(PR_SET_TIMERSLACK, 1000UL);  // naps are meant in microseconds
  while (!w.stopping.load(std::memory_order_relaxed)) {
    const bool was_asleep = std::exchange(w.is_woken, false);
    const unsigned received = w.poll_once();
    w.is_quiet = received < kQuiet;
    if (!w.is_quiet) w.busy_packets += received;
    if (received != 0) {
      w.note_packets(was_asleep);
      continue;
    }
    const PollMode poll = w.poll.load(std::memory_order_relaxed);
    if (poll != w.armed_poll) [[unlikely]] w.arm();
    if (poll == PollMode::kBusy || w.now_ns - w.busy_at_ns < w.spin_ns || w.forecast.is_due(w.now_ns))
      __builtin_ia32_pause();
    else
      w.sleep();
  }
  w.pipeline.send_held(UINT64_MAX);
  w.running.store(false, std::memory_order_seq_cst);
}

// ---- management thread ----

Worker::Worker(const WorkerConfig& config, BufferPool& pool) : impl_(std::make_unique<Impl>(config, pool)) {}
Worker::~Worker() = default;

unsigned Worker::poll_once() noexcept { return impl_->poll_once(); }

void Worker::Impl::wake() noexcept {
  if (!sleeping.load(std::memory_order_seq_cst)) return;
  const std::uint64_t one = 1;
  (void)!write(wake_fd, &one, sizeof one);
}

void Worker::publish(const ForwardingState* state, const Assignment* assignment) noexcept {
  Impl& w = *impl_;
  w.nodes.push_back(std::make_unique<Published>(Published{state, assignment}));
  w.current.store(w.nodes.back().get(), std::memory_order_release);
  w.published_sequence.fetch_add(1, std::memory_order_seq_cst);
  w.wake();
}

bool Worker::wait_quiescent(std::chrono::milliseconds timeout) noexcept {
  Impl& w = *impl_;
  const auto sequence = w.published_sequence.load(std::memory_order_relaxed);
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  // A worker that does not run takes the newest state when it starts: nothing former is in use.
  while (w.passed_sequence.load(std::memory_order_acquire) < sequence && w.running.load(std::memory_order_seq_cst)) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    w.wake();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  if (w.nodes.size() > 1) w.nodes.erase(w.nodes.begin(), w.nodes.end() - 1);
  return true;
}

std::optional<WorkerCounters> Worker::snapshot(std::chrono::milliseconds timeout) {
  Impl& w = *impl_;
  if (!w.running.load(std::memory_order_seq_cst)) return w.pipeline.counters();
  const auto request = w.snapshot_request.fetch_add(1, std::memory_order_seq_cst) + 1;
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (w.snapshot_done.load(std::memory_order_acquire) != request) {
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    w.wake();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return w.snapshot;
}

void Worker::stop() noexcept {
  impl_->stopping.store(true, std::memory_order_seq_cst);
  impl_->wake();
}

SpscQueue<protocol::LearnEvent>& Worker::learn_events() noexcept { return impl_->learn; }
SpscQueue<PuntedFrame>& Worker::punts() noexcept { return impl_->punts; }

bool Worker::inject(PortIndex port, std::span<const std::uint8_t> frame) noexcept {
  InjectedFrame slot;
  if (frame.size() > slot.bytes.size()) return false;
  slot.port = port;
  slot.length = static_cast<std::uint16_t>(frame.size());
  std::copy(frame.begin(), frame.end(), slot.bytes.begin());
  if (!impl_->injected.try_push(slot)) return false;
  impl_->injections.fetch_add(1, std::memory_order_seq_cst);
  impl_->wake();
  return true;
}

void Worker::set_poll(PollMode poll) noexcept {
  impl_->poll.store(poll, std::memory_order_relaxed);
  impl_->wake();
}
PollMode Worker::poll() const noexcept { return impl_->poll.load(std::memory_order_relaxed); }
std::uint64_t Worker::beats() const noexcept { return impl_->beats.load(std::memory_order_relaxed); }
const WorkerConfig& Worker::config() const noexcept { return impl_->config; }

std::uint16_t clock_seconds() noexcept { return Moment::at(monotonic_ns()).seconds; }

}  // namespace vx
