// SPDX-License-Identifier: Apache-2.0
// RUN/control.state: what vxctl added and what was learned of VTEPs, so that it survives a restart of either
// process (the run directory does not survive a reboot, and neither does this). JSON, written whole to a
// temporary name and renamed, so that it is always complete.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/wire.h"

namespace vx::control {

struct StoredFdbEntry {
  MacAddress mac;
  std::uint16_t vlan = 0;
  std::string port;      // exactly one of port, dst, blackhole
  std::string dst;
  bool is_blackhole = false, is_sticky = false;
};
struct StoredVtep {
  std::string dst;
  bool is_learned = false;  // else added by vxctl
  bool flood = true;
};
struct StoredOverlay {
  std::string name;
  std::vector<StoredFdbEntry> fdb;
  std::vector<StoredVtep> vteps;
  std::vector<std::string> ports;  // as behind `port =` in the configuration
};
struct StoredState {
  std::vector<StoredOverlay> overlays;
  bool is_bypassed = false;  // `vxctl bypass on`
};

// An absent file is an empty state. What cannot be read is left out, with one line in `problems`.
[[nodiscard]] StoredState read_state(const std::string& path, std::vector<std::string>& problems);
// Empty: written; else why not, one line.
[[nodiscard]] std::string write_state(const std::string& path, const StoredState& state);

}  // namespace vx::control
