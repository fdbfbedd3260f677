// SPDX-License-Identifier: Apache-2.0
// The value of a `port =` line: NAME driver=... and options; control's `vxctl port add` takes the
// same words.
#include <fmt/format.h>

#include <utility>

#include "config/keys.h"

namespace vx::config {
namespace {

constexpr std::size_t kMaxPortName =
    31;  // as protocol::Name holds; a netdev's name is shorter still
constexpr std::uint64_t kMaxPps = 100'000'000;
constexpr std::uint64_t kMaxQueues = 64;
constexpr std::uint64_t kMaxLearned = 1u << 20;

const std::vector<std::string>& option_names() {
  static const std::vector<std::string> names{"driver",      "bridge-access",   "bridge-vids",
                                              "bridge-pvid", "bridge-untagged", "fdb-max-learned",
                                              "storm-pps",   "queues",          "bridge-learning",
                                              "bridge-isolated", "bridge-unicast-flood",
                                              "bridge-multicast-flood", "bridge-broadcast-flood"};
  return names;
}

// ifupdown2's words for what `bridge link` shows.
constexpr std::pair<std::string_view, bool PortFlags::*> kFlags[] = {
    {"bridge-learning", &PortFlags::learning},
    {"bridge-isolated", &PortFlags::isolated},
    {"bridge-unicast-flood", &PortFlags::unicast_flood},
    {"bridge-multicast-flood", &PortFlags::multicast_flood},
    {"bridge-broadcast-flood", &PortFlags::broadcast_flood},
};

// What the line says, before it is put together.
struct PortWords {
  std::vector<std::string> given;
  std::uint16_t access = 0, pvid = kNoPvid;
  VidSet vids, untagged;
  [[nodiscard]] bool has(std::string_view name) const {
    for (const std::string& g : given)
      if (g == name) return true;
    return false;
  }
};

Complaint read_option(const std::string& option, const std::string& value, PortSettings& port,
                      PortWords& words) {
  if (option == "driver") return read_driver(value, port.driver, port.devargs);
  if (option == "bridge-access") return read_number(value, 1, kMaxVid, words.access);
  if (option == "bridge-vids") return read_vids(value, words.vids);
  if (option == "bridge-pvid") return read_pvid(value, words.pvid);
  if (option == "bridge-untagged") return read_vids(value, words.untagged);
  if (option == "fdb-max-learned") return read_number(value, 0, kMaxLearned, port.fdb_max_learned);
  if (option == "storm-pps") return read_number(value, 0, kMaxPps, port.storm_pps);
  if (option == "queues") return read_number(value, 0, kMaxQueues, port.queues);
  for (const auto& [name, flag] : kFlags)
    if (option == name) return read_bool(value, port.flags.*flag);
  const std::string near = nearest(option, option_names());
  return near.empty()
             ? fmt::format("is not an option of a port ({})", fmt::join(option_names(), " "))
             : fmt::format("is not an option of a port; did you mean {}?", near);
}

Complaint build_vlans(const PortWords& words, const BridgeSettings& bridge, VlanTable& out) {
  if (words.has("bridge-access")) {
    if (words.has("bridge-vids") || words.has("bridge-pvid") || words.has("bridge-untagged"))
      return "bridge-access is the whole of an access port's VLANs: drop it, or bridge-vids, "
             "bridge-pvid and bridge-untagged";
    out = vlan_table_of({}, words.access);
    return {};
  }
  out = vlan_table_of(words.has("bridge-vids") ? words.vids : bridge.vids,
                      words.has("bridge-pvid") ? words.pvid : bridge.pvid);
  for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid) {
    if (!words.untagged.contains(vid)) continue;
    if (!out.members.contains(vid))
      return fmt::format("bridge-untagged={} is not among the port's VLANs", vid);
    out.untagged.insert(vid);
  }
  if (out.members.is_empty())
    return "carries no VLAN: give it bridge-access, bridge-vids or bridge-pvid";
  return {};
}

Complaint check_name(PortSettings& port) {
  if (port.driver == Driver::kUdp) return "driver=udp is for the underlay only";
  if (port.is_pattern()) {
    if (port.driver != Driver::kNetdev && port.driver != Driver::kAfXdp)
      return "only driver=netdev and driver=af_xdp take a pattern: they wait for netdevs that "
             "others make";
  } else if (port.driver != Driver::kDpdk && port.driver != Driver::kVhostUser) {
    return read_netdev_name(port.name, port.name);
  }
  if (!is_plain_word(port.name) || port.name.size() > kMaxPortName ||
      port.name.find('/') != std::string::npos)
    return fmt::format("is not a port's name (1 to {} characters, no /)", kMaxPortName);
  return {};
}

}  // namespace

