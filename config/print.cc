// SPDX-License-Identifier: Apache-2.0
// Prints by the same table that reads, so that what is printed is read back.
#include "config/print.h"

#include <fmt/format.h>

#include "config/keys.h"
#include "config/mtu_arithmetic.h"

namespace vx::config {

std::string print(const Settings& settings) {
  std::string text = fmt::format(
      "# {} mode: {}\n", settings.mode == Mode::kNetdev ? "netdev" : "bridge",
      settings.mode == Mode::kNetdev ? "a tap stands in the kernel's bridge for the vxlan device"
                                     : "vxplane is the bridge and the tunnel");
  for (const std::string& line : mtu_lines(settings)) text += "# " + line + "\n";
  std::string_view section;
  for (const Key& key : all_keys()) {
    for (const std::string& value : key.print(settings)) {
      if (key.section != section) text += fmt::format("[{}]\n", key.section);
      section = key.section;
      text += fmt::format("{} = {}\n", key.name, value);
    }
  }
  return text;
}

}  // namespace vx::config
