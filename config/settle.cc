// SPDX-License-Identifier: Apache-2.0
// Order matters: required keys, underlay and local address, remotes, VLANs and ports, mode, and
// last the MTUs, which need all.
#include "config/settle.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/keys.h"
#include "config/mtu_arithmetic.h"

namespace vx::config {
namespace {

constexpr unsigned kDefaultMtu = 1500;
constexpr unsigned kSmallestMtu = 68;  // RFC 791

class Settler {
 public:
  Settler(Draft& draft, const HostFacts& facts)
      : draft_(draft),
        s_(draft.settings),
        interfaces_(facts.interfaces ? facts.interfaces() : std::vector<HostInterface>{}),
        facts_(facts) {}

  void run() {
    if (!s_.bridge.takeover.empty()) return settle_takeover();
    find_local();
    require_keys();
    settle_underlay();
    settle_remotes();
    settle_names();
    settle_ports();
    settle_mtus();
  }

 private:
  bool is_given(const std::string& id) const { return draft_.first(id) != nullptr; }
  bool is_good(const std::string& id) const { return is_given(id) && draft_.bad.count(id) == 0; }

  // Where a key stands; one that is missing, where it should: its section's first line, or the
  // file's.
  Origin where(const std::string& id) const {
    if (const Entry* entry = draft_.first(id)) return entry->origin;
    const auto section = draft_.sections.find(id.substr(0, id.find('.')));
    return {s_.source, section != draft_.sections.end() ? section->second : 1};
  }
  void tell(Severity severity, const Origin& origin, const std::string& key, std::string text) {
    draft_.problems.push_back({origin.file, origin.line, key, std::move(text), severity});
  }
  void tell(Severity severity, const std::string& id, std::string text) {
    tell(severity, where(id), id.substr(id.find('.') + 1), std::move(text));
  }

  // Everything that is missing is the kernel's to say, when it is asked.
  void settle_takeover() {
    s_.mode = Mode::kTakeover;
    if (s_.bridge.name.empty()) s_.bridge.name = s_.bridge.takeover;
    if (s_.bridge.name != s_.bridge.takeover)
      tell(Severity::kError, "bridge.name",
           fmt::format("'{}', but takeover = {}: one bridge", s_.bridge.name, s_.bridge.takeover));
    if (s_.underlay.driver != Driver::kAfXdp)
      tell(Severity::kError, "underlay.driver",
           "takeover has af_xdp only: the kernel's vxlan device, which stands by, holds the UDP port");
    if (s_.underlay.own_address)
      tell(Severity::kError, "underlay.vtep-address",
           "own cannot be with takeover: the kernel's vxlan device, which stands by, needs the address");
    if (s_.vxlan.replace_kernel)
      tell(Severity::kError, "vxlan.replace-kernel", "yes cannot be with takeover: the kernel's device stands by");
    if (is_good("vxlan.hold-port") && s_.vxlan.hold_port)
      tell(Severity::kError, "vxlan.hold-port", "yes cannot be with takeover: the kernel's vxlan device holds the port");
    std::vector<PortSettings> own;
    std::vector<Origin> own_origins;
    for (std::size_t i = 0; i < s_.ports.size(); ++i) {
      for (std::size_t earlier = 0; earlier < i; ++earlier)
        if (s_.ports[earlier].name == s_.ports[i].name)
          tell(Severity::kError, draft_.port_origins[i], "port",
               fmt::format("{}: is a port already on line {}", s_.ports[i].name, draft_.port_origins[earlier].line));
    }
    for (std::size_t i = 0; i < s_.ports.size(); ++i) {
      const bool is_rule = s_.ports[i].driver == Driver::kNetdev;
      (is_rule ? s_.port_rules : own).push_back(s_.ports[i]);
      if (!is_rule) own_origins.push_back(draft_.port_origins[i]);
    }
    s_.ports = std::move(own);
    draft_.port_origins = std::move(own_origins);
  }

  void require_keys() {
    if (draft_.has_import_failed) return;
    for (const Key& key : all_keys()) {
      const std::string id = fmt::format("{}.{}", key.section, key.name);
      if (!key.is_required || is_given(id)) continue;
      if (id == "underlay.device" && !s_.underlay.device.empty()) continue;  // the host knew
      tell(Severity::kError, id, fmt::format("is missing: [{}] needs it", key.section));
    }
  }

  // Explicit or imported, else the machine's own answer for the remotes.
  void find_local() {
    if (is_given("vxlan.vxlan-local-tunnelip") || draft_.has_import_failed) return;
    if (s_.vxlan.remotes.empty() && draft_.bad.count("vxlan.vxlan-remoteip") != 0)
      return;  // told already
    for (const IpAddress& remote : s_.vxlan.remotes) {
      if (find_local_towards(remote)) return;
    }
    tell(Severity::kError, "vxlan.vxlan-local-tunnelip",
         "is missing, and neither imported stanzas nor this machine have an interface towards a "
         "remote");
  }

