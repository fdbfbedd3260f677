// SPDX-License-Identifier: Apache-2.0
// Userspace's side of ebpf/steer.bpf.c: the maps of the program that is attached to a netdev.
// Threads: management; heartbeat slots are written by the worker that polls the queue.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/port_factory.h"

namespace vx {

// Makes the netdev free for our program. A program of our own that nobody beats for is detached; returns its
// VXP_FLAG_* (0: there was none). Throws std::runtime_error for a foreign program or a living vxplane.
std::uint16_t clear_leftover_xdp(const std::string& netdev, std::uint32_t ifindex);

// Binds to the maps of the program attached to the netdev, which must be ours. `flags`: VXP_FLAG_* to keep in its
// configuration. take_all: mode VXP_MODE_TAKE_ALL at once; steer() is then not to be called.
// Throws std::runtime_error or std::system_error.
[[nodiscard]] std::shared_ptr<XdpSteering> make_xdp_steering(const std::string& netdev, std::uint32_t ifindex,
                                                             std::uint16_t flags, bool take_all);
// The same on a program that is not attached (tests): `program` is its descriptor.
[[nodiscard]] std::shared_ptr<XdpSteering> make_xdp_steering(int program_fd, std::uint16_t flags, bool take_all);

}  // namespace vx
