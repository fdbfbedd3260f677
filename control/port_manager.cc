// SPDX-License-Identifier: Apache-2.0
#include "control/port_manager.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <utility>

namespace vx::control {

using protocol::PortConfig;
using protocol::PortDriver;
using protocol::PortInfo;
using protocol::PortState;
using protocol::text_of;

namespace {

constexpr Milliseconds kFirstRetry = 500, kLastRetry = 8000;

std::string name_of(const PortConfig& config) { return std::string(text_of(config.name)); }

}  // namespace

std::string_view to_string(PortStatus status) {
  switch (status) {
    case PortStatus::kWaiting: return "waiting";
    case PortStatus::kUp: return "up";
    case PortStatus::kDown: return "down";
    case PortStatus::kLost: return "lost";
  }
  return "waiting";
}

bool is_same_device(const PortConfig& a, const PortConfig& b) {
  return a.name == b.name && a.devargs == b.devargs && a.overlay == b.overlay && a.role == b.role &&
         a.driver == b.driver && a.queues == b.queues && a.attach_xdp_take_all == b.attach_xdp_take_all &&
         a.takeover == b.takeover;
}

bool is_equal(const PortConfig& a, const PortConfig& b) {
  return is_same_device(a, b) && a.mtu == b.mtu && a.storm_pps == b.storm_pps && a.learning == b.learning &&
         a.flags == b.flags && a.deliver_ifindex == b.deliver_ifindex && a.own_mac == b.own_mac && a.vlans == b.vlans;
}

bool PortManager::needs_netdev(const PortConfig& config) {
  return config.driver == PortDriver::kNetdev || config.driver == PortDriver::kAfXdp;
}

PortIndex PortManager::slot_of(const std::string& name) {
  const auto known = slot_by_name_.find(name);
  if (known != slot_by_name_.end()) return known->second;
  const auto free = std::find(slots_.begin(), slots_.end(), std::string());
  if (free == slots_.end() && slots_.size() >= kMaxPorts) return kNoIndex;
  const auto slot = static_cast<PortIndex>(free - slots_.begin());
  if (free == slots_.end()) {
    slots_.push_back(name);
    index_of_slot_.push_back(kNoIndex);
  } else {
    *free = name;
  }
  slot_by_name_[name] = slot;
  return slot;
}

const std::string& PortManager::name_of_slot(PortIndex slot) const {
  static const std::string kNobody;
  return slot < slots_.size() ? slots_[slot] : kNobody;
}

void PortManager::release_slot(PortIndex slot) {
  if (slot >= slots_.size() || ports_.contains(slots_[slot])) return;
  slot_by_name_.erase(slots_[slot]);
  slots_[slot].clear();
}

PortIndex PortManager::index_of_slot(PortIndex slot) const noexcept {
  return slot < index_of_slot_.size() ? index_of_slot_[slot] : kNoIndex;
}

PortIndex PortManager::slot_of_index(PortIndex index) const noexcept {
  return index < slot_of_index_.size() ? slot_of_index_[index] : kNoIndex;
}

const ManagedPort* PortManager::find(const std::string& name) const {
  const auto at = ports_.find(name);
  return at == ports_.end() ? nullptr : &at->second;
}

const Link* PortManager::link_of(const std::string& name) const {
  const auto at = links_.find(name);
  return at == links_.end() ? nullptr : &at->second;
}

MacAddress PortManager::mac_of(const std::string& name) const {
  const ManagedPort* port = find(name);
  if (port == nullptr || !port->info) return {};
  const auto link = links_.find(name);
  const bool has_netdev = needs_netdev(port->wanted.config) && link != links_.end();
  return has_netdev && !link->second.mac.is_zero() ? link->second.mac : port->info->mac;
}

const ManagedPort* PortManager::at_slot(PortIndex slot) const { return find(name_of_slot(slot)); }

void PortManager::vacate(ManagedPort& port) {
  if (port.slot == kNoIndex) return;
  if (port.info && port.info->index < slot_of_index_.size()) slot_of_index_[port.info->index] = kNoIndex;
  index_of_slot_[port.slot] = kNoIndex;
  port.info.reset();
  vacated_.push_back(port.slot);
}

void PortManager::update_status(ManagedPort& port) {
  const std::string name = name_of(port.wanted.config);
  const auto link = links_.find(name);
  if (port.info) {
    const bool is_up = link != links_.end() ? link->second.is_up : port.info->state == PortState::kUp;
    port.status = is_up ? PortStatus::kUp : PortStatus::kDown;
    port.text = is_up ? "" : fmt::format("{}: link is down", name);
    return;
  }
  if (!port.wanted.blocked.empty()) {
    port.status = PortStatus::kWaiting;
    port.text = port.wanted.blocked;
  } else if (needs_netdev(port.wanted.config) && link == links_.end()) {
    if (port.status != PortStatus::kLost) port.status = PortStatus::kWaiting;
    port.text = fmt::format("waiting for netdev {}", name);
  } else if (port.failures == 0) {
    if (port.status != PortStatus::kLost) port.status = PortStatus::kWaiting;
    port.text = "waiting for the dataplane";
  }
}

void PortManager::configure(std::vector<WantedPort> wanted) {
  patterns_.clear();
  std::map<std::string, WantedPort> named;
  for (auto& port : wanted) {
    if (port.is_pattern) {
      patterns_.push_back(std::move(port));
    } else {
      named.try_emplace(name_of(port.config), std::move(port));
    }
  }
  for (const auto& [name, link] : links_) {
    if (named.contains(name)) continue;
    for (const auto& pattern : patterns_) {
      if (fnmatch(std::string(text_of(pattern.config.name)).c_str(), name.c_str(), 0) != 0) continue;
      WantedPort one = pattern;
      protocol::set_text(one.config.name, name);
      named.try_emplace(name, std::move(one));
      break;
    }
  }
  for (auto at = ports_.begin(); at != ports_.end();) {
    if (named.contains(at->first)) {
      ++at;
      continue;
    }
    if (at->second.info) strays_.push_back(at->first);
    vacate(at->second);
    at = ports_.erase(at);
  }
  for (auto& [name, one] : named) {
    const bool is_from_pattern = one.is_pattern;
    one.is_pattern = false;
    ManagedPort& port = ports_[name];
    port.slot = slot_of(name);
    port.is_from_pattern = is_from_pattern;
    if (port.info && !is_same_device(port.info->config, one.config)) port.must_detach = true;
    if (port.info && !is_equal(port.info->config, one.config)) port.must_set = true;
    if (!is_equal(port.wanted.config, one.config) || port.wanted.blocked != one.blocked) port.next_try = 0;
    port.wanted = std::move(one);
    update_status(port);
  }
}

void PortManager::match_patterns(const std::string& name) {
  if (ports_.contains(name)) return;
  for (const auto& pattern : patterns_) {
    if (fnmatch(std::string(text_of(pattern.config.name)).c_str(), name.c_str(), 0) != 0) continue;
    ManagedPort port;
    port.wanted = pattern;
    port.wanted.is_pattern = false;
    protocol::set_text(port.wanted.config.name, name);
    port.is_from_pattern = true;
    port.slot = slot_of(name);
    if (port.slot == kNoIndex) return;
    ports_[name] = std::move(port);
    return;
  }
}

void PortManager::on_link(const Link& link) {
  const bool is_new = !links_.contains(link.name);
  links_[link.name] = link;
  if (is_new) match_patterns(link.name);
  const auto at = ports_.find(link.name);
  if (at == ports_.end()) return;
  ManagedPort& port = at->second;
  if (is_new) port.next_try = 0;
  // Another netdev has taken the name: what the dataplane holds is the old one.
  if (port.info && needs_netdev(port.wanted.config) && port.info->ifindex != 0 &&
      port.info->ifindex != static_cast<std::uint32_t>(link.ifindex))
    port.must_detach = true;
  update_status(port);
}

void PortManager::on_link_gone(const std::string& name) {
  links_.erase(name);
  const auto at = ports_.find(name);
  if (at == ports_.end()) return;
  ManagedPort& port = at->second;
  // A tap may have moved to a guest's namespace: only the dataplane, which holds it, knows.
  if (!needs_netdev(port.wanted.config)) return update_status(port);
  if (port.is_from_pattern) {
    if (port.info) strays_.push_back(name);
    vacate(port);
    ports_.erase(at);
    return;
  }
  if (port.info) {
    port.must_detach = true;
    port.status = PortStatus::kLost;
  } else {
    vacate(port);
    update_status(port);
  }
}

void PortManager::vacate_missing() {
  for (auto& [name, port] : ports_)
    if (!port.info) vacate(port);
}

void PortManager::set_links(const std::vector<Link>& links) {
  std::vector<std::string> gone;
  for (const auto& [name, link] : links_) {
    const bool is_here = std::any_of(links.begin(), links.end(), [&](const Link& l) { return l.name == name; });
    if (!is_here) gone.push_back(name);
  }
  for (const auto& name : gone) on_link_gone(name);
  for (const auto& link : links) on_link(link);
}

void PortManager::on_disconnected() {
  strays_.clear();
  slot_of_index_.clear();
  for (auto& [name, port] : ports_) {
    // Not vacated: what was learned there stays, and is installed again.
    if (port.info) index_of_slot_[port.slot] = kNoIndex;
    port.info.reset();
    port.must_detach = port.must_set = false;
    port.next_try = 0;
    port.failures = 0;
    port.status = PortStatus::kWaiting;
    update_status(port);
  }
}

void PortManager::adopt(const PortInfo& info) {
  const std::string name = name_of(info.config);
  const auto at = ports_.find(name);
  if (at == ports_.end()) {
    strays_.push_back(name);
    return;
  }
  attached(name, info);
  ManagedPort& port = at->second;
  port.must_detach = !is_same_device(info.config, port.wanted.config);
  port.must_set = !is_equal(info.config, port.wanted.config);
  const auto link = links_.find(name);
  if (needs_netdev(port.wanted.config) &&
      (link == links_.end() ||
       (info.ifindex != 0 && info.ifindex != static_cast<std::uint32_t>(link->second.ifindex))))
    port.must_detach = true;
}

std::vector<PortAction> PortManager::actions(Milliseconds now) {
  std::vector<PortAction> detach, set, attach;
  for (const auto& name : strays_) {
    PortAction action{PortAction::Kind::kDetach, {}};
    protocol::set_text(action.config.name, name);
    detach.push_back(action);
  }
  strays_.clear();
  for (auto& [name, port] : ports_) {
    if (port.info && port.must_detach) {
      detach.push_back({PortAction::Kind::kDetach, port.wanted.config});
      vacate(port);
      port.must_detach = port.must_set = false;
      update_status(port);
    } else if (port.info && port.must_set) {
      set.push_back({PortAction::Kind::kSet, port.wanted.config});
      port.must_set = false;
    }
    if (port.info || !port.wanted.blocked.empty() || now < port.next_try || port.slot == kNoIndex) continue;
    if (needs_netdev(port.wanted.config) && !links_.contains(name)) continue;
    port.next_try = now + kFirstRetry;
    attach.push_back({PortAction::Kind::kAttach, port.wanted.config});
  }
  // The underlay first: guests have nowhere to go before it.
  std::stable_partition(attach.begin(), attach.end(), [](const PortAction& action) {
    return action.config.role == protocol::PortRole::kUnderlay;
  });
  detach.insert(detach.end(), set.begin(), set.end());
  detach.insert(detach.end(), attach.begin(), attach.end());
  return detach;
}

void PortManager::attached(const std::string& name, const PortInfo& info) {
  const auto at = ports_.find(name);
  if (at == ports_.end() || info.index >= kMaxPorts) return;
  ManagedPort& port = at->second;
  const bool is_new = !port.info || port.info->index != info.index;
  port.info = info;
  port.failures = 0;
  port.next_try = 0;
  if (slot_of_index_.size() <= info.index) slot_of_index_.resize(info.index + 1u, kNoIndex);
  slot_of_index_[info.index] = port.slot;
  index_of_slot_[port.slot] = info.index;
  if (is_new) filled_.push_back(port.slot);
  update_status(port);
}

void PortManager::refused(const std::string& name, const std::string& why, Milliseconds now) {
  const auto at = ports_.find(name);
  if (at == ports_.end()) return;
  ManagedPort& port = at->second;
  port.text = why;
  if (port.info) return;  // a refused change: the port goes on as it is
  port.next_try = now + std::min(kFirstRetry << std::min(port.failures, 8u), kLastRetry);
  ++port.failures;
}

void PortManager::lost(const std::string& name, PortIndex index, Milliseconds now) {
  const auto at = ports_.find(name);
  if (at == ports_.end()) return;
  ManagedPort& port = at->second;
  if (!port.info || port.info->index != index) return;  // of an earlier port of that name
  vacate(port);
  port.must_detach = port.must_set = false;
  port.status = PortStatus::kLost;
  port.next_try = now + kFirstRetry;
  update_status(port);
}

std::vector<PortIndex> PortManager::take_vacated() { return std::exchange(vacated_, {}); }
std::vector<PortIndex> PortManager::take_filled() { return std::exchange(filled_, {}); }

}  // namespace vx::control
