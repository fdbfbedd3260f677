// SPDX-License-Identifier: Apache-2.0
// netdev mode's dealings with the kernel's own vxlan and bridge: the tap that bears the vxlan's name takes the
// place of a kernel vxlan device in the bridge. One thread; errors are one line, nothing throws.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/settings.h"
#include "control/rtnetlink.h"

namespace vx::control {

class KernelMirror {
 public:
  explicit KernelMirror(RouteSocket& kernel) : kernel_(kernel) {}

  // Before the tap is made. A kernel vxlan device in its place is refused or, with replace-kernel = yes, its
  // bridge, VLANs and MTU are noted and it is deleted. Empty: the tap may be made; else why not.
  [[nodiscard]] std::string prepare(const config::Settings& settings);
  // Once the tap is there, and on every link event: enslaves it to the bridge that the kernel's device was in, or
  // to [bridge] name if that is a kernel bridge, with its VLANs. A tap that has a master already is left alone.
  // Empty: done, or nothing to do; else what did not work.
  [[nodiscard]] std::string ensure(const config::Settings& settings);

 private:
  struct Replaced {
    std::string bridge;  // empty: it was in none
    std::vector<BridgeVlan> vlans;
    std::uint32_t mtu = 0;
  };
  [[nodiscard]] std::string set_vlans(const Link& tap, const std::vector<BridgeVlan>& wanted);

  RouteSocket& kernel_;
  std::map<std::string, Replaced> replaced_;  // by the vxlan's name
};

// The tunnel's VLANs as the kernel's bridge has them: bridge-vids tagged, bridge-pvid PVID and untagged.
[[nodiscard]] std::vector<BridgeVlan> bridge_vlans_of(const config::BridgeSettings& bridge);

}  // namespace vx::control
