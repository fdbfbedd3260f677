// SPDX-License-Identifier: Apache-2.0
// Kernel messages to values. Attributes are validated by type and length before they are read: a kernel may be newer.
#include <libmnl/libmnl.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "control/rtnetlink.h"

namespace vx::control {

namespace {

// Attributes by type, from a flat list; out-of-range types are ignored.
template <std::size_t N>
using Attributes = std::array<const nlattr*, N>;

template <std::size_t N>
int collect(const nlattr* attribute, void* data) {
  auto& into = *static_cast<Attributes<N>*>(data);
  const auto type = mnl_attr_get_type(attribute);
  if (type < N) into[type] = attribute;
  return MNL_CB_OK;
}

template <std::size_t N, typename Header>
Attributes<N> attributes_of(const nlmsghdr* message) {
  Attributes<N> attributes{};
  if (mnl_nlmsg_get_payload_len(message) >= sizeof(Header))
    mnl_attr_parse(message, sizeof(Header), collect<N>, &attributes);
  return attributes;
}

template <std::size_t N>
Attributes<N> nested(const nlattr* attribute) {
  Attributes<N> attributes{};
  if (attribute != nullptr) mnl_attr_parse_nested(attribute, collect<N>, &attributes);
  return attributes;
}

bool is_u32(const nlattr* attribute) {
  return attribute != nullptr && mnl_attr_get_payload_len(attribute) >= sizeof(std::uint32_t);
}

std::optional<IpAddress> address_of(const nlattr* attribute) {
  if (attribute == nullptr) return std::nullopt;
  if (mnl_attr_get_payload_len(attribute) == 4) return IpAddress::from_v4_bytes(mnl_attr_get_payload(attribute));
  if (mnl_attr_get_payload_len(attribute) == 16) return IpAddress::from_v6_bytes(mnl_attr_get_payload(attribute));
  return std::nullopt;
}

std::optional<MacAddress> mac_of(const nlattr* attribute) {
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) != 6) return std::nullopt;
  MacAddress mac;
  std::memcpy(mac.bytes.data(), mnl_attr_get_payload(attribute), 6);
  return mac;
}

// A string attribute that need not be NUL-terminated.
std::string text_of(const nlattr* attribute) {
  if (attribute == nullptr) return {};
  const auto* text = static_cast<const char*>(mnl_attr_get_payload(attribute));
  return {text, strnlen(text, mnl_attr_get_payload_len(attribute))};
}

template <typename Header>
const Header* header_of(const nlmsghdr* message) {
  return mnl_nlmsg_get_payload_len(message) >= sizeof(Header)
             ? static_cast<const Header*>(mnl_nlmsg_get_payload(message))
             : nullptr;
}

}  // namespace

