// SPDX-License-Identifier: Apache-2.0
// ebpf/take.bpf.c on the tc ingress hook of a netdev: frames that a packet socket takes do not also enter the
// kernel's own path while somebody beats for them. Threads: management.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "ebpf/shared.h"

namespace vx {

class TcTake {
 public:
  // Attaches, in place of a leftover of our own. Throws std::runtime_error or std::system_error.
  TcTake(const std::string& netdev, std::uint32_t ifindex, std::uint16_t queues, const std::string& bpf_directory);
  ~TcTake();  // detaches; removes the clsact qdisc when it was ours
  TcTake(const TcTake&) = delete;
  TcTake& operator=(const TcTake&) = delete;

  [[nodiscard]] volatile vxp_beat* heartbeat(std::uint16_t queue) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vx
