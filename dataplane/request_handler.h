// SPDX-License-Identifier: Apache-2.0
// One request of dataplane.sock in, one reply out: checks every length and count, asks the
// switchboard, encodes. No socket here, so that garbage can be fed to it directly. Malformed:
// EPROTO; refused: the errno of RequestError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/protocol.h"
#include "dataplane/switchboard.h"

namespace vx {

class RequestHandler {
 public:
  // `hello`: what does not change while we run (instance, workers, hugepages, pid).
  RequestHandler(Switchboard& switchboard, const protocol::HelloReply& hello)
      : switchboard_(switchboard), hello_(hello) {}

  struct Times {
    std::uint16_t now_s = 0;  // clock_seconds()
    std::uint64_t uptime_s = 0;
    std::uint64_t learn_events_lost =
        0;  // lost between the workers' queues and the subscriber, to be added to the stats
    std::uint64_t punts_lost = 0;
  };
  struct Reply {
    std::vector<std::byte> message;  // at most kMaxMessageBytes
    bool subscribes = false;         // the connection becomes an event connection
  };
  // Never throws but std::bad_alloc; whatever the bytes are.
  [[nodiscard]] Reply handle(std::span<const std::byte> message, const Times& times);

 private:
  Switchboard& switchboard_;
  protocol::HelloReply hello_;
};

}  // namespace vx
