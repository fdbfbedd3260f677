// SPDX-License-Identifier: Apache-2.0
// sync(): the way from what is wanted to what the dataplane has been told, in the order it can take it.
#include <algorithm>

#include "control/control.h"
#include "control/log.h"
#include "control/text.h"

namespace vx::control {

using protocol::MessageType;

namespace {
constexpr Milliseconds kStartGrace = 5000;  // after a start what the dataplane knows of a next hop holds
constexpr Milliseconds kFullRetry = 1000;
constexpr Milliseconds kComebackTime = 10000;  // a port not back by then has lost what was learned there
constexpr std::size_t kChangesAtOnce = 64 * 1024;
}  // namespace

void Control::sync() {
  if (!client_.is_connected()) return;
  faults_.clear();
  if (!are_missing_vacated_ && EventLoop::now() - connected_at_ >= kComebackTime) {
    are_missing_vacated_ = true;
    ports_.vacate_missing();
  }
  install_overlays();
  if (is_mirror_due_) mirror_kernel();
  run_port_actions();
  delete_overlays();
  install_underlay();
  install_vteps();
  install_fdb();
  update_fail_open();
  faults_before_ = faults_;
}

void Control::install_overlays() {
  for (auto& overlay : overlays_) {
    if (!overlay->local) continue;
    const OverlayIndex home = home_of(*overlay);
    if (home != overlay->index && !installer_.overlays().contains(home)) continue;
    const auto config = overlay_config(overlay->settings, overlay->index, home, *overlay->local);
    const auto told = installer_.overlays().find(overlay->index);
    const bool loses_fdb = told != installer_.overlays().end() && told->second.fdb_capacity != config.fdb_capacity;
    // Outer headers are of one IP version: VTEPs of the other have to go first.
    if (told != installer_.overlays().end() && told->second.local.is_v4() != config.local.is_v4())
      (void)installer_.set_vteps(overlay->index, {});
    if (!installer_.set_overlay(config)) {
      note(fmt::format("{}: {}", overlay->name(), installer_.complaint()));
    } else if (loses_fdb) {
      overlay->learner.mark_dirty();
    }
  }
}

void Control::delete_overlays() {
  std::vector<OverlayIndex> gone;
  for (const auto& [index, told] : installer_.overlays())
    if (overlay_at(index) == nullptr) gone.push_back(index);
  for (const auto index : gone)
    if (!installer_.delete_overlay(index)) note(installer_.complaint());
}

// netdev mode: the kernel's vxlan device makes room, the tap takes its place in the bridge.
void Control::mirror_kernel() {
  is_mirror_due_ = false;
  bool is_changed = false;
  for (auto& overlay : overlays_) {
    if (!overlay->is_netdev_mode()) continue;
    const ManagedPort* uplink = ports_.find(overlay->name());
    std::string blocked = uplink != nullptr && uplink->info ? "" : mirror_.prepare(overlay->settings);
    if (blocked != overlay->blocked) {
      if (!blocked.empty()) log_error(blocked);
      overlay->blocked = std::move(blocked);
      is_changed = true;
    }
    if (const std::string why = mirror_.ensure(overlay->settings); !why.empty()) note(why);
  }
  if (is_changed) configure_ports();
}

void Control::run_port_actions() {
  const Milliseconds now = EventLoop::now();
  for (const auto& action : ports_.actions(now)) {
    const std::string name(protocol::text_of(action.config.name));
    if (action.kind == PortAction::Kind::kDetach) {
      protocol::PortRef ref;
      protocol::set_text(ref.name, name);
      // Refused: it is gone already, which is what was wanted.
      (void)client_.request(MessageType::kPortDelete, ref, DataplaneClient::kPortTimeoutMs);
      continue;
    }
    const bool is_new = action.kind == PortAction::Kind::kAttach;
    if (is_new && action.config.role == protocol::PortRole::kGuest &&
        !installer_.overlays().contains(action.config.overlay))
      continue;  // its overlay is not installed yet
    const auto reply = client_.request(is_new ? MessageType::kPortAdd : MessageType::kPortSet, action.config,
                                       DataplaneClient::kPortTimeoutMs);
    const auto info = reply ? reply->record<protocol::PortInfo>() : std::nullopt;
    if (!info) {
      const ManagedPort* port = ports_.find(name);
      if (port == nullptr || port->text != client_.error()) log_warning(fmt::format("port {}: {}", name, client_.error()));
      ports_.refused(name, client_.error(), EventLoop::now());
      continue;
    }
    ports_.attached(name, *info);
    if (is_new) log_info(fmt::format("port {}: attached", name));
    is_mirror_due_ = is_mirror_due_ || is_new;
  }
  for (const PortIndex slot : ports_.take_vacated()) {
    if (ports_.index_of_slot(slot) != kNoIndex) continue;
    bool is_used = false;
    for (auto& overlay : overlays_) {
      overlay->learner.forget(Location::port(slot), false);
      if (ports_.at_slot(slot) != nullptr) continue;
      overlay->learner.for_each([&](std::uint64_t, const FdbEntry& entry) {
        is_used = is_used || entry.location == Location::port(slot);
      });
    }
    if (!is_used) ports_.release_slot(slot);
  }
  for (const PortIndex slot : ports_.take_filled()) {
    for (auto& overlay : overlays_) {
      overlay->learner.mark_dirty(Location::port(slot));
      if (overlay->fdb_export) overlay->fdb_export->changed_at(Location::port(slot));
    }
  }
  for (const auto& [name, port] : ports_.ports())
    for (auto& overlay : overlays_)
      if (home_of(*overlay) == port.wanted.config.overlay) overlay->learner.set_port_limit(port.slot, port.wanted.fdb_max_learned);
}

void Control::install_underlay() {
  if (underlay_settings_.device.empty()) return;
  protocol::UnderlayConfig config;
  protocol::set_text(config.port, underlay_settings_.device);
  // With driver=udp the kernel makes the frames, tag and MAC addresses included.
  const bool is_routed = underlay_settings_.driver == config::Driver::kUdp;
  config.vlan = is_routed ? std::uint16_t{0} : underlay_settings_.vlan;
  config.mtu = underlay_settings_.mtu;
  config.own_address = underlay_ ? 0 : 1;
  config.takeover = has_takeover() ? 1 : 0;
  config.hold_port = std::any_of(overlays_.begin(), overlays_.end(),
                                 [](const auto& overlay) { return overlay->settings.vxlan.hold_port; });
  // As the netdev has it now: whoever changes its MAC, we follow.
  const MacAddress own_mac = underlay_ ? MacAddress{} : ports_.mac_of(underlay_settings_.device);
  config.mac = underlay_ ? underlay_->source_mac() : own_mac;
  if (config.mac.is_zero() && !is_routed) config.mac = installer_.underlay().mac;
  const auto all = locals();
  if (all.size() > config.local.size()) note(fmt::format("more than {} local addresses", config.local.size()));
  config.local_count = static_cast<std::uint16_t>(std::min(all.size(), config.local.size()));
  std::copy_n(all.begin(), config.local_count, config.local.begin());
  if (!installer_.set_underlay(config)) note("underlay: " + installer_.complaint());
  if (!own_mac.is_zero()) resolver_.set_local(own_mac, all);
}

protocol::VtepConfig Control::wanted_vtep(const Overlay& overlay, const IpAddress& address,
                                          const RemoteVtep& vtep) const {
  protocol::VtepConfig config;
  config.overlay = overlay.index;
  config.index = vtep.index;
  config.address = address;
  config.flood = vtep.flood ? 1 : 0;
  const PathKnown* known = prober_.find(address);
  const protocol::VtepConfig* told = installer_.vtep(overlay.index, vtep.index);
  // Just started: what held before holds until it is known anew.
  const bool has_grace = told != nullptr && told->address == address && EventLoop::now() - started_at_ < kStartGrace;
  if (underlay_) {
    if (const auto path = underlay_->paths().find(address); path != underlay_->paths().end()) {
      config.resolved = path->second.is_resolved ? 1 : 0;
      config.next_hop = path->second.next_hop;
      // What was measured since the kernel learned a path MTU knows better: the kernel keeps that for ten minutes.
      const bool is_outdated = path->second.learned_at != 0 && known != nullptr && known->at > path->second.learned_at;
      if (path->second.mtu < underlay_settings_.mtu && !is_outdated) config.mtu = path->second.mtu;
    }
  } else if (const auto mac = resolver_.mac_of(address)) {
    config.resolved = 1;
    config.next_hop = *mac;
  }
  const bool is_asking = underlay_settings_.driver != config::Driver::kUdp;  // a route is there or not, at once
  if (config.resolved == 0 && is_asking && has_grace && told->resolved != 0) {
    config.resolved = 1;
    config.next_hop = told->next_hop;
  }
  if (config.resolved == 0) config.next_hop = {};
  // Guests are told the truth: what was measured to pass, where that is less.
  const std::uint16_t ceiling = config.mtu != 0 ? config.mtu : underlay_settings_.mtu;
  std::uint16_t measured = known != nullptr && known->is_smaller ? known->passes : 0;
  if (known == nullptr && has_grace) measured = told->mtu;
  if (measured != 0 && measured < ceiling) config.mtu = measured;
  return config;
}

void Control::install_vteps() {
  for (auto& overlay : overlays_) {
    if (!installer_.overlays().contains(overlay->index)) continue;
    std::vector<protocol::VtepConfig> wanted;
    for (const auto& [address, vtep] : overlay->vteps.all()) wanted.push_back(wanted_vtep(*overlay, address, vtep));
    if (!installer_.set_vteps(overlay->index, wanted)) note(fmt::format("{}: {}", overlay->name(), installer_.complaint()));
  }
}

const protocol::VtepConfig* Control::told_vtep(const Overlay& overlay, const RemoteVtep& vtep) const {
  return client_.is_connected() ? installer_.vtep(overlay.index, vtep.index) : nullptr;
}

void Control::install_fdb() {
  for (auto& overlay : overlays_)
    if (installer_.overlays().contains(overlay->index)) install_fdb(*overlay);
}

void Control::install_fdb(Overlay& overlay) {
  const Milliseconds now = EventLoop::now();
  if (!overlay.full_keys.empty() && now >= overlay.full_retry_due) {
    for (const auto key : std::exchange(overlay.full_keys, {})) overlay.learner.mark_dirty_key(key);
  }
  std::vector<protocol::FdbRecord> puts;
  std::vector<protocol::FdbDelete> deletes;
  while (overlay.learner.has_changes() && client_.is_connected()) {
    puts.clear();
    deletes.clear();
    for (const auto& change : overlay.learner.take_changes(kChangesAtOnce)) {
      const bool is_blackhole = change.entry && (change.entry->flags & FdbValue::kBlackhole) != 0;
      const Location place = change.entry && !is_blackhole ? to_dataplane(change.entry->location) : Location();
      if (is_blackhole || place != Location()) {
        protocol::FdbRecord record;
        record.key = change.key;
        record.overlay = overlay.index;
        record.location = place.raw();
        record.flags = static_cast<std::uint8_t>(change.entry->flags | FdbValue::kValid);
        puts.push_back(record);
      } else {
        // Gone, or its port is not there: what the dataplane may have of it is wrong.
        protocol::FdbDelete record;
        record.key = change.key;
        record.overlay = overlay.index;
        deletes.push_back(record);
      }
    }
    if (!deletes.empty() && !installer_.remove(deletes)) return note("FDB: " + installer_.complaint());
    const auto result = installer_.put(puts);
    if (!result.is_sent) return note("FDB: " + installer_.complaint());
    if (result.full > 0) {
      // Stale entries still fill it; the dataplane sweeps them out.
      for (const auto& record : puts) overlay.full_keys.push_back(record.key);
      overlay.full_retry_due = now + kFullRetry;
    }
  }
}

}  // namespace vx::control
