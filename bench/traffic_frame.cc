// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_frame.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "dataplane/ip_checksum.h"

namespace vx::traffic {
namespace {

constexpr std::uint16_t kDiscardPort = 9;          // RFC 863: whoever gets a frame by mistake says nothing
constexpr std::uint16_t kFirstSourcePort = 1024;
constexpr std::uint32_t kPortsOfAddress = 60000;   // the next flow then has another address
constexpr std::uint16_t kFirstOuterPort = 49152;   // RFC 7348 section 5
constexpr std::uint16_t kOuterPorts = 16384;

std::uint8_t* append(std::uint8_t* at, const void* bytes, std::size_t count) {
  std::memcpy(at, bytes, count);
  return at + count;
}

std::uint8_t* put_ethernet(std::uint8_t* at, MacAddress to, MacAddress from, std::uint16_t vlan) {
  const EthernetHeader ethernet{to, from, vlan != 0 ? ether_type::kVlan : ether_type::kIpv4};
  at = append(at, &ethernet, sizeof ethernet);
  if (vlan == 0) return at;
  const VlanTag tag{Be16(vlan), ether_type::kIpv4};
  return append(at, &tag, sizeof tag);
}

std::uint8_t* put_ipv4(std::uint8_t* at, const IpAddress& from, const IpAddress& to, unsigned total_bytes) {
  Ipv4Header ip{};
  ip.version_ihl = 0x45;
  ip.total_length = Be16(static_cast<std::uint16_t>(total_bytes));
  ip.flags_fragment = Be16(kIpv4DontFragment);
  ip.ttl = 64;
  ip.protocol = ip_protocol::kUdp;
  std::memcpy(ip.source.data(), from.v4_bytes(), 4);
  std::memcpy(ip.destination.data(), to.v4_bytes(), 4);
  std::memcpy(at, &ip, sizeof ip);
  set_ipv4_checksum(at);
  return at + sizeof ip;
}

std::uint8_t* put_udp(std::uint8_t* at, std::uint16_t from, std::uint16_t to, unsigned bytes) {
  const UdpHeader udp{Be16(from), Be16(to), Be16(static_cast<std::uint16_t>(bytes)), Be16(0)};
  return append(at, &udp, sizeof udp);
}

// The outer source port as a VTEP chooses it: by the inner flow.
std::uint16_t outer_port(std::uint32_t flow) {
  return static_cast<std::uint16_t>(kFirstOuterPort + (flow * 0x9e3779b1u >> 16) % kOuterPorts);
}

std::uint8_t* put_outer(std::uint8_t* at, const Outer& outer, std::uint32_t flow, unsigned inner_bytes) {
  at = put_ethernet(at, outer.destination_mac, outer.source_mac, 0);
  at = put_ipv4(at, outer.source, outer.destination, 20 + 8 + 8 + inner_bytes);
  at = put_udp(at, outer_port(flow), outer.port, 8 + 8 + inner_bytes);
  const VxlanHeader vxlan{Be32(kVxlanFlagI), Be32(outer.vni << 8)};
  return append(at, &vxlan, sizeof vxlan);
}

std::uint8_t* put_inner(std::uint8_t* at, MacAddress to, MacAddress from, std::uint16_t vlan, std::uint32_t flow, unsigned bytes) {
  const unsigned ip_bytes = bytes - 14 - (vlan != 0 ? kVlanTagBytes : 0);
  const std::uint32_t host = flow / kPortsOfAddress + 1;  // 198.18.0.0/15: RFC 2544 section C.2.2
  at = put_ethernet(at, to, from, vlan);
  at = put_ipv4(at, IpAddress::v4(198, 18, static_cast<std::uint8_t>(host >> 8), static_cast<std::uint8_t>(host)),
                IpAddress::v4(198, 19, 0, 1), ip_bytes);
  return put_udp(at, static_cast<std::uint16_t>(kFirstSourcePort + flow % kPortsOfAddress), kDiscardPort, ip_bytes - 20);
}

}  // namespace

MacAddress destination_mac(std::uint32_t index) noexcept { return MacAddress::from_u48(0x027678000000 + index); }
MacAddress source_mac(std::uint32_t index) noexcept { return MacAddress::from_u48(0x027673000000 + index); }
MacAddress learned_mac(std::uint32_t index) noexcept { return MacAddress::from_u48(0x026c00000000 + index); }

std::vector<std::uint8_t> announcement(MacAddress from, MacAddress to, std::uint16_t vlan, const std::optional<Outer>& outer) {
  const unsigned bytes = kLeastBytes + (vlan != 0 ? kVlanTagBytes : 0);
  std::vector<std::uint8_t> frame(bytes + (outer ? kOverheadIpv4 : 0));
  std::uint8_t* at = frame.data();
  if (outer) at = put_outer(at, *outer, 0, bytes);
  put_inner(at, to, from, vlan, 0, bytes);
  return frame;
}

FrameMaker::FrameMaker(const FrameShape& shape)
    : length_(shape.size + (shape.outer ? kOverheadIpv4 : 0)), source_mac_at_((shape.outer ? kOverheadIpv4 : 0) + 6) {
  const unsigned tag = shape.vlan != 0 ? kVlanTagBytes : 0;
  if (shape.size < kLeastBytes + tag || shape.size > kMostBytes) throw std::invalid_argument("frame size");
  const std::uint32_t flows = std::max(shape.flows, shape.macs);
  if (flows == 0 || flows > VXT_MAX_FLOWS) throw std::invalid_argument("flows");
  header_bytes_ = (shape.outer ? kOverheadIpv4 : 0) + 14 + tag + 20 + 8;
  headers_.resize(std::size_t{flows} * kHeaderRoom);
  for (std::uint32_t flow = 0; flow < flows; ++flow) {
    std::uint8_t* at = headers_.data() + std::size_t{flow} * kHeaderRoom;
    if (shape.outer) at = put_outer(at, *shape.outer, flow, shape.size);
    put_inner(at, destination_mac(shape.first_mac + flow % shape.macs), source_mac(shape.first_mac + flow % shape.source_macs),
              shape.vlan, flow, shape.size);
  }
  order_.resize(flows);
  std::iota(order_.begin(), order_.end(), 0u);
  std::shuffle(order_.begin(), order_.end(), std::mt19937(flows));  // the same in every run
  sent_.resize(flows);
}

void FrameMaker::begin(std::uint8_t run) noexcept {
  run_ = run;
  std::fill(sent_.begin(), sent_.end(), 0u);
}

void FrameMaker::prepare(std::uint8_t* frame) const noexcept { std::memset(frame, 0, length_); }

void FrameMaker::write_next(std::uint8_t* frame, std::uint64_t now_ns) noexcept {
  const std::uint32_t flow = order_[next_];
  next_ = next_ + 1 == order_.size() ? 0 : next_ + 1;
  __builtin_prefetch(headers_.data() + std::size_t{order_[next_]} * kHeaderRoom);
  std::memcpy(frame, headers_.data() + std::size_t{flow} * kHeaderRoom, header_bytes_);
  const vxt_stamp stamp{VXT_MAGIC, flow | std::uint32_t{run_} << 24, now_ns, sent_[flow]++};
  std::memcpy(frame + header_bytes_, &stamp, sizeof stamp);
  if (is_learning_) {
    const MacAddress from = learned_mac(learned_++);
    std::memcpy(frame + source_mac_at_, &from, sizeof from);
  }
}

}  // namespace vx::traffic
