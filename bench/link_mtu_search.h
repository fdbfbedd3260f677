// SPDX-License-Identifier: Apache-2.0
// The largest IP packet that passes, by bisection, without knowing how a probe is sent. The largest size is tried first: on a
// healthy path one probe is enough. Sizes are bytes of whole IP packets. Pure; one thread.
#pragma once

#include <algorithm>
#include <optional>

namespace vx::bench {

class MtuSearch {
 public:
  // What became of the probes of one size. kRefused: this host's own kernel, as they do not fit its interface.
  enum class Verdict { kPassed, kLost, kRefused };

  MtuSearch(unsigned smallest, unsigned largest) : low_(smallest - 1), high_(std::max(smallest, largest) + 1), next_(high_ - 1) {}

  // The size to be tried now; nothing when the search is over.
  [[nodiscard]] std::optional<unsigned> next() const { return low_ + 1 < high_ ? std::optional(next_) : std::nullopt; }

  void tried(Verdict verdict) {
    if (verdict == Verdict::kPassed) {
      low_ = next_;
      has_passed_ = true;
    } else {
      high_ = next_;
      was_refused_ = verdict == Verdict::kRefused;
    }
    next_ = low_ + (high_ - low_) / 2;
  }

  // Nothing when not even the smallest passes.
  [[nodiscard]] std::optional<unsigned> result() const { return has_passed_ ? std::optional(low_) : std::nullopt; }
  // What is one byte larger is refused by this host itself: its interface is what limits, not the path.
  [[nodiscard]] bool is_own_limit() const { return was_refused_; }

 private:
  unsigned low_, high_, next_;  // low_ passes, high_ does not
  bool has_passed_ = false, was_refused_ = false;
};

}  // namespace vx::bench
