// SPDX-License-Identifier: Apache-2.0
// The last step of load(): what follows from the keys that were given, and whether they fit each
// other.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "config/host_facts.h"
#include "config/ini.h"
#include "config/settings.h"

namespace vx::config {

// A configuration in the making.
struct Draft {
  Settings settings;  // as far as it could be read
  std::map<std::string, std::vector<Entry>>
      entries;                // by "section.key": explicit ones, else imported ones
  std::set<std::string> bad;  // "section.key" that could not be read: nothing follows from it
  std::map<std::string, unsigned> sections;  // line of a section's first header
  std::vector<Origin> port_origins;          // one for each of settings.ports
  std::vector<Problem> problems;
  bool has_import_failed = false;
  bool wants_netdev_port = false;  // see ImportResult::is_bridge_port_alone

  [[nodiscard]] const Entry* first(const std::string& id) const {
    const auto it = entries.find(id);
    return it == entries.end() || it->second.empty() ? nullptr : &it->second.front();
  }
};

// Fills in the local address, MTUs, the remotes without ourselves and the mode; adds every problem
// found.
void settle(Draft& draft, const HostFacts& facts);

}  // namespace vx::config