namespace {

template <std::size_t N>
std::uint8_t u8_of(const Attributes<N>& data, std::size_t type, std::uint8_t otherwise) {
  return data[type] != nullptr && mnl_attr_get_payload_len(data[type]) >= 1 ? mnl_attr_get_u8(data[type]) : otherwise;
}
template <std::size_t N>
std::uint16_t be16_of(const Attributes<N>& data, std::size_t type, std::uint16_t otherwise) {
  if (data[type] == nullptr || mnl_attr_get_payload_len(data[type]) < 2) return otherwise;
  return Be16::from_raw(mnl_attr_get_u16(data[type])).host();
}

VxlanInfo vxlan_of(const nlattr* nest) {
  const auto data = nested<IFLA_VXLAN_MAX + 1>(nest);
  VxlanInfo vxlan;
  if (is_u32(data[IFLA_VXLAN_ID])) vxlan.vni = mnl_attr_get_u32(data[IFLA_VXLAN_ID]);
  vxlan.local = address_of(data[data[IFLA_VXLAN_LOCAL] != nullptr ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6]);
  vxlan.remote = address_of(data[data[IFLA_VXLAN_GROUP] != nullptr ? IFLA_VXLAN_GROUP : IFLA_VXLAN_GROUP6]);
  for (auto* address : {&vxlan.local, &vxlan.remote})
    if (*address && (*address)->is_unspecified()) address->reset();
  if (is_u32(data[IFLA_VXLAN_LINK])) vxlan.lower = static_cast<int>(mnl_attr_get_u32(data[IFLA_VXLAN_LINK]));
  vxlan.port = be16_of(data, IFLA_VXLAN_PORT, vxlan.port);
  vxlan.ttl = u8_of(data, IFLA_VXLAN_TTL, 0);
  vxlan.tos = u8_of(data, IFLA_VXLAN_TOS, 0);
  if (is_u32(data[IFLA_VXLAN_AGEING])) vxlan.ageing_s = mnl_attr_get_u32(data[IFLA_VXLAN_AGEING]);
  vxlan.learning = u8_of(data, IFLA_VXLAN_LEARNING, 1) != 0;
  vxlan.udp_csum = u8_of(data, IFLA_VXLAN_UDP_CSUM, 1) != 0;
  vxlan.is_external = u8_of(data, IFLA_VXLAN_COLLECT_METADATA, 0) != 0;
  return vxlan;
}

BridgeInfo bridge_of(const nlattr* nest) {
  const auto data = nested<IFLA_BR_MAX + 1>(nest);
  BridgeInfo bridge;
  if (is_u32(data[IFLA_BR_AGEING_TIME])) bridge.ageing_cs = mnl_attr_get_u32(data[IFLA_BR_AGEING_TIME]);
  bridge.stp = is_u32(data[IFLA_BR_STP_STATE]) && mnl_attr_get_u32(data[IFLA_BR_STP_STATE]) != 0;
  bridge.multicast_snooping = u8_of(data, IFLA_BR_MCAST_SNOOPING, 0) != 0;
  bridge.multicast_querier = u8_of(data, IFLA_BR_MCAST_QUERIER, 0) != 0;
  bridge.vlan_filtering = u8_of(data, IFLA_BR_VLAN_FILTERING, 0) != 0;
  bridge.vlan_protocol = be16_of(data, IFLA_BR_VLAN_PROTOCOL, bridge.vlan_protocol);
  return bridge;
}

BridgePortInfo bridge_port_of(const nlattr* nest) {
  const auto data = nested<IFLA_BRPORT_MAX + 1>(nest);
  BridgePortInfo port;
  port.is_forwarding = u8_of(data, IFLA_BRPORT_STATE, BR_STATE_FORWARDING) == BR_STATE_FORWARDING;
  port.learning = u8_of(data, IFLA_BRPORT_LEARNING, 1) != 0;
  port.isolated = u8_of(data, IFLA_BRPORT_ISOLATED, 0) != 0;
  port.locked = u8_of(data, IFLA_BRPORT_LOCKED, 0) != 0;
  port.hairpin = u8_of(data, IFLA_BRPORT_MODE, 0) != 0;
  port.unicast_flood = u8_of(data, IFLA_BRPORT_UNICAST_FLOOD, 1) != 0;
  port.multicast_flood = u8_of(data, IFLA_BRPORT_MCAST_FLOOD, 1) != 0;
  port.broadcast_flood = u8_of(data, IFLA_BRPORT_BCAST_FLOOD, 1) != 0;
  return port;
}

}  // namespace

std::optional<Link> parse_link(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWLINK && message->nlmsg_type != RTM_DELLINK) return std::nullopt;
  const auto* header = header_of<ifinfomsg>(message);
  // AF_BRIDGE messages tell of bridge ports' settings, not of the link.
  if (header == nullptr || header->ifi_family != AF_UNSPEC) return std::nullopt;
  const auto attributes = attributes_of<IFLA_MAX + 1, ifinfomsg>(message);
  Link link;
  link.ifindex = header->ifi_index;
  link.name = text_of(attributes[IFLA_IFNAME]);
  if (link.name.empty()) return std::nullopt;
  link.mac = mac_of(attributes[IFLA_ADDRESS]).value_or(MacAddress{});
  if (is_u32(attributes[IFLA_MTU])) link.mtu = mnl_attr_get_u32(attributes[IFLA_MTU]);
  if (is_u32(attributes[IFLA_LINK])) link.lower = static_cast<int>(mnl_attr_get_u32(attributes[IFLA_LINK]));
  if (is_u32(attributes[IFLA_MASTER])) link.master = static_cast<int>(mnl_attr_get_u32(attributes[IFLA_MASTER]));
  link.is_up = (header->ifi_flags & IFF_UP) != 0 && (header->ifi_flags & IFF_LOWER_UP) != 0;
  const auto info = nested<IFLA_INFO_MAX + 1>(attributes[IFLA_LINKINFO]);
  link.kind = text_of(info[IFLA_INFO_KIND]);
  if (link.kind == "vlan") {
    const auto data = nested<IFLA_VLAN_MAX + 1>(info[IFLA_INFO_DATA]);
    if (data[IFLA_VLAN_ID] != nullptr && mnl_attr_get_payload_len(data[IFLA_VLAN_ID]) >= 2)
      link.vid = mnl_attr_get_u16(data[IFLA_VLAN_ID]);
  } else if (link.kind == "vxlan") {
    link.vxlan = vxlan_of(info[IFLA_INFO_DATA]);
    link.vni = link.vxlan->vni;
  } else if (link.kind == "bridge") {
    link.bridge = bridge_of(info[IFLA_INFO_DATA]);
  }
  if (text_of(info[IFLA_INFO_SLAVE_KIND]) == "bridge") link.bridge_port = bridge_port_of(info[IFLA_INFO_SLAVE_DATA]);
  return link;
}

