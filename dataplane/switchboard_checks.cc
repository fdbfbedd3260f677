// SPDX-License-Identifier: Apache-2.0
// What control may ask for: every field of a configuration is checked before anything changes.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "dataplane/request_error.h"
#include "dataplane/switchboard.h"

namespace vx {
namespace {

constexpr std::uint32_t kMaxVni = 0xffffff;
constexpr std::uint32_t kMaxFdbCapacity = 16'777'216;
// Workers beat at least every 20 ms, asleep or not.
constexpr std::uint32_t kShortestStaleMs = 20, kLongestStaleMs = 60'000;
constexpr std::uint16_t kSmallestMtu = 68;  // RFC 791 section 3.2

// Printable, without blanks or slashes: a netdev's name, a vdev's, what an operator types.
bool is_name(std::string_view name) noexcept {
  return !name.empty() && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c < 0x7f && c != '/'; });
}

void check_vlans(const VlanTable& vlans, std::string_view whose) {
  const bool has_reserved = vlans.members.contains(0) || vlans.members.contains(4095);
  if (vlans.pvid > kMaxVid || has_reserved)
    throw RequestError(EINVAL, fmt::format("{}: VIDs are 1 to 4094", whose));
}

void check_flag(std::uint8_t flag, std::string_view whose) {
  if (flag > 1) throw RequestError(EINVAL, fmt::format("{}: a flag is neither 0 nor 1", whose));
}

void check_port_flags(std::uint8_t flags, std::string_view whose) {
  if ((flags & ~unsigned{protocol::kAllPortFlags}) != 0)
    throw RequestError(EINVAL, fmt::format("{}: unknown flags", whose));
}

}  // namespace

void Switchboard::check_port(const protocol::PortConfig& config) const {
  const auto name = protocol::text_of(config.name);
  if (!is_name(name) || name == protocol::kRemovedPorts)
    throw RequestError(EINVAL, "port: not a usable name");
  const auto whose = fmt::format("port {}", name);
  if (config.role > protocol::PortRole::kUnderlay)
    throw RequestError(EINVAL, whose + ": unknown role");
  if (config.driver > protocol::PortDriver::kDpdk)
    throw RequestError(EINVAL, whose + ": unknown driver");
  if (config.queues > VXP_MAX_QUEUES)
    throw RequestError(EINVAL, fmt::format("{}: at most {} queues", whose, VXP_MAX_QUEUES));
  if (config.mtu != 0 && config.mtu < kSmallestMtu)
    throw RequestError(EINVAL, whose + ": MTU below 68");
  check_flag(config.learning, whose);
  check_flag(config.attach_xdp_take_all, whose);
  check_flag(config.takeover, whose);
  check_port_flags(config.flags, whose);
  const bool can_deliver = config.driver == protocol::PortDriver::kTap;
  if (config.deliver_ifindex != 0 && !can_deliver)
    throw RequestError(EINVAL, whose + ": only a tap delivers to a netdev");
  const bool can_be_taken = config.driver == protocol::PortDriver::kNetdev &&
                            config.role == protocol::PortRole::kGuest;
  if (config.takeover != 0 && !can_be_taken)
    throw RequestError(EINVAL, whose + ": only a guest's netdev is taken over");
  check_vlans(config.vlans, whose);
  if (config.vlans.filtering > 1 || (config.vlans.filtering == 0 && config.vlans.pvid == kNoPvid))
    throw RequestError(EINVAL, whose + ": filtering is 0 or 1, and without it there is a PVID");
  if (config.role == protocol::PortRole::kGuest && model_.find_overlay(config.overlay) == nullptr)
    throw RequestError(ENOENT, fmt::format("{}: no overlay {}", whose, config.overlay));
  if (config.role == protocol::PortRole::kUnderlay)
    for (const auto& port : model_.ports)
      if (port && port->is_underlay() && protocol::text_of(port->config.name) != name)
        throw RequestError(EBUSY, fmt::format("{}: {} is the underlay already: delete it first",
                                              whose, protocol::text_of(port->config.name)));
}

void Switchboard::check_underlay(const protocol::UnderlayConfig& config) const {
  if (config.local_count > protocol::kMaxLocalAddresses || config.vlan > kMaxVid ||
      config.own_address > 1 || config.hold_port > 1 || config.takeover > 1)
    throw RequestError(EINVAL, "underlay: too many local addresses, or a VLAN above 4094");
  if (!protocol::text_of(config.port).empty() && config.mtu < kSmallestMtu)
    throw RequestError(EINVAL, "underlay: MTU below 68");
  const auto name = protocol::text_of(config.port);
  if (const auto* port = model_.find_port(name); port != nullptr && !port->is_underlay())
    throw RequestError(EINVAL, fmt::format("underlay: port {} is a guest port", name));
}

