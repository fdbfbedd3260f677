// SPDX-License-Identifier: Apache-2.0
// A netdev in a network namespace, and the way there.
#pragma once

#include <string>

#include "dataplane/file_descriptor.h"

namespace vx::traffic {

// NETNS:DEV. NETNS is a name of `ip netns`, a path with a slash in it, or empty: the namespace of the process.
struct Place {
  std::string netns, device;
};

// The calling thread is in the place's namespace while this lives; sockets made meanwhile stay there. Throws std::runtime_error,
// also when the device is not there.
class Inside {
 public:
  explicit Inside(const Place& place);
  ~Inside();
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  FileDescriptor before_;
};

}  // namespace vx::traffic
