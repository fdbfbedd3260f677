// SPDX-License-Identifier: Apache-2.0
#include "control/takeover.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <linux/if_bridge.h>
#include <linux/neighbour.h>
#include <net/if.h>

#include <algorithm>

#include "config/keys.h"
#include "config/mtu_arithmetic.h"
#include "config/values.h"
#include "control/text.h"
#include "dataplane/fdb.h"

namespace vx::control {

namespace {

constexpr std::uint32_t kLongestAgeing_s = 32767;  // as bridge-ageing has it
constexpr std::uint8_t kTosInherit = 1;            // IFLA_VXLAN_TOS
constexpr std::uint16_t kVlan8021Q = 0x8100;

bool is_group(const IpAddress& ip) { return ip.is_v4() ? (ip.v4_bytes()[0] & 0xf0) == 0xe0 : ip.bytes[0] == 0xff; }

VlanTable table_of(const std::vector<BridgeVlan>& vlans) {
  VlanTable table;
  for (const auto& vlan : vlans) {
    if (vlan.vid < 1 || vlan.vid > kMaxVid) continue;
    table.members.insert(vlan.vid);
    if ((vlan.flags & BRIDGE_VLAN_INFO_UNTAGGED) != 0) table.untagged.insert(vlan.vid);
    if ((vlan.flags & BRIDGE_VLAN_INFO_PVID) != 0) table.pvid = vlan.vid;
  }
  return table;
}

config::PortFlags flags_of(const BridgePortInfo& info) {
  return {info.learning, info.isolated, info.unicast_flood, info.multicast_flood, info.broadcast_flood};
}

class Reader {
 public:
  // `vxlan`: the port of the bridge; null: it has none.
  Reader(const config::Settings& file, const BridgeSnapshot& kernel, KernelNetwork& network, const Link* vxlan)
      : file_(file), kernel_(kernel), network_(network), s_(file), vxlan_(vxlan) {}

  Takeover run() {
    if (find_devices()) {
      read_vxlan();
      read_bridge();
      read_underlay();
      read_ports();
      read_fdb();
      judge();
    }
    if (is_possible_) result_.settings = std::move(s_);
    return std::move(result_);
  }

 private:
  // The kernel's word, unless the file has one.
  template <typename Value>
  void take(const char* id, Value& into, Value value) {
    if (file_.given.count(id) == 0) into = std::move(value);
  }
  void refuse(std::string why) {
    auto& problems = result_.problems;  // what prevents it comes before remarks
    problems.insert(is_possible_ ? problems.begin() : problems.begin() + 1, std::move(why));
    is_possible_ = false;
  }
  void remark(std::string what) { result_.problems.push_back(std::move(what)); }

  [[nodiscard]] const Link* link(int ifindex) const {
    for (const auto& link : kernel_.links)
      if (link.ifindex == ifindex) return &link;
    return nullptr;
  }
  [[nodiscard]] VlanTable vlans_of(int ifindex) const {
    if (!bridge_->bridge->vlan_filtering) {
      VlanTable all = config::vlan_table_of({}, kOnlyVid);
      all.filtering = 0;
      return all;
    }
    const auto vlans = kernel_.vlans.find(ifindex);
    return vlans == kernel_.vlans.end() ? VlanTable{} : table_of(vlans->second);
  }

  bool find_devices() {
    const std::string& name = file_.bridge.takeover;
    for (const auto& link : kernel_.links)
      if (link.name == name) bridge_ = &link;
    if (bridge_ == nullptr) return refuse(fmt::format("takeover: there is no netdev {}", name)), false;
    if (!bridge_->bridge) return refuse(fmt::format("takeover: {} is no bridge", name)), false;
    result_.bridge = bridge_->ifindex;
    if (bridge_->bridge->vlan_filtering && bridge_->bridge->vlan_protocol != kVlan8021Q)
      return refuse(fmt::format("takeover: {} filters 802.1ad VLANs; 802.1Q only", name)), false;
    if (bridge_->bridge->stp)
      return refuse(fmt::format("takeover: {} runs spanning tree, whose frames vxplane would take: ip link set {} type bridge stp_state 0", name, name)), false;
    if (bridge_->bridge->multicast_snooping && bridge_->bridge->multicast_querier)
      return refuse(fmt::format("takeover: {} asks for multicast groups, and would hear no answers: ip link set {} type bridge mcast_querier 0",
                                name, name)), false;
    if (vxlan_ == nullptr) return refuse(fmt::format("takeover: {} has no vxlan port", name)), false;
    result_.vxlan = vxlan_->ifindex;
    if (vxlan_->vxlan->is_external)
      return refuse(fmt::format("takeover: {} takes its VNI from metadata (external)", vxlan_->name)), false;
    if (!bridge_->is_up || !vxlan_->is_up)
      return refuse(fmt::format("takeover: {} is down", bridge_->is_up ? vxlan_->name : name)), false;
    return true;
  }

