// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_search.h"

#include <algorithm>

namespace vx::traffic {
namespace {

constexpr double kLeastFrames = 200;  // of a trial: of fewer, none lost says little
constexpr double kStepDown = 0.03;  // after a confirmation that failed

class Search {
 public:
  Search(const SearchSettings& settings, const RunTrial& run) : settings_(settings), run_(run) {}

  SearchResult all() {
    bisect();
    if (!is_over_) confirm();
    return result_;
  }

 private:
  bool passes(double pps, double seconds) {
    result_.trials.push_back(run_(pps, seconds));
    is_over_ = last().sent == 0;
    return !is_over_ && last().loss() <= settings_.most_loss;
  }
  [[nodiscard]] const SearchTrial& last() const { return result_.trials.back(); }

  void bisect() {
    if (passes(0, settings_.seconds)) {
      result_.pps = last().pps;
      result_.is_sender_bound = true;
      return;
    }
    if (is_over_) return;
    double high = last().pps, low = 0;
    // What came through under overload is a good first guess, as long as it is one at all.
    double next = std::clamp(last().pps_received, high * 0.1, high * 0.95);
    const double least = kLeastFrames / settings_.seconds;
    while (result_.trials.size() < settings_.most_trials && high - low > settings_.resolution * high && high > least) {
      next = std::max(next, least);
      const bool passed = passes(next, settings_.seconds);
      if (is_over_) return;
      if (passed) {
        // A sender that was kept from sending proves what it sent, no more and no less.
        low = std::max(low, std::min(next, last().pps));
      } else {
        high = next;
      }
      next = (low + high) / 2;
    }
    result_.pps = low;
  }

  void confirm() {
    for (unsigned i = 0; i < settings_.most_confirmations && result_.pps > 0; ++i) {
      const bool passed = passes(result_.is_sender_bound ? 0 : result_.pps, 2 * settings_.seconds);
      if (is_over_) return;
      if (passed) {
        if (result_.is_sender_bound) result_.pps = last().pps;
        result_.is_confirmed = true;
        return;
      }
      result_.is_sender_bound = false;
      result_.pps *= 1 - kStepDown;
    }
  }

  const SearchSettings& settings_;
  const RunTrial& run_;
  SearchResult result_;
  bool is_over_ = false;
};

}  // namespace

SearchResult search(const SearchSettings& settings, const RunTrial& run) { return Search(settings, run).all(); }

}  // namespace vx::traffic
