// SPDX-License-Identifier: Apache-2.0
// The receive work of a netdev in kernel threads of its own, on one CPU, instead of wherever its frames were sent.
#pragma once

#include "bench/traffic_namespace.h"

namespace vx::traffic {

// Threaded NAPI while this lives, as it was before afterwards.
class ThreadedNapi {
 public:
  // Throws std::runtime_error, also when the device has no NAPI (a veth has while an XDP program is on it).
  ThreadedNapi(const Place& place, int cpu);
  ~ThreadedNapi();
  ThreadedNapi(const ThreadedNapi&) = delete;
  ThreadedNapi& operator=(const ThreadedNapi&) = delete;

 private:
  FileDescriptor switch_;  // /sys/class/net/DEV/threaded
  bool was_on_ = false;
};

}  // namespace vx::traffic