  void read_vxlan() {
    const VxlanInfo& info = *vxlan_->vxlan;
    const BridgePortInfo port = vxlan_->bridge_port.value_or(BridgePortInfo{});
    take("vxlan.name", s_.vxlan.name, vxlan_->name);
    take("vxlan.vxlan-id", s_.vxlan.vni, info.vni);
    take("vxlan.vxlan-port", s_.vxlan.port, info.port);
    if (info.local) take("vxlan.vxlan-local-tunnelip", s_.vxlan.local, info.local);
    take("vxlan.vxlan-ttl", s_.vxlan.ttl, info.ttl == 0 ? std::uint8_t{64} : info.ttl);
    if (file_.given.count("vxlan.vxlan-tos") == 0) {
      s_.vxlan.tos_inherit = info.tos == kTosInherit;
      s_.vxlan.tos = s_.vxlan.tos_inherit ? std::uint8_t{0} : static_cast<std::uint8_t>(info.tos & ~3u);
    }
    take("vxlan.udp-csum", s_.vxlan.udp_csum, info.udp_csum);
    take("vxlan.vxlan-learning", s_.vxlan.learning, info.learning && port.learning);
    // The kernel takes frames from whatever VTEP, and learns behind it where it learns at all.
    take("vxlan.vtep-learning", s_.vxlan.vtep_learning, config::VtepLearning::kYes);
    take("vxlan.hold-port", s_.vxlan.hold_port, false);  // its own device has the port
    take("vxlan.mtu", s_.vxlan.mtu, static_cast<std::uint16_t>(std::min({bridge_->mtu, vxlan_->mtu, 65535u})));
    s_.vxlan.flags = flags_of(port);
    s_.vxlan.own_mac = vxlan_->mac;
    result_.fdb_ageing_s = bridge_->bridge->ageing_cs / 100;
    if (info.ageing_s != 0) result_.fdb_ageing_s = std::min(result_.fdb_ageing_s, info.ageing_s);
    if (file_.given.count("vxlan.vxlan-remoteip") == 0) read_remotes();
  }

  void read_remotes() {
    s_.vxlan.remotes.clear();
    const auto add = [&](const IpAddress& ip) {
      auto& remotes = s_.vxlan.remotes;
      if (is_group(ip)) return refuse(fmt::format("takeover: {} floods to the group {}: unicast remotes only", vxlan_->name, format_ip(ip)));
      if (s_.vxlan.local && *s_.vxlan.local == ip) return;
      if (std::find(remotes.begin(), remotes.end(), ip) == remotes.end()) remotes.push_back(ip);
    };
    for (const auto& entry : kernel_.fdb)
      if (entry.ifindex == vxlan_->ifindex && entry.dst && entry.mac.is_zero()) add(*entry.dst);
    std::sort(s_.vxlan.remotes.begin(), s_.vxlan.remotes.end());
  }

  void read_bridge() {
    s_.bridge.name = bridge_->name;
    s_.bridge.vlan_filtering = bridge_->bridge->vlan_filtering;
    take("bridge.bridge-ageing", s_.bridge.ageing_s, std::min(bridge_->bridge->ageing_cs / 100, kLongestAgeing_s));
    if (file_.given.count("bridge.bridge-vids") != 0 || file_.given.count("bridge.bridge-pvid") != 0) return;
    const VlanTable tunnel = vlans_of(vxlan_->ifindex);
    s_.bridge.pvid = tunnel.pvid;
    s_.bridge.vids = tunnel.members;
    s_.bridge.vids.erase(tunnel.pvid);
    s_.bridge.tunnel_vlans.reset();
    if (tunnel != config::vlan_table_of(s_.bridge.vids, s_.bridge.pvid)) s_.bridge.tunnel_vlans = tunnel;
    if (tunnel.members.is_empty())
      remark(fmt::format("takeover: {} carries no VLAN: bridge vlan add dev {} vid 2-4094", vxlan_->name, vxlan_->name));
  }

