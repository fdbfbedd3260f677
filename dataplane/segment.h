// SPDX-License-Identifier: Apache-2.0
// Segmentation: a TCP or UDP super-frame into the frames it stands for (RFC 9293; virtio 1.2 section 5.1.6.2; the kernel's
// skb_segment is the oracle). One pass: every payload byte is read once, copied and summed together.
#pragma once

#include "dataplane/packet.h"
#include "dataplane/super_frame.h"

namespace vx {

// Cuts one super-frame, which stays unchanged and outlives this. No allocation: the caller brings the buffers.
class Segmenter {
 public:
  Segmenter(const Packet& super_frame, const SuperFrame& at) noexcept;

  // Segments that the frame stands for; at least 1.
  [[nodiscard]] unsigned count() const noexcept { return count_; }
  // Bytes of segment 0, the longest: what a buffer's tailroom must hold.
  [[nodiscard]] std::uint32_t longest() const noexcept;
  // Writes segment `i` (< count()), a plain frame with complete checksums, into `out`, an empty buffer with tailroom for
  // longest(): sets length, tailroom, is_tagged, tci, ingress_port and source. Segments may be made in any order. Returns the one's complement sum
  // (checksum_partial's kind) of all bytes of the frame, so that an outer checksum need not read them again.
  // TCP: sequence number, FIN and PSH only on the last, CWR only on the first with kGsoEcn, IPv4 ID + i.
  [[nodiscard]] std::uint32_t make(unsigned i, Packet& out) const noexcept;

 private:
  const Packet& super_;
  SuperFrame at_;
  unsigned count_ = 0;
};

}  // namespace vx
