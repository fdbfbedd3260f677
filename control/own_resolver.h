// SPDX-License-Identifier: Apache-2.0
// vtep-address = own: control resolves the VTEPs itself, by ARP (RFC 826) and ND (RFC 4861), over frames the
// dataplane injects and punts. Pure: frames and time in, frames out. VTEPs are taken as on-link: the
// configuration has no gateway. One thread.
//
// A VTEP is asked by broadcast until it answers, and from then on by unicast every kRefreshEvery; after
// kUnicastTries without an answer by broadcast again, so that a MAC changed in silence is followed within
// kRefreshEvery + (kUnicastTries + 1) seconds. Gratuitous ARP and unsolicited advertisements count at once.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "control/event_loop.h"
#include "dataplane/wire.h"

namespace vx::control {

using Frame = std::vector<std::uint8_t>;  // from the destination MAC on, without the outer VLAN tag, no FCS

class OwnResolver {
 public:
  static constexpr Milliseconds kRefreshEvery = 5000;
  static constexpr Milliseconds kRetryEvery = 1000;
  static constexpr unsigned kUnicastTries = 2;
  static constexpr unsigned kTriesUntilUnresolved = 5;
  static constexpr unsigned kAnnouncements = 2;  // at start and after a change, kRetryEvery apart

  // Our MAC and addresses; a change announces them anew and asks everybody again.
  void set_local(const MacAddress& mac, const std::vector<IpAddress>& addresses);
  // The VTEPs to resolve.
  void watch(const std::vector<IpAddress>& remotes);
  // What was known before a restart of control: used while it is asked again.
  void assume(const IpAddress& remote, const MacAddress& mac);
  // A punted frame: ARP or ND of a peer. Anything else is ignored.
  void on_frame(std::span<const std::uint8_t> frame, Milliseconds now);
  // The frames that are due. To be called every quarter of a second and after watch().
  [[nodiscard]] std::vector<Frame> tick(Milliseconds now);

  // Empty while unresolved.
  [[nodiscard]] std::optional<MacAddress> mac_of(const IpAddress& remote) const;
  [[nodiscard]] bool take_changed();

 private:
  struct Peer {
    std::optional<MacAddress> mac;
    Milliseconds asked_at = 0, heard_at = 0;
    unsigned tries = 0;  // requests since it was last heard
    bool was_asked = false;
  };

  void heard(const IpAddress& peer, const MacAddress& mac, Milliseconds now);
  void on_arp(std::span<const std::uint8_t> frame, Milliseconds now);
  void on_neighbour_discovery(std::span<const std::uint8_t> frame, Milliseconds now);
  [[nodiscard]] std::optional<Frame> ask(const IpAddress& remote, const Peer& peer) const;
  [[nodiscard]] Frame announcement(const IpAddress& local) const;

  MacAddress mac_;
  std::vector<IpAddress> local_;
  std::map<IpAddress, Peer> peers_;
  unsigned announcements_left_ = 0;
  Milliseconds announced_at_ = 0;
  bool is_changed_ = false;
};

}  // namespace vx::control
