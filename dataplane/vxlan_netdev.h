// SPDX-License-Identifier: Apache-2.0
// Which kernel vxlan device holds a UDP port: for the one line that tells an operator why we cannot have it.
#pragma once

#include <cstdint>
#include <string>

namespace vx {

// Its name, the first found in our network namespace; empty: none, or the kernel does not say. Threads: management.
[[nodiscard]] std::string vxlan_netdev_on(std::uint16_t udp_port) noexcept;

}  // namespace vx
