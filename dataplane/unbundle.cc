// SPDX-License-Identifier: Apache-2.0
#include "dataplane/unbundle.h"

#include <cstring>

#include "dataplane/checksum.h"
#include "dataplane/layer3.h"
#include "dataplane/wire.h"

namespace vx {
namespace {

// The header in front is one of make_held_socket's: which IP version it is, its UDP header tells by where it stands.
void patch_lengths(std::uint8_t* frame, std::uint16_t udp, std::uint32_t datagram_bytes) noexcept {
  const auto udp_bytes = static_cast<std::uint16_t>(sizeof(UdpHeader) + datagram_bytes);
  view<UdpHeader>(frame + udp)->length = Be16(udp_bytes);
  const bool is_v6 = view<EthernetHeader>(frame)->type == ether_type::kIpv6 ||
                     (view<EthernetHeader>(frame)->type == ether_type::kVlan &&
                      view<VlanTag>(frame + sizeof(EthernetHeader))->type == ether_type::kIpv6);
  if (is_v6) {
    view<Ipv6Header>(frame + udp - sizeof(Ipv6Header))->payload_length = Be16(udp_bytes);
    return;
  }
  auto* ip = view<Ipv4Header>(frame + udp - sizeof(Ipv4Header));
  const Be16 total(static_cast<std::uint16_t>(sizeof(Ipv4Header) + udp_bytes));
  ip->checksum = Be16::from_raw(checksum_update(ip->checksum.raw(), ip->total_length.raw(), total.raw()));
  ip->total_length = total;
}

}  // namespace

unsigned unbundle_count(const Packet& bundle) noexcept {
  const OffloadMeta& meta = bundle.offload;
  if (meta.segment_size == 0 || bundle.length <= meta.header_length) return 0;
  return (bundle.length - meta.header_length + meta.segment_size - 1) / meta.segment_size;
}

Datagram datagram_of(const Packet& bundle, unsigned i) noexcept {
  const OffloadMeta& meta = bundle.offload;
  const std::uint32_t begin = meta.header_length + i * std::uint32_t{meta.segment_size};
  const std::uint32_t left = bundle.length - begin;
  return {bundle.data + begin, left < meta.segment_size ? left : meta.segment_size};
}

bool fill_from_bundle(const Packet& bundle, unsigned i, Packet& out) noexcept {
  const std::uint16_t header = bundle.offload.header_length;
  const Datagram datagram = datagram_of(bundle, i);
  const std::uint32_t length = header + datagram.length;
  if (length > out.tailroom) [[unlikely]]
    return false;
  std::memcpy(out.data, bundle.data, header);
  std::memcpy(out.data + header, datagram.data, datagram.length);
  patch_lengths(out.data, bundle.offload.checksum_start, datagram.length);
  out.length = length;
  out.tailroom -= length;
  out.ingress_port = bundle.ingress_port;
  out.offload = {};
  out.offload.flags = OffloadMeta::kChecksumVerified;
  return true;
}

}  // namespace vx