  // The address of [underlay] device, else of the route, in whose subnet `remote` should lie.
  bool find_local_towards(const IpAddress& remote) {
    const auto has_subnet_of_remote = [&](const HostInterface* interface) {
      for (std::size_t i = 0; interface != nullptr && i < interface->addresses.size(); ++i) {
        const InterfaceAddress& address = interface->addresses[i];
        if (!is_in_subnet(remote, address)) continue;
        if (!s_.vxlan.local) s_.vxlan.local = address.ip;
        return true;
      }
      return false;
    };
    if (is_given("underlay.device") && has_subnet_of_remote(device_on_host())) return true;
    if (facts_.route_source) s_.vxlan.local = facts_.route_source(remote);
    if (!s_.vxlan.local) return false;
    if (!is_given("underlay.device")) {
      for (const HostInterface& interface : interfaces_)
        for (const InterfaceAddress& address : interface.addresses)
          if (address.ip == *s_.vxlan.local) take_from_host(interface);
    }
    if (remote != *s_.vxlan.local && !has_subnet_of_remote(device_on_host()))
      tell(Severity::kWarning, "vxlan.vxlan-local-tunnelip",
           fmt::format("{} is taken, this machine's source towards {}, which is in no subnet of {}",
                       to_text(*s_.vxlan.local), to_text(remote),
                       s_.underlay.device.empty() ? "its interfaces" : s_.underlay.device));
    return true;
  }

  void take_from_host(const HostInterface& interface) {
    s_.underlay.device = interface.vid != 0 ? interface.raw_device : interface.name;
    if (!is_given("underlay.vlan")) s_.underlay.vlan = interface.vid;
  }

  // The interface of [underlay] device and vlan on this machine; null: not here.
  const HostInterface* device_on_host() const {
    for (const HostInterface& interface : interfaces_) {
      const std::string& device = interface.vid != 0 ? interface.raw_device : interface.name;
      if (device == s_.underlay.device && interface.vid == s_.underlay.vlan) return &interface;
    }
    for (const HostInterface& interface : interfaces_)  // own-address mode has no 802.1Q device
      if (interface.name == s_.underlay.device) return &interface;
    return nullptr;
  }

  void settle_underlay() {
    UnderlaySettings& underlay = s_.underlay;
    if (underlay.driver == Driver::kDpdk) {
      if (is_good("underlay.vtep-address") && !underlay.own_address)
        tell(Severity::kError, "underlay.vtep-address",
             "the kernel has no address on a dpdk: device: own, or leave it out");
      underlay.own_address = true;
      if (!is_given("vxlan.vxlan-local-tunnelip") && s_.vxlan.local)
        tell(Severity::kError, "vxlan.vxlan-local-tunnelip",
             "is missing: the kernel has no address on a dpdk: device");
    } else if (is_good("underlay.device")) {
      std::string name;
      if (const Complaint complaint = read_netdev_name(underlay.device, name); !complaint.empty())
        tell(Severity::kError, "underlay.device", complaint);
    }
    if (underlay.driver == Driver::kUdp) {
      if (underlay.own_address)
        tell(Severity::kError, "underlay.vtep-address",
             "own needs af_xdp or dpdk: below it: with driver = udp the kernel sends and receives");
      if (!s_.vxlan.hold_port)
        tell(Severity::kError, "vxlan.hold-port",
             "no cannot be with driver = udp: all that the tunnel brings comes through that port");
    }
    const HostInterface* below = device_on_host();
    if (!is_given("underlay.mtu")) {
      underlay.mtu = below != nullptr && below->mtu != 0 ? below->mtu : kDefaultMtu;
    } else if (below != nullptr && below->mtu != 0 && below->mtu < underlay.mtu &&
               underlay.driver != Driver::kDpdk) {
      tell(Severity::kWarning, "underlay.mtu",
           fmt::format("{} is more than the {} that {} has on this machine", underlay.mtu,
                       below->mtu, below->name));
    }
  }

  void settle_remotes() {
    const std::string id = "vxlan.vxlan-remoteip";
    std::vector<IpAddress> kept;
    for (const Entry& entry : draft_.entries[id]) {
      IpAddress ip;
      if (!read_vtep_ip(entry.value, ip).empty()) continue;  // told already
      const std::optional<IpAddress> like =
          s_.vxlan.local || kept.empty() ? s_.vxlan.local : std::optional(kept.front());
      if (like && ip == s_.vxlan.local) {
        tell(Severity::kWarning, entry.origin, "vxlan-remoteip",
             fmt::format("{} is our own address: left out", to_text(ip)));
      } else if (std::find(kept.begin(), kept.end(), ip) != kept.end()) {
        tell(Severity::kWarning, entry.origin, "vxlan-remoteip",
             fmt::format("{} is given twice", to_text(ip)));
      } else if (like && like->is_v4() != ip.is_v4()) {
        tell(Severity::kError, entry.origin, "vxlan-remoteip",
             fmt::format("{} and {} {} are of different IP versions: a tunnel has one", to_text(ip),
                         s_.vxlan.local ? "the local" : "the remote", to_text(*like)));
      } else {
        kept.push_back(ip);
      }
    }
    s_.vxlan.remotes = kept;
    if (kept.empty() && draft_.bad.count(id) == 0 &&
        s_.vxlan.vtep_learning != VtepLearning::kFlood && !draft_.has_import_failed)
      tell(Severity::kWarning, id, "there is no remote VTEP: nothing is sent until vxctl adds one");
  }

