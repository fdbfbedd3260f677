// SPDX-License-Identifier: Apache-2.0
// A count that one thread writes and any thread reads: no locked instruction. Who sees a figure sees what was added to others before it.
#pragma once

#include <atomic>
#include <cstdint>

namespace vx {

class Tally {
 public:
  void add(std::uint64_t n) noexcept { value_.store(get() + n, std::memory_order_release); }  // the one writer
  [[nodiscard]] std::uint64_t get() const noexcept { return value_.load(std::memory_order_acquire); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace vx
