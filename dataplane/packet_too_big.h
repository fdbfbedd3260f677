// SPDX-License-Identifier: Apache-2.0
// Telling a sender that its packet does not fit: ICMPv4 fragmentation needed (RFC 792, RFC 1191 section 4), ICMPv6
// packet too big (RFC 4443 section 3.2). Who is not told: RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443
// section 2.4 (e). Pure.
#pragma once

#include "dataplane/packet.h"

namespace vx {

// The least next-hop MTU that is ever told. Below, it would mean nothing to a sender: IPv6 hosts ignore it (RFC 8200
// section 5, RFC 8201 section 4), and 68 bytes pass every IPv4 link (RFC 791 section 3.2).
inline constexpr std::uint16_t kLeastToldMtu4 = 68, kLeastToldMtu6 = 1280;

// `frame`: a dropped Ethernet frame (a super-frame too: its first bytes are quoted as they are), tagged or not, as it
// was received or as bridge left it. `mtu`: layer-3 bytes that would have passed.
// Writes into `reply` (an empty ordinary buffer) the message to its sender, with complete checksums: from the address
// the packet was going to, MACs swapped, tags kept (is_tagged and tci are the frame's), as much of the packet as RFC
// 1812 section 4.3.2.3 (576 bytes in all) or RFC 4443 (1280) lets it quote.
// False, `reply` unchanged: the sender is not to be told. That is a group or broadcast destination (MAC or IP), a
// source that is no one host's address, an ICMP error or redirect, a later fragment, no IP, a packet cut short; and a
// packet that fits the MTU it would be told: an IPv6 packet of 1280 bytes or less has no smaller size to go to.
[[nodiscard]] bool make_packet_too_big(const Packet& frame, std::uint16_t mtu, Packet& reply) noexcept;

}  // namespace vx
