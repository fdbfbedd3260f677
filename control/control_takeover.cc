// SPDX-License-Identifier: Apache-2.0
// Takeover: the kernel's bridge followed, its FDB mirrored, and who forwards now: vxplane, or the kernel because
// vxplane could not yet, or was told not to.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "control/control.h"
#include "control/log.h"
#include "control/text.h"

namespace vx::control {

namespace {
constexpr std::size_t kWritesAtOnce = 1000;  // of FDB rows, every 20 ms: some milliseconds' work
constexpr Milliseconds kResolveTime = 2000;  // after a start the VTEPs' next hops are waited for this long
}  // namespace

bool Control::has_takeover() const {
  return std::any_of(files_.begin(), files_.end(), [](const auto& file) { return file.mode == config::Mode::kTakeover; });
}

// What the files and the kernel say together. Problems are logged when they are new.
std::vector<config::Settings> Control::read_kernel() {
  const std::vector<Takeover> before = std::move(takeovers_);
  takeovers_.clear();
  std::vector<config::Settings> settings;
  for (const auto& file : files_) {
    if (file.mode != config::Mode::kTakeover) {
      settings.push_back(file);
      continue;
    }
    for (auto& takeover : read_takeover(file, follower_.snapshot(), kernel_)) {
      if (takeover.settings && !settings.empty() &&
          (settings[0].underlay.device != takeover.settings->underlay.device || settings[0].underlay.vlan != takeover.settings->underlay.vlan)) {
        takeover.problems.push_back(fmt::format("takeover: {} has another underlay than {}: another instance (--run-dir) is needed",
                                                file.bridge.takeover, settings[0].source));
        takeover.settings.reset();
      }
      for (const auto& problem : takeover.problems) {
        const bool is_known = std::any_of(before.begin(), before.end(), [&](const Takeover& one) {
          return std::find(one.problems.begin(), one.problems.end(), problem) != one.problems.end();
        });
        if (!is_known) log_warning(problem);
      }
      if (takeover.settings) settings.push_back(*takeover.settings);
      takeovers_.push_back(std::move(takeover));
    }
  }
  return settings;
}

OverlayIndex Control::home_of(const Overlay& overlay) const {
  for (const auto& one : overlays_)
    if (one->name() == overlay.home_name()) return one->index;
  return overlay.index;
}

Overlay& Control::tunnel_of(Overlay& overlay, std::uint16_t vid) {
  for (const auto& one : overlays_)
    if (one->home_name() == overlay.home_name() && one->has_vid(vid)) return *one;
  return overlay;
}

void Control::follow_kernel(Milliseconds now) {
  auto settings = read_kernel();
  if (settings != effective_) {
    // What vxplane can forward no longer the kernel has back before anything is taken down.
    if (!why_bypassed().empty()) update_fail_open();
    adopt_settings(std::move(settings));
    if (underlay_) underlay_->resync(now);
    watch_vteps(now);
    derive_locals();
    configure_ports();
  }
  mirror_fdbs();
  sync();
}

void Control::mirror_fdbs() {
  for (const auto& takeover : takeovers_) {
    for (auto& overlay : overlays_) {
      if (!takeover.settings || overlay->name() != takeover.settings->vxlan.name) continue;
      const bool is_anew = overlay->kernel_bridge != takeover.bridge || overlay->kernel_vxlan != takeover.vxlan;
      overlay->kernel_bridge = takeover.bridge;
      overlay->kernel_vxlan = takeover.vxlan;
      overlay->fdb_export->set({takeover.fdb_ageing_s, overlay->settings.bridge.vlan_filtering});
      if (is_anew) overlay->fdb_export->changed_all();
      mirror_fdb(*overlay, takeover.fdb);
    }
  }
}

// Entries that somebody set in the kernel's FDB: present here as there.
void Control::mirror_fdb(Overlay& overlay, const KernelFdb& wanted) {
  for (const auto& [key, place] : overlay.kernel_fdb) {
    if (wanted.contains(key)) continue;
    if (place.is_external) (void)overlay.learner.remove_external(key);
    else (void)overlay.learner.remove_kernel(key);
  }
  for (const auto& [key, place] : wanted) {
    const auto known = overlay.kernel_fdb.find(key);
    const bool is_known = known != overlay.kernel_fdb.end();
    // The kernel's are said again: a VTEP or port that came anew has lost them. External ones may have moved on, unless
    // they are gone: with a VTEP that is not flooded to any more.
    if (is_known && known->second == place && place.is_external && overlay.learner.find(key) != nullptr) continue;
    Location location;
    if (place.dst) {
      const RemoteVtep* vtep = overlay.vteps.find(*place.dst);
      if (vtep == nullptr) {
        // One to which nothing is flooded: a routing daemon knows MACs behind it.
        if (!overlay.vteps.add(*place.dst, VtepOrigin::kLearned, false)) continue;
        vtep = overlay.vteps.find(*place.dst);
        watch_vteps(EventLoop::now());
      }
      location = Location::vtep(vtep->index);
    } else if (const PortIndex slot = ports_.slot_of(place.port); slot != kNoIndex) {
      location = Location::port(slot);
    }
    if (location == Location()) continue;
    if (is_known && known->second.is_external != place.is_external) {
      if (place.is_external) (void)overlay.learner.remove_kernel(key);
      else (void)overlay.learner.remove_external(key);
    }
    FdbEntry entry;
    entry.location = location;
    const AddResult result = place.is_external ? overlay.learner.set_external(key, location) : overlay.learner.set_kernel(key, entry);
    if (result == AddResult::kFull && !is_known)
      log_warning(fmt::format("{}: {} vlan {} is an entry of the kernel's, for which there is no room", overlay.name(),
                              format_mac(fdb_key_mac(key)), fdb_key_vid(key)));
    if (result == AddResult::kRefusedExists && !is_known)
      log_warning(fmt::format("{}: {} vlan {} is an entry of the kernel's, but vxctl added another, which stays", overlay.name(),
                              format_mac(fdb_key_mac(key)), fdb_key_vid(key)));
  }
  overlay.kernel_fdb = wanted;
}

void Control::start_export(Overlay& overlay) {
  overlay.fdb_export = std::make_unique<FdbExport>(overlay.learner, [this, &overlay](Location location) -> std::optional<FdbExport::Place> {
    if (location.is_vtep()) {
      const auto address = overlay.vteps.address_of(location.index());
      if (!address || overlay.kernel_vxlan == 0) return std::nullopt;
      return FdbExport::Place{overlay.kernel_vxlan, *address};
    }
    const Link* link = ports_.link_of(ports_.name_of_slot(location.index()));
    if (link == nullptr || link->master != overlay.kernel_bridge) return std::nullopt;
    return FdbExport::Place{link->ifindex, std::nullopt};
  });
  overlay.fdb_export->pause();
  overlay.learner.set_on_changed([one = overlay.fdb_export.get()](std::uint64_t key) { one->changed(key); });
}

// The same tunnel in another mode from now on: nothing of the kernel's FDB is ours to follow or to write.
void Control::stop_takeover(Overlay& overlay) {
  overlay.learner.set_on_changed({});
  overlay.fdb_export.reset();
  for (const auto& [key, place] : overlay.kernel_fdb) {
    if (place.is_external) (void)overlay.learner.remove_external(key);
    else (void)overlay.learner.remove_kernel(key);
  }
  overlay.kernel_fdb.clear();
  overlay.kernel_bridge = overlay.kernel_vxlan = 0;
}

// The kernel forwards from now on, whatever is taken down next.
void Control::give_back() {
  if (!client_.is_connected() || !told_fail_open_ || told_fail_open_->bypass != 0) return;
  auto given_back = *told_fail_open_;
  given_back.bypass = 1;
  if (client_.request(protocol::MessageType::kFailOpenSet, given_back)) told_fail_open_ = given_back;
}

bool Control::does_kernel_forward() const { return !client_.is_connected() || !told_fail_open_ || told_fail_open_->bypass != 0; }

void Control::run_exports(Milliseconds now) {
  const bool is_paused = does_kernel_forward();
  for (auto& overlay : overlays_) {
    if (!overlay->fdb_export) continue;
    if (is_paused != overlay->fdb_export->is_paused()) is_paused ? overlay->fdb_export->pause() : overlay->fdb_export->resume();
    const auto writes = overlay->fdb_export->take_writes(now, kWritesAtOnce);
    if (writes.empty()) continue;
    const int error = kernel_.write_bridge_fdb(writes, [&](std::size_t i, int) { overlay->fdb_export->failed(writes[i], now); });
    if (error != 0) log_warning(fmt::format("{}: the kernel's FDB: {}", overlay->name(), std::strerror(error)));
  }
}

// What the kernel has learned while it forwarded is known when vxplane goes on: nothing is flooded at a switch-over.
void Control::import_learned() {
  for (const auto& takeover : takeovers_) {
    const auto at = std::find_if(overlays_.begin(), overlays_.end(), [&](const auto& overlay) {
      return takeover.settings && overlay->name() == takeover.settings->vxlan.name;
    });
    if (at == overlays_.end()) continue;
    Overlay& overlay = **at;
    overlay.learner.tick(EventLoop::now());
    std::vector<BridgeFdbEntry> entries;
    (void)kernel_.bridge_fdb(takeover.bridge, [&](const BridgeFdbEntry& entry) { entries.push_back(entry); });
    std::unordered_map<std::uint64_t, IpAddress> behind;  // the tunnel, by MAC
    for (const auto& entry : entries)
      if (entry.ifindex == takeover.vxlan && entry.dst && !entry.mac.is_zero()) behind.emplace(entry.mac.to_u48(), *entry.dst);
    for (const auto& entry : entries) {
      if (entry.master != takeover.bridge || entry.dst || !is_dynamic(entry)) continue;
      if (overlay.settings.bridge.vlan_filtering == (entry.vid == 0) || !overlay.has_vid(entry.vid)) continue;
      const std::uint64_t key = fdb_key(overlay.settings.bridge.vlan_filtering ? entry.vid : kOnlyVid, entry.mac);
      Location location;
      if (entry.ifindex == takeover.vxlan) {
        const auto remote = behind.find(entry.mac.to_u48());
        const RemoteVtep* vtep = remote == behind.end() ? nullptr : overlay.vteps.find(remote->second);
        if (vtep != nullptr && overlay.settings.vxlan.learning) location = Location::vtep(vtep->index);
      } else if (const auto name = link_names_.find(entry.ifindex); name != link_names_.end()) {
        const ManagedPort* port = ports_.find(name->second);
        if (port != nullptr && port->wanted.config.learning != 0) location = Location::port(port->slot);
      }
      if (location != Location()) (void)overlay.learner.learn(key, location);
    }
  }
}

// Unplugged since the kernel was looked at last: the settings follow within a tick, the others' frames are no affair of it.
bool Control::has_left(const Overlay& overlay, const config::PortSettings& port) const {
  if (port.driver != config::Driver::kNetdev) return false;
  const Link* link = ports_.link_of(port.name);
  if (link == nullptr || (overlay.kernel_bridge != 0 && link->master != overlay.kernel_bridge)) return true;
  const ManagedPort* managed = ports_.find(port.name);
  return managed != nullptr && managed->status == PortStatus::kLost && EventLoop::now() < managed->next_try;
}

std::string Control::why_bypassed() const {
  if (is_bypassed_) return "vxctl bypass on";
  for (std::size_t i = 0; i < takeovers_.size(); ++i)
    if (!takeovers_[i].settings) return takeovers_[i].problems.empty() ? "the bridge is not read yet" : takeovers_[i].problems.front();
  const auto lacks = [&](const std::string& name) {
    const ManagedPort* port = ports_.find(name);
    return port == nullptr || !port->info ? fmt::format("port {}: {}", name, port == nullptr ? "is not there" : port->text) : std::string();
  };
  if (const auto why = lacks(underlay_settings_.device); !why.empty()) return why;
  for (const auto& overlay : overlays_) {
    if (!overlay->is_takeover()) continue;
    if (!overlay->local) return fmt::format("{}: no local address yet", overlay->name());
    if (!installer_.overlays().contains(overlay->index)) return fmt::format("{}: {}", overlay->name(), installer_.complaint());
    for (const auto& port : overlay->settings.ports) {
      if (!port.is_kernels || has_left(*overlay, port)) continue;
      if (const auto why = lacks(port.name); !why.empty()) return why;
    }
    if (!does_kernel_forward() || EventLoop::now() - connected_at_ >= kResolveTime) continue;
    for (const auto& [address, vtep] : overlay->vteps.all()) {
      const auto* told = installer_.vtep(overlay->index, vtep.index);
      if (vtep.flood && (told == nullptr || told->resolved == 0)) return fmt::format("VTEP {} is not resolved yet", format_ip(address));
    }
  }
  return {};
}

// The last step of sync(): everything is installed, or it is known what is not.
void Control::update_fail_open() {
  if (!client_.is_connected()) return;
  protocol::FailOpenConfig wanted;
  wanted.stale_after_ms = dataplane_settings_.stale_after_ms;
  std::string why = has_takeover() ? why_bypassed() : "";
  wanted.bypass = why.empty() ? 0 : 1;
  const bool is_told = told_fail_open_ && told_fail_open_->bypass == wanted.bypass && told_fail_open_->stale_after_ms == wanted.stale_after_ms;
  if (has_takeover() && (why != bypass_reason_ || !is_told))
    log_info(why.empty() ? "takeover: vxplane forwards" : "takeover: the kernel forwards: " + why);
  bypass_reason_ = std::move(why);
  if (is_told) return;
  if (has_takeover() && wanted.bypass == 0) {
    import_learned();
    install_fdb();
  }
  if (client_.request(protocol::MessageType::kFailOpenSet, wanted)) told_fail_open_ = wanted;
  else note("bypass: " + client_.error());
}

void Control::set_bypass(bool is_on) {
  is_bypassed_ = is_on;
  on_operator_change();
}

}  // namespace vx::control
