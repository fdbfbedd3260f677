// SPDX-License-Identifier: Apache-2.0
// The headers decide first (may_join), the checksum last, while the payload is copied: what is copied behind the end
// of a frame does not exist before its length says so.
#include "dataplane/coalesce.h"

#include <nmmintrin.h>

#include <cstddef>

#include "dataplane/checksum.h"
#include "dataplane/layer3.h"
#include "dataplane/tcp_header.h"

namespace vx {
namespace {

constexpr std::uint32_t kLargestIpPacket = 65'535;
constexpr Be16 kPseudoTcp{ip_protocol::kTcp};

// Sum of `words` words of 4 bytes; for headers, where a call would cost more than the work.
std::uint64_t sum_words(const std::uint8_t* bytes, unsigned words) noexcept {
  std::uint64_t sum = 0;
  for (; words != 0; --words, bytes += 4) sum += load<std::uint32_t>(bytes);
  return sum;
}
// 64 bits to what checksum_fold() takes.
constexpr std::uint32_t narrow(std::uint64_t sum) noexcept {
  sum = (sum & 0xffffffff) + (sum >> 32);
  return static_cast<std::uint32_t>((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32));
}

// RFC 9293 section 3.1: addresses, protocol, length.
std::uint64_t pseudo_sum(const std::uint8_t* ip, bool is_v4, std::uint32_t tcp_bytes) noexcept {
  const std::uint32_t rest = kPseudoTcp.raw() + std::uint32_t{Be16(static_cast<std::uint16_t>(tcp_bytes)).raw()};
  return is_v4 ? sum_words(ip + offsetof(Ipv4Header, source), 2) + rest
               : sum_words(ip + offsetof(Ipv6Header, source), 8) + rest;
}

// Bytes of a whole IPv4 packet of TCP that may be coalesced; 0: it is none.
std::uint32_t ipv4_bytes(const std::uint8_t* ip_bytes, std::uint32_t left) noexcept {
  constexpr std::uint32_t kLeast = sizeof(Ipv4Header) + sizeof(TcpHeader);
  if (left < kLeast) return 0;
  const auto& ip = *view<Ipv4Header>(ip_bytes);
  if (ip.version_ihl != 0x45 || ip.protocol != ip_protocol::kTcp) return 0;
  if ((ip.flags_fragment.host() & static_cast<std::uint16_t>(~kIpv4DontFragment)) != 0) return 0;
  if (checksum_fold(narrow(sum_words(ip_bytes, 5))) != 0xffff) return 0;
  const std::uint32_t total = ip.total_length.host();
  return total < kLeast || total > left ? 0 : total;
}
std::uint32_t ipv6_bytes(const std::uint8_t* ip_bytes, std::uint32_t left) noexcept {
  if (left < sizeof(Ipv6Header) + sizeof(TcpHeader)) return 0;
  const auto& ip = *view<Ipv6Header>(ip_bytes);
  if (ip_bytes[0] >> 4 != 6 || ip.next_header != ip_protocol::kTcp) return 0;
  const std::uint32_t payload = ip.payload_length.host();
  return payload < sizeof(TcpHeader) || payload > left - sizeof(Ipv6Header) ? 0 : payload + sizeof(Ipv6Header);
}

// MACs, tags, addresses and ports: what tells flows apart.
std::uint64_t hash_of(const std::uint8_t* frame, const TcpSegment& segment) noexcept {
  const std::uint8_t* ip = frame + segment.layer3;
  std::uint64_t crc = _mm_crc32_u64(0, load<std::uint64_t>(frame));
  crc = _mm_crc32_u64(crc, load<std::uint64_t>(frame + 6));
  crc = _mm_crc32_u64(crc, load<std::uint64_t>(ip - 8));
  if (segment.is_v4) {
    crc = _mm_crc32_u64(crc, load<std::uint64_t>(ip + offsetof(Ipv4Header, source)));
  } else {
    const std::uint8_t* addresses = ip + offsetof(Ipv6Header, source);
    for (unsigned i = 0; i < 32; i += 8) crc = _mm_crc32_u64(crc, load<std::uint64_t>(addresses + i));
  }
  return _mm_crc32_u64(crc, load<std::uint32_t>(frame + segment.layer4)) * 0x9e3779b97f4a7c15u;
}

bool is_next_id(const OpenFlow& flow, const Ipv4Header& first, const Ipv4Header& next) noexcept {
  const auto step = static_cast<std::uint16_t>(next.identification.host() - first.identification.host());
  if (flow.segments > 1) return step == (flow.has_fixed_id ? 0 : flow.segments);
  return step == 1 || (step == 0 && (first.flags_fragment.host() & kIpv4DontFragment) != 0);
}

// IP headers of packets that parse_tcp_segment() took: all but lengths and checksum.
bool is_same_ipv4(const OpenFlow& flow, const std::uint8_t* a, const std::uint8_t* b) noexcept {
  const auto& first = *view<Ipv4Header>(a);
  const auto& next = *view<Ipv4Header>(b);
  return load<std::uint64_t>(first.source.data()) == load<std::uint64_t>(next.source.data()) && first.tos == next.tos &&
         first.ttl == next.ttl && first.flags_fragment == next.flags_fragment && is_next_id(flow, first, next);
}
bool is_same_ipv6(const std::uint8_t* a, const std::uint8_t* b) noexcept {
  std::uint64_t differs = load<std::uint32_t>(a) ^ load<std::uint32_t>(b);  // version, class, flow label
  differs |= static_cast<std::uint32_t>(a[7] ^ b[7]);                       // hop limit
  for (unsigned i = 8; i < sizeof(Ipv6Header); i += 8)
    differs |= load<std::uint64_t>(a + i) ^ load<std::uint64_t>(b + i);
  return differs == 0;
}

// Ports, acknowledgment, flags but those that may move, window, urgent pointer, options. Data offsets are equal then.
bool is_same_tcp(const std::uint8_t* a, const std::uint8_t* b, unsigned options) noexcept {
  const auto& first = *view<TcpHeader>(a);
  const auto& next = *view<TcpHeader>(b);
  constexpr std::uint8_t kMoving = tcp_flag::kCwr | tcp_flag::kFin | tcp_flag::kPsh;
  std::uint32_t differs = load<std::uint32_t>(a) ^ load<std::uint32_t>(b);
  differs |= first.acknowledgment.raw() ^ next.acknowledgment.raw();
  differs |= static_cast<std::uint32_t>(first.data_offset ^ next.data_offset);
  differs |= static_cast<std::uint32_t>(first.flags ^ next.flags) & static_cast<std::uint8_t>(~kMoving);
  differs |= static_cast<std::uint32_t>(first.window.raw() ^ next.window.raw());
  differs |= static_cast<std::uint32_t>(first.urgent.raw() ^ next.urgent.raw());
  for (unsigned i = 0; i < options; i += 4)
    differs |= load<std::uint32_t>(a + sizeof(TcpHeader) + i) ^ load<std::uint32_t>(b + sizeof(TcpHeader) + i);
  return differs == 0;
}

// Copies the payload of a segment to `to`; false when its TCP checksum is wrong.
bool copy_payload(std::uint8_t* to, const std::uint8_t* frame, const TcpSegment& segment) noexcept {
  const unsigned header = static_cast<unsigned>(segment.payload - segment.layer4);
  const std::uint64_t headers = pseudo_sum(frame + segment.layer3, segment.is_v4, header + segment.payload_bytes) +
                                sum_words(frame + segment.layer4, header / 4);
  return checksum_fold(checksum_copy(to, frame + segment.payload, segment.payload_bytes, narrow(headers))) == 0xffff;
}

// The flow after `packet` was copied to its end. `super`: the super-frame's first byte.
void advance(OpenFlow& flow, std::uint8_t* super, const Packet& packet, const TcpSegment& segment) noexcept {
  const std::uint8_t last = view<TcpHeader>(packet.data + segment.layer4)->flags & (tcp_flag::kFin | tcp_flag::kPsh);
  view<TcpHeader>(super + flow.segment.layer4)->flags |= last;
  flow.length += segment.payload_bytes;
  flow.next_sequence += segment.payload_bytes;
  ++flow.segments;
  flow.is_closed = last != 0 || segment.payload_bytes < flow.segment_size;
}

}  // namespace

bool parse_tcp_segment(const Packet& packet, TcpSegment& segment) noexcept {
  if (packet.length < sizeof(EthernetHeader)) return false;
  const std::uint8_t* frame = packet.data;
  const Layer3 at = layer3_of(frame, packet.length);
  const std::uint8_t* ip = frame + at.offset;
  const std::uint32_t left = packet.length - at.offset;
  segment.is_v4 = at.type == ether_type::kIpv4;
  if (!segment.is_v4 && at.type != ether_type::kIpv6) return false;
  const std::uint32_t ip_bytes = segment.is_v4 ? ipv4_bytes(ip, left) : ipv6_bytes(ip, left);
  if (ip_bytes == 0) return false;

  const auto ip_header = static_cast<std::uint32_t>(segment.is_v4 ? sizeof(Ipv4Header) : sizeof(Ipv6Header));
  const auto& tcp = *view<TcpHeader>(ip + ip_header);
  const unsigned header = tcp.header_length();
  if (header < sizeof(TcpHeader) || header > ip_bytes - ip_header) return false;
  segment.layer3 = static_cast<std::uint16_t>(at.offset);
  segment.layer4 = static_cast<std::uint16_t>(at.offset + ip_header);
  segment.payload = static_cast<std::uint16_t>(segment.layer4 + header);
  segment.payload_bytes = ip_bytes - ip_header - header;
  segment.sequence = tcp.sequence.host();
  segment.flow = hash_of(frame, segment);

  constexpr std::uint8_t kNeverFollows = tcp_flag::kSyn | tcp_flag::kRst | tcp_flag::kUrg | tcp_flag::kCwr;
  constexpr std::uint8_t kNeverStarts =
      tcp_flag::kSyn | tcp_flag::kRst | tcp_flag::kUrg | tcp_flag::kFin | tcp_flag::kPsh;
  const bool has_data = segment.payload_bytes != 0 && packet.offload.is_plain();
  segment.may_follow = has_data && (tcp.flags & kNeverFollows) == 0;
  segment.may_start = has_data && (tcp.flags & kNeverStarts) == 0;
  return true;
}

OpenFlow open_flow(Packet& packet, const TcpSegment& segment) noexcept {
  OpenFlow flow;
  flow.head = &packet;
  flow.segment = segment;
  flow.next_sequence = segment.sequence + segment.payload_bytes;
  flow.length = segment.payload + segment.payload_bytes;
  flow.segment_size = static_cast<std::uint16_t>(segment.payload_bytes);
  return flow;
}

bool may_join(const OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept {
  const TcpSegment& first = flow.segment;
  if (flow.is_closed || !segment.may_follow || segment.sequence != flow.next_sequence) return false;
  if (segment.payload_bytes > flow.segment_size) return false;
  if (flow.length - first.layer3 + segment.payload_bytes > kLargestIpPacket) return false;
  if (flow.segments > 1 && flow.head->tailroom < segment.payload_bytes) return false;
  if (segment.is_v4 != first.is_v4 || segment.layer3 != first.layer3 || segment.payload != first.payload) return false;

  const std::uint8_t *a = flow.head->data, *b = packet.data;
  const unsigned before_ip = first.layer3 - 8u;  // overlapping loads: 14 to 22 bytes
  if (load<std::uint64_t>(a) != load<std::uint64_t>(b) || load<std::uint64_t>(a + 6) != load<std::uint64_t>(b + 6) ||
      load<std::uint64_t>(a + before_ip) != load<std::uint64_t>(b + before_ip))
    return false;
  const bool same_ip = first.is_v4 ? is_same_ipv4(flow, a + first.layer3, b + first.layer3)
                                   : is_same_ipv6(a + first.layer3, b + first.layer3);
  return same_ip && is_same_tcp(a + first.layer4, b + first.layer4, first.payload - first.layer4 - 20u);
}

bool join_first(OpenFlow& flow, Packet& large, const Packet& packet, const TcpSegment& segment) noexcept {
  const Packet& head = *flow.head;
  const TcpSegment& first = flow.segment;
  if (large.tailroom < flow.length + segment.payload_bytes) return false;
  if (!copy_payload(large.data + first.payload, head.data, first)) {
    flow.is_closed = true;
    return false;
  }
  if (!copy_payload(large.data + flow.length, packet.data, segment)) return false;
  std::memcpy(large.data, head.data, first.payload);
  flow.has_fixed_id = first.is_v4 && view<Ipv4Header>(head.data + first.layer3)->identification ==
                                         view<Ipv4Header>(packet.data + segment.layer3)->identification;
  advance(flow, large.data, packet, segment);

  const Packet empty = large;
  large = head;
  large.data = empty.data;
  large.buffer = empty.buffer;
  large.headroom = empty.headroom;
  large.length = flow.length;
  large.tailroom = empty.tailroom - flow.length;
  flow.head = &large;
  return true;
}

bool join(OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept {
  Packet& head = *flow.head;
  if (!copy_payload(head.data + flow.length, packet.data, segment)) return false;
  advance(flow, head.data, packet, segment);
  head.length = flow.length;
  head.tailroom -= segment.payload_bytes;
  return true;
}

void finish(OpenFlow& flow) noexcept {
  if (flow.segments < 2) return;
  Packet& head = *flow.head;
  const TcpSegment& first = flow.segment;
  std::uint8_t* ip_bytes = head.data + first.layer3;
  const std::uint32_t tcp_bytes = flow.length - first.layer4;
  if (first.is_v4) {
    auto& ip = *view<Ipv4Header>(ip_bytes);
    ip.total_length = Be16(static_cast<std::uint16_t>(tcp_bytes + sizeof(Ipv4Header)));
    ip.checksum = Be16();
    ip.checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(narrow(sum_words(ip_bytes, 5)))));
  } else {
    view<Ipv6Header>(ip_bytes)->payload_length = Be16(static_cast<std::uint16_t>(tcp_bytes));
  }
  auto& tcp = *view<TcpHeader>(head.data + first.layer4);
  tcp.checksum = Be16::from_raw(checksum_fold(narrow(pseudo_sum(ip_bytes, first.is_v4, tcp_bytes))));

  OffloadMeta& meta = head.offload;
  meta.flags = OffloadMeta::kNeedsChecksum;
  meta.gso_type = first.is_v4 ? OffloadMeta::kGsoTcp4 : OffloadMeta::kGsoTcp6;
  if ((tcp.flags & tcp_flag::kCwr) != 0) meta.gso_type |= OffloadMeta::kGsoEcn;
  meta.header_length = first.payload;
  meta.segment_size = flow.segment_size;
  meta.checksum_start = first.layer4;
  meta.checksum_offset = offsetof(TcpHeader, checksum);
}

}  // namespace vx
