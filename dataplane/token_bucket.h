// SPDX-License-Identifier: Apache-2.0
// Rate limits as one 64-bit number each (the generic cell rate algorithm, ITU-T I.371): the time at which the
// bucket would be full again. Time is a parameter: nanoseconds of any monotonic clock.
#pragma once

#include <atomic>
#include <cstdint>

namespace vx {

struct TokenRate {
  std::uint64_t interval_ns = 0;  // one token per interval
  std::uint64_t burst_ns = 0;     // tolerance: burst tokens at once, times the interval

  // `per_second` >= 1 tokens, of which `burst` may be taken at once.
  static constexpr TokenRate of(std::uint64_t per_second, std::uint64_t burst) noexcept {
    const std::uint64_t interval = per_second >= 1'000'000'000 ? 1 : 1'000'000'000 / per_second;
    return {interval, burst > 1 ? (burst - 1) * interval : 0};
  }
};

// One thread.
class TokenBucket {
 public:
  [[nodiscard]] bool take(std::uint64_t now_ns, const TokenRate& rate) noexcept {
    const std::uint64_t from = full_at_ < now_ns ? now_ns : full_at_;
    if (from - now_ns > rate.burst_ns) return false;
    full_at_ = from + rate.interval_ns;
    return true;
  }

 private:
  std::uint64_t full_at_ = 0;
};

// Any number of threads, whose clocks agree. Written once per token: for rare packets only (floods).
class SharedTokenBucket {
 public:
  [[nodiscard]] bool take(std::uint64_t now_ns, const TokenRate& rate) noexcept {
    std::uint64_t full_at = full_at_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t from = full_at < now_ns ? now_ns : full_at;
      if (from - now_ns > rate.burst_ns) return false;
      if (full_at_.compare_exchange_weak(full_at, from + rate.interval_ns, std::memory_order_relaxed)) return true;
    }
  }

 private:
  std::atomic<std::uint64_t> full_at_{0};
};

}  // namespace vx
