// SPDX-License-Identifier: Apache-2.0
// The way into the tunnel: the VTEP's prebuilt outer header (vtep_table.h) in front of the inner frame, then what
// depends on the packet: source port, lengths, DSCP/ECN, checksums. RFC 7348 section 5, RFC 6040 section 4.1.
#pragma once

#include <smmintrin.h>

#include "dataplane/checksum.h"
#include "dataplane/flow_hash.h"
#include "dataplane/forwarding_state.h"
#include "dataplane/layer3.h"
#include "dataplane/packet.h"
#include "dataplane/vtep_table.h"

namespace vx {

struct EncapSettings {
  std::uint16_t underlay_mtu = 0;  // outer IP packet at most, where the VTEP has no ceiling of its own
  std::uint8_t tos = 0;            // DSCP bits when not inherited
  bool tos_inherit = false;
  bool udp_csum = true;            // on IPv4; IPv6 always (RFC 8200 section 8.1)
};

// RFC 6040 normal mode: the inner ECN field is copied, CE too. `inner`: TOS or traffic class, 0 when not IP.
[[nodiscard]] constexpr std::uint8_t outer_tos(std::uint8_t inner, const EncapSettings& settings) noexcept {
  if (settings.tos_inherit) return inner;
  return static_cast<std::uint8_t>((settings.tos & ~kEcnMask) | (inner & kEcnMask));
}

// The hash scaled to the span instead of a remainder: one multiplication.
[[nodiscard]] constexpr std::uint16_t outer_source_port(std::uint32_t flow_hash, std::uint16_t least, std::uint32_t span) noexcept {
  return static_cast<std::uint16_t>(least + (std::uint64_t{flow_hash} * span >> 32));
}

// Outer IP packet to `vtep` at most, bytes.
[[nodiscard]] inline std::uint16_t outer_ceiling(const Vtep& vtep, const EncapSettings& settings) noexcept {
  return vtep.outer_mtu != 0 ? vtep.outer_mtu : settings.underlay_mtu;
}

// Whether a frame of `inner_length` bytes may go to `vtep`. DF is set: an outer packet above the MTU is never sent and
// never fragmented (RFC 7348 section 4.3).
[[nodiscard]] inline DropReason may_encap(const Vtep& vtep, const EncapSettings& settings, std::uint32_t inner_length,
                                          std::uint16_t headroom) noexcept {
  if (!vtep.resolved) [[unlikely]] return DropReason::kUnderlayUnresolved;
  const std::uint32_t ip_length = vtep.header_length - vtep.ip_offset + inner_length;
  if (ip_length > outer_ceiling(vtep, settings)) [[unlikely]] return DropReason::kUnderlayMtuExceeded;
  if (headroom < vtep.header_length) [[unlikely]] return DropReason::kNoHeadroom;
  return DropReason::kNone;
}

// What is left to do of an outer header: the UDP checksum.
struct OuterUdp {
  UdpHeader* header = nullptr;
  std::uint32_t seed = 0;      // sum of all that the checksum covers but the inner frame; below 2^19
  bool wants_checksum = false; // else it is 0: none
  // `sum`: checksum_partial's over the inner frame, `seed` included.
  void complete(std::uint32_t sum) const noexcept {
    const auto checksum = static_cast<std::uint16_t>(~checksum_fold(sum));
    header->checksum = Be16::from_raw(checksum != 0 ? checksum : 0xffff);  // RFC 768: zero means none
  }
};

// The outer header of an IPv4 VTEP in registers: 64 whole bytes up to the frame, four aligned stores where the frame is aligned as
// in an mbuf. Stores of single fields cost AMD's cores two and a half times as much each, unaligned ones as much or more.
// What is in front of the header in these 64 bytes becomes zero; the tag, if any, makes no difference behind it.
class Ipv4OuterHeader {
 public:
  static constexpr std::uint32_t kBytes = 64;

  explicit Ipv4OuterHeader(const Vtep& vtep) noexcept
      : ip_checksum_(vtep.ip_checksum),
        pseudo_sum_(vtep.pseudo_sum),
        source_port_min_(vtep.source_port_min),
        source_port_span_(vtep.source_port_span) {
    const auto* from = reinterpret_cast<const __m128i*>(vtep.bytes.data() + vtep.bytes.size() - kBytes);
    front_ = _mm_load_si128(from);
    length_ = _mm_load_si128(from + 1);
    addresses_ = _mm_load_si128(from + 2);
    udp_ = _mm_load_si128(from + 3);
  }
  // Writes it in front of `frame`, all but the UDP checksum; returns the UDP checksum's seed. `ip_length`: of the outer packet.
  std::uint32_t write(std::uint8_t* frame, std::uint32_t ip_length, std::uint8_t tos, std::uint32_t flow_hash) const noexcept {
    const Be16 total{static_cast<std::uint16_t>(ip_length)}, udp_length{static_cast<std::uint16_t>(ip_length - sizeof(Ipv4Header))};
    const Be16 source_port{outer_source_port(flow_hash, source_port_min_, source_port_span_)};
    const std::uint32_t tos_word = std::uint32_t{tos} << 8;  // the second byte of its word, in memory order
    const auto checksum = static_cast<std::uint16_t>(~checksum_fold(ip_checksum_ + tos_word + total.raw()));
    const std::uint32_t first = 0x45 | tos_word | std::uint32_t{total.raw()} << 16;
    const std::uint64_t udp = source_port.raw() | std::uint64_t{udp_length.raw()} << 32;
    // IPv4 begins at byte 28, its checksum is at 38; UDP begins at 48, its fields but the destination port are zero.
    auto* to = reinterpret_cast<__m128i*>(frame - kBytes);
    _mm_storeu_si128(to, front_);
    _mm_storeu_si128(to + 1, _mm_insert_epi32(length_, static_cast<int>(first), 3));
    _mm_storeu_si128(to + 2, _mm_insert_epi16(addresses_, checksum, 3));
    _mm_storeu_si128(to + 3, _mm_or_si128(udp_, _mm_cvtsi64_si128(static_cast<long long>(udp))));
    // The length counts twice: in the pseudo header and in the UDP header.
    return pseudo_sum_ + 2u * udp_length.raw() + source_port.raw();
  }

