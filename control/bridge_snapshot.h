// SPDX-License-Identifier: Apache-2.0
// The kernel's bridges as they are now, followed by rtnetlink events: links, VLANs and those FDB entries that
// somebody set (learned ones come and go by the thousand and are not kept). One thread.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "control/rtnetlink.h"

namespace vx::control {

struct BridgeSnapshot {
  std::vector<Link> links;
  std::map<int, std::vector<BridgeVlan>> vlans;  // by ifindex: ports and bridges
  std::set<int> policed;                         // ifindices with an ingress qdisc, as links were read last
  std::vector<BridgeFdbEntry> fdb;               // static, permanent, external ones; vxlan's all-zero ones
};

// True for an entry that the kernel learned from a frame, will move with the next, and forget by itself.
[[nodiscard]] bool is_dynamic(const BridgeFdbEntry& entry);

class BridgeFollower {
 public:
  explicit BridgeFollower(RouteSocket& kernel) : kernel_(kernel) {}

  // Asks the kernel everything anew: at start, and after it dropped events. While entries come and go a dump may miss
  // some, so it is asked once more by audit().
  void resync();
  // To be called a second after a resync, or more often.
  void audit();
  // Rows for which it is true are our own writes, not the kernel's word.
  void set_is_ours(std::function<bool(const BridgeFdbEntry&)> is_ours) { is_ours_ = std::move(is_ours); }
  // Takes note of an event.
  void on_event(const nlmsghdr* message);
  // What was made of the last snapshot is void.
  void set_due() noexcept { is_due_ = true; }
  // Whether anything that matters may have changed since the last snapshot().
  [[nodiscard]] bool is_due() const noexcept { return is_due_; }
  // The kernel's state now; links and VLANs are asked for when an event told of them.
  [[nodiscard]] const BridgeSnapshot& snapshot();

 private:
  // A bridge has one row for a VID and MAC, whichever port it names: a move is one event, of the new place alone. A
  // vxlan device has one for a MAC, and for the all-zero one a row for each VTEP.
  struct Key {
    int table = 0;  // the bridge, or the vxlan device
    std::uint16_t vid = 0;
    MacAddress mac;
    std::optional<IpAddress> dst;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  [[nodiscard]] static Key key_of(const BridgeFdbEntry& entry);
  void read_fdb();
  void remember(const BridgeFdbEntry& entry, const std::map<Key, BridgeFdbEntry>& before);

  RouteSocket& kernel_;
  std::function<bool(const BridgeFdbEntry&)> is_ours_;
  std::map<Key, BridgeFdbEntry> fdb_;
  std::uint64_t said_ = 0;
  BridgeSnapshot now_;
  bool is_due_ = true, are_links_due_ = true, is_fdb_due_ = true, is_audit_due_ = false;
};

}  // namespace vx::control
