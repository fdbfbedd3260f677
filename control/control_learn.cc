// SPDX-License-Identifier: Apache-2.0
// What the dataplane tells: learn events, punted ARP and ND, vanished ports. And the questions asked of it in
// time: what has been idle for bridge-ageing.
#include <algorithm>

#include "control/control.h"
#include "control/log.h"
#include "control/text.h"

namespace vx::control {

using protocol::LearnEvent;
using protocol::LearnKind;
using protocol::MessageType;

namespace {
constexpr unsigned kEventMessagesAtOnce = 512;
constexpr Milliseconds kAgeingEvery = 1000;
constexpr unsigned kIdleMessagesAtOnce = 4;  // per slice of kHousekeepingEvery
constexpr std::uint32_t kLongestIdle = 32767;  // the dataplane's clock is modulo 65536
}  // namespace

Overlay* Control::overlay_at(OverlayIndex index) {
  for (auto& overlay : overlays_)
    if (overlay->index == index && index != kNoIndex) return overlay.get();
  return nullptr;
}

void Control::on_dataplane_events() {
  bool needs_sync = false;
  for (unsigned i = 0; i < kEventMessagesAtOnce; ++i) {
    const auto message = client_.next_event();
    if (!message) break;
    const auto header = protocol::read_header(*message);
    if (!header) continue;
    switch (header->type) {
      case MessageType::kLearnEvents: on_learn_events(*message); break;
      case MessageType::kPunt:
        on_punt(*message);
        needs_sync = needs_sync || resolver_.take_changed();
        break;
      case MessageType::kPortEvents:
        on_port_events(*message);
        needs_sync = true;
        break;
      default: break;
    }
  }
  if (!client_.is_connected()) return;
  if (needs_sync) return sync();
  install_fdb();
}

void Control::on_learn_events(std::span<const std::byte> message) {
  const auto header = protocol::read_header(message);
  for (std::size_t i = 0; i < header->count; ++i) {
    const auto event = protocol::read_record<LearnEvent>(message, 0, i);
    if (!event) return;
    learn(*event);
  }
}

void Control::learn(const LearnEvent& event) {
  Overlay* overlay = overlay_at(event.overlay);
  if (overlay == nullptr) return;
  Location location = from_dataplane(event.location);
  const bool names_vtep = event.kind == LearnKind::kVtep || (location == Location() && !event.address.is_unspecified());
  if (names_vtep) {
    const auto mode = overlay->settings.vxlan.vtep_learning;
    const RemoteVtep* known = overlay->vteps.find(event.address);
    if (known == nullptr && mode == config::VtepLearning::kNo) return;
    if (overlay->local && event.address.is_v4() != overlay->local->is_v4()) return;
    if (known == nullptr) {
      const auto index = overlay->vteps.add(event.address, VtepOrigin::kLearned, mode == config::VtepLearning::kFlood);
      if (!index) return;
      log_info(fmt::format("{}: VTEP {} learned", overlay->name(), format_ip(event.address)));
      vtep_useful_at_[{overlay->index, event.address}] = EventLoop::now();
      is_state_dirty_ = true;
      watch_vteps(EventLoop::now());
      install_vteps();  // before its MACs
      known = overlay->vteps.find(event.address);
    }
    location = Location::vtep(known->index);
  }
  if (event.kind == LearnKind::kVtep) return;
  if (event.kind == LearnKind::kViolation) return overlay->learner.violation(event.key, location);
  if (location.is_vtep() && !overlay->settings.vxlan.learning) return;
  overlay->learner.tick(EventLoop::now());
  (void)overlay->learner.learn(event.key, location);
}

void Control::on_punt(std::span<const std::byte> message) {
  const auto punt = protocol::read_record<protocol::PuntFrame>(message, 0);
  if (!punt || punt->length > punt->bytes.size()) return;
  const std::span<const std::uint8_t> frame(punt->bytes.data(), punt->length);
  const Milliseconds now = EventLoop::now();
  if (const auto id = probe_answer(frame)) prober_.answered(*id, now);
  else resolver_.on_frame(frame, now);
}

void Control::on_port_events(std::span<const std::byte> message) {
  for (std::size_t i = 0;; ++i) {
    const auto info = protocol::read_record<protocol::PortInfo>(message, 0, i);
    if (!info) return;
    if (info->state != protocol::PortState::kLost) continue;
    const std::string name(protocol::text_of(info->config.name));
    log_warning(fmt::format("port {}: its netdev vanished", name));
    ports_.lost(name, info->index, EventLoop::now());
  }
}

void Control::inject_frames(Milliseconds now) {
  if (underlay_ || !client_.is_connected()) return;
  const ManagedPort* port = ports_.find(underlay_settings_.device);
  if (port == nullptr || !port->info) return;
  for (const auto& frame : resolver_.tick(now)) inject(frame);
}

void Control::inject(const Frame& frame) {
  protocol::InjectFrame inject;
  if (frame.size() > inject.bytes.size()) return;
  protocol::set_text(inject.port, underlay_settings_.device);
  inject.length = static_cast<std::uint32_t>(frame.size());
  std::copy(frame.begin(), frame.end(), inject.bytes.begin());
  (void)client_.request(MessageType::kInject, inject);
}

// ---- ageing ----

void Control::age(Milliseconds now) {
  for (auto& overlay : overlays_)
    if (client_.is_connected() && installer_.overlays().contains(overlay->index)) age(*overlay, now);
}

void Control::age(Overlay& overlay, Milliseconds now) {
  overlay.learner.tick(now);  // what was held long enough
  if (overlay.learner.has_changes()) install_fdb(overlay);
  const std::uint32_t ageing_s = overlay.learner.limits().ageing_s;
  if (ageing_s == 0 || (!overlay.is_ageing && now < overlay.ageing_due)) return;
  overlay.is_ageing = true;
  std::vector<protocol::FdbDelete> questions;
  const auto idle_s = static_cast<std::uint16_t>(std::min(ageing_s, kLongestIdle));
  const auto collect = [&](std::span<const protocol::FdbRecord> records) {
    for (const auto key : overlay.learner.choose_expired(records, idle_s)) {
      protocol::FdbDelete question;
      question.key = key;
      question.overlay = overlay.index;
      question.only_if_idle = 1;
      question.idle_s = idle_s;
      questions.push_back(question);
    }
  };
  if (!installer_.dump(overlay.index, idle_s, overlay.idle_cursor, kIdleMessagesAtOnce, collect)) {
    overlay.is_ageing = false;
    overlay.idle_cursor = 0;
    overlay.ageing_due = now + kAgeingEvery;
    return;
  }
  std::vector<std::uint8_t> results;
  if (!questions.empty() && installer_.remove(questions, &results)) {
    for (std::size_t i = 0; i < results.size() && i < questions.size(); ++i) {
      if (results[i] == static_cast<std::uint8_t>(FdbResult::kRefreshed)) continue;
      const FdbEntry* entry = overlay.learner.find(questions[i].key);
      is_state_dirty_ = is_state_dirty_ || (entry != nullptr && !entry->is_learned());  // a sticky one
      overlay.learner.expire(questions[i].key);
    }
  }
  if (overlay.idle_cursor == 0) {
    overlay.is_ageing = false;
    overlay.ageing_due = now + kAgeingEvery;
  }
}

// A learned VTEP without MACs for as long as a MAC may be idle is forgotten like one.
void Control::forget_idle_vteps(Milliseconds now) {
  if (vtep_useful_at_.empty() && !client_.is_connected()) return;
  for (auto& overlay : overlays_) {
    std::vector<IpAddress> idle;
    for (const auto& [address, vtep] : overlay->vteps.all()) {
      if (vtep.origin != VtepOrigin::kLearned) continue;
      auto& useful_at = vtep_useful_at_.try_emplace({overlay->index, address}, now).first->second;
      if (overlay->learner.learned_at(Location::vtep(vtep.index)) > 0) useful_at = now;
      const Milliseconds patience = std::max<Milliseconds>(overlay->learner.limits().ageing_s, 30) * 1000;
      if (now - useful_at >= patience) idle.push_back(address);
    }
    for (const auto& address : idle) {
      bool is_named = false;  // by an entry of the operator
      const Location place = Location::vtep(overlay->vteps.find(address)->index);
      overlay->learner.for_each([&](std::uint64_t, const FdbEntry& entry) { is_named = is_named || entry.location == place; });
      vtep_useful_at_.erase({overlay->index, address});
      if (is_named) continue;
      overlay->vteps.remove(address);
      is_state_dirty_ = true;
    }
  }
}

void Control::on_hold(const Overlay& overlay, const FdbEvent& event) {
  const std::string what = fmt::format("{}: {} vlan {}", overlay.name(), format_mac(fdb_key_mac(event.key)), fdb_key_vid(event.key));
  const std::string place = place_text(overlay, event.entry.location);
  if (event.kind == FdbEventKind::kReleased) return log_info(fmt::format("{} at {} may move again", what, place));
  log_warning(fmt::format("{} moved more than {} times within {} s: held at {} for {} s; frames from elsewhere are dropped (smac_moved_static)",
                          what, Learner::kMostMoves, Learner::kMovesWindowMs / 1000, place, Learner::kHoldMs / 1000));
}

std::string Control::place_text(const Overlay& overlay, Location location) const {
  if (!location.is_vtep()) return ports_.name_of_slot(location.index());
  const auto address = overlay.vteps.address_of(location.index());
  return address ? format_ip(*address) : "?";
}

void Control::set_monitor(Monitor monitor) {
  monitor_ = std::move(monitor);
  for (auto& overlay : overlays_) {
    if (!monitor_) {
      overlay->learner.set_sink({});
      continue;
    }
    overlay->learner.set_sink([this, one = overlay.get()](const FdbEvent& event) { emit(*one, event); });
  }
}

}  // namespace vx::control