 private:
  __m128i front_, length_, addresses_, udp_;
  std::uint32_t ip_checksum_, pseudo_sum_;
  std::uint16_t source_port_min_;
  std::uint32_t source_port_span_;
};
static_assert(sizeof(Ipv4Header) + sizeof(UdpHeader) + sizeof(VxlanHeader) == 64 - 28);

// Puts `vtep`'s outer header in front of the frame, for which may_encap() is kNone, all but the UDP checksum.
// `inner_length`: what the lengths are to say; packet.length, or a segment's.
[[nodiscard]] inline OuterUdp push_outer_header(Packet& packet, const Vtep& vtep, const EncapSettings& settings,
                                                const InnerFlow& flow, std::uint32_t inner_length) noexcept {
  const std::uint32_t ip_length = vtep.header_length - vtep.ip_offset + inner_length;
  const std::uint8_t tos = outer_tos(flow.tos, settings);
  std::uint8_t* const frame = packet.data;
  const bool has_room = packet.headroom >= Ipv4OuterHeader::kBytes;
  auto* udp = view<UdpHeader>(frame - sizeof(VxlanHeader) - sizeof(UdpHeader));
  packet.push_front(vtep.header_length);
  if (vtep.is_v4) [[likely]] {
    const Ipv4OuterHeader header(vtep);
    if (has_room) [[likely]] return {udp, header.write(frame, ip_length, tos, flow.hash), settings.udp_csum};
    alignas(16) std::array<std::uint8_t, Ipv4OuterHeader::kBytes> aside;
    const std::uint32_t seed = header.write(aside.data() + aside.size(), ip_length, tos, flow.hash);
    std::memcpy(packet.data, aside.data() + aside.size() - vtep.header_length, vtep.header_length);
    return {udp, seed, settings.udp_csum};
  }
  const Be16 source_port{outer_source_port(flow.hash, vtep.source_port_min, vtep.source_port_span)};
  const Be16 udp_length{static_cast<std::uint16_t>(ip_length - sizeof(Ipv6Header))};
  if (vtep.header_length == 70) [[likely]] std::memcpy(packet.data, vtep.header(), 70);  // a constant: a few vector moves
  else std::memcpy(packet.data, vtep.header(), vtep.header_length);
  std::uint8_t* ip = packet.data + vtep.ip_offset;
  set_ipv6_traffic_class(ip, tos);
  view<Ipv6Header>(ip)->payload_length = udp_length;
  udp->source_port = source_port;
  udp->length = udp_length;
  return {udp, vtep.pseudo_sum + 2u * udp_length.raw() + source_port.raw(), true};
}

// On kNone the packet is the outer frame. The frame is as the tunnel carries it (egress_tag.h), 14 bytes at least, its
// checksums complete.
[[nodiscard]] inline DropReason encap(Packet& packet, const Vtep& vtep, const EncapSettings& settings) noexcept {
  const DropReason reason = may_encap(vtep, settings, packet.length, packet.headroom);
  if (reason != DropReason::kNone) [[unlikely]] return reason;
  const std::uint8_t* inner = packet.data;
  const std::uint32_t inner_length = packet.length;
  const OuterUdp udp = push_outer_header(packet, vtep, settings, inner_flow(inner, inner_length), inner_length);
  if (udp.wants_checksum) udp.complete(checksum_partial(inner, inner_length, udp.seed));
  return DropReason::kNone;
}

// encap() for packets in a row to one VTEP: what depends on the VTEP alone is looked at once.
class Encapsulator {
 public:
  Encapsulator(const Vtep& vtep, const EncapSettings& settings) noexcept
      : vtep_(vtep), settings_(settings), header_(vtep), header_length_(vtep.header_length) {
    const std::uint32_t overhead = header_length_ - vtep.ip_offset, ceiling = outer_ceiling(vtep, settings);
    if (vtep.is_v4 && vtep.resolved && ceiling > overhead) longest_ = ceiling - overhead;
    overhead_ = overhead;
  }
  [[nodiscard]] DropReason operator()(Packet& packet) const noexcept {
    const std::uint32_t length = packet.length;
    if (length > longest_ || packet.headroom < Ipv4OuterHeader::kBytes) [[unlikely]] return encap(packet, vtep_, settings_);
    std::uint8_t* const frame = packet.data;
    const InnerFlow flow = inner_flow(frame, length);
    const std::uint32_t seed = header_.write(frame, overhead_ + length, outer_tos(flow.tos, settings_), flow.hash);
    packet.push_front(header_length_);
    if (settings_.udp_csum)
      OuterUdp{view<UdpHeader>(frame - sizeof(VxlanHeader) - sizeof(UdpHeader)), 0, true}.complete(checksum_partial(frame, length, seed));
    return DropReason::kNone;
  }

 private:
  const Vtep& vtep_;
  const EncapSettings settings_;
  const Ipv4OuterHeader header_;
  const std::uint16_t header_length_;
  std::uint32_t overhead_ = 0;  // of the outer packet, its Ethernet header not counted
  std::uint32_t longest_ = 0;   // inner frame that takes this way; 0: none does
};

}  // namespace vx