VlanTable vlan_table_of(const VidSet& vids, std::uint16_t pvid) {
  VlanTable table;
  table.members = vids;
  table.pvid = pvid;
  if (pvid != kNoPvid) {
    table.members.insert(pvid);
    table.untagged.insert(pvid);
  }
  return table;
}

VlanTable tunnel_vlans_of(const BridgeSettings& bridge) {
  return bridge.tunnel_vlans ? *bridge.tunnel_vlans : vlan_table_of(bridge.vids, bridge.pvid);
}

Complaint read_port(const std::string& line, const BridgeSettings& bridge, PortSettings& out) {
  const std::vector<std::string> parts = split_words(line);
  if (parts.empty() || parts[0].find('=') != std::string::npos)
    return "expected NAME driver=DRIVER [OPTION=VALUE]...";
  PortSettings port;
  PortWords words;
  port.name = parts[0];
  Complaint all;  // every problem of the line, on its one line
  const auto complain = [&](const std::string& text) {
    all += (all.empty() ? port.name + ": " : "; ") + text;
  };
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    const std::string option = dashed(parts[i].substr(0, equals));
    if (equals == std::string::npos) {
      complain(fmt::format("'{}' is not OPTION=VALUE", parts[i]));
    } else if (words.has(option)) {
      complain(option + " is given twice");
    } else if (const Complaint c = read_option(option, parts[i].substr(equals + 1), port, words);
               !c.empty()) {
      complain(option + ": " + c);
    }
    words.given.push_back(option);
  }
  if (!words.has("driver")) complain("driver= is missing");
  if (const Complaint c = check_name(port); all.empty() && !c.empty()) complain(c);
  if (const Complaint c = build_vlans(words, bridge, port.vlans); all.empty() && !c.empty())
    complain(c);
  if (all.empty()) out = std::move(port);
  return all;
}

std::string port_text(const PortSettings& port, const BridgeSettings& bridge) {
  std::string text = fmt::format("{} driver={}", port.name, driver_text(port.driver, port.devargs));
  const VlanTable& vlans = port.vlans;
  if (vlans != tunnel_vlans_of(bridge)) {
    if (vlans.members.is_empty()) {  // the kernel's ports only
      text += " bridge-vids=none bridge-pvid=none";
    } else if (vlans == vlan_table_of({}, vlans.pvid)) {
      text += fmt::format(" bridge-access={}", vlans.pvid);
    } else {
      VidSet untagged = vlans.untagged;
      untagged.erase(vlans.pvid);
      text += fmt::format(" bridge-vids={} bridge-pvid={}", to_text(vlans.members, ','),
                          pvid_text(vlans.pvid));
      if (!untagged.is_empty()) text += " bridge-untagged=" + to_text(untagged, ',');
    }
  }
  if (port.fdb_max_learned != 0) text += fmt::format(" fdb-max-learned={}", port.fdb_max_learned);
  if (port.storm_pps != 0) text += fmt::format(" storm-pps={}", port.storm_pps);
  if (port.queues != 0) text += fmt::format(" queues={}", port.queues);
  for (const auto& [name, flag] : kFlags)
    if (port.flags.*flag != PortFlags{}.*flag) text += fmt::format(" {}={}", name, to_text(port.flags.*flag));
  return text;
}

}  // namespace vx::config
