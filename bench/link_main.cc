// SPDX-License-Identifier: Apache-2.0
// vxplane-bench: measures a link between two hosts over ordinary sockets, whatever carries it.
#include <fmt/format.h>
#include <sys/prctl.h>

#include <cstdio>

#include "bench/link_options.h"

namespace vx::bench {
namespace {

int run_client(const Options& options) {
  Client client(options.client);
  // JSON stands alone on stdout.
  std::FILE* out = options.is_json ? stderr : stdout;
  const Report report = client.run([&](const Report& planned) {
    fmt::print(out, "{}\n", plan_text(planned));
    std::fflush(out);
  });
  fmt::print("{}", options.is_json ? to_json(report).dump(2) + '\n' : to_text(report));
  return 0;
}

int run(const std::vector<std::string>& words) {
  try {
    const Options options = read_options(words);
    // Paced sending wakes up 5,000 times a second; the default slack of 50 us would be a quarter of that.
    prctl(PR_SET_TIMERSLACK, 1000UL);
    switch (options.mode) {
      case Options::Mode::kText: return fmt::print("{}", options.text), 0;
      case Options::Mode::kServer: return run_server(options.server);
      case Options::Mode::kClient: return run_client(options);
    }
    return 2;
  } catch (const UsageError& error) {
    fmt::print(stderr, "vxplane-bench: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "vxplane-bench: {}\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace vx::bench

int main(int argc, char** argv) { return vx::bench::run({argv + 1, argv + argc}); }
