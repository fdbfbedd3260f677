// SPDX-License-Identifier: Apache-2.0
// Coalescing: consecutive TCP segments of one flow become one super-frame for a port that takes such
// (the kernel's GRO rules, net/ipv4/tcp_offload.c and net/core/gro.c, are the oracle). What segment.h cuts, this joins: round
// trip. A step: it decides and copies; buffers, order and time belong to the caller (pipeline).
#pragma once

#include "dataplane/packet.h"

namespace vx {

// One segment as coalescing sees it.
struct TcpSegment {
  std::uint64_t flow = 0;          // hash of addresses, ports, tag and MACs: equal for segments of one flow, seldom for others
  std::uint16_t layer3 = 0, layer4 = 0, payload = 0;  // offsets, bytes
  std::uint32_t payload_bytes = 0;
  bool is_v4 = true;
  bool may_start = false;          // others may be joined to it: data, no flags but ACK (and PSH: then nothing may follow)
};

// False: not TCP that could belong to an open flow of any kind (not TCP, a fragment, IPv4 options, cut short). True with
// may_start == false: TCP that ends what is open of its flow (pure ACK, SYN, FIN, RST, URG, CWR...). `packet` is plain.
[[nodiscard]] bool parse_tcp_segment(const Packet& packet, TcpSegment& segment) noexcept;

// A flow whose next segment may be joined. At first `head` is the first segment where it was received; the first join makes it the super-frame.
struct OpenFlow {
  Packet* head = nullptr;             // null: the place is free
  TcpSegment segment;                 // of the head
  std::uint32_t next_sequence = 0;
  std::uint16_t segment_size = 0;     // payload bytes of the head's first segment
  std::uint16_t segments = 1;
  bool is_closed = false;             // a shorter or PSH segment was the last: nothing may follow
};

// Starts a flow with `packet` as head. segment.may_start.
[[nodiscard]] OpenFlow open_flow(Packet& packet, const TcpSegment& segment) noexcept;

// Whether `packet` is the flow's next segment in order and may join by the rules: same headers but for what moves (sequence, lengths, IPv4 ID,
// checksums, PSH), not longer than the first, together within 65,535 bytes of IP, and its own TCP checksum (and the head's, when that is still a plain frame) right.
[[nodiscard]] bool may_join(const OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept;

// The first join: makes the head a super-frame in `large` (an empty buffer of allocate_large) and appends `packet`, for which may_join() is true;
// both TCP checksums are verified on the way. True: flow.head is `large`, the caller frees the old head's and `packet`'s buffers. False: nothing has
// changed and `large` stays the caller's; flow.is_closed when it was the head's checksum that is wrong.
[[nodiscard]] bool join_first(OpenFlow& flow, Packet& large, const Packet& packet, const TcpSegment& segment) noexcept;

// The same for the second and later ones (flow.segments > 1). False: its checksum is wrong, nothing has changed.
[[nodiscard]] bool join(OpenFlow& flow, const Packet& packet, const TcpSegment& segment) noexcept;

// Finishes what joined (segments > 1): IP length and checksum, pseudo-header checksum, offload metadata.
void finish(OpenFlow& flow) noexcept;

}  // namespace vx
