// SPDX-License-Identifier: Apache-2.0
// What became of the packets of one flow, and the percentiles of round trips. No clock and no socket of their own; one thread.
#pragma once

#include <cstdint>
#include <vector>

namespace vx::bench {

// Arrivals by sequence number, each of which was sent once.
class SequenceAccount {
 public:
  // `limit`: sequence numbers from here on were not sent, and are ignored (`strangers`): memory is a bit for each below it.
  explicit SequenceAccount(std::uint64_t limit) : limit_(limit) {}

  // Times are ns, each of its own clock: only their differences count.
  void arrived(std::uint64_t sequence, unsigned ip_bytes, std::uint64_t sent_ns, std::uint64_t received_ns);

  [[nodiscard]] std::uint64_t received() const noexcept { return received_; }      // without duplicates
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }            // of these
  [[nodiscard]] std::uint64_t duplicated() const noexcept { return duplicated_; }
  [[nodiscard]] std::uint64_t reordered() const noexcept { return reordered_; }    // behind one with a higher number (RFC 4737)
  [[nodiscard]] std::uint64_t strangers() const noexcept { return strangers_; }
  [[nodiscard]] std::uint64_t lost(std::uint64_t sent) const noexcept { return sent > received_ ? sent - received_ : 0; }
  [[nodiscard]] double jitter_us() const noexcept { return jitter_ns_ / 1000; }    // RFC 3550, 6.4.1
  [[nodiscard]] double seconds() const noexcept { return static_cast<double>(last_ns_ - first_ns_) / 1e9; }  // first to last arrival
  // Bits per second of whole IP packets between first and last arrival; the first packet opens the interval.
  [[nodiscard]] double rate() const noexcept;

 private:
  std::uint64_t limit_;
  std::vector<bool> seen_;
  std::uint64_t received_ = 0, bytes_ = 0, duplicated_ = 0, reordered_ = 0, strangers_ = 0;
  std::uint64_t next_expected_ = 0, first_ns_ = 0, last_ns_ = 0, first_bytes_ = 0;
  std::int64_t last_transit_ns_ = 0;
  double jitter_ns_ = 0;
};

// Round trips, in ns.
class RoundTrips {
 public:
  void add(std::uint64_t ns) { values_.push_back(ns); }
  [[nodiscard]] std::size_t count() const noexcept { return values_.size(); }
  // The smallest value that at least `percent` of all are not above (nearest rank), in µs; 0 without values.
  [[nodiscard]] double percentile_us(double percent) const;

 private:
  std::vector<std::uint64_t> values_;
};

}  // namespace vx::bench
