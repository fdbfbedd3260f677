// SPDX-License-Identifier: Apache-2.0
// A hash of an inner frame's flow, for the outer source port: RFC 7348 section 5 wants entropy there so that the
// underlay's ECMP and the receiver's RSS spread flows. Computed in software: software ports give no hash.
#pragma once

#include <cstdint>

namespace vx {

// Hash of the flow of the Ethernet frame `frame` (`length` bytes, any number, never read past). The same for every
// frame of a flow, tagged or not (up to two tags are skipped): addresses, protocol and, for TCP, UDP and SCTP, ports;
// without ports for all fragments of a datagram alike, first one included; the two MACs and the ethertype when
// it is not IP or cut short. Not for security. Pure; any thread.
[[nodiscard]] std::uint32_t flow_hash(const std::uint8_t* frame, std::uint32_t length) noexcept;

}  // namespace vx
