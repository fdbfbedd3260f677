// SPDX-License-Identifier: Apache-2.0
// Which ports there should be, which there are, and what to do about the difference. Pure: the wanted list,
// link events, the dataplane's answers and time in; actions out. One thread.
//
// A port has a slot: control's own number for its name, stable over restarts of the dataplane, where the index
// may change. Drivers that need a netdev made by somebody else (netdev, af_xdp) wait for it; a tap is made
// at once, and udp needs none: the kernel routes. A wanted name may be a pattern (fnmatch): every netdev that matches becomes a port of its own.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "control/event_loop.h"
#include "control/rtnetlink.h"
#include "dataplane/protocol.h"

namespace vx::control {

struct WantedPort {
  protocol::PortConfig config;      // its name may be a pattern
  std::uint32_t fdb_max_learned = 0;  // 0: no limit of its own
  bool is_pattern = false;
  std::string blocked;              // why it must not be made now, one line; empty: it may
};

enum class PortStatus : std::uint8_t { kWaiting, kUp, kDown, kLost };
[[nodiscard]] std::string_view to_string(PortStatus status);

struct ManagedPort {
  WantedPort wanted;  // of this one name
  PortIndex slot = kNoIndex;
  PortStatus status = PortStatus::kWaiting;
  std::string text;   // why it is not up, one line
  std::optional<protocol::PortInfo> info;  // while the dataplane has it
  bool is_from_pattern = false;
  bool must_detach = false, must_set = false;
  Milliseconds next_try = 0;
  unsigned failures = 0;
};

struct PortAction {
  enum class Kind : std::uint8_t { kAttach, kSet, kDetach } kind{};
  protocol::PortConfig config;  // kDetach: only the name matters
};

class PortManager {
 public:
  // Everything that is wanted from now on; explicit names win over patterns, the first of equal names wins.
  void configure(std::vector<WantedPort> wanted);
  // A netdev appeared or changed; `gone`: the one of that name no longer exists.
  void on_link(const Link& link);
  void on_link_gone(const std::string& name);
  // All netdevs there are, after events were lost.
  void set_links(const std::vector<Link>& links);

  // The dataplane went; all its ports with it.
  void on_disconnected();
  // Ports that did not come back with the dataplane in good time: what was learned there is void.
  void vacate_missing();
  // The dataplane already has this port (read back): kept when it is as wanted, changed in place when
  // that does it, else detached.
  void adopt(const protocol::PortInfo& info);
  // What to do now, in this order. Attaching and setting are answered by attached() or refused().
  [[nodiscard]] std::vector<PortAction> actions(Milliseconds now);
  void attached(const std::string& name, const protocol::PortInfo& info);
  void refused(const std::string& name, const std::string& why, Milliseconds now);
  // The dataplane says the port's netdev vanished and it has dropped the port.
  void lost(const std::string& name, PortIndex index, Milliseconds now);

  [[nodiscard]] const std::map<std::string, ManagedPort>& ports() const noexcept { return ports_; }
  [[nodiscard]] const ManagedPort* find(const std::string& name) const;
  [[nodiscard]] const ManagedPort* at_slot(PortIndex slot) const;
  // The MAC of an attached port's netdev now, else of the device when it was attached; zero: not attached.
  [[nodiscard]] MacAddress mac_of(const std::string& name) const;
  // The netdev of that name in this namespace; null: none.
  [[nodiscard]] const Link* link_of(const std::string& name) const;
  // Between control's slots and the dataplane's indices; kNoIndex when there is no such port now.
  [[nodiscard]] PortIndex index_of_slot(PortIndex slot) const noexcept;
  [[nodiscard]] PortIndex slot_of_index(PortIndex index) const noexcept;
  // The slot of a name, wanted or not (the operator may name a port that is still to come).
  PortIndex slot_of(const std::string& name);
  [[nodiscard]] const std::string& name_of_slot(PortIndex slot) const;
  void release_slot(PortIndex slot);
  // Slots whose port detached or went since the last call: what was learned there is void.
  [[nodiscard]] std::vector<PortIndex> take_vacated();
  // Slots whose port attached since the last call: what belongs there is to be installed.
  [[nodiscard]] std::vector<PortIndex> take_filled();

 private:
  [[nodiscard]] static bool needs_netdev(const protocol::PortConfig& config);
  void match_patterns(const std::string& name);
  void vacate(ManagedPort& port);
  void update_status(ManagedPort& port);

  std::vector<WantedPort> patterns_;
  std::map<std::string, ManagedPort> ports_;
  std::vector<std::string> strays_;       // the dataplane has them, nobody wants them
  std::map<std::string, Link> links_;
  std::vector<std::string> slots_;        // name by slot; empty: free
  std::map<std::string, PortIndex> slot_by_name_;
  std::vector<PortIndex> index_of_slot_, slot_of_index_;
  std::vector<PortIndex> vacated_, filled_;
};

// Same port for the dataplane's purposes: only what kPortSet can change differs.
[[nodiscard]] bool is_same_device(const protocol::PortConfig& a, const protocol::PortConfig& b);
[[nodiscard]] bool is_equal(const protocol::PortConfig& a, const protocol::PortConfig& b);

}  // namespace vx::control
