// SPDX-License-Identifier: Apache-2.0
// What control asks of and hears from the kernel's routing netlink, as plain values (rtnetlink(7)).
// The parsers are pure. RouteSocket is one thread's; it throws std::system_error only when constructed.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/wire.h"

struct mnl_socket;  // libmnl's

namespace vx::control {

// A bridge, as `ip -d link show` has it.
struct BridgeInfo {
  std::uint32_t ageing_cs = 30000;  // 1/100 s
  bool vlan_filtering = false;
  std::uint16_t vlan_protocol = 0x8100;
  friend bool operator==(const BridgeInfo&, const BridgeInfo&) = default;
};

// What a bridge says of one of its ports (`bridge -d link show`).
struct BridgePortInfo {
  bool is_forwarding = true;  // spanning tree's state
  bool learning = true, isolated = false, locked = false, hairpin = false;
  bool unicast_flood = true, multicast_flood = true, broadcast_flood = true;
  friend bool operator==(const BridgePortInfo&, const BridgePortInfo&) = default;
};

struct VxlanInfo {
  std::uint32_t vni = 0;
  std::optional<IpAddress> local, remote;  // `remote` may be a multicast group
  int lower = 0;                           // IFLA_VXLAN_LINK; 0: none
  std::uint16_t port = 4789;
  std::uint8_t ttl = 0;                    // 0: the host's default
  std::uint8_t tos = 0;                    // 1: inherit
  bool learning = true, udp_csum = true, is_external = false;
  friend bool operator==(const VxlanInfo&, const VxlanInfo&) = default;
};

struct Link {
  int ifindex = 0;
  std::string name;
  MacAddress mac;
  std::uint32_t mtu = 0;
  bool is_up = false;      // administratively, and with carrier
  int lower = 0;           // IFLA_LINK: the device a VLAN device stands on
  int master = 0;          // the bridge it is a port of
  std::string kind;        // "vlan", "vxlan", "bridge", "tun", ...
  std::uint16_t vid = 0;   // kind vlan
  std::uint32_t vni = 0;   // kind vxlan
  std::optional<VxlanInfo> vxlan;        // kind vxlan
  std::optional<BridgeInfo> bridge;      // kind bridge
  std::optional<BridgePortInfo> bridge_port;  // its master is a bridge
  friend bool operator==(const Link&, const Link&) = default;
};

struct Neighbour {
  int ifindex = 0;
  IpAddress address;
  std::uint16_t state = 0;  // NUD_*
  std::optional<MacAddress> mac;
};

struct Route {
  int ifindex = 0;
  std::optional<IpAddress> gateway;
  std::optional<IpAddress> source;  // preferred source
  std::uint32_t mtu = 0;            // metric, a path MTU learned by ICMP included; 0: none
  bool is_unicast = false;          // false: local, blackhole, unreachable...
  bool is_local = false;            // to this host itself
  bool is_mtu_learned = false;      // the kernel will forget `mtu`: learned, not configured
};

struct InterfaceIp {
  int ifindex = 0;
  IpAddress address;
  unsigned prefix = 0;
};

// VLANs of a bridge port: flags as in struct bridge_vlan_info.
struct BridgeVlan {
  std::uint16_t vid = 0;
  std::uint16_t flags = 0;
};

// One row of a bridge's FDB, or of a vxlan device's own (`dst`).
struct BridgeFdbEntry {
  int ifindex = 0, master = 0;
  MacAddress mac;
  std::uint16_t vid = 0;    // 0: none
  std::uint16_t state = 0;  // NUD_*
  std::uint8_t flags = 0;   // NTF_*
  std::optional<IpAddress> dst;
};

// Empty when the message is of another type or lacks what makes it useful.
[[nodiscard]] std::optional<Link> parse_link(const nlmsghdr* message);
[[nodiscard]] std::optional<Neighbour> parse_neighbour(const nlmsghdr* message);
[[nodiscard]] std::optional<Route> parse_route(const nlmsghdr* message);
[[nodiscard]] std::optional<InterfaceIp> parse_address(const nlmsghdr* message);
[[nodiscard]] std::optional<BridgeFdbEntry> parse_bridge_fdb(const nlmsghdr* message);
// A bridge's or bridge port's own message (AF_BRIDGE): settings, VLANs or state changed.
[[nodiscard]] bool is_bridge_event(const nlmsghdr* message);
// Ranges expanded.
[[nodiscard]] std::vector<BridgeVlan> parse_bridge_vlans(const nlmsghdr* message);

// The part of the kernel that underlay.h works with; tests have one of their own.
class KernelNetwork {
 public:
  virtual ~KernelNetwork() = default;
  [[nodiscard]] virtual std::vector<Link> links() = 0;
  [[nodiscard]] virtual std::vector<Neighbour> neighbours(int ifindex) = 0;
  [[nodiscard]] virtual std::vector<InterfaceIp> addresses() = 0;
  // `source`: as packets with this source address are routed, when it is one of ours.
  [[nodiscard]] virtual std::optional<Route> route_to(const IpAddress& destination,
                                                      const std::optional<IpAddress>& source) = 0;
  // Makes the kernel resolve the neighbour as if a packet were sent to it (NTF_USE). 0 or an errno.
  virtual int use_neighbour(int ifindex, const IpAddress& address) = 0;
  // Makes the kernel ask a neighbour it knows, by unicast, whether it is still there (NUD_PROBE). 0 or an errno.
  virtual int probe_neighbour(int ifindex, const IpAddress& address) = 0;
};

class RouteSocket : public KernelNetwork {
 public:
  RouteSocket();
  ~RouteSocket() override;
  RouteSocket(const RouteSocket&) = delete;
  RouteSocket& operator=(const RouteSocket&) = delete;

