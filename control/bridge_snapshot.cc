// SPDX-License-Identifier: Apache-2.0
#include "control/bridge_snapshot.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <utility>

namespace vx::control {

bool is_dynamic(const BridgeFdbEntry& entry) {
  return (entry.state & (NUD_PERMANENT | NUD_NOARP)) == 0 && (entry.flags & NTF_EXT_LEARNED) == 0;
}

BridgeFollower::FdbKey BridgeFollower::key_of(const BridgeFdbEntry& entry) {
  // Of one MAC the vxlan's table has one row, whatever its dst; of the all-zero one a row for each dst.
  const bool is_flood = entry.mac.is_zero();
  return {entry.ifindex, entry.dst.has_value(), entry.vid, entry.mac, is_flood ? entry.dst : std::nullopt};
}

void BridgeFollower::resync() {
  fdb_.clear();
  for (auto& entry : kernel_.bridge_fdb())
    if (!is_dynamic(entry)) fdb_[key_of(entry)] = std::move(entry);
  is_due_ = are_links_due_ = is_fdb_due_ = true;
}

void BridgeFollower::on_event(const nlmsghdr* message) {
  switch (message->nlmsg_type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
      is_due_ = are_links_due_ = true;
      return;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      auto entry = parse_bridge_fdb(message);
      if (!entry) return;
      const auto key = key_of(*entry);
      if (message->nlmsg_type == RTM_NEWNEIGH && !is_dynamic(*entry)) {
        fdb_[key] = std::move(*entry);
      } else if (fdb_.erase(key) == 0) {
        return;
      }
      is_due_ = is_fdb_due_ = true;
      return;
    }
    default: is_due_ = true;  // addresses, routes, rules: the way to the VTEPs
  }
}

const BridgeSnapshot& BridgeFollower::snapshot() {
  is_due_ = false;
  if (std::exchange(are_links_due_, false)) {
    now_.links = kernel_.links();
    now_.vlans = kernel_.all_bridge_vlans();
  }
  if (std::exchange(is_fdb_due_, false)) {
    now_.fdb.clear();
    for (const auto& [key, entry] : fdb_) now_.fdb.push_back(entry);
  }
  return now_;
}

}  // namespace vx::control