  // The device that the way to the remotes leads out of; an 802.1Q device is the NIC below it and a tag.
  void read_underlay() {
    const Link* way = nullptr;
    for (const auto& remote : s_.vxlan.remotes) {
      const auto route = network_.route_to(remote, s_.vxlan.local);
      const Link* out = route && route->is_unicast && !route->is_local ? link(route->ifindex) : nullptr;
      if (out != nullptr && way != nullptr && out != way)
        remark(fmt::format("takeover: the way to {} is {}, that to others {}: one underlay device", format_ip(remote), out->name, way->name));
      if (way != nullptr || out == nullptr) continue;
      way = out;
      if (!s_.vxlan.local) s_.vxlan.local = local_towards(remote, *route);
    }
    if (way == nullptr) way = link(vxlan_->vxlan->lower);
    if (way == nullptr && s_.vxlan.local)
      for (const auto& address : network_.addresses())
        if (address.address == *s_.vxlan.local) way = link(address.ifindex);
    // An address on a loopback or dummy device says nothing of the NIC: a route to a remote will.
    if (way != nullptr && (way->name == "lo" || way->kind == "dummy")) way = nullptr;
    if (way == nullptr && file_.given.count("underlay.device") == 0)
      return refuse(fmt::format("takeover: {}: no remote has a route yet, so the underlay device is not known", vxlan_->name));
    if (way == nullptr) return;
    take("underlay.mtu", s_.underlay.mtu, static_cast<std::uint16_t>(std::min(way->mtu, 65535u)));
    const Link* nic = way->kind == "vlan" ? link(way->lower) : way;
    if (nic == nullptr) return refuse(fmt::format("takeover: the device below {} is not here", way->name));
    take("underlay.device", s_.underlay.device, nic->name);
    take("underlay.vlan", s_.underlay.vlan, way->kind == "vlan" ? way->vid : std::uint16_t{0});
    if (nic->master == bridge_->ifindex)
      refuse(fmt::format("takeover: the underlay {} is a port of {} itself", nic->name, bridge_->name));
  }

  // As the kernel chooses it, but for an address in the remote's own subnet, which goes before others.
  std::optional<IpAddress> local_towards(const IpAddress& remote, const Route& route) {
    for (const auto& address : network_.addresses())
      if (address.ifindex == route.ifindex && config::is_in_subnet(remote, {address.address, address.prefix})) return address.address;
    return route.source;
  }

  void read_ports() {
    // Ports of vxplane's own: without VLANs of their own they have the tunnel's, as elsewhere.
    for (auto& port : s_.ports)
      if (!bridge_->bridge->vlan_filtering || port.vlans == config::tunnel_vlans_of(file_.bridge)) port.vlans = vlans_of(vxlan_->ifindex);
    for (const auto& link : kernel_.links) {
      const bool is_guest = link.master == bridge_->ifindex && !link.vxlan && link.name != host_port_name(bridge_->name);
      if (!is_guest || !link.bridge_port) continue;
      // Down, or held back by spanning tree: the kernel forwards nothing there, neither do we.
      if (!link.is_up || !link.bridge_port->is_forwarding) continue;
      if (link.bridge_port->locked)
        refuse(fmt::format("takeover: port {} is locked, which vxplane does not do: bridge link set dev {} locked off", link.name, link.name));
      for (const auto& upper : kernel_.links)
        if (upper.kind == "vlan" && upper.lower == link.ifindex)
          refuse(fmt::format("takeover: port {}: {} on it takes frames before the bridge does, which vxplane would not leave to it", link.name, upper.name));
      if (link.bridge_port->hairpin)
        remark(fmt::format("takeover: port {}: hairpin is not done: its guests do not reach each other", link.name));
      if (kernel_.policed.contains(link.ifindex))
        remark(fmt::format("takeover: port {}: its ingress qdisc (a VM's rate limit) does not see the frames that vxplane takes", link.name));
      config::PortSettings port;
      port.name = link.name;
      port.driver = config::Driver::kNetdev;
      port.vlans = vlans_of(link.ifindex);
      port.flags = flags_of(*link.bridge_port);
      port.own_mac = link.mac;
      port.is_kernels = true;
      limit(port);
      s_.ports.push_back(std::move(port));
    }
    s_.ports.push_back(host_port());
  }

  // The file's line for this port, or for a pattern of names, gives its limits.
  void limit(config::PortSettings& port) const {
    const config::PortSettings* rule = nullptr;
    for (const auto& one : file_.port_rules) {
      if (one.name == port.name) rule = &one;
      if (rule == nullptr && one.is_pattern() && fnmatch(one.name.c_str(), port.name.c_str(), 0) == 0) rule = &one;
    }
    if (rule == nullptr) return;
    port.fdb_max_learned = rule->fdb_max_learned;
    port.storm_pps = rule->storm_pps;
    port.queues = rule->queues;
  }

