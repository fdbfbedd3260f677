// SPDX-License-Identifier: Apache-2.0
// What a worker is told of a switch with one underlay, one VTEP and guests' ports that are members of every VLAN: the ports are the
// caller's, in memory or not.
#pragma once

#include <memory>
#include <vector>

#include "bench/frames.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/queues.h"

namespace vx::bench {

// Ports 0 (the underlay) and 1.. (the guests'), overlay 0 between them, each port with transmit queue 0.
inline void fill_state(ForwardingState& state, Assignment& assignment, const std::shared_ptr<Port>& underlay,
                       const std::vector<std::shared_ptr<Port>>& guests, const std::shared_ptr<Fdb>& fdb, bool udp_csum) {
  state.underlay.port = 0;
  state.underlay.mtu = 1500;
  state.underlay.local = {kHere};
  VlanTable vlans;
  vlans.pvid = 1;
  vlans.members.insert_range(1, 4094);
  vlans.untagged.insert(1);
  OverlayState overlay;
  overlay.exists = true;
  overlay.vni = kVni;
  overlay.local = kHere;
  overlay.udp_csum = udp_csum;
  overlay.fdb = fdb;
  overlay.tunnel_vlans = std::make_shared<const VlanTable>(vlans);
  overlay.vteps = VtepTable({make_vtep()});
  state.ports.resize(guests.size() + 1);
  state.ports[0].port = underlay;
  state.ports[0].is_underlay = true;
  assignment.tx = {{underlay.get(), 0, nullptr}};
  for (std::size_t i = 1; i <= guests.size(); ++i) {
    state.ports[i].port = guests[i - 1];
    state.ports[i].overlay = 0;
    state.ports[i].vlans = overlay.tunnel_vlans;
    overlay.ports.push_back(static_cast<PortIndex>(i));
    assignment.tx.push_back({guests[i - 1].get(), 0, nullptr});
  }
  state.overlays.push_back(overlay);
}

}  // namespace vx::bench
