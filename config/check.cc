// SPDX-License-Identifier: Apache-2.0
// Several files, one per VNI, and bridges to take over, that one instance serves together.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "config/load.h"
#include "config/values.h"

namespace vx::config {
namespace {

class CrossCheck {
 public:
  explicit CrossCheck(std::vector<Problem>& problems) : problems_(problems) {}

  void compare(const LoadResult& a, const LoadResult& b) {
    const Settings& first = *a.settings;
    const Settings& second = *b.settings;
    if (first.mode == Mode::kTakeover || second.mode == Mode::kTakeover) return compare_takeovers(first, second, b);
    if (first.source == second.source) return tell(b, "vxlan.name", "this file is given twice");
    const auto differs = [&](const std::string& id, const std::string& x, const std::string& y) {
      if (x != y)
        tell(b, id,
             fmt::format("'{}' here, '{}' in {}: one instance has one (another --run-dir is "
                         "another instance)",
                         y, x, first.source));
    };
    if (first.vxlan.vni == second.vxlan.vni)
      tell(b, "vxlan.vxlan-id",
           fmt::format("{} is that of {} too", second.vxlan.vni, first.source));
    if (first.vxlan.name == second.vxlan.name)
      tell(b, "vxlan.name", fmt::format("{} is that of {} too", second.vxlan.name, first.source));
    differs("vxlan.hold-port", to_text(first.vxlan.hold_port), to_text(second.vxlan.hold_port));
    differs("underlay.device", first.underlay.device, second.underlay.device);
    differs("underlay.driver", driver_text(first.underlay.driver, first.underlay.devargs),
            driver_text(second.underlay.driver, second.underlay.devargs));
    differs("underlay.vlan", fmt::format("{}", first.underlay.vlan),
            fmt::format("{}", second.underlay.vlan));
    differs("underlay.vtep-address", first.underlay.own_address ? "own" : "kernel",
            second.underlay.own_address ? "own" : "kernel");
    differs("underlay.mtu", fmt::format("{}", first.underlay.mtu),
            fmt::format("{}", second.underlay.mtu));
    differs("dataplane.lcores", first.dataplane.lcores, second.dataplane.lcores);
    differs("dataplane.poll", first.dataplane.poll == Poll::kBusy ? "busy" : "adaptive",
            second.dataplane.poll == Poll::kBusy ? "busy" : "adaptive");
    for (const PortSettings& port : second.ports)
      for (const PortSettings& other : first.ports)
        if (port.name == other.name)
          tell(b, "port." + port.name,
               fmt::format("{}: is a port of {} too", port.name, first.source), "port");
  }

 private:
  // What the kernel says is not known here; control compares it when it has asked.
  void compare_takeovers(const Settings& first, const Settings& second, const LoadResult& b) {
    if (first.bridge.takeover == second.bridge.takeover)
      tell(b, "bridge.takeover", fmt::format("{} is taken by {} too", second.bridge.takeover, first.source));
    if (first.dataplane != second.dataplane)
      tell(b, "dataplane.lcores", fmt::format("[dataplane] differs from that of {}: one instance has one", first.source));
  }
  void tell(const LoadResult& at, const std::string& id, std::string text, std::string key = {}) {
    const auto origin = at.origins.find(id);
    const Origin where =
        origin != at.origins.end() ? origin->second : Origin{at.settings->source, 1};
    problems_.push_back({where.file, where.line, key.empty() ? id.substr(id.find('.') + 1) : key,
                         std::move(text), Severity::kError});
  }
  std::vector<Problem>& problems_;
};

bool is_before(const Problem& a, const Problem& b) {
  return std::tie(a.file, a.line) < std::tie(b.file, b.line);
}
bool is_same(const Problem& a, const Problem& b) {
  return std::tie(a.file, a.line, a.key, a.text, a.severity) ==
         std::tie(b.file, b.line, b.key, b.text, b.severity);
}

}  // namespace

LoadAllResult load_all(const std::vector<std::string>& paths, const HostFacts& facts,
                       const std::vector<std::string>& bridges) {
  LoadAllResult all;
  std::vector<LoadResult> good;
  const auto add = [&](LoadResult result) {
    for (const LoadResult& earlier : good) CrossCheck(all.problems).compare(earlier, result);
    good.push_back(std::move(result));
  };
  for (const std::string& path : paths) {
    LoadResult result = load(path, facts);
    all.problems.insert(all.problems.end(), result.problems.begin(), result.problems.end());
    if (result.settings) add(std::move(result));
  }
  for (const std::string& bridge : bridges) {
    LoadResult result;
    result.settings = takeover_of(bridge);
    // Of the instance it says nothing: the files do.
    if (!good.empty()) result.settings->dataplane = good.front().settings->dataplane;
    result.origins["bridge.takeover"] = {result.settings->source, 0};
    add(std::move(result));
  }
  std::stable_sort(all.problems.begin(), all.problems.end(), is_before);
  all.problems.erase(std::unique(all.problems.begin(), all.problems.end(), is_same),
                     all.problems.end());  // one stanza, two files
  if (has_error(all.problems)) return all;
  for (LoadResult& result : good) all.settings.push_back(std::move(*result.settings));
  return all;
}

}  // namespace vx::config
