// SPDX-License-Identifier: Apache-2.0
// From what the configuration says to what the dataplane is told. Pure; any thread.
#pragma once

#include <string>

#include "config/settings.h"
#include "control/port_manager.h"
#include "dataplane/protocol.h"

namespace vx::control {

[[nodiscard]] protocol::OverlayConfig overlay_config(const config::Settings& settings, OverlayIndex index, OverlayIndex home,
                                                     const IpAddress& local);
[[nodiscard]] WantedPort guest_port(const config::PortSettings& port, const config::Settings& settings,
                                    OverlayIndex overlay);
[[nodiscard]] WantedPort underlay_port(const config::UnderlaySettings& underlay);
// netdev mode: the tap that bears the vxlan's name.
[[nodiscard]] config::PortSettings uplink_port(const config::Settings& settings);
[[nodiscard]] bool is_uplink(const config::Settings& settings, std::string_view port);

}  // namespace vx::control
