// SPDX-License-Identifier: Apache-2.0
// The mapped receive ring of a packet socket (TPACKET_V2): the kernel copies each frame into a slot when it arrives, on the
// sender's CPU, and frees its own buffer there; who reads makes no system call, and none to find that nothing came. A frame too
// long for a slot waits in the socket's queue in the order of its slots (PACKET_COPY_THRESH): recvmsg then brings it.
//
// Not TPACKET_V3: it hands over whole blocks, by a timer of at least a millisecond.
// Threads: one reads; the kernel writes from any CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "dataplane/vnet_header.h"

namespace vx {

class PacketRing {
 public:
  struct Frame {
    const std::uint8_t* data;  // from its Ethernet header on; without the tag that the kernel took out
    std::uint32_t length;      // bytes
    VnetHeader vnet;
    std::uint16_t tpid, tci;   // of the tag taken out; tpid 0: none
    bool is_queued;            // recvmsg brings it; of the rest nothing holds
    bool is_whole;             // else it was too long, and the socket's queue full
  };

  // On a packet socket with PACKET_VNET_HDR that is not bound yet. Throws std::system_error naming the netdev.
  PacketRing(const std::string& netdev, int socket);
  ~PacketRing();
  PacketRing(const PacketRing&) = delete;
  PacketRing& operator=(const PacketRing&) = delete;

  // The oldest frames, at most `count`; theirs until release(). Returns how many.
  [[nodiscard]] unsigned peek(Frame* out, unsigned count) const noexcept;
  // The oldest `count` slots are the kernel's again.
  void release(unsigned count) noexcept;

 private:
  [[nodiscard]] std::uint8_t* slot(unsigned ahead) const noexcept;

  std::uint8_t* memory_ = nullptr;
  unsigned next_ = 0;  // the oldest slot not released
};

}  // namespace vx
