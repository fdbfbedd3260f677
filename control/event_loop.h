// SPDX-License-Identifier: Apache-2.0
// One thread's loop: descriptors that became readable or writable, and timers. No signals here (main.cc
// hands a signalfd in). Callbacks may add and remove descriptors and timers, their own included.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

namespace vx::control {

using Milliseconds = std::uint64_t;  // of CLOCK_MONOTONIC unless said otherwise

class EventLoop {
 public:
  EventLoop();  // throws std::system_error
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  using Ready = std::function<void(std::uint32_t events)>;  // EPOLLIN, EPOLLOUT, EPOLLHUP, ...
  // `fd` stays the caller's, who removes it before closing it.
  void add(int fd, std::uint32_t events, Ready ready);
  void change(int fd, std::uint32_t events);
  void remove(int fd);
  // Calls `tick` every `period` from now on, for the life of the loop. A late loop does not catch up.
  void every(Milliseconds period, std::function<void(Milliseconds now)> tick);

  void run();                           // until stop()
  void run_for(Milliseconds duration);  // tests
  void stop() noexcept { stopped_ = true; }
  [[nodiscard]] static Milliseconds now();

 private:
  struct Timer {
    Milliseconds period, due;
    std::function<void(Milliseconds)> tick;
  };
  void step(Milliseconds deadline);

  int epoll_ = -1;
  bool stopped_ = false;
  std::unordered_map<int, std::shared_ptr<Ready>> ready_;
  std::vector<std::unique_ptr<Timer>> timers_;
};

}  // namespace vx::control
