// SPDX-License-Identifier: Apache-2.0
#include "control/underlay.h"

#include <fmt/format.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "control/text.h"

namespace vx::control {

namespace {

constexpr std::uint16_t kUsable = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT | NUD_NOARP;
constexpr std::uint16_t kFixed = NUD_PERMANENT | NUD_NOARP;

bool is_in_prefix(const IpAddress& ip, const InterfaceIp& subnet) {
  if (ip.is_v4() != subnet.address.is_v4()) return false;
  const unsigned bits = subnet.prefix + (ip.is_v4() ? 96 : 0);
  for (unsigned bit = 0; bit < bits && bit < 128; ++bit) {
    const unsigned shift = 7 - bit % 8;
    if ((ip.bytes[bit / 8] >> shift & 1) != (subnet.address.bytes[bit / 8] >> shift & 1)) return false;
  }
  return true;
}

}  // namespace

bool Underlay::is_ours(const Link& link) const {
  if (device_.vlan == 0) return link.name == device_.name;
  if (link.kind != "vlan" || link.vid != device_.vlan) return false;
  const auto lower = links_.find(link.lower);
  return lower != links_.end() && lower->second.name == device_.name;
}

const Link* Underlay::interface() const {
  for (const auto& [ifindex, link] : links_)
    if (is_ours(link)) return &link;
  return nullptr;
}

MacAddress Underlay::source_mac() const {
  if (device_.is_routed) return {};
  if (const Link* ours = interface()) return ours->mac;
  for (const auto& [ifindex, link] : links_)
    if (link.name == device_.name) return link.mac;
  return {};
}

std::optional<std::string> Underlay::problem() const {
  if (device_.is_routed) return std::nullopt;  // what matters is whether there are routes: the paths' own
  const Link* ours = interface();
  if (ours != nullptr && !ours->is_up) return fmt::format("underlay {}: link is down", ours->name);
  if (ours != nullptr) return std::nullopt;
  if (device_.vlan != 0)
    return fmt::format("underlay {}: no 802.1q device with VLAN {} on it has the VTEP address", device_.name, device_.vlan);
  return fmt::format("underlay {}: no such device", device_.name);
}

void Underlay::watch(const std::map<IpAddress, std::optional<IpAddress>>& remotes, Milliseconds now) {
  std::erase_if(ways_, [&](const auto& way) { return !remotes.contains(way.first); });
  std::erase_if(paths_, [&](const auto& path) { return !remotes.contains(path.first); });
  for (const auto& [remote, local] : remotes) {
    const auto [at, is_new] = ways_.try_emplace(remote);
    if (is_new || at->second.local != local) are_routes_stale_ = true;
    at->second.local = local;
  }
  tick(now);
}

void Underlay::resync(Milliseconds now) {
  links_.clear();
  neighbours_.clear();
  for (auto& link : kernel_.links()) links_[link.ifindex] = std::move(link);
  if (const Link* ours = interface())
    for (const auto& neighbour : kernel_.neighbours(ours->ifindex))
      neighbours_[{neighbour.ifindex, neighbour.address}] = neighbour;
  are_routes_stale_ = true;
  tick(now);
}

void Underlay::on_event(const nlmsghdr* message, Milliseconds now) {
  switch (message->nlmsg_type) {
    case RTM_NEWLINK:
      if (auto link = parse_link(message)) {
        const bool was_known = links_.contains(link->ifindex);
        const int ifindex = link->ifindex;
        if (was_known && links_[ifindex] == *link) return;
        links_[ifindex] = std::move(*link);
        are_routes_stale_ = true;
        if (!was_known && is_ours(links_[ifindex])) resync(now);
      }
      return;
    case RTM_DELLINK:
      if (const auto link = parse_link(message)) {
        links_.erase(link->ifindex);
        std::erase_if(neighbours_, [&](const auto& n) { return n.first.first == link->ifindex; });
        are_routes_stale_ = true;
      }
      return;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
      if (const auto neighbour = parse_neighbour(message)) {
        const NeighbourKey key{neighbour->ifindex, neighbour->address};
        if (message->nlmsg_type == RTM_DELNEIGH) {
          neighbours_.erase(key);
        } else if (const auto link = links_.find(neighbour->ifindex); link != links_.end() && is_ours(link->second)) {
          neighbours_[key] = *neighbour;
        }
      }
      return;
    default:  // addresses, routes, rules
      are_routes_stale_ = true;
  }
}

// A usable route, or why it is not.
void Underlay::take_route(const IpAddress& remote, const Route& route, Way& way, VtepPath& path) const {
  const auto link = links_.find(route.ifindex);
  std::uint32_t mtu = route.mtu;
  if (device_.is_routed) {
    if (mtu == 0 && link != links_.end()) mtu = link->second.mtu;
    path.is_resolved = true;
  } else if (link == links_.end() || !is_ours(link->second)) {
    path.problem = fmt::format("VTEP {}: the route leads out of {}, not of the underlay {}{}", format_ip(remote),
                               link == links_.end() ? "an unknown device" : link->second.name, device_.name,
                               device_.vlan == 0 ? "" : fmt::format(" VLAN {}", device_.vlan));
    return;
  }
  way.ifindex = route.ifindex;
  way.next_hop = route.gateway.value_or(remote);
  path.mtu = static_cast<std::uint16_t>(std::min<std::uint32_t>(mtu, 65535));
}

void Underlay::look_up_route(const IpAddress& remote, Way& way, Milliseconds now) {
  VtepPath path = paths_[remote];
  const VtepPath before = path;
  const int ifindex_before = way.ifindex;
  const IpAddress next_hop_before = way.next_hop;
  way.ifindex = 0;
  path.mtu = 0;
  path.learned_at = 0;
  path.problem.clear();
  const auto route = kernel_.route_to(remote, way.local);
  // A local route is a VTEP on this host: sockets reach it, frames do not.
  const bool is_usable = route && route->ifindex != 0 && (route->is_unicast || (device_.is_routed && route->is_local));
  if (!is_usable) path.problem = fmt::format("VTEP {}: no route", format_ip(remote));
  else take_route(remote, *route, way, path);
  if (route && route->is_mtu_learned) path.learned_at = before.learned_at != 0 && before.mtu == path.mtu ? before.learned_at : now;
  if (way.ifindex == 0) path.is_resolved = false;
  if (way.ifindex != ifindex_before || way.next_hop != next_hop_before) way.was_valid = false;
  set_path(remote, std::move(path));
}

void Underlay::evaluate(const IpAddress& remote, Way& way, Milliseconds now) {
  if (way.ifindex == 0 || device_.is_routed) return;
  VtepPath path = paths_[remote];
  const auto known = neighbours_.find({way.ifindex, way.next_hop});
  const bool is_valid = known != neighbours_.end() && (known->second.state & kUsable) != 0 && known->second.mac;
  if (is_valid) {
    if (!way.was_valid) way.probed_at = now;  // just heard of
    way.was_valid = true;
    way.valid_at = now;
    path.is_resolved = true;
    path.next_hop = *known->second.mac;
    path.problem.clear();
  } else {
    const bool is_asking = known != neighbours_.end() && (known->second.state & NUD_INCOMPLETE) != 0;
    if (!is_asking && (way.asked_at == 0 || now - way.asked_at >= kRetryEvery)) {
      kernel_.use_neighbour(way.ifindex, way.next_hop);
      way.asked_at = now;
    }
    if (!way.was_valid || now - way.valid_at >= kGrace) {
      way.was_valid = false;
      path.is_resolved = false;
      path.problem = way.next_hop == remote
                         ? fmt::format("VTEP {}: no answer to ARP or ND", format_ip(remote))
                         : fmt::format("VTEP {}: its gateway {} does not answer ARP or ND", format_ip(remote),
                                       format_ip(way.next_hop));
    }
  }
  set_path(remote, std::move(path));
}

void Underlay::probe(Way& way, Milliseconds now) {
  if (way.ifindex == 0 || device_.is_routed || now - way.probed_at < kProbeEvery) return;
  const auto known = neighbours_.find({way.ifindex, way.next_hop});
  if (known == neighbours_.end() || (known->second.state & (kUsable & ~kFixed & ~NUD_PROBE)) == 0) return;
  way.probed_at = now;
  kernel_.probe_neighbour(way.ifindex, way.next_hop);
}

void Underlay::set_path(const IpAddress& remote, VtepPath path) {
  VtepPath& old = paths_[remote];
  if (old == path) return;
  is_changed_ = true;
  old = std::move(path);
}

void Underlay::tick(Milliseconds now) {
  const bool look_up = are_routes_stale_;
  are_routes_stale_ = false;
  for (auto& [remote, way] : ways_) {
    const bool is_probe_due = now - way.probed_at >= kProbeEvery;
    if (look_up || is_probe_due) look_up_route(remote, way, now);
    evaluate(remote, way, now);
    if (is_probe_due) {
      probe(way, now);
      if (way.ifindex == 0 || !way.was_valid) way.probed_at = now;  // paces the route's next look-up
    }
  }
  if (const MacAddress mac = source_mac(); mac != told_mac_) {
    told_mac_ = mac;
    is_changed_ = true;
  }
}

std::optional<IpAddress> Underlay::local_towards(const IpAddress& remote) {
  if (const Link* ours = interface())
    for (const auto& address : kernel_.addresses())
      if (address.ifindex == ours->ifindex && is_in_prefix(remote, address)) return address.address;
  const auto route = kernel_.route_to(remote, std::nullopt);
  return route ? route->source : std::nullopt;
}

bool Underlay::take_changed() {
  const bool was = is_changed_;
  is_changed_ = false;
  return was;
}

}  // namespace vx::control
