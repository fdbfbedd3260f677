// SPDX-License-Identifier: Apache-2.0
// Reads configuration files: INI, with what they import from ifupdown2 files (design.md section 5).
//
// All problems are collected, never only the first. Nothing here throws but std::bad_alloc; nothing
// is cached; any thread may call.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/host_facts.h"
#include "config/settings.h"

namespace vx::config {

struct LoadResult {
  std::optional<Settings> settings;       // present exactly when no problem is an error
  std::vector<Problem> problems;          // sorted by file and line
  std::map<std::string, Origin> origins;  // by "section.key", and "port.NAME" for each port
};

// One file. `settings` are complete: vxlan.local, vxlan.mtu and underlay.mtu are set, our own
// address is not among the remotes, `mode` is inferred. A key that the file does not give comes
// from the imported stanzas, then from `facts` (local address, underlay device and MTU only), then
// from settings.h's defaults.
[[nodiscard]] LoadResult load(const std::string& path, const HostFacts& facts);

struct LoadAllResult {
  std::vector<Settings> settings;  // in the order of the paths; empty when any problem is an error
  std::vector<Problem> problems;
};

// The files of one instance, one per VNI, each as load(), and its `--takeover BRIDGE`s, each as
// takeover_of() with the files' [dataplane]; then what they must agree on (underlay, [dataplane])
// or must not share (VNI, name, ports, the bridge).
[[nodiscard]] LoadAllResult load_all(const std::vector<std::string>& paths, const HostFacts& facts,
                                     const std::vector<std::string>& bridges = {});

// `--takeover BRIDGE`: a configuration that says no more than that.
[[nodiscard]] Settings takeover_of(const std::string& bridge);

[[nodiscard]] bool has_error(const std::vector<Problem>& problems);

// `FILE:LINE: KEY: text`, without a newline.
[[nodiscard]] std::string to_string(const Problem& problem);

}  // namespace vx::config
