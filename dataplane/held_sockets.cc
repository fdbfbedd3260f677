// SPDX-License-Identifier: Apache-2.0
#include "dataplane/held_sockets.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "dataplane/log.h"

namespace vx {

std::vector<HeldSockets::Key> HeldSockets::wanted(const SwitchModel& model) {
  std::vector<Key> keys;
  const auto& underlay = model.underlay;
  const bool is_routed = model.is_underlay_routed();
  // With an address of our own the kernel has none to bind to.
  if ((underlay.hold_port == 0 && !is_routed) || underlay.own_address != 0 ||
      model.underlay_port() == nullptr)
    return keys;
  const auto queues = is_routed ? static_cast<std::uint16_t>(model.workers) : std::uint16_t{1};
  for (const auto& overlay : model.overlays)
    if (overlay && !overlay->config.local.is_unspecified())
      keys.push_back({overlay->config.local, overlay->config.udp_port, underlay.vlan, underlay.mac,
                      queues, is_routed});
  return keys;
}

void HeldSockets::drop_unwanted(const SwitchModel& model) {
  const auto keys = wanted(model);
  std::erase_if(slots_, [this, &keys](const auto& slot) {
    if (std::find(keys.begin(), keys.end(), slot.first) != keys.end()) return false;
    if (slot.second.port) missed_before_ += slot.second.port->lost().rx_missed;
    return true;
  });
}

bool HeldSockets::open_wanted(const SwitchModel& model, std::int64_t now_ms) {
  bool opened = false;
  for (const Key& key : wanted(model)) {
    Slot& slot = slots_[key];
    if (slot.port || now_ms < slot.retry_at_ms) continue;
    std::string reason;
    try {
      slot.port = factory_(key.local, key.udp_port, key.vlan, key.mac, reason,
                           {key.queues, key.takes_bundles});
    } catch (const std::exception& error) {
      reason = error.what();
    }
    slot.retry_at_ms = now_ms + kRetryMs;
    if (slot.port) {
      opened = true;
      if (!slot.refusal.empty()) log_info("UDP port {} is free now: held", key.udp_port);
      reason.clear();
    } else if (reason != slot.refusal) {
      log_warning("UDP port {} is not held: {}; {}", key.udp_port, reason,
                  key.takes_bundles ? "driver = udp receives nothing without it"
                                    : "outer fragments to it go to its holder");
    }
    slot.refusal = reason;
  }
  return opened;
}

std::vector<std::shared_ptr<Port>> HeldSockets::ports() const {
  std::vector<std::shared_ptr<Port>> ports;
  for (const auto& [key, slot] : slots_)
    if (slot.port) ports.push_back(slot.port);
  return ports;
}

std::uint64_t HeldSockets::missed() const {
  std::uint64_t sum = missed_before_;
  for (const auto& [key, slot] : slots_)
    if (slot.port) sum += slot.port->lost().rx_missed;
  return sum;
}

std::string HeldSockets::missing(const SwitchModel& model) const {
  for (const auto& [key, slot] : slots_)
    if (key.takes_bundles && !slot.port)
      return fmt::format(
          "{}: {}; driver = udp needs it: delete that, or use driver = af_xdp with hold-port = no",
          protocol::text_of(model.underlay.port), slot.refusal);
  return {};
}

}  // namespace vx
