// SPDX-License-Identifier: Apache-2.0
// What net_af_xdp hides or leaves behind, found by the descriptors that appear while a device is made.
// The only files that include if_xdp.
//
// Read in the source of DPDK 22.11.11: the PMD keeps its sockets' descriptors to itself and the BPF object open for good;
// its close frees the queue array with the first queue, so the sockets of the others stay bound, and miscounts the
// UMEM's users, so the first one's does too; buffers in the rings are never given back to the pool.
// Threads: management. One descriptor-opening thread: what else is opened meanwhile must not be AF_XDP or BPF.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "dataplane/port.h"

namespace vx {

class AfXdpSockets {
 public:
  // Around the making of a device.
  void begin();
  void end();

  [[nodiscard]] std::size_t count() const noexcept { return sockets_.size(); }
  // In the order of queues; -1 beyond count().
  [[nodiscard]] int descriptor(std::size_t queue) const noexcept {
    return queue < sockets_.size() ? sockets_[queue].fd : -1;
  }
  [[nodiscard]] Port::LostFrames lost() const noexcept;
  // Whether the NIC takes frames from the buffers themselves; else the kernel copies, within the call that sends.
  [[nodiscard]] bool is_zero_copy() const noexcept;

  // UMEM offsets of the buffers that lie in the rings. Call when nothing is redirected to the sockets any more and before the
  // device is closed. With a zero-copy driver those in the NIC's own ring are not among them.
  [[nodiscard]] std::set<std::uint64_t> buffers_in_rings() const;
  // After the device is closed: what of it is still open or mapped is let go.
  void release() noexcept;

 private:
  struct Socket {
    int fd;
    ino_t inode;
  };
  struct Program {
    int fd;
    std::string identity;
  };
  std::set<int> before_;
  std::vector<Socket> sockets_;
  std::vector<Program> programs_;
};

}  // namespace vx
