// SPDX-License-Identifier: Apache-2.0
// A word is taken out of a one's complement sum by adding its complement (RFC 1071 section 2). The pseudo header's sum
// is the guest's own, out of the checksum field: so it is right behind a routing header too, whose last address it has.
#include "dataplane/segment.h"

#include <cstring>

#include "dataplane/checksum.h"
#include "dataplane/tcp_header.h"

namespace vx {
namespace {

std::uint32_t sum_of(const std::uint8_t* bytes, std::size_t length) noexcept {
  return checksum_fold(checksum_partial(bytes, length));
}
std::uint32_t without(Be16 word) noexcept { return static_cast<std::uint16_t>(~word.raw()); }
std::uint32_t words_of(Be32 value) noexcept { return (value.raw() & 0xffff) + (value.raw() >> 16); }
// The word that data offset and flags are.
std::uint32_t flags_word(const TcpHeader& tcp) noexcept { return tcp.data_offset | std::uint32_t{tcp.flags} << 8; }

}  // namespace

Segmenter::Segmenter(const Packet& super_frame, const SuperFrame& at) noexcept
    : super_(super_frame), at_(at), payload_bytes_(super_frame.length - at.payload),
      count_((payload_bytes_ + at.segment_size - 1) / at.segment_size) {
  const std::uint8_t* frame = super_frame.data;
  const std::uint8_t* layer4 = frame + at.layer4;
  if (at.is_v4) {
    const auto& ip = *view<Ipv4Header>(frame + at.layer3);
    front_sum_ = sum_of(frame, at.layer3);
    ip_sum_ = checksum_fold(sum_of(frame + at.layer3, std::size_t{at.layer4} - at.layer3) + without(ip.total_length) +
                            without(ip.identification) + without(ip.checksum));
  } else {
    front_sum_ = checksum_fold(sum_of(frame, at.layer4) + without(view<Ipv6Header>(frame + at.layer3)->payload_length));
  }
  const std::uint32_t header = sum_of(layer4, std::size_t{at.payload} - at.layer4);
  if (at.is_tcp) {
    const auto& tcp = *view<TcpHeader>(layer4);
    const Be16 length{static_cast<std::uint16_t>(super_frame.length - at.layer4)};
    pseudo_sum_ = checksum_fold(tcp.checksum.raw() + without(length));
    header_sum_ = checksum_fold(header + without(tcp.checksum) + (0x1fffe - words_of(tcp.sequence)) +
                                (0xffff - flags_word(tcp)));
  } else {
    const auto& udp = *view<UdpHeader>(layer4);
    pseudo_sum_ = checksum_fold(udp.checksum.raw() + without(udp.length));
    header_sum_ = checksum_fold(header + without(udp.checksum) + without(udp.length));
  }
}

// Lengths, ID and header checksum.
void Segmenter::patch_ip(unsigned i, std::uint32_t layer4_bytes, std::uint8_t* ip_bytes) const noexcept {
  const std::uint32_t length = std::uint32_t{at_.layer4} - at_.layer3 + layer4_bytes;
  if (!at_.is_v4) {
    view<Ipv6Header>(ip_bytes)->payload_length = Be16(static_cast<std::uint16_t>(length - sizeof(Ipv6Header)));
    return;
  }
  auto& ip = *view<Ipv4Header>(ip_bytes);
  ip.total_length = Be16(static_cast<std::uint16_t>(length));
  ip.identification = Be16(static_cast<std::uint16_t>(ip.identification.host() + i));
  ip.checksum = Be16::from_raw(
      static_cast<std::uint16_t>(~checksum_fold(ip_sum_ + ip.total_length.raw() + ip.identification.raw())));
}

// Sequence and flags; their sum.
std::uint32_t Segmenter::patch_tcp(unsigned i, std::uint8_t* layer4) const noexcept {
  auto& tcp = *view<TcpHeader>(layer4);
  tcp.sequence = Be32(tcp.sequence.host() + i * at_.segment_size);
  if (i + 1 < count_) tcp.flags &= static_cast<std::uint8_t>(~(tcp_flag::kFin | tcp_flag::kPsh));
  if (i > 0) tcp.flags &= static_cast<std::uint8_t>(~tcp_flag::kCwr);  // RFC 3168 section 6.1.2: told once
  return words_of(tcp.sequence) + flags_word(tcp);
}

std::uint32_t Segmenter::make(unsigned i, Packet& out) const noexcept {
  const std::uint32_t payload = payload_of(i), layer4_bytes = at_.payload - at_.layer4 + payload;
  std::uint8_t* to = out.data;
  std::uint8_t* layer4 = to + at_.layer4;
  const Be16 length{static_cast<std::uint16_t>(layer4_bytes)};
  std::memcpy(to, super_.data, at_.payload);
  patch_ip(i, layer4_bytes, to + at_.layer3);

  std::uint32_t sum = pseudo_sum_ + length.raw() + header_sum_;
  if (at_.is_tcp) {
    sum += patch_tcp(i, layer4);
  } else {
    view<UdpHeader>(layer4)->length = length;
    sum += length.raw();
  }
  const std::uint8_t* from = super_.data + at_.payload + std::size_t{i} * at_.segment_size;
  auto checksum = static_cast<std::uint16_t>(~checksum_fold(checksum_copy(to + at_.payload, from, payload, sum)));
  if (at_.is_tcp) {
    view<TcpHeader>(layer4)->checksum = Be16::from_raw(checksum);
  } else {
    if (checksum == 0) checksum = 0xffff;  // RFC 768: zero means none
    view<UdpHeader>(layer4)->checksum = Be16::from_raw(checksum);
  }

  out.length = at_.payload + payload;
  out.tailroom -= out.length;
  out.offload = {};
  out.is_tagged = super_.is_tagged;
  out.tci = super_.tci;
  out.ingress_port = super_.ingress_port;
  out.source = super_.source;
  // With its checksum layer 4 sums to the complement of its pseudo header, and an IPv4 header to nothing.
  sum = front_sum_ + static_cast<std::uint16_t>(~checksum_fold(pseudo_sum_ + length.raw()));
  return at_.is_v4 ? sum : sum + view<Ipv6Header>(to + at_.layer3)->payload_length.raw();
}

}  // namespace vx
