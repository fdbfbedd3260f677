// SPDX-License-Identifier: Apache-2.0
// The MTU arithmetic spelt out, and what path probes found.
#include <fmt/format.h>

#include "control/format.h"

namespace vx::control {
namespace {

using format::child;
using format::number;
using format::text;

// "   1350  largest IP packet of a guest, untagged"
std::string row(std::string_view sign, std::uint64_t value, std::string_view what) {
  return fmt::format("  {:>1}{:>5}  {}\n", sign, value, what);
}

std::string margin_row(const Json& m) {
  const Json& margin = child(m, "margin");
  if (!margin.is_number_integer()) return "";
  const bool is_short = text(m, "margin").starts_with('-');
  const bool is_tagged = number(child(m, "ceiling"), "tagged") == number(m, "mtu") + number(m, "margin");
  return is_short ? row("", static_cast<std::uint64_t>(-margin.get<std::int64_t>()), "too many for what the tunnel carries")
                  : row("", number(m, "margin"), is_tagged ? "to spare, one tag counted" : "to spare");
}

std::string one_mtu(const Json& m) {
  const Json& overhead = child(m, "overhead");
  const Json& ceiling = child(m, "ceiling");
  const bool v6 = text(m, "family") == "ipv6";
  std::string out = fmt::format("{}: {}\n", text(m, "ifname"), text(m, "verdict"));
  std::string underlay = fmt::format("underlay IP MTU of {}", text(m, "device"));
  if (const std::string own = text(m, "device_mtu"); !own.empty()) underlay += fmt::format(" (the netdev's own: {})", own);
  out += row("", number(m, "underlay_mtu"), underlay);
  out += row("-", number(overhead, "ip"), v6 ? "outer IPv6 header" : "outer IPv4 header");
  out += row("-", number(overhead, "udp"), "outer UDP header");
  out += row("-", number(overhead, "vxlan"), "VXLAN header");
  out += row("-", number(overhead, "ethernet"), "inner Ethernet header");
  out += row("=", number(ceiling, "untagged"), "largest IP packet of a guest, untagged");
  out += row("", number(ceiling, "tagged"), "with one 802.1Q tag");
  out += row("", number(ceiling, "double_tagged"), "with two");
  out += row("", number(m, "mtu"), "overlay MTU: larger ones are dropped (mtu_exceeded)");
  out += margin_row(m);
  for (const auto& vtep : child(m, "vteps")) {
    const bool is_measured = text(vtep, "by") == "probe";
    out += row("", number(vtep, "ceiling"),
               fmt::format("towards {}: its path MTU is {}{}", text(vtep, "dst"), number(vtep, "mtu"), is_measured ? ", measured" : ""));
  }
  const Json& problems = child(m, "problems");
  for (const auto& problem : problems)
    if (problem.is_string()) out += problem.get<std::string>() + '\n';
  if (const std::string why = text(m, "text"); problems.empty() && !why.empty()) out += why + '\n';
  return out;
}

}  // namespace

std::string format_mtu(const Json& result) {
  std::string out;
  for (const auto& m : result) out += (out.empty() ? "" : "\n") + one_mtu(m);
  return out;
}

std::string format_probe(const Json& result) {
  std::string out;
  for (const auto& one : result)
    if (const std::string line = text(one, "text"); !line.empty()) out += line + '\n';
  return out;
}

}  // namespace vx::control