  config::PortSettings host_port() {
    config::PortSettings port;
    port.name = host_port_name(bridge_->name);
    port.driver = config::Driver::kTap;
    port.vlans = vlans_of(bridge_->ifindex);
    port.flags.learning = false;  // the host's MACs are entries of the kernel's
    port.is_kernels = true;
    port.deliver_ifindex = static_cast<std::uint32_t>(bridge_->ifindex);
    port.own_mac = bridge_->mac;
    return port;
  }

  void read_fdb() {
    std::unordered_map<std::uint64_t, const BridgeFdbEntry*> behind;  // the tunnel, by MAC
    for (const auto& entry : kernel_.fdb)
      if (entry.ifindex == vxlan_->ifindex && entry.dst && !entry.mac.is_zero()) behind[entry.mac.to_u48()] = &entry;
    const bool is_filtering = bridge_->bridge->vlan_filtering;
    const VlanTable hosts = vlans_of(bridge_->ifindex);
    const std::uint16_t tunnel_pvid = is_filtering ? vlans_of(vxlan_->ifindex).pvid : kOnlyVid;
    for (const auto& entry : kernel_.fdb) {
      const bool is_ours = entry.master == bridge_->ifindex || entry.ifindex == bridge_->ifindex;
      if (!is_ours || entry.dst || entry.mac.is_zero() || (entry.mac.bytes[0] & 1) != 0) continue;
      // Without a VLAN an entry is for the whole of an unfiltered bridge, and for no frame of a filtering one.
      if (is_filtering == (entry.vid == 0)) continue;
      const std::uint64_t key = fdb_key(is_filtering ? entry.vid : kOnlyVid, entry.mac);
      KernelPlace place;
      place.is_external = (entry.flags & NTF_EXT_LEARNED) != 0;
      if (place.is_external) place.said = entry.said;
      if ((entry.state & NUD_PERMANENT) != 0 && !place.is_external) {
        // Every port has one for each of its VLANs; the host itself is in few of them.
        if (!hosts.members.contains(fdb_key_vid(key))) continue;
        place.port = host_port_name(bridge_->name);  // local: frames to it are the host's
      } else if (entry.ifindex == vxlan_->ifindex) {
        const auto remote = behind.find(entry.mac.to_u48());
        if (remote == behind.end()) continue;
        place.dst = remote->second->dst;
      } else if (const Link* port = link(entry.ifindex)) {
        place.port = port->name;
      } else {
        continue;  // it has just gone
      }
      result_.fdb[key] = std::move(place);
    }
    // An entry of the vxlan alone (`bridge fdb add MAC dev VXLAN dst IP`): where the bridge floods, one VTEP gets it. The
    // bridge may learn the MAC at a port all the same.
    for (const auto& [mac, entry] : behind) {
      if (tunnel_pvid == kNoPvid || (entry->flags & NTF_EXT_LEARNED) != 0) continue;
      KernelPlace place;
      place.dst = entry->dst;
      place.is_external = true;
      place.said = entry->said;
      result_.fdb.try_emplace(fdb_key(tunnel_pvid, entry->mac), place);
    }
  }

  void judge() {
    if (!is_possible_ || s_.underlay.mtu == 0) return;
    config::Settings sized = s_;
    if (!sized.vxlan.local && !sized.vxlan.remotes.empty()) sized.vxlan.local = sized.vxlan.remotes.front();  // for its IP version
    if (!sized.vxlan.local) return;
    if (const auto verdict = config::judge_mtu(sized)) remark(fmt::format("takeover: {}: mtu: {}", s_.bridge.name, verdict->text));
  }

