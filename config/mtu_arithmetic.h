// SPDX-License-Identifier: Apache-2.0
// What fits through the tunnel. All sizes are layer-3 bytes: an IP packet without Ethernet header
// and tags. Outer IP packet = outer IP + UDP + VXLAN + inner Ethernet + 4 per inner tag + inner IP
// packet (RFC 7348 section 5). Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/settings.h"

namespace vx::config {

// The largest guest packets; 0 where the underlay is too small for any.
struct MtuCeilings {
  unsigned untagged = 0;
  unsigned one_tag = 0;  // with one inner 802.1Q tag
  unsigned two_tags = 0;
  friend bool operator==(const MtuCeilings&, const MtuCeilings&) = default;
};
[[nodiscard]] MtuCeilings mtu_ceilings(unsigned underlay_mtu, bool is_ipv6);

// True when the tunnel carries a VLAN other than the PVID, that is tagged frames.
[[nodiscard]] bool carries_tags(const BridgeSettings& bridge);
// Of these the one that counts for what the bridge carries: with a tag where it carries tagged frames.
[[nodiscard]] unsigned ceiling_that_counts(const MtuCeilings& ceilings, const BridgeSettings& bridge);
// The largest overlay MTU at which nothing that the bridge carries is too large.
[[nodiscard]] unsigned largest_safe_mtu(const Settings& settings);

struct MtuVerdict {
  Severity severity = Severity::kError;
  std::string text;
};
// What is wrong with vxlan.mtu on this underlay; empty: nothing. vxlan.local must be set.
[[nodiscard]] std::optional<MtuVerdict> judge_mtu(const Settings& settings);

// The sum, spelt out for a person, a line each, without comment signs.
[[nodiscard]] std::vector<std::string> mtu_lines(const Settings& settings);

}  // namespace vx::config