  using OnMessage = std::function<void(const nlmsghdr*)>;

  // ---- questions: synchronous, answered by the kernel at once ----
  [[nodiscard]] std::vector<Link> links() override;
  [[nodiscard]] std::optional<Link> link(const std::string& name);
  [[nodiscard]] std::vector<Neighbour> neighbours(int ifindex) override;
  [[nodiscard]] std::vector<InterfaceIp> addresses() override;
  [[nodiscard]] std::optional<Route> route_to(const IpAddress& destination,
                                              const std::optional<IpAddress>& source) override;
  [[nodiscard]] std::vector<BridgeVlan> bridge_vlans(int ifindex);
  // Of every bridge and bridge port, by ifindex.
  [[nodiscard]] std::map<int, std::vector<BridgeVlan>> all_bridge_vlans();

  [[nodiscard]] std::vector<BridgeFdbEntry> bridge_fdb();

  // ---- commands: 0 or an errno ----
  int use_neighbour(int ifindex, const IpAddress& address) override;
  int probe_neighbour(int ifindex, const IpAddress& address) override;
  int delete_link(int ifindex);
  int set_master(int ifindex, int master);  // 0: none
  int set_mtu(int ifindex, std::uint32_t mtu);
  int set_up(int ifindex);
  int add_bridge_vlan(int ifindex, BridgeVlan vlan);
  int delete_bridge_vlan(int ifindex, std::uint16_t vid);

  // ---- events: links, neighbours, addresses, routes and rules ----
  [[nodiscard]] int event_fd() const noexcept { return event_fd_; }
  // Hands every waiting event to `on_message`. False: the kernel dropped some (ENOBUFS): ask everything again.
  [[nodiscard]] bool read_events(const OnMessage& on_message);

 private:
  // Sends a finished request and hands every message of the answer on. 0 or an errno.
  int talk(nlmsghdr* message, const OnMessage& on_message);

  mnl_socket* requests_ = nullptr;
  mnl_socket* events_ = nullptr;
  int event_fd_ = -1;
  std::uint32_t sequence_ = 0;
};

}  // namespace vx::control
