// SPDX-License-Identifier: Apache-2.0
// The Internet checksum (RFC 1071), kept in memory byte order: sums are of 16-bit words as they lie, so a
// finished checksum is stored with Be16::from_raw and never swapped. Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vx {

// One's complement sum of `length` bytes plus `seed`; an odd last byte is padded with zero. Not folded: pass on
// as another call's seed (the earlier pieces must then have even lengths) or to checksum_fold().
[[nodiscard]] std::uint32_t checksum_partial(const std::uint8_t* bytes, std::size_t length,
                                             std::uint32_t seed = 0) noexcept;

// The same sum while copying: every byte of `from` is read once. The two ranges do not overlap.
[[nodiscard]] std::uint32_t checksum_copy(std::uint8_t* to, const std::uint8_t* from, std::size_t length,
                                          std::uint32_t seed = 0) noexcept;

// The 16-bit sum, not inverted: 0xffff over data that contains its own right checksum.
[[nodiscard]] constexpr std::uint16_t checksum_fold(std::uint32_t sum) noexcept {
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>((sum & 0xffff) + (sum >> 16));
}

// The raw checksum field after one 16-bit word changed from `from` to `to` (all raw). RFC 1624 equation 3.
[[nodiscard]] constexpr std::uint16_t checksum_update(std::uint16_t checksum, std::uint16_t from,
                                                      std::uint16_t to) noexcept {
  const std::uint32_t sum = static_cast<std::uint16_t>(~checksum) + std::uint32_t{static_cast<std::uint16_t>(~from)} + to;
  return static_cast<std::uint16_t>(~checksum_fold(sum));
}

}  // namespace vx
