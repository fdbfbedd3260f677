// SPDX-License-Identifier: Apache-2.0
// Cycles of the time-stamp counter, measured on a machine that others use too: many short rounds, of which the
// neighbours hit some. What is compared (a floor and the work above it) takes turns round by round, so that both
// meet the same neighbours.
#pragma once

#include <x86intrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vx::bench {

// Per packet (or whatever a round consists of).
struct Cycles {
  double median = 0, least = 0;
};

[[nodiscard]] inline Cycles cycles_of(std::vector<double>& samples) {
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples.front()};
}

template <typename Round>
[[nodiscard]] double cycles_of_round(Round&& round, unsigned packets) {
  const std::uint64_t start = __rdtsc();
  round();
  return static_cast<double>(__rdtsc() - start) / packets;
}

struct Compared {
  Cycles floor, work;
  double above_floor = 0;  // median of the rounds' differences
  [[nodiscard]] double above_least() const { return work.least - floor.least; }
};

// Each of the two runs `rounds` times, of `packets` each; a tenth more before it counts, so that caches are as in use.
template <typename Floor, typename Work>
[[nodiscard]] Compared compare(Floor&& floor, Work&& work, unsigned packets, unsigned rounds) {
  std::vector<double> floors, works, differences;
  for (unsigned i = 0; i < rounds / 10 + 1; ++i) {
    floor();
    work();
  }
  for (unsigned i = 0; i < rounds; ++i) {
    floors.push_back(cycles_of_round(floor, packets));
    works.push_back(cycles_of_round(work, packets));
    differences.push_back(works.back() - floors.back());
  }
  return {cycles_of(floors), cycles_of(works), cycles_of(differences).median};
}

}  // namespace vx::bench
