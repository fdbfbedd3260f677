// SPDX-License-Identifier: Apache-2.0
// The command line of vxplane-bench.
#pragma once

#include <string>
#include <vector>

#include "bench/link_client.h"
#include "bench/link_server.h"

namespace vx::bench {

struct Options {
  enum class Mode { kText, kServer, kClient } mode = Mode::kText;
  std::string text;  // of kText: help or version
  ServerOptions server;
  ClientOptions client;
  bool is_json = false;
};

// Throws UsageError with what is wrong.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
[[nodiscard]] Options read_options(const std::vector<std::string>& words);

}  // namespace vx::bench
