// SPDX-License-Identifier: Apache-2.0
// A port's VLANs, as `bridge vlan` has them: a PVID or none, a set of VIDs, each tagged or untagged on egress.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/wire.h"

namespace vx {

inline constexpr std::uint16_t kNoPvid = 0;
inline constexpr std::uint16_t kMaxVid = 4094;

// A set of VIDs 1-4094; POD, 512 bytes, travels in protocol messages as it is.
struct VidSet {
  std::array<std::uint64_t, 64> words{};

  [[nodiscard]] constexpr bool contains(std::uint16_t vid) const noexcept {
    return (words[(vid & kVidMask) >> 6] >> (vid & 63) & 1) != 0;
  }
  constexpr void insert(std::uint16_t vid) noexcept { words[(vid & kVidMask) >> 6] |= std::uint64_t{1} << (vid & 63); }
  constexpr void erase(std::uint16_t vid) noexcept { words[(vid & kVidMask) >> 6] &= ~(std::uint64_t{1} << (vid & 63)); }
  constexpr void insert_range(std::uint16_t first, std::uint16_t last) noexcept {
    for (unsigned vid = first; vid <= last; ++vid) insert(static_cast<std::uint16_t>(vid));
  }
  [[nodiscard]] constexpr bool is_empty() const noexcept {
    for (auto w : words)
      if (w != 0) return false;
    return true;
  }
  friend constexpr bool operator==(const VidSet&, const VidSet&) = default;
};

struct VlanTable {
  VidSet members;    // the PVID is a member too
  VidSet untagged;   // subset of members that leaves untagged
  std::uint16_t pvid = kNoPvid;  // VLAN of untagged and priority-tagged frames; kNoPvid: they are dropped
  std::uint16_t filtering = 1;   // 0: tags are payload; every frame is the PVID's and leaves as it came

  friend constexpr bool operator==(const VlanTable&, const VlanTable&) = default;
};

}  // namespace vx