  const config::Settings& file_;
  const BridgeSnapshot& kernel_;
  KernelNetwork& network_;
  config::Settings s_;
  Takeover result_;
  const Link* vxlan_;
  const Link* bridge_ = nullptr;
  bool is_possible_ = true;
};

// The vxlan ports of the bridge by age, so that the first stays it; of several those that are up.
std::vector<const Link*> tunnels_of(const std::string& bridge, const BridgeSnapshot& kernel) {
  std::vector<const Link*> tunnels;
  for (const auto& one : kernel.links)
    for (const auto& link : kernel.links)
      if (one.name == bridge && link.master == one.ifindex && link.vxlan) tunnels.push_back(&link);
  std::sort(tunnels.begin(), tunnels.end(), [](const Link* a, const Link* b) { return a->ifindex < b->ifindex; });
  if (std::any_of(tunnels.begin(), tunnels.end(), [](const Link* link) { return link->is_up; }))
    std::erase_if(tunnels, [](const Link* link) { return !link->is_up; });
  return tunnels;
}

// Why these tunnels cannot share a bridge, one line; empty: they can.
std::string why_not_together(const config::Settings& file, const std::vector<Takeover>& all) {
  const auto of_both = [&](const config::Settings& a, const config::Settings& b, const std::string& what) {
    return fmt::format("takeover: {}: its vxlan ports {} and {} {}", file.bridge.takeover, a.vxlan.name, b.vxlan.name, what);
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (!all[i].settings || !all[j].settings) continue;
      const auto &a = *all[j].settings, &b = *all[i].settings;
      for (const char* key : {"vxlan.name", "vxlan.vxlan-id", "vxlan.vxlan-remoteip", "bridge.bridge-vids", "bridge.bridge-pvid"})
        if (file.given.count(key) != 0) return of_both(a, b, fmt::format("cannot both have the {} of {}", key, file.source));
      if (!a.bridge.vlan_filtering) return of_both(a, b, "would have every frame both: one VNI a bridge that does not filter VLANs");
      if (a.underlay.device != b.underlay.device || a.underlay.vlan != b.underlay.vlan)
        return of_both(a, b, fmt::format("have different underlays, {} and {}", a.underlay.device, b.underlay.device));
      if (a.vxlan.local != b.vxlan.local) return of_both(a, b, "have different local addresses");
      if (a.vxlan.port != b.vxlan.port) return of_both(a, b, fmt::format("have different UDP ports, {} and {}", a.vxlan.port, b.vxlan.port));
      const VlanTable one = config::tunnel_vlans_of(a.bridge), other = config::tunnel_vlans_of(b.bridge);
      for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid)
        if (one.members.contains(vid) && other.members.contains(vid)) return of_both(a, b, fmt::format("both carry VLAN {}: one VNI a VLAN", vid));
    }
  }
  return {};
}

// Each VLAN and its MACs to one of several tunnels, what is left and the ports to the first.
void share_out(std::vector<Takeover>& all) {
  VidSet left;
  left.insert_range(1, kMaxVid);
  for (std::size_t i = all.size(); i-- > 0;) {
    config::Settings& settings = *all[i].settings;
    VidSet own = i == 0 ? left : config::tunnel_vlans_of(settings.bridge).members;
    for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid)
      if (own.contains(vid)) left.erase(vid);
    std::erase_if(all[i].fdb, [&](const auto& row) { return !own.contains(fdb_key_vid(row.first)); });
    settings.bridge.own_vids = own;
    if (i == 0) continue;
    settings.bridge.home = all[0].settings->vxlan.name;
    settings.ports.clear();
    // What is said of ports is said once.
    std::erase_if(all[i].problems, [&](const std::string& problem) {
      return std::find(all[0].problems.begin(), all[0].problems.end(), problem) != all[0].problems.end();
    });
  }
}

}  // namespace

std::string host_port_name(const std::string& bridge) { return ("vxp-" + bridge).substr(0, IFNAMSIZ - 1); }

std::vector<Takeover> read_takeover(const config::Settings& file, const BridgeSnapshot& kernel, KernelNetwork& network) {
  const std::vector<const Link*> tunnels = tunnels_of(file.bridge.takeover, kernel);
  std::vector<Takeover> all;
  for (const Link* vxlan : tunnels) all.push_back(Reader(file, kernel, network, vxlan).run());
  if (tunnels.empty()) all.push_back(Reader(file, kernel, network, nullptr).run());
  if (all.size() < 2) return all;
  // One without remotes, so far, goes the way of the others.
  const auto known = std::find_if(all.begin(), all.end(), [](const Takeover& one) { return one.settings.has_value(); });
  for (std::size_t i = 0; i < all.size() && known != all.end(); ++i) {
    if (all[i].settings) continue;
    config::Settings with_way = file;
    with_way.underlay = known->settings->underlay;
    if (!with_way.vxlan.local) with_way.vxlan.local = known->settings->vxlan.local;
    with_way.given.insert({"underlay.device", "underlay.vlan", "underlay.mtu"});
    all[i] = Reader(with_way, kernel, network, tunnels[i]).run();
    if (all[i].settings) all[i].settings->given = file.given;
  }
  std::string why = why_not_together(file, all);
  for (const auto& one : all)
    if (!one.settings) return {one};
  if (!why.empty()) {
    Takeover none;
    none.problems.push_back(std::move(why));
    none.bridge = all[0].bridge;
    return {none};
  }
  share_out(all);
  return all;
}

}  // namespace vx::control
