// SPDX-License-Identifier: Apache-2.0
// The one place where Packet::offload and the flags of an mbuf meet. Any thread.
#pragma once

#include <cstdint>
#include <string_view>

#include "dataplane/port.h"

struct rte_mbuf;
struct rte_eth_dev_info;

namespace vx {

// What is left to a device, and how it wants it said.
struct MbufOffloads {
  std::uint64_t tx = 0, rx = 0;     // RTE_ETH_TX_OFFLOAD_*, RTE_ETH_RX_OFFLOAD_* to be enabled
  bool keeps_pseudo_header = false; // virtio: the L4 checksum field holds the pseudo header's sum, length included, as in
                                    // Packet::offload. Else as DPDK says (rte_mbuf.h): without the length for TSO
  bool tells_partial = false;       // received frames may have partial checksums or be super-frames

  [[nodiscard]] TxOffloads taken() const noexcept;
};

// Of what the device can, what gains something and is tested. Segmentation by virtio only: there a descriptor has 32
// bits of length, elsewhere a super-frame in one piece may be more than a descriptor takes.
[[nodiscard]] MbufOffloads offloads_of(const rte_eth_dev_info& device) noexcept;

// Says in `mbuf` (MbufPool::to_mbuf(packet)) what is left to do with the frame, which is not plain and which
// MbufOffloads::taken() carries. An IPv6 checksum that DPDK cannot describe (extension headers) is completed here
// instead. kNone, or why the frame cannot be sent.
[[nodiscard]] DropReason describe(const MbufOffloads& offloads, Packet& packet, rte_mbuf& mbuf) noexcept;

// The other way: sets Packet::offload of a received frame from its mbuf's flags and segment size, and its pseudo header.
// What cannot be described (not TCP or UDP) becomes a request that later steps refuse as guest_bad_offload.
void take_over(std::uint64_t mbuf_flags, std::uint16_t segment_size, Packet& packet) noexcept;
// Whether that is needed.
[[nodiscard]] bool has_request(std::uint64_t mbuf_flags) noexcept;

}  // namespace vx
