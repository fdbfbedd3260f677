// SPDX-License-Identifier: Apache-2.0
#include "control/convert.h"

#include <algorithm>

#include "config/keys.h"
#include "control/learner.h"

namespace vx::control {

namespace {

static_assert(static_cast<int>(config::Driver::kAfXdp) == static_cast<int>(protocol::PortDriver::kAfXdp));
static_assert(static_cast<int>(config::Driver::kUdp) == static_cast<int>(protocol::PortDriver::kUdp));
static_assert(static_cast<int>(config::Driver::kTap) == static_cast<int>(protocol::PortDriver::kTap));
static_assert(static_cast<int>(config::Driver::kDpdk) == static_cast<int>(protocol::PortDriver::kDpdk));
static_assert(static_cast<int>(config::VtepLearning::kFlood) == static_cast<int>(protocol::VtepLearning::kFlood));

protocol::PortDriver driver_of(config::Driver driver) { return static_cast<protocol::PortDriver>(driver); }

std::uint8_t flags_of(const config::PortFlags& flags) {
  return static_cast<std::uint8_t>((flags.isolated ? protocol::kIsolated : 0) | (flags.unicast_flood ? 0 : protocol::kNoUnicastFlood) |
                                   (flags.multicast_flood ? 0 : protocol::kNoMulticastFlood) |
                                   (flags.broadcast_flood ? 0 : protocol::kNoBroadcastFlood));
}

// Learned and operator's entries, and an eighth for stale ones that are not yet swept; with takeover as many more,
// which a routing daemon put into the kernel's FDB.
std::uint32_t capacity_of(const config::BridgeSettings& bridge) {
  const std::uint32_t external = bridge.takeover.empty() ? 0 : bridge.fdb_max_learned;
  return external + bridge.fdb_max_learned + bridge.fdb_max_learned / 8 +
         static_cast<std::uint32_t>(Learner::kMaxOperatorEntries);
}

}  // namespace

bool is_uplink(const config::Settings& settings, std::string_view port) {
  return settings.mode == config::Mode::kNetdev && settings.vxlan.name == port;
}

protocol::OverlayConfig overlay_config(const config::Settings& settings, OverlayIndex index, OverlayIndex home, const IpAddress& local) {
  const auto& vxlan = settings.vxlan;
  protocol::OverlayConfig config;
  config.index = index;
  config.udp_port = vxlan.port;
  config.vni = vxlan.vni;
  protocol::set_text(config.name, vxlan.name);
  config.local = local;
  config.mtu = vxlan.mtu;
  config.ttl = vxlan.ttl;
  config.tos = vxlan.tos;
  config.tos_inherit = vxlan.tos_inherit ? 1 : 0;
  config.udp_csum = vxlan.udp_csum ? 1 : 0;
  config.learning = vxlan.learning ? 1 : 0;
  config.vtep_learning = static_cast<protocol::VtepLearning>(vxlan.vtep_learning);
  config.mss_clamp = vxlan.mss_clamp ? 1 : 0;
  if (settings.mode == config::Mode::kNetdev) protocol::set_text(config.uplink_port, vxlan.name);
  config.fdb_capacity = capacity_of(settings.bridge);
  config.tunnel_vlans = config::tunnel_vlans_of(settings.bridge);
  config.tunnel_flags = flags_of(settings.vxlan.flags);
  config.own_mac = settings.vxlan.own_mac;
  config.home = home == index ? kNoIndex : home;
  return config;
}

WantedPort guest_port(const config::PortSettings& port, const config::Settings& settings, OverlayIndex overlay) {
  WantedPort wanted;
  protocol::set_text(wanted.config.name, port.name);
  protocol::set_text(wanted.config.devargs, port.devargs);
  wanted.config.overlay = overlay;
  wanted.config.role = protocol::PortRole::kGuest;
  wanted.config.driver = driver_of(port.driver);
  wanted.config.queues = port.queues;
  // A tap is our own netdev; a foreign one keeps the MTU its owner gave it.
  wanted.config.mtu = port.driver == config::Driver::kTap ? settings.vxlan.mtu : std::uint16_t{0};
  wanted.config.storm_pps = port.storm_pps;
  wanted.config.learning = port.flags.learning && !is_uplink(settings, port.name) ? 1 : 0;
  wanted.config.flags = flags_of(port.flags);
  wanted.config.takeover = port.is_kernels && port.driver == config::Driver::kNetdev ? 1 : 0;
  wanted.config.deliver_ifindex = port.deliver_ifindex;
  wanted.config.own_mac = port.own_mac;
  wanted.config.attach_xdp_take_all = port.driver == config::Driver::kAfXdp ? 1 : 0;
  wanted.config.vlans = port.vlans;
  wanted.fdb_max_learned = port.fdb_max_learned;
  wanted.is_pattern = port.is_pattern();
  return wanted;
}

WantedPort underlay_port(const config::UnderlaySettings& underlay) {
  WantedPort wanted;
  protocol::set_text(wanted.config.name, underlay.device);
  protocol::set_text(wanted.config.devargs, underlay.devargs);
  wanted.config.role = protocol::PortRole::kUnderlay;
  wanted.config.driver = driver_of(underlay.driver);
  return wanted;
}

config::PortSettings uplink_port(const config::Settings& settings) {
  config::PortSettings port;
  port.name = settings.vxlan.name;
  port.driver = config::Driver::kTap;
  port.vlans = config::tunnel_vlans_of(settings.bridge);
  return port;
}

}  // namespace vx::control
