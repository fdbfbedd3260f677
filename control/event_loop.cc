// SPDX-License-Identifier: Apache-2.0
#include "control/event_loop.h"

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace vx::control {

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (epoll_ < 0) throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

EventLoop::~EventLoop() { close(epoll_); }

Milliseconds EventLoop::now() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<Milliseconds>(ts.tv_sec) * 1000 + static_cast<Milliseconds>(ts.tv_nsec) / 1000000;
}

void EventLoop::add(int fd, std::uint32_t events, Ready ready) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0)
    throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  ready_[fd] = std::make_shared<Ready>(std::move(ready));
}

void EventLoop::change(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::remove(int fd) {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  ready_.erase(fd);
}

void EventLoop::every(Milliseconds period, std::function<void(Milliseconds)> tick) {
  timers_.push_back(std::make_unique<Timer>(Timer{period, now() + period, std::move(tick)}));
}

void EventLoop::step(Milliseconds deadline) {
  Milliseconds wake = deadline;
  for (const auto& timer : timers_) wake = std::min(wake, timer->due);
  const Milliseconds before = now();
  const int timeout = wake <= before ? 0 : static_cast<int>(std::min<Milliseconds>(wake - before, 10000));
  epoll_event events[64];
  const int count = epoll_wait(epoll_, events, 64, timeout);
  for (int i = 0; i < count; ++i) {
    // A callback before this one may have removed the descriptor.
    const auto at = ready_.find(events[i].data.fd);
    if (at == ready_.end()) continue;
    const auto ready = at->second;  // survives its own removal
    (*ready)(events[i].events);
  }
  const Milliseconds after = now();
  for (std::size_t i = 0; i < timers_.size(); ++i) {
    Timer& timer = *timers_[i];
    if (timer.due > after) continue;
    timer.due = after + timer.period;
    timer.tick(after);
  }
}

void EventLoop::run() {
  while (!stopped_) step(now() + 10000);
}

void EventLoop::run_for(Milliseconds duration) {
  const Milliseconds end = now() + duration;
  while (!stopped_ && now() < end) step(end);
}

}  // namespace vx::control
