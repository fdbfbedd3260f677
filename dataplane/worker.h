// SPDX-License-Identifier: Apache-2.0
// One polling worker: rx from its queues, the packet's way (pipeline.h), tx; housekeeping in between.
//
// Threads: run() is the worker's own thread. Everything else is the management thread's (one), and talks to the
// worker through atomics and rings only. Once wait_quiescent() has returned true after a publish(), the worker no
// longer uses the former state. The worker never allocates, locks or logs while it forwards; a port with
// fewer tx queues than workers is the exception: its tx is under a spinlock (TxQueueRef::lock). While
// run() is not running, poll_once() and the management functions may be called from one thread (tests, benches).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/learn_queue.h"
#include "dataplane/port.h"
#include "dataplane/protocol.h"
#include "dataplane/queues.h"

namespace vx {

enum class PollMode : std::uint8_t { kBusy, kAdaptive };

struct WorkerConfig {
  unsigned lcore = 0;
  PollMode poll = PollMode::kAdaptive;
  std::chrono::microseconds spin{50};               // adaptive: polls empty for this long before it sleeps,
  std::chrono::microseconds longest_spin{400};      // and up to this long while packets keep waking it just after it fell asleep
                                                    // (of ports with a descriptor: the others' are found after a nap)
  std::chrono::milliseconds sleep_at_most{10};      // heartbeats stay fresh
  std::uint32_t learn_events_per_second = 1'000'000;
  std::size_t learn_queue_capacity = 16384;
  int events_fd = -1;                                // eventfd written when learn or punt queue turns non-empty
};

class Worker {
 public:
  Worker(const WorkerConfig& config, BufferPool& pool);
  ~Worker();

  // ---- worker's thread ----
  void run() noexcept;                 // until stop()
  // One pass over all rx queues; returns packets received. run() calls it; tests and benches may.
  unsigned poll_once() noexcept;

  // ---- management thread ----
  // Both pointers stay valid until wait_quiescent() after the next publish() has returned.
  void publish(const ForwardingState* state, const Assignment* assignment) noexcept;
  // Wakes the worker, then waits until it has passed a loop boundary since the last publish(). False: it did not in time.
  [[nodiscard]] bool wait_quiescent(std::chrono::milliseconds timeout) noexcept;
  // A consistent copy taken by the worker between two bursts; empty when it does not answer in time.
  // A port index that is used again goes on counting where it was: the caller subtracts what it had.
  [[nodiscard]] std::optional<WorkerCounters> snapshot(std::chrono::milliseconds timeout);
  // Makes run() return. Counters only ever grow, those of a port that is gone too: totals keep balancing.
  void stop() noexcept;
  [[nodiscard]] SpscQueue<protocol::LearnEvent>& learn_events() noexcept;
  [[nodiscard]] SpscQueue<PuntedFrame>& punts() noexcept;
  // Frames the management thread wants sent (kInject); the worker sends them at its next loop and counts them generated.
  [[nodiscard]] bool inject(PortIndex port, std::span<const std::uint8_t> frame) noexcept;
  // From now on instead of WorkerConfig::poll, and which it is now.
  void set_poll(PollMode poll) noexcept;
  [[nodiscard]] PollMode poll() const noexcept;
  // Counts up while run() goes round, at least once in WorkerConfig::sleep_at_most, packets or not. Any thread.
  [[nodiscard]] std::uint64_t beats() const noexcept;
  [[nodiscard]] const WorkerConfig& config() const noexcept;  // as constructed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Second of the dataplane's clock, modulo 65536: CLOCK_MONOTONIC seconds. What FDB times are in.
[[nodiscard]] std::uint16_t clock_seconds() noexcept;

}  // namespace vx
