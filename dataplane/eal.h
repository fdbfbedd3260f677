// SPDX-License-Identifier: Apache-2.0
// DPDK's environment, set up by itself: hugepages when they are free, else without; no device is
// probed until a port asks for one; one EAL lcore pinned to each worker's CPU, and a main lcore
// (the management thread) that floats over all CPUs the process may use.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace vx {

struct EalSettings {
  std::vector<unsigned> cpus;  // one worker on each
  bool no_huge = false;
  unsigned memory_mb = 0;  // what packet buffers and rings get
  std::string file_prefix;
  std::vector<std::string> extra;  // the operator's own EAL arguments; the last word is theirs
};

// Whether at least `memory_mb` of hugepages of one size are free (reads /sys/kernel/mm/hugepages).
[[nodiscard]] bool has_free_hugepages(unsigned memory_mb);

// Hugepages looked free but EAL could not use them. EAL cannot be initialised twice in a process:
// the caller starts over in a new image with no_huge.
struct HugepagesUnusable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One per process (EAL's own limit). Threads: constructed and destroyed on the management thread.
class Eal {
 public:
  // Throws HugepagesUnusable or std::runtime_error.
  explicit Eal(const EalSettings& settings);
  ~Eal();
  Eal(const Eal&) = delete;
  Eal& operator=(const Eal&) = delete;

  [[nodiscard]] bool uses_hugepages() const noexcept { return uses_hugepages_; }
  // Packet buffers that fit `memory_mb`, with room left for rings and devices.
  [[nodiscard]] static unsigned buffers_that_fit(unsigned memory_mb) noexcept;
  // Runs `function(argument)` on the thread of worker `index` (position in EalSettings::cpus).
  // Throws std::runtime_error.
  void launch(unsigned index, int (*function)(void*), void* argument);
  // Waits until all launched functions have returned.
  void join() noexcept;

 private:
  bool uses_hugepages_ = false;
};

}  // namespace vx
