// SPDX-License-Identifier: Apache-2.0
#include "dataplane/vtep_table.h"

#include <algorithm>
#include <bit>

#include "dataplane/ip_checksum.h"

namespace vx {
namespace {

std::uint64_t hash_address(const IpAddress& address) noexcept {
  std::uint64_t high, low;
  std::memcpy(&high, address.bytes.data(), 8);
  std::memcpy(&low, address.bytes.data() + 8, 8);
  const std::uint64_t h = (high ^ low * 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
  return h ^ h >> 32;
}

}  // namespace

VtepTable::VtepTable(std::vector<Vtep> vteps) : vteps_(std::move(vteps)) {
  slots_.assign(std::bit_ceil(vteps_.size() * 2 + 1), kNoIndex);
  for (std::size_t i = 0; i < vteps_.size(); ++i) {
    if (!vteps_[i].exists) continue;
    const auto index = static_cast<VtepIndex>(i);
    if (vteps_[i].flood) flood_list_.push_back(index);
    auto at = hash_address(vteps_[i].address);
    while (slots_[at & (slots_.size() - 1)] != kNoIndex) ++at;
    slots_[at & (slots_.size() - 1)] = index;
  }
}

VtepIndex VtepTable::find(const IpAddress& address) const noexcept {
  if (slots_.empty()) return kNoIndex;
  for (auto at = hash_address(address);; ++at) {
    const VtepIndex index = slots_[at & (slots_.size() - 1)];
    if (index == kNoIndex || vteps_[index].address == address) return index;
  }
}

void build_outer_header(const OuterHeaderFields& fields, Vtep& vtep) noexcept {
  std::array<std::uint8_t, sizeof vtep.bytes> header{};
  std::uint8_t* at = header.data();
  const bool is_v4 = fields.destination.is_v4();
  vtep.is_v4 = is_v4;

  auto* ethernet = view<EthernetHeader>(at);
  ethernet->destination = fields.next_hop;
  ethernet->source = fields.source_mac;
  const Be16 network = is_v4 ? ether_type::kIpv4 : ether_type::kIpv6;
  at += sizeof(EthernetHeader);
  ethernet->type = network;
  if (fields.vlan != 0) {
    ethernet->type = ether_type::kVlan;
    auto* tag = view<VlanTag>(at);
    tag->tci = Be16(fields.vlan);
    tag->type = network;
    at += sizeof(VlanTag);
  }
  vtep.ip_offset = static_cast<std::uint8_t>(at - header.data());

  const std::uint8_t* const ip_header = at;
  vtep.ip_checksum = 0;
  if (is_v4) {
    auto* ip = view<Ipv4Header>(at);
    ip->version_ihl = 0x45;
    ip->flags_fragment = Be16(kIpv4DontFragment);  // with DF the identification may stay zero: RFC 6864 section 4.1
    ip->ttl = fields.ttl;
    ip->protocol = ip_protocol::kUdp;
    std::memcpy(ip->source.data(), fields.source.v4_bytes(), 4);
    std::memcpy(ip->destination.data(), fields.destination.v4_bytes(), 4);
    vtep.ip_checksum = checksum_fold(checksum_partial(at, sizeof *ip));  // TOS and total length still zero
    ip->tos = fields.tos;
    at += sizeof *ip;
  } else {
    auto* ip = view<Ipv6Header>(at);
    ip->version_class_flow = Be32(0x60000000u | std::uint32_t{fields.tos} << 20);
    ip->next_header = ip_protocol::kUdp;
    ip->hop_limit = fields.ttl;
    ip->source = fields.source.bytes;
    ip->destination = fields.destination.bytes;
    at += sizeof *ip;
  }
  auto* udp = view<UdpHeader>(at);
  udp->destination_port = Be16(fields.udp_port);
  at += sizeof *udp;
  auto* vxlan = view<VxlanHeader>(at);
  vxlan->flags_reserved = Be32(kVxlanFlagI);
  vxlan->vni_reserved = Be32(fields.vni << 8);
  const std::uint32_t pseudo = pseudo_header_sum(ip_header, is_v4, ip_protocol::kUdp, 0);  // the length is the packet's
  vtep.pseudo_sum = checksum_fold(checksum_partial(reinterpret_cast<const std::uint8_t*>(udp), sizeof *udp + sizeof *vxlan, pseudo));
  at += sizeof *vxlan;
  vtep.header_length = static_cast<std::uint8_t>(at - header.data());
  vtep.bytes.fill(0);
  std::copy(header.data(), at, vtep.bytes.end() - vtep.header_length);
}

}  // namespace vx
