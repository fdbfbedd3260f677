// SPDX-License-Identifier: Apache-2.0
// First step of every frame, from a guest or out of the tunnel: whose VLAN is it, may it enter, what are its
// FDB keys. IEEE 802.1Q section 8.6 as the kernel's VLAN-aware bridge has it; next step: bridge.h.
#pragma once

#include <emmintrin.h>

#include "dataplane/fdb.h"
#include "dataplane/layer3.h"
#include "dataplane/packet.h"
#include "dataplane/vlan_table.h"

namespace vx {

// 01:80:C2:00:00:01 to :0F: never forwarded by a bridge (IEEE 802.1Q table 8-1). ..:00, the BPDUs, passes with STP
// off, as in the kernel.
[[nodiscard]] constexpr bool is_dropped_link_local(std::uint64_t mac) noexcept {
  return (mac & ~std::uint64_t{0xf}) == 0x0180c2000000 && (mac & 0xf) != 0;
}

// The VLAN that classify() will find, for frames that it takes.
[[nodiscard]] inline std::uint16_t peek_vid(const Packet& packet, const VlanTable& vlans) noexcept {
  if (vlans.filtering == 0 || packet.length < sizeof(EthernetHeader) + sizeof(VlanTag) ||
      view<EthernetHeader>(packet.data)->type != ether_type::kVlan)
    return vlans.pvid;
  const std::uint16_t vid = view<VlanTag>(packet.data + sizeof(EthernetHeader))->tci.host() & kVidMask;
  return vid != 0 ? vid : vlans.pvid;
}

// Sets tci, is_tagged, source_key and destination_key. `truncated` is what a frame cut short is called here:
// kGuestTruncated or kInnerTruncated.
[[nodiscard]] inline DropReason classify(Packet& packet, const VlanTable& vlans, DropReason truncated) noexcept {
  if (packet.length < sizeof(EthernetHeader)) [[unlikely]] return truncated;
  const std::uint64_t first = __builtin_bswap64(load<std::uint64_t>(packet.data));       // destination, 2 bytes more
  const std::uint64_t second = __builtin_bswap64(load<std::uint64_t>(packet.data + 6));  // source, ethertype
  const std::uint64_t destination = first >> 16;
  const std::uint64_t source = second >> 16;
  constexpr std::uint64_t kGroupBit = std::uint64_t{1} << 40;
  if ((source & kGroupBit) != 0 || source == 0) [[unlikely]] return DropReason::kSmacInvalid;
  if (is_dropped_link_local(destination)) [[unlikely]] return DropReason::kLinkLocal;

  std::uint16_t tci = vlans.pvid;
  const bool is_tagged = (second & 0xffff) == ether_type::kVlan.host() && vlans.filtering != 0;
  if (is_tagged) {
    if (packet.length < sizeof(EthernetHeader) + sizeof(VlanTag)) [[unlikely]] return truncated;
    const std::uint16_t in_frame = view<VlanTag>(packet.data + sizeof(EthernetHeader))->tci.host();
    // A priority tag (VID 0) belongs to the PVID and keeps its PCP (IEEE 802.1Q section 6.9).
    tci = (in_frame & kVidMask) != 0 ? in_frame : static_cast<std::uint16_t>(in_frame | vlans.pvid);
  }
  const std::uint16_t vid = tci & kVidMask;
  if (!vlans.members.contains(vid) || vid == kNoPvid) [[unlikely]] return DropReason::kVlanNotMember;
  packet.set_vlan(tci, is_tagged);
  packet.source_key = static_cast<std::uint64_t>(vid) << 48 | source;
  packet.destination_key = static_cast<std::uint64_t>(vid) << 48 | destination;
  return DropReason::kNone;
}

// Frames in a row with the same first 16 bytes (MACs, type, TCI) are classified alike, by the same VLANs.
class ClassifyShortcut {
 public:
  // True: as the last one that remember() was told of; done.
  [[nodiscard]] bool is_as_last(Packet& packet) const noexcept {
    if (last_ == nullptr || packet.length < kLeastLength) [[unlikely]] return false;
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(first_bytes(packet), first_bytes(*last_))) != 0xffff) return false;
    packet.set_vlan(last_->tci, last_->is_tagged);
    packet.source_key = last_->source_key;
    packet.destination_key = last_->destination_key;
    return true;
  }
  // `packet` has been classified; it and its bytes stay as they are.
  void remember(const Packet& packet) noexcept {
    if (packet.length >= kLeastLength) [[likely]] last_ = &packet;
  }

 private:
  [[nodiscard]] static __m128i first_bytes(const Packet& packet) noexcept {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(packet.data));
  }
  static constexpr std::uint32_t kLeastLength = sizeof(EthernetHeader) + sizeof(VlanTag);  // none is truncated
  const Packet* last_ = nullptr;
};

}  // namespace vx
