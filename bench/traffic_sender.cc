// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_sender.h"

#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "dataplane/clock.h"

namespace vx::traffic {
namespace {

constexpr double kNsPerSecond = 1e9;
constexpr int kSocketBytes = 16 << 20;
// A rate this slow lets the sender sleep, though not to the last moment.
constexpr double kSleepFromNs = 300'000, kAwakeNs = 200'000;

}  // namespace

Sent RingSender::send(double pps, double seconds, const std::atomic<bool>& stop) {
  const std::uint64_t start = monotonic_ns(), end = start + static_cast<std::uint64_t>(seconds * kNsPerSecond);
  const double per_ns = pps / kNsPerSecond, most_debt = std::max<double>(kBatch, pps * kMostDebtSeconds);
  double done = 0;  // frames of the schedule that were sent or skipped
  Sent result;
  for (std::uint64_t now = start; now < end && !stop; now = monotonic_ns()) {
    if (pps == 0) {
      offer(kBatch, now);
      continue;
    }
    double debt = static_cast<double>(now - start) * per_ns - done;
    if (debt > most_debt) {
      const auto skip = static_cast<std::uint64_t>(debt - most_debt);
      result.skipped += skip;
      done += static_cast<double>(skip);
      debt -= static_cast<double>(skip);
    }
    if (debt >= 1)
      done += offer(static_cast<unsigned>(std::min<double>(debt, kBatch)), now);
    else if (const double wait = (1 - debt) / per_ns; wait > kSleepFromNs)
      std::this_thread::sleep_for(std::chrono::nanoseconds(static_cast<std::int64_t>(std::min(wait - kAwakeNs, 0.01 * kNsPerSecond))));
  }
  // What was due when it ended and had no turn: sent and skipped are what the rate says.
  if (const double debt = static_cast<double>(std::min(monotonic_ns(), end) - start) * per_ns - done; debt >= 1)
    result.skipped += static_cast<std::uint64_t>(debt);
  drain();
  result.seconds = static_cast<double>(monotonic_ns() - start) / kNsPerSecond;
  return result;
}

void enlarge_send_buffer(int socket) noexcept {
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof kSocketBytes) != 0)
    ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes);
}

}  // namespace vx::traffic
