// SPDX-License-Identifier: Apache-2.0
// One sender and one sink, and the trials that are run between them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "bench/traffic_napi.h"
#include "bench/traffic_options.h"
#include "bench/traffic_search.h"
#include "bench/traffic_sender.h"
#include "bench/traffic_sink.h"

namespace vx::traffic {

// sent = received + lost, always.
struct Report {
  double asked_pps = 0, seconds = 0;  // how long was sent
  double pps_sent = 0, pps_received = 0;
  std::uint64_t sent = 0, received = 0, lost = 0, duplicated = 0, reordered = 0, unknown = 0;
  std::uint64_t skipped = 0;  // frames the sender was too late for: not sent
  std::uint64_t flows_lossy = 0, flows_duplicated = 0, flows_reordered = 0, flows_unknown = 0;
  SinkTotals sink;
};

// What the flows of a run sum up to. `sent` and `flows` by flow, of the same size.
void add_up(Report& report, std::span<const std::uint32_t> sent, std::span<const vxt_flow> flows);

class Run {
 public:
  // Opens the devices. `stop`: set when the run is to end early. Throws std::runtime_error.
  Run(const TrafficOptions& options, const std::atomic<bool>& stop);

  // Teaches whatever is between: one frame from each MAC in use, from where it is, twice. Returns their number.
  std::uint64_t announce();
  // Sends for `seconds` at `pps` (0: saturate) after `warmup` seconds of the same, waits until nothing more arrives.
  [[nodiscard]] Report trial(double pps, double seconds, double warmup);
  [[nodiscard]] SearchResult search();
  [[nodiscard]] bool is_native() const noexcept { return sink_->is_native(); }

 private:
  void settle();
  void sleep(double seconds) const;
  std::uint64_t announce_from(const Place& place, std::uint32_t macs, MacAddress (*mac_of)(std::uint32_t), MacAddress to,
                              const std::optional<Outer>& outer);

  const TrafficOptions& options_;
  const std::atomic<bool>& stop_;
  FrameMaker frames_;
  std::unique_ptr<Sink> sink_;
  std::optional<ThreadedNapi> napi_;
  std::unique_ptr<Sender> sender_;
  std::uint8_t run_ = 0;
};

}  // namespace vx::traffic
