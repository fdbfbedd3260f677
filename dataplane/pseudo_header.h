// SPDX-License-Identifier: Apache-2.0
// The pseudo header that TCP, UDP and ICMPv6 checksums begin with (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1). Pure; any
// thread. For headers made one at a time: coalesce.cc and decap.cc have their own for their loops.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/checksum.h"
#include "dataplane/wire.h"

namespace vx {

// `ip`: an IP header; its addresses are read and nothing else. Not folded: a seed for checksum_partial(). With `layer4_bytes` 0 it
// is the sum that a device adds the length to (TSO).
[[nodiscard]] inline std::uint32_t pseudo_header_sum(const std::uint8_t* ip, bool is_v4, std::uint8_t protocol,
                                                     std::uint32_t layer4_bytes) noexcept {
  const Be32 tail[2] = {Be32(layer4_bytes), Be32(protocol)};
  const std::uint32_t sum = checksum_partial(reinterpret_cast<const std::uint8_t*>(tail), sizeof tail);
  return is_v4 ? checksum_partial(ip + offsetof(Ipv4Header, source), 8, sum)
               : checksum_partial(ip + offsetof(Ipv6Header, source), 32, sum);
}

}  // namespace vx
