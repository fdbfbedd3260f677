// SPDX-License-Identifier: Apache-2.0
// `vxctl vtep add|del`, `port add|del`, `bypass on|off`, `reload`.
#include <fmt/format.h>

#include <algorithm>

#include "config/keys.h"
#include "control/requests.h"
#include "control/text.h"

namespace vx::control {

namespace {
Json with_notes(Json reply, std::vector<std::string> notes) {
  if (!notes.empty()) reply["notes"] = std::move(notes);
  return reply;
}
const char kComesBack[] = "it is in the configuration file: it comes back at the next reload or restart";
}  // namespace

Json Requests::vtep_add(const Json& request) {
  const auto address = parse_ip(api::field<std::string>(request, "dst").value_or(""));
  if (!address || address->is_unspecified()) return api::error("vtep add: an IP address is needed", api::Exit::kUsage);
  std::string error;
  Overlay* overlay = pick_overlay(api::field<std::string>(request, "dev"), error);
  if (overlay == nullptr) return api::error(error);
  if (overlay->local && overlay->local->is_v4() != address->is_v4())
    return api::error(fmt::format("{} is of another IP version than our address {}", format_ip(*address), format_ip(*overlay->local)));
  if (overlay->local == *address) return api::error(fmt::format("{} is our own address", format_ip(*address)));
  const RemoteVtep* known = overlay->vteps.find(*address);
  if (known != nullptr && known->origin != VtepOrigin::kLearned)
    return api::error(fmt::format("{} is a VTEP of {} already", format_ip(*address), overlay->name()));
  if (!overlay->vteps.add(*address, VtepOrigin::kAdded, true))
    return api::error(fmt::format("{} VTEPs are the most", kMaxVteps));
  control_.on_operator_change();
  return api::ok();
}

Json Requests::vtep_del(const Json& request) {
  const auto address = parse_ip(api::field<std::string>(request, "dst").value_or(""));
  if (!address) return api::error("vtep del: an IP address is needed", api::Exit::kUsage);
  std::string error;
  Overlay* overlay = pick_overlay(api::field<std::string>(request, "dev"), error);
  if (overlay == nullptr) return api::error(error);
  const RemoteVtep* known = overlay->vteps.find(*address);
  if (known == nullptr) return api::error(fmt::format("{} is not a VTEP of {}", format_ip(*address), overlay->name()));
  const bool is_configured = known->origin == VtepOrigin::kConfigured;
  const Location place = Location::vtep(known->index);
  overlay->vteps.remove(*address);
  overlay->learner.forget(place, true);
  control_.on_operator_change();
  return with_notes(api::ok(), is_configured ? std::vector<std::string>{kComesBack} : std::vector<std::string>{});
}

Json Requests::port_add(const Json& request) {
  const auto name = api::field<std::string>(request, "name").value_or("");
  if (name.empty()) return api::error("port add: a name is needed", api::Exit::kUsage);
  std::string error;
  Overlay* overlay = pick_overlay(api::field<std::string>(request, "dev"), error);
  if (overlay == nullptr) return api::error(error);
  config::PortSettings port;
  const auto options = api::field<std::string>(request, "options").value_or("");
  if (const auto complaint = config::read_port(name + " " + options, overlay->settings.bridge, port); !complaint.empty())
    return api::error("port " + complaint);
  for (const auto& one : control_.overlays())
    for (const auto& other : one->all_ports())
      if (other.name == port.name) return api::error(fmt::format("port {} exists", port.name));
  if (control_.ports().find(port.name) != nullptr) return api::error(fmt::format("port {} exists", port.name));
  overlay->added_ports.push_back(port);
  control_.configure_ports();
  control_.on_operator_change();
  const ManagedPort* managed = control_.ports().find(port.name);
  if (port.is_pattern() || (managed != nullptr && managed->info)) return api::ok();
  const bool is_refused = managed != nullptr && managed->failures > 0;
  if (!is_refused) return with_notes(api::ok(), {managed != nullptr ? managed->text : "waiting"});
  // The dataplane said no: it is not kept.
  const std::string why = managed->text;
  std::erase_if(overlay->added_ports, [&](const auto& one) { return one.name == port.name; });
  control_.configure_ports();
  control_.on_operator_change();
  return api::error(fmt::format("port {}: {}", port.name, why));
}

Json Requests::port_del(const Json& request) {
  const auto name = api::field<std::string>(request, "name").value_or("");
  if (name.empty()) return api::error("port del: a name is needed", api::Exit::kUsage);
  const auto is_it = [&](const config::PortSettings& port) { return port.name == name; };
  for (const auto& overlay : control_.overlays())
    for (const auto& port : overlay->settings.ports)
      if (port.is_kernels && is_it(port))
        return api::error(fmt::format("port {} is the kernel bridge's: ip link set dev {} nomaster", name, name));
  std::size_t added = 0, configured = 0;
  for (auto& overlay : control_.overlays()) {
    added += std::erase_if(overlay->added_ports, is_it);
    configured += std::erase_if(overlay->settings.ports, is_it);
  }
  if (added + configured == 0) {
    const ManagedPort* managed = control_.ports().find(name);
    if (managed == nullptr) return api::error(fmt::format("no port {}", name));
    return api::error(managed->is_from_pattern ? fmt::format("port {} is there by a pattern: delete that", name)
                                               : fmt::format("port {} is the underlay's or the tunnel's", name));
  }
  control_.configure_ports();
  // What the operator had put behind it goes with it, as with a bridge port.
  for (auto& overlay : control_.overlays())
    if (control_.ports().find(name) == nullptr)
      overlay->learner.forget(Location::port(control_.ports().slot_of(name)), true);
  control_.on_operator_change();
  return with_notes(api::ok(), configured > 0 ? std::vector<std::string>{kComesBack} : std::vector<std::string>{});
}

Json Requests::bypass_set(bool is_on) {
  if (!control_.has_takeover()) return api::error("bypass: there is no takeover: without vxplane nobody forwards");
  control_.set_bypass(is_on);
  if (!control_.client().is_connected())
    return with_notes(api::ok(), {"the dataplane is not there: the kernel forwards anyway"});
  if (is_on || control_.bypass_reason().empty()) return api::ok();
  return with_notes(api::ok(), {"the kernel still forwards: " + control_.bypass_reason()});
}

Json Requests::reload() {
  const auto result = control_.reload();
  if (!result.is_done) {
    auto problems = result.problems;
    const std::string first = problems.empty() ? "the configuration is empty" : problems.front();
    if (!problems.empty()) problems.erase(problems.begin());
    return with_notes(api::error(first + " (the former configuration stays)"), problems);
  }
  return with_notes(api::ok(Json{{"changes", result.changes}}), result.problems);
}

}  // namespace vx::control
