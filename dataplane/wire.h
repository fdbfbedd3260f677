// SPDX-License-Identifier: Apache-2.0
// Wire formats and byte-order types. No DPDK, no I/O, no clock: every other header may include this.
//
// Byte order lives in the type: a Be16/Be32 is built from or read as a host integer only by name, so a
// wire field is never compared with a host constant by accident. All structs have alignment
// 1 and may be overlaid on packet bytes at any address.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace vx {

template <typename Host>
class [[gnu::packed]] BigEndian {
 public:
  constexpr BigEndian() noexcept = default;
  // From a host-order integer; explicit so that the swap is visible where it happens.
  explicit constexpr BigEndian(Host host) noexcept : raw_(swap(host)) {}
  // From bytes already in network order (a sockaddr's field, a checksum kept raw).
  static constexpr BigEndian from_raw(Host raw) noexcept {
    BigEndian value;
    value.raw_ = raw;
    return value;
  }
  [[nodiscard]] constexpr Host host() const noexcept { return swap(raw_); }
  [[nodiscard]] constexpr Host raw() const noexcept { return raw_; }
  friend constexpr bool operator==(BigEndian a, BigEndian b) noexcept { return a.raw_ == b.raw_; }

 private:
  static constexpr Host swap(Host v) noexcept {
    if constexpr (sizeof(Host) == 2) return __builtin_bswap16(v);
    if constexpr (sizeof(Host) == 4) return __builtin_bswap32(v);
    if constexpr (sizeof(Host) == 8) return __builtin_bswap64(v);
  }
  Host raw_{};
};

using Be16 = BigEndian<std::uint16_t>;
using Be32 = BigEndian<std::uint32_t>;
static_assert(sizeof(Be16) == 2 && alignof(Be16) == 1 && Be16(0x0102).raw() == 0x0201);
static_assert(sizeof(Be32) == 4 && alignof(Be32) == 1);

// A 48-bit IEEE 802 address in transmission order.
struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};

  [[nodiscard]] constexpr bool is_group() const noexcept { return (bytes[0] & 1) != 0; }
  [[nodiscard]] constexpr bool is_zero() const noexcept { return bytes == decltype(bytes){}; }
  // The address as a number, first byte most significant; fits 48 bits.
  [[nodiscard]] constexpr std::uint64_t to_u48() const noexcept {
    std::uint64_t v = 0;
    for (auto b : bytes) v = v << 8 | b;
    return v;
  }
  static constexpr MacAddress from_u48(std::uint64_t v) noexcept {
    MacAddress mac;
    for (int i = 5; i >= 0; --i, v >>= 8) mac.bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(v);
    return mac;
  }
  friend constexpr auto operator<=>(const MacAddress&, const MacAddress&) = default;
};
static_assert(sizeof(MacAddress) == 6 && alignof(MacAddress) == 1);

// An IPv4 or IPv6 address, 16 bytes; IPv4 is kept as its IPv4-mapped IPv6 form (RFC 4291 section 2.5.5.2).
struct IpAddress {
  std::array<std::uint8_t, 16> bytes{};

  static constexpr IpAddress v4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) noexcept {
    return IpAddress{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}};
  }
  // `network` points at 4 (v4) or 16 (v6) bytes in network order.
  static IpAddress from_v4_bytes(const void* network) noexcept {
    IpAddress ip = v4(0, 0, 0, 0);
    std::memcpy(&ip.bytes[12], network, 4);
    return ip;
  }
  static IpAddress from_v6_bytes(const void* network) noexcept {
    IpAddress ip;
    std::memcpy(ip.bytes.data(), network, 16);
    return ip;
  }
  [[nodiscard]] constexpr bool is_v4() const noexcept {
    for (std::size_t i = 0; i < 10; ++i)
      if (bytes[i] != 0) return false;
    return bytes[10] == 0xff && bytes[11] == 0xff;
  }
  [[nodiscard]] constexpr bool is_unspecified() const noexcept {
    return bytes == decltype(bytes){} || bytes == v4(0, 0, 0, 0).bytes;
  }
  [[nodiscard]] const std::uint8_t* v4_bytes() const noexcept { return &bytes[12]; }
  friend constexpr auto operator<=>(const IpAddress&, const IpAddress&) = default;
};
static_assert(sizeof(IpAddress) == 16);

namespace ether_type {
inline constexpr Be16 kIpv4{0x0800};
inline constexpr Be16 kArp{0x0806};
inline constexpr Be16 kVlan{0x8100};      // IEEE 802.1Q C-tag
inline constexpr Be16 kServiceVlan{0x88a8};  // IEEE 802.1ad S-tag
inline constexpr Be16 kIpv6{0x86dd};
}  // namespace ether_type

namespace ip_protocol {
inline constexpr std::uint8_t kHopByHop = 0;
inline constexpr std::uint8_t kIcmp = 1;
inline constexpr std::uint8_t kTcp = 6;
inline constexpr std::uint8_t kUdp = 17;
inline constexpr std::uint8_t kRouting = 43;
inline constexpr std::uint8_t kFragment = 44;
inline constexpr std::uint8_t kIcmpv6 = 58;
inline constexpr std::uint8_t kDestinationOptions = 60;
inline constexpr std::uint8_t kSctp = 132;
}  // namespace ip_protocol

