// SPDX-License-Identifier: Apache-2.0
// The clock that the dataplane, its control protocol's ages and the BPF programs' heartbeat share. Any thread.
#pragma once

#include <cstdint>
#include <ctime>

namespace vx {

// CLOCK_MONOTONIC in nanoseconds, as bpf_ktime_get_ns() has it.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

}  // namespace vx