void Switchboard::check_fail_open(const protocol::FailOpenConfig& config) const {
  check_flag(config.bypass, "fail-open: bypass");
  if (config.stale_after_ms < kShortestStaleMs || config.stale_after_ms > kLongestStaleMs)
    throw RequestError(EINVAL, fmt::format("fail-open: the heartbeat is stale after {} to {} ms",
                                           kShortestStaleMs, kLongestStaleMs));
}

void Switchboard::check_overlay(const protocol::OverlayConfig& config) const {
  const auto whose = fmt::format("overlay {}", config.index);
  if (config.index >= kMaxOverlays)
    throw RequestError(EINVAL, fmt::format("{}: indices go to {}", whose, kMaxOverlays - 1));
  if (config.vni == 0 || config.vni > kMaxVni)
    throw RequestError(EINVAL, whose + ": the VNI is 1 to 16777215");
  if (config.udp_port == 0) throw RequestError(EINVAL, whose + ": the UDP port is 1 to 65535");
  if (config.mtu < kSmallestMtu) throw RequestError(EINVAL, whose + ": MTU below 68");
  if (config.ttl == 0) throw RequestError(EINVAL, whose + ": the TTL is 1 to 255");
  if (config.fdb_capacity == 0 || config.fdb_capacity > kMaxFdbCapacity)
    throw RequestError(EINVAL,
                       fmt::format("{}: the FDB holds 1 to {} entries", whose, kMaxFdbCapacity));
  if (config.vtep_learning > protocol::VtepLearning::kFlood)
    throw RequestError(EINVAL, whose + ": unknown vtep-learning");
  for (const auto flag : {config.tos_inherit, config.udp_csum, config.learning})
    check_flag(flag, whose);
  if (const auto uplink = protocol::text_of(config.uplink_port);
      !uplink.empty() && !is_name(uplink))
    throw RequestError(EINVAL, whose + ": the uplink is not a usable name");
  check_vlans(config.tunnel_vlans, whose);
  check_port_flags(config.tunnel_flags, whose);
  if (config.home != kNoIndex) {
    const auto* home = model_.find_overlay(config.home);
    if (config.home == config.index || home == nullptr || home->config.home != kNoIndex)
      throw RequestError(EINVAL, fmt::format("{}: overlay {} has no ports to share", whose, config.home));
  }
  for (const auto& other : model_.overlays) {
    if (!other || other->config.index == config.index) continue;
    if (other->config.vni == config.vni)
      throw RequestError(EEXIST, fmt::format("{}: VNI {} is overlay {}'s", whose, config.vni,
                                             other->config.index));
  }
  // Outer headers are built of both addresses: they must be of one family.
  if (const auto* entry = model_.find_overlay(config.index))
    for (const auto& vtep : entry->vteps)
      if (vtep && !config.local.is_unspecified() && vtep->address.is_v4() != config.local.is_v4())
        throw RequestError(EINVAL,
                           whose + ": its VTEPs are of the other IP version: delete them first");
}

void Switchboard::check_vtep(const protocol::VtepConfig& config,
                             const OverlayEntry& overlay) const {
  const auto whose = fmt::format("overlay {}: VTEP {}", config.overlay, config.index);
  if (config.index >= kMaxVteps)
    throw RequestError(EINVAL, fmt::format("{}: indices go to {}", whose, kMaxVteps - 1));
  if (config.address.is_unspecified()) throw RequestError(EINVAL, whose + ": no address");
  if (!overlay.config.local.is_unspecified() &&
      config.address.is_v4() != overlay.config.local.is_v4())
    throw RequestError(
        EINVAL, whose + ": its address and the overlay's local one are of different IP versions");
  if (config.source_port_min == 0 || config.source_port_min > config.source_port_max)
    throw RequestError(EINVAL, whose + ": the source port range is empty");
  check_flag(config.flood, whose);
  check_flag(config.resolved, whose);
  for (std::size_t i = 0; i < overlay.vteps.size(); ++i)
    if (overlay.vteps[i] && i != config.index && overlay.vteps[i]->address == config.address)
      throw RequestError(EEXIST, fmt::format("{}: its address is VTEP {}'s", whose, i));
}

}  // namespace vx
