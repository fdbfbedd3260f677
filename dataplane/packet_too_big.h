// SPDX-License-Identifier: Apache-2.0
// Telling a sender that its packet does not fit: ICMPv4 fragmentation needed (RFC 792, RFC 1191 section 4), ICMPv6 packet too
// big (RFC 4443 section 3.2). Who is not told: RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e). Pure.
#pragma once

#include "dataplane/packet.h"

namespace vx {

// `frame`: a dropped Ethernet frame (a super-frame too: its first bytes are as its segments'), tagged or not, as it was received or as bridge left it. `mtu`: layer-3
// bytes that would have passed. Writes into `reply` (an empty ordinary buffer) the message to its sender: from the address the packet was going to, MACs swapped,
// the tag kept (is_tagged, tci), complete checksums. False: the sender is not to be told (no unicast IP, an ICMP error, a later fragment, cut short, ...); `reply` is unchanged.
[[nodiscard]] bool make_packet_too_big(const Packet& frame, std::uint16_t mtu, Packet& reply) noexcept;

}  // namespace vx
