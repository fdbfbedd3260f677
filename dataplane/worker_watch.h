// SPDX-License-Identifier: Apache-2.0
// Do the workers go round? For the watchdog: a dataplane of which one worker hangs is to be started anew, although its
// management thread answers. Management thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "dataplane/worker.h"

namespace vx {

class WorkerWatch {
 public:
  explicit WorkerWatch(std::vector<Worker*> workers) : workers_(std::move(workers)), beats_(workers_.size()) {}

  // CPU of a worker that has not gone round since the last look; empty: all have. Looks further apart than
  // WorkerConfig::sleep_at_most find a healthy worker idle in none of them, a starved one now and then.
  [[nodiscard]] std::optional<unsigned> look() noexcept {
    std::optional<unsigned> hung;
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      const std::uint64_t before = std::exchange(beats_[i], workers_[i]->beats());
      if (beats_[i] == before) hung = workers_[i]->config().lcore;
    }
    return hung;
  }

 private:
  std::vector<Worker*> workers_;
  std::vector<std::uint64_t> beats_;
};

}  // namespace vx
