// SPDX-License-Identifier: Apache-2.0
// Takeover: a bridge that the kernel has, read as a configuration. What `bridge`, `ip` and ifupdown2 made of the
// bridge, its ports and its vxlan device becomes Settings as load() would make them of a file; what the file
// itself gives wins. Pure but for questions about routes.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "config/settings.h"
#include "control/bridge_snapshot.h"

namespace vx::control {

// Where the kernel's FDB, not a frame, says that a MAC lives: a port by name, or a VTEP.
struct KernelPlace {
  std::string port;
  std::optional<IpAddress> dst;
  bool is_external = false;  // NTF_EXT_LEARNED, as a routing daemon (EVPN) sets it: a guest's frame may move it
  std::uint64_t said = 0;    // of an external one: another after it was away, however shortly (BridgeFdbEntry)
  friend bool operator==(const KernelPlace&, const KernelPlace&) = default;
};
using KernelFdb = std::unordered_map<std::uint64_t, KernelPlace>;  // by fdb_key()

struct Takeover {
  std::optional<config::Settings> settings;  // absent: it cannot be done, or not yet; `problems` say why
  std::vector<std::string> problems;         // one line each; with `settings`: what the operator should know
  KernelFdb fdb;                             // static, permanent and external entries
  int bridge = 0, vxlan = 0;                 // ifindex; 0: not there
  std::uint32_t fdb_ageing_s = 0;            // the shorter of the bridge's and the vxlan device's; 0: neither ages
};

// `file`: what a configuration file gives (mode kTakeover), or a default one with bridge.takeover set. One for each vxlan
// port of the bridge, whose VLANs differ; the first has the bridge's other ports, and the VLANs of no tunnel. Where one of
// them cannot be, one that says why.
[[nodiscard]] std::vector<Takeover> read_takeover(const config::Settings& file, const BridgeSnapshot& kernel,
                                     KernelNetwork& network);

// The tap through which the host itself is a port of the taken bridge: what is sent into it arrives at the bridge's
// own interface. "vxp-" and the bridge's name, cut to what Linux takes.
[[nodiscard]] std::string host_port_name(const std::string& bridge);

// VIDs that stand for a bridge without VLAN filtering: there is one broadcast domain.
inline constexpr std::uint16_t kOnlyVid = 1;

}  // namespace vx::control
