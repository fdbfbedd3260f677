// SPDX-License-Identifier: Apache-2.0
// The operator's requests (api.h) against a Control. Never throws on what a client sent. One thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "control/api.h"
#include "control/control.h"

namespace vx::control {

class Requests {
 public:
  explicit Requests(Control& control) : control_(control) {}

  // `reply` is called once with the reply line, newline included: before this returns, or later (`mtu probe` takes its time).
  using Reply = std::function<void(std::string line)>;
  void handle(const Json& request, const Reply& reply);

 private:
  // fdb (requests_fdb.cc)
  struct FdbFilter;
  [[nodiscard]] std::string fdb_show(const Json& request);
  [[nodiscard]] Json fdb_get(const Json& request);
  [[nodiscard]] Json fdb_add(const Json& request);
  [[nodiscard]] Json fdb_del(const Json& request);
  [[nodiscard]] Json fdb_flush(const Json& request);
  [[nodiscard]] Json fdb_count();
  // what changes the rest (requests_change.cc)
  [[nodiscard]] Json vtep_add(const Json& request);
  [[nodiscard]] Json vtep_del(const Json& request);
  [[nodiscard]] Json port_add(const Json& request);
  [[nodiscard]] Json port_del(const Json& request);
  [[nodiscard]] Json reload();
  [[nodiscard]] Json bypass_set(bool is_on);
  // what shows it (requests_show.cc)
  [[nodiscard]] Json vtep_show();
  [[nodiscard]] Json port_show();
  [[nodiscard]] Json vlan_show();
  [[nodiscard]] Json stats_show(bool drops_only);
  [[nodiscard]] Json status_show();
  [[nodiscard]] Json bypass_show();
  // the MTU (requests_mtu.cc)
  [[nodiscard]] Json mtu_show();
  void mtu_probe(const Json& request, const Reply& reply);

  [[nodiscard]] Json dispatch(std::string_view object, std::string_view command, const Json& request);
  // The overlay of that vxlan name; without a name the only one. Null with `error` set otherwise.
  [[nodiscard]] Overlay* pick_overlay(const std::optional<std::string>& name, std::string& error);
  [[nodiscard]] Overlay* overlay_of_port(const std::string& port);

  Control& control_;
};

// An FDB entry as api.h has it, but for its ages.
[[nodiscard]] Json fdb_entry_json(const Overlay& overlay, const PortManager& ports, std::uint64_t key,
                                  const FdbEntry& entry);
// The VLANs of a port or tunnel as `bridge -j vlan` has them.
[[nodiscard]] Json vlans_json(const VlanTable& vlans);

}  // namespace vx::control
