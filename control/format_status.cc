// SPDX-License-Identifier: Apache-2.0
// What is running.
#include <fmt/format.h>

#include "control/format.h"

namespace vx::control {
namespace {

using format::child;
using format::duration;
using format::number;
using format::text;

std::string process(const Json& what) {
  return fmt::format("pid {}, up {}", text(what, "pid"), duration(number(what, "uptime_s")));
}

std::string overlay(const Json& o) {
  std::string out = fmt::format("overlay    {} vni {} {}, local {} port {}, mtu {}",
                                text(o, "name"), text(o, "vni"), text(o, "mode"), text(o, "local"),
                                text(o, "port"), text(o, "mtu"));
  if (const std::string master = text(o, "master"); !master.empty()) out += ", bridge " + master;
  if (const std::string who = text(o, "forwards"); !who.empty()) out += fmt::format(", forwarding: {}", who);
  out += fmt::format("\n           ports {}, vteps {} ({} reachable), fdb {} of {}\n",
                     number(o, "ports"), number(o, "vteps"), number(o, "vteps_reachable"),
                     number(o, "fdb"), number(o, "fdb_limit"));
  for (const auto& mac : child(o, "held"))
    if (mac.is_string()) out += fmt::format("           held {}: it moved too often\n", mac.get<std::string>());
  return out;
}

}  // namespace

std::string format_status(const Json& result) {
  const Json& control = child(result, "control");
  const Json& dataplane = child(result, "dataplane");
  const Json& underlay = child(result, "underlay");
  std::string out =
      fmt::format("control    {}, version {}\n", process(control), text(control, "version"));
  out += fmt::format("dataplane  {}", text(dataplane, "state"));
  if (text(dataplane, "state") == "connected") {
    out += fmt::format(", {}, workers {}, hugepages {}", process(dataplane),
                       text(dataplane, "workers"), text(dataplane, "hugepages"));
  }
  out += '\n';
  if (underlay.is_object()) {
    const std::string vlan = text(underlay, "vlan");
    out += fmt::format("underlay   {} {} {}, {}, mtu {}, address: {}\n", text(underlay, "device"),
                       text(underlay, "driver"), text(underlay, "state"),
                       vlan.empty() || vlan == "0" ? "untagged" : "vlan " + vlan,
                       text(underlay, "mtu"), text(underlay, "vtep_address"));
  }
  for (const auto& o : child(result, "overlays")) out += overlay(o);
  for (const auto& problem : child(result, "problems")) {
    if (problem.is_string()) out += fmt::format("problem    {}\n", problem.get<std::string>());
  }
  return out;
}

}  // namespace vx::control
