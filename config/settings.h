// SPDX-License-Identifier: Apache-2.0
// A whole configuration as plain values: what load.h makes of INI files and ifupdown2 stanzas, what
// control works from. One Settings per configuration file, that is per VNI.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dataplane/vlan_table.h"
#include "dataplane/wire.h"

namespace vx::config {

enum class Driver : std::uint8_t { kAfXdp, kUdp, kTap, kNetdev, kVhostUser, kDpdk };
enum class VtepLearning : std::uint8_t { kNo, kYes, kFlood };
enum class Poll : std::uint8_t { kBusy, kAdaptive };
enum class Mode : std::uint8_t { kBridge, kNetdev, kTakeover };

// What a bridge port may do, as `bridge link` has it.
struct PortFlags {
  bool learning = true;
  bool isolated = false;         // exchanges no frames with other isolated ports
  bool unicast_flood = true;     // gets unicast frames of unknown destination
  bool multicast_flood = true;
  bool broadcast_flood = true;
  friend bool operator==(const PortFlags&, const PortFlags&) = default;
};

// [vxlan]
struct VxlanSettings {
  std::string name;                // required
  std::uint32_t vni = 0;           // vxlan-id, 1 to 16777215, required
  std::optional<IpAddress> local;  // vxlan-local-tunnelip; load() has always set it
  std::vector<IpAddress> remotes;  // vxlan-remoteip; our own address already removed
  std::uint16_t port = kVxlanPort;
  bool learning = true;  // vxlan-learning
  VtepLearning vtep_learning = VtepLearning::kNo;
  bool udp_csum = true;
  std::uint8_t ttl = 64;
  std::uint8_t tos = 0;
  bool tos_inherit = false;
  bool mss_clamp = false;
  bool hold_port = true;
  bool replace_kernel = false;
  std::uint16_t mtu = 0;  // overlay MTU; absent in the file: what fits (warned)
  PortFlags flags;        // of the tunnel as a port of the bridge; takeover only. `learning` is above
  MacAddress own_mac{};   // of the kernel's vxlan device; takeover only
  friend bool operator==(const VxlanSettings&, const VxlanSettings&) = default;
};

// [underlay]
struct UnderlaySettings {
  std::string device;  // required
  Driver driver = Driver::kAfXdp;
  std::string devargs;       // driver = dpdk:DEVARGS
  std::uint16_t vlan = 0;    // 0: untagged
  bool own_address = false;  // vtep-address = own
  std::uint16_t mtu = 1500;
  friend bool operator==(const UnderlaySettings&, const UnderlaySettings&) = default;
};

// [bridge]
struct BridgeSettings {
  std::string name;              // may be empty
  VidSet vids;                   // bridge-vids
  std::uint16_t pvid = 1;        // bridge-pvid; 0 for none
  std::uint32_t ageing_s = 300;  // bridge-ageing; 0: nothing learned is kept
  std::uint32_t fdb_max_learned = 65536;
  std::string takeover;  // takeover = BRIDGE: the kernel's bridge that is the configuration; else empty
  bool vlan_filtering = true;  // no: tags are payload, every frame is the PVID's (takeover of such a bridge)
  // Takeover of a bridge with several vxlan ports: the name of the vxlan whose Settings have the ports, empty: these; and
  // which of the bridge's VLANs are this tunnel's, absent: all.
  std::string home;
  std::optional<VidSet> own_vids;
  std::optional<VlanTable> tunnel_vlans;  // when vids and pvid do not say it: the kernel's own (takeover)
  friend bool operator==(const BridgeSettings&, const BridgeSettings&) = default;
};

// [port] port = NAME driver=... key=value...
struct PortSettings {
  std::string name;  // a netdev's name or, with * ? [ ], a pattern of names
  Driver driver = Driver::kTap;
  std::string devargs;
  // From bridge-access | bridge-vids, bridge-pvid, bridge-untagged; default: the bridge's.
  VlanTable vlans;
  std::uint32_t fdb_max_learned = 0;  // 0: no limit of its own
  std::uint32_t storm_pps = 0;        // 0: no limit
  std::uint16_t queues = 0;           // 0: as many as workers and device have
  PortFlags flags;
  bool is_kernels = false;   // takeover: a port of the kernel's bridge, which stands by
  std::uint32_t deliver_ifindex = 0;  // takeover: the netdev (the bridge) that receives what is sent into this tap
  MacAddress own_mac{};               // takeover: the netdev's; with deliver_ifindex the bridge's
  [[nodiscard]] bool is_pattern() const { return name.find_first_of("*?[") != std::string::npos; }
  friend bool operator==(const PortSettings&, const PortSettings&) = default;
};

// [dataplane]
struct DataplaneSettings {
  std::string lcores;  // as for --lcores; empty: the dataplane's own flag
  Poll poll = Poll::kAdaptive;
  std::uint32_t stale_after_ms = 50;  // a dataplane silent for longer has lost the kernel's frames
  friend bool operator==(const DataplaneSettings&, const DataplaneSettings&) = default;
};

struct Settings {
  std::string source;         // the file it came from, for messages
  Mode mode = Mode::kBridge;  // netdev: a tap port bears the vxlan's name
  VxlanSettings vxlan;
  UnderlaySettings underlay;
  BridgeSettings bridge;
  std::vector<PortSettings> ports;
  DataplaneSettings dataplane;
  // Mode::kTakeover: "section.key" of what the file itself gives, which wins over the kernel's; and its lines
  // of ports with driver=netdev, which are limits for the kernel's ports of these names or patterns.
  std::set<std::string> given;
  std::vector<PortSettings> port_rules;
  friend bool operator==(const Settings&, const Settings&) = default;
};

// Where a key was given.
struct Origin {
  std::string file;
  unsigned line = 0;
};

enum class Severity : std::uint8_t { kError, kWarning };

// Printed as `FILE:LINE: KEY: text` (line 0: `FILE: KEY: text`; warnings as `FILE:LINE: KEY:
// warning: text`).
struct Problem {
  std::string file;
  unsigned line = 0;
  std::string key;
  std::string text;
  Severity severity = Severity::kError;
};

}  // namespace vx::config
