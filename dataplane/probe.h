// SPDX-License-Identifier: Apache-2.0
// A peer's path probe (probe_format.h) that came out of the tunnel. Asked only on the way to being dropped as link_local, so
// it costs other packets nothing. Pure.
#pragma once

#include "dataplane/packet.h"
#include "dataplane/probe_format.h"

namespace vx {

// `packet`: a decapsulated frame, from a VTEP.
[[nodiscard]] ProbeKind judge_probe(const Packet& packet) noexcept;

// Turns a judged kRequest into its reply in place, kProbeReplyBytes long: to be encapsulated to the VTEP it came from, with no VLAN
// tag. `local`: our VTEP address. The reply is shorter than any request, so nobody can use us to amplify.
void answer_probe(Packet& packet, const IpAddress& local) noexcept;

}  // namespace vx
