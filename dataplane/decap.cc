// SPDX-License-Identifier: Apache-2.0
#include "dataplane/decap.h"

#include <cstddef>

#include "dataplane/checksum.h"
#include "dataplane/layer3.h"

namespace vx {
namespace {

constexpr std::uint32_t kHeaders = sizeof(UdpHeader) + sizeof(VxlanHeader);

// One's complement sum of an option-less IPv4 header, folded; 0xffff when its checksum is right.
std::uint16_t sum_of_20(const std::uint8_t* ip) noexcept {
  const std::uint64_t a = load<std::uint64_t>(ip), b = load<std::uint64_t>(ip + 8);
  std::uint64_t sum = (a & 0xffffffff) + (a >> 32) + (b & 0xffffffff) + (b >> 32) + load<std::uint32_t>(ip + 16);
  sum = (sum & 0xffffffff) + (sum >> 32);
  return checksum_fold(static_cast<std::uint32_t>(sum));
}

// What is between the outer Ethernet header and VXLAN, found and checked.
struct Outer {
  const std::uint8_t* source = nullptr;       // 4 or 16 bytes
  const std::uint8_t* destination = nullptr;
  const std::uint8_t* payload = nullptr;      // behind the IP header (and extension headers)
  std::uint32_t payload_length = 0;           // as the IP header has it, within the frame
  bool is_v4 = true;
  std::uint8_t protocol = 0;
  std::uint8_t tos = 0;
  bool is_fragment = false;
};

DropReason parse_ipv4(const std::uint8_t* ip, std::uint32_t left, Outer& outer) noexcept {
  if (left < sizeof(Ipv4Header)) [[unlikely]] return DropReason::kOuterTruncated;
  const auto* header = view<Ipv4Header>(ip);
  const unsigned header_length = header->header_length();
  const unsigned total = header->total_length.host();
  if (header->version_ihl >> 4 != 4 || header_length < sizeof(Ipv4Header) || total < header_length || total > left)
      [[unlikely]]
    return DropReason::kOuterTruncated;
  const std::uint16_t sum = header_length == sizeof(Ipv4Header) ? sum_of_20(ip)
                                                                : checksum_fold(checksum_partial(ip, header_length));
  if (sum != 0xffff) [[unlikely]] return DropReason::kOuterBadChecksum;
  outer = {header->source.data(), header->destination.data(), ip + header_length, total - header_length, true,
           header->protocol, header->tos,
           (header->flags_fragment.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0};
  return DropReason::kNone;
}

DropReason parse_ipv6(const std::uint8_t* ip, std::uint32_t left, Outer& outer) noexcept {
  if (left < sizeof(Ipv6Header)) return DropReason::kOuterTruncated;
  const auto* header = view<Ipv6Header>(ip);
  const unsigned payload = header->payload_length.host();
  if (ip[0] >> 4 != 6 || payload > left - sizeof(Ipv6Header)) return DropReason::kOuterTruncated;
  // A VXLAN peer sends no extension headers but, on a small path, the fragment header.
  outer = {header->source.data(), header->destination.data(), ip + sizeof(Ipv6Header), payload, false,
           header->next_header, ipv6_traffic_class(ip), header->next_header == ip_protocol::kFragment};
  return DropReason::kNone;
}

// `on_wire`: 4 or 16 bytes, by `is_v4`. IpAddress keeps IPv4 mapped: 10 zero bytes, two 0xff, the address.
bool is_same(const std::uint8_t* on_wire, bool is_v4, const IpAddress& address) noexcept {
  const std::uint8_t* bytes = address.bytes.data();
  const auto high = load<std::uint64_t>(bytes), low = load<std::uint64_t>(bytes + 8);
  if (is_v4) return high == 0 && low == (std::uint64_t{load<std::uint32_t>(on_wire)} << 32 | 0xffff0000);
  return high == load<std::uint64_t>(on_wire) && low == load<std::uint64_t>(on_wire + 8);
}

bool is_local(const Outer& outer, const IpAddress& address) noexcept {
  return is_same(outer.destination, outer.is_v4, address);
}

bool is_any_local(const Outer& outer, const ForwardingState& state) noexcept {
  for (const auto& local : state.underlay.local)
    if (is_local(outer, local)) return true;
  for (const auto& overlay : state.overlays)
    if (overlay.exists && is_local(outer, overlay.local)) return true;
  return false;
}

IpAddress source_of(const Outer& outer) noexcept {
  return outer.is_v4 ? IpAddress::from_v4_bytes(outer.source) : IpAddress::from_v6_bytes(outer.source);
}

bool is_own_source(const Outer& outer) noexcept {
  if (outer.is_v4) return load<std::uint32_t>(outer.source) == load<std::uint32_t>(outer.destination);
  return std::memcmp(outer.source, outer.destination, 16) == 0;
}

bool is_udp_sum_right(const Outer& outer, std::uint32_t udp_length) noexcept {
  const std::uint8_t words[2] = {0, ip_protocol::kUdp};
  std::uint64_t pseudo = load<std::uint16_t>(words) + std::uint64_t{Be16(static_cast<std::uint16_t>(udp_length)).raw()};
  const unsigned address_words = outer.is_v4 ? 1 : 4;
  for (unsigned i = 0; i < address_words; ++i)
    pseudo += std::uint64_t{load<std::uint32_t>(outer.source + 4 * i)} + load<std::uint32_t>(outer.destination + 4 * i);
  pseudo = (pseudo & 0xffffffff) + (pseudo >> 32);
  pseudo = (pseudo & 0xffffffff) + (pseudo >> 32);
  return checksum_fold(checksum_partial(outer.payload, udp_length, static_cast<std::uint32_t>(pseudo))) == 0xffff;
}

bool takes(const OverlayState& overlay, const Outer& outer, Be16 udp_port) noexcept {
  return overlay.exists && overlay.udp_port == udp_port.host() && is_local(outer, overlay.local);
}

bool any_takes(const ForwardingState& state, const Outer& outer, Be16 udp_port) noexcept {
  for (const auto& overlay : state.overlays)
    if (takes(overlay, outer, udp_port)) return true;
  return false;
}

OverlayIndex overlay_for(const ForwardingState& state, std::uint32_t vni, const Outer& outer, Be16 udp_port) noexcept {
  for (std::size_t i = 0; i < state.overlays.size(); ++i)
    if (state.overlays[i].vni == vni && takes(state.overlays[i], outer, udp_port)) return static_cast<OverlayIndex>(i);
  return kNoIndex;
}

bool is_source(const Vtep& vtep, const Outer& outer) noexcept {
  return vtep.exists && is_same(outer.source, outer.is_v4, vtep.address);
}

// Offset of layer 3; 0 when the frame's VLAN is not the underlay's.
std::uint32_t outer_layer3(const Packet& packet, const UnderlayState& underlay, Be16& type) noexcept {
  type = view<EthernetHeader>(packet.data)->type;
  if (type != ether_type::kVlan) return underlay.vlan == 0 ? sizeof(EthernetHeader) : 0;
  const auto* tag = view<VlanTag>(packet.data + sizeof(EthernetHeader));
  type = tag->type;
  // Where no tag is expected, VID 0 (a priority tag) is none.
  return (tag->tci.host() & kVidMask) == underlay.vlan ? sizeof(EthernetHeader) + sizeof(VlanTag) : 0;
}

DropReason parse_outer(const Packet& packet, const ForwardingState& state, Outer& outer) noexcept {
  if (packet.length < sizeof(EthernetHeader)) [[unlikely]] return DropReason::kOuterTruncated;
  const bool is_tagged = view<EthernetHeader>(packet.data)->type == ether_type::kVlan;
  if (is_tagged && packet.length < sizeof(EthernetHeader) + sizeof(VlanTag)) [[unlikely]] return DropReason::kOuterTruncated;
  Be16 type;
  const std::uint32_t layer3 = outer_layer3(packet, state.underlay, type);
  if (layer3 == 0) [[unlikely]] return DropReason::kOuterNotForUs;
  if (type == ether_type::kIpv4) [[likely]] return parse_ipv4(packet.data + layer3, packet.length - layer3, outer);
  if (type == ether_type::kIpv6) return parse_ipv6(packet.data + layer3, packet.length - layer3, outer);
  return DropReason::kOuterNotForUs;
}

// The source as a place: a known VTEP, or nowhere with its address in `unknown`.
DropReason locate_source(const Outer& outer, const ForwardingState& state, const OverlayState& overlay,
                         DecapCache& cache, Location& source, IpAddress& unknown) noexcept {
  if (cache.vtep >= overlay.vteps.size() || !is_source(overlay.vteps[cache.vtep], outer)) [[unlikely]] {
    const IpAddress address = source_of(outer);
    cache.vtep = overlay.vteps.find(address);
    if (cache.vtep == kNoIndex) {
      for (const auto& local : state.underlay.local)
        if (local == address) return DropReason::kOuterOwnSource;
      if (!overlay.accept_unknown_vteps) return DropReason::kVxlanUnknownVtep;
      unknown = address;
      source = Location();
      return DropReason::kNone;
    }
  }
  source = Location::vtep(cache.vtep);
  return DropReason::kNone;
}

// RFC 768: zero is no checksum; over IPv6 that is an error, as in the kernel (RFC 8200 section 8.1).
bool is_udp_right(const Packet& packet, const Outer& outer) noexcept {
  if ((packet.offload.flags & OffloadMeta::kChecksumVerified) != 0) [[unlikely]] return true;
  const auto* udp = view<UdpHeader>(outer.payload);
  return udp->checksum.raw() == 0 ? outer.is_v4 : is_udp_sum_right(outer, udp->length.host());
}

// The last two checks, inner length and ECN; then the outer headers go.
DropReason strip(Packet& packet, const Outer& outer, Location source) noexcept {
  const std::uint32_t inner_length = view<UdpHeader>(outer.payload)->length.host() - kHeaders;
  auto* inner = packet.data + (outer.payload + kHeaders - packet.data);
  if (inner_length < sizeof(EthernetHeader)) [[unlikely]] return DropReason::kInnerTruncated;
  if ((outer.tos & kEcnMask & ~kEct0) != 0) [[unlikely]] {  // ECT(0) and not-ECT change nothing inside
    if (const auto reason = decap_ecn(inner, inner_length, outer.tos); reason != DropReason::kNone) return reason;
  }
  const auto front = static_cast<std::uint16_t>(inner - packet.data);
  packet.tailroom += packet.length - front - inner_length;
  packet.pull_front(front);
  packet.length = inner_length;
  packet.offload = {};  // spoke of the outer packet
  packet.set_origin(packet.ingress_port, source);
  return DropReason::kNone;
}

// The headers of a packet accepted from the VTEP in `cache`, for decap_as_last(); options and IPv6 take the long way.
void remember(const Packet& packet, const Outer& outer, DecapCache& cache) noexcept {
  const auto layer3 = static_cast<std::uint32_t>(outer.payload - sizeof(Ipv4Header) - packet.data);
  if (!outer.is_v4 || outer.source != packet.data + layer3 + offsetof(Ipv4Header, source)) return;
  cache.layer3 = layer3;
  cache.least_length = layer3 + sizeof(Ipv4Header) + kHeaders + sizeof(EthernetHeader);
  constexpr Be16 kVid{kVidMask};
  cache.tag_mask = layer3 == sizeof(EthernetHeader) ? 0 : 0xffff | std::uint32_t{kVid.raw()} << 16;
  cache.tag = load<std::uint32_t>(packet.data + offsetof(EthernetHeader, type));
  cache.addresses = load<std::uint64_t>(outer.source);
  cache.vxlan = load<std::uint64_t>(outer.payload + sizeof(UdpHeader));
  cache.udp_port = view<UdpHeader>(outer.payload)->destination_port.raw();
  cache.has_checksum = view<UdpHeader>(outer.payload)->checksum.raw() != 0;
  const std::uint8_t words[4] = {0, ip_protocol::kUdp, 0, 0};
  cache.pseudo_sum = checksum_fold(checksum_partial(outer.source, 8, checksum_partial(words, 4)));
}

}  // namespace

DropReason decap_ecn(std::uint8_t* frame, std::uint32_t length, std::uint8_t outer) noexcept {
  outer &= kEcnMask;
  if (outer == kNotEct || outer == kEct0) return DropReason::kNone;  // never changes the inner field
  const Layer3 at = layer3_of(frame, length);
  std::uint8_t* ip = frame + at.offset;
  const bool is_v4 = at.type == ether_type::kIpv4 && length - at.offset >= sizeof(Ipv4Header);
  const bool is_v6 = at.type == ether_type::kIpv6 && length - at.offset >= sizeof(Ipv6Header);
  if (!is_v4 && !is_v6) return DropReason::kNone;
  const std::uint8_t tos = is_v4 ? ip[1] : ipv6_traffic_class(ip);
  const std::uint8_t inner = tos & kEcnMask;
  if (inner == kNotEct) return outer == kCe ? DropReason::kEcnNotEct : DropReason::kNone;
  if (inner == kCe || (outer == kEct1 && inner != kEct0)) return DropReason::kNone;
  const auto marked = static_cast<std::uint8_t>((tos & ~kEcnMask) | outer);
  if (is_v6) {
    set_ipv6_traffic_class(ip, marked);
    return DropReason::kNone;
  }
  const auto before = load<std::uint16_t>(ip);
  ip[1] = marked;
  auto* header = view<Ipv4Header>(ip);
  header->checksum = Be16::from_raw(checksum_update(header->checksum.raw(), before, load<std::uint16_t>(ip)));
  return DropReason::kNone;
}

DecapResult decap(Packet& packet, const ForwardingState& state, DecapCache& cache, IpAddress& unknown_source) noexcept {
  const auto dropped = [](DropReason reason) { return DecapResult{reason, kNoIndex}; };
  if (decap_as_last(packet, cache)) return {DropReason::kNone, cache.overlay};
  cache.least_length = UINT32_MAX;
  Outer outer;
  if (const auto reason = parse_outer(packet, state, outer); reason != DropReason::kNone) [[unlikely]]
    return dropped(reason);
  if (outer.is_fragment) [[unlikely]]
    return dropped(is_any_local(outer, state) ? DropReason::kOuterFragment : DropReason::kOuterNotForUs);
  if (outer.protocol != ip_protocol::kUdp) [[unlikely]] return dropped(DropReason::kOuterNotForUs);

  if (outer.payload_length < sizeof(UdpHeader)) [[unlikely]] return dropped(DropReason::kOuterTruncated);
  const auto* udp = view<UdpHeader>(outer.payload);
  const std::uint32_t udp_length = udp->length.host();
  const auto* vxlan = view<VxlanHeader>(outer.payload + sizeof(UdpHeader));
  const bool has_vxlan = udp_length >= kHeaders && udp_length <= outer.payload_length;

  // Most packets are of the same overlay as the one before.
  OverlayIndex overlay_index = cache.overlay;
  const bool is_cached = overlay_index < state.overlays.size() && has_vxlan &&
                         state.overlays[overlay_index].vni == vxlan->vni_reserved.host() >> 8 &&
                         takes(state.overlays[overlay_index], outer, udp->destination_port);
  if (!is_cached) [[unlikely]] {
    if (!any_takes(state, outer, udp->destination_port)) return dropped(DropReason::kOuterNotForUs);
    if (!has_vxlan) return dropped(DropReason::kOuterTruncated);
  }
  if (is_own_source(outer)) [[unlikely]] return dropped(DropReason::kOuterOwnSource);

  if (!is_udp_right(packet, outer)) [[unlikely]] return dropped(DropReason::kOuterBadChecksum);
  // RFC 7348 section 5: I set. Its reserved bits are dropped when set, both words of them, as the kernel does.
  if (vxlan->flags_reserved.host() != kVxlanFlagI || (vxlan->vni_reserved.host() & 0xff) != 0) [[unlikely]]
    return dropped(DropReason::kVxlanBadFlags);
  if (!is_cached) [[unlikely]] {
    overlay_index = overlay_for(state, vxlan->vni_reserved.host() >> 8, outer, udp->destination_port);
    if (overlay_index == kNoIndex) return dropped(DropReason::kVxlanUnknownVni);
    cache.overlay = overlay_index;
    cache.vtep = kNoIndex;
  }
  Location source;
  if (const auto reason = locate_source(outer, state, state.overlays[overlay_index], cache, source, unknown_source);
      reason != DropReason::kNone) [[unlikely]]
    return dropped(reason);

  if (source.is_vtep()) remember(packet, outer, cache);
  const DropReason reason = strip(packet, outer, source);
  return reason == DropReason::kNone ? DecapResult{reason, overlay_index} : dropped(reason);
}

}  // namespace vx
