// SPDX-License-Identifier: Apache-2.0
#include "dataplane/coalesce.h"
namespace vx {
bool parse_tcp_segment(const Packet&, TcpSegment&) noexcept { return false; }
OpenFlow open_flow(Packet&, const TcpSegment&) noexcept { return {}; }
bool may_join(const OpenFlow&, const Packet&, const TcpSegment&) noexcept { return false; }
bool join_first(OpenFlow&, Packet&, const Packet&, const TcpSegment&) noexcept { return false; }
bool join(OpenFlow&, const Packet&, const TcpSegment&) noexcept { return false; }
void finish(OpenFlow&) noexcept {}
}
