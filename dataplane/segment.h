// SPDX-License-Identifier: Apache-2.0
// Segmentation: a TCP or UDP super-frame into the frames it stands for (RFC 9293; virtio 1.2 section 5.1.6.2; the
// kernel's skb_segment, tcp_gso_segment and inet_gso_segment are the oracle). One pass: every payload byte is read
// once, copied and summed together; what is the same in every header was summed once before.
#pragma once

#include "dataplane/packet.h"
#include "dataplane/super_frame.h"

namespace vx {

// Cuts one super-frame, which stays unchanged and outlives this. No allocation: the caller brings the buffers.
class Segmenter {
 public:
  // `at` is what parse_super_frame() said of `super_frame`.
  Segmenter(const Packet& super_frame, const SuperFrame& at) noexcept;

  // Segments that the frame stands for: 1 to 65,535 (segment_size is the guest's choice).
  [[nodiscard]] unsigned count() const noexcept { return count_; }
  // Bytes of segment 0, the longest: what a buffer's tailroom must hold.
  [[nodiscard]] std::uint32_t longest() const noexcept { return at_.payload + payload_of(0); }
  // Bytes of the frame that is segment `i`.
  [[nodiscard]] std::uint32_t length_of(unsigned i) const noexcept { return at_.payload + payload_of(i); }
  // Writes segment `i` (< count()), a plain frame with complete checksums, into `out`, an empty buffer with tailroom of
  // longest(): sets length, tailroom, offload, is_tagged, tci, ingress_port and source. Segments may be made in any
  // order. Returns the one's complement sum (checksum_partial's kind, below 2^20) of all bytes of the frame, so that an
  // outer checksum need not read them again.
  // TCP: sequence number; FIN and PSH only on the last, CWR only on the first; IPv4 ID + i.
  [[nodiscard]] std::uint32_t make(unsigned i, Packet& out) const noexcept;

 private:
  [[nodiscard]] std::uint32_t payload_of(unsigned i) const noexcept {
    return i + 1 < count_ ? at_.segment_size : payload_bytes_ - (count_ - 1) * at_.segment_size;
  }
  void patch_ip(unsigned i, std::uint32_t layer4_bytes, std::uint8_t* ip) const noexcept;
  [[nodiscard]] std::uint32_t patch_tcp(unsigned i, std::uint8_t* layer4) const noexcept;

  const Packet& super_;
  SuperFrame at_;
  std::uint32_t payload_bytes_;  // of the super-frame
  unsigned count_;
  // One's complement sums of 16 bits; what differs from segment to segment is left out.
  std::uint32_t front_sum_;   // Ethernet and tags; of IPv6 its headers too (IPv4's sum to nothing with their checksum)
  std::uint32_t ip_sum_ = 0;  // the IPv4 header without total length, ID and checksum
  std::uint32_t pseudo_sum_;  // the pseudo header without its length
  std::uint32_t header_sum_;  // the TCP or UDP header without what differs
};

}  // namespace vx
