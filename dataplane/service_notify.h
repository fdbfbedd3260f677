// SPDX-License-Identifier: Apache-2.0
// What a process tells systemd about itself (sd_notify(3)): ready, a status line, that its loop still goes round.
// For both daemons, each from the thread of its loop. Without NOTIFY_SOCKET nothing is sent; a failure to send is
// no fault of the service and is not reported.
#pragma once

#include <fmt/format.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include <cstdint>
#include <string>
#include <utility>

namespace vx {

class ServiceNotify {
 public:
  // Takes WATCHDOG_USEC where it is meant for this process; its pid stays over exec.
  ServiceNotify() noexcept {
    if (sd_watchdog_enabled(0, &watchdog_us_) <= 0) watchdog_us_ = 0;
  }

  // READY=1 the first time, and after reloading().
  void ready(const std::string& status) {
    if (std::exchange(is_ready_, true)) return say(status);
    status_ = status;
    send(fmt::format("READY=1\nSTATUS={}", status_));
  }
  // A line for `systemctl status`; sent when it is another one.
  void say(const std::string& status) {
    if (status == status_) return;
    status_ = status;
    send("STATUS=" + status_);
  }
  // SIGHUP is being obeyed; ready() ends it.
  void reloading() {
    is_ready_ = false;
    send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now_us()));
  }
  void stopping() { send("STOPPING=1\nSTATUS=stopping"); }
  // To be called at least four times within WatchdogSec for as long as all is well; sends no more often than is of use.
  void alive() {
    const std::uint64_t now = now_us();
    if (watchdog_us_ == 0 || now - alive_at_us_ < watchdog_us_ / 4) return;
    alive_at_us_ = now;
    send("WATCHDOG=1");
  }
  [[nodiscard]] bool is_ready() const noexcept { return is_ready_; }

 private:
  static void send(const std::string& text) noexcept { (void)sd_notify(0, text.c_str()); }
  static std::uint64_t now_us() noexcept {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
  }

  std::uint64_t watchdog_us_ = 0, alive_at_us_ = 0;
  bool is_ready_ = false;
  std::string status_;
};

}  // namespace vx
