// SPDX-License-Identifier: Apache-2.0
// When the next packet will come, where packets come at even intervals (heartbeats, voice, polls): a worker that is awake by then spares
// it the wake-up, which is most of a lone packet's latency. Where they come at random nothing is foretold, and nothing is spent.
// Pure; nanoseconds of one monotonic clock. Threads: one worker's.
#pragma once

#include <algorithm>
#include <cstdint>

namespace vx {

class ArrivalForecast {
 public:
  // Packets closer than `silence_ns` belong to one arrival; nobody waits awake for longer than this either.
  explicit ArrivalForecast(std::uint64_t silence_ns) noexcept : silence_ns_(silence_ns) {}

  // Packets were received. `was_asleep`: the receiver had to be woken first, so they came a wake-up earlier.
  void received(std::uint64_t now_ns, bool was_asleep) noexcept {
    const std::uint64_t since = now_ns - last_packet_ns_;
    last_packet_ns_ = now_ns;
    if (since >= silence_ns_) arrived(now_ns - (was_asleep ? wake_ns_ : 0));
  }
  // The receiver asked to be woken at `wanted_ns` and was at `now_ns`.
  void woke(std::uint64_t wanted_ns, std::uint64_t now_ns) noexcept {
    const std::uint64_t late = std::min(now_ns > wanted_ns ? now_ns - wanted_ns : 0, kLongestLeadNs);
    wake_ns_ = wake_ns_ - wake_ns_ / 8 + late / 8;
    lead_ns_ = late > lead_ns_ ? late : lead_ns_ - (lead_ns_ - late) / 16;
  }
  // Ask to be woken then, and stay awake until then; 0: nothing is foretold.
  [[nodiscard]] std::uint64_t wake_at() const noexcept { return from_ns_; }
  [[nodiscard]] std::uint64_t awake_until() const noexcept { return until_ns_; }
  [[nodiscard]] bool is_due(std::uint64_t now_ns) const noexcept { return now_ns >= from_ns_ && now_ns < until_ns_; }
  // Only an arrival makes the next forecast: one short wait is all that silence costs.

 private:
  static constexpr unsigned kEvenIntervals = 3, kOddIntervals = 3;     // before anything is foretold; before an interval is given up
  static constexpr std::uint64_t kToleranceNs = 150'000;               // between intervals that are the same
  static constexpr std::uint64_t kLongestIntervalNs = 1'000'000'000;
  static constexpr std::uint64_t kLongestLeadNs = 350'000, kMarginNs = 20'000;
  static constexpr std::uint64_t kShareOfInterval = 4;                 // a quarter of it at most is spent awake

  void arrived(std::uint64_t at_ns) noexcept {
    const std::uint64_t interval = at_ns - last_arrival_ns_;
    last_arrival_ns_ = at_ns;
    from_ns_ = until_ns_ = 0;
    const std::uint64_t error = interval > interval_ns_ ? interval - interval_ns_ : interval_ns_ - interval;
    if (error > kToleranceNs || interval > kLongestIntervalNs) {
      if (++odd_ < kOddIntervals) return;  // one that was late or lost makes two of them
      even_ = odd_ = 0;
      interval_ns_ = interval;
      deviation_ns_ = kMarginNs;
      return;
    }
    odd_ = 0;
    interval_ns_ = interval_ns_ - interval_ns_ / 4 + interval / 4;
    deviation_ns_ = deviation_ns_ - deviation_ns_ / 4 + error / 4;
    if (++even_ < kEvenIntervals) return;
    const std::uint64_t most = std::min(interval_ns_ / kShareOfInterval, silence_ns_), after = 3 * deviation_ns_ + kMarginNs;
    if (2 * after > most) return;
    from_ns_ = at_ns + interval_ns_ - std::min(lead_ns_ + 2 * deviation_ns_ + kMarginNs, most - after);
    until_ns_ = at_ns + interval_ns_ + after;
  }

  std::uint64_t silence_ns_;
  std::uint64_t last_packet_ns_ = 0, last_arrival_ns_ = 0;
  std::uint64_t interval_ns_ = 0, deviation_ns_ = 0;
  std::uint64_t wake_ns_ = 50'000, lead_ns_ = 80'000;  // a wake-up's length: on average, and what is allowed for
  std::uint64_t from_ns_ = 0, until_ns_ = 0;
  unsigned even_ = 0, odd_ = kOddIntervals;
};

}  // namespace vx
