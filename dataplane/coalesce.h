// SPDX-License-Identifier: Apache-2.0
// Coalescing: consecutive TCP segments of one flow become one super-frame for a port that takes such. The kernel's GRO
// rules (net/ipv4/tcp_offload.c, net/core/gro.c, include/net/gro.h) are the oracle. What segment.h cuts, this joins:
// round trip. A step: it decides and copies; buffers, order and time belong to the caller. Pure.
//
// The caller, for each frame in order:  parse_tcp_segment() false: the frame belongs to no flow.
//   An open flow with that hash and may_join(): join_first() or join(); on true the frame is absorbed.
//   Else what is open with that hash leaves (finish()) in front of the frame, and the frame opens a flow if may_start.
// A flow that is_closed leaves at once: nothing more may be joined to it.
#pragma once

#include "dataplane/packet.h"

namespace vx {

// One segment as coalescing sees it.
struct TcpSegment {
  std::uint64_t flow = 0;           // hash of MACs, tags, addresses, ports: equal within a flow, seldom elsewhere
  std::uint32_t sequence = 0;
  std::uint32_t payload_bytes = 0;  // as the IP header says: Ethernet's padding does not count
  std::uint16_t layer3 = 0, layer4 = 0, payload = 0;  // offsets
  bool is_v4 = true;
  bool may_start = false;           // others may be joined to it: data, and neither SYN, FIN, RST, URG nor PSH
  bool may_follow = false;          // it may be joined to others: data, and neither SYN, RST, URG nor CWR
};

// False: no TCP that could belong to an open flow: not TCP, a fragment, IPv4 options, IPv6 extension headers, cut
// short, a wrong IPv4 header checksum. True with neither may_start nor may_follow: TCP that ends what is open of its
// flow (pure ACK, SYN, RST, a frame with offload metadata...). Any frame, never read past its length.
[[nodiscard]] bool parse_tcp_segment(const Packet& packet, TcpSegment& segment) noexcept;

// A flow whose next segment may be joined. At first `head` is the first segment where it was received; the first join
// makes it a super-frame in a large buffer.
struct OpenFlow {
  Packet* head = nullptr;          // null: the place is free
  TcpSegment segment;              // of the head's first segment
  std::uint32_t next_sequence = 0;
  std::uint32_t length = 0;        // bytes of the frame so far, without padding
  std::uint16_t segment_size = 0;  // payload bytes of the first segment
  std::uint16_t segments = 1;
  bool has_fixed_id = false;       // the second segment's IPv4 ID was the first's; decided when it joins
  bool is_closed = false;          // a shorter, PSH or FIN segment was the last, or the head's own checksum is wrong
};

// Starts a flow with `packet` as head. segment.may_start.
[[nodiscard]] OpenFlow open_flow(Packet& packet, const TcpSegment& segment) noexcept;

// Whether `packet` is the flow's next segment in order by its headers: the same but for what moves (sequence, lengths,
// IPv4 ID, checksums, PSH and FIN, CWR of the first), not longer than the first, together within 65,535 bytes of IP. A
// hash that two flows share costs a join, never more.
[[nodiscard]] bool may_join(const OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept;

// The first join (flow.segments == 1): makes the head a super-frame in `large` (an empty buffer of allocate_large) and
// appends `packet`, for which may_join() is true; both TCP checksums are verified while copying. True: flow.head is
// &large, the caller frees the old head's and `packet`'s buffers. False: head and `packet` stay two frames, `large`
// stays the caller's and empty; flow.is_closed when it was the head's checksum that is wrong.
[[nodiscard]] bool join_first(OpenFlow& flow, Packet& large, const Packet& packet, const TcpSegment& segment) noexcept;

// The same for the later ones (flow.segments > 1). False: its checksum is wrong, nothing has changed.
[[nodiscard]] bool join(OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept;

// Finishes what joined: IP length and checksum, pseudo-header checksum, offload metadata. A head that nothing was
// joined to is left as it was received.
void finish(OpenFlow& flow) noexcept;

}  // namespace vx
