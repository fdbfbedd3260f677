// SPDX-License-Identifier: Apache-2.0
#include "control/requests.h"

#include <fmt/format.h>

namespace vx::control {

void Requests::handle(const Json& request, const Reply& reply) {
  const auto object = api::field<std::string>(request, "object").value_or("");
  const auto command = api::field<std::string>(request, "command").value_or("");
  if (object == "fdb" && command == "show") return reply(fdb_show(request));
  if (object == "mtu" && command == "probe") return mtu_probe(request, reply);
  reply(api::encode(dispatch(object, command, request)));
}

Json Requests::dispatch(std::string_view object, std::string_view command, const Json& request) {
  const auto is = [&](std::string_view o, std::string_view c) { return object == o && command == c; };
  if (is("fdb", "get")) return fdb_get(request);
  if (is("fdb", "add")) return fdb_add(request);
  if (is("fdb", "del")) return fdb_del(request);
  if (is("fdb", "flush")) return fdb_flush(request);
  if (is("fdb", "count")) return fdb_count();
  if (is("vtep", "show")) return vtep_show();
  if (is("vtep", "add")) return vtep_add(request);
  if (is("vtep", "del")) return vtep_del(request);
  if (is("port", "show")) return port_show();
  if (is("port", "add")) return port_add(request);
  if (is("port", "del")) return port_del(request);
  if (is("vlan", "show")) return vlan_show();
  if (is("stats", "show")) return stats_show(false);
  if (is("drops", "show")) return stats_show(true);
  if (is("status", "show")) return status_show();
  if (is("mtu", "show")) return mtu_show();
  if (is("bypass", "show")) return bypass_show();
  if (is("bypass", "on")) return bypass_set(true);
  if (is("bypass", "off")) return bypass_set(false);
  if (is("reload", "run")) return reload();
  return api::error(fmt::format("unknown request \"{} {}\"", object, command), api::Exit::kUsage);
}

Overlay* Requests::pick_overlay(const std::optional<std::string>& name, std::string& error) {
  auto& overlays = control_.overlays();
  if (!name && overlays.size() == 1) return overlays[0].get();
  for (auto& overlay : overlays)
    if (name && overlay->name() == *name) return overlay.get();
  error = name ? fmt::format("no vxlan {}", *name) : "there are several VNIs: say which with dev VXLAN-NAME";
  return nullptr;
}

Overlay* Requests::overlay_of_port(const std::string& port) {
  const ManagedPort* managed = control_.ports().find(port);
  if (managed == nullptr || managed->wanted.config.role != protocol::PortRole::kGuest) return nullptr;
  for (auto& overlay : control_.overlays())
    if (overlay->index == managed->wanted.config.overlay) return overlay.get();
  return nullptr;
}

}  // namespace vx::control
