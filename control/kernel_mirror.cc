// SPDX-License-Identifier: Apache-2.0
#include "control/kernel_mirror.h"

#include <fmt/format.h>
#include <linux/if_bridge.h>

#include <algorithm>
#include <cstring>

#include "control/log.h"

namespace vx::control {

std::vector<BridgeVlan> bridge_vlans_of(const config::BridgeSettings& bridge) {
  std::vector<BridgeVlan> vlans;
  for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid) {
    if (vid == bridge.pvid) {
      vlans.push_back({vid, BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED});
    } else if (bridge.vids.contains(vid)) {
      vlans.push_back({vid, 0});
    }
  }
  return vlans;
}

std::string KernelMirror::prepare(const config::Settings& settings) {
  const std::string& name = settings.vxlan.name;
  const auto link = kernel_.link(name);
  if (!link || link->kind == "tun") return {};
  if (link->kind != "vxlan")
    return fmt::format("{}: a netdev of that name (kind \"{}\") exists: remove it", name, link->kind);
  if (link->vni != settings.vxlan.vni)
    return fmt::format("{}: a kernel vxlan device of that name with VNI {} exists: remove or rename it", name, link->vni);
  if (!settings.vxlan.replace_kernel)
    return fmt::format("{}: the kernel's vxlan device exists: remove it, or set replace-kernel = yes", name);

  Replaced replaced;
  replaced.mtu = link->mtu;
  if (link->master != 0) {
    replaced.vlans = kernel_.bridge_vlans(link->ifindex);
    for (const auto& other : kernel_.links())
      if (other.ifindex == link->master) replaced.bridge = other.name;
  }
  if (const int error = kernel_.delete_link(link->ifindex); error != 0)
    return fmt::format("{}: the kernel's vxlan device cannot be deleted: {}", name, std::strerror(error));
  log_info(fmt::format("{}: the kernel's vxlan device (VNI {}) is deleted, a tap takes its place{}", name, link->vni,
                       replaced.bridge.empty() ? "" : " in bridge " + replaced.bridge));
  replaced_[name] = std::move(replaced);
  return {};
}

std::string KernelMirror::set_vlans(const Link& tap, const std::vector<BridgeVlan>& wanted) {
  const auto present = kernel_.bridge_vlans(tap.ifindex);
  const auto same = [](const BridgeVlan& a, const BridgeVlan& b) { return a.vid == b.vid && a.flags == b.flags; };
  int error = 0;
  for (const auto& vlan : wanted) {
    const bool is_there = std::any_of(present.begin(), present.end(), [&](const auto& p) { return same(p, vlan); });
    if (!is_there && error == 0) error = kernel_.add_bridge_vlan(tap.ifindex, vlan);
  }
  for (const auto& vlan : present) {
    const bool stays =
        std::any_of(wanted.begin(), wanted.end(), [&](const auto& w) { return w.vid == vlan.vid; });
    if (!stays && error == 0) error = kernel_.delete_bridge_vlan(tap.ifindex, vlan.vid);
  }
  return error == 0 ? "" : fmt::format("{}: its VLANs in the bridge: {}", tap.name, std::strerror(error));
}

std::string KernelMirror::ensure(const config::Settings& settings) {
  const auto tap = kernel_.link(settings.vxlan.name);
  if (!tap || tap->kind != "tun" || tap->master != 0) return {};
  const auto saved = replaced_.find(settings.vxlan.name);
  const bool was_replaced = saved != replaced_.end() && !saved->second.bridge.empty();
  const std::string& bridge_name = was_replaced ? saved->second.bridge : settings.bridge.name;
  if (bridge_name.empty()) return {};
  const auto bridge = kernel_.link(bridge_name);
  if (!bridge || bridge->kind != "bridge") return {};
  const std::uint32_t mtu = was_replaced ? saved->second.mtu : settings.vxlan.mtu;
  if (mtu != 0 && mtu != tap->mtu) {
    if (const int error = kernel_.set_mtu(tap->ifindex, mtu); error != 0)
      return fmt::format("{}: MTU {}: {}", tap->name, mtu, std::strerror(error));
  }
  if (const int error = kernel_.set_master(tap->ifindex, bridge->ifindex); error != 0)
    return fmt::format("{}: cannot become a port of bridge {}: {}", tap->name, bridge_name, std::strerror(error));
  log_info(fmt::format("{}: is a port of bridge {}", tap->name, bridge_name));
  // A bridge that is not VLAN-aware refuses VLANs; it has none to lose.
  const auto vlans = was_replaced ? saved->second.vlans : bridge_vlans_of(settings.bridge);
  return vlans.empty() ? "" : set_vlans(*tap, vlans);
}

}  // namespace vx::control
