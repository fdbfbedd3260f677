// SPDX-License-Identifier: Apache-2.0
// The sum that ends "small pings work, large transfers hang".
#include "config/mtu_arithmetic.h"

#include <fmt/format.h>

namespace vx::config {
namespace {

constexpr unsigned kMinIpv6Mtu = 1280;  // RFC 8200 section 5

// Of the local address, else of the remotes; IPv4 while neither is known.
bool is_ipv6(const Settings& settings) {
  if (settings.vxlan.local) return !settings.vxlan.local->is_v4();
  return !settings.vxlan.remotes.empty() && !settings.vxlan.remotes.front().is_v4();
}
unsigned less(unsigned from, unsigned what) { return from > what ? from - what : 0; }

}  // namespace

MtuCeilings mtu_ceilings(unsigned underlay_mtu, bool is_ipv6) {
  const unsigned untagged = less(underlay_mtu, is_ipv6 ? kOverheadIpv6 : kOverheadIpv4);
  return {untagged, less(untagged, kVlanTagBytes), less(untagged, 2 * kVlanTagBytes)};
}

bool carries_tags(const BridgeSettings& bridge) {
  VidSet tagged = bridge.vids;
  tagged.erase(bridge.pvid);
  return !tagged.is_empty();
}

unsigned ceiling_that_counts(const MtuCeilings& ceilings, const BridgeSettings& bridge) {
  return carries_tags(bridge) ? ceilings.one_tag : ceilings.untagged;
}

unsigned largest_safe_mtu(const Settings& settings) {
  return ceiling_that_counts(mtu_ceilings(settings.underlay.mtu, is_ipv6(settings)), settings.bridge);
}

std::optional<MtuVerdict> judge_mtu(const Settings& settings) {
  const unsigned mtu = settings.vxlan.mtu;
  const bool v6 = is_ipv6(settings);
  const MtuCeilings ceilings = mtu_ceilings(settings.underlay.mtu, v6);
  const auto because =
      fmt::format("an underlay MTU of {} less {} bytes of VXLAN over {}", settings.underlay.mtu,
                  v6 ? kOverheadIpv6 : kOverheadIpv4, v6 ? "IPv6" : "IPv4");
  if (mtu > ceilings.untagged)
    return MtuVerdict{Severity::kError, fmt::format("{} does not fit: at most {}, {}", mtu,
                                                    ceilings.untagged, because)};
  if (mtu > ceilings.one_tag && carries_tags(settings.bridge))
    return MtuVerdict{
        Severity::kWarning,
        fmt::format("{} fits untagged only: with one inner tag at most {}, {} and 4 of tag", mtu,
                    ceilings.one_tag, because)};
  if (mtu < kMinIpv6Mtu)
    return MtuVerdict{
        Severity::kWarning,
        fmt::format("{} is too small for guests' IPv6, which needs {}", mtu, kMinIpv6Mtu)};
  return std::nullopt;
}

std::vector<std::string> mtu_lines(const Settings& settings) {
  const bool v6 = is_ipv6(settings);
  const unsigned underlay = settings.underlay.mtu;
  const MtuCeilings ceilings = mtu_ceilings(underlay, v6);
  const unsigned mtu = settings.vxlan.mtu;
  const auto fits = [&](unsigned ceiling) {
    return mtu <= ceiling ? fmt::format("{} fits, {} to spare", mtu, ceiling - mtu)
                          : fmt::format("{} is {} too large", mtu, mtu - ceiling);
  };
  return {
      fmt::format("MTU arithmetic, in bytes of IP packet: underlay {}, overlay {}", underlay, mtu),
      fmt::format("VXLAN over {} costs {}: {} {} + 8 UDP + 8 VXLAN + 14 inner Ethernet",
                  v6 ? "IPv6" : "IPv4", v6 ? kOverheadIpv6 : kOverheadIpv4, v6 ? 40 : 20,
                  v6 ? "IPv6" : "IPv4"),
      fmt::format("guest packets, untagged:           {} - {}     = {} at most; {}", underlay,
                  v6 ? kOverheadIpv6 : kOverheadIpv4, ceilings.untagged, fits(ceilings.untagged)),
      fmt::format("guest packets, one 802.1Q tag:     {} - {} - 4 = {} at most; {}", underlay,
                  v6 ? kOverheadIpv6 : kOverheadIpv4, ceilings.one_tag, fits(ceilings.one_tag)),
      fmt::format("guest packets, two tags:           {} - {} - 8 = {} at most; {}", underlay,
                  v6 ? kOverheadIpv6 : kOverheadIpv4, ceilings.two_tags, fits(ceilings.two_tags)),
  };
}

}  // namespace vx::config
