// SPDX-License-Identifier: Apache-2.0
// Ways for frames into a netdev. All bypass its queueing discipline: a frame that the device has no room for is lost there, as on a
// wire, and counts as sent. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/traffic_frame.h"

namespace vx::traffic {

inline constexpr unsigned kBatch = 32;

enum class SenderKind { kAfXdp, kAfPacket, kXdpLive };

class Sender {
 public:
  virtual ~Sender() = default;
  // Sequence numbers from 0 again, of another run. Nothing may be under way.
  virtual void begin(std::uint8_t run) = 0;
  // Offers up to kBatch frames stamped `now_ns`; how many were taken. Throws std::system_error when the device is gone.
  virtual unsigned send(unsigned count, std::uint64_t now_ns) = 0;
  // Until the kernel has what was taken. Throws std::runtime_error after a second.
  virtual void drain() = 0;
  // By flow, in the run.
  [[nodiscard]] virtual std::vector<std::uint32_t> sent() = 0;
};

// In the network namespace of the calling thread; afterwards the sender may be used by any one thread. Throws std::runtime_error.
[[nodiscard]] std::unique_ptr<Sender> make_af_xdp_sender(FrameMaker& frames, const std::string& device);
[[nodiscard]] std::unique_ptr<Sender> make_af_packet_sender(FrameMaker& frames, const std::string& device);

}  // namespace vx::traffic
