// SPDX-License-Identifier: Apache-2.0
// An encapsulated super-frame (TxOffloads::tunnel) as the datagrams it stands for, one behind the other as the kernel takes
// them for UDP_SEGMENT and VIRTIO_NET_HDR_GSO_UDP_L4: VXLAN header and inner segment each, all but the last of one length.
#pragma once

#include <optional>

#include "dataplane/packet.h"
#include "dataplane/segment.h"

namespace vx {

// What a kernel takes as one train at most: datagrams, and bytes of a UDP payload.
inline constexpr unsigned kMaxTrainDatagrams = 64;
inline constexpr std::uint32_t kMaxTrainBytes = 65'535 - sizeof(Ipv6Header) - sizeof(UdpHeader);  // over IPv4 20 more would fit

// Pure. `packet` stays unchanged and outlives this.
class DatagramTrain {
 public:
  // `vxlan`: offset of the VXLAN header. reason() is kNone, or why this is no super-frame.
  DatagramTrain(const Packet& packet, std::uint16_t vxlan) noexcept;
  DatagramTrain(const DatagramTrain&) = delete;
  DatagramTrain& operator=(const DatagramTrain&) = delete;

  [[nodiscard]] DropReason reason() const noexcept { return reason_; }
  // For reason() == kNone:
  [[nodiscard]] unsigned count() const noexcept { return cut_->count(); }
  [[nodiscard]] std::uint32_t longest() const noexcept { return static_cast<std::uint32_t>(sizeof(VxlanHeader)) + cut_->longest(); }
  // How many fit a train; 0: not one does.
  [[nodiscard]] unsigned at_once() const noexcept;
  // Writes datagrams `first` and on; returns their bytes. Room: count times longest().
  [[nodiscard]] std::uint32_t write(unsigned first, unsigned count, std::uint8_t* to) const noexcept;

 private:
  const std::uint8_t* vxlan_;
  Packet inner_;
  DropReason reason_;
  std::optional<Segmenter> cut_;
};

}  // namespace vx
