// SPDX-License-Identifier: Apache-2.0
// Pipeline's way out: packets in a row to one place, what depends on the place alone looked at once.
#include <array>
#include <utility>

#include "dataplane/egress_tag.h"
#include "dataplane/host_address.h"
#include "dataplane/pipeline.h"

namespace vx {

// A lone one, as floods are: what a row of them shares would cost more to prepare than it spares.
DropReason Pipeline::send_one_to_vtep(Packet& packet, const Vtep& vtep, const Domain& domain) noexcept {
  if (const auto reason = apply_egress_tag(packet, *domain.tunnel_vlans); reason != DropReason::kNone) [[unlikely]] return reason;
  if (!packet.offload.is_plain()) [[unlikely]] return sender_.send_encapsulated(packet, vtep, domain.encap, domain.underlay);
  const DropReason reason = encap(packet, vtep, domain.encap);
  if (reason == DropReason::kNone) [[likely]] sender_.send(packet, domain.underlay);
  return reason;
}

void Pipeline::send_to_vtep(Packets packets, VtepIndex vtep, const Domain& domain) noexcept {
  const VtepTable& vteps = domain.overlay.vteps;
  if (vtep >= vteps.size() || !vteps[vtep].exists || domain.tunnel_vlans == nullptr) [[unlikely]] {
    for (Packet* packet : packets) sender_.drop_outgoing(*packet, DropReason::kUnderlayUnresolved, domain.underlay);
    return;
  }
  if (packets.size() == 1) {
    const DropReason reason = send_one_to_vtep(*packets[0], vteps[vtep], domain);
    if (reason != DropReason::kNone) [[unlikely]] refuse_outgoing(*packets[0], reason, vtep, domain);
    return;
  }
  const Encapsulator encapsulate(vteps[vtep], domain.encap);
  EgressTag tag(*domain.tunnel_vlans);
  std::array<Packet*, kMaxBurst> ready;
  unsigned count = 0;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    Packet* packet = packets[i];
    if (domain.encap.udp_csum && i + 1 < packets.size()) prefetch_payload(*packets[i + 1]);
    DropReason reason = tag.apply(*packet);
    if (reason == DropReason::kNone) [[likely]] {
      if (!packet->offload.is_plain()) [[unlikely]] {
        sender_.send_plain(ready.data(), std::exchange(count, 0), domain.underlay);  // in order
        reason = sender_.send_encapsulated(*packet, vteps[vtep], domain.encap, domain.underlay);
        if (reason == DropReason::kNone) continue;
      } else {
        reason = encapsulate(*packet);
      }
    }
    if (reason == DropReason::kNone) [[likely]] ready[count++] = packet;
    else refuse_outgoing(*packet, reason, vtep, domain);
  }
  sender_.send_plain(ready.data(), count, domain.underlay);
}

void Pipeline::send_to_port(Packets packets, PortIndex index, const Domain& domain) noexcept {
  const Sender::Egress* egress = index < kMaxPorts ? &sender_.egress(index) : nullptr;
  if (egress == nullptr || egress->overlay != domain.home || egress->vlans == nullptr) [[unlikely]] {
    for (Packet* packet : packets) sender_.drop_outgoing(*packet, DropReason::kPortDown, index);
    return;
  }
  if (packets.size() == 1) {
    Packet& packet = *packets[0];
    if (const auto reason = apply_egress_tag(packet, *egress->vlans); reason != DropReason::kNone) [[unlikely]]
      return sender_.drop_outgoing(packet, reason, index);
    if (egress->delivers) [[unlikely]] address_to_host(packet, index, domain.overlay, *state_);
    return sender_.send(packet, index);
  }
  EgressTag tag(*egress->vlans);
  std::array<Packet*, kMaxBurst> ready;
  unsigned count = 0;
  for (Packet* packet : packets) {
    if (const auto reason = tag.apply(*packet); reason != DropReason::kNone) [[unlikely]] {
      sender_.drop_outgoing(*packet, reason, index);
      continue;
    }
    if (egress->delivers) [[unlikely]] address_to_host(*packet, index, domain.overlay, *state_);
    if (packet->offload.is_plain() && !(egress->coalesces && packet->source.is_vtep())) [[likely]] {
      ready[count++] = packet;
    } else {
      sender_.send_plain(ready.data(), std::exchange(count, 0), index);  // in order
      sender_.send(*packet, index);
    }
  }
  sender_.send_plain(ready.data(), count, index);
}

void Pipeline::send_to(Packets packets, Location target, const Domain& domain) noexcept {
  if (target.is_vtep()) send_to_vtep(packets, target.index(), domain);
  else send_to_port(packets, target.raw(), domain);
}

void Pipeline::send_to(Packet& packet, Location target, const Domain& domain) noexcept {
  Packet* const one = &packet;
  send_to({&one, 1}, target, domain);
}

}  // namespace vx
