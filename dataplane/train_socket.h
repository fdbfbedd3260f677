// SPDX-License-Identifier: Apache-2.0
// Encapsulated super-frames out of a netdev as UDP trains, through a packet socket with a vnet header: the kernel (or the NIC)
// cuts the outer datagram where it would cut any large UDP send. For netdevs that an AF_XDP socket sends through by copy: there each
// frame costs a buffer, a walk through the device and, on a veth, the peer's whole receive path by itself; a train costs them once.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/datagram_train.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/outer_udp.h"
#include "dataplane/tally.h"

namespace vx {

// Whether the kernel's packet sockets take UDP super-frames (Linux 6.2 and later). Sends one frame to nobody over `lo`.
[[nodiscard]] bool takes_udp_trains() noexcept;

// One worker's.
class TrainSocket {
 public:
  // Throws std::system_error naming the netdev.
  TrainSocket(const std::string& netdev, std::uint32_t ifindex);

  // `packet`: an outer frame (Ethernet, at most one tag, IPv4 or IPv6, UDP with a checksum, VXLAN) around a super-frame. True: it has
  // been sent, or a part of it (the rest is in errors()). False: nothing has, and it has its reason (kNone: no room now;
  // else its datagrams are in errors() too).
  [[nodiscard]] bool send(Packet& packet) noexcept;
  [[nodiscard]] std::uint64_t errors() const noexcept { return errors_.get(); }  // any thread

 private:
  [[nodiscard]] int send_train(const Packet& packet, const OuterOffsets& outer, std::uint32_t bytes, std::uint32_t segment) noexcept;

  FileDescriptor fd_;
  // Of the next outer IPv4 packet. The kernel counts on within a train; a receiver that joins (GRO) wants that over trains too.
  std::uint16_t next_id_ = 0;
  Tally errors_;  // datagrams
  std::unique_ptr<std::array<std::uint8_t, kMaxTrainBytes>> bytes_;
};

}  // namespace vx
