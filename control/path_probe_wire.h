// SPDX-License-Identifier: Apache-2.0
// The bytes of path probes, both kinds, and what an answer says. Formats: dataplane/probe_format.h; an echo request's data
// begins with the same ProbeMessage. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "control/own_resolver.h"
#include "control/path_probe.h"
#include "dataplane/protocol.h"
#include "dataplane/wire.h"

namespace vx::control {

// Who asks whom over what; of one IP version.
struct ProbeEnds {
  MacAddress source_mac, next_hop;
  IpAddress local, remote;
  std::uint8_t ttl = 64;
  std::uint16_t udp_port = kVxlanPort;
  std::uint32_t vni = 0;
};
// What became of one that was to be sent. kTooLarge: for the own device; it need not be tried again.
enum class ProbeSent : std::uint8_t { kSent, kTooLarge, kFailed };
struct ProbeId {
  std::uint32_t run = 0;       // random per measurement
  std::uint32_t sequence = 0;  // of a ProbeShot
  friend bool operator==(const ProbeId&, const ProbeId&) = default;
};

// The smallest size that both kinds have room for, and the largest IP packet that the dataplane injects.
inline constexpr std::uint16_t kSmallestProbe = 128;
inline constexpr std::uint16_t kLargestInjected = protocol::kMaxFrameBytes - sizeof(EthernetHeader);

// Whole Ethernet frames for kInject on the underlay port (no outer VLAN tag): an IP packet of `size` bytes, at least
// kSmallestProbe, with DF set. The UDP source port is one per pair of VTEPs, so that all sizes take one path where there are several.
[[nodiscard]] Frame tunnel_probe(const ProbeEnds& ends, std::uint16_t size, ProbeId id);
[[nodiscard]] Frame echo_probe(const ProbeEnds& ends, std::uint16_t size, ProbeId id);
// The ICMP message alone that makes an IP packet of `size` bytes, for a socket. ICMPv6: the kernel fills in the checksum.
[[nodiscard]] std::vector<std::uint8_t> echo_message(bool is_v6, std::uint16_t size, ProbeId id);

// A punted frame (protocol::PuntFrame, perhaps cut): the answer to a probe of either kind; empty when it is anything else.
[[nodiscard]] std::optional<ProbeId> probe_answer(std::span<const std::uint8_t> frame);
// An ICMP message from its first byte.
[[nodiscard]] std::optional<ProbeId> echo_answer(std::span<const std::uint8_t> message, bool is_v6);

}  // namespace vx::control
