// SPDX-License-Identifier: Apache-2.0
// What the port back ends ask of and set on a kernel netdev of the caller's network namespace.
// Threads: management. Functions that throw throw std::system_error naming the netdev.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/wire.h"

namespace vx {

// Throws std::system_error for the current errno: "NAME: WHAT: strerror".
[[noreturn]] void throw_errno(const std::string& name, const std::string& what);

namespace netdev {

[[nodiscard]] std::uint32_t index(const std::string& name) noexcept;  // 0: no such netdev
[[nodiscard]] MacAddress mac(const std::string& name);
void set_mtu(const std::string& name, unsigned mtu);
void set_up(const std::string& name);
// The host's own stack sends nothing out of it by itself (IPv6 autoconfiguration), as far as that can be had.
void silence(const std::string& name) noexcept;

// RX queues that an AF_XDP socket can be bound to one by one: ethtool's combined channels, or rx channels.
struct Channels {
  unsigned combined = 1;  // what net_af_xdp takes; 1 when the device has no combined channels
  unsigned rx = 1;        // rx queues in use
};
[[nodiscard]] Channels channels(const std::string& name) noexcept;

// Whether the NIC strips 802.1Q tags on receive (ethtool rxvlan); false too when it cannot say.
[[nodiscard]] bool rxvlan(const std::string& name) noexcept;
[[nodiscard]] bool set_rxvlan(const std::string& name, bool on) noexcept;  // false: refused, see errno

// The netdev's ifalias: where a tap that we made says so, for a later run should this one crash.
[[nodiscard]] std::string alias(std::uint32_t ifindex);
[[nodiscard]] bool set_alias(std::uint32_t ifindex, const std::string& text) noexcept;

}  // namespace netdev
}  // namespace vx
