// SPDX-License-Identifier: Apache-2.0
#include "control/bridge_snapshot.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <utility>

namespace vx::control {

bool is_dynamic(const BridgeFdbEntry& entry) {
  return (entry.state & (NUD_PERMANENT | NUD_NOARP)) == 0 && (entry.flags & (NTF_EXT_LEARNED | NTF_STICKY)) == 0;
}

BridgeFollower::Key BridgeFollower::key_of(const BridgeFdbEntry& entry) {
  if (!entry.dst) return {entry.master, entry.vid, entry.mac, std::nullopt};
  return {entry.ifindex, 0, entry.mac, entry.mac.is_zero() ? entry.dst : std::nullopt};
}

void BridgeFollower::resync() {
  fdb_.clear();  // what was away meanwhile is said anew
  read_fdb();
  is_due_ = are_links_due_ = is_fdb_due_ = is_audit_due_ = true;
}

void BridgeFollower::audit() {
  if (!std::exchange(is_audit_due_, false)) return;
  read_fdb();
  is_due_ = is_fdb_due_ = true;
}

void BridgeFollower::read_fdb() {
  const auto before = std::exchange(fdb_, {});
  (void)kernel_.bridge_fdb(0, [&](const BridgeFdbEntry& entry) {
    if (!is_dynamic(entry)) remember(entry, before);
  });
}

// A row that was away between two snapshots (a guest came and EVPN took it back) looks the same, but is said anew.
void BridgeFollower::remember(const BridgeFdbEntry& entry, const std::map<Key, BridgeFdbEntry>& before) {
  const Key key = key_of(entry);
  const auto known = before.find(key);
  const std::uint64_t said = known != before.end() ? known->second.said : ++said_;
  BridgeFdbEntry& row = fdb_[key];
  row = entry;
  row.said = said;
}

void BridgeFollower::on_event(const nlmsghdr* message) {
  switch (message->nlmsg_type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
    case RTM_NEWQDISC:
    case RTM_DELQDISC:
      is_due_ = are_links_due_ = true;
      return;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      const auto entry = parse_bridge_fdb(message);
      if (!entry) return;
      const auto known = fdb_.find(key_of(*entry));
      if (message->nlmsg_type == RTM_NEWNEIGH && !is_dynamic(*entry)) {
        remember(*entry, fdb_);
      } else if (known != fdb_.end() && (message->nlmsg_type == RTM_NEWNEIGH || known->second.ifindex == entry->ifindex)) {
        fdb_.erase(known);
      } else {
        return;
      }
      is_due_ = is_fdb_due_ = true;
      return;
    }
    case RTM_NEWADDR:
    case RTM_DELADDR:
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
    case RTM_NEWRULE:
    case RTM_DELRULE: is_due_ = true; return;  // the way to the VTEPs
    default: return;
  }
}

const BridgeSnapshot& BridgeFollower::snapshot() {
  is_due_ = false;
  if (std::exchange(are_links_due_, false)) {
    now_.links = kernel_.links();
    now_.vlans = kernel_.all_bridge_vlans();
    now_.policed = kernel_.ingress_qdiscs();
  }
  if (std::exchange(is_fdb_due_, false)) {
    now_.fdb.clear();
    for (const auto& [key, entry] : fdb_)
      if (!is_ours_ || !is_ours_(entry)) now_.fdb.push_back(entry);
  }
  return now_;
}

}  // namespace vx::control
