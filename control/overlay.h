// SPDX-License-Identifier: Apache-2.0
// One VNI as control knows it: its settings, where its MACs live, its remote VTEPs, what vxctl added.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "config/settings.h"
#include "control/event_loop.h"
#include "control/fdb_export.h"
#include "control/learner.h"
#include "control/port_manager.h"
#include "control/state_file.h"
#include "control/takeover.h"
#include "control/vtep_registry.h"

namespace vx::control {

struct Overlay {
  config::Settings settings;
  OverlayIndex index = kNoIndex;         // in the dataplane; given at the first connection
  std::optional<IpAddress> local;        // configured, else derived from the underlay
  Learner learner;
  VtepRegistry vteps;
  std::vector<config::PortSettings> added_ports;  // by vxctl
  std::unordered_map<std::uint64_t, KernelPlace> kernel_fdb;  // takeover: what of the kernel's FDB is mirrored
  std::unique_ptr<FdbExport> fdb_export;  // takeover: what is learned here is written there
  int kernel_bridge = 0, kernel_vxlan = 0;  // takeover: their ifindices now
  std::string blocked;                   // why its uplink must not be made (kernel_mirror.h)
  // Ageing: a dump of what is idle, in slices.
  std::uint64_t idle_cursor = 0;
  bool is_ageing = false;
  Milliseconds ageing_due = 0, full_retry_due = 0;
  std::vector<std::uint64_t> full_keys;  // the dataplane's table had no room: tried again

  [[nodiscard]] const std::string& name() const { return settings.vxlan.name; }
  [[nodiscard]] bool is_netdev_mode() const { return settings.mode == config::Mode::kNetdev; }
  [[nodiscard]] bool is_takeover() const { return settings.mode == config::Mode::kTakeover; }
  // Of a bridge with several tunnels: the one whose Settings have the ports.
  [[nodiscard]] const std::string& home_name() const { return settings.bridge.home.empty() ? name() : settings.bridge.home; }
  [[nodiscard]] bool has_vid(std::uint16_t vid) const { return !settings.bridge.own_vids || settings.bridge.own_vids->contains(vid); }
  // Configured and added ones, the netdev mode's uplink included.
  [[nodiscard]] std::vector<config::PortSettings> all_ports() const;
  // The operator's words turned into a VTEP origin's consequences: configured remotes in, former ones out.
  void configure_vteps();
};

// What vxctl added, and learned VTEPs: for the state file, and to be put in again under other indices.
[[nodiscard]] StoredOverlay store(const Overlay& overlay, const PortManager& ports);
void restore(Overlay& overlay, const StoredOverlay& stored, PortManager& ports);

}  // namespace vx::control
