// SPDX-License-Identifier: Apache-2.0
// When the packets of a flow of constant rate are due. Never more than rate times elapsed time plus one packet: what could not be
// sent in time (no CPU, full socket) is given up beyond a burst of 5 ms, not made up for. Times are ns from any start. Pure.
#pragma once

#include <algorithm>
#include <cstdint>

namespace vx::bench {

class Pacer {
 public:
  Pacer(std::uint64_t rate, unsigned seconds, unsigned packet_bytes, std::uint64_t now_ns)
      : packet_ns_(8e9 * packet_bytes / static_cast<double>(rate)), base_ns_(static_cast<double>(now_ns)), end_ns_(now_ns + seconds * 1'000'000'000ULL) {}

  // How many may be sent now.
  [[nodiscard]] unsigned due(std::uint64_t now_ns) {
    if (is_over(now_ns)) return 0;
    const double behind = static_cast<double>(now_ns) - base_ns_;
    const double most = std::max(kBurstNs, packet_ns_);
    if (behind > most) base_ns_ = static_cast<double>(now_ns) - most;
    return behind < 0 ? 0 : static_cast<unsigned>(std::min(behind, most) / packet_ns_) + 1;
  }
  void sent(unsigned packets) { base_ns_ += packets * packet_ns_; }
  // When it is worth looking again: not for every packet where they are closer together than kStepNs.
  [[nodiscard]] std::uint64_t next(std::uint64_t now_ns) const {
    const auto at = static_cast<std::uint64_t>(base_ns_);
    return std::min(end_ns_, std::max(at, now_ns + (packet_ns_ < kStepNs ? kStepNs : 0)));
  }
  [[nodiscard]] bool is_over(std::uint64_t now_ns) const { return now_ns >= end_ns_; }

 private:
  static constexpr double kBurstNs = 5e6;
  static constexpr std::uint64_t kStepNs = 200'000;
  double packet_ns_, base_ns_;  // base_ns_: when the next packet is due
  std::uint64_t end_ns_;
};

}  // namespace vx::bench
