// SPDX-License-Identifier: Apache-2.0
// The table of keys. Ranges stand here and nowhere else.
#include "config/keys.h"

#include <fmt/format.h>

namespace vx::config {
namespace {

constexpr std::uint64_t kMinMtu = 68, kMaxMtu = 65535;  // RFC 791: every link carries 68
constexpr std::uint64_t kMaxVni = 0xffffff;             // RFC 7348: 24 bits
constexpr std::uint64_t kMaxAgeing_s = 32767;           // half of the dataplane's 16-bit clock
constexpr std::size_t kMaxDeviceName = 31;              // as protocol::Name holds
constexpr std::size_t kMaxCpuList = 255;                // as protocol::Text holds
constexpr std::uint64_t kMaxLearned = 1u << 20;
// A worker beats every 20 ms at least; what is silent for longer than ten seconds is no host's standby.
constexpr std::uint64_t kMinStale_ms = 40, kMaxStale_ms = 10'000;

using Values = std::vector<std::string>;

Values one(std::string text) { return {std::move(text)}; }
template <typename Number>
Values number(Number value) {
  return {fmt::format("{}", value)};
}
Values if_any(std::string text) { return text.empty() ? Values{} : Values{std::move(text)}; }

Complaint read_ttl(Settings& s, const std::string& v) {
  if (v == "auto" || v == "0")
    return s.vxlan.ttl = 64, Complaint{};  // ifupdown2's words for the default
  return read_number(v, 1, 255, s.vxlan.ttl);
}
Complaint read_tos(Settings& s, const std::string& v) {
  s.vxlan.tos_inherit = v == "inherit";
  if (s.vxlan.tos_inherit) return s.vxlan.tos = 0, Complaint{};
  std::uint8_t tos = 0;
  if (Complaint complaint = read_number(v, 0, 255, tos); !complaint.empty())
    return complaint + ", nor inherit";
  if ((tos & 3) != 0)
    return fmt::format(
        "'{}' sets the ECN bits, which follow the inner packet (RFC 6040): use a multiple of 4", v);
  return s.vxlan.tos = tos, Complaint{};
}
Complaint read_vtep_learning(Settings& s, const std::string& v) {
  if (v == "flood") return s.vxlan.vtep_learning = VtepLearning::kFlood, Complaint{};
  bool learns = false;
  if (!read_bool(v, learns).empty()) return fmt::format("'{}' is none of no, yes, flood", v);
  return s.vxlan.vtep_learning = learns ? VtepLearning::kYes : VtepLearning::kNo, Complaint{};
}
Complaint read_remote(Settings& s, const std::string& v) {
  IpAddress ip;
  Complaint complaint = read_vtep_ip(v, ip);
  if (complaint.empty()) s.vxlan.remotes.push_back(ip);
  return complaint;
}
Complaint read_local(Settings& s, const std::string& v) {
  IpAddress ip;
  Complaint complaint = read_vtep_ip(v, ip);
  if (complaint.empty()) s.vxlan.local = ip;
  return complaint;
}
// With dpdk: it is only a name to show, so longer ones pass here; settle.cc looks at the others.
Complaint read_device(Settings& s, const std::string& v) {
  if (!is_plain_word(v) || v.size() > kMaxDeviceName ||
      v.find_first_of("/*?[]") != std::string::npos)
    return fmt::format("'{}' is not a device's name", v);
  return s.underlay.device = v, Complaint{};
}
Complaint read_underlay_driver(Settings& s, const std::string& v) {
  Driver driver = Driver::kAfXdp;
  std::string devargs;
  if (Complaint complaint = read_driver(v, driver, devargs); !complaint.empty()) return complaint;
  if (driver != Driver::kAfXdp && driver != Driver::kUdp && driver != Driver::kDpdk)
    return fmt::format("'{}' is for guest ports: the underlay has af_xdp, udp or dpdk:DEVARGS", v);
  s.underlay.driver = driver;
  s.underlay.devargs = devargs;
  return {};
}
Complaint read_vtep_address(Settings& s, const std::string& v) {
  if (v != "kernel" && v != "own") return fmt::format("'{}' is neither kernel nor own", v);
  return s.underlay.own_address = v == "own", Complaint{};
}
// The kernel's bridge by name; `yes`: the one that [bridge] name names, which comes first in the table.
Complaint read_takeover(Settings& s, const std::string& v) {
  bool is_wanted = false;
  if (!read_bool(v, is_wanted).empty()) return read_netdev_name(v, s.bridge.takeover);
  if (is_wanted && s.bridge.name.empty()) return "yes: of which bridge? takeover = NAME";
  s.bridge.takeover = is_wanted ? s.bridge.name : "";
  return {};
}
Complaint read_port_line(Settings& s, const std::string& v) {
  PortSettings port;
  Complaint complaint = read_port(v, s.bridge, port);
  if (complaint.empty()) s.ports.push_back(std::move(port));
  return complaint;
}
Complaint read_lcores(Settings& s, const std::string& v) {
  if (v.size() > kMaxCpuList || v.find_first_not_of("0123456789,-") != std::string::npos ||
      v.find_first_of("0123456789") == std::string::npos)
    return fmt::format("'{}' is not a list of cores, e.g. 1 or 1-3,5", v);
  return s.dataplane.lcores = v, Complaint{};
}
Complaint read_poll(Settings& s, const std::string& v) {
  if (v != "busy" && v != "adaptive") return fmt::format("'{}' is neither busy nor adaptive", v);
  return s.dataplane.poll = v == "busy" ? Poll::kBusy : Poll::kAdaptive, Complaint{};
}

std::string vtep_learning_text(VtepLearning value) {
  return value == VtepLearning::kFlood ? "flood" : to_text(value == VtepLearning::kYes);
}
Values remotes_text(const Settings& s) {
  Values values;
  for (const IpAddress& ip : s.vxlan.remotes) values.push_back(to_text(ip));
  return values;
}
Values ports_text(const Settings& s) {
  Values values;
  for (const PortSettings& port : s.ports) values.push_back(port_text(port, s.bridge));
  return values;
}

using S = Settings;
using V = const std::string&;
constexpr bool kOnce = false, kRepeatable = true, kOptional = false, kRequired = true;

constexpr Key kKeys[] = {
    {"vxlan", "name", kOnce, kRequired, [](S& s, V v) { return read_netdev_name(v, s.vxlan.name); },
     [](const S& s) { return one(s.vxlan.name); }},
    {"vxlan", "vxlan-id", kOnce, kRequired,
     [](S& s, V v) { return read_number(v, 1, kMaxVni, s.vxlan.vni); },
     [](const S& s) { return number(s.vxlan.vni); }},
    {"vxlan", "vxlan-local-tunnelip", kOnce, kOptional, read_local,
     [](const S& s) { return s.vxlan.local ? one(to_text(*s.vxlan.local)) : Values{}; }},
    {"vxlan", "vxlan-remoteip", kRepeatable, kOptional, read_remote, remotes_text},
    {"vxlan", "vxlan-port", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, 1, 65535, s.vxlan.port); },
     [](const S& s) { return number(s.vxlan.port); }},
    {"vxlan", "vxlan-learning", kOnce, kOptional,
     [](S& s, V v) { return read_bool(v, s.vxlan.learning); },
     [](const S& s) { return one(to_text(s.vxlan.learning)); }},
    {"vxlan", "vtep-learning", kOnce, kOptional, read_vtep_learning,
     [](const S& s) { return one(vtep_learning_text(s.vxlan.vtep_learning)); }},
    {"vxlan", "udp-csum", kOnce, kOptional,
     [](S& s, V v) { return read_bool(v, s.vxlan.udp_csum); },
     [](const S& s) { return one(to_text(s.vxlan.udp_csum)); }},
    {"vxlan", "vxlan-ttl", kOnce, kOptional, read_ttl,
     [](const S& s) { return number(s.vxlan.ttl); }},
    {"vxlan", "vxlan-tos", kOnce, kOptional, read_tos,
     [](const S& s) { return s.vxlan.tos_inherit ? one("inherit") : number(s.vxlan.tos); }},
    {"vxlan", "mss-clamp", kOnce, kOptional,
     [](S& s, V v) { return read_bool(v, s.vxlan.mss_clamp); },
     [](const S& s) { return one(to_text(s.vxlan.mss_clamp)); }},
    {"vxlan", "hold-port", kOnce, kOptional,
     [](S& s, V v) { return read_bool(v, s.vxlan.hold_port); },
     [](const S& s) { return one(to_text(s.vxlan.hold_port)); }},
    {"vxlan", "replace-kernel", kOnce, kOptional,
     [](S& s, V v) { return read_bool(v, s.vxlan.replace_kernel); },
     [](const S& s) { return one(to_text(s.vxlan.replace_kernel)); }},
    {"vxlan", "mtu", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, kMinMtu, kMaxMtu, s.vxlan.mtu); },
     [](const S& s) { return number(s.vxlan.mtu); }},

    {"underlay", "device", kOnce, kRequired, read_device,
     [](const S& s) { return one(s.underlay.device); }},
    {"underlay", "driver", kOnce, kOptional, read_underlay_driver,
     [](const S& s) { return one(driver_text(s.underlay.driver, s.underlay.devargs)); }},
    {"underlay", "vlan", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, 1, kMaxVid, s.underlay.vlan); },
     [](const S& s) { return s.underlay.vlan != 0 ? number(s.underlay.vlan) : Values{}; }},
    {"underlay", "vtep-address", kOnce, kOptional, read_vtep_address,
     [](const S& s) { return one(s.underlay.own_address ? "own" : "kernel"); }},
    {"underlay", "mtu", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, kMinMtu, kMaxMtu, s.underlay.mtu); },
     [](const S& s) { return number(s.underlay.mtu); }},

    {"bridge", "name", kOnce, kOptional,
     [](S& s, V v) { return read_netdev_name(v, s.bridge.name); },
     [](const S& s) { return if_any(s.bridge.name); }},
    {"bridge", "bridge-vids", kOnce, kOptional,
     [](S& s, V v) { return read_vids(v, s.bridge.vids); },
     [](const S& s) { return if_any(to_text(s.bridge.vids, ' ')); }},
    {"bridge", "bridge-pvid", kOnce, kOptional,
     [](S& s, V v) { return read_pvid(v, s.bridge.pvid); },
     [](const S& s) { return one(pvid_text(s.bridge.pvid)); }},
    {"bridge", "bridge-ageing", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, 0, kMaxAgeing_s, s.bridge.ageing_s); },
     [](const S& s) { return number(s.bridge.ageing_s); }},
    {"bridge", "fdb-max-learned", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, 1, kMaxLearned, s.bridge.fdb_max_learned); },
     [](const S& s) { return number(s.bridge.fdb_max_learned); }},
    {"bridge", "takeover", kOnce, kOptional, read_takeover,
     [](const S& s) { return if_any(s.bridge.takeover); }},

    {"port", "port", kRepeatable, kOptional, read_port_line, ports_text},

    {"dataplane", "lcores", kOnce, kOptional, read_lcores,
     [](const S& s) { return if_any(s.dataplane.lcores); }},
    {"dataplane", "poll", kOnce, kOptional, read_poll,
     [](const S& s) { return one(s.dataplane.poll == Poll::kBusy ? "busy" : "adaptive"); }},
    {"dataplane", "stale-after", kOnce, kOptional,
     [](S& s, V v) { return read_number(v, kMinStale_ms, kMaxStale_ms, s.dataplane.stale_after_ms); },
     [](const S& s) { return number(s.dataplane.stale_after_ms); }},
};

}  // namespace

std::span<const Key> all_keys() { return kKeys; }

const Key* find_key(std::string_view section, std::string_view name) {
  for (const Key& key : kKeys)
    if (key.section == section && key.name == name) return &key;
  return nullptr;
}

}  // namespace vx::config
