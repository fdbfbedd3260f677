// SPDX-License-Identifier: Apache-2.0
// What ifupdown2 stanzas say about one tunnel, as the entries that an INI file would have for the
// same: they are then read by the same grammar, with the stanza's file and line. Pure.
#pragma once

#include <string>
#include <vector>

#include "config/ifupdown2.h"
#include "config/ini.h"

namespace vx::config {

// What the INI file itself says, which picks and completes.
struct ImportRequest {
  Origin origin;                  // of the `interfaces` line
  const Entry* name = nullptr;    // [vxlan] name
  const Entry* vni = nullptr;     // [vxlan] vxlan-id
  const Entry* local = nullptr;   // [vxlan] vxlan-local-tunnelip
  const Entry* device = nullptr;  // [underlay] device
  const Entry* vlan = nullptr;    // [underlay] vlan
  std::vector<Entry> remotes;     // [vxlan] vxlan-remoteip
};

struct ImportResult {
  std::vector<Entry> entries;
  std::vector<Problem> problems;
  bool has_failed =
      false;  // no stanza could be picked, and a problem says so: what is missing is no news
  bool is_bridge_port_alone =
      false;  // the bridge's only port is the vxlan: netdev mode, if no [port] line is there
};

[[nodiscard]] ImportResult import_stanzas(const Interfaces& interfaces,
                                          const ImportRequest& request);

}  // namespace vx::config
