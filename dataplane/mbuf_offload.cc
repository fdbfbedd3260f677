// SPDX-License-Identifier: Apache-2.0
#include "dataplane/mbuf_offload.h"

#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_mbuf.h>

#include <cstddef>

#include "dataplane/checksum.h"
#include "dataplane/ip_packet.h"
#include "dataplane/ip_checksum.h"
#include "dataplane/super_frame.h"
#include "dataplane/tcp_header.h"

namespace vx {
namespace {

constexpr std::uint64_t kTxChecksums = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
constexpr std::uint64_t kRxChecksums = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
// What an mbuf's bit fields can say.
constexpr std::uint32_t kMostLayer2 = (1u << RTE_MBUF_L2_LEN_BITS) - 1, kMostLayer3 = (1u << RTE_MBUF_L3_LEN_BITS) - 1;
constexpr std::uint8_t kGsoFragmentedUdp = 3;     // VIRTIO_NET_HDR_GSO_UDP: nothing here takes it

// Sum over addresses, protocol and, when wanted, the length of layer 4.
std::uint16_t pseudo_header(const std::uint8_t* frame, const IpPacket& ip, std::uint32_t layer4_bytes) noexcept {
  return checksum_fold(pseudo_header_sum(frame + ip.layer3, ip.is_v4, ip.protocol, layer4_bytes));
}

std::uint16_t checksum_field(std::uint8_t protocol) noexcept {
  return protocol == ip_protocol::kTcp ? offsetof(TcpHeader, checksum) : offsetof(UdpHeader, checksum);
}

}  // namespace

TxOffloads MbufOffloads::taken() const noexcept {
  const bool tso = (tx & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0;
  return {.checksum = (tx & kTxChecksums) == kTxChecksums, .tcp4 = tso, .tcp6 = tso};
}

MbufOffloads offloads_of(const rte_eth_dev_info& device) noexcept {
  MbufOffloads result;
  const std::string_view driver = device.driver_name;
  const bool is_virtio = driver == "net_virtio_user" || driver == "net_virtio", is_vhost = driver == "net_vhost";
  if ((device.tx_offload_capa & kTxChecksums) == kTxChecksums) {
    result.tx = kTxChecksums;
    if (is_virtio) result.tx |= device.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO;
  }
  result.keeps_pseudo_header = is_virtio;
  result.tells_partial = is_virtio || is_vhost;
  if (is_virtio) result.rx = device.rx_offload_capa & (kRxChecksums | RTE_ETH_RX_OFFLOAD_TCP_LRO | RTE_ETH_RX_OFFLOAD_SCATTER);
  // net_vhost has no receive offload to be told of: without these it completes each checksum itself.
  if (is_vhost) result.rx = device.rx_offload_capa & kRxChecksums;
  return result;
}

DropReason describe(const MbufOffloads& offloads, Packet& packet, rte_mbuf& mbuf) noexcept {
  const std::optional<IpPacket> parsed = parse_ip(packet.data, packet.length);
  const OffloadMeta& meta = packet.offload;
  if (!parsed || (parsed->protocol != ip_protocol::kTcp && parsed->protocol != ip_protocol::kUdp) || parsed->is_later_fragment)
    return DropReason::kGuestBadOffload;
  const IpPacket& ip = *parsed;
  const std::uint32_t layer3_bytes = ip.layer4 - ip.layer3;
  const bool is_tcp = ip.protocol == ip_protocol::kTcp;
  if (meta.checksum_start != ip.layer4 || meta.checksum_offset != checksum_field(ip.protocol) ||
      ip.end - ip.layer4 < (is_tcp ? sizeof(TcpHeader) : sizeof(UdpHeader)))
    return DropReason::kGuestBadOffload;
  const bool is_describable = ip.layer3 <= kMostLayer2 && layer3_bytes <= kMostLayer3 &&
                              (offloads.keeps_pseudo_header || ip.is_v4 || layer3_bytes == sizeof(Ipv6Header));
  if (!is_describable) return meta.is_super_frame() ? DropReason::kGuestBadOffload : complete_checksum(packet);

  mbuf.l2_len = ip.layer3;
  mbuf.l3_len = layer3_bytes;
  mbuf.l4_len = is_tcp ? view<TcpHeader>(packet.data + ip.layer4)->header_length() : sizeof(UdpHeader);
  mbuf.ol_flags = (ip.is_v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6) | (is_tcp ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM);
  if (!meta.is_super_frame()) return DropReason::kNone;
  if (!is_tcp) return DropReason::kGuestBadOffload;
  mbuf.ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
  mbuf.tso_segsz = meta.segment_size;
  if (offloads.keeps_pseudo_header) return DropReason::kNone;
  if (ip.is_v4) {
    mbuf.ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    view<Ipv4Header>(packet.data + ip.layer3)->checksum = {};
  }
  store(packet.data + ip.layer4 + meta.checksum_offset, pseudo_header(packet.data, ip, 0));
  return DropReason::kNone;
}

bool has_request(std::uint64_t mbuf_flags) noexcept {
  return (mbuf_flags & RTE_MBUF_F_RX_LRO) != 0 || (mbuf_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE;
}

void take_over(std::uint64_t mbuf_flags, std::uint16_t segment_size, Packet& packet) noexcept {
  OffloadMeta& meta = packet.offload;
  meta = {.flags = OffloadMeta::kNeedsChecksum};  // from the first byte on: nobody takes that
  const std::optional<IpPacket> ip = parse_ip(packet.data, packet.length);
  if (!ip || ip->is_later_fragment || (ip->protocol != ip_protocol::kTcp && ip->protocol != ip_protocol::kUdp)) return;
  const bool is_tcp = ip->protocol == ip_protocol::kTcp;
  const std::uint32_t header = is_tcp ? sizeof(TcpHeader) : sizeof(UdpHeader);
  if (ip->end - ip->layer4 < header) return;
  meta.checksum_start = static_cast<std::uint16_t>(ip->layer4);
  meta.checksum_offset = checksum_field(ip->protocol);
  if ((mbuf_flags & RTE_MBUF_F_RX_LRO) == 0) return;

  std::uint8_t* layer4 = packet.data + ip->layer4;
  meta.gso_type = !is_tcp ? kGsoFragmentedUdp : ip->is_v4 ? OffloadMeta::kGsoTcp4 : OffloadMeta::kGsoTcp6;
  if (is_tcp && (view<TcpHeader>(layer4)->flags & tcp_flag::kCwr) != 0) meta.gso_type |= OffloadMeta::kGsoEcn;
  meta.segment_size = segment_size;
  meta.header_length = static_cast<std::uint16_t>(ip->layer4 + (is_tcp ? view<TcpHeader>(layer4)->header_length() : header));
  // Some say it with the length, some without, some have summed up all.
  store(layer4 + meta.checksum_offset, pseudo_header(packet.data, *ip, ip->end - ip->layer4));
}

}  // namespace vx
