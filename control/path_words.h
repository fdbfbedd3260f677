// SPDX-License-Identifier: Apache-2.0
// What a measured path is called, in one place: the log, `vxctl status` and `vxctl mtu probe` say the same. Pure.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace vx::control {

// Outer IP packets, bytes. "1400 needed, 1372 passes: your path eats 28 bytes"
[[nodiscard]] inline std::string path_words(std::uint16_t needed, std::uint16_t passes) {
  if (passes >= needed) return fmt::format("{} needed, {} passes", needed, passes);
  return fmt::format("{} needed, {} passes: your path eats {} bytes", needed, passes, needed - passes);
}

}  // namespace vx::control
