// SPDX-License-Identifier: Apache-2.0
// Prints by the same table that reads, so that what is printed is read back.
#include "config/print.h"

#include <fmt/format.h>

#include "config/keys.h"
#include "config/mtu_arithmetic.h"

namespace vx::config {

namespace {

std::string_view describe(Mode mode) {
  switch (mode) {
    case Mode::kNetdev: return "netdev mode: a tap stands in the kernel's bridge for the vxlan device";
    case Mode::kTakeover:
      return "takeover mode: the kernel's bridge is the configuration, and carries on when vxplane does not; "
             "what is commented out is the kernel's";
    case Mode::kBridge: break;
  }
  return "bridge mode: vxplane is the bridge and the tunnel";
}

}  // namespace

std::string print(const Settings& settings) {
  std::string text = fmt::format("# {}\n", describe(settings.mode));
  for (const std::string& line : mtu_lines(settings)) text += "# " + line + "\n";
  std::string_view section;
  const auto put = [&](const Key& key, const std::string& value, bool is_kernels) {
    if (key.section != section) text += fmt::format("[{}]\n", key.section);
    section = key.section;
    text += fmt::format("{}{} = {}\n", is_kernels ? "# " : "", key.name, value);
  };
  for (const Key& key : all_keys()) {
    if (key.section == "port") {
      for (const PortSettings& rule : settings.port_rules) put(key, port_text(rule, settings.bridge), false);
      for (const PortSettings& port : settings.ports) put(key, port_text(port, settings.bridge), port.is_kernels);
      continue;
    }
    const bool is_kernels = settings.mode == Mode::kTakeover &&
                            settings.given.count(fmt::format("{}.{}", key.section, key.name)) == 0;
    for (const std::string& value : key.print(settings)) put(key, value, is_kernels);
  }
  return text;
}

}  // namespace vx::config
