// SPDX-License-Identifier: Apache-2.0
#include "bench/link_accounting.h"

#include <algorithm>
#include <cmath>

namespace vx::bench {

void SequenceAccount::arrived(std::uint64_t sequence, unsigned ip_bytes, std::uint64_t sent_ns, std::uint64_t received_ns) {
  if (sequence >= limit_) {
    ++strangers_;
    return;
  }
  if (sequence >= seen_.size()) seen_.resize(sequence + 1);
  if (seen_[sequence]) {
    ++duplicated_;
    return;
  }
  seen_[sequence] = true;
  if (sequence < next_expected_) ++reordered_;
  next_expected_ = std::max(next_expected_, sequence + 1);

  const auto transit = static_cast<std::int64_t>(received_ns - sent_ns);  // with the clocks' offset in it, which cancels out
  if (received_ == 0) {
    first_ns_ = received_ns;
    first_bytes_ = ip_bytes;
  } else {
    const double difference = std::abs(static_cast<double>(static_cast<std::int64_t>(static_cast<std::uint64_t>(transit) - static_cast<std::uint64_t>(last_transit_ns_))));
    jitter_ns_ += (difference - jitter_ns_) / 16;
  }
  last_transit_ns_ = transit;
  last_ns_ = std::max(last_ns_, received_ns);
  ++received_;
  bytes_ += ip_bytes;
}

double SequenceAccount::rate() const noexcept {
  return last_ns_ > first_ns_ ? static_cast<double>(bytes_ - first_bytes_) * 8e9 / static_cast<double>(last_ns_ - first_ns_) : 0;
}

double RoundTrips::percentile_us(double percent) const {
  if (values_.empty()) return 0;
  std::vector<std::uint64_t> sorted = values_;
  const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
  const auto index = static_cast<std::size_t>(std::clamp(rank, 1.0, static_cast<double>(sorted.size()))) - 1;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(index), sorted.end());
  return static_cast<double>(sorted[index]) / 1000;
}

}  // namespace vx::bench
