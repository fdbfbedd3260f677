// SPDX-License-Identifier: Apache-2.0
#include "bench/link_tasks.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace vx::bench {

bool run_tasks(const Tasks& tasks, TimePoint until, const std::function<bool()>& done) {
  std::vector<pollfd> all;
  std::vector<std::size_t> ends;
  for (TimePoint now = Clock::now();;) {
    if (done()) return true;
    if (now >= until) return false;
    all.clear();
    ends.clear();
    TimePoint due = until;
    for (const Task* task : tasks) {
      task->watch(all);
      ends.push_back(all.size());
      due = std::min(due, task->due());
    }
    const auto wait = std::clamp<std::int64_t>(std::chrono::nanoseconds(due - Clock::now()).count(), 0, 1'000'000'000);
    const timespec timeout{static_cast<time_t>(wait / 1'000'000'000), static_cast<long>(wait % 1'000'000'000)};
    if (ppoll(all.data(), all.size(), &timeout, nullptr) < 0) {
      if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "ppoll");
      for (pollfd& one : all) one.revents = 0;
    }
    now = Clock::now();
    std::size_t start = 0;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      tasks[i]->step(now, std::span(all).subspan(start, ends[i] - start));
      start = ends[i];
    }
  }
}

}  // namespace vx::bench
