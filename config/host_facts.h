// SPDX-License-Identifier: Apache-2.0
// What reading a configuration may ask of the machine it is read on. Plain functions, so that tests
// (and `--check` on another machine) put in what they like: a default HostFacts knows nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/wire.h"

namespace vx::config {

struct InterfaceAddress {
  IpAddress ip;
  unsigned prefix = 0;  // bits of the address's own family, 0-32 or 0-128
};

struct HostInterface {
  std::string name;
  std::string raw_device;  // of an 802.1Q device: the one below it; else empty
  std::uint16_t vid = 0;   // of an 802.1Q device; else 0
  std::uint16_t mtu = 0;   // 0: unknown; what exceeds 65535 (lo) is cut to that
  std::vector<InterfaceAddress> addresses;
};

struct HostFacts {
  // Empty functions: nothing is known.
  std::function<std::vector<HostInterface>()> interfaces;
  // The source address that this machine would use towards `remote`; empty without a route.
  std::function<std::optional<IpAddress>(const IpAddress& remote)> route_source;
};

// The machine we run on: getifaddrs, /proc/net/vlan, and a connected UDP socket per question, which
// sends nothing. Never throws; what cannot be found out is absent.
[[nodiscard]] HostFacts live_host_facts();

}  // namespace vx::config
