// SPDX-License-Identifier: Apache-2.0
// What control asks of and hears from the kernel's routing netlink, as plain values (rtnetlink(7)).
// The parsers are pure. RouteSocket is one thread's; it throws std::system_error only when constructed.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "dataplane/wire.h"

struct mnl_socket;  // libmnl's

namespace vx::control {

// A bridge, as `ip -d link show` has it.
struct BridgeInfo {
  std::uint32_t ageing_cs = 30000;  // 1/100 s
  bool vlan_filtering = false, stp = false, multicast_snooping = false, multicast_querier = false;
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
  std::uint32_t ageing_s = 300;            // of its own FDB; 0: never
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

// A row of a bridge's FDB or of a vxlan device's own (AF_BRIDGE), as the kernel has it.
struct BridgeFdbEntry {
  int ifindex = 0;               // the port, or the vxlan device
  int master = 0;                // the bridge; 0: the device's own table
  MacAddress mac;
  std::uint16_t vid = 0;         // 0: none
  std::uint16_t state = 0;       // NUD_*: permanent (local), noarp (static), reachable or stale (learned)
  std::uint8_t flags = 0;        // NTF_*
  std::uint32_t ext_flags = 0;   // NTF_EXT_*
  std::optional<IpAddress> dst;  // vxlan
  std::optional<std::uint32_t> vni;   // absent: the device's own
  std::optional<std::uint16_t> port;  // UDP; absent: the device's own
  std::uint32_t used_s = 0, updated_s = 0;  // ages, whole seconds
  std::uint64_t said = 0;                   // BridgeFollower's: another one after the row was away
  friend bool operator==(const BridgeFdbEntry&, const BridgeFdbEntry&) = default;
};

// One write into such a table (fdb_export.h).
struct BridgeFdbWrite {
  int ifindex = 0;
  MacAddress mac;
  std::uint16_t vid = 0;         // 0: none
  std::optional<IpAddress> dst;  // present: the vxlan device's own table; absent: the bridge's
  bool is_static = false;
  bool is_delete = false;
  friend bool operator==(const BridgeFdbWrite&, const BridgeFdbWrite&) = default;
};

// Empty when the message is of another type or lacks what makes it useful.
[[nodiscard]] std::optional<Link> parse_link(const nlmsghdr* message);
[[nodiscard]] std::optional<Neighbour> parse_neighbour(const nlmsghdr* message);
[[nodiscard]] std::optional<Route> parse_route(const nlmsghdr* message);
[[nodiscard]] std::optional<InterfaceIp> parse_address(const nlmsghdr* message);
// RTM_NEWNEIGH and RTM_DELNEIGH of family AF_BRIDGE.
[[nodiscard]] std::optional<BridgeFdbEntry> parse_bridge_fdb(const nlmsghdr* message);
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
  // The netdevs with a qdisc of kind "ingress", where `tc` polices what comes in.
  [[nodiscard]] std::set<int> ingress_qdiscs();

  // ---- commands: 0 or an errno ----
  int use_neighbour(int ifindex, const IpAddress& address) override;
  int probe_neighbour(int ifindex, const IpAddress& address) override;
  int delete_link(int ifindex);
  int set_master(int ifindex, int master);  // 0: none
  int set_mtu(int ifindex, std::uint32_t mtu);
  int set_up(int ifindex);
  int add_bridge_vlan(int ifindex, BridgeVlan vlan);
  int delete_bridge_vlan(int ifindex, std::uint16_t vid);

  // ---- events: links, neighbours, addresses, routes, rules and qdiscs ----
  [[nodiscard]] int event_fd() const noexcept { return event_fd_; }
  // Hands every waiting event to `on_message`. False: the kernel dropped some (ENOBUFS): ask everything again.
  [[nodiscard]] bool read_events(const OnMessage& on_message);

  // ---- the FDBs of a bridge and of its vxlan device (rtnetlink_fdb.cc) ----
  // The rows of bridge `bridge` (0: of all bridges), of its ports' own tables too. A row that comes or goes meanwhile shifts the kernel's
  // own count: others may be told twice, or not at all. 0 or an errno: the kernel may be asked again.
  int bridge_fdb(int bridge, const std::function<void(const BridgeFdbEntry&)>& on_entry);
  // Writes all, in order, many a system call; one that fails does not stop the others. `on_error` gets those that
  // failed with their errno (ENOENT for a delete of what was gone or had moved; a vxlan device says 0 to the latter).
  // A learned bridge entry is written as if its frame had come: made, moved, or made young again, but kept static if
  // it was; 0 also when the port may not learn now (down, blocked by STP), and then nothing is written. Never write
  // one over a MAC of the bridge's own: the kernel warns in its log. 0 or an errno of the socket.
  int write_bridge_fdb(std::span<const BridgeFdbWrite> writes,
                       const std::function<void(std::size_t index, int error)>& on_error);

 private:
  // Sends a finished request and hands every message of the answer on, of a dump that the kernel calls interrupted those of another
  // one: nothing is handed on of half an answer. 0 or an errno.
  int talk(nlmsghdr* message, const OnMessage& on_message);
  int ask(nlmsghdr* message, std::vector<char>& answers, bool& is_interrupted);

  mnl_socket* requests_ = nullptr;
  mnl_socket* events_ = nullptr;
  int event_fd_ = -1;
  std::uint32_t sequence_ = 0;
};

}  // namespace vx::control
