// SPDX-License-Identifier: Apache-2.0
// Everything the steps read besides the FDB: ports, VLANs, overlays, VTEPs. Immutable once published; the
// management thread builds a changed copy, publishes it to the workers by one pointer store, waits until every
// worker has passed a quiescent point, and only then frees the old one (worker.h).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "dataplane/fdb.h"
#include "dataplane/packet.h"
#include "dataplane/port.h"
#include "dataplane/token_bucket.h"
#include "dataplane/vlan_table.h"
#include "dataplane/vtep_table.h"
#include "dataplane/wire.h"

namespace vx {

struct PortState {
  std::shared_ptr<Port> port;           // null: the index is not in use
  OverlayIndex overlay = kNoIndex;      // kNoIndex for the underlay
  bool is_underlay = false;
  bool is_up = true;
  bool learning = true;
  std::uint8_t flags = 0;               // protocol::PortFlag
  std::uint32_t storm_pps = 0;          // flooded packets a second at most, over all workers; 0: no limit
  std::shared_ptr<SharedTokenBucket> storm;  // what keeps that limit; one per port for as long as it lives
  std::shared_ptr<SharedTokenBucket> too_big;  // limits the packet-too-big messages sent to it; likewise
  std::shared_ptr<const VlanTable> vlans;
  MacAddress own_mac{};                 // protocol::PortConfig::own_mac
  bool delivers = false;                // to the host behind a bridge that stands by
};

using OverlayByVid = std::array<OverlayIndex, kVidMask + 1>;

struct OverlayState {
  bool exists = false;
  std::uint32_t vni = 0;
  IpAddress local;                      // our VTEP address
  std::uint16_t udp_port = kVxlanPort;
  std::uint16_t mtu = 1500;             // layer-3 bytes of an inner frame at most
  std::uint8_t tos = 0;                 // DSCP bits when not inherited; ECN is always copied
  bool tos_inherit = false;
  bool udp_csum = true;                 // on IPv4
  bool learning = true;                 // MACs behind VTEPs
  bool accept_unknown_vteps = false;    // vtep-learning yes | flood
  std::uint8_t tunnel_flags = 0;        // protocol::PortFlag, of the tunnel as a port
  bool mss_clamp = false;               // TCP MSS of SYNs is lowered to what `mtu` allows
  MacAddress own_mac{};                 // of the tunnel as a port
  PortIndex uplink = kNoIndex;          // netdev mode: every tunnel frame goes there
  std::shared_ptr<Fdb> fdb;
  std::shared_ptr<const VlanTable> tunnel_vlans;
  VtepTable vteps;
  std::vector<PortIndex> ports;         // guest ports of this overlay, for flooding; its home's where it has one
  OverlayIndex home = kNoIndex;         // whose ports these are; kNoIndex: its own
  std::shared_ptr<const OverlayByVid> by_vid;  // of a home: whose a guest's frame is; null: this one's
};

struct UnderlayState {
  PortIndex port = kNoIndex;            // kNoIndex: none yet
  std::uint16_t vlan = 0;               // outer VID; 0: untagged
  std::uint16_t mtu = 1500;             // outer IP packet at most, bytes
  bool own_address = false;             // answer ARP, ND and echo for `local`
  MacAddress mac;                       // our MAC on the underlay
  std::vector<IpAddress> local;
};

struct ForwardingState {
  std::uint64_t version = 0;
  UnderlayState underlay;
  std::vector<OverlayState> overlays;   // by OverlayIndex
  std::vector<PortState> ports;         // by PortIndex
};

}  // namespace vx