  void settle_names() {
    const auto collide = [&](const std::string& id, const std::string& a, const std::string& b,
                             std::string_view what) {
      if (!a.empty() && a == b)
        tell(Severity::kError, id, fmt::format("'{}' is the name of the {} too", a, what));
    };
    collide("vxlan.name", s_.vxlan.name, s_.underlay.device, "underlay device");
    collide("bridge.name", s_.bridge.name, s_.vxlan.name, "vxlan");
    collide("bridge.name", s_.bridge.name, s_.underlay.device, "underlay device");
    if (s_.bridge.vids.is_empty() && s_.bridge.pvid == kNoPvid &&
        draft_.bad.count("bridge.bridge-vids") == 0)
      tell(Severity::kError, "bridge.bridge-pvid",
           "none, and no bridge-vids: the tunnel would carry no VLAN");
  }

  void settle_ports() {
    if (s_.ports.empty() && !is_given("port.port") && draft_.wants_netdev_port) {
      PortSettings port;
      port.name = s_.vxlan.name;
      port.vlans = vlan_table_of(s_.bridge.vids, s_.bridge.pvid);
      s_.ports.push_back(port);
      draft_.port_origins.push_back(where("vxlan.name"));
    }
    const VlanTable tunnel = vlan_table_of(s_.bridge.vids, s_.bridge.pvid);
    for (std::size_t i = 0; i < s_.ports.size(); ++i) settle_port(i, tunnel);
    if (s_.mode != Mode::kNetdev) return;
    for (std::size_t i = 0; i < s_.ports.size(); ++i)
      if (s_.ports[i].name != s_.vxlan.name)
        tell(
            Severity::kError, draft_.port_origins[i], "port",
            fmt::format(
                "{}: in netdev mode (port {} driver=tap) the kernel's bridge has the guests' ports",
                s_.ports[i].name, s_.vxlan.name));
  }

  void settle_port(std::size_t index, const VlanTable& tunnel) {
    const PortSettings& port = s_.ports[index];
    const auto complain = [&](Severity severity, const std::string& text) {
      tell(severity, draft_.port_origins[index], "port", port.name + ": " + text);
    };
    for (std::size_t earlier = 0; earlier < index; ++earlier)
      if (s_.ports[earlier].name == port.name)
        return complain(Severity::kError, fmt::format("is a port already on line {}",
                                                      draft_.port_origins[earlier].line));
    if (port.name == s_.underlay.device) complain(Severity::kError, "is the underlay device");
    if (!s_.bridge.name.empty() && port.name == s_.bridge.name)
      complain(Severity::kError, "is the bridge's name");
    if (port.name == s_.vxlan.name) {
      if (port.driver != Driver::kTap)
        complain(Severity::kError,
                 "has the vxlan's name, which only a driver=tap port may have (netdev mode)");
      s_.mode = Mode::kNetdev;
    }
    VidSet local_only = port.vlans.members;
    for (std::size_t w = 0; w < local_only.words.size(); ++w)
      local_only.words[w] &= ~tunnel.members.words[w];
    if (!local_only.is_empty())
      complain(
          Severity::kWarning,
          fmt::format(
              "VLAN {} stays on this host: the tunnel carries bridge-vids and bridge-pvid only",
              to_text(local_only, ',')));
  }

  void settle_mtus() {
    if (draft_.bad.count("underlay.mtu") != 0 || draft_.bad.count("vxlan.mtu") != 0) return;
    // Every problem at once: without a local address too, as long as both figures are the operator's.
    if (!s_.vxlan.local && !(is_given("underlay.mtu") && is_given("vxlan.mtu"))) return;
    const unsigned ceiling = largest_safe_mtu(s_);
    if (ceiling < kSmallestMtu)
      return tell(Severity::kError, "underlay.mtu",
                  fmt::format("{} leaves no room for guests' packets", s_.underlay.mtu));
    if (!is_given("vxlan.mtu")) {
      if (draft_.has_import_failed) return;
      s_.vxlan.mtu = static_cast<std::uint16_t>(ceiling);
      tell(Severity::kWarning, "vxlan.mtu",
           fmt::format("is missing: {} is taken, the most that fits; the guests' MTU must agree",
                       ceiling));
    }
    if (const auto verdict = judge_mtu(s_)) tell(verdict->severity, "vxlan.mtu", verdict->text);
  }

  Draft& draft_;
  Settings& s_;
  const std::vector<HostInterface> interfaces_;
  const HostFacts& facts_;
};

}  // namespace

void settle(Draft& draft, const HostFacts& facts) { Settler(draft, facts).run(); }

}  // namespace vx::config
