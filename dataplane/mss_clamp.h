// SPDX-License-Identifier: Apache-2.0
// mss-clamp: the MSS option of TCP SYNs and SYN-ACKs lowered so that segments fit the overlay MTU (RFC 9293 section
// 3.7.1, RFC 6691). Pure.
#pragma once

#include "dataplane/packet.h"

namespace vx {

// `mtu`: layer-3 bytes; the MSS becomes at most 40 (IPv4) or 60 (IPv6) less: TCP options are the sender's to subtract.
// Leaves everything else as it is: no TCP, no SYN, no option, a smaller MSS, later fragments, frames cut short. The TCP
// checksum is updated (RFC 1624), not recomputed: one that was wrong stays wrong; one still to be completed
// (needs_checksum) is left to that.
void clamp_mss(Packet& packet, std::uint16_t mtu) noexcept;

}  // namespace vx
