// SPDX-License-Identifier: Apache-2.0
// Ways for frames into a netdev. All bypass its queueing discipline: a frame that the device has no room for is lost there, as on a
// wire, and counts as sent. One thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/traffic_frame.h"
#include "bench/traffic_namespace.h"

namespace vx::traffic {

inline constexpr unsigned kBatch = 32;

enum class SenderKind { kAfXdp, kAfPacket, kXdpLive };

// How a stretch of sending went.
struct Sent {
  double seconds = 0;
  std::uint64_t skipped = 0;  // frames of the rate that it was too late for
};

class Sender {
 public:
  virtual ~Sender() = default;
  // Sequence numbers from 0 again, of another run. Nothing may be under way.
  virtual void begin(std::uint8_t run) = 0;
  // Sends for `seconds` at `pps` (0: as many as can be), until `stop` at most. The kernel has all of it at the return. Throws
  // std::runtime_error when the device is gone.
  virtual Sent send(double pps, double seconds, const std::atomic<bool>& stop) = 0;
  // By flow, in the run.
  [[nodiscard]] virtual std::vector<std::uint32_t> sent() const = 0;
};

// A sender that is late does not make up for more than this: the burst would be its own doing, not the rate's.
inline constexpr double kMostDebtSeconds = 0.0005;

// One that is handed frame after frame: what a ring of the kernel's does.
class RingSender : public Sender {
 public:
  explicit RingSender(FrameMaker& frames) : frames_(frames) {}
  void begin(std::uint8_t run) final { frames_.begin(run); }
  Sent send(double pps, double seconds, const std::atomic<bool>& stop) final;
  [[nodiscard]] std::vector<std::uint32_t> sent() const final { return {frames_.sent().begin(), frames_.sent().end()}; }

 protected:
  // Offers up to kBatch frames stamped `now_ns`; how many were taken.
  virtual unsigned offer(unsigned count, std::uint64_t now_ns) = 0;
  // Until the kernel has what was taken. Throws after a second.
  virtual void drain() = 0;
  FrameMaker& frames_;
};

// Beyond net.core.wmem_max where we may: for the frames that the devices behind hold.
void enlarge_send_buffer(int socket) noexcept;

// In the network namespace of the calling thread; afterwards the sender may be used by any one thread. Throws std::runtime_error.
[[nodiscard]] std::unique_ptr<Sender> make_af_xdp_sender(FrameMaker& frames, const std::string& device);
[[nodiscard]] std::unique_ptr<Sender> make_af_packet_sender(FrameMaker& frames, const std::string& device);
// The kernel makes the frames (BPF_PROG_RUN with BPF_F_TEST_XDP_LIVE_FRAMES) and redirects them into the device, which has to take them
// so: of a veth, the other end needs GRO on or an XDP program.
[[nodiscard]] std::unique_ptr<Sender> make_xdp_live_sender(const FrameMaker& frames, const Place& place);

}  // namespace vx::traffic
