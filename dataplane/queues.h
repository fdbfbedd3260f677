// SPDX-License-Identifier: Apache-2.0
// What one worker polls and sends through, and what it hands to the management thread. Immutable, replaced as
// a whole by Worker::publish().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "dataplane/packet.h"
#include "dataplane/port.h"
#include "ebpf/shared.h"

namespace vx {

struct RxQueueRef {
  Port* port = nullptr;
  PortIndex index = kNoIndex;
  std::uint16_t queue = 0;
  volatile vxp_beat* heartbeat = nullptr;  // the BPF map's slot of this queue, or null
  bool is_takeover = false;                // the kernel forwards while the slot is stale
};

struct TxQueueRef {
  Port* port = nullptr;
  std::uint16_t queue = 0;
  std::atomic_flag* lock = nullptr;  // shared with other workers, or null when the queue is this worker's own
};

struct Assignment {
  // What was taken before a stall of this length is too late to be sent, where a kernel bridge forwarded meanwhile:
  // retransmitted, or overtaken by a MAC's move. After a shorter one it is late, which is better than lost.
  std::uint64_t too_late_ns = 1'000'000'000;
  std::vector<RxQueueRef> rx;
  std::vector<TxQueueRef> tx;  // by PortIndex; port == null: not in use
};

// An underlay frame for control, its outer VLAN tag removed; the queue's element, so a fixed size.
struct PuntedFrame {
  PortIndex port = kNoIndex;
  std::uint16_t length = 0;
  std::array<std::uint8_t, 256> bytes{};  // ARP and ND are shorter
};

}  // namespace vx
