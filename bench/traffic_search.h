// SPDX-License-Identifier: Apache-2.0
// RFC 2544 section 26.1: the highest rate at which no more than a given share of the frames is lost. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace vx::traffic {

struct SearchTrial {
  double asked_pps = 0;  // 0: as fast as the sender can
  double pps = 0;        // what was sent
  double pps_received = 0;
  std::uint64_t sent = 0, lost = 0;
  bool is_late = false;  // the sender fell behind what was asked
  [[nodiscard]] double loss() const noexcept { return sent == 0 ? 1 : static_cast<double>(lost) / static_cast<double>(sent); }
};

struct SearchSettings {
  double most_loss = 0;       // share, 0: none
  double seconds = 2;         // of a trial; the confirming ones take twice as long
  double resolution = 0.01;   // of the rate
  unsigned most_trials = 16, most_confirmations = 4;
};

struct SearchResult {
  double pps = 0;              // 0: not even the lowest rate passed
  bool is_confirmed = false;   // twice as long at this rate also passed
  bool is_sender_bound = false;  // the sender's most passed: the true rate may be higher
  std::vector<SearchTrial> trials;
};

// Runs one trial: rate (0: saturate), seconds. An empty answer (sent 0) ends the search: interrupted.
using RunTrial = std::function<SearchTrial(double pps, double seconds)>;
// At most most_trials + most_confirmations trials.
[[nodiscard]] SearchResult search(const SearchSettings& settings, const RunTrial& run);

}  // namespace vx::traffic