std::optional<Neighbour> parse_neighbour(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWNEIGH && message->nlmsg_type != RTM_DELNEIGH) return std::nullopt;
  const auto* header = header_of<ndmsg>(message);
  if (header == nullptr || (header->ndm_family != AF_INET && header->ndm_family != AF_INET6)) return std::nullopt;
  const auto attributes = attributes_of<NDA_MAX + 1, ndmsg>(message);
  const auto address = address_of(attributes[NDA_DST]);
  if (!address) return std::nullopt;
  Neighbour neighbour;
  neighbour.ifindex = header->ndm_ifindex;
  neighbour.address = *address;
  neighbour.state = header->ndm_state;
  neighbour.mac = mac_of(attributes[NDA_LLADDR]);
  return neighbour;
}

std::optional<Route> parse_route(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWROUTE) return std::nullopt;
  const auto* header = header_of<rtmsg>(message);
  if (header == nullptr) return std::nullopt;
  const auto attributes = attributes_of<RTA_MAX + 1, rtmsg>(message);
  Route route;
  route.is_unicast = header->rtm_type == RTN_UNICAST;
  route.is_local = header->rtm_type == RTN_LOCAL;
  if (is_u32(attributes[RTA_OIF])) route.ifindex = static_cast<int>(mnl_attr_get_u32(attributes[RTA_OIF]));
  route.gateway = address_of(attributes[RTA_GATEWAY]);
  if (const auto* via = attributes[RTA_VIA]; via != nullptr && mnl_attr_get_payload_len(via) >= sizeof(rtvia)) {
    // An IPv4 route through an IPv6 next hop (RFC 5549).
    const auto* bytes = static_cast<const std::uint8_t*>(mnl_attr_get_payload(via));
    const std::size_t length = mnl_attr_get_payload_len(via) - sizeof(rtvia);
    if (length == 4) route.gateway = IpAddress::from_v4_bytes(bytes + sizeof(rtvia));
    if (length == 16) route.gateway = IpAddress::from_v6_bytes(bytes + sizeof(rtvia));
  }
  route.source = address_of(attributes[RTA_PREFSRC]);
  const auto metrics = nested<RTAX_MAX + 1>(attributes[RTA_METRICS]);
  if (is_u32(metrics[RTAX_MTU])) route.mtu = mnl_attr_get_u32(metrics[RTAX_MTU]);
  rta_cacheinfo cache{};
  if (const nlattr* info = attributes[RTA_CACHEINFO]; info != nullptr && mnl_attr_get_payload_len(info) >= sizeof cache) {
    std::memcpy(&cache, mnl_attr_get_payload(info), sizeof cache);
    route.is_mtu_learned = route.mtu != 0 && cache.rta_expires != 0;
  }
  return route;
}

std::optional<InterfaceIp> parse_address(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWADDR && message->nlmsg_type != RTM_DELADDR) return std::nullopt;
  const auto* header = header_of<ifaddrmsg>(message);
  if (header == nullptr) return std::nullopt;
  const auto attributes = attributes_of<IFA_MAX + 1, ifaddrmsg>(message);
  // IFA_LOCAL is ours; on point-to-point links IFA_ADDRESS is the other end's.
  auto address = address_of(attributes[IFA_LOCAL]);
  if (!address) address = address_of(attributes[IFA_ADDRESS]);
  if (!address) return std::nullopt;
  return InterfaceIp{static_cast<int>(header->ifa_index), *address, header->ifa_prefixlen};
}

namespace {

struct BridgeVlanReader {
  std::vector<BridgeVlan> vlans;
  std::uint16_t range_begin = 0;
};

int read_bridge_vlan(const nlattr* attribute, void* data) {
  auto& reader = *static_cast<BridgeVlanReader*>(data);
  bridge_vlan_info info{};
  if (mnl_attr_get_type(attribute) != IFLA_BRIDGE_VLAN_INFO || mnl_attr_get_payload_len(attribute) < sizeof info)
    return MNL_CB_OK;
  std::memcpy(&info, mnl_attr_get_payload(attribute), sizeof info);
  if ((info.flags & BRIDGE_VLAN_INFO_RANGE_BEGIN) != 0) {
    reader.range_begin = info.vid;
    return MNL_CB_OK;
  }
  const bool is_range = (info.flags & BRIDGE_VLAN_INFO_RANGE_END) != 0 && reader.range_begin != 0;
  const auto flags = static_cast<std::uint16_t>(info.flags & (BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED));
  for (unsigned vid = is_range ? reader.range_begin : info.vid; vid <= info.vid; ++vid)
    reader.vlans.push_back({static_cast<std::uint16_t>(vid), flags});
  reader.range_begin = 0;
  return MNL_CB_OK;
}

}  // namespace

std::vector<BridgeVlan> parse_bridge_vlans(const nlmsghdr* message) {
  BridgeVlanReader reader;
  if (message->nlmsg_type != RTM_NEWLINK) return {};
  const auto attributes = attributes_of<IFLA_MAX + 1, ifinfomsg>(message);
  if (attributes[IFLA_AF_SPEC] != nullptr)
    mnl_attr_parse_nested(attributes[IFLA_AF_SPEC], read_bridge_vlan, &reader);
  return std::move(reader.vlans);
}

}  // namespace vx::control
