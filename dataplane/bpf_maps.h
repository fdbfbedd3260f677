// SPDX-License-Identifier: Apache-2.0
// The little of libbpf that the users of BPF programs (xdp_steering, tc_hook and its users) share: file descriptors
// of maps found through a program, and a memory-mapped heartbeat array. Implemented in xdp_steering.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "ebpf/shared.h"

namespace vx {

// A loaded program and its maps. Empty `name`: it could not be read.
struct BpfProgram {
  FileDescriptor fd;
  std::string name;
  std::vector<std::uint32_t> map_ids;
};
[[nodiscard]] BpfProgram open_bpf_program(std::uint32_t id) noexcept;
// The map of that name among the program's; closed when it has none.
[[nodiscard]] FileDescriptor open_bpf_map(const BpfProgram& program, std::string_view map_name) noexcept;

// Map vxp_heartbeat in our address space.
class HeartbeatMap {
 public:
  // Throws std::system_error.
  explicit HeartbeatMap(int map_fd);
  ~HeartbeatMap();
  HeartbeatMap(const HeartbeatMap&) = delete;
  HeartbeatMap& operator=(const HeartbeatMap&) = delete;
  // Null beyond VXP_MAX_QUEUES.
  [[nodiscard]] volatile vxp_beat* slot(std::uint16_t queue) noexcept;

 private:
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

// Adds the per-CPU counters of a map to `sums`, by index.
void read_counters(int map_fd, std::span<std::uint64_t> sums);

// Whether a live process keeps beating in the maps of `program`: looks twice, 60 ms apart.
[[nodiscard]] bool somebody_beats(const BpfProgram& program);

// Libbpf prints to stderr what we report ourselves, in one line: silent while this lives.
class QuietLibbpf {
 public:
  QuietLibbpf() noexcept;
  ~QuietLibbpf();
  QuietLibbpf(const QuietLibbpf&) = delete;
  QuietLibbpf& operator=(const QuietLibbpf&) = delete;

 private:
  void* former_;
};

}  // namespace vx
