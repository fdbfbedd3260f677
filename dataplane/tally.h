// SPDX-License-Identifier: Apache-2.0
// A count that one thread writes and any thread reads: no locked instruction.
#pragma once

#include <atomic>
#include <cstdint>

namespace vx {

class Tally {
 public:
  void add(std::uint64_t n) noexcept { value_.store(get() + n, std::memory_order_relaxed); }  // the one writer
  [[nodiscard]] std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace vx
