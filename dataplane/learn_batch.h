// SPDX-License-Identifier: Apache-2.0
// Learn events of one drain of the workers' queues, each source once: several workers, and a worker
// before its own memory of what it told is warm, report the same MAC many times. The last report of
// a MAC wins: it is where it is now.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/message_codec.h"
#include "dataplane/protocol.h"

namespace vx {

class LearnBatch {
 public:
  // What fits one message.
  static constexpr std::size_t kCapacity =
      (protocol::kMaxMessageBytes - sizeof(protocol::MessageHeader)) / sizeof(protocol::LearnEvent);

  LearnBatch();
  // False: full, not added.
  [[nodiscard]] bool add(const protocol::LearnEvent& event) noexcept;
  [[nodiscard]] std::span<const protocol::LearnEvent> events() const noexcept { return events_; }
  [[nodiscard]] std::vector<std::byte> message() const;
  void clear() noexcept;

 private:
  static constexpr std::size_t kSlots = 8192;  // four times kCapacity: short probes
  std::vector<protocol::LearnEvent> events_;
  std::vector<std::uint16_t> slots_;  // index in events_ + 1, 0: free
};

}  // namespace vx
