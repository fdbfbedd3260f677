// SPDX-License-Identifier: Apache-2.0
// TCP's fixed header (RFC 9293 section 3.1) as it lies in a frame, and its flag bits. Pure formats, as wire.h.
#pragma once

#include "dataplane/wire.h"

namespace vx {

struct TcpHeader {
  Be16 source_port;             // 0
  Be16 destination_port;        // 2
  Be32 sequence;                // 4
  Be32 acknowledgment;          // 8
  std::uint8_t data_offset;     // 12: header length in words of 4 bytes, high 4 bits
  std::uint8_t flags;           // 13
  Be16 window;                  // 14
  Be16 checksum;                // 16
  Be16 urgent;                  // 18

  [[nodiscard]] constexpr unsigned header_length() const noexcept { return (data_offset >> 4) * 4u; }
};
static_assert(sizeof(TcpHeader) == 20);

namespace tcp_flag {  // RFC 9293 section 3.1, RFC 3168 section 6.1
inline constexpr std::uint8_t kFin = 0x01, kSyn = 0x02, kRst = 0x04, kPsh = 0x08, kAck = 0x10, kUrg = 0x20, kEce = 0x40,
                              kCwr = 0x80;
}  // namespace tcp_flag

}  // namespace vx
