// SPDX-License-Identifier: Apache-2.0
#include "control/takeover_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "config/print.h"
#include "control/takeover.h"

namespace vx::control {

namespace {

std::string summary(const Takeover& takeover) {
  const auto& s = *takeover.settings;
  const auto ports = std::count_if(s.ports.begin(), s.ports.end(), [](const auto& port) {
    return port.is_kernels && port.driver == config::Driver::kNetdev;
  });
  const auto external = std::count_if(takeover.fdb.begin(), takeover.fdb.end(), [](const auto& row) { return row.second.is_external; });
  std::string text = fmt::format("# would take: VXLAN of VNI {} on {}{} (XDP), and the frames of {} port{} of {} (tc)\n", s.vxlan.vni,
                                 s.underlay.device, s.underlay.vlan != 0 ? fmt::format(" VLAN {}", s.underlay.vlan) : "", ports,
                                 ports == 1 ? "" : "s", s.bridge.takeover);
  text += fmt::format("# would leave: {} and {} as they are; they forward whenever vxplane does not\n", s.bridge.takeover, s.vxlan.name);
  text += fmt::format("# the kernel's FDB: {} static entries, {} external\n", takeover.fdb.size() - static_cast<std::size_t>(external), external);
  return text;
}

}  // namespace

int print_effective(const config::LoadAllResult& all, std::ostream& out, std::ostream& err) {
  for (const auto& problem : all.problems) err << config::to_string(problem) << '\n';
  if (config::has_error(all.problems)) return 2;
  const auto& files = all.settings;
  const bool asks_kernel = std::any_of(files.begin(), files.end(), [](const auto& file) { return file.mode == config::Mode::kTakeover; });
  std::optional<RouteSocket> kernel;
  std::optional<BridgeFollower> follower;
  if (asks_kernel) {
    kernel.emplace();
    follower.emplace(*kernel);
    follower->resync();
  }
  int exit = 0;
  for (const auto& file : files) {
    if (files.size() > 1) out << "# ---- " << file.source << '\n';
    if (file.mode != config::Mode::kTakeover) {
      out << config::print(file);
      continue;
    }
    for (const Takeover& takeover : read_takeover(file, follower->snapshot(), *kernel)) {
      for (const auto& problem : takeover.problems) err << file.source << ": " << problem << '\n';
      if (takeover.settings) out << config::print(*takeover.settings) << summary(takeover);
      else exit = 2;
    }
  }
  return exit;
}

}  // namespace vx::control
