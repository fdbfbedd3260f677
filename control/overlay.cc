// SPDX-License-Identifier: Apache-2.0
#include "control/overlay.h"

#include <algorithm>

#include "config/keys.h"
#include "control/convert.h"
#include "control/log.h"
#include "control/text.h"

namespace vx::control {

std::vector<config::PortSettings> Overlay::all_ports() const {
  std::vector<config::PortSettings> ports = settings.ports;
  ports.insert(ports.end(), added_ports.begin(), added_ports.end());
  const bool has_uplink =
      std::any_of(ports.begin(), ports.end(), [&](const auto& port) { return port.name == settings.vxlan.name; });
  if (is_netdev_mode() && !has_uplink) ports.insert(ports.begin(), uplink_port(settings));
  return ports;
}

void Overlay::configure_vteps() {
  const auto& remotes = settings.vxlan.remotes;
  std::vector<IpAddress> former;
  for (const auto& [address, vtep] : vteps.all())
    if (vtep.origin == VtepOrigin::kConfigured && std::find(remotes.begin(), remotes.end(), address) == remotes.end())
      former.push_back(address);
  for (const auto& address : former)
    if (const auto gone = vteps.remove(address)) learner.forget(Location::vtep(*gone), true);
  for (const auto& address : remotes)
    if (!vteps.add(address, VtepOrigin::kConfigured, true))
      log_error(fmt::format("{}: VTEP {}: more than {} VTEPs", name(), format_ip(address), kMaxVteps));
}

StoredOverlay store(const Overlay& overlay, const PortManager& ports) {
  StoredOverlay stored;
  stored.name = overlay.name();
  overlay.learner.for_each([&](std::uint64_t key, const FdbEntry& entry) {
    if (!entry.is_operators()) return;
    StoredFdbEntry out;
    out.mac = fdb_key_mac(key);
    out.vlan = fdb_key_vid(key);
    out.is_blackhole = (entry.flags & FdbValue::kBlackhole) != 0;
    out.is_sticky = (entry.flags & FdbValue::kSticky) != 0;
    if (!out.is_blackhole && entry.location.is_vtep()) {
      const auto address = overlay.vteps.address_of(entry.location.index());
      if (!address) return;
      out.dst = format_ip(*address);
    } else if (!out.is_blackhole) {
      out.port = ports.name_of_slot(entry.location.index());
      if (out.port.empty()) return;
    }
    stored.fdb.push_back(std::move(out));
  });
  for (const auto& [address, vtep] : overlay.vteps.all())
    if (vtep.origin != VtepOrigin::kConfigured)
      stored.vteps.push_back({format_ip(address), vtep.origin == VtepOrigin::kLearned, vtep.flood});
  for (const auto& port : overlay.added_ports)
    stored.ports.push_back(config::port_text(port, overlay.settings.bridge));
  return stored;
}

void restore(Overlay& overlay, const StoredOverlay& stored, PortManager& ports) {
  overlay.added_ports.clear();
  for (const auto& line : stored.ports) {
    config::PortSettings port;
    const std::string complaint = config::read_port(line, overlay.settings.bridge, port);
    if (complaint.empty()) {
      overlay.added_ports.push_back(std::move(port));
    } else {
      log_warning(fmt::format("a port that vxctl added is dropped: {}", complaint));
    }
  }
  for (const auto& vtep : stored.vteps) {
    const auto address = parse_ip(vtep.dst);
    if (address) overlay.vteps.add(*address, vtep.is_learned ? VtepOrigin::kLearned : VtepOrigin::kAdded, vtep.flood);
  }
  for (const auto& entry : stored.fdb) {
    FdbEntry in;
    in.flags = entry.is_sticky ? FdbValue::kSticky : FdbValue::kStatic;
    if (entry.is_blackhole) {
      in.flags |= FdbValue::kBlackhole;
    } else if (!entry.dst.empty()) {
      const auto address = parse_ip(entry.dst);
      const RemoteVtep* vtep = address ? overlay.vteps.find(*address) : nullptr;
      // A bridge that is made anew gets its remotes one by one.
      if (vtep == nullptr && address && overlay.is_takeover() && overlay.vteps.add(*address, VtepOrigin::kLearned, false))
        vtep = overlay.vteps.find(*address);
      if (vtep == nullptr) continue;  // no longer a VTEP of this overlay
      in.location = Location::vtep(vtep->index);
    } else {
      const PortIndex slot = ports.slot_of(entry.port);
      if (slot == kNoIndex) continue;
      in.location = Location::port(slot);
    }
    (void)overlay.learner.add(fdb_key(entry.vlan, entry.mac), in);
  }
}

}  // namespace vx::control
