// SPDX-License-Identifier: Apache-2.0
// The remote VTEPs of one overlay: why each is known, and the index the dataplane knows it by. Pure; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "dataplane/packet.h"
#include "dataplane/wire.h"

namespace vx::control {

enum class VtepOrigin : std::uint8_t { kConfigured, kAdded, kLearned };

struct RemoteVtep {
  VtepIndex index = kNoIndex;
  VtepOrigin origin = VtepOrigin::kConfigured;
  bool flood = true;  // on the flood list
};

class VtepRegistry {
 public:
  static constexpr std::size_t kMaxLearned = 1024;  // a spoofed source must not fill the table

  // Known already (the stronger origin stays: configured, added, learned), or with the lowest free index,
  // or with `wanted` when that is free (read back from the dataplane). Empty: no room.
  std::optional<VtepIndex> add(const IpAddress& address, VtepOrigin origin, bool flood,
                               VtepIndex wanted = kNoIndex);
  // The index is free again.
  std::optional<VtepIndex> remove(const IpAddress& address);
  [[nodiscard]] const RemoteVtep* find(const IpAddress& address) const;
  [[nodiscard]] std::optional<IpAddress> address_of(VtepIndex index) const;
  [[nodiscard]] const std::map<IpAddress, RemoteVtep>& all() const noexcept { return vteps_; }

 private:
  std::map<IpAddress, RemoteVtep> vteps_;
  std::vector<std::optional<IpAddress>> by_index_;
  std::size_t learned_ = 0;
};

}  // namespace vx::control
