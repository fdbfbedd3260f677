// SPDX-License-Identifier: Apache-2.0
// Who has the frames, us or the kernel that stands by: what the BPF programs are told, and how the
// frames are given back without losing one.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>
#include <vector>

#include "dataplane/log.h"
#include "dataplane/switchboard.h"

namespace vx {
namespace {

// What is on its way into a socket when its program is told to bypass gets there within the first;
// what waits there is forwarded within the second, unless a worker hangs.
constexpr std::chrono::milliseconds kArriveTime{2}, kLongestDrain{100};

}  // namespace

void Switchboard::set_fail_open(const protocol::FailOpenConfig& config) {
  check_fail_open(config);
  const bool is_stall_same = config.stale_after_ms == model_.fail_open.stale_after_ms;
  model_.fail_open = config;
  tell_fail_open();
  if (!is_stall_same) change();  // the workers go by it, too
}

// A port that cannot be told is told again at the next change; the others are told all the same.
void Switchboard::tell_fail_open() {
  std::exception_ptr failed;
  for (const auto& entry : model_.ports) {
    if (!entry || entry->fail_open() == nullptr) continue;
    const FailOpenRule rule{model_.fail_open.bypass != 0 && model_.is_takeover(*entry),
                            model_.fail_open.stale_after_ms};
    if (entry->rule == rule) continue;
    entry->rule.reset();
    try {
      entry->fail_open()->set_rule(rule);
      entry->rule = rule;
    } catch (const std::exception&) {
      failed = std::current_exception();
    }
  }
  if (failed) std::rethrow_exception(failed);
}

void Switchboard::follow_again() {
  for (const auto& entry : model_.ports) {
    if (!entry || !entry->made.take || !entry->made.port->is_alive()) continue;
    if (entry->made.take->is_followed()) {
      entry->detached.clear();
      continue;
    }
    std::string what = "somebody detached its tc ingress program: the kernel has its frames until it is attached anew";
    if (!entry->detached.empty()) {
      try {
        entry->made.take->follow_again();
        log_info("port {}: its tc ingress program is attached anew", protocol::text_of(entry->config.name));
        entry->detached.clear();
        continue;
      } catch (const std::exception& error) {
        what = error.what();
      }
    }
    if (what != entry->detached) log_warning("port {}: {}", protocol::text_of(entry->config.name), what);
    entry->detached = std::move(what);
  }
}

// The kernel has the frames of those of `ports` that are takeover ports from here on; the workers
// go on until what had been taken is forwarded.
void Switchboard::give_back(std::span<const std::shared_ptr<PortEntry>> ports) noexcept {
  std::vector<pollfd> sources;
  for (const auto& entry : ports) {
    if (!entry || entry->fail_open() == nullptr || !model_.is_takeover(*entry)) continue;
    try {
      entry->rule = {true, model_.fail_open.stale_after_ms};
      entry->fail_open()->set_rule(*entry->rule);
    } catch (const std::exception& error) {
      log_warning("port {}: {}", protocol::text_of(entry->config.name), error.what());
    }
    for (std::uint16_t queue = 0; queue < entry->made.port->rx_queues(); ++queue)
      if (const int fd = entry->made.port->rx_fd(queue); fd >= 0) sources.push_back({fd, POLLIN, 0});
  }
  if (sources.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  do {
    std::this_thread::sleep_for(kArriveTime);
    const int waiting = poll(sources.data(), sources.size(), 0);
    const bool has_frames = std::any_of(sources.begin(), sources.end(), [](const pollfd& source) {
      return (source.revents & POLLIN) != 0;
    });
    if (waiting <= 0 || !has_frames) return;
  } while (std::chrono::steady_clock::now() - start < kLongestDrain);
}

}  // namespace vx
