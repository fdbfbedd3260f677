// SPDX-License-Identifier: Apache-2.0
// The 802.1Q tag on the way out, per egress: pushed, popped, or kept with the bridge's VID written in (a priority
// tag got one). PCP and DEI are kept where the egress is tagged. IEEE 802.1Q section 8.6.8 f.
#pragma once

#include "dataplane/layer3.h"
#include "dataplane/packet.h"
#include "dataplane/vlan_table.h"

namespace vx {

inline void pop_tag(Packet& packet) noexcept {
  const auto low = load<std::uint64_t>(packet.data);
  const auto high = load<std::uint32_t>(packet.data + 8);
  packet.pull_front(kVlanTagBytes);
  store(packet.data, low);
  store(packet.data + 8, high);
  packet.offload.shift(-static_cast<int>(kVlanTagBytes));
  packet.is_tagged = false;
}

// The caller has checked headroom >= 4.
inline void push_tag(Packet& packet, std::uint16_t tci) noexcept {
  const auto low = load<std::uint64_t>(packet.data);
  const auto high = load<std::uint32_t>(packet.data + 8);
  packet.push_front(kVlanTagBytes);
  store(packet.data, low);
  store(packet.data + 8, high);
  view<EthernetHeader>(packet.data)->type = ether_type::kVlan;
  view<VlanTag>(packet.data + sizeof(EthernetHeader))->tci = Be16(tci);
  packet.offload.shift(kVlanTagBytes);
  packet.is_tagged = true;
}

// `vlans`: of the egress. The frame has been classified; on kNone it is as the egress wants it.
[[nodiscard]] inline DropReason apply_egress_tag(Packet& packet, const VlanTable& vlans) noexcept {
  const std::uint16_t vid = packet.vid();
  if (!vlans.members.contains(vid)) [[unlikely]] return DropReason::kVlanNotMember;
  if (vlans.untagged.contains(vid)) {
    if (packet.is_tagged) pop_tag(packet);
    return DropReason::kNone;
  }
  if (packet.is_tagged) {
    view<VlanTag>(packet.data + sizeof(EthernetHeader))->tci = Be16(packet.tci);
    return DropReason::kNone;
  }
  if (packet.headroom < kVlanTagBytes) [[unlikely]] return DropReason::kNoHeadroom;
  push_tag(packet, packet.tci);
  return DropReason::kNone;
}

// apply_egress_tag() for packets in a row to one egress: most are of the VLAN of the one before and need no change.
class EgressTag {
 public:
  explicit EgressTag(const VlanTable& vlans) noexcept : vlans_(vlans) {}
  [[nodiscard]] DropReason apply(Packet& packet) noexcept {
    const std::uint32_t word = packet.vlan_word();
    if (word == unchanged_) [[likely]] return DropReason::kNone;
    const DropReason reason = apply_egress_tag(packet, vlans_);
    if (reason == DropReason::kNone && vlans_.untagged.contains(packet.vid()) && word == Packet::vlan_word(packet.tci, false))
      unchanged_ = word;
    return reason;
  }

 private:
  const VlanTable& vlans_;
  std::uint32_t unchanged_ = 0;  // the vlan_word() of packets that stay as they are; 0 is nobody's: a classified one has reason kNone
};

}  // namespace vx
