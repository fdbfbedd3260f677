// SPDX-License-Identifier: Apache-2.0
// What a worker counts. Plain integers, one writer (the worker), never read by another thread while the
// worker runs: the worker copies them at a quiescent point when asked (WorkerSnapshot in worker.h), so a
// reader's figures always balance: received + cloned + generated + segmented =
// sent + dropped + consumed + coalesced + held (design section 3).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/drop_reason.h"
#include "dataplane/packet.h"

namespace vx {

struct PortCounters {
  std::uint64_t rx_packets = 0, rx_bytes = 0;
  std::uint64_t tx_packets = 0, tx_bytes = 0;
  std::uint64_t rx_dropped = 0;  // received here and dropped before an egress was chosen
  std::uint64_t tx_dropped = 0;  // dropped on the way out here
};

struct Totals {
  std::uint64_t received = 0, cloned = 0, generated = 0, segmented = 0;
  std::uint64_t sent = 0, dropped = 0, consumed = 0, coalesced = 0, held = 0;
  [[nodiscard]] bool balances() const noexcept {
    return received + cloned + generated + segmented == sent + dropped + consumed + coalesced + held;
  }
};

struct WorkerCounters {
  std::array<std::uint64_t, kDropReasonCount> drops{};
  std::vector<PortCounters> ports = std::vector<PortCounters>(kMaxPorts);
  // `received` and `sent` and `dropped` are derived: sums over ports and drops.
  std::uint64_t cloned = 0, generated = 0, segmented = 0, consumed = 0, coalesced = 0, held = 0;
  std::uint64_t polls = 0, busy_polls = 0, packets = 0;
  std::uint64_t learn_events = 0, learn_events_lost = 0;  // lost: queue full or over the rate; not packet drops
  std::uint64_t punts = 0, punts_lost = 0;
  std::uint64_t too_big_told = 0, too_big_limited = 0;    // packet-too-big messages made, and kept back by the rate limit

  void count_drop(DropReason reason) noexcept { ++drops[static_cast<std::size_t>(reason)]; }
};

}  // namespace vx
