// SPDX-License-Identifier: Apache-2.0
// Checksums of IP and of what it carries, for headers made one at a time: coalesce.cc, decap.cc and encap have their own for
// their loops. Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/checksum.h"
#include "dataplane/wire.h"

namespace vx {

// What a checksum field holds for a sum.
[[nodiscard]] inline Be16 checksum_of(std::uint32_t sum) noexcept {
  return Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(sum)));
}

// The pseudo header that TCP, UDP and ICMPv6 begin with (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1). `ip`: an IP header;
// its addresses are read and nothing else. Not folded: a seed for checksum_partial(). With `layer4_bytes` 0 it is the sum that the
// length is still to be added to.
[[nodiscard]] inline std::uint32_t pseudo_header_sum(const std::uint8_t* ip, bool is_v4, std::uint8_t protocol,
                                                     std::uint32_t layer4_bytes) noexcept {
  const Be32 tail[2] = {Be32(layer4_bytes), Be32(protocol)};
  const std::uint32_t sum = checksum_partial(reinterpret_cast<const std::uint8_t*>(tail), sizeof tail);
  return is_v4 ? checksum_partial(ip + offsetof(Ipv4Header, source), 8, sum)
               : checksum_partial(ip + offsetof(Ipv6Header, source), 32, sum);
}

// Over a whole ICMPv6 message and its pseudo header (RFC 4443 section 2.3). Not folded.
[[nodiscard]] inline std::uint32_t icmpv6_sum(const std::uint8_t* ip, const std::uint8_t* icmp, std::uint32_t length) noexcept {
  return checksum_partial(icmp, length, pseudo_header_sum(ip, false, ip_protocol::kIcmpv6, length));
}

// Options included; what the field held does not matter.
inline void set_ipv4_checksum(std::uint8_t* ip) noexcept {
  auto* header = view<Ipv4Header>(ip);
  header->checksum = Be16();
  header->checksum = checksum_of(checksum_partial(ip, header->header_length()));
}

}  // namespace vx
