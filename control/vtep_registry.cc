// SPDX-License-Identifier: Apache-2.0
#include "control/vtep_registry.h"

#include <algorithm>

namespace vx::control {

std::optional<VtepIndex> VtepRegistry::add(const IpAddress& address, VtepOrigin origin, bool flood, VtepIndex wanted) {
  const auto known = vteps_.find(address);
  if (known != vteps_.end()) {
    RemoteVtep& vtep = known->second;
    if (origin < vtep.origin) {
      if (vtep.origin == VtepOrigin::kLearned) --learned_;
      vtep.origin = origin;
    }
    vtep.flood = vtep.flood || flood;
    return vtep.index;
  }
  if (origin == VtepOrigin::kLearned && learned_ >= kMaxLearned) return std::nullopt;
  std::size_t index = wanted;
  if (wanted >= kMaxVteps || (wanted < by_index_.size() && by_index_[wanted])) {
    index = static_cast<std::size_t>(std::find(by_index_.begin(), by_index_.end(), std::nullopt) - by_index_.begin());
  }
  if (index >= kMaxVteps) return std::nullopt;
  if (index >= by_index_.size()) by_index_.resize(index + 1);
  by_index_[index] = address;
  if (origin == VtepOrigin::kLearned) ++learned_;
  vteps_[address] = {static_cast<VtepIndex>(index), origin, flood};
  return static_cast<VtepIndex>(index);
}

std::optional<VtepIndex> VtepRegistry::remove(const IpAddress& address) {
  const auto known = vteps_.find(address);
  if (known == vteps_.end()) return std::nullopt;
  const VtepIndex index = known->second.index;
  if (known->second.origin == VtepOrigin::kLearned) --learned_;
  by_index_[index].reset();
  vteps_.erase(known);
  return index;
}

const RemoteVtep* VtepRegistry::find(const IpAddress& address) const {
  const auto known = vteps_.find(address);
  return known == vteps_.end() ? nullptr : &known->second;
}

std::optional<IpAddress> VtepRegistry::address_of(VtepIndex index) const {
  return index < by_index_.size() ? by_index_[index] : std::nullopt;
}

}  // namespace vx::control