struct EthernetHeader {
  MacAddress destination;  // 0
  MacAddress source;       // 6
  Be16 type;               // 12
};
static_assert(sizeof(EthernetHeader) == 14);

// What follows the two addresses of a tagged frame: TPID is EthernetHeader::type. IEEE 802.1Q section 9.6.
struct VlanTag {
  Be16 tci;   // 0: PCP 3 bits, DEI 1 bit, VID 12 bits
  Be16 type;  // 2: the next ethertype
};
static_assert(sizeof(VlanTag) == 4);
inline constexpr std::uint16_t kVidMask = 0x0fff;

struct Ipv4Header {  // RFC 791 section 3.1
  std::uint8_t version_ihl;     // 0
  std::uint8_t tos;             // 1: DSCP 6 bits, ECN 2 bits
  Be16 total_length;            // 2
  Be16 identification;          // 4
  Be16 flags_fragment;          // 6: reserved, DF, MF, 13 bits of offset in units of 8 bytes
  std::uint8_t ttl;             // 8
  std::uint8_t protocol;        // 9
  Be16 checksum;                // 10
  std::array<std::uint8_t, 4> source;       // 12
  std::array<std::uint8_t, 4> destination;  // 16

  [[nodiscard]] constexpr unsigned header_length() const noexcept { return (version_ihl & 0x0fu) * 4; }
};
static_assert(sizeof(Ipv4Header) == 20);
inline constexpr std::uint16_t kIpv4DontFragment = 0x4000;
inline constexpr std::uint16_t kIpv4MoreFragments = 0x2000;
inline constexpr std::uint16_t kIpv4OffsetMask = 0x1fff;

struct Ipv6Header {  // RFC 8200 section 3
  Be32 version_class_flow;      // 0
  Be16 payload_length;          // 4
  std::uint8_t next_header;     // 6
  std::uint8_t hop_limit;       // 7
  std::array<std::uint8_t, 16> source;       // 8
  std::array<std::uint8_t, 16> destination;  // 24
};
static_assert(sizeof(Ipv6Header) == 40);

struct UdpHeader {  // RFC 768
  Be16 source_port;       // 0
  Be16 destination_port;  // 2
  Be16 length;            // 4
  Be16 checksum;          // 6
};
static_assert(sizeof(UdpHeader) == 8);

struct VxlanHeader {  // RFC 7348 section 5
  Be32 flags_reserved;  // 0: flags 8 bits (I = 0x08), reserved 24 bits
  Be32 vni_reserved;    // 4: VNI 24 bits, reserved 8 bits
};
static_assert(sizeof(VxlanHeader) == 8);
inline constexpr std::uint32_t kVxlanFlagI = 0x08000000;
inline constexpr std::uint16_t kVxlanPort = 4789;  // IANA; RFC 7348 section 5

struct ArpIpv4 {  // RFC 826 for Ethernet and IPv4
  Be16 hardware_type;    // 0: 1
  Be16 protocol_type;    // 2: 0x0800
  std::uint8_t hardware_length;  // 4: 6
  std::uint8_t protocol_length;  // 5: 4
  Be16 operation;        // 6: 1 request, 2 reply
  MacAddress sender_mac;                        // 8
  std::array<std::uint8_t, 4> sender_ip;        // 14
  MacAddress target_mac;                        // 18
  std::array<std::uint8_t, 4> target_ip;        // 24
};
static_assert(sizeof(ArpIpv4) == 28);

struct IcmpHeader {  // RFC 792 and RFC 4443 section 2.1: the common first 4 bytes
  std::uint8_t type;    // 0
  std::uint8_t code;    // 1
  Be16 checksum;        // 2
};
static_assert(sizeof(IcmpHeader) == 4);

// Encapsulation overhead above the outer IP MTU's payload, bytes: outer IP + UDP + VXLAN + inner Ethernet.
inline constexpr unsigned kOverheadIpv4 = 20 + 8 + 8 + 14;  // 50
inline constexpr unsigned kOverheadIpv6 = 40 + 8 + 8 + 14;  // 70
inline constexpr unsigned kVlanTagBytes = 4;

// Views packet bytes as a header. The caller has checked that sizeof(Header) bytes are there.
template <typename Header>
[[nodiscard]] inline const Header* view(const std::uint8_t* bytes) noexcept {
  static_assert(alignof(Header) == 1 && std::is_trivially_copyable_v<Header>);
  return reinterpret_cast<const Header*>(bytes);
}
template <typename Header>
[[nodiscard]] inline Header* view(std::uint8_t* bytes) noexcept {
  static_assert(alignof(Header) == 1 && std::is_trivially_copyable_v<Header>);
  return reinterpret_cast<Header*>(bytes);
}

}  // namespace vx
