// SPDX-License-Identifier: Apache-2.0
// The remote VTEPs of one overlay: prebuilt outer headers by index, and the index by address.
// Immutable once built: a change makes a new table (forwarding_state.h).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/packet.h"
#include "dataplane/wire.h"

namespace vx {

inline constexpr std::size_t kMaxOuterHeader = 14 + 4 + 40 + 8 + 8;  // Ethernet, tag, IPv6, UDP, VXLAN

// All that one outer header needs, host order; what build_outer_header() turns into bytes.
struct OuterHeaderFields {
  MacAddress source_mac, next_hop;
  std::uint16_t vlan = 0;          // 0: untagged
  IpAddress source, destination;   // of one family
  std::uint8_t ttl = 64;
  std::uint8_t tos = 0;
  std::uint16_t udp_port = kVxlanPort;
  std::uint32_t vni = 0;
};

// The outer header of one VTEP, ready but for what depends on the packet: source port, lengths, ECN/DSCP,
// checksums. Encap copies it in front of the frame and patches those.
struct alignas(64) Vtep {
  std::array<std::uint8_t, 80> bytes{};  // the header at its end, where the frame begins; zero in front
  std::uint8_t header_length = 0;        // bytes up to the inner frame: 50, 54, 70 or 74
  std::uint8_t ip_offset = 0;            // 14 or 18
  bool is_v4 = true;
  bool resolved = false;                 // the next hop's MAC is known
  bool flood = false;                    // on the flood list
  bool exists = false;                   // the index is in use
  std::uint16_t outer_mtu = 0;           // outer IP packet at most, bytes
  std::uint16_t source_port_min = 49152; // RFC 7348 section 5: the dynamic range
  std::uint32_t source_port_span = 16384;
  std::uint32_t ip_checksum = 0;         // IPv4: folded sum of the header with total length, TOS and checksum zero
  std::uint32_t pseudo_sum = 0;          // UDP: folded sum of pseudo header, UDP and VXLAN header, without the lengths and the source port
  IpAddress address;

  [[nodiscard]] const std::uint8_t* header() const noexcept { return bytes.data() + bytes.size() - header_length; }
};

class VtepTable {
 public:
  VtepTable() = default;
  // `vteps[i]` is VTEP i; entries with exists == false are holes.
  explicit VtepTable(std::vector<Vtep> vteps);

  [[nodiscard]] const Vtep& operator[](VtepIndex i) const noexcept { return vteps_[i]; }
  [[nodiscard]] std::size_t size() const noexcept { return vteps_.size(); }  // highest index + 1
  // Wait-free; kNoIndex when unknown.
  [[nodiscard]] VtepIndex find(const IpAddress& address) const noexcept;
  [[nodiscard]] const std::vector<VtepIndex>& flood_list() const noexcept { return flood_list_; }

 private:
  std::vector<Vtep> vteps_;
  std::vector<VtepIndex> flood_list_;
  std::vector<VtepIndex> slots_;  // open addressing by address hash, power of two, at most half full
};

// Fills bytes, header_length, ip_offset, is_v4, ip_checksum, pseudo_sum. RFC 7348 section 5.
void build_outer_header(const OuterHeaderFields& fields, Vtep& vtep) noexcept;

}  // namespace vx
