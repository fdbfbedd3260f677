// SPDX-License-Identifier: Apache-2.0
// Several things done at once by one thread: each task names its descriptors and when it wants its turn. No call in a task blocks.
#pragma once

#include <poll.h>

#include <chrono>
#include <functional>
#include <span>
#include <vector>

namespace vx::bench {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

inline std::uint64_t to_ns(TimePoint time) { return static_cast<std::uint64_t>(std::chrono::nanoseconds(time.time_since_epoch()).count()); }
inline TimePoint from_ns(std::uint64_t ns) { return TimePoint(std::chrono::nanoseconds(ns)); }

class Task {
 public:
  virtual ~Task() = default;
  virtual void watch(std::vector<pollfd>&) const {}                         // appends its descriptors
  [[nodiscard]] virtual TimePoint due() const { return TimePoint::max(); }  // its turn comes then at the latest
  // `ready`: what watch() appended, answered. Called after every wait, whether or not anything is ready.
  virtual void step(TimePoint now, std::span<const pollfd> ready) = 0;
};

using Tasks = std::vector<Task*>;
// Until `done`, asked before every round, is true; false when `until` comes before. Tasks may throw.
bool run_tasks(const Tasks& tasks, TimePoint until, const std::function<bool()>& done);

}  // namespace vx::bench
