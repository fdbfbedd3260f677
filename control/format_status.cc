// SPDX-License-Identifier: Apache-2.0
// What is running, and the MTU arithmetic spelt out.
#include <fmt/format.h>

#include "control/format.h"

namespace vx::control {
namespace {

using format::child;
using format::number;
using format::text;

std::string duration(std::uint64_t seconds) {
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h{:02}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{:02}h", seconds / 86400, seconds / 3600 % 24);
}

std::string process(const Json& what) {
  return fmt::format("pid {}, up {}", text(what, "pid"), duration(number(what, "uptime_s")));
}

std::string overlay(const Json& o) {
  std::string out = fmt::format("overlay    {} vni {} {}, local {} port {}, mtu {}",
                                text(o, "name"), text(o, "vni"), text(o, "mode"), text(o, "local"),
                                text(o, "port"), text(o, "mtu"));
  if (const std::string master = text(o, "master"); !master.empty()) out += ", bridge " + master;
  out += fmt::format("\n           ports {}, vteps {} ({} reachable), fdb {} of {}\n",
                     number(o, "ports"), number(o, "vteps"), number(o, "vteps_reachable"),
                     number(o, "fdb"), number(o, "fdb_limit"));
  return out;
}

// "   1350  largest IP packet of a guest, untagged"
std::string row(std::string_view sign, std::uint64_t value, std::string_view what) {
  return fmt::format("  {:>1}{:>5}  {}\n", sign, value, what);
}

std::string one_mtu(const Json& m) {
  const Json& overhead = child(m, "overhead");
  const Json& ceiling = child(m, "ceiling");
  const bool v6 = text(m, "family") == "ipv6";
  std::string out = fmt::format("{}: {}\n", text(m, "ifname"), text(m, "verdict"));
  out +=
      row("", number(m, "underlay_mtu"), fmt::format("underlay IP MTU of {}", text(m, "device")));
  out += row("-", number(overhead, "ip"), v6 ? "outer IPv6 header" : "outer IPv4 header");
  out += row("-", number(overhead, "udp"), "outer UDP header");
  out += row("-", number(overhead, "vxlan"), "VXLAN header");
  out += row("-", number(overhead, "ethernet"), "inner Ethernet header");
  out += row("=", number(ceiling, "untagged"), "largest IP packet of a guest, untagged");
  out += row("", number(ceiling, "tagged"), "with one 802.1Q tag");
  out += row("", number(ceiling, "double_tagged"), "with two");
  out += row("", number(m, "mtu"), "overlay MTU: larger ones are dropped (mtu_exceeded)");
  for (const auto& vtep : child(m, "vteps")) {
    out +=
        row("", number(vtep, "ceiling"),
            fmt::format("towards {}: its path MTU is {}", text(vtep, "dst"), number(vtep, "mtu")));
  }
  if (const std::string why = text(m, "text"); !why.empty()) out += why + '\n';
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

std::string format_mtu(const Json& result) {
  std::string out;
  for (const auto& m : result) out += (out.empty() ? "" : "\n") + one_mtu(m);
  return out;
}

}  // namespace vx::control
