// SPDX-License-Identifier: Apache-2.0
// The command line of vxplane-traffic.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "bench/traffic_frame.h"
#include "bench/traffic_namespace.h"
#include "bench/traffic_sender.h"

namespace vx::traffic {

struct TrafficOptions {
  Place from, to;
  FrameShape shape;
  SenderKind sender = SenderKind::kAfXdp;
  double rate = 0;  // frames a second; 0: as many as the sender can
  double seconds = 2, warmup = 0.2;
  std::optional<std::uint32_t> sink_vni;     // the sink is on the underlay
  std::optional<Outer> sink_outer;           // what its announcements are sent with
  std::optional<double> learn;               // rate
  std::optional<double> search;              // share of frames that may be lost
  double search_seconds = 2;
  bool is_announced = true, is_announce_only = false;
  double announce_rate = 10000;
  int cpu_send = -1, cpu_receive = -1;       // -1: any
  bool is_one_line = false, show_help = false;
};

// One line for the operator; the process exits with 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws UsageError.
[[nodiscard]] TrafficOptions parse_options(int argc, const char* const* argv);
[[nodiscard]] std::string help_text();

}  // namespace vx::traffic
