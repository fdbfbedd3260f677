// SPDX-License-Identifier: Apache-2.0
// The way to each VTEP when the kernel owns the VTEP address: its routes and neighbours, followed.
//
// Frames of the dataplane bypass the kernel, so the kernel would neither resolve a next hop nor notice that
// one has moved. Every next hop is therefore put to use here, and asked by unicast every kProbeEvery whether
// it is still there: a MAC that changed in silence is followed within kProbeEvery plus the kernel's three
// seconds of probing. What the kernel hears itself (gratuitous ARP, link flap, route change) arrives as an
// event at once. Path MTUs come with the routes; the kernel has no event for them, so they are read again
// with each probe. With driver=udp the kernel sends our datagrams: a VTEP is resolved when it has a route, out of
// any device, and only routes and path MTUs are followed. One thread; time is a parameter, milliseconds of any
// monotonic clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "control/event_loop.h"
#include "control/rtnetlink.h"

namespace vx::control {

struct VtepPath {
  bool is_resolved = false;
  MacAddress next_hop;      // valid when resolved; zero with driver=udp
  std::uint16_t mtu = 0;    // of the route; 0: none of its own. With driver=udp else that of the device it leads out of
  Milliseconds learned_at = 0;  // when that MTU was first seen, if the kernel learned it by ICMP; 0: it was not learned
  std::string problem;      // why it is not resolved, one line
  friend bool operator==(const VtepPath&, const VtepPath&) = default;
};

class Underlay {
 public:
  struct Device {
    std::string name;        // [underlay] device
    std::uint16_t vlan = 0;  // [underlay] vlan
    bool is_routed = false;  // [underlay] driver = udp: next hops are the kernel's own affair
    friend bool operator==(const Device&, const Device&) = default;
  };
  static constexpr Milliseconds kProbeEvery = 4000;
  static constexpr Milliseconds kGrace = 4000;     // a next hop that fails keeps its MAC while it is asked again
  static constexpr Milliseconds kRetryEvery = 1000;

  Underlay(KernelNetwork& kernel, Device device) : kernel_(kernel), device_(std::move(device)) {}

  // The VTEPs to follow, each with our address towards it when that is known.
  void watch(const std::map<IpAddress, std::optional<IpAddress>>& remotes, Milliseconds now);
  // Asks the kernel everything again: at start, and after it dropped events.
  void resync(Milliseconds now);
  void on_event(const nlmsghdr* message, Milliseconds now);
  // To be called after a batch of on_event, and every quarter of a second.
  void tick(Milliseconds now);

  [[nodiscard]] const std::map<IpAddress, VtepPath>& paths() const noexcept { return paths_; }
  // Source MAC of our frames: of the device that has the VTEP address. Zero: there is none.
  [[nodiscard]] MacAddress source_mac() const;
  // Our address towards `remote`: the interface's in whose subnet it lies, else the route's source.
  [[nodiscard]] std::optional<IpAddress> local_towards(const IpAddress& remote);
  // Whether paths() or source_mac() changed since the last call.
  [[nodiscard]] bool take_changed();
  // The netdev that has the VTEP address; null: none, or with driver=udp perhaps several.
  [[nodiscard]] const Link* device_link() const { return interface(); }
  // What the operator should look at, besides the paths' own.
  [[nodiscard]] std::optional<std::string> problem() const;

 private:
  struct Way {
    std::optional<IpAddress> local;
    int ifindex = 0;  // 0: no route, or one that leads elsewhere
    IpAddress next_hop;
    Milliseconds valid_at = 0, asked_at = 0, probed_at = 0;
    bool was_valid = false;
  };
  using NeighbourKey = std::pair<int, IpAddress>;

  [[nodiscard]] const Link* interface() const;
  [[nodiscard]] bool is_ours(const Link& link) const;
  void take_route(const IpAddress& remote, const Route& route, Way& way, VtepPath& path) const;
  void look_up_route(const IpAddress& remote, Way& way, Milliseconds now);
  void evaluate(const IpAddress& remote, Way& way, Milliseconds now);
  void probe(Way& way, Milliseconds now);
  void set_path(const IpAddress& remote, VtepPath path);

  KernelNetwork& kernel_;
  Device device_;
  std::map<int, Link> links_;
  std::map<NeighbourKey, Neighbour> neighbours_;
  std::map<IpAddress, Way> ways_;
  std::map<IpAddress, VtepPath> paths_;
  MacAddress told_mac_;
  bool are_routes_stale_ = true;
  bool is_changed_ = false;
};

}  // namespace vx::control
