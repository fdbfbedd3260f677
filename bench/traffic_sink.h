// SPDX-License-Identifier: Apache-2.0
// The other end of vxplane-traffic: traffic_sink.bpf.c on a netdev, and what it counted.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/traffic_object.h"
#include "bench/traffic_shared.h"

namespace vx::traffic {

struct SinkSettings {
  std::uint32_t flows = 1;
  bool is_outer = false;  // the stamp is inside a VXLAN packet of `vni` to `port`
  std::uint32_t vni = 0;
  std::uint16_t port = 4789;
  // The clock, a third of what the sink costs, is read for frames whose number on their CPU has none of these bits.
  std::uint32_t timed_mask = 0;
};

// Sums over CPUs.
struct SinkTotals {
  std::uint64_t frames = 0, stale = 0, first_ns = 0, last_ns = 0, max_latency_ns = 0;
  std::array<std::uint64_t, VXT_BUCKETS> latency{};
};

// The program loaded, its maps; attached nowhere yet.
class SinkProgram {
 public:
  // Throws std::runtime_error.
  explicit SinkProgram(const SinkSettings& settings);

  [[nodiscard]] int fd() const noexcept { return fd_; }
  // Counts frames of this run (1 to 255) from now on, from zero; 0: none.
  void begin(std::uint8_t run);
  [[nodiscard]] SinkTotals totals() const;
  // Flows of the current run; one that no frame came of is all zero.
  [[nodiscard]] std::vector<vxt_flow> flows() const;

 private:
  std::uint32_t flow_count_, run_ = 0;
  Object object_;
  int fd_, flows_fd_, cpu_fd_, run_fd_;
};

// On a netdev of the calling thread's namespace: native XDP, generic where the driver has none. Gone with this object, and with the
// process however it ends.
class Sink {
 public:
  // Throws std::runtime_error, also when another XDP program is there.
  Sink(const std::string& device, const SinkSettings& settings);
  ~Sink();
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  [[nodiscard]] SinkProgram& program() noexcept { return *program_; }
  [[nodiscard]] bool is_native() const noexcept { return is_native_; }

 private:
  bool is_native_ = true;
  std::unique_ptr<SinkProgram> program_;
  int link_ = -1;
};

// The value of a bucket's middle, ns.
[[nodiscard]] std::uint64_t bucket_value(std::uint32_t bucket) noexcept;
// The latency that `share` (0 to 1) of the frames do not exceed, ns, to the width of a bucket; 0 without frames.
[[nodiscard]] std::uint64_t percentile(const SinkTotals& totals, double share) noexcept;

}  // namespace vx::traffic
