// SPDX-License-Identifier: Apache-2.0
// FDB, VTEP, port and VLAN lists. Counters are in format_stats.cc, status in format_status.cc, MTU in format_mtu.cc.
#include "control/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace vx::control {
namespace format {

const Json& child(const Json& object, std::string_view key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto it = object.find(std::string(key));
  return it == object.end() ? kNull : *it;
}

std::string text(const Json& object, std::string_view key) {
  const Json& value = child(object, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_unsigned()) return fmt::format("{}", value.get<std::uint64_t>());
  if (value.is_number_integer()) return fmt::format("{}", value.get<std::int64_t>());
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  return {};
}

std::uint64_t number(const Json& object, std::string_view key) {
  const Json& value = child(object, key);
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  return value.is_number_integer() && value.get<std::int64_t>() > 0 ? value.get<std::uint64_t>()
                                                                    : 0;
}

std::string duration(std::uint64_t seconds) {
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h{:02}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{:02}h", seconds / 86400, seconds / 3600 % 24);
}

std::string Table::str() const {
  std::vector<std::size_t> widths(rows_.front().size());
  std::vector<bool> is_number(widths.size(), true);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < widths.size() && c < rows_[r].size(); ++c) {
      const std::string& cell = rows_[r][c];
      widths[c] = std::max(widths[c], cell.size());
      const bool digits = std::ranges::count(cell, '.') <= 1 &&  // else an address
          std::ranges::all_of(cell, [](unsigned char ch) { return std::isdigit(ch) || ch == '.'; });
      if (r > 0 && !cell.empty() && cell != "-" && !digits) is_number[c] = false;
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += is_number[c] ? fmt::format("{:>{}}  ", row[c], widths[c])
                           : fmt::format("{:<{}}  ", row[c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

}  // namespace format

namespace {

using format::child;
using format::text;

std::string format_fdb(const Json& result, const FormatOptions& options) {
  std::string out;
  for (const auto& entry : result) out += format_fdb_entry(entry, options) + '\n';
  return out;
}

// The eight keys of `fdb count`, or whatever other object: a key a line.
std::string format_pairs(const Json& result) {
  std::size_t width = 0;
  for (const auto& [key, value] : result.items()) width = std::max(width, key.size());
  std::string out;
  for (const auto& [key, value] : result.items())
    out += fmt::format("{:<{}}  {}\n", key, width, text(result, key));
  return out;
}

std::string or_dash(const std::string& value) { return value.empty() ? "-" : value; }

std::string format_vteps(const Json& result) {
  const bool several = std::ranges::any_of(
      result, [](const Json& vtep) { return !child(vtep, "ifname").is_null(); });
  std::vector<std::string> head{"DST", "PORT", "STATE", "MAC", "FLOOD"};
  if (several) head.push_back("DEV");
  head.insert(head.end(), {"PATH-MTU", "MEASURED"});
  format::Table table(std::move(head));
  for (const auto& vtep : result) {
    std::vector<std::string> row{text(vtep, "dst"), text(vtep, "port"), text(vtep, "state"),
                                 or_dash(text(vtep, "mac")), text(vtep, "flood")};
    if (several) row.push_back(text(vtep, "ifname"));
    const bool is_measured = !child(vtep, "path_mtu_age").is_null();
    row.push_back(or_dash(text(vtep, "path_mtu")));
    row.push_back(is_measured ? format::duration(format::number(vtep, "path_mtu_age")) + " ago" : "-");
    table.add(std::move(row));
  }
  return table.empty() ? "" : table.str();
}

std::string format_ports(const Json& result) {
  format::Table table({"NAME", "ROLE", "DRIVER", "STATE", "MTU", "QUEUES", "MACS"});
  std::string notes;
  for (const auto& port : result) {
    std::string queues = text(port, "rx_queues");
    if (!queues.empty()) queues += "/" + text(port, "tx_queues");
    std::string driver = text(port, "driver");
    if (driver.size() > 24)
      driver = driver.substr(0, 21) + "...";  // devargs may be long; -j has them whole
    table.add({text(port, "name"), text(port, "role"), driver, text(port, "state"),
               or_dash(text(port, "mtu")), or_dash(queues), or_dash(text(port, "learned"))});
    if (const std::string why = text(port, "text"); !why.empty())
      notes += fmt::format("{}: {}\n", text(port, "name"), why);
    const std::string missed = text(port, "rx_missed"), errors = text(port, "tx_errors");
    if ((!missed.empty() && missed != "0") || (!errors.empty() && errors != "0"))
      notes += fmt::format("{}: {} frames lost before it received them (rx_missed), {} refused by the kernel or device (tx_errors)\n",
                           text(port, "name"), missed, errors);
  }
  return table.empty() ? "" : table.str() + notes;
}

// As `bridge vlan show` prints it; its header has trailing spaces, ours has none.
std::string format_vlans(const Json& result) {
  if (!result.is_array() || result.empty()) return "";
  std::size_t width = 16;
  for (const auto& port : result) width = std::max(width, text(port, "ifname").size());
  std::string out = fmt::format("{:<{}}  {}\n", "port", width, "vlan-id");
  for (const auto& port : result) {
    std::string name = text(port, "ifname");
    for (const auto& vlan : child(port, "vlans")) {
      std::string line = fmt::format("{:<{}}  {}", name, width, text(vlan, "vlan"));
      if (const std::string end = text(vlan, "vlanEnd"); !end.empty()) line += "-" + end;
      for (const auto& flag : child(vlan, "flags")) {
        if (flag.is_string()) line += " " + flag.get<std::string>();
      }
      out += line + '\n';
      name.clear();
    }
    if (!name.empty()) out += fmt::format("{:<{}}  None\n", name, width);
  }
  return out;
}

std::string format_bypass(const Json& result) {
  const std::string reason = text(result, "reason");
  return reason.empty() ? "off: vxplane forwards\n" : fmt::format("on: the kernel forwards: {}\n", reason);
}

std::string format_lines(const Json& lines) {
  std::string out;
  for (const auto& line : lines) {
    if (line.is_string()) out += line.get<std::string>() + '\n';
  }
  return out;
}

}  // namespace

std::string format_fdb_entry(const Json& entry, const FormatOptions& options) {
  std::string line = fmt::format("{} dev {}", text(entry, "mac"), text(entry, "ifname"));
  const auto add = [&line](std::string_view word, const std::string& value) {
    if (value.empty()) return;
    if (!word.empty()) line += fmt::format(" {}", word);
    line += " " + value;
  };
  add("dst", text(entry, "dst"));
  add("vlan", text(entry, "vlan"));
  if (options.statistics && !child(entry, "updated").is_null()) {
    line +=
        fmt::format(" used {}/{}", format::number(entry, "used"), format::number(entry, "updated"));
  }
  for (const auto& flag : child(entry, "flags")) {
    if (flag.is_string()) add("", flag.get<std::string>());
  }
  add("master", text(entry, "master"));
  add("", text(entry, "state"));
  return line;
}

std::string format_fdb_event(const Json& event, const FormatOptions& options) {
  std::string what = text(event, "what");
  std::string line = format_fdb_entry(event, options);
  if (what.empty() || what == "added") return line;
  what.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(what.front())));
  return what + " " + line;
}

std::string format_result(std::string_view object, std::string_view command, const Json& result,
                          const FormatOptions& options) {
  if (object == "fdb" && (command == "show" || command == "get"))
    return format_fdb(result, options);
  if (object == "fdb" && command == "count") return format_pairs(result);
  if (object == "fdb" && command == "flush")
    return fmt::format("removed {}\n", format::number(result, "removed"));
  if (object == "reload") return format_lines(child(result, "changes"));
  if (object == "mtu" && command == "show") return format_mtu(result);
  if (object == "mtu" && command == "probe") return format_probe(result);
  if (command != "show") return "";
  if (object == "vtep") return format_vteps(result);
  if (object == "port") return format_ports(result);
  if (object == "vlan") return format_vlans(result);
  if (object == "stats") return format_stats(result, options);
  if (object == "drops") return format_drops(result, options);
  if (object == "status") return format_status(result);
  if (object == "bypass") return format_bypass(result);
  return "";
}

}  // namespace vx::control
