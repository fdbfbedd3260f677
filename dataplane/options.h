// SPDX-License-Identifier: Apache-2.0
// The command line of vxplane-dataplane.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "dataplane/worker.h"

namespace vx {

struct Options {
  std::string run_dir = "/run/vxplane";
  std::vector<unsigned> cpus;  // one worker each
  PollMode poll = PollMode::kAdaptive;
  bool is_lcores_given = false, is_poll_given = false;  // these win over the configuration's
  bool no_huge = false;
  unsigned memory_mb = 192;
  std::vector<std::string> eal_arguments;
  bool show_help = false, show_version = false;
};

// One line for the operator; the process exits with 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Holds the CPUs that control asked for over the start in a new image (protocol kWorkersSet).
inline constexpr char kConfiguredLcores[] = "configured-lcores";

// Throws UsageError; std::runtime_error for a CPU of kConfiguredLcores that is not there.
[[nodiscard]] Options parse_options(int argc, const char* const* argv);
[[nodiscard]] std::string help_text();

}  // namespace vx
