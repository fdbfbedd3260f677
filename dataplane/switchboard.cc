// SPDX-License-Identifier: Apache-2.0
#include "dataplane/switchboard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>

#include "dataplane/log.h"
#include "dataplane/request_error.h"

namespace vx {
namespace {

constexpr std::chrono::milliseconds kQuiescenceTimeout{250};
constexpr std::size_t kIndicesAtRest =
    16;  // freed indices that wait before the oldest is used again

std::shared_ptr<const VlanTable> normal_vlans(VlanTable vlans) {
  if (vlans.pvid != kNoPvid)
    vlans.members.insert(vlans.pvid);  // as in the kernel the PVID is a member
  for (std::size_t i = 0; i < vlans.members.words.size(); ++i)
    vlans.untagged.words[i] &= vlans.members.words[i];
  return std::make_shared<const VlanTable>(vlans);
}

bool is_same(const std::optional<XdpSteering::Target>& a,
             const std::optional<XdpSteering::Target>& b) {
  if (!a || !b) return a.has_value() == b.has_value();
  return a->own_address == b->own_address && a->vlan == b->vlan && a->locals == b->locals &&
         a->udp_ports == b->udp_ports && a->vnis == b->vnis;
}

}  // namespace

protocol::PortInfo info_of(const PortEntry& entry, protocol::PortState state) noexcept {
  protocol::PortInfo info;
  info.config = entry.config;
  info.index = entry.index;
  info.state = state;
  info.ifindex = entry.made.ifindex;
  info.rx_queues = entry.made.port->rx_queues();
  info.tx_queues = entry.made.port->tx_queues();
  info.mac = entry.made.mac;
  return info;
}

Switchboard::Switchboard(std::vector<Worker*> workers, BackEnds back_ends)
    : workers_(std::move(workers)),
      back_ends_(std::move(back_ends)),
      held_(back_ends_.make_held_socket) {
  model_.workers = static_cast<unsigned>(workers_.size());
  publish();
}

// ---- publishing ----

void Switchboard::publish() {
  auto next = std::make_unique<Published>();
  next->state = build_state(model_, ++version_);
  next->held = held_.ports();
  next->assignments = build_assignments(model_, next->held);
  next->ports = model_.ports;
  for (std::size_t i = 0; i < workers_.size(); ++i)
    workers_[i]->publish(next->state.get(), next->assignments[i].get());
  if (current_) former_.push_back(std::move(current_));
  current_ = std::move(next);
}

void Switchboard::collect() {
  if (former_.empty() && retiring_.empty()) return;
  for (Worker* worker : workers_) {
    if (worker->wait_quiescent(kQuiescenceTimeout)) continue;
    if (!is_worker_late_)
      log_warning("worker on CPU {} does not answer: former state is kept until it does",
                  worker->config().lcore);
    is_worker_late_ = true;
    return;
  }
  is_worker_late_ = false;
  for (const auto& entry : retiring_) {
    stats_.retire(workers_, *entry);
    free_indices_.push_back(entry->index);
  }
  former_.clear();  // here ports are destroyed...
  retiring_.clear();
}

void Switchboard::change() {
  held_.drop_unwanted(model_);
  publish();
  collect();
  if (held_.open_wanted(model_, now_ms_)) {
    publish();
    collect();
  }
  tell_fail_open();  // after the workers know what to do with what is taken,
  steer();           // and before it is
}

void Switchboard::steer() {
  const auto target = steering_target(model_);
  for (const auto& entry : model_.ports) {
    if (!entry || !entry->is_underlay() || !entry->made.steering) continue;
    const bool is_ours = entry.get() == model_.underlay_port();
    const auto wanted = is_ours ? target : std::nullopt;
    if (entry->steered && is_same(*entry->steered, wanted)) continue;
    entry->steered.reset();  // unknown, should the next line throw
    if (wanted)
      entry->made.steering->steer(*wanted);
    else
      entry->made.steering->off();
    entry->steered = wanted;
  }
}

// ---- ports ----

PortIndex Switchboard::allocate_index() {
  const bool may_grow = model_.ports.size() < kMaxPorts;
  if (free_indices_.size() > kIndicesAtRest || (!may_grow && !free_indices_.empty())) {
    const PortIndex index = free_indices_.front();
    free_indices_.pop_front();
    return index;
  }
  if (!may_grow) throw RequestError(ENOSPC, fmt::format("all {} ports are in use", kMaxPorts));
  model_.ports.emplace_back();
  return static_cast<PortIndex>(model_.ports.size() - 1);
}

protocol::PortInfo Switchboard::add_port(const protocol::PortConfig& config) {
  check_port(config);
  if (model_.find_port(protocol::text_of(config.name)) != nullptr)
    throw RequestError(EEXIST,
                       fmt::format("port {} exists already", protocol::text_of(config.name)));
  auto entry = std::make_shared<PortEntry>();
  entry->config = config;
  entry->made = back_ends_.make_port(config);
  entry->vlans = normal_vlans(config.vlans);
  entry->storm = std::make_shared<SharedTokenBucket>();
  entry->too_big = std::make_shared<SharedTokenBucket>();
  entry->index = allocate_index();
  assign_queues(model_, *entry);
  model_.ports[entry->index] = entry;
  change();
  return info_of(*entry, protocol::PortState::kUp);
}

void Switchboard::remove_port(PortEntry& entry) {
  if (entry.made.steering) {
    try {
      entry.made.steering->off();
    } catch (const std::exception& error) {
      log_warning("port {}: {}", protocol::text_of(entry.config.name),
                  error.what());  // its netdev may be gone
    }
  }
  const PortIndex index = entry.index;
  retiring_.push_back(std::move(model_.ports[index]));
  for (const auto& overlay : model_.overlays)
    if (overlay && home_of(overlay->config) == entry.config.overlay) overlay->fdb->forget(Location::port(index));
}

void Switchboard::delete_port(std::string_view name) {
  PortEntry* entry = model_.find_port(name);
  if (entry == nullptr) throw RequestError(ENOENT, fmt::format("no port {}", name));
  give_back({&model_.ports[entry->index], 1});
  remove_port(*entry);
  change();
}

protocol::PortInfo Switchboard::set_port(const protocol::PortConfig& config) {
  check_port(config);
  PortEntry* entry = model_.find_port(protocol::text_of(config.name));
  if (entry == nullptr)
    throw RequestError(ENOENT, fmt::format("no port {}", protocol::text_of(config.name)));
  protocol::PortConfig& old = entry->config;
  if (config.role != old.role || config.driver != old.driver || config.overlay != old.overlay ||
      config.devargs != old.devargs || config.queues != old.queues ||
      config.attach_xdp_take_all != old.attach_xdp_take_all || config.takeover != old.takeover ||
      (config.deliver_ifindex == 0) != (old.deliver_ifindex == 0))
    throw RequestError(
        EINVAL,
        fmt::format(
            "port {}: overlay, role, driver, queues and takeover cannot change in place: delete and "
            "add it",
            protocol::text_of(config.name)));
  if (config.mtu != old.mtu && config.mtu != 0 && config.takeover == 0 && back_ends_.set_mtu)
    back_ends_.set_mtu(std::string(protocol::text_of(config.name)), config.mtu);
  if (config.deliver_ifindex != old.deliver_ifindex && entry->made.deliver)
    entry->made.deliver->deliver_to(config.deliver_ifindex);
  old = config;
  entry->vlans = normal_vlans(config.vlans);
  const auto info = info_of(*entry, protocol::PortState::kUp);
  change();
  return info;
}

std::vector<protocol::PortInfo> Switchboard::ports() const {
  std::vector<protocol::PortInfo> infos;
  for (const auto& entry : model_.ports)
    if (entry) infos.push_back(info_of(*entry, protocol::PortState::kUp));
  return infos;
}

std::vector<protocol::PortInfo> Switchboard::remove_dead_ports() {
  std::vector<protocol::PortInfo> lost;
  for (const auto& slot : model_.ports) {
    if (!slot || slot->made.port->is_alive()) continue;
    lost.push_back(info_of(*slot, protocol::PortState::kLost));
    const auto keep = slot;
    remove_port(*keep);
  }
  if (!lost.empty()) change();
  return lost;
}

// ---- underlay, overlays, VTEPs ----

void Switchboard::set_underlay(const protocol::UnderlayConfig& config) {
  check_underlay(config);
  model_.underlay = config;
  change();
  check_receives();
}

void Switchboard::check_receives() const {
  if (const std::string why = held_.missing(model_); !why.empty())
    throw RequestError(EADDRINUSE, why);
}

void Switchboard::set_overlay(const protocol::OverlayConfig& config) {
  check_overlay(config);
  OverlayEntry* entry = model_.find_overlay(config.index);
  std::unique_ptr<OverlayFdb> fdb;
  if (entry == nullptr || entry->config.fdb_capacity != config.fdb_capacity)
    fdb = std::make_unique<OverlayFdb>(config.fdb_capacity);
  if (entry == nullptr) {
    if (config.index >= model_.overlays.size())
      model_.overlays.resize(config.index + std::size_t{1});
    model_.overlays[config.index] = std::make_unique<OverlayEntry>();
    entry = model_.overlays[config.index].get();
  }
  entry->config = config;
  entry->tunnel_vlans = normal_vlans(config.tunnel_vlans);
  if (fdb)
    entry->fdb = std::move(fdb);  // the published state keeps the former table until quiescence
  change();
  check_receives();
}

void Switchboard::delete_overlay(OverlayIndex index) {
  (void)overlay_or_throw(index);
  for (const auto& port : model_.ports)
    if (port && !port->is_underlay() && port->config.overlay == index)
      throw RequestError(EBUSY, fmt::format("overlay {} still has port {}: delete it first", index,
                                            protocol::text_of(port->config.name)));
  model_.overlays[index].reset();
  change();
}

std::vector<protocol::OverlayConfig> Switchboard::overlays() const {
  std::vector<protocol::OverlayConfig> configs;
  for (const auto& overlay : model_.overlays)
    if (overlay) configs.push_back(overlay->config);
  return configs;
}

void Switchboard::set_vteps(std::span<const protocol::VtepConfig> configs) {
  for (const auto& config : configs) check_vtep(config, overlay_or_throw(config.overlay));
  for (const auto& config : configs) {
    OverlayEntry& overlay = overlay_or_throw(config.overlay);
    if (config.index >= overlay.vteps.size()) overlay.vteps.resize(config.index + std::size_t{1});
    auto& slot = overlay.vteps[config.index];
    if (slot && slot->address != config.address) overlay.fdb->forget(Location::vtep(config.index));
    slot = config;
  }
  if (!configs.empty()) change();
}

void Switchboard::delete_vtep(OverlayIndex index, VtepIndex vtep) {
  OverlayEntry& overlay = overlay_or_throw(index);
  if (vtep >= overlay.vteps.size() || !overlay.vteps[vtep])
    throw RequestError(ENOENT, fmt::format("overlay {} has no VTEP {}", index, vtep));
  overlay.vteps[vtep].reset();
  overlay.fdb->forget(Location::vtep(vtep));
  while (!overlay.vteps.empty() && !overlay.vteps.back()) overlay.vteps.pop_back();
  change();
}

std::vector<protocol::VtepConfig> Switchboard::vteps(OverlayIndex index) const {
  std::vector<protocol::VtepConfig> configs;
  for (const auto& vtep : overlay_or_throw(index).vteps)
    if (vtep) configs.push_back(*vtep);
  return configs;
}

// ---- the rest ----

SwitchStats Switchboard::stats() {
  SwitchStats stats = stats_.collect(workers_, model_.ports);
  for (auto& port : stats.ports)
    if (protocol::text_of(port.name) == protocol::text_of(model_.underlay.port))
      port.rx_missed += held_.missed();
  return stats;
}

void Switchboard::inject(std::string_view name, std::span<const std::uint8_t> frame) {
  const PortEntry* port = model_.find_port(name);
  if (port == nullptr) throw RequestError(ENOENT, fmt::format("no port {}", name));
  if (frame.size() < sizeof(EthernetHeader))
    throw RequestError(EINVAL, "inject: no whole Ethernet header");
  if (!workers_[0]->inject(port->index, frame))
    throw RequestError(ENOBUFS, "inject: the worker is behind, try again");
}

std::string_view Switchboard::port_name(PortIndex index) const noexcept {
  if (index >= model_.ports.size() || !model_.ports[index]) return {};
  return protocol::text_of(model_.ports[index]->config.name);
}

void Switchboard::tick(std::uint16_t now_s, std::int64_t now_ms) {
  now_ms_ = now_ms;
  for (const auto& overlay : model_.overlays)
    if (overlay) overlay->fdb->sweep_slice(now_s);
  collect();
  if (held_.open_wanted(model_, now_ms)) {
    publish();
    collect();
  }
}

void Switchboard::shut_down() noexcept {
  give_back(model_.ports);
  try {
    for (const auto& entry : std::vector(model_.ports))
      if (entry) remove_port(*entry);
    model_.underlay = {};
    held_.drop_unwanted(model_);
    publish();
    collect();
  } catch (const std::exception& error) {
    log_error("stop: {}", error.what());
  }
}

OverlayEntry& Switchboard::overlay_or_throw(OverlayIndex index) const {
  OverlayEntry* overlay = model_.find_overlay(index);
  if (overlay == nullptr) throw RequestError(ENOENT, fmt::format("no overlay {}", index));
  return *overlay;
}

}  // namespace vx
