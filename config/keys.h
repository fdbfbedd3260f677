// SPDX-License-Identifier: Apache-2.0
// Every key of the configuration: where it stands, how it is read into Settings, how it is printed
// from them. load() and print() both walk this one table, in its order, so a key that can be read
// is printed too.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.h"
#include "config/values.h"

namespace vx::config {

struct Key {
  std::string_view section;
  std::string_view name;
  bool is_repeatable;
  bool is_required;
  // Reads one value. [port] comes after [bridge]: a port's VLANs default to the bridge's.
  Complaint (*read)(Settings& settings, const std::string& value);
  // The values to print, one a line; none: the key is left out, which reads back as the same.
  std::vector<std::string> (*print)(const Settings& settings);
};

[[nodiscard]] std::span<const Key> all_keys();
[[nodiscard]] const Key* find_key(std::string_view section,
                                  std::string_view name);  // null: unknown

// `NAME driver=... key=value...`; `bridge` gives the VLANs that the line does not.
[[nodiscard]] Complaint read_port(const std::string& line, const BridgeSettings& bridge,
                                  PortSettings& out);
[[nodiscard]] std::string port_text(const PortSettings& port, const BridgeSettings& bridge);

// bridge-vids tagged, bridge-pvid untagged: what the tunnel carries and a port has by default.
[[nodiscard]] VlanTable vlan_table_of(const VidSet& vids, std::uint16_t pvid);
[[nodiscard]] VlanTable tunnel_vlans_of(const BridgeSettings& bridge);

}  // namespace vx::config
