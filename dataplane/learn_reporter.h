// SPDX-License-Identifier: Apache-2.0
// What a worker tells control about sources: batched through a ring, each fact once in a while, at a bounded
// rate, so that a flood of random MACs costs known flows nothing. Moves are exempt from the rate: there
// can be no more of them than entries. One worker's thread; no allocation after construction.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "dataplane/learn_queue.h"
#include "dataplane/protocol.h"
#include "dataplane/token_bucket.h"

namespace vx {

class LearnReporter {
 public:
  LearnReporter(SpscQueue<protocol::LearnEvent>& queue, std::uint64_t events_per_second, std::size_t queue_capacity);

  enum class [[nodiscard]] Result : std::uint8_t { kTold, kRepeated, kLost };
  // kRepeated: told within the last kRepeatAfterMs. kLost: over the rate or the ring is full; told again with
  // the next frame then. `urgent` (this frame stopped an entry's use) passes both filters.
  Result report(const protocol::LearnEvent& event, std::uint64_t now_ns, bool urgent) noexcept;

  static constexpr std::uint64_t kRepeatAfterMs = 100;

 private:
  struct Told {
    std::uint64_t key = 0;       // mixed from everything that names the fact, location included
    std::uint64_t at_ms = 0;
  };
  static constexpr std::size_t kSlots = 2048;

  SpscQueue<protocol::LearnEvent>& queue_;
  const TokenRate rate_;
  TokenBucket bucket_;
  std::unique_ptr<std::array<Told, kSlots>> told_;
};

}  // namespace vx
