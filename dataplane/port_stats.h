// SPDX-License-Identifier: Apache-2.0
// Sums of what workers counted. Workers count per port index and never start again from zero; an
// index that is used again is read from a baseline, and what removed ports had counted stays in the
// sums, so that received + cloned + generated + segmented = sent + dropped + consumed + coalesced +
// held holds for ever.
//
// Threads: management thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/protocol.h"
#include "dataplane/switch_model.h"
#include "dataplane/worker.h"

namespace vx {

struct SwitchStats {
  protocol::StatsReply reply;  // but for `ports` and `workers`, which depend on what fits
  std::vector<protocol::PortStats>
      ports;  // by index; kRemovedPorts last, when it has counted something
  std::vector<protocol::WorkerStats> workers;
};

class PortStatsKeeper {
 public:
  PortStatsKeeper() : removed_(kMaxPorts) {}

  [[nodiscard]] SwitchStats collect(std::span<Worker* const> workers,
                                    std::span<const std::shared_ptr<PortEntry>> ports) const;
  // `entry`'s port is about to be destroyed; the workers no longer use it.
  void retire(std::span<Worker* const> workers, const PortEntry& entry);

 private:
  std::vector<PortCounters> removed_;  // by PortIndex: what all former users of it counted
  Port::LostFrames removed_lost_;
  Port::Fragments removed_fragments_;
  std::array<std::uint64_t, VXP_EXIT_COUNT> removed_exits_{};
  std::array<std::uint64_t, VXP_TAKE_COUNT> removed_takes_{};
};

}  // namespace vx
