// SPDX-License-Identifier: Apache-2.0
// The kernel UDP sockets that the udp underlay driver sends through: 64 for each local VTEP address, by flow.
//
// A flow's outer source port picks the slot, the slot's socket is bound to a port of the slot's own 256: a flow always
// leaves from one port, and flows spread over 64 (RFC 7348 section 5 wants the port for ECMP). Opened when first used.
// Threads: one worker's (each transmit queue has its own set).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/wire.h"

namespace vx {

// IP_PMTUDISC_DO, not PROBE: both set DF and never fragment, but only DO obeys the path MTU that the kernel learns from
// ICMP about our datagrams (it can: the socket that sent them is there), so that a frame too big for the path is
// refused with EMSGSIZE here, where its sender can be told, and does not vanish on the way.
class UdpSocket {
 public:
  // 0, or the errno of what failed. `wanted_port`: taken when it is free, else another of its slot.
  [[nodiscard]] int open(const IpAddress& local, std::uint16_t wanted_port) noexcept;
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(fd_); }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  // What the next datagrams carry; a system call only when something changes.
  void use(std::uint8_t ttl, bool checksum) noexcept;

 private:
  FileDescriptor fd_;
  bool is_v4_ = true;
  bool checksum_ = true;   // as the kernel has it
  std::uint16_t ttl_ = 0;  // 0: not set yet
};

class UdpSockets {
 public:
  static constexpr unsigned kSlots = 64;
  static constexpr std::size_t kMostLocals = 8;  // as many as an underlay has; the oldest goes when there are more

  [[nodiscard]] static constexpr unsigned slot_of(std::uint16_t source_port) noexcept {
    return source_port >> 8 & (kSlots - 1);
  }
  // Null when it cannot be opened; `error` then says why.
  [[nodiscard]] UdpSocket* find(const IpAddress& local, std::uint16_t source_port, int& error) noexcept;

 private:
  struct Local {
    IpAddress address;
    std::array<UdpSocket, kSlots> sockets;
  };
  std::vector<std::unique_ptr<Local>> locals_;
};

}  // namespace vx
